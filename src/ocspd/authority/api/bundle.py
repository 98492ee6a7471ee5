"""The endpoint `bundle`, and the bundles that `sign` and `newcert` add to a certificate on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocspd.authority.api.api_response import Message, Success
from ocspd.authority.api.string_map import read_strings, require_one_of
from ocspd.authority.bundling import OPTIMAL, UBIQUITOUS
from ocspd.authority.offload import read_input, wait_outside
from ocspd.errors import CodedError
from ocspd.logs import logger
from ocspd.pki.bundle_input import read_bundle_input
from ocspd.pki.certs import load_certificates
from ocspd.pki.hostnames import check_hostname
from ocspd.pki.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.authority.bundling import Bundler


NO_BUNDLER = Message(5300, "This request requires a bundler, but one is not initialized for the API server.")


class BundleEndpoint:
    """bundle, for one bundler."""

    def __init__(self, bundler: Bundler) -> None:
        self._bundler = bundler

    async def bundle(self, body: bytes) -> Success:
        """Bundle `certificate` (with `private_key`), or the certificate of the server of `domain` (at `ip`).

        `flavor` is ubiquitous, optimal or force. Beside a certificate, `domain` and `ip` are what it must be
        for. Every value is a string. The bundle is CFSSL's JSON object.
        """
        fields = await read_input(read_strings, body)
        require_one_of(fields, ("certificate",), ("domain",))
        flavor = fields.get("flavor") or UBIQUITOUS
        logger.info("request for flavor %s", flavor)
        work = self._of_certificate if "certificate" in fields else self._of_domain
        return Success(await wait_outside(lambda: work(fields, flavor)))

    def _of_certificate(self, fields: Mapping[str, str], flavor: str) -> dict[str, Any]:
        text, key_text = (
            fields.get(name, "").encode("utf-8", "replace") for name in ("certificate", "private_key")
        )
        try:
            key = load_private_key(key_text, of_client=True) if key_text else None
            certificates, _ = read_bundle_input(text, None)
        except CodedError:
            logger.warning("bad PEM certificate or private key")
            raise
        bundle = self._bundler.bundle(certificates, key, flavor)
        for name in ("domain", "ip"):
            if fields.get(name):
                check_hostname(bundle.chain[0].certificate, fields[name])
        return bundle.to_json()

    def _of_domain(self, fields: Mapping[str, str], flavor: str) -> dict[str, Any]:
        try:
            return self._bundler.bundle_remote(fields["domain"], fields.get("ip", ""), flavor).to_json()
        except CodedError as err:
            logger.warning("couldn't bundle from remote: %s", err.message)
            raise


async def with_bundle(success: Success, bundler: Bundler | None, certificate: str) -> Success:
    """Add the optimal bundle of a certificate (PEM) that was just signed to the reply about it.

    CodedError if there is no chain. Without a bundler the reply gets CFSSL's message instead.
    """
    if bundler is None:
        return Success(success.result, (NO_BUNDLER, *success.messages))

    def work() -> dict[str, Any]:
        return bundler.bundle(load_certificates(certificate.encode()), None, OPTIMAL).to_json()

    return Success({"bundle": await wait_outside(work), **success.result}, success.messages)
