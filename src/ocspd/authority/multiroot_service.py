"""multirootca as a service: CAs that are read again on SIGHUP, and the server that stays until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ocspd.authority.api.dispatch import Dispatcher
from ocspd.authority.multiroot import MultiRoot, warn_of_shared_keys
from ocspd.authority.multiroot_metrics import MultiRootMetrics
from ocspd.errors import OCSPDError
from ocspd.logs import logger
from ocspd.ops.reloading import reload_on
from ocspd.ops.server import HTTPServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from ocspd.authority.api.call import Endpoint
    from ocspd.authority.multiroot import Root
    from ocspd.authority.tls import ServerTLS
    from ocspd.pki.go_regexp import Pattern


class MultiRootService:
    """The server; `load` reads the roots file and everything it names, at the start and on every reload."""

    def __init__(
        self,
        load: Callable[[], Awaitable[Mapping[str, Root]]],
        tls: ServerTLS,
        *,
        context: ssl.SSLContext | None,
        client_cn: Pattern | None,
        default_label: str,
    ) -> None:
        """`context` and `client_cn` are what `tls` has now."""
        self._load = load
        self._tls = tls
        self._default_label = default_label
        self._metrics = MultiRootMetrics()
        self._dispatcher = Dispatcher({}, client_cn=client_cn)
        self._server = HTTPServer(
            self._dispatcher,
            ssl_context=context,
            port_flag="-a",
            refuse_method=self._dispatcher.refuse_method,
        )

    async def run(self, address: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT; OCSPDError when a CA cannot be used or nothing can listen there."""
        async with AsyncExitStack() as stack:
            stop, wanted = asyncio.Event(), asyncio.Event()
            loop = asyncio.get_running_loop()
            for signal_number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signal_number, stop.set)
            loop.add_signal_handler(signal.SIGHUP, wanted.set)
            self._dispatcher.endpoints = await self._endpoints()
            await self._server.start(address, port)
            stack.push_async_callback(self._server.stop)
            reloading = asyncio.create_task(reload_on(wanted, self._reload))
            stack.callback(reloading.cancel)
            scheme = "https://" if self._tls.enabled else ""
            logger.info("Now listening on %s%s:%d", scheme, address, self._server.port)
            await stop.wait()
            logger.info("stopping: letting requests in flight finish")

    async def _reload(self) -> None:
        """Read everything again (SIGHUP); keep everything in use if any part of it is now unusable."""
        logger.info("reloading")
        try:
            endpoints = await self._endpoints()
            context = self._tls.context()
            if context is not None:
                await self._server.use_tls(context)
        except (OCSPDError, OSError) as err:
            logger.error("reload failed, nothing was changed: %s", err)
            return
        self._dispatcher.endpoints = endpoints
        logger.info("reloaded every CA; flags stay as they are")

    async def _endpoints(self) -> dict[str, Endpoint]:
        roots = await self._load()
        for label in roots:
            logger.info("loaded signer %s", label)
        if self._default_label and self._default_label not in roots:
            logger.warning("there is no CA with the default label %s", self._default_label)
        warn_of_shared_keys(roots)
        return MultiRoot(roots, self._default_label, self._metrics).endpoints()
