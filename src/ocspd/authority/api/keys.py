"""The endpoints that generate keys: `newkey`, `newcert` and `init_ca`.

The private key is in the reply, as CFSSL's clients expect. Generating a key can take seconds (RSA):
it runs in a thread, and no more than `_GENERATING` at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, Any

from ocspd import wire
from ocspd.authority.access.actor import current
from ocspd.authority.api.api_response import BadRequest, Message, Success
from ocspd.authority.api.bundle import with_bundle
from ocspd.authority.api.sign import once_of, proved_key, refused_key, unwrap
from ocspd.authority.offload import read_input
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.pki import ca, csr, pem
from ocspd.pki.issuer import SignRequest

if TYPE_CHECKING:
    from ocspd.authority.api.call import Call
    from ocspd.authority.api.sign import Signer
    from ocspd.authority.bundling import Bundler
    from ocspd.clock import Clock

_NO_HOSTS = Message(5300, csr.NO_HOSTS)
_GENERATING = max(1, (os.cpu_count() or 1) // 2)


class KeyEndpoints:
    """newkey and init_ca need nothing; newcert needs a signer."""

    def __init__(self, signer: Signer | None, clock: Clock, bundler: Bundler | None = None) -> None:
        self._signer = signer
        self._bundler = bundler
        self._clock = clock
        self._generating = asyncio.Semaphore(_GENERATING)

    async def newkey(self, body: bytes) -> Success:
        """Generate a key and a CSR for it."""
        try:
            request = await read_input(csr.parse_request, body)
        except wire.JSONError as err:
            raise BadRequest(str(err)) from None
        key_pem, csr_pem = await self._key_and_csr(request)
        sums = {"certificate_request": _sums(csr_pem)}
        return Success({"private_key": key_pem, "certificate_request": csr_pem, "sums": sums})

    async def newcert(self, call: Call) -> Success:
        """Generate a key, a CSR and a certificate.

        A `request` of null is rejected and a missing one counts as empty, both as in CFSSL. A profile with
        an auth_key demands a token, in the form that authsign takes: signing without one, as CFSSL does,
        would make the key worthless.
        """
        assert self._signer is not None
        config = self._signer.config
        wrapped = await unwrap(call.body)
        inner = call.body if wrapped is None else wrapped[1]
        try:
            request, profile, label, bundle = await read_input(_read_newcert, inner)
        except wire.JSONError as err:
            raise BadRequest(str(err)) from None
        if request is None:
            raise BadRequest("missing request section")
        proved = None
        if (found := config.profile(profile)).auth_key is not None:
            if wrapped is None:
                raise BadRequest("authentication required")
            proved = proved_key(found, inner, wrapped[0])
        current().check_issue(profile, config, proved)
        once = once_of(call, "newcert", inner, repeatable=False)
        key_pem, csr_pem = await self._key_and_csr(request)
        with refused_key():
            wanted = SignRequest(csr_pem=csr_pem, profile=profile, label=label)
            certificate = await self._signer.sign(wanted, once)
        messages = () if request.hosts else (_NO_HOSTS,)
        result = {
            "certificate": certificate,
            "certificate_request": csr_pem,
            "private_key": key_pem,
            "sums": {"certificate": _sums(certificate), "certificate_request": _sums(csr_pem)},
        }
        success = Success(result, messages)
        return await with_bundle(success, self._bundler, certificate) if bundle else success

    async def init_ca(self, body: bytes) -> Success:
        """Generate a self-signed CA."""
        try:
            request = await read_input(csr.parse_request, body)
        except wire.JSONError as err:
            raise BadRequest(str(err)) from None
        try:
            async with self._generating:
                made = await asyncio.to_thread(ca.init_ca, request, self._clock)
        except CodedError:
            raise
        except OCSPDError as err:  # a bad duration is the client's fault
            raise CodedError(Code.POLICY_INVALID, str(err)) from err
        return Success({"private_key": made.key, "certificate": made.cert})

    async def _key_and_csr(self, request: csr.CertificateRequest) -> tuple[str, str]:
        if request.ca is not None:
            raise BadRequest("ca section only permitted in initca")
        async with self._generating:
            return await asyncio.to_thread(_make, request)


def _read_newcert(body: bytes) -> tuple[csr.CertificateRequest | None, str, str, bool]:
    """Read the request (None for null), the profile, the label, and whether a bundle is wanted."""
    fields = wire.Fields(wire.loads(body), "genSignRequest")
    child = fields.child("request", "csr.CertificateRequest")
    absent = all(wire.fold(key) != "request" for key in fields.values())
    if child is None and absent:
        child = wire.Fields({}, "csr.CertificateRequest")
    request = None if child is None else csr.request_from_fields(child)
    return request, fields.string("profile"), fields.string("label"), fields.boolean("bundle")


def _make(request: csr.CertificateRequest) -> tuple[str, str]:
    key, key_pem = csr.new_key(request)
    return key_pem, csr.make_csr(request, key)


def _sums(text: str) -> dict[str, Any]:
    """Return CFSSL's digests of the DER in a PEM block: for comparing by eye, not for security."""
    der = pem.blocks(text.encode())[0].content
    return {
        "md5": hashlib.md5(der, usedforsecurity=False).hexdigest().upper(),
        "sha-1": hashlib.sha1(der, usedforsecurity=False).hexdigest().upper(),
        "sha-256": hashlib.sha256(der).hexdigest().upper(),
    }
