"""SIGHUP: read everything again, as often as it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.logs import logger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable


async def reload_on(wanted: asyncio.Event, reload: Callable[[], Awaitable[None]]) -> None:
    """Call `reload` each time the event is set, until cancelled.

    `reload` itself reports what it cannot use. Anything else that it raises is a bug, which is logged and
    must not make the service deaf to the next SIGHUP.
    """
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await reload()
        except Exception:  # noqa: BLE001  (whatever it is, the next one is another)
            logger.exception("reload failed, what is in use stays: a bug in ocspd, please report it")
