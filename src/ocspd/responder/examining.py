"""The supervisor's side of the examiner: requests with a time limit, a new process when one has died."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ocspd.errors import IndexFileError
from ocspd.logs import logger
from ocspd.recovery import Recovery
from ocspd.responder.control import Channel
from ocspd.responder.examiner import IssuerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest

_REQUEST_S = 120
"""How long an examination may take, in seconds during which this process ran: a base has large tables."""


_RESTART_S = (0.1, 5.0)
"""Pauses before an examiner that died is restarted: the first, and the longest after repeated deaths."""


class ExaminerUnavailableError(IndexFileError):
    """The index could not be examined because this machine is short of a resource."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The contents of a checked generation."""

    entries: int
    """Responses; one that is in several segments counts several times."""
    segments: int


@dataclass(slots=True)
class Examining:
    """Starts `command` (the descriptor of its channel is appended) at the first request."""

    command: Sequence[str]
    _process: asyncio.subprocess.Process | None = None
    _channel: Channel | None = None
    _receiving: asyncio.Task[None] | None = None
    _pending: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=itertools.count)
    _recovery: Recovery = field(default_factory=lambda: Recovery(retry_s=_RESTART_S))
    _not_before: float = 0.0
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check(self, directory: IndexDirectory, manifest: Manifest) -> Examined:
        """Open and check the new segments of a generation; IndexFileError names what cannot be used."""
        found = await self._request("check", directory, manifest)
        return Examined(found["entries"], found["segments"])

    async def survey(self, directory: IndexDirectory, manifest: Manifest) -> tuple[IssuerState, ...]:
        """Describe the responses of a generation that was checked; IndexFileError when that is impossible."""
        found = await self._request("survey", directory, manifest)
        return tuple(
            IssuerState(**(issuer | {"expiries": tuple((at, count) for at, count in issuer["expiries"])}))
            for issuer in found["issuers"]
        )

    async def close(self) -> None:
        """End the process. Idempotent."""
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)
            self._receiving = None
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _request(self, what: str, directory: IndexDirectory, manifest: Manifest) -> dict[str, Any]:
        name = str(directory.path)
        async with self._starting:
            if self._channel is None:
                if asyncio.get_running_loop().time() < self._not_before:
                    raise ExaminerUnavailableError(self._recovery.trouble)
                await self._start(name)
        request_id = next(self._ids)
        future = self._pending[request_id] = asyncio.get_running_loop().create_future()
        try:
            if self._channel is not None:
                text = manifest.to_bytes().decode()
                self._channel.send(what, id=request_id, directory=name, manifest=text)
            for _ in range(_REQUEST_S):  # looks, not a clock: see WorkerPool._watch
                await asyncio.wait([future], timeout=1.0)
                if future.done():
                    break
            else:
                if self._process is not None:
                    self._process.kill()
                raise ExaminerUnavailableError(
                    f"{name}: the index could not be checked within {_REQUEST_S} s"
                )
            message: dict[str, Any] = future.result()
        finally:
            self._pending.pop(request_id, None)
        if message["what"] == "refused":
            kind = ExaminerUnavailableError if message["exhausted"] else IndexFileError
            raise kind(message["why"])
        return message

    async def _start(self, name: str) -> None:
        try:
            ours, theirs = socket.socketpair()
            with theirs, contextlib.ExitStack() as undo:
                undo.callback(ours.close)
                process = await asyncio.create_subprocess_exec(
                    *self.command,
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
                undo.callback(process.kill)
                channel = await Channel.over(ours)
                undo.pop_all()
        except OSError as err:
            raise ExaminerUnavailableError(
                f"{name}: the process that checks the index cannot be started: {err.strerror or err}"
            ) from err
        self._process, self._channel = process, channel
        self._receiving = asyncio.create_task(self._receive(process, channel, name))

    async def _receive(self, process: asyncio.subprocess.Process, channel: Channel, name: str) -> None:
        """Hand every result to its waiter; when the process ends, report why."""
        try:
            while (message := await channel.receive()) is not None:
                self._recovery.works()
                future = self._pending.get(message["id"])
                if future is not None and not future.done():
                    future.set_result(message)
            code = await process.wait()
        finally:
            channel.close()
            self._channel = None
        ending = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        exhausted = code != -signal.SIGBUS
        if not exhausted:
            ending += " (SIGBUS): a file of the index was truncated while it was mapped, or its disk failed"
        why = f"{name}: the process that checks the index was {ending}"
        self._recovery.failed(why)
        self._not_before = asyncio.get_running_loop().time() + self._recovery.delay_s
        logger.error("%s", why)
        for future in self._pending.values():
            if not future.done():
                future.set_result({"what": "refused", "why": why, "exhausted": exhausted})
