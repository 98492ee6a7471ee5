"""From HTTP to an endpoint and back: exact paths, one method each, bounded bodies, one log line.

An endpoint is a coroutine function from a Call to a Success or a Document (`call`), independent of HTTP. A
path that ends in `/*` is that of every path with one more segment.
The dispatcher is a low-level aiohttp handler, because CFSSL's rules are not a router's: exact matches
only, a path that is not in its clean form is redirected as by Go's ServeMux, and a disabled endpoint
replies like an unknown path.

Limits: `max_body_bytes` (413), `body_s` seconds to send it (408), `max_requests` in flight (503), `send_s`
seconds for the client to take a long document, and one more for every 64 KiB of it (disconnected).
"""

from __future__ import annotations

import html
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from ocspd import wire
from ocspd.authority.api.api_response import (
    DATABASE_FAILED,
    INTERNAL,
    HTTPStatusError,
    access_line,
    failure_of,
    failure_response,
    method_not_allowed,
    not_found,
    plain_response,
    success_response,
)
from ocspd.authority.api.call import Call, Caller, Document
from ocspd.authority.api.traffic import Traffic
from ocspd.logs import logger
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.authority.api.call import Endpoint
    from ocspd.pki.go_regexp import Pattern


MAX_BODY_BYTES = 1024 * 1024
MAX_REQUESTS = 256
BODY_S = 30.0
SEND_S = 60.0
_SEND_BYTES_S = 64 * 1024
"""How fast a client must take a long document on average, after SEND_S seconds."""
_PIECE_BYTES = 64 * 1024


class Dispatcher:
    """The handler of an aiohttp low-level server.

    `endpoints` maps exact paths; replacing it (a reload) takes effect with the next request.
    `client_cn`, when given, must be found in the common name of the client's certificate (403).
    """

    def __init__(  # noqa: PLR0913  (its limits)
        self,
        endpoints: Mapping[str, Endpoint],
        *,
        client_cn: Pattern | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_requests: int = MAX_REQUESTS,
        body_s: float = BODY_S,
        send_s: float = SEND_S,
    ) -> None:
        self.endpoints = endpoints
        self.client_cn = client_cn
        self._max_body_bytes = max_body_bytes
        self._max_requests = max_requests
        self._body_s = body_s
        self._send_s = send_s
        self._requests = 0
        self.traffic = Traffic()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Reply to one request; never raises except for cancellation."""
        self._requests += 1
        caller = _caller(request)
        begun = time.monotonic()
        try:
            response, status, code = await self._reply_to(request, caller)
        finally:
            self._requests -= 1
        self.traffic.note(self._name_of(request.raw_path), status, code, time.monotonic() - begun)
        logger.info("%s", access_line(caller.address, request.method, request.raw_path, status))
        response.headers["Server"] = "ocspd"  # aiohttp would name versions
        if isinstance(response, _LargeResponse):
            await response.send(request, self._send_s + (response.content_length or 0) / _SEND_BYTES_S)
        return response

    async def _reply_to(
        self, request: web.BaseRequest, caller: Caller
    ) -> tuple[web.StreamResponse, int, int | None]:
        """Return the reply, its status, and the code in it if it is an error of the API."""
        if not self._admits(caller):
            return plain_response(HTTPStatus.FORBIDDEN, "Invalid CN"), HTTPStatus.FORBIDDEN.value, None
        path, query = request.raw_path, ""
        if path not in self.endpoints:
            path, query = split_target(path)
            cleaned = clean_path(path)
            if cleaned != path:
                return _moved(request.method, cleaned, query), HTTPStatus.MOVED_PERMANENTLY.value, None
        endpoint = self._endpoint_at(path)
        if endpoint is None:
            return not_found(), HTTPStatus.NOT_FOUND.value, None
        try:
            if not endpoint.has(request.method):
                raise method_not_allowed(request.method, endpoint.allowed)  # noqa: TRY301  (one mapping below)
            if self._requests > self._max_requests:
                raise HTTPStatusError(  # noqa: TRY301  (one mapping below)
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "too many concurrent requests",
                    headers={"Retry-After": "1"},
                )
            reply = await endpoint.run(
                Call(
                    body=await self._read_body(request),
                    path=path,
                    query=query,
                    head=request.method == "HEAD",
                    headers=request.headers,
                    caller=caller,
                )
            )
        except Exception as err:  # noqa: BLE001  (the edge: every error becomes an answer)
            return self._refuse(err)
        if isinstance(reply, Document):
            return _document_response(reply), reply.status.value, None
        return success_response(reply), HTTPStatus.OK.value, None

    def _name_of(self, target: str) -> str:
        """Name the endpoint of a request in metrics: nothing that a client can choose."""
        path = target if target in self.endpoints else split_target(target)[0]
        if path in self.endpoints:
            return path.removeprefix(wire.API_PREFIX)
        return "other"

    def _endpoint_at(self, path: str) -> Endpoint | None:
        parent, _, last = path.rpartition("/")
        return self.endpoints.get(path) or (self.endpoints.get(f"{parent}/*") if last else None)

    def refuse_method(self, request: web.BaseRequest, method: str, target: str) -> web.Response:
        """Reply to a method that aiohttp does not know, as to any other that an endpoint does not have."""
        path, _ = split_target(target)
        endpoint = self._endpoint_at(path)
        caller = _caller(request)
        if not self._admits(caller):
            response = plain_response(HTTPStatus.FORBIDDEN, "Invalid CN")
        elif endpoint is None:
            response = not_found()
        else:
            response = failure_response(method_not_allowed(method, endpoint.allowed))
        logger.info("%s", access_line(caller.address, method, target, response.status))
        return response

    @staticmethod
    def _refuse(error: Exception) -> tuple[web.StreamResponse, int, int]:
        failure = failure_of(error)
        if failure.text in {DATABASE_FAILED, INTERNAL}:
            logger.error("request failed: %s: %s", type(error).__name__, error)
        elif failure.status is HTTPStatus.INTERNAL_SERVER_ERROR:  # a refusal, for which CFSSL has no number
            logger.info("request refused: %s: %s", type(error).__name__, error)
        response = failure_response(error)
        if failure.status in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}:
            response.force_close()  # the rest of the body is not worth reading
        return response, failure.status.value, failure.code

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        limit = self._max_body_bytes
        too_long = HTTPStatusError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request body is longer than {limit} bytes"
        )
        if (request.content_length or 0) > limit:
            raise too_long
        if request.content.is_eof() and request.content_length is not None:
            return request.content.read_nowait()  # it came with the head
        body = bytearray()
        try:
            async with time_limit(self._body_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise too_long
        except TimeoutError:
            raise HTTPStatusError(
                HTTPStatus.REQUEST_TIMEOUT, "the request body did not arrive in time"
            ) from None
        return bytes(body)

    def _admits(self, caller: Caller) -> bool:
        if self.client_cn is None:
            return True
        name = common_name(caller.peer_certificate)
        if name is not None and self.client_cn.is_in(name):
            return True
        logger.warning("rejected client certificate: CN %r does not match %s", name, self.client_cn.text)
        return False


def common_name(peer_certificate: Mapping[str, object] | None) -> str | None:
    """Return the last common name of a certificate as `getpeercert` describes it, "" without one.

    None when there is no certificate.
    """
    if not peer_certificate:
        return None
    found = ""
    subject = peer_certificate.get("subject")
    for relative in subject if isinstance(subject, tuple) else ():
        for attribute, value in relative:
            if attribute == "commonName":
                found = value
    return found


def split_target(target: str) -> tuple[str, str]:
    """Return the decoded path and the raw query of a request target (RFC 9112 §3.2)."""
    if not target.startswith("/"):
        parts = urlsplit(target)
        return unquote(parts.path, errors="surrogateescape"), parts.query
    path, _, query = target.partition("?")  # urlsplit would take `//api` for a host
    return unquote(path.partition("#")[0], errors="surrogateescape"), query


def clean_path(path: str) -> str:
    """Return the shortest equal path as Go's ServeMux does: `//`, `.` and `..` resolved."""
    kept: list[str] = []
    parts = path.split("/")
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part)
    cleaned = "/" + "/".join(kept)
    return f"{cleaned}/" if path.endswith("/") and cleaned != "/" else cleaned


