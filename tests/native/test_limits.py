from __future__ import annotations

import asyncio
import base64
import socket
from typing import TYPE_CHECKING

import pytest

from ocspd._index import Index, Segment
from ocspd._responder import Responder
from tests.native.pair import Service
from tests.native.wire import Wire, settle
from tests.native.world import ABSENT, GOOD, NOW_S, REVOKED, authorities, segment_path, stored
from tests.responder.raw_http import get, post

if TYPE_CHECKING:
    from collections.abc import Callable

CA = authorities()[0]
DER = CA.request(GOOD)
GET = get("/" + base64.b64encode(DER).decode())
POST = post(DER)
ODD = get("/" + base64.b64encode(DER).decode(), "If-Unmodified-Since: x")  # answered by aiohttp
ANSWER = stored()[1].der


def connect(service: Service, *, takes: bool = True, room: int = 0) -> Wire:
    return Wire(service.connections, takes=takes, room=room)


async def is_served(service: Service) -> bool:
    """Tell whether another client gets its answer."""
    other = connect(service)
    other.receive(GET)
    await settle(other)
    served = ANSWER in other.written and not other.is_closing()
    other.break_off()
    await settle(other)
    return served


@pytest.mark.parametrize(
    "begun", [b"G", GET[:-2], POST[:-1], POST[: len(POST) - len(DER)], b"GET /" + b"a" * 4000]
)
async def test_a_half_request_is_closed_after_the_header_time_out(begun: bytes) -> None:
    service = Service()
    client = connect(service)
    client.receive(begun)
    service.tick(10)
    assert not client.is_closing()
    service.tick()
    assert client.is_closing()
    assert service.counts()["timeout_header"] == 1
    assert await is_served(service)


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"\x01",  # aiohttp's from the first octet
        b"GET / HTTP/1.1\r\nContent-Length: 0000000005\r\n\r\n",
        post(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b""),
        post(DER, "If-Match: *")[:-40],
    ],
)
async def test_an_octet_a_second_does_not_keep_a_connection(start: bytes) -> None:
    service = Service()
    client = connect(service)
    client.receive(start)
    for _ in range(25):
        client.receive(b"a")
        service.tick()
        await settle(client)
    assert client.is_closing()
    assert service.connections.current == 0
    assert await is_served(service)


async def test_a_connection_without_a_request_is_closed_after_the_idle_time_out() -> None:
    service = Service()
    fresh, used = connect(service), connect(service)
    used.receive(GET)
    service.tick(75)
    assert not fresh.is_closing()
    assert not used.is_closing()
    service.tick()
    assert fresh.is_closing()
    assert used.is_closing()
    await settle(used)
    assert service.counts()["timeout_idle"] == 2


async def test_a_busy_pipeline_that_never_ends_at_a_request_is_not_timed_out() -> None:
    service = Service()
    client = connect(service)
    stream = GET * 3
    client.receive(GET[:10])
    for _ in range(30):
        client.receive((stream + stream)[10 : 10 + len(stream)])
        service.tick()
    assert not client.is_closing()
    assert client.written.count(b"HTTP/1.1 200 OK") == 90


async def test_a_client_that_does_not_read_is_paused_and_then_dropped() -> None:
    service = Service()
    client = connect(service, takes=False)
    for _ in range(10_000):
        if not client.is_reading():
            break
        client.receive(GET * 10)
    assert not client.is_reading()
    assert service.connections.buffered_bytes < 16_384 + 2_000 + len(GET) * 10
    service.tick(31)
    assert service.connections.current == 0
    assert service.counts()["timeout_write"] == 1
    assert await is_served(service)


async def test_a_paused_client_that_reads_again_gets_everything() -> None:
    service = Service()
    client = connect(service, takes=False, room=20_000)
    client.receive(GET * 300)
    assert service.connections.buffered_bytes
    while client.waiting:
        client.take(5_000)
        client.turn()
    client.receive(GET)
    client.takes = True
    assert client.written.count(ANSWER) == 301
    assert service.connections.buffered_bytes == 0


