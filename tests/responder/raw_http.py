"""HTTP over a raw socket: what tests send and see is exactly what is on the wire."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True)
class RawReply:
    """One response; `fields` in the order they came, names cased as they came."""

    status_line: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split(" ")[1])

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.fields]

    def __getitem__(self, name: str) -> str:
        values = [value for key, value in self.fields if key == name]
        assert len(values) == 1, f"{name}: {values}"
        return values[0]

    def __contains__(self, name: str) -> bool:
        return name in self.names


class Peer:
    """A client on one connection; tests close what is in `opened` when they are done."""

    opened: ClassVar[list[Peer]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Peer:
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        cls.opened.append(peer)
        return peer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, *, head: bool = False) -> RawReply:
        """Read one response, without a body when it answers HEAD."""
        async with asyncio.timeout(120):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            fields = []
            for line in lines[1:]:
                name, colon, value = line.partition(": ")
                assert colon, line
                fields.append((name, value))
            sizes = [int(value) for name, value in fields if name == "Content-Length"]
            assert len(sizes) <= 1
            empty = head or " 304 " in lines[0] or " 100 " in lines[0]
            body = b"" if empty else await self.reader.readexactly(sizes[0])
            return RawReply(lines[0], tuple(fields), body)

    async def ask(self, data: bytes) -> RawReply:
        """Send a whole request and read its response."""
        await self.send(data)
        return await self.read(head=data.startswith(b"HEAD "))

    async def ended(self) -> bool:
        """Tell whether the server closes the connection without saying anything more."""
        async with asyncio.timeout(120):
            return await self.reader.read(1) == b""

    async def still_open(self) -> bool:
        try:
            async with asyncio.timeout(0.1):
                return await self.reader.read(1) != b""
        except TimeoutError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def get(path: str | bytes, *fields: str, version: str = "1.1", method: str = "GET") -> bytes:
    """Return the bytes of a request without a body; Host is there under HTTP/1.1."""
    target = path.encode("latin-1") if isinstance(path, str) else path
    lines = [*(["Host: ocsp.example"] if version == "1.1" else []), *fields]
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return method.encode() + b" " + target + f" HTTP/{version}\r\n".encode() + head + b"\r\n"


def post(body: bytes, *fields: str, path: str = "/", version: str = "1.1") -> bytes:
    """Return the bytes of a POST with Content-Length."""
    return get(path, *fields, f"Content-Length: {len(body)}", version=version, method="POST") + body