def _moved(method: str, path: str, query: str) -> web.Response:
    location = quote(path, safe="/:@!$&'()*+,;=~", errors="surrogateescape")
    location += f"?{query}" if query else ""
    headers = {"Location": location}
    body = b""
    if method in {"GET", "HEAD"}:
        headers["Content-Type"] = "text/html; charset=utf-8"
        body = f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n'.encode()
    return web.Response(status=HTTPStatus.MOVED_PERMANENTLY, headers=headers, body=body)


def _document_response(document: Document) -> web.StreamResponse:
    headers = dict(document.headers)
    if document.content_type:
        headers["Content-Type"] = document.content_type
    if len(document.body) > _PIECE_BYTES:
        return _LargeResponse(document, headers)
    return web.Response(status=document.status, body=document.body, headers=headers)


class _LargeResponse(web.StreamResponse):
    """A document that is sent piece by piece, as the client takes it, and not buffered whole for each."""

    def __init__(self, document: Document, headers: Mapping[str, str]) -> None:
        super().__init__(status=document.status, headers=headers)
        self.content_length = len(document.body)
        self._document = document

    async def send(self, request: web.BaseRequest, send_s: float) -> None:
        """Send everything; cut the connection of a client that takes longer than `send_s`."""
        await self.prepare(request)
        if request.method == "HEAD":
            return
        whole = memoryview(self._document.body)
        try:
            async with time_limit(send_s):
                for start in range(0, len(whole), _PIECE_BYTES):
                    await self.write(whole[start : start + _PIECE_BYTES])
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()


def _caller(request: web.BaseRequest) -> Caller:
    return Caller(
        address=_peer_text(_extra_info(request, "peername")),
        peer_certificate=_extra_info(request, "peercert") or {},
    )


def _extra_info(request: web.BaseRequest, name: str) -> Any:
    return request.transport.get_extra_info(name) if request.transport else None


def _peer_text(peer: object) -> str:
    match peer:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return "-"