@pytest.mark.parametrize("last", [get("/", "Connection: close"), b"GET / HTTP/1.0\r\n\r\n", b"\x00"])
async def test_a_closing_connection_whose_client_does_not_read_is_dropped(last: bytes) -> None:
    service = Service()
    client = connect(service, takes=False, room=4_608)
    client.receive(GET * 40 + last)
    await settle(client)
    assert service.connections.buffered_bytes
    service.tick(30)
    assert service.connections.current == 1
    service.tick()
    assert service.connections.current == 0
    assert service.counts()["timeout_write"] == 1


async def test_an_idle_client_that_did_not_take_its_answer_is_dropped_and_counted_once() -> None:
    service = Service()
    client = connect(service, takes=False, room=4_608)
    client.receive(GET * 40)
    service.tick(75 + 1 + 31)
    assert service.connections.current == 0
    counts = service.counts()
    assert counts["timeout_write"] == 1
    assert "timeout_idle" not in counts


async def test_connections_over_the_cap_are_refused_and_the_others_served() -> None:
    service = Service(max_connections=3)
    clients = [connect(service) for _ in range(5)]
    assert [client.is_closing() for client in clients] == [False] * 3 + [True] * 2
    clients[3].receive(GET)
    assert not clients[3].written
    clients[0].receive(GET)
    assert ANSWER in clients[0].written
    clients[0].break_off()
    await settle(clients[0])
    assert service.connections.current == 2
    assert not connect(service).is_closing()
    counts = service.counts()
    assert (counts["connections_opened"], counts["connections_refused"], counts["connections_closed"]) == (
        4,
        2,
        1,
    )


async def test_draining_ends_idle_connections_at_once_and_the_others_after_their_answer() -> None:
    service = Service()
    idle, half, slow = connect(service), connect(service), connect(service)
    half.receive(GET[:50])
    slow.receive(ODD)
    service.connections.drain()
    assert idle.is_closing()
    assert not half.is_closing()
    half.receive(GET[50:])
    assert half.is_closing()
    assert b"\r\nConnection: close\r\n\r\n" in half.written
    await settle(slow)
    assert slow.is_closing()
    assert b"\r\nConnection: close\r\n\r\n" in slow.written
    late = connect(service)  # accepted by the kernel before the socket was closed
    late.receive(GET)
    assert ANSWER in late.written
    assert late.is_closing()


async def test_draining_ends_a_connection_when_its_client_has_taken_the_reply() -> None:
    service = Service()
    client = connect(service, takes=False, room=4_608)
    client.receive(GET * 17)  # one buffer of replies, more than the socket takes
    assert service.connections.buffered_bytes
    service.connections.drain()
    client.takes = True
    await settle(client)
    assert client.written.count(ANSWER) == 17
    assert client.is_closing()  # at once, not at the end of the time for draining
    assert service.connections.current == 0


@pytest.mark.parametrize("turns", range(12))
async def test_draining_ends_a_connection_wherever_aiohttp_is_with_its_request(turns: int) -> None:
    service = Service()
    client = connect(service)
    client.receive(ODD)
    for _ in range(turns):
        await asyncio.sleep(0)
    service.connections.drain()
    await settle(client)
    assert client.written.count(ANSWER) == 1
    assert client.is_closing()
    assert service.connections.current == 0


@pytest.mark.parametrize("seconds", [0, 1])
async def test_a_listener_keeps_its_owners_wish_about_silent_clients(seconds: int) -> None:
    """A worker that starts while its responder drains would have the kernel hold them back again."""
    service = Service()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)
        service.connections.listen(listener.fileno())
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == seconds
        service.connections.unlisten(listener.fileno())


async def test_a_draining_worker_serves_a_client_that_has_not_spoken_yet() -> None:
    service = Service()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service.connections.listen(listener.fileno())
        service.connections.drain()
        with socket.create_connection(listener.getsockname()) as client:
            service.connections.turn()
            assert service.connections.current == 1
            client.sendall(GET)
            service.connections.turn()
            assert ANSWER in client.recv(65_536)
            assert client.recv(1) == b""
        service.connections.unlisten(listener.fileno())


