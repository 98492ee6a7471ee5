"""The messages between supervisor and worker: JSON objects, one per line, on a socket pair.

    supervisor to worker                              worker to supervisor
    configure  once, first                            ready       after the first index
    index      use this generation of a directory     index       this generation is in use
    listen     accept on exactly these sockets        trouble     why not, or that descriptors are used up
    drain      finish within a time and exit          alive       once a second, with its connections

    supervisor to examiner (`responder/examiner.py`)  examiner to supervisor
    check      can this generation be used            checked     with its counts of entries and segments
    survey     describe a generation, once checked   surveyed    the state of each issuer's responses
                                                      refused     why not

End of file means that the other side has ended: the worker then drains and exits, so a supervisor that
was killed leaves no orphans behind.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_MAX_LINE = 4 << 20  # a manifest may have a megabyte


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker serves; the same for all of them."""

    path: str = "/"
    """URL path below which requests are answered."""
    loglevel: int = 1
    header_timeout_s: int = 10
    idle_timeout_s: int = 75
    write_timeout_s: int = 30
    max_connections: int = 50_000
    """For one worker."""
    max_age_cap_s: int = 0
    """Upper bound of max-age; 0 means none."""
    backlog: int = 4096
    """Connections the kernel holds before they are accepted."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


class Channel:
    """One end of a control channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Return the channel over one end of a socket pair; the channel owns it from now on."""
        end.setblocking(False)  # noqa: FBT003  (socket's own signature)
        return cls(*await asyncio.open_connection(sock=end, limit=_MAX_LINE))

    def send(self, what: str, **values: Any) -> None:
        """Queue a message. Messages to a peer that has ended are lost; `receive` reports its end."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"what": what, **values}).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None at the end."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):
            return None
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def fileno(self) -> int:
        """Return the descriptor of this end."""
        descriptor: int = self._writer.get_extra_info("socket").fileno()
        return descriptor

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
