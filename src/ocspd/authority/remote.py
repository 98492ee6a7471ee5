"""The client of a remote CFSSL (or ocspd) server, used for `-remote`.

Only `sign`, `authsign` and `info` exist in the protocol. A request is authenticated (`authsign`) when an
authenticator is given: an HMAC over the exact bytes of the request. Addresses, fail-over and errors are
those of `client.transport`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ocspd import wire
from ocspd.client.transport import TOTAL_S, Servers
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ocspd.client.tls import RemoteTLS
    from ocspd.clock import Clock


class Authenticator(Protocol):
    """Makes the token of an authenticated request (pki.auth.AuthKey)."""

    def token(self, data: bytes, /) -> bytes:
        """Return the token for the exact bytes of the request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRequest:
    """A sign request as it is sent.

    `hosts` None keeps the CSR's names, a list replaces them. `subject` is CFSSL's JSON subject.
    """

    csr_pem: str
    hosts: Sequence[str] | None = None
    subject: Mapping[str, Any] | None = None
    profile: str = ""
    label: str = ""
    serial: int | None = None
    crl_url: str = ""
    """The CRL distribution point in place of the profile's; CFSSL calls it crl_override."""

    def to_bytes(self) -> bytes:
        """Return the JSON; an authenticated request signs exactly these bytes."""
        request: dict[str, Any] = {
            "hosts": None if self.hosts is None else list(self.hosts),
            "certificate_request": self.csr_pem,
        }
        if self.subject is not None:
            request["subject"] = dict(self.subject)
        request |= {"profile": self.profile}
        if self.crl_url:
            request["crl_override"] = self.crl_url
        request["label"] = self.label
        if self.serial is not None:
            request["serial"] = self.serial
        return wire.dumps(request).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteInfo:
    """The result of `info`: the CA certificate (PEM), the usages and the expiry of the profile."""

    certificate: str
    usages: list[str] | None
    expiry: str


class RemoteSigner:
    """Signs through a group of CFSSL servers; with `auth`, requests go to `authsign`."""

    def __init__(
        self,
        addresses: str,
        *,
        auth: Authenticator | None = None,
        tls: RemoteTLS | None = None,
        total_s: float = TOTAL_S,
        clock: Clock | None = None,
    ) -> None:
        self._servers = Servers(addresses, tls=tls, total_s=total_s)
        self._auth = auth
        self._clock = clock or SystemClock()

    async def sign(self, request: RemoteRequest) -> str:
        """Have a CSR signed and return the certificate (PEM)."""
        return await self.sign_request(request.to_bytes())

    async def sign_request(self, request: bytes) -> str:
        """Send the bytes of a JSON sign request, with a token when there is an authenticator."""
        endpoint = "sign"
        if self._auth is not None:
            endpoint = "authsign"
            outer = {
                "timestamp": int(self._clock.now().timestamp()),
                "token": base64.b64encode(self._auth.token(request)).decode(),
                "request": base64.b64encode(request).decode(),
            }
            request = wire.dumps(outer).encode()
        result = await self._call(endpoint, request)
        certificate = result.get("certificate")
        if not isinstance(certificate, str):
            raise CodedError(Code.CLIENT_JSON, "the server's reply contains no certificate")
        return certificate

    async def info(self, *, label: str = "", profile: str = "") -> RemoteInfo:
        """Ask for the CA certificate and the main settings of a profile."""
        result = await self._call("info", wire.dumps({"label": label, "profile": profile}).encode())
        fields = wire.Fields(result, "info.Resp")
        try:
            return RemoteInfo(
                certificate=fields.string("certificate"),
                usages=fields.strings("usages"),
                expiry=fields.string("expiry"),
            )
        except wire.JSONError as err:
            raise CodedError(Code.CLIENT_JSON, str(err)) from err

    async def _call(self, endpoint: str, body: bytes) -> dict[str, Any]:
        result = await self._servers.call(endpoint, body)
        if not isinstance(result, dict):
            raise CodedError(Code.CLIENT_JSON, "the server's result is not an object")
        return result
