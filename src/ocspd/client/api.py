"""CFSSL's HTTP API, as ocspd and CFSSL serve it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from ocspd import wire
from ocspd.client.transport import TOTAL_S, Servers
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError
from ocspd.model import serial_to_text
from ocspd.pki.auth import parse_auth_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from ocspd.client.tls import RemoteTLS
    from ocspd.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerInfo:
    """A signer: its CA certificate (PEM), and the usages and expiry of a profile, in CFSSL's words."""

    certificate: str
    usages: tuple[str, ...] | None
    expiry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A private key and a CSR for it (PEM)."""

    private_key: str
    certificate_request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate, with the private key and the CSR that were made for it (PEM)."""

    certificate: str
    private_key: str
    certificate_request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CACertificate:
    """A self-signed CA certificate and its private key (PEM)."""

    certificate: str
    private_key: str


class Authenticator(Protocol):
    """Makes the token of an authenticated request (`pki.auth.AuthKey`)."""

    def token(self, data: bytes, /) -> bytes:
        """Return the token for the exact bytes of the request."""
        ...


class APIClient:
    """A client of one or several servers of CFSSL's API.

    Several are tried in their order until one replies. Each call makes a connection of its own, so one client
    serves any number of tasks and needs no closing. Every call raises CodedError: 7400 no connection or
    refused by the server, 7200 and 7300 a reply that cannot be read, 7500 the server failed.
    """

    def __init__(  # noqa: PLR0913  (each optional)
        self,
        addresses: str,
        *,
        auth_key: Authenticator | str = "",
        token: str = "",
        tls: RemoteTLS | None = None,
        timeout_s: float = TOTAL_S,
        clock: Clock | None = None,
    ) -> None:
        """Prepare for a comma list of `host`, `host:port` or `http(s)://host:port`, port 8888 by default.

        `auth_key` is the key of a profile that has one, as in CFSSL's configuration (hexadecimal, `env:NAME`
        or `file:PATH`), or what makes the tokens: `sign` then goes to `authsign`. `token` is sent as a bearer
        token (RFC 6750).
        CodedError 5300 for a bad address, 5200 for a bad key; ConfigError for TLS files.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._servers = Servers(addresses, tls=tls, total_s=timeout_s, headers=headers)
        self._key: Authenticator | None = None
        if auth_key:
            self._key = parse_auth_key(auth_key) if isinstance(auth_key, str) else auth_key
        self._clock = clock or SystemClock()

    async def sign(  # noqa: PLR0913  (one for each field of the request)
        self,
        csr: str,
        *,
        hosts: Sequence[str] | None = None,
        subject: Mapping[str, Any] | None = None,
        profile: str = "",
        label: str = "",
        serial: int | None = None,
        crl_url: str = "",
        idempotency_key: str = "",
    ) -> str:
        """Have a CSR (PEM) signed and return the certificate (PEM).

        `hosts` None keeps the CSR's names; a list, even an empty one, replaces them. `subject` is CFSSL's
        (`{"CN": …, "names": […]}`), `serial` counts where the profile lets clients choose it, and `crl_url`
        replaces the profile's CRL distribution point. A request with
        the same `idempotency_key` is carried out once by an ocspd server, however often it is sent.
        """
        fields: dict[str, Any] = {
            "hosts": None if hosts is None else list(hosts),
            "certificate_request": csr,
        }
        if subject is not None:
            fields["subject"] = dict(subject)
        fields["profile"] = profile
        if crl_url:
            fields["crl_override"] = crl_url
        fields["label"] = label
        if serial is not None:
            fields["serial"] = serial
        endpoint, body = "sign", wire.dumps(fields).encode()
        if self._key is not None:
            endpoint = "authsign"
            outer = {
                "timestamp": int(self._clock.now().timestamp()),
                "token": base64.b64encode(self._key.token(body)).decode(),
                "request": base64.b64encode(body).decode(),
            }
            body = wire.dumps(outer).encode()
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        result = _object(await self._servers.call(endpoint, body, headers=headers))
        return _text(result, "certificate")

    async def info(self, *, profile: str = "", label: str = "") -> SignerInfo:
        """Return the CA certificate and the main settings of a profile; an unknown one is the default."""
        fields = wire.Fields(await self._object("info", {"label": label, "profile": profile}), "info.Resp")
        try:
            usages = fields.strings("usages")
            return SignerInfo(
                certificate=fields.string("certificate"),
                usages=None if usages is None else tuple(usages),
                expiry=fields.string("expiry"),
            )
        except wire.JSONError as err:
            raise CodedError(Code.CLIENT_JSON, str(err)) from err

    async def new_key(self, request: Mapping[str, Any]) -> NewKey:
        """Have a key and a CSR made; `request` is CFSSL's: `{"CN": …, "hosts": […], "key": {…}}`."""
        result = await self._object("newkey", request)
        return NewKey(
            private_key=_text(result, "private_key"), certificate_request=_text(result, "certificate_request")
        )

    async def new_certificate(
        self, request: Mapping[str, Any], *, profile: str = "", label: str = ""
    ) -> IssuedCertificate:
        """Have a key, a CSR and a certificate made; `request` as for `new_key`."""
        fields = {"request": dict(request), "profile": profile, "label": label}
        result = await self._object("newcert", fields)
        return IssuedCertificate(
            certificate=_text(result, "certificate"),
            private_key=_text(result, "private_key"),
            certificate_request=_text(result, "certificate_request"),
        )

    async def init_ca(self, request: Mapping[str, Any]) -> CACertificate:
        """Have a self-signed CA made; `request` as for `new_key`, with CFSSL's `ca` if wanted."""
        result = await self._object("init_ca", request)
        return CACertificate(
            certificate=_text(result, "certificate"), private_key=_text(result, "private_key")
        )

    async def revoke(self, serial: int, aki: str, *, reason: str = "unspecified") -> None:
        """Revoke a certificate by its serial number and the key identifier of its issuer (hexadecimal).

        `reason` is a name of RFC 5280 §5.3.1. Revoking again changes nothing on an ocspd server.
        """
        fields = {"serial": serial_to_text(serial), "authority_key_id": aki, "reason": reason}
        await self._servers.call("revoke", wire.dumps(fields).encode())

    async def sign_ocsp(
        self,
        certificate: str,
        *,
        status: str = "good",
        reason: int = 0,
        revoked_at: str = "",
        issuer_hash: str = "SHA1",
    ) -> bytes:
        """Have an OCSP response (DER) signed about a certificate (PEM); nothing is recorded by it.

        `status` is good, revoked or unknown, `revoked_at` is `now` or a date YYYY-MM-DD, and `issuer_hash`
        is the CertID's algorithm: SHA1, SHA256, SHA384 or SHA512.
        """
        fields: dict[str, Any] = {"certificate": certificate, "status": status, "issuer_hash": issuer_hash}
        if status == "revoked":
            fields |= {"reason": reason, "revoked_at": revoked_at or "now"}
        return _octets(_text(await self._object("ocspsign", fields), "ocspResponse"))

    async def certificate_info(
        self, *, certificate: str = "", domain: str = "", serial: int | None = None, aki: str = ""
    ) -> dict[str, Any]:
        """Return CFSSL's description of a certificate: given (PEM), a TLS server's, or from the database."""
        fields = {"certificate": certificate, "domain": domain}
        if serial is not None:
            fields |= {"serial": serial_to_text(serial), "authority_key_id": aki}
        return await self._object("certinfo", {key: value for key, value in fields.items() if value})

    async def bundle(self, **fields: str) -> dict[str, Any]:
        """Return CFSSL's bundle; `certificate` or `domain`, and `flavor`, `private_key`, `ip` if wanted."""
        return await self._object("bundle", fields)

    async def crl(self, *, expiry: timedelta | None = None) -> bytes:
        """Return a CRL (DER) of the server's CA, valid for a week or for `expiry`."""
        query = "" if expiry is None else urlencode({"expiry": f"{expiry.total_seconds():.0f}s"})
        result = await self._servers.call("crl", None, query=query)
        if not isinstance(result, str):
            raise CodedError(Code.CLIENT_JSON, "the server's result is not a CRL")
        return _octets(result)

    async def healthy(self) -> bool:
        """Whether the server says that it works; an ocspd server also asks its database."""
        result = _object(await self._servers.call("health", None))
        return result.get("healthy") is True

    async def call(self, endpoint: str, fields: Mapping[str, Any]) -> Any:
        """Call any endpoint by POST and return the `result` of its reply."""
        return await self._servers.call(endpoint, wire.dumps(dict(fields)).encode())

    async def _object(self, endpoint: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return _object(await self.call(endpoint, fields))


def _object(result: Any) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise CodedError(Code.CLIENT_JSON, "the server's result is not an object")
    return result


def _text(result: Mapping[str, Any], key: str) -> str:
    value = result.get(key)
    if not isinstance(value, str):
        raise CodedError(Code.CLIENT_JSON, f"the server's reply contains no {key}")
    return value


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as err:
        raise CodedError(Code.CLIENT_JSON, "the server's result is not base64") from err
