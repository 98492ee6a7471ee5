"""A headless Chromium, driven by its debugging protocol over a pipe of text messages."""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_START_S = 120.0
_CALL_S = 60.0
_WAIT_S = 120.0


class Page:
    """One tab. `problems` has what the console and the Content-Security-Policy complain about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call the browser and return its result; AssertionError for an error."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with time_limit(_CALL_S):
            while True:
                message = json.loads((await self._socket.receive()).data)
                if message.get("id") == number:
                    assert "error" not in message, message
                    result: dict[str, Any] = message["result"]
                    return result
                self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Log.entryAdded":
                self.problems.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.problems.append(str(parameters["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])

    async def run(self, script: str) -> Any:
        """Return the value of an expression, awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def open(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        await self.call("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete'")

    async def wait_for(self, condition: str) -> None:
        """Wait until an expression is true."""
        async with time_limit(_WAIT_S):
            while not await self.run(f"!!({condition})"):  # noqa: ASYNC110  (the browser sets no event here)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def browsing(chromium: str) -> AsyncIterator[Page]:
    """Start the browser with a profile of its own and yield a tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with (
                aiohttp.ClientSession() as session,
                session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as reply,
                session.ws_connect((await reply.json())["webSocketDebuggerUrl"], max_msg_size=0) as socket,
            ):
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                yield page
        finally:
            process.kill()
            await process.wait()


async def _port(path: Path) -> str:
    def read() -> str:
        return path.read_text() if path.exists() else ""

    async with time_limit(_START_S):
        while "\n" not in (text := read()):  # noqa: ASYNC110  (as above)
            await asyncio.sleep(0.05)
    return text.splitlines()[0]
