"""The examiner: the process that checks index files for the supervisor.

If a mapped file is truncated, the process that touches its pages is killed (SIGBUS). The supervisor, with
whose end everything ends, therefore never maps one: it asks this process, which can be replaced.
`responder/control.py` defines their messages, `responder/examining.py` is the supervisor's side.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ocspd.errors import IndexFileError
from ocspd.index.directory import VERIFIED_BYTES, IndexDirectory
from ocspd.index.exhaustion import is_exhaustion
from ocspd.index.kept import KeptSegments
from ocspd.index.manifest import parse_manifest
from ocspd.responder.control import Channel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from ocspd._index import Index
    from ocspd.index.manifest import SegmentRef

    _Work = Callable[[int, str, str], Coroutine[object, object, None]]
    """Answer a request by its number, the directory and the text of the manifest."""

_STEPS = 200
"""The number of steps into which the expiry of an issuer's responses is divided: shares are exact to half a
percent."""


@dataclass(frozen=True, slots=True)
class IssuerState:
    """The responses served for one issuer under one CertID hash; times in seconds since the epoch."""

    key_hash: str
    hash_name: str
    entries: int
    next_update_min: int
    next_update_max: int
    this_update_min: int
    expiries: tuple[tuple[int, int], ...]
    """(moment, responses): how many expire by that moment and after the previous one; in order."""

    def expired(self, now_s: float) -> float:
        """Return the share of the responses that have expired, 0 to 1."""
        return sum(count for moment, count in self.expiries if moment <= now_s) / max(self.entries, 1)


class Examiner:
    """Carries out the supervisor's requests; a survey never delays a check."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._segments = KeptSegments()
        self._checking = asyncio.Lock()

    async def run(self) -> None:
        """Run until the supervisor ends."""
        tasks = set[asyncio.Task[None]]()
        while (message := await self._channel.receive()) is not None:
            match message["what"]:
                case "check":
                    work = self._check
                case _:
                    work = self._freshness
            task = asyncio.create_task(
                self._carry_out(work, message["id"], message["directory"], message["manifest"])
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        self._channel.close()

    async def _carry_out(self, work: _Work, request_id: int, path: str, manifest: str) -> None:
        try:
            await work(request_id, path, manifest)
        except Exception as err:  # noqa: BLE001  (whatever it is, the supervisor must not wait for ever)
            why = str(err) if isinstance(err, IndexFileError) else f"the index cannot be checked: {err!r}"
            self._channel.send("refused", id=request_id, why=why, exhausted=is_exhaustion(err))

    async def _check(self, request_id: int, path: str, text: str) -> None:
        manifest = parse_manifest(text.encode(), path)
        directory = IndexDirectory(path)

        def verify(ref: SegmentRef) -> None:
            if ref.size_bytes <= VERIFIED_BYTES:
                directory.verify(ref)

        async with self._checking:
            index = await asyncio.to_thread(self._segments.open, directory, manifest, verify)
            self._channel.send("checked", id=request_id, entries=index.entries, segments=len(index.segments))
            del index
            await asyncio.to_thread(self._segments.settle, manifest)

    async def _freshness(self, request_id: int, path: str, text: str) -> None:
        manifest = parse_manifest(text.encode(), path)
        async with self._checking:
            index = await asyncio.to_thread(self._segments.open, IndexDirectory(path), manifest)
        issuers = await asyncio.to_thread(describe, index)
        self._channel.send("surveyed", id=request_id, issuers=[asdict(issuer) for issuer in issuers])


async def run_examiner(control: socket.socket) -> None:
    """Serve requests on this end of the supervisor's channel until the other end is closed."""
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signal_number, lambda: None)
    await Examiner(await Channel.over(control)).run()


def describe(index: Index) -> tuple[IssuerState, ...]:
    """Count the responses an index serves, by issuer and CertID hash."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (hash_name, _, key_hash), stats in index.live_stats().items():
        found.setdefault((key_hash.hex(), hash_name), []).append(stats)
    return tuple(
        IssuerState(
            key_hash=key_hash,
            hash_name=hash_name,
            entries=sum(row["entries"] for row in rows),
            next_update_min=min(row["next_update_min"] for row in rows),
            next_update_max=max(row["next_update_max"] for row in rows),
            this_update_min=min(row["this_update_min"] for row in rows),
            expiries=_steps([row["expiries"] for row in rows]),
        )
        for (key_hash, hash_name), rows in sorted(found.items())
    )


def _steps(expiries: list[dict[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sum up responses by the time they expire; those that expire close together share a step."""
    counts: dict[int, int] = {}
    for row in expiries:
        for moment, count in row.items():
            counts[moment] = counts.get(moment, 0) + count
    size = sum(counts.values()) / _STEPS
    steps, together = [], 0
    for moment, count in sorted(counts.items()):
        together += count
        if together >= size:
            steps.append((moment, together))
            together = 0
    if together:
        steps.append((max(counts), together))
    return tuple(steps)
