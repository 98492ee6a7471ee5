"""A transport in memory with asyncio's semantics, and a client that drives a protocol over it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_QUIET_ROUNDS = 12
"""Turns of the loop without an octet written after which a server has nothing more to say."""


class MemoryTransport(asyncio.Transport):
    """What a protocol writes lands in `written`; with `takes` False it piles up, as with a client that
    does not read, and the protocol is paused above `high` octets."""

    def __init__(self, protocol: Any, *, takes: bool = True, high: int = 65_536) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.pending = bytearray()
        self.reading = True
        self.closing = False
        self.lost = False
        self.ended = False
        self.takes = takes
        self._high = high
        self._paused = False
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        assert not self.lost, "written to a dead transport"
        assert not self.ended, "written after the end"
        self.pending += data
        if self.takes:
            self.take(len(self.pending))
        elif len(self.pending) > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def writelines(self, chunks: Iterable[Any]) -> None:
        self.write(b"".join(chunks))

    def take(self, count: int) -> None:
        """Let the client read."""
        self.written += self.pending[:count]
        del self.pending[:count]
        if self._paused and len(self.pending) <= self._high // 4:
            self._paused = False
            if not self.lost:
                self.protocol.resume_writing()
        if self.closing and not self.pending:
            self._lose(None)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self.lost, "uvloop raises here"
        self.ended = True

    def close(self) -> None:
        self.reading = False
        if not self.closing:
            self.closing = True
            if not self.pending:
                self._lose(None)

    def abort(self) -> None:
        self.reading = False
        self.closing = True
        self.pending.clear()
        self._lose(None)

    def _lose(self, exc: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, exc)

    def break_off(self) -> None:
        """The client resets the connection."""
        self.reading = False
        self.closing = True
        self._lose(ConnectionResetError("reset by peer"))

    def is_closing(self) -> bool:
        return self.closing

    def says_no_more(self) -> bool:
        """Tell whether the client sees the end of the server's stream, once it has read all."""
        return self.closing or self.ended

    def is_lost(self) -> bool:
        return self.lost

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        assert not self.lost, "uvloop raises here"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.lost, "uvloop raises here"
        if not self.closing:
            self.reading = True

    def get_write_buffer_size(self) -> int:
        return len(self.pending)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 4711), "sockname": ("192.0.2.2", 80)}.get(name, default)

    def receive(self, data: bytes) -> None:
        """Deliver octets, as the loop does when the protocol reads."""
        if self.reading and not self.closing:
            self.protocol.data_received(data)

    def end(self) -> None:
        """Deliver the end of the client's stream."""
        if not self.closing and not self.protocol.eof_received():
            self.close()


async def settle(transport: MemoryTransport) -> None:
    """Let the loop turn until the server has nothing more to say."""
    quiet, before = 0, -1
    while quiet < _QUIET_ROUNDS:
        await asyncio.sleep(0)
        now = len(transport.written) + len(transport.pending)
        quiet = quiet + 1 if now == before else 0
        before = now


async def converse(protocol: object, segments: Sequence[bytes], *, high: int = 65_536) -> tuple[bytes, bool]:
    """Send segments, each when the server reads again; what it said, and whether it closed."""
    transport = MemoryTransport(cast("Any", protocol), high=high)
    for segment in segments:
        if not transport.reading:
            await settle(transport)
        transport.receive(segment)
        if transport.says_no_more():
            break
    await settle(transport)
    said, closed = bytes(transport.written), transport.says_no_more()
    transport.break_off()
    await settle(transport)
    return said, closed


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Split data at these places."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]
