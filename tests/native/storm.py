"""Clients that open, ask, close and reset all the time, so that descriptors and slots are used again at once.

Each asks for serial numbers of its own choice and compares every response with the one that is known: a
reply on another client's connection, in another order, cut or twice, is seen.
"""

from __future__ import annotations

import asyncio
import base64
import random
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING

from tests.responder.raw_http import get, post

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENDINGS = ("read all", "read all", "half-close", "cut", "read some", "reset", "reset while sending")
WITHIN_S = 120


def shapes(der: bytes) -> tuple[list[bytes], list[bytes]]:
    """A question in its fast shapes and in those that aiohttp answers; each keeps the connection."""
    path = "/" + base64.b64encode(der).decode()
    chunked = get("/", "Transfer-Encoding: chunked", method="POST") + b"%x\r\n%b\r\n0\r\n\r\n" % (
        len(der),
        der,
    )
    return [get(path), post(der)], [get(path, "If-Unmodified-Since: x"), post(der, "If-Match: *"), chunked]


def count_replies(said: bytes, bodies: Sequence[bytes]) -> int:
    """Count whole responses with these bodies, in this order; AssertionError when anything else is there."""
    at = 0
    for number, body in enumerate(bodies):
        head = said.find(b"\r\n\r\n", at)
        if head < 0:
            return number
        assert said.startswith(b"HTTP/1.1 200 OK\r\n", at), said[at : at + 200]
        found = said[head + 4 : head + 4 + len(body)]
        assert body.startswith(found), f"response {number} of {len(bodies)} belongs to another request"
        if found != body:
            return number
        at = head + 4 + len(body)
    assert at == len(said), said[at : at + 200]
    return len(bodies)


class Storm:
    """Clients of one port; `happened` counts what they did, and the responses that were right."""

    def __init__(self, port: int, questions: Mapping[bytes, bytes], seed: int) -> None:
        """`questions`: DER of a request to the DER of its response."""
        self._port = port
        self._kinds = [(shapes(question), response) for question, response in questions.items()]
        self._numbers = random.Random(seed)
        self.happened: Counter[str] = Counter()

    async def blow(self, clients: int, connections: int) -> None:
        """Run so many clients at a time until each has opened so many connections."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client(random.Random(self._numbers.random()), connections))

    async def _client(self, numbers: random.Random, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            with socket.socket() as client:
                client.setblocking(False)  # noqa: FBT003  (positional only)
                await loop.sock_connect(client, ("127.0.0.1", self._port))
                async with asyncio.timeout(WITHIN_S):
                    await self._use(client, numbers)
                if numbers.random() < 0.5:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.happened["connections"] += 1

    async def _use(self, client: socket.socket, numbers: random.Random) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(numbers.choice((1, 1, 1, 3))):
            slow = numbers.choice((0, 0, 0.1, 0.5))
            asked = numbers.choices(self._kinds, k=numbers.choice((1, 1, 2, 5, 20, 60)))
            bodies = [body for _, body in asked]
            data = b"".join(numbers.choice(kind[numbers.random() < slow]) for kind, _ in asked)
            ending = numbers.choice(ENDINGS)
            self.happened[ending] += 1
            if ending == "cut":
                data = data[: numbers.randrange(len(data))]
            middle = numbers.randrange(len(data) + 1)
            complete = ending in {"read all", "half-close"}
            said = b""
            try:
                await loop.sock_sendall(client, data[:middle])
                if numbers.random() < 0.3:
                    await asyncio.sleep(0)
                if ending != "reset while sending":
                    await loop.sock_sendall(client, data[middle:])
                if ending in {"half-close", "cut"}:
                    client.shutdown(socket.SHUT_WR)
                if not ending.startswith("reset"):
                    size = 1 if ending == "read some" else 1 << 30
                    said = await self._read(client, bodies, size, ended=ending in {"half-close", "cut"})
            except ConnectionError:
                assert not complete, "a client that reads everything was reset"
            right = count_replies(said, bodies)
            assert not complete or right == len(bodies), f"{right} of {len(bodies)} responses, then the end"
            self.happened["responses"] += right
            if ending != "read all":
                return

    async def _read(self, client: socket.socket, bodies: Sequence[bytes], size: int, *, ended: bool) -> bytes:
        """Read until the stream's end, or at least `size` bytes, or all responses."""
        loop, said = asyncio.get_running_loop(), bytearray()
        while len(said) < size:
            part = await loop.sock_recv(client, 1 << 16)
            said += part
            if not part or (
                not ended and said.endswith(bodies[-1]) and said.count(b"HTTP/1.1 200") >= len(bodies)
            ):
                break
        return bytes(said)
