"""The way to CFSSL's API, of ocspd's or CFSSL's own server: addresses, fail-over, errors, limits.

A comma list of addresses is an ordered fail-over: after any error the next one is tried, and the last error
is the one reported.

Errors are CFSSL's client codes: 7400 no connection or a status other than 200 (the body is the
message), 7200 the reply is not the expected JSON, 7300 the reply cannot be read, 7500 the server
rejected the request. A bad address is 5300.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from ocspd import wire
from ocspd.client.tls import RemoteTLS
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_MAX_REPLY_BYTES = 16 * 1024 * 1024
_MAX_MESSAGE_CHARS = 4096
_MAX_NESTED = 4
_CONNECT_S = 30.0
TOTAL_S = 120.0
"""How long one server may take, connecting and sending included."""
_SERVER_FAILED = "API client error: Server request failed"


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
    return f"{parts.scheme}://{name}:{wire.DEFAULT_PORT if port is None else port}"


def parse_addresses(text: str) -> tuple[str, ...]:
    """Return the normalised addresses of a comma list, in order; empty members are ignored."""
    addresses = tuple(parse_address(item) for item in text.split(",") if item.strip())
    if not addresses:
        raise CodedError(Code.POLICY_INVALID_REQUEST, "failed to connect to remote: no address given")
    return addresses


class Servers:
    """A group of servers, tried in order until one of them replies.

    Each request makes a connection, as in CFSSL's client, so a server that recovers is used again at once.
    """

    def __init__(
        self,
        addresses: str,
        *,
        tls: RemoteTLS | None = None,
        total_s: float = TOTAL_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`headers` go with every request. CodedError 5300 for a bad address, ConfigError for TLS files."""
        self.addresses = parse_addresses(addresses)
        wants_tls = any(address.startswith("https:") for address in self.addresses)
        self._context = (tls or RemoteTLS()).context() if wants_tls or tls is not None else None
        self._timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S)
        self._headers = {"Content-Type": "application/json", **(headers or {})}

    async def call(
        self,
        endpoint: str,
        body: bytes | None,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the result of an endpoint of CFSSL's API: POST of a body, GET without one."""
        error: OCSPDError | None = None
        target = f"{wire.API_PREFIX}{endpoint}" + (f"?{query}" if query else "")
        for address in self.addresses:
            try:
                return _result(await self._request(f"{address}{target}", body, headers))
            except CodedError as err:
                error = err
        assert error is not None
        raise error

    async def _request(self, url: str, body: bytes | None, headers: Mapping[str, str] | None) -> bytes:
        """Return the body of a reply with status 200."""
        method = "GET" if body is None else "POST"
        try:
            async with self._session() as session:
                sent = session.request(
                    method, url, data=body, headers=headers, proxy=proxy_for(url), allow_redirects=False
                )
                async with sent as response:
                    reply = await read_limited(response)
                    if response.status != 200:
                        raise CodedError(
                            Code.CLIENT_HTTP, _refusal(reply) or f"HTTP status {response.status}"
                        )
                    return reply
        except TimeoutError:
            raise CodedError(Code.CLIENT_HTTP, f"failed {method} to {url}: timed out") from None
        except aiohttp.ClientPayloadError as err:
            raise CodedError(Code.CLIENT_IO, f"failed to read the reply of {url}: {err}") from err
        except (aiohttp.ClientError, OSError, ValueError) as err:
            raise CodedError(Code.CLIENT_HTTP, f"failed {method} to {url}: {cause_of(err, url)}") from err

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._context or True)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield session


async def read_limited(response: aiohttp.ClientResponse) -> bytes:
    """Read a reply; CodedError 7300 above 16 MiB."""
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


def _result(reply: bytes) -> Any:
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
    return result


_ALERT = re.compile(r"ALERT_([A-Z_]+)\]")
_NO_CERTIFICATE = frozenset({"handshake failure", "unknown ca"})
"""Alerts about a client's certificate that do not have the word in their name; the first is TLS 1.2's."""


def cause_of(err: Exception, url: str, trust: str = "set -tls-remote-ca to the CAs to trust") -> str:
    """Explain why there was no reply, in our own words where aiohttp's are about its own objects.

    `trust` is what to do about a certificate that is not trusted.
    """
    alert = _ALERT.search(str(err))
    if alert is not None:
        name = alert[1].lower().replace("_", " ")
        remedy = ""
        if "certificate" in name or name in _NO_CERTIFICATE:
            remedy = " (set -mutual-tls-client-cert and -mutual-tls-client-key to a certificate it accepts)"
        return f"remote error: tls: {name}{remedy}"
    if isinstance(err, aiohttp.ClientConnectorCertificateError):
        failure: Exception = err.certificate_error
        reason = getattr(failure, "verify_message", "") or str(failure)
        return f"the server's certificate is not trusted: {reason} ({trust})"
    if isinstance(err, aiohttp.ClientConnectorDNSError):
        return f"cannot resolve {err.host}"
    if isinstance(err, aiohttp.ClientConnectorError) and err.os_error.errno:
        return f"cannot connect to {err.host}, port {err.port}: {os.strerror(err.os_error.errno).lower()}"
    if isinstance(err, aiohttp.InvalidURL):
        return "not the URL of a server"
    if isinstance(err, aiohttp.ClientHttpProxyError):  # its text has the proxy's URL, with the password in it
        return (
            f"the proxy that {urlsplit(url).scheme}_proxy names refuses to connect: HTTP status {err.status}"
        )
    if isinstance(err, aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError):
        if url.startswith("http:"):
            return f"{err} (does the server speak https://?)"
        return f"{err} (does the server speak http://, or require a client certificate?)"
    return str(err)


def proxy_for(url: str) -> str | None:
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
