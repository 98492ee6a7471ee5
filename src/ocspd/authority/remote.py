"""The client of a remote CFSSL (or ocspd) server, used for `-remote`.

Only `sign`, `authsign` and `info` exist in the protocol. A comma list of addresses is an ordered
fail-over: after any error the next one is tried, and the last error is the one reported. A request is
authenticated (`authsign`) when an authenticator is given: an HMAC over the exact bytes of the request.

Errors are CFSSL's client codes: 7400 no connection or a status other than 200 (the body is the
message), 7200 the reply is not the expected JSON, 7300 the reply cannot be read, 7500 the server
rejected the request. A bad address is 5300.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from ocspd import wire
from ocspd.authority.remote_tls import RemoteTLS
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.ops.listeners import DEFAULT_PORT
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from ocspd.clock import Clock


_MAX_REPLY_BYTES = 16 * 1024 * 1024
_MAX_MESSAGE_CHARS = 4096
_MAX_NESTED = 4
_CONNECT_S = 30.0
_TOTAL_S = 120.0
_SERVER_FAILED = "API client error: Server request failed"


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

    def to_bytes(self) -> bytes:
        """Return the JSON; an authenticated request signs exactly these bytes."""
        request: dict[str, Any] = {
            "hosts": None if self.hosts is None else list(self.hosts),
            "certificate_request": self.csr_pem,
        }
        if self.subject is not None:
            request["subject"] = dict(self.subject)
        request |= {"profile": self.profile, "label": self.label}
        if self.serial is not None:
            request["serial"] = self.serial
        return wire.dumps(request).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteInfo:
    """The result of `info`: the CA certificate (PEM), the usages and the expiry of the profile."""

    certificate: str
    usages: list[str] | None
    expiry: str


def parse_address(text: str) -> str:
    """Return `scheme://host:port` for one address as `-remote` takes it.

    `host`, `host:port`, `192.0.2.1:8888`, `[2001:db8::1]:8888`, a bare IPv6 address, and URLs with
    http or https and an optional trailing slash. Default scheme http, default port 8888 (also for
    https, as CFSSL has it). CodedError 5300 naming the text otherwise.
    """
    address = text.strip()
    if "://" not in address:
        try:
            address = f"http://[{ipaddress.IPv6Address(address)}]"
        except ValueError:
            address = f"http://{address}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    usable = parts.scheme in {"http", "https"} and parts.path in {"", "/"} and not parts.query
    if not host or not usable or parts.fragment or parts.username is not None or port == 0:
        raise CodedError(
            Code.POLICY_INVALID_REQUEST,
            f"failed to connect to remote {shown(text)!r}: write host, host:port or http(s)://host:port",
        )
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}:{DEFAULT_PORT if port is None else port}"


def parse_addresses(text: str) -> tuple[str, ...]:
    """Return the normalised addresses of a comma list, in order; empty members are ignored."""
    addresses = tuple(parse_address(item) for item in text.split(",") if item.strip())
    if not addresses:
        raise CodedError(Code.POLICY_INVALID_REQUEST, "failed to connect to remote: no address given")
    return addresses


class RemoteSigner:
    """A group of CFSSL servers, tried in order until one of them replies.

    With `auth`, requests go to `authsign`. Each request makes a connection, as in CFSSL's client, so a
    server that recovers is used again at once.
    """

    def __init__(
        self,
        addresses: str,
        *,
        auth: Authenticator | None = None,
        tls: RemoteTLS | None = None,
        total_s: float = _TOTAL_S,
        clock: Clock | None = None,
    ) -> None:
        self.addresses = parse_addresses(addresses)
        self._auth = auth
        self._clock = clock or SystemClock()
        wants_tls = any(address.startswith("https:") for address in self.addresses)
        self._context = (tls or RemoteTLS()).context() if wants_tls or tls is not None else None
        self._timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S)

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
        error: OCSPDError | None = None
        for address in self.addresses:
            try:
                return _result(await self._post(f"{address}{wire.API_PREFIX}{endpoint}", body))
            except CodedError as err:
                error = err
        assert error is not None
        raise error

    async def _post(self, url: str, body: bytes) -> bytes:
        """Return the body of a reply with status 200."""
        try:
            async with self._session() as session:
                post = session.post(url, data=body, proxy=_proxy_for(url), allow_redirects=False)
                async with post as response:
                    reply = await _read_limited(response)
                    if response.status != 200:
                        raise CodedError(
                            Code.CLIENT_HTTP, _refusal(reply) or f"HTTP status {response.status}"
                        )
                    return reply
        except TimeoutError:
            raise CodedError(Code.CLIENT_HTTP, f"failed POST to {url}: timed out") from None
        except aiohttp.ClientPayloadError as err:
            raise CodedError(Code.CLIENT_IO, f"failed to read the reply of {url}: {err}") from err
        except (aiohttp.ClientError, OSError, ValueError) as err:
            raise CodedError(Code.CLIENT_HTTP, f"failed POST to {url}: {_cause(err, url)}") from err

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._context or True)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            yield session


async def _read_limited(response: aiohttp.ClientResponse) -> bytes:
    chunks = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        chunks += chunk
        if len(chunks) > _MAX_REPLY_BYTES:
            raise CodedError(Code.CLIENT_IO, f"the reply of {response.url} is larger than 16 MiB")
    return bytes(chunks)


def _refusal(reply: bytes) -> str:
    """Return the message in a server's reply with an error status, without the JSON around it.

    CFSSL puts errors of its own, which are JSON again, into the message.
    """
    text, found = reply.decode("utf-8", "replace"), 0
    for _ in range(_MAX_NESTED):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            break
        if isinstance(value, dict) and isinstance(value.get("errors"), list) and value["errors"]:
            value = value["errors"][0]
        if not isinstance(value, dict) or not isinstance(value.get("message"), str):
            break
        code, text = value.get("code"), value["message"]
        found = code if isinstance(code, int) and code else found
    shown = text[:_MAX_MESSAGE_CHARS]
    return f"{shown} (the server's code {found})" if found and shown else shown


def _result(reply: bytes) -> dict[str, Any]:
    """Return the result in an API response; 7500 when the server rejected the request."""
    try:
        api_response = wire.Fields(wire.loads(reply), "api.Response")
        success = api_response.boolean("success")
        errors = api_response.items("errors", "api.ResponseMessage")
        message = _refusal(reply) if errors and errors[0].string("message") else ""
    except wire.JSONError as err:
        raise CodedError(Code.CLIENT_JSON, str(err)) from err
    result = api_response.get("result")
    if not success or result is None:
        raise CodedError(Code.CLIENT_SERVER_FAILED, message[:_MAX_MESSAGE_CHARS] or _SERVER_FAILED)
    if not isinstance(result, dict):
        raise CodedError(Code.CLIENT_JSON, "the server's result is not an object")
    return result


def _cause(err: Exception, url: str) -> str:
    """Explain why there was no reply, in our own words where aiohttp's are about its own objects."""
    if isinstance(err, aiohttp.ClientConnectorCertificateError):
        failure: Exception = err.certificate_error
        reason = getattr(failure, "verify_message", "") or str(failure)
        return f"the server's certificate is not trusted: {reason} (set -tls-remote-ca to the CAs to trust)"
    if isinstance(err, aiohttp.ClientConnectorDNSError):
        return f"cannot resolve {err.host}"
    if isinstance(err, aiohttp.ClientConnectorError) and err.os_error.errno:
        return f"cannot connect to {err.host}, port {err.port}: {os.strerror(err.os_error.errno).lower()}"
    if isinstance(err, aiohttp.InvalidURL):
        return "not the URL of a server"
    if isinstance(err, aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError):
        scheme = "https://" if url.startswith("http:") else "http://"
        return f"{err} (does the server speak {scheme}?)"
    return str(err)


def _proxy_for(url: str) -> str | None:
    """Return the proxy of the environment, never for loopback (Go's ProxyFromEnvironment)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    proxies = getproxies()
    if loopback or proxy_bypass(parts.netloc):
        return None
    return proxies.get(parts.scheme)