async def test_a_pipelined_flood_is_answered_in_order_in_bounded_memory() -> None:
    service = Service()
    client = connect(service, takes=False)
    revoked = get("/" + base64.b64encode(CA.request(REVOKED)).decode())
    sent = 0
    for _ in range(2_000):
        if client.is_reading():
            client.receive((GET + revoked) * 50)
            sent += 100
        assert service.connections.buffered_bytes < 70_000
        client.take(20_000)
        client.turn()
    client.takes = True
    client.receive(b"")
    await settle(client)
    statuses = [part[:12] for part in bytes(client.written).split(b"HTTP/1.1")[1:]]
    assert len(statuses) == sent
    assert service.counts()["requests_get_good"] == service.counts()["requests_get_revoked"] == sent // 2


async def test_pipelined_requests_behind_an_odd_one_wait_and_reading_stops() -> None:
    service = Service()
    client = connect(service)
    client.receive(GET + ODD + GET * 3 + ODD + GET)
    client.receive(GET)
    assert not client.is_reading()
    await settle(client)
    assert client.is_reading()
    assert client.written.count(ANSWER) == 8
    assert service.slow() == 2
    client.receive(GET)
    assert service.slow() == 2  # fast again
    assert client.written.count(ANSWER) == 9


async def test_a_half_closed_client_still_gets_all_it_has_asked_for() -> None:
    service = Service()
    client = connect(service)
    client.receive(GET + ODD)
    client.end()
    assert not client.is_closing()
    await settle(client)
    assert client.written.count(ANSWER) == 2
    assert client.is_closing()
    assert service.connections.current == 0


@pytest.mark.parametrize("when", ["while aiohttp works", "after it", "in the middle of a body"])
async def test_a_client_that_goes_away_leaves_nothing_behind(when: str) -> None:
    service = Service()
    client = connect(service)
    client.receive(post(DER, "If-Match: *")[:-40] if when == "in the middle of a body" else ODD)
    if when == "after it":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    client.break_off()
    await settle(client)
    assert service.connections.current == 0
    assert len(service.server.connections) == 0
    assert await is_served(service)


async def test_writing_is_paused_for_aiohttp_too() -> None:
    service = Service()
    client = connect(service, takes=False, room=4_608)
    client.receive(GET * 40 + ODD + GET)
    await settle(client)
    assert service.connections.buffered_bytes
    assert service.slow() == 0  # a request is not begun while the reply before it is not taken
    while client.waiting:
        client.take(1_000)
        await settle(client)
    client.takes = True
    assert client.written.count(ANSWER) == 42
    assert client.is_reading()


