"""How connections end: deadlines that only answers move, last answers that arrive, clients that vanish."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import socket
import struct
from itertools import chain

import pytest

from tests.native.pair import Service, native
from tests.native.wire import Wire, settle
from tests.native.world import GOOD, REVOKED, authorities, stored
from tests.responder.raw_http import get, post

CA = authorities()[0]
DER = CA.request(GOOD)
GET = get("/" + base64.b64encode(DER).decode())
ODD = get("/" + base64.b64encode(DER).decode(), "If-Unmodified-Since: x")  # answered by aiohttp
ANSWER = stored()[1].der
TOO_LONG = 12_000_000
REFUSED = {
    "a length": get("/", f"Content-Length: {TOO_LONG}", method="POST"),
    "a length, expecting": get("/", f"Content-Length: {TOO_LONG}", "Expect: 100-continue", method="POST"),
    "chunks": get("/", "Transfer-Encoding: chunked", method="POST") + b"b71b00\r\n",
    "a head": b"GET /" + b"A" * 9_000,
    "no HTTP": b"\x16\x03\x01",
}


def connect(service: Service, **options: bool) -> Wire:
    return Wire(service.connections, **options)


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r", b"\r\n\r\n\r\n"])
@pytest.mark.parametrize("before", [b"", GET, ODD])
async def test_R6_empty_lines_for_ever_are_closed_by_the_request_deadline(line: bytes, before: bytes) -> None:
    service = Service()
    client = connect(service)
    client.receive(before)
    await settle(client)
    for _ in range(10 + 3):
        client.receive(line)
        service.tick()
    await settle(client)
    assert client.is_closing()
    assert service.counts()["timeout_header"] == 1


@pytest.mark.parametrize("data", [GET, post(DER), ODD, b"\r\n\r\n" + GET])
async def test_R6_an_octet_a_second_is_closed_by_the_request_deadline(data: bytes) -> None:
    service = Service()
    client = connect(service)
    for octet in data[:14]:
        client.receive(bytes((octet,)))
        service.tick()
    assert client.is_closing()
    assert service.counts()["timeout_header"] == 1


async def test_the_line_end_some_clients_send_behind_a_body_does_not_move_the_idle_deadline() -> None:
    service = Service()
    client = connect(service)
    client.receive(post(DER))
    service.tick(40)
    client.receive(b"\r\n")
    service.tick(35)
    assert not client.is_closing()
    service.tick()
    assert client.is_closing()
    assert service.counts()["timeout_idle"] == 1


@pytest.mark.parametrize("lines", [b"", b"\r\n", b"\r\n" * 20])
async def test_a_request_after_a_long_pause_has_the_whole_time_of_a_request(lines: bytes) -> None:
    service = Service()
    client = connect(service)
    client.receive(GET)
    service.tick(70)
    client.receive(lines + GET[:20])
    service.tick(10)
    client.receive(GET[20:])
    assert not client.is_closing()
    assert client.written.count(ANSWER) == 2


async def test_only_reads_that_answered_a_request_count_into_the_latency() -> None:
    def measured(service: Service) -> int:
        return sum(count for name, count in service.counts().items() if name.startswith("latency_bucket"))

    idle = Service()
    client = connect(idle)
    for _ in range(64):
        client.receive(b"\r\n\r\n")
    assert measured(idle) == 0
    busy = Service()
    client = connect(busy)
    for _ in range(64):
        client.receive(b"\r\n" + GET)
    assert measured(busy) == 64 // 16


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_client_may_go_on_sending_for_a_while(name: str) -> None:
    service = Service()
    for ending in ("the client", "time", "octets"):
        client = connect(service)
        client.receive(REFUSED[name])
        await settle(client)
        client.receive(bytes(20_000))
        await settle(client)
        assert bytes(client.written).split(b" ")[1] in {b"413", b"400"}, name
        assert b"Connection: close" in client.written or client.written.startswith(b"HTTP/1.0")
        assert client.says_no_more()
        said = bytes(client.written)
        for _ in range(100):
            client.receive(bytes(100_000))
        assert client.is_reading()
        assert not client.is_closing()
        if ending == "the client":
            client.end()
        elif ending == "time":
            service.tick(5)
            assert not client.is_closing()
            service.tick()
        else:
            for _ in range(68):
                assert not client.is_closing()
                client.receive(bytes(100_000))
        assert client.is_closing()
        await settle(client)
        assert bytes(client.written) == said
        assert service.connections.current == 0


async def read_while_sending(head: bytes) -> bytes:
    """Send all of a request before reading a byte, as simple clients do."""
    service = Service()
    loop = asyncio.get_running_loop()
    async with native(service) as port:
        with socket.socket() as client:
            client.setblocking(False)  # noqa: FBT003  (positional only)
            await loop.sock_connect(client, ("127.0.0.1", port))
            said = b""
            async with asyncio.timeout(120):
                for data in chain([head], [bytes(100_000)] * (TOO_LONG // 100_000)):
                    await loop.sock_sendall(client, data)
                client.shutdown(socket.SHUT_WR)
                while more := await loop.sock_recv(client, 65_536):
                    said += more
                while service.connections.current:  # noqa: ASYNC110
                    await asyncio.sleep(0)
    return said


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_client_reads_the_refusal_after_all_it_had_to_send(
    runner: asyncio.Runner, name: str
) -> None:
    said = runner.run(read_while_sending(REFUSED[name]))
    assert said.split(b" ")[1] in {b"413", b"400"}


MIXED = {
    "two and OPTIONS": GET * 2 + get("*", method="OPTIONS"),
    "fast and slow": GET + ODD + GET * 2 + post(CA.request(REVOKED)) + ODD + post(DER, "If-Match: *") + GET,
    "a body to come": GET + post(DER, "Expect: 100-continue") + get("/", method="PUT") + GET,
    "chunks": GET
    + post(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(DER), DER)
    + GET,
    "the end in doubt": GET * 2
    + b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "more than is read": GET * 400 + ODD + GET * 400,
}


async def reset_everywhere(data: bytes) -> Service:
    """Reset connections after every part of a pipeline, before and after the loop has seen it."""
    service = Service()
    step = max(1, len(data) // 60)
    async with native(service) as port:
        for end in (*range(1, len(data), step), len(data)):
            for turns in (0, 1, 2, 4):
                client = socket.create_connection(("127.0.0.1", port))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.setblocking(False)  # noqa: FBT003  (positional only)
                with contextlib.suppress(BlockingIOError):
                    client.send(data[:end])
                for _ in range(turns):
                    await asyncio.sleep(0)
                client.close()
                await asyncio.sleep(0)
        async with asyncio.timeout(120):
            while service.connections.current or service.server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        async with asyncio.timeout(120):
            assert (await reader.readuntil(ANSWER)).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
    return service


@pytest.mark.parametrize("name", MIXED)
def test_R10_a_reset_at_any_point_of_a_mixed_pipeline_is_no_error_of_ours(
    runner: asyncio.Runner, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        service = runner.run(reset_everywhere(MIXED[name]))
    assert caplog.records == []
    assert not [count for count in service.counts() if "internal_error" in count]
