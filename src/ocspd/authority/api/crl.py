"""The endpoints `crl` and `gencrl`: CRLs in CFSSL's JSON, base64 of DER, signed for each request."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from ocspd import limits, wire
from ocspd.authority.api.api_response import BadRequest, Success
from ocspd.authority.crl_once import crl_of_database, crl_of_serials, decimal_serial, parse_seconds
from ocspd.authority.offload import offload, read_input
from ocspd.errors import CodedError
from ocspd.pki.certs import load_certificate
from ocspd.pki.crl_writer import CRLSigner
from ocspd.pki.keys import load_private_key

if TYPE_CHECKING:
    from ocspd.authority.api.call import Call
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock

_WEEK = timedelta(days=7)


class CRLEndpoints:
    """crl and gencrl; `signer` and `db` are needed for crl only."""

    def __init__(self, clock: Clock, *, signer: CRLSigner | None = None, db: CertDB | None = None) -> None:
        self._clock = clock
        self._signer = signer
        self._db = db
        self._one = asyncio.Semaphore(1)  # a long list is in memory only once

    async def crl(self, call: Call) -> Success:
        """Sign the CRL of this server's CA from the database; `?expiry=` is a Go duration (default: 168h)."""
        assert self._signer is not None
        assert self._db is not None
        texts = [value for name, value in parse_qsl(call.query) if name == "expiry" and value]
        validity = wire.parse_duration(texts[0]) if texts else _WEEK
        if validity not in limits.CRL_EXPIRY:
            raise BadRequest(f"expiry {texts[0][:64]}: use {limits.CRL_EXPIRY}")
        async with self._one:
            made = await crl_of_database(self._db, self._signer, validity, self._clock, offload)
        return Success(base64.b64encode(made.der).decode())

    async def gencrl(self, body: bytes) -> Success:
        """Sign a CRL of the given serial numbers with the key in the request."""
        certificate_pem, serials, key_pem, seconds = await read_input(_read_request, body)
        validity = parse_seconds(seconds)
        try:
            certificate = await read_input(load_certificate, certificate_pem)
        except CodedError:
            raise BadRequest("malformed certificate") from None
        revoked = [
            decimal_serial(text, f"serialNumber {position}") for position, text in enumerate(serials, 1)
        ]
        try:
            key = await read_input(load_private_key, key_pem)
        except CodedError:
            raise BadRequest("malformed Private Key") from None
        clock = self._clock
        der = await offload(lambda: crl_of_serials(CRLSigner(certificate, key), revoked, validity, clock))
        return Success(base64.b64encode(der).decode())


def _read_request(body: bytes) -> tuple[bytes, list[str], bytes, str]:
    """Read certificate, serial numbers, key and seconds; OCSPDError in Go's words, as CFSSL sends them."""
    fields = wire.Fields(wire.loads(body), "jsonCRLRequest")
    return (
        fields.string("certificate").encode("utf-8", "replace"),
        fields.strings("serialNumber") or [],
        fields.string("issuingKey").encode("utf-8", "replace"),
        fields.string("expireTime"),
    )
