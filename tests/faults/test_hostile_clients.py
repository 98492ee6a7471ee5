"""Rows R4, R5, R7 and R10 of the fault list: what clients may do, against the real program."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.native.storm import Storm, count_replies, shapes
from tests.responder.raw_http import get
from tests.responder.responder import CA, Running, answer, publish, responder, until

if TYPE_CHECKING:
    from collections.abc import Iterator

SERIALS = range(1, 41)
ANSWERS = {CA.request(serial): answer(serial, revoked=serial % 3 == 0) for serial in SERIALS}
FAST, SLOW = shapes(CA.request(1))
NEXT = get("/never-answered-as-a-request")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("hostile")
    publish(path / "index", ANSWERS.values())
    with responder(path / "log", "-index", str(path / "index")) as running:
        until(lambda: all(worker["ready"] for worker in running.health()["workers"]))
        yield running


@contextmanager
def unharmed(running: Running) -> Iterator[None]:
    """Nobody died, others are served, nothing is left behind or logged."""
    workers = running.workers()
    descriptors = {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers}
    log = running.log
    yield
    assert running.status(3) == "revoked"
    until(lambda: running.metric("ocspd_connections_open") == 0)
    assert running.workers() == workers
    for pid, count in descriptors.items():
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= count
    assert running.log == log


def connected(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=120)


def talk(running: Running, data: bytes, *, ends: bool = False) -> bytes:
    """Send while reading until the connection ends; what was read."""
    with connected(running) as client:

        def send() -> None:
            with suppress(OSError):
                client.sendall(data)
                if ends:
                    client.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        said = bytearray()
        with suppress(ConnectionError):
            while part := client.recv(1 << 16):
                said += part
        sending.join()
        return bytes(said)


HOSTILE = {
    "length and chunks": get("/", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST")
    + b"0\r\n\r\n",
    "chunks and length": get("/", "Transfer-Encoding: chunked", "Content-Length: 5", method="POST")
    + b"0\r\n\r\n",
    "two lengths": get("/", "Content-Length: 0", "Content-Length: 5", method="POST"),
    "one length twice": get("/", "Content-Length: 5", "Content-Length: 5", method="POST") + b"abcde",
    "a list of lengths": get("/", "Content-Length: 5, 5", method="POST") + b"abcde",
    "a length with a sign": get("/", "Content-Length: +5", method="POST") + b"abcde",
    "chunks of gzip": get("/", "Transfer-Encoding: gzip, chunked", method="POST") + b"0\r\n\r\n",
    "a folded header": get("/", "X: a\r\n b"),
    "1000 headers": get("/", *(f"X{number}: y" for number in range(1_000))),
    "10 MB": get("/", "Content-Length: 10000000", method="POST") + b"a" * 10_000_000,
    "10 MB in chunks": get("/", "Transfer-Encoding: chunked", method="POST")
    + (b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n") * 150,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 20,
    "line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_R4_what_is_ambiguous_or_too_large_gets_one_refusal_and_the_end(running: Running, name: str) -> None:
    with unharmed(running):
        said = talk(running, HOSTILE[name] + FAST[0])
        assert said.count(b"HTTP/1.") == 1
        assert said[9:12] in {b"400", b"413"}


def test_R4_R6_clients_that_are_slow_or_do_not_read_hold_up_nobody_else(running: Running) -> None:
    begun = [FAST[0][:-3], FAST[1][:-3], SLOW[1][:-3], SLOW[2][:-3], b"x", b"\r\n", SLOW[0] * 50]
    with unharmed(running), ExitStack() as stack:
        slow = [stack.enter_context(connected(running)) for _ in range(490)]
        for number, client in enumerate(slow):
            client.sendall(begun[number % len(begun)])
        for client in slow[::10]:
            client.setblocking(False)  # noqa: FBT003  (positional only)
            with suppress(BlockingIOError):
                while True:
                    client.send(FAST[0] * 200)
        for _ in range(50):
            assert (
                count_replies(
                    talk(running, FAST[0] + SLOW[0] + FAST[1], ends=True), [ANSWERS[CA.request(1)]] * 3
                )
                == 3
            )
        for client in slow[::2]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 400, 10_000])
def test_R5_a_pipeline_in_one_write_is_answered_in_order(running: Running, count: int) -> None:
    numbers = random.Random(count)
    asked = numbers.choices([*ANSWERS.items()], k=count)
    for odd in (0, 0 if count > 1_000 else 0.3):
        data = b"".join(numbers.choice(shapes(question)[numbers.random() < odd]) for question, _ in asked)
        with unharmed(running):
            assert count_replies(talk(running, data, ends=True), [body for _, body in asked]) == count


def test_R7_R10_in_a_storm_of_opens_closes_and_resets_every_reply_belongs_to_its_request(
    running: Running,
) -> None:
    with unharmed(running):
        storm = Storm(running.port, ANSWERS, 1)
        asyncio.run(storm.blow(clients=50, connections=40))
        assert storm.happened["connections"] == 2_000
        assert storm.happened["responses"] > 1_000
