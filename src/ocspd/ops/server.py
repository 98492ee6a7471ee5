"""A plain aiohttp server around one low-level handler: listen, drain, stop.

Not for the OCSP responder, which has its own workers. A connection that sends no complete request head
within `head_s` seconds is closed; afterwards aiohttp's keep-alive time-out does the same.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMethod

from ocspd.errors import OCSPDError
from ocspd.logs import silent
from ocspd.ops.listeners import in_use

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    RefuseMethod = Callable[[web.BaseRequest, str, str], web.Response]

HEAD_S = 30.0
KEEPALIVE_S = 75.0
DRAIN_S = 10.0


class HTTPServer:
    """A server on one address and port; `drain_s` bounds how long requests in flight may finish.

    `port_flag` is the flag to change when the port is in use.
    """

    def __init__(  # noqa: PLR0913  (options of one server)
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        ssl_context: ssl.SSLContext | None = None,
        drain_s: float = DRAIN_S,
        port_flag: str = "-port",
        max_connections: int | None = None,
        head_s: float = HEAD_S,
        refuse_method: RefuseMethod | None = None,
    ) -> None:
        """`max_connections` may be open at a time; more are closed at once. None: no limit.

        `head_s` is how long a connection has for its first request. `refuse_method` makes the reply to a
        request whose method is none that HTTP knows, from that method and the target; without it 400.
        """
        self._refuse_method = refuse_method
        self._max_connections = max_connections
        self._head_s = head_s
        self._port_flag = port_flag
        self._handler = handler
        self._ssl_context = ssl_context
        self._drain_s = drain_s
        self._runner: web.ServerRunner | None = None

    async def start(self, address: str, port: int) -> None:
        """Listen; `address` "" means every interface. OCSPDError in one line when that fails."""
        server = _Server(
            self._handler,
            max_connections=self._max_connections,
            head_s=self._head_s,
            refuse_method=self._refuse_method,
            logger=silent,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=1.0,
            auto_decompress=False,
        )
        runner = web.ServerRunner(server, shutdown_timeout=self._drain_s)
        await runner.setup()
        _tell_failures(self._ssl_context)
        site = web.TCPSite(runner, address or None, port, ssl_context=self._ssl_context)
        try:
            await site.start()
        except (OSError, OverflowError) as err:
            await runner.cleanup()
            raise OCSPDError(
                f"cannot listen on {address}:{port}: {_why(err, self._port_flag, port)}"
            ) from err
        self._runner = runner

    async def use_tls(self, context: ssl.SSLContext) -> None:
        """Make new connections use another context; open ones keep theirs.

        The context of a listening socket cannot be replaced, and one that is changed in place keeps the CAs
        it trusted and the sessions it resumes. So the same socket starts to listen again.
        """
        runner = self._runner
        assert runner is not None
        _tell_failures(context)
        for old in list(runner.sites):
            assert isinstance(old, web.TCPSite | web.SockSite)
            for listening in old._server.sockets:  # type: ignore[union-attr]  # noqa: SLF001  (no public way)
                copy = socket.socket(fileno=os.dup(listening.fileno()))
                await web.SockSite(runner, copy, ssl_context=context).start()
            await old.stop()
        self._ssl_context = context

    @property
    def port(self) -> int:
        """The port it listens on, also when 0 was requested."""
        assert self._runner is not None
        address: Any = self._runner.addresses[0]
        port: int = address[1]
        return port

    async def stop(self) -> None:
        """Stop listening, close idle connections, let requests in flight finish within `drain_s`."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


class _Server(web.Server):
    """aiohttp's connection manager, with a time limit for the first request of a connection."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        max_connections: int | None,
        head_s: float,
        refuse_method: RefuseMethod | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(self._first_request, **kwargs)
        self.refuse_method = refuse_method
        self._options = kwargs
        self._inner = handler
        self._max_connections = max_connections
        self._head_s = head_s
        self._waiting: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if self._max_connections is not None and len(self.connections) > self._max_connections:
            # Not at once: aiohttp first begins to read from what it was just told of.
            asyncio.get_running_loop().call_soon(transport.abort)
            return
        self._waiting[handler] = asyncio.get_running_loop().call_later(self._head_s, transport.abort)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._settle(handler)
        super().connection_lost(handler, exc)

    async def _first_request(self, request: web.BaseRequest) -> web.StreamResponse:
        self._settle(request.protocol)
        return await self._inner(request)

    def _settle(self, handler: web.RequestHandler) -> None:
        timer = self._waiting.pop(handler, None)
        if timer is not None:
            timer.cancel()


_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) (/[^\s]{0,8000}) HTTP/1\.[01]\r?\n")


class _Connection(web.RequestHandler):
    """aiohttp's end of a connection, with replies of ours to what its parser rejects."""

    __slots__ = ("_last_bytes", "_server")

    def __init__(self, server: _Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self._server = server
        self._last_bytes = b""

    def data_received(self, data: bytes) -> None:
        self._last_bytes = data
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Reply to what cannot be read as HTTP, and close the connection."""
        line = _REQUEST_LINE.match(self._last_bytes) if isinstance(exc, BadHttpMethod) else None
        if line is not None and self._server.refuse_method is not None:
            request._version = HttpVersion11  # noqa: SLF001  (aiohttp reads no more of it than the method)
            response: web.StreamResponse = self._server.refuse_method(
                request, line[1].decode(), line[2].decode("latin-1")
            )
            response.force_close()
        else:
            response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = "ocspd"  # aiohttp would name versions
        return response


_READS_AFTER_ALERT = 8


class _TellingSSLObject(ssl.SSLObject):
    """The server's end of TLS: a handshake that fails is told to the client.

    OpenSSL has written an alert by then ("certificate required", for one), but the event loop closes the
    connection without sending it, and the client can only guess. So a failure is first told to the loop as
    a wish to read more, before which it sends what there is. The client closes the connection then. If it
    goes on sending instead, the failure is told a few reads later; if it does neither, the loop's time limit
    for handshakes ends it.
    """

    _failure: ssl.SSLError | None = None
    _reads = 0

    def do_handshake(self) -> None:
        if self._failure is None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
                raise
            except ssl.SSLError as err:
                self._failure = err
            else:
                return
        self._reads += 1
        if self._reads > _READS_AFTER_ALERT:
            raise self._failure
        raise ssl.SSLWantReadError


def _tell_failures(context: ssl.SSLContext | None) -> None:
    if context is not None:
        context.sslobject_class = _TellingSSLObject


def _why(error: OSError | OverflowError, port_flag: str, port: int) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return in_use(port_flag, port)
    return getattr(error, "strerror", None) or str(error)