HUGE = 200_000


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a huge line", b"GET /" + b"a" * HUGE + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a huge field", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * HUGE + b"\r\n\r\n"),
        ("many fields", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * (HUGE // 6) + b"\r\n"),
        ("no line at all", b"A" * HUGE),
        ("a huge body", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n" + bytes(HUGE)),
        ("a negative length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n" + DER),
        ("CL and TE", post(DER, "Transfer-Encoding: chunked") + GET),
        (
            "TE and CL",
            get("/", "Transfer-Encoding: chunked", "Content-Length: 3", method="POST") + b"0\r\n\r\n" + GET,
        ),
        ("two lengths", post(DER, f"Content-Length: {len(DER) - 5}") + GET),
        ("two equal lengths", post(DER, f"Content-Length: {len(DER)}") + GET),
        ("a list of lengths", get("/", f"Content-Length: {len(DER)}, {len(DER)}", method="POST") + DER + GET),
        ("bare LF", GET.replace(b"\r\n", b"\n") + GET),
        ("one bare LF", GET.replace(b"\r\nHost", b"\nHost") + GET),
        ("bare CR", GET.replace(b"\r\nHost", b"\rHost") + GET),
        ("obs-fold", get("/", "X: a", " b") + GET),
        ("obs-fold first", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n" + GET),
        ("space before colon", get("/", "Content-Length : 5", method="POST") + DER + GET),
        (
            "TE with a tab",
            get("/", "Transfer-Encoding:\tchunked", "Content-Length: 5", method="POST") + b"0\r\n\r\n" + GET,
        ),
        ("a NUL", get("/", "X: \x00") + GET),
        (
            "chunked in HTTP/1.0",
            get("/", "Transfer-Encoding: chunked", method="POST", version="1.0") + b"0\r\n\r\n" + GET,
        ),
        (
            "a chunk size of 17 digits",
            get("/", "Transfer-Encoding: chunked", method="POST") + b"f" * 17 + b"\r\n" + GET,
        ),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("HTTP/2's method alone", b"PRI / HTTP/1.1\r\nHost: a\r\n\r\n" + GET),
        ("TLS", bytes.fromhex("16030100a5010000a10303") + bytes(160)),
    ],
)
async def test_hostile_framing_ends_the_connection_after_at_most_one_answer(name: str, data: bytes) -> None:
    service = Service()
    client = connect(service)
    for at in range(0, len(data), 60_000):
        client.receive(data[at : at + 60_000])
        await settle(client)
    service.tick(11)
    await settle(client)
    assert client.is_closing(), name
    assert service.connections.current == 0
    said = bytes(client.written)
    assert said.count(b"HTTP/1.") <= 1
    if said:
        assert said.split(b" ", 2)[1] in {b"200", b"400", b"413"}
    assert await is_served(service)


async def test_time_outs_do_not_need_the_wall_clock_and_move_the_date() -> None:
    service = Service()
    client = connect(service)
    service.connections.tick(NOW_S + 60)
    client.receive(GET)
    assert b"Date: Sun, 01 Mar 2026 12:01:00 GMT" in client.written


def misuse() -> list[Callable[[], object]]:
    from ocspd import _fastpath, _index, _responder, _text
    from ocspd.index import _writer
    from ocspd.pki import _presign

    pool = _fastpath.Connections.__new__(_fastpath.Connections)
    presigner = _presign.Presigner(lambda data: data, prefix=None, frame=None, tail=b"")  # type: ignore[arg-type]
    service = Service()
    responder = service.responder
    return [
        pool.turn,
        pool.fileno,
        lambda: pool.listen(0),
        lambda: pool.adopt(0),
        lambda: pool.tick(0),
        pool.drain,
        pool.abort,
        lambda: service.connections.__init__(responder, slow_factory=asyncio.Protocol),
        lambda: _responder.Responder(None),  # type: ignore[arg-type]
        lambda: _responder.Responder(_index.Index([]), max_age_cap_s=-1),
        lambda: responder.count("slow_method", -1),
        lambda: _index.Index([_index.Segment.__new__(_index.Segment)]),
        lambda: _index.Index([None]),  # type: ignore[list-item]
        lambda: _writer.SegmentWriter.__new__(_writer.SegmentWriter).add(b""),
        lambda: presigner.sign(1 << (8 << 20), b"", ["sha1"]),
        lambda: presigner.sign(1, bytes(1 << 20), ["sha1"]),
        lambda: _text.http_date(1 << 70),
        lambda: _text.http_date(-1 << 63),
        *(
            lambda name=name, value=value: _fastpath.Connections(
                responder, slow_factory=asyncio.Protocol, **{name: value}
            )
            for name in ("header_timeout_s", "idle_timeout_s", "write_timeout_s", "max_connections")
            for value in (0, -1)
        ),
    ]


@pytest.mark.parametrize("number", range(26))
async def test_objects_that_were_not_made_properly_refuse_to_work(number: int) -> None:
    assert len(misuse()) == 26
    with pytest.raises((TypeError, ValueError)):
        misuse()[number]()


async def test_an_index_that_was_refused_has_nothing_to_read() -> None:
    refused = Index.__new__(Index)
    with pytest.raises(TypeError):
        refused.__init__([Segment(segment_path()), None])  # type: ignore[list-item]
    responder = Responder(refused)
    responder.set_time(NOW_S)
    assert responder.reply_to(DER).outcome == "good"
    assert responder.reply_to(CA.request(ABSENT)).outcome == "unknown_serial"
