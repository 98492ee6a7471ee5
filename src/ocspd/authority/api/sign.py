"""The endpoints `sign`, `authsign` and `info`.

A profile with an `auth_key` can only be used through `authsign`, whose token is an HMAC over the exact
bytes of the inner request. There is no 401 or 403 in CFSSL's API: a rejection is 400 with a text.
"""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from ocspd import wire
from ocspd.authority.access.actor import current
from ocspd.authority.api.api_response import BadRequest, HTTPStatusError, Success
from ocspd.authority.api.bundle import with_bundle
from ocspd.authority.offload import read_input
from ocspd.authority.once import AnsweredError, BadKeyError, Once, OtherRequestError
from ocspd.logs import logger
from ocspd.pki.csr import subject_from_fields
from ocspd.pki.issuer import SignRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocspd.authority.api.call import Call
    from ocspd.authority.bundling import Bundler
    from ocspd.pki.auth import AuthKey
    from ocspd.pki.profiles import Profile, SigningConfig


_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


class Signer(Protocol):
    """Signs for the endpoints (`signers.PolicySigner`); `config` has the profiles and their keys."""

    config: SigningConfig

    @property
    def trouble(self) -> str:
        """Why nothing can be signed here at present; "" when it can."""
        ...

    async def sign(self, request: SignRequest, once: Once | None = None) -> str:
        """Sign, store and return the certificate (PEM); see `once` for requests that may come again."""
        ...

    async def info(self, *, label: str, profile: str) -> dict[str, Any]:
        """Return CFSSL's info object: certificate, usages, expiry."""
        ...


class SignEndpoints:
    """sign, authsign and info for one signer; with a bundler, certificates are bundled on request."""

    def __init__(self, signer: Signer, bundler: Bundler | None = None) -> None:
        self._signer = signer
        self._bundler = bundler

    def has_open_profile(self) -> bool:
        """Whether `sign` is usable: at least one profile has no auth_key."""
        return any(profile.auth_key is None for profile in self._profiles())

    def has_authenticated_profile(self) -> bool:
        """Whether `authsign` is usable: at least one profile has an auth_key."""
        return any(profile.auth_key is not None for profile in self._profiles())

    def _profiles(self) -> list[Profile]:
        config = self._signer.config
        return [config.default, *config.profiles.values()]

    async def sign(self, call: Call) -> Success:
        """Sign a CSR; the result is `{"certificate": PEM}`."""
        try:
            request, bundle = await read_input(_read_request, call.body)
        except wire.JSONError:
            raise BadRequest("Unable to parse sign request") from None
        _require_csr(request)
        if self._signer.config.profile(request.profile).auth_key is not None:
            logger.error("profile requires authentication")
            raise BadRequest("authentication required")
        current().check_issue(request.profile, self._signer.config)
        return await self._signed(request, once_of(call, "sign", call.body), bundle=bundle)

    async def authsign(self, call: Call) -> Success:
        """Sign a CSR for a client that has the profile's key; the result is that of `sign`."""
        try:
            token, inner = await read_input(read_authenticated, call.body)
        except wire.JSONError as err:
            raise BadRequest(str(err)) from None
        try:
            request, bundle = await read_input(_read_request, inner)
        except wire.JSONError:
            raise BadRequest("Unable to parse authenticated sign request") from None
        profile = self._signer.config.profile(request.profile)
        if profile.auth_key is None:
            raise BadRequest("no authentication provider")
        proved = proved_key(profile, inner, token)
        _require_csr(request)
        current().check_issue(request.profile, self._signer.config, proved)
        return await self._signed(request, once_of(call, "authsign", inner), bundle=bundle)

    async def info(self, body: bytes) -> Success:
        """Describe the signer: `{"certificate", "usages", "expiry"}` of a profile."""
        try:
            label, profile = await read_input(read_info, body)
        except wire.JSONError as err:
            raise BadRequest(str(err)) from None
        return Success(await self._signer.info(label=label, profile=profile))

    async def _signed(self, request: SignRequest, once: Once | None, *, bundle: bool) -> Success:
        with refused_key():
            certificate = await self._signer.sign(request, once)
        success = Success({"certificate": certificate})
        return await with_bundle(success, self._bundler, certificate) if bundle else success


def proved_key(profile: Profile, request: bytes, token: bytes) -> AuthKey:
    """Return the key of the profile that made the token for a request; BadRequest when none did."""
    keys = [key for key in (profile.auth_key, profile.prev_auth_key) if key is not None]
    found = [key for key in keys if key.verify(request, token)]
    if not found:
        logger.warning("received authenticated request with invalid token")
        raise BadRequest("invalid token")
    return found[0]


