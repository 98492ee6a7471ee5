"""The endpoint `certinfo`: what is in a certificate that is sent, served by a host, or stored here.

The body is a map of texts, of which the first of these sets counts: `certificate`; `domain`; `serial` and
`authority_key_id`. Keys are matched exactly, unlike elsewhere, and every value must be a text, as in CFSSL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocspd.authority.api.api_response import Success
from ocspd.authority.api.string_map import read_strings, require_one_of
from ocspd.authority.certinfo import describe, find_certificate, served_certificate
from ocspd.authority.offload import read_input, wait_outside
from ocspd.errors import OCSPDError
from ocspd.pki.certs import load_certificate

if TYPE_CHECKING:
    from ocspd.authority.fetching import Outbound
    from ocspd.certdb.base import CertDB


class CertinfoEndpoint:
    """`db` None without a database; `outbound` is what `domain` may connect to."""

    def __init__(self, db: CertDB | None, outbound: Outbound) -> None:
        self._db = db
        self._outbound = outbound

    async def certinfo(self, body: bytes) -> Success:
        """Describe one certificate."""
        texts = await read_input(read_strings, body)
        require_one_of(texts, ("certificate",), ("domain",), ("serial", "authority_key_id"))
        if "certificate" in texts:
            return Success(await read_input(_describe, texts["certificate"].encode("utf-8", "replace")))
        if "domain" in texts:
            domain, outbound = texts["domain"], self._outbound
            return Success(await wait_outside(lambda: describe(served_certificate(domain, outbound))))
        if self._db is None:
            raise OCSPDError("cannot lookup certificate from serial without db access")
        stored = await find_certificate(self._db, texts["serial"], texts["authority_key_id"])
        return Success(describe(stored))


def _describe(pem: bytes) -> dict[str, Any]:
    return describe(load_certificate(pem))
