from __future__ import annotations

import asyncio
import base64
import random
import re
import socket
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.native.pair import Service, native, serving
from tests.native.strategies import clean_requests, places
from tests.native.transports import cut
from tests.native.world import GOOD, REVOKED, authorities, stored
from tests.responder.raw_http import get, post

DER = authorities()[0].request(GOOD)
REVOKED_DER = authorities()[0].request(REVOKED)
GET = get("/" + base64.b64encode(DER).decode())
ODD = get("/" + base64.b64encode(DER).decode(), "If-Unmodified-Since: x")
ANSWER = stored()[1].der


async def talk(port: int, segments: list[bytes], expected: int) -> tuple[bytes, bool]:
    """Send segments, a turn of the loop between them; the answer, and whether the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        for segment in segments:
            writer.write(segment)
            await asyncio.sleep(0)
        async with asyncio.timeout(120):
            while len(said) < expected:
                more = await reader.read(65_536)
                if not more:
                    return said, True
                said += more
    except ConnectionError:
        return said, True
    else:
        return said, False
    finally:
        writer.transport.abort()


async def ask_one_by_one(port: int, requests: list[bytes]) -> list[bytes]:
    answers = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(120):
            for request in requests:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.split(b"\r\n")
                length = next((line for line in lines if line.startswith(b"Content-Length: ")), b": 0")
                head_only = request.startswith(b"HEAD ") and not head.startswith(b"HTTP/1.0")
                empty = head_only or b" 304 " in head[:13]
                answers.append(head if empty else head + await reader.readexactly(int(length.split()[-1])))
                if head.startswith(b"HTTP/1.0"):  # its answer to what it could not read; it closes
                    break
    finally:
        writer.transport.abort()
    return answers


async def compare(requests: list[bytes], cuts: list[int]) -> None:
    service, reference = Service(), Service()
    data = b"".join(requests)
    async with native(service) as ours, serving(reference.server) as theirs:
        wanted = b"".join(await ask_one_by_one(theirs, requests))
        assert (await talk(ours, cut(data, cuts), len(wanted)))[0] == wanted
    assert service.outcomes() == reference.outcomes()


def is_kept_alive(data: bytes) -> bool:
    return b" HTTP/1.1\r\n" in data and b" * " not in data


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(clean_requests().filter(is_kept_alive), min_size=1, max_size=5),
    cuts=places,
)
def test_on_sockets_too_the_native_path_says_what_aiohttp_says(
    runner: asyncio.Runner, requests: list[bytes], cuts: list[int]
) -> None:
    runner.run(compare(requests, cuts))


async def flood(*, reads: bool) -> None:
    service = Service()
    async with native(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        sent = got = 0
        numbers = random.Random(1)
        if reads:
            while sent < 3_000:
                batch = numbers.choice([GET, GET, ODD, post(DER)]) * numbers.randrange(1, 40)
                writer.write(batch)
                sent += batch.count(b" HTTP/1.1\r\n")
                await asyncio.sleep(0)
            said = b""
            async with asyncio.timeout(120):
                while got < sent:
                    said += await reader.read(1 << 16)
                    got += said.count(ANSWER)
                    said = said[said.rfind(ANSWER) + len(ANSWER) :] if ANSWER in said else said
            assert got == sent
            assert service.connections.current == 1
        else:
            for _ in range(60):  # the reader's buffer, the kernel's and the server's fill up
                writer.write(GET * 2_000)
                await asyncio.sleep(0)
            while service.counts().get("requests_get_good", 0) == 0:  # noqa: ASYNC110
                await asyncio.sleep(0)
            before = -1
            while before != (now := service.counts()["requests_get_good"]):
                before = now
                for _ in range(50):
                    await asyncio.sleep(0)
            assert before < 60 * 2_000
            other_reader, other = await asyncio.open_connection("127.0.0.1", port)
            other.write(GET)
            await other_reader.readuntil(ANSWER)
            other.transport.abort()
            service.tick(32)
            async with asyncio.timeout(120):
                while service.connections.current:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert service.counts()["timeout_write"] == 1
        writer.transport.abort()


@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_is_answered_as_fast_as_it_is_read(runner: asyncio.Runner, *, reads: bool) -> None:
    runner.run(flood(reads=reads))


async def dribble() -> None:
    """A client whose buffers are small and who reads little at a time, so that few responses fit at once."""
    service, reference = Service(), Service()
    different = [GET, post(REVOKED_DER), ODD, GET * 30, post(REVOKED_DER) * 7, ODD + GET, get("/AAAA")]
    random.Random(3).shuffle(different)
    async with native(service, send_buffer=4096) as port, serving(reference.server) as theirs:
        wanted = b"".join([b"".join(await ask_one_by_one(theirs, split(part))) for part in different]) * 20
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.settimeout(0)
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(client, b"".join(different) * 20))
            said = b""
            async with asyncio.timeout(120):
                while len(said) < len(wanted):
                    more = await loop.sock_recv(client, 1_500)
                    assert more
                    said += more
                await sending
    assert said == wanted
    assert service.outcomes() == {name: 20 * count for name, count in reference.outcomes().items()}


def split(requests: bytes) -> list[bytes]:
    """Take pipelined GETs, or POSTs of one size, apart."""
    starts = [found.start() for found in re.finditer(rb"(?:GET|POST) /", requests)]
    return [requests[a:b] for a, b in pairwise([*starts, len(requests)])]


def test_what_the_socket_does_not_take_at_once_follows_in_order(runner: asyncio.Runner) -> None:
    runner.run(dribble())


async def vanish() -> None:
    service = Service()
    async with native(service) as port:
        for data in (
            b"",
            GET[:30],
            GET,
            ODD,
            ODD[:50],
            ODD * 20 + GET * 50,
            b"\x00",
            post(DER, "If-Match: *")[:-9],
        ):
            for turns in range(4):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                for _ in range(turns):
                    await asyncio.sleep(0)
                writer.transport.abort()
        async with asyncio.timeout(120):
            while service.connections.current or service.server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0)
        for data in (GET, ODD, ODD + GET, GET + ODD):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(120):
                assert (await reader.read()).count(ANSWER) == data.count(b" HTTP/1.1")
            writer.transport.abort()
        async with asyncio.timeout(120):
            while service.server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0)


def test_clients_may_vanish_or_half_close_at_any_time(runner: asyncio.Runner) -> None:
    runner.run(vanish())


async def limits() -> None:
    service = Service(max_connections=2)
    async with native(service) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        async with asyncio.timeout(120):
            opened[0][1].write(GET[:40])
            opened[1][1].write(ODD)
            await opened[1][0].readuntil(ANSWER)
            with suppress(ConnectionError):
                assert await opened[2][0].read() == b""
            service.tick(11)
            assert await opened[0][0].read() == b""
            service.connections.drain()
            assert await opened[1][0].read() == b""
            while service.connections.current:  # noqa: ASYNC110
                await asyncio.sleep(0)
        for _, writer in opened:
            writer.transport.abort()


def test_limits_hold_on_sockets(runner: asyncio.Runner) -> None:
    runner.run(limits())
