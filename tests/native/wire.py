"""A client of the native connections over a socket pair: every turn is taken by hand, so no test waits."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd._fastpath import Connections

_QUIET_ROUNDS = 12
"""Turns of the loop without a byte from the server after which it has nothing more to say."""

_READS = 8
"""Reads after which a buffer of the kernel, which counts as a whole, has been taken."""


class Wire:
    """One client. What the server says lands in `written`; with `takes` False it stays in the socket."""

    def __init__(self, connections: Connections, *, takes: bool = True, room: int = 0) -> None:
        """`room` bounds what the kernel keeps for a client that does not read, in bytes."""
        self._connections = connections
        self._client, server = socket.socketpair()
        self._client.setblocking(False)  # noqa: FBT003  (positional only)
        if room:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        self.takes = takes
        self.unsent = bytearray()
        self._written = bytearray()
        self._ended = self._gone = False
        connections.adopt(server.detach())
        self.turn()

    def __del__(self) -> None:
        self._client.close()

    def turn(self) -> None:
        """Give the server a turn, and both sides what they can take."""
        self._push()
        self._connections.turn()
        if self.takes:
            self.take(1 << 30)

    def _push(self) -> None:
        while self.unsent:
            try:
                sent = self._client.send(self.unsent[:65_536])
            except BlockingIOError:
                return
            except OSError:  # the server has closed: as with a reset, the rest is lost
                self.unsent.clear()
                return
            del self.unsent[:sent]

    def take(self, count: int) -> None:
        """Read up to `count` bytes of what the server says."""
        while count > 0 and not self._ended:
            try:
                data = self._client.recv(min(count, 1 << 16))
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self._written += data
            count -= len(data)
            self._ended = not data

    @property
    def written(self) -> bytearray:
        """All that was read so far."""
        if self.takes:
            self.take(1 << 30)
        return self._written

    def receive(self, data: bytes) -> None:
        """Send bytes, and let the server have its turns until it has taken them or stops reading."""
        self.unsent += data
        self._run()

    @property
    def waiting(self) -> int:
        """Bytes the client could read now."""
        return int(struct.unpack("i", fcntl.ioctl(self._client, termios.FIONREAD, b"\0\0\0\0"))[0])

    def is_reading(self) -> bool:
        """Tell whether the server has taken all that was sent."""
        self._run()
        return not self.unsent and self._under_way == 0

    def _run(self) -> None:
        """Give the server turns until nothing moves any more: it reads less at once than the kernel keeps."""
        quiet, before = 0, None
        while quiet < _READS:
            self.turn()
            now = len(self.unsent), len(self._written), self._under_way
            quiet = quiet + 1 if now == before else 0
            before = now
            if not self.unsent and self._under_way == 0:
                break
        self.turn()

    @property
    def _under_way(self) -> int:
        """Bytes that the server has not read yet."""
        return int(struct.unpack("i", fcntl.ioctl(self._client, termios.TIOCOUTQ, b"\0\0\0\0"))[0])

    def says_no_more(self) -> bool:
        """Tell whether the client, having read all, sees the end of the server's stream."""
        if self.takes:
            self.take(1 << 30)
        return self._ended

    def is_closing(self) -> bool:
        """Tell whether the server has closed the connection, not only its own side of it."""
        if self._gone:
            return True
        self.turn()
        if not self.says_no_more():
            return False
        try:
            self._client.send(b"")
            return bool(self._client.send(b"\n") != 1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._push()
        self._client.shutdown(socket.SHUT_WR)
        self.turn()

    def break_off(self) -> None:
        """Close the client's socket, whatever is under way."""
        self.takes = False
        self._gone = True
        self._client.close()
        self._connections.turn()


async def settle(wire: Wire) -> None:
    """Let the loop turn until the server has nothing more to say."""
    quiet, before = 0, -1
    while quiet < _QUIET_ROUNDS:
        await asyncio.sleep(0)
        if wire._gone:
            wire._connections.turn()
        else:
            wire.turn()
        now = len(wire._written)
        quiet = quiet + 1 if now == before else 0
        before = now


async def converse(
    connections: Connections, segments: Sequence[bytes], *, room: int = 0
) -> tuple[bytes, bool]:
    """Send segments, each when the server reads again; what it said, and whether it ended the connection."""
    wire = Wire(connections, room=room)
    for segment in segments:
        wire.receive(segment)
        while wire.unsent or not wire.is_reading():
            before = len(wire.written), len(wire.unsent)
            await settle(wire)
            if before == (len(wire.written), len(wire.unsent)):
                break
        if wire.says_no_more():
            break
    await settle(wire)
    said, closed = bytes(wire.written), wire.says_no_more()
    wire.break_off()
    await settle(wire)
    return said, closed