def once_of(call: Call, scope: str, content: bytes, *, repeatable: bool = True) -> Once | None:
    """Return what identifies a call that may come again (`Idempotency-Key`); None without that field."""
    key = call.headers.get("Idempotency-Key")
    if key is None:
        return None
    with refused_key():
        return Once.of(key, scope, content, repeatable=repeatable)


@contextmanager
def refused_key() -> Iterator[None]:
    """Give errors about an Idempotency-Key the HTTP status that the IETF's draft about it has."""
    try:
        yield
    except BadKeyError as err:
        raise BadRequest(str(err)) from None
    except AnsweredError as err:
        raise HTTPStatusError(HTTPStatus.CONFLICT, str(err)) from None
    except OtherRequestError as err:
        raise HTTPStatusError(HTTPStatus.UNPROCESSABLE_ENTITY, str(err)) from None


def _read_request(body: bytes) -> tuple[SignRequest, bool]:
    """Read a sign request and whether it wants a bundle."""
    fields = wire.Fields(wire.loads(body), "jsonSignRequest")
    return sign_request(fields), fields.boolean("bundle")


def read_authenticated(body: bytes) -> tuple[bytes, bytes]:
    """Read an authenticated request: the token, and the bytes it is for."""
    outer = wire.Fields(wire.loads(body), "AuthenticatedRequest")
    _check_timestamp(outer)
    _bytes_field(outer, "remote_address")
    return _bytes_field(outer, "token"), _bytes_field(outer, "request")


async def unwrap(body: bytes) -> tuple[bytes, bytes] | None:
    """Return the token and the request that an authenticated request holds; None if the body is not one."""
    if b"token" not in body.lower():
        return None
    return await read_input(_unwrap, body)


def _unwrap(body: bytes) -> tuple[bytes, bytes] | None:
    try:
        fields = wire.Fields(wire.loads(body), "AuthenticatedRequest")
        token, request = fields.string("token"), fields.string("request")
        if not token or not request:
            return None
        return base64.b64decode(token, validate=True), base64.b64decode(request, validate=True)
    except (wire.JSONError, binascii.Error, ValueError):
        return None


def read_info(body: bytes) -> tuple[str, str]:
    """Read label and profile."""
    fields = wire.Fields(wire.loads(body), "Req")
    return fields.string("label"), fields.string("profile")


def sign_request(fields: wire.Fields) -> SignRequest:
    """Read the JSON of a sign request; JSONError when a field has the wrong type.

    `hostname`, a comma list, replaces `hosts`; without either the CSR's names are kept, and an empty
    list removes them. `crl_override` is what `gencert -crl` sends.
    """
    hosts = fields.strings("hosts")
    hostname = fields.string("hostname")
    serial = fields.get("serial")
    if serial is not None and (not isinstance(serial, int) or isinstance(serial, bool)):
        raise wire.JSONError("json: cannot unmarshal serial into Go value of type *big.Int")
    subject = fields.child("subject", "signer.Subject")
    return SignRequest(
        csr_pem=fields.string("certificate_request"),
        hosts=hostname.split(",") if hostname else hosts,
        subject=None if subject is None else subject_from_fields(subject),
        profile=fields.string("profile"),
        label=fields.string("label"),
        serial=serial,
        crl_url=fields.string("crl_override"),
    )


def _require_csr(request: SignRequest) -> None:
    if not request.csr_pem:
        raise BadRequest("missing parameter 'certificate_request'")


def _check_timestamp(fields: wire.Fields) -> None:
    """Check the type of `timestamp`; CFSSL reads it, and neither authenticates nor uses it."""
    try:
        fields.integer("timestamp")
    except wire.JSONError as err:
        raise wire.JSONError(f"{err}64") from None


def _bytes_field(fields: wire.Fields, key: str) -> bytes:
    """Read a Go []byte: standard base64 in a string, line breaks ignored; JSONError in Go's words."""
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        try:
            fields.string(key)
        except wire.JSONError as err:
            raise wire.JSONError(f"{str(err).removesuffix('string')}[]uint8") from None
    text = (value or "").replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(text.encode("ascii", "replace"), validate=True)
    except binascii.Error:
        match = _BASE64.match(text)
        good = match.end() if match else 0
        position = good if good < len(text) else len(text) // 4 * 4
        raise wire.JSONError(f"illegal base64 data at input byte {position}") from None
