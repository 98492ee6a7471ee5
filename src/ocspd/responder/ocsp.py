"""OCSP over HTTP in full: the path for requests the fast path does not handle (RFC 6960 App. A).

The bytes written here are the contract of `_fastpath`, which writes the same for the requests it handles.
Only the value of Date may differ. Lines end in CRLF, names are cased as below, fields stand in this order:

    HTTP/V S REASON              V: the request's version, 1.0 or 1.1
    Content-Type: application/ocsp-response          an OCSPResponse follows
    Content-Length: N                                always, but not on 304
    Allow: GET, HEAD, POST                           405 only
    Cache-Control: max-age=N, public, no-transform, must-revalidate       authoritative, 304 included
    Last-Modified: thisUpdate                        authoritative
    Expires: nextUpdate                              authoritative, unless the response has no nextUpdate
    ETag: "TAG"                                      authoritative
    Cache-Control: max-age=0, no-cache               everything else
    Date: now
    Connection: close                                HTTP/1.1 and the connection ends after this reply
    Connection: keep-alive                           HTTP/1.0 and it does not

    S  REASON                 when                                                       body
    200 OK                    good, revoked, unknown, unauthorized, tryLater             OCSPResponse
    200 OK                    GET or HEAD of the path itself, for load balancers         empty
    304 Not Modified          GET or HEAD, authoritative, the client's copy is current   none
    400 Bad Request           malformedRequest: the DER, the base64, an escape, the HTTP 30 03 0A 01 01
    404 Not Found             a path outside -path                                       empty
    405 Method Not Allowed    any method but GET, HEAD, POST                             empty
    408 Request Timeout       the body did not arrive in time; closes                    empty
    413 Content Too Large     a body over 10 000 bytes; closes                           empty
    417 Expectation Failed    Expect: anything but 100-continue                          empty
    500 Internal Server Error internalError                                              OCSPResponse

Rules:
 1. HEAD is answered as GET, without the body (Content-Length stays).
 2. GET: the request-target without scheme and authority and without the query; below -path; percent-decoded,
    a second time if an escape is left; leading slashes dropped, no other slash ever; CR and LF dropped;
    space means `+`, `-` means `+`, `_` means `/`; trailing `=` may be missing or in excess. What is left is
    strict base64. Nothing left: the health reply.
 3. POST: any path below -path, any Content-Type or none, Content-Length or chunked.
 4. If-None-Match counts on GET and HEAD (RFC 9110 §13.1.2): weak comparison, a list or `*`. CFSSL answers
    304 to POST as well; nobody can depend on it, since a POST is not cached.
 5. If-Modified-Since never leads to 304: Last-Modified is thisUpdate in whole seconds, and a certificate may
    be revoked within the second, or signed again for the same period: a date cannot distinguish the two
    responses. So it is not a strong validator (RFC 9110 §8.8.2.2), and ignoring it is always right (§13.1.3).

It must not read any index or clock but the one it is given; `worker.py` creates the server.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import HttpVersion10, HttpVersion11, web
from multidict import CIMultiDict, CIMultiDictProxy

from ocspd._index import NO_NEXT_UPDATE
from ocspd._text import http_date
from ocspd.logs import logger, silent
from ocspd.metrics import METHODS
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter

    from ocspd.clock import Clock

MAX_BODY_BYTES = 10_000
"""Largest OCSPRequest accepted (Boulder's limit)."""
BODY_TIMEOUT_S = 10.0
"""How long a body may take to arrive."""
_LINGER_S = 2.0  # reading what a refused client still sends, so that it sees the answer and not a reset

_TYPE = "application/ocsp-response"
_NOT_CACHED = "max-age=0, no-cache"
_MALFORMED = bytes.fromhex("30030a0101")
_INTERNAL_ERROR = bytes.fromhex("30030a0102")
_REASONS = {
    200: "OK",
    304: "Not Modified",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    417: "Expectation Failed",
    500: "Internal Server Error",
}

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_ALPHABET = bytes.maketrans(b" -_", b"++/")
_ETAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


class Reply(Protocol):
    """The result for a request, without HTTP: `_responder.Reply` (times in seconds since the epoch)."""

    @property
    def http_status(self) -> int: ...  # noqa: D102  (see _responder.Reply)
    @property
    def outcome(self) -> str: ...  # noqa: D102
    @property
    def body(self) -> bytes: ...  # noqa: D102
    @property
    def cacheable(self) -> bool: ...  # noqa: D102
    @property
    def this_update(self) -> int: ...  # noqa: D102
    @property
    def next_update(self) -> int: ...  # noqa: D102
    @property
    def max_age_s(self) -> int: ...  # noqa: D102
    @property
    def etag(self) -> str: ...  # noqa: D102


class Responder(Protocol):
    """Answers requests without HTTP and counts them: `_responder.Responder`."""

    def reply_to(self, request_der: bytes, /) -> Reply:
        """Answer a DER request; never raises for malformed bytes."""
        ...

    def count(self, counter: str, amount: int = 1, /) -> None:
        """Add to one of `metrics.COUNTERS`."""
        ...


class MalformedError(ValueError):
    """A GET path that is not base64: malformedRequest."""


class OCSPServer(web.Server):
    """Creates the aiohttp protocol of a connection: the `slow_factory` of `_fastpath.Connections`.

    It also works alone, `loop.create_server(OCSPServer(...), ...)`, without limits on connections.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        clock: Clock,
        path: str = "/",
        keepalive_timeout_s: float = 75.0,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        super().__init__(self._handle)
        self.responder = responder
        self.draining = False
        """If set, every further reply ends its connection."""
        self._clock = clock
        self._prefix = path.strip("/")
        self.body_timeout_s = body_timeout_s
        """How long a body may take to arrive."""
        self._options: dict[str, Any] = {
            "access_log": None,
            "logger": silent,
            "keepalive_timeout": keepalive_timeout_s,
            "lingering_time": _LINGER_S,
            "auto_decompress": False,  # a compressed body is not DER, and could be a bomb
        }

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of one new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def date(self) -> str:
        """Return the value of Date for a reply written now."""
        return http_date(int(self._clock.now().timestamp()))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        reply = await self._reply_to(request)
        ends = getattr(request.transport, "ends_connection", False)  # _fastpath.SlowTransport
        if self.draining or reply.closes or ends:
            reply.force_close()
        return reply

    async def _reply_to(self, request: web.BaseRequest) -> OCSPReply:
        if request.method not in {"GET", "HEAD", "POST"}:
            return OCSPReply(self, 405, "method_not_allowed", extra={"Allow": "GET, HEAD, POST"})
        if request.version < HttpVersion10:
            return OCSPReply(self, 400, "bad_http", _MALFORMED, closes=True)
        path = self._below_prefix(request.raw_path)
        if path is None:
            return OCSPReply(self, 404, "not_found")
        if request.method == "POST":
            return await self._post(request)
        try:
            der = decode_path(path)
        except MalformedError:
            return OCSPReply(self, 400, "malformed", _MALFORMED)
        if not der:
            return OCSPReply(self, 200, "health")
        reply = self.responder.reply_to(der)
        if reply.cacheable and is_current(request.headers, reply.etag):
            return OCSPReply(self, 304, "not_modified", reply=reply)
        return OCSPReply(self, reply.http_status, reply.outcome, reply.body, reply=reply)

    def _below_prefix(self, target: str) -> str | None:
        """Return the path below -path, without the slash between them; None for any other path."""
        absolute = _ABSOLUTE_FORM.match(target)
        path = target[absolute.end() if absolute else 0 :].partition("?")[0].lstrip("/")
        if not self._prefix:
            return path
        if path == self._prefix:
            return ""
        return path[len(self._prefix) + 1 :] if path.startswith(self._prefix + "/") else None

    async def _post(self, request: web.BaseRequest) -> OCSPReply:
        expected = request.headers.get("Expect")
        if expected is not None and expected.lower() != "100-continue":
            return OCSPReply(self, 417, "bad_http", closes=True)
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return OCSPReply(self, 413, "too_large", closes=True)
        try:
            async with time_limit(self.body_timeout_s):
                if expected is not None and request.version >= HttpVersion11:
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0  # the answer has not begun with it
                body = bytearray()
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        return OCSPReply(self, 413, "too_large", closes=True)
        except TimeoutError:
            return OCSPReply(self, 408, "bad_http", closes=True)
        except web.RequestPayloadError:
            return OCSPReply(self, 400, "bad_http", _MALFORMED, closes=True)
        reply = self.responder.reply_to(bytes(body))
        return OCSPReply(self, reply.http_status, reply.outcome, reply.body, reply=reply)


class _Connection(web.RequestHandler):
    """aiohttp's protocol, which answers what it cannot parse with our malformedRequest."""

    __slots__ = ("_server",)

    def __init__(self, server: OCSPServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  (signature of the base class)
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Reply to a request that is not HTTP (400), or after a bug of ours (500); end the connection."""
        if isinstance(exc, ConnectionError) or self.transport is None or self.transport.is_closing():
            # the client has gone, which aiohttp says in several ways: no error, and nobody to answer
            reply = OCSPReply(self._server, 400, None, _MALFORMED)
        elif status == 500:
            logger.error("a request could not be answered", exc_info=exc)
            reply = OCSPReply(self._server, 500, "internal_error", _INTERNAL_ERROR)
        else:
            reply = OCSPReply(self._server, 400, "bad_http", _MALFORMED)
        reply.force_close()
        return reply


class OCSPReply(web.Response):
    """A reply with exactly the header fields of the module's table, counted when it is written.

    Without an outcome nobody will read it, and it is not counted.
    """

    def __init__(  # noqa: PLR0913  (one row of the table)
        self,
        server: OCSPServer,
        status: int,
        outcome: str | None,
        body: bytes = b"",
        *,
        reply: Reply | None = None,
        extra: Mapping[str, str] | None = None,
        closes: bool = False,
    ) -> None:
        fields: CIMultiDict[str] = CIMultiDict()
        if body:
            fields["Content-Type"] = _TYPE
        if status != 304:
            fields["Content-Length"] = str(len(body))
        fields.extend(extra or {})
        if reply is not None and reply.cacheable:
            fields.extend(cache_fields(reply))
        else:
            fields["Cache-Control"] = _NOT_CACHED
        fields["Date"] = server.date()
        super().__init__(status=status, reason=_REASONS[status], body=body or None, headers=fields)
        self.outcome = outcome
        self.closes = closes
        self._counter = server.responder.count

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Count the reply under its method and outcome, and begin to write it."""
        self._transport = request.transport
        if not self.prepared and self.outcome is not None:
            method = request.method.lower()
            label = method if request.method.isupper() and method in METHODS[:-1] else "other"
            self._counter(f"requests_{label}_{self.outcome}")
        return await super().prepare(request)

    async def _prepare_headers(self) -> None:
        # aiohttp appends Server and then Connection; there is no public way to keep the first away from
        # answers to requests it could not parse (on_response_prepare is not sent for them).
        await super()._prepare_headers()
        self.headers.popall("Server", None)

    async def write_eof(self, data: bytes = b"") -> None:
        """Finish the reply and count its size."""
        await super().write_eof(data)
        self._counter("sent_bytes", self.body_length)
        done = getattr(self._transport, "request_done", None)
        if done is not None:  # the native connection takes over again (_fastpath.SlowTransport)
            done(bool(self.keep_alive))


def cache_fields(reply: Reply) -> dict[str, str]:
    """Return the cache header fields of an authoritative reply, in order (RFC 9919 §6, with GMT dates)."""
    fields = {
        "Cache-Control": f"max-age={reply.max_age_s}, public, no-transform, must-revalidate",
        "Last-Modified": http_date(reply.this_update),
    }
    if reply.next_update != NO_NEXT_UPDATE:
        fields["Expires"] = http_date(reply.next_update)
    fields["ETag"] = f'"{reply.etag}"'
    return fields


def decode_path(path: str) -> bytes:
    """Return the DER in a GET path (rule 2 above); MalformedError if it is not base64."""
    data = path.encode("utf-8", "surrogateescape")
    for _ in range(2):
        if b"%" in data:
            data = _ESCAPE.sub(_unescape, data)
    data = data.lstrip(b"/").replace(b"\r", b"").replace(b"\n", b"").translate(_ALPHABET).rstrip(b"=")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error:
        raise MalformedError("the path is not base64") from None


def _unescape(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        raise MalformedError("an escape is incomplete")
    return bytes((int(match[1], 16),))


def is_current(headers: CIMultiDictProxy[str], etag: str) -> bool:
    """Return whether the copy a GET names is the response with this entity tag (RFC 9110 §13.1.2)."""
    text = ",".join(headers.getall("If-None-Match", []))
    return text.strip() == "*" or etag in _ETAG.findall(text)
