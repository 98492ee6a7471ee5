"""Every row of the transition table at the head of `_fastpath.pyx`, walked by a connection."""

from __future__ import annotations

import asyncio
import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from ocspd._fastpath import Connections
from ocspd._responder import Responder
from tests.native.wire import Wire, settle
from tests.native.world import GOOD, NOW_S, authorities, open_index

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocspd._fastpath import SlowTransport

SOURCES = Path(__file__).parents[2] / "src" / "ocspd"
DER = authorities()[0].request(GOOD)
GET = b"GET /" + base64.b64encode(DER) + b" HTTP/1.1\r\nHost: t\r\n\r\n"
LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
ODD = b"PUT / HTTP/1.1\r\nHost: t\r\n\r\n"
DOUBTFUL = b"GET / HTTP/1.1\nHost: t\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
REPLY = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK"
HEADER_S, IDLE_S, WRITE_S, LINGER_S = 10, 75, 30, 5
Arrow = tuple[str, str]


class Slow(asyncio.Protocol):
    """What stands for aiohttp: it does nothing by itself."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("SlowTransport", transport)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Place:
    """One connection, and what aiohttp was given of it."""

    def __init__(self, *, takes: bool = True, room: int = 0) -> None:
        responder = Responder(open_index())
        responder.set_time(NOW_S)
        self.slow: list[Slow] = []
        self.connections = Connections(
            responder,
            slow_factory=self.make_slow,
            header_timeout_s=HEADER_S,
            idle_timeout_s=IDLE_S,
            write_timeout_s=WRITE_S,
        )
        self.client = Wire(self.connections, takes=takes, room=room)

    def make_slow(self) -> Slow:
        self.slow.append(Slow())
        return self.slow[-1]

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.connections.tick(NOW_S)

    @property
    def transport(self) -> SlowTransport:
        return self.slow[-1].transport

    def state(self) -> str:
        """Tell the state from what can be seen of it. Reading is what tells LINGERING from CLOSING."""
        if self.connections.current == 0:
            return "FREE"
        if self.slow and not self.transport.is_closing():
            return "HANDED_OFF" if self.transport.ends_connection else "SLOW"
        if self.client.says_no_more():
            return "LINGERING"
        if self.connections.buffered_bytes and not self.client.takes:
            return "CLOSING"
        return "FAST"


async def fast() -> Place:
    place = Place()
    place.client.receive(GET)
    assert place.client.written.count(ANSWER) == 1
    assert place.state() == "FAST"
    return place


async def slow() -> Place:
    place = await fast()
    place.client.receive(ODD)
    assert place.state() == "SLOW"
    return place


async def handed_off() -> Place:
    place = await fast()
    place.client.receive(DOUBTFUL)
    assert place.state() == "HANDED_OFF"
    return place


async def closing() -> Place:
    """A last reply behind more replies than the client's socket takes."""
    place = Place(takes=False, room=4_608)
    place.client.receive(GET * 12 + LAST)
    assert place.connections.buffered_bytes
    assert place.state() == "CLOSING"
    return place


async def lingering() -> Place:
    place = await handed_off()
    place.transport.write(REPLY)
    place.transport.close()
    assert place.state() == "LINGERING"
    return place


STATES: dict[str, Callable[[], Awaitable[Place]]] = {
    "FAST": fast,
    "SLOW": slow,
    "HANDED_OFF": handed_off,
    "CLOSING": closing,
    "LINGERING": lingering,
}


async def a_client_is_accepted() -> None:
    place = Place()
    assert (place.connections.current, place.state()) == (1, "FAST")


async def a_request_is_for_aiohttp() -> None:
    place = await slow()
    place.client.receive(GET)  # waits
    assert place.slow[0].data == ODD
    assert place.client.written.count(ANSWER) == 1


async def a_request_has_doubtful_framing() -> None:
    place = await handed_off()
    place.client.receive(GET)  # is aiohttp's too: it may be anything
    assert place.slow[0].data == DOUBTFUL + GET
    assert place.client.written.count(ANSWER) == 1


async def the_reply_is_the_last() -> None:
    place = await fast()
    place.client.receive(LAST + GET)
    assert place.client.written.count(ANSWER) == 2
    assert place.client.says_no_more()
    place = await fast()
    place.client.end()
    assert place.state() == "FREE"
    for begun, seconds in ((b"", IDLE_S), (GET[:9], HEADER_S)):
        place = await fast()
        place.client.receive(begun)
        place.tick(seconds)
        assert place.state() == "FAST"
        place.tick(1)
        assert place.client.says_no_more()
    place = await fast()
    place.connections.drain()
    assert place.client.says_no_more()


async def aiohttp_has_answered() -> None:
    place = await slow()
    place.client.receive(GET)
    place.transport.write(REPLY)
    place.transport.request_done(True)  # noqa: FBT003  (as aiohttp's side calls it)
    await settle(place.client)
    assert place.state() == "FAST"
    assert (place.client.written.count(REPLY), place.client.written.count(ANSWER)) == (1, 2)
    assert place.slow[0].lost == [None]


async def the_chunks_are_none() -> None:
    place = await fast()
    place.client.receive(CHUNKED)
    assert place.state() == "SLOW"
    place.client.receive(b"no size\r\n" + GET)
    assert place.state() == "HANDED_OFF"
    assert place.slow[0].data == CHUNKED + b"no size\r\n" + GET


async def aiohttp_closes(state: str) -> None:
    place = await STATES[state]()
    place.transport.write(REPLY)
    place.transport.close()
    assert place.client.written.endswith(REPLY)
    assert place.client.says_no_more()
    place = await STATES[state]()
    place.tick(HEADER_S)
    assert place.state() == state
    place.tick(1)
    assert place.client.says_no_more()
    await settle(place.client)
    assert place.slow[0].lost == [None]


async def the_client_may_still_be_sending() -> None:
    place = await lingering()
    place.client.receive(b"more" * 1000)  # is not refused with a reset, which could take the reply away
    assert place.client.is_reading()
    assert place.client.written.endswith(REPLY)
    assert place.connections.current == 1


async def all_is_written() -> None:
    place = await closing()
    place.client.takes = True
    await settle(place.client)
    assert place.client.written.count(ANSWER) == 13
    assert place.client.says_no_more()
    assert place.connections.current == 0


async def the_client_has_ended_at_last() -> None:
    place = await lingering()
    place.client.end()
    assert place.state() == "FREE"
    place = await lingering()
    place.tick(LINGER_S)
    assert place.state() == "LINGERING"
    place.tick(1)
    assert place.state() == "FREE"


async def it_breaks() -> None:
    for state, reach in STATES.items():
        place = await reach()
        place.connections.abort()
        assert place.state() == "FREE"
        place = await reach()
        place.client.break_off()
        await settle(place.client)
        if state in {"SLOW", "HANDED_OFF"}:  # an end like any other, until something is written
            assert place.slow[0].lost == [] or isinstance(place.slow[0].lost[0], ConnectionResetError)
            place.transport.write(REPLY)
            place.transport.write(REPLY)
            await settle(place.client)
            assert isinstance(place.slow[0].lost[0], ConnectionResetError)
        assert place.state() == "FREE"
    place = await fast()
    place.client.receive(CHUNKED)
    place.client.end()  # the rest of the request will never come
    assert place.state() == "FREE"
    place = await closing()
    place.tick(WRITE_S)
    assert place.state() == "CLOSING"
    place.tick(1)
    assert place.state() == "FREE"


async def the_slot_is_somebody_elses() -> None:
    place = await slow()
    old = place.transport
    place.connections.abort()
    other = Wire(place.connections)
    old.write(b"not for you")
    old.request_done(True)  # noqa: FBT003
    old.close()
    old.abort()
    await settle(other)
    other.receive(GET)
    assert other.written.count(ANSWER) == 1
    assert other.written.startswith(ANSWER)
    assert place.connections.current == 1


WALKS: dict[Arrow, Callable[[], Awaitable[None]]] = {
    ("FREE", "FAST"): a_client_is_accepted,
    ("FAST", "SLOW"): a_request_is_for_aiohttp,
    ("FAST", "HANDED_OFF"): a_request_has_doubtful_framing,
    ("FAST", "CLOSING"): the_reply_is_the_last,
    ("SLOW", "FAST"): aiohttp_has_answered,
    ("SLOW", "HANDED_OFF"): the_chunks_are_none,
    ("SLOW", "CLOSING"): lambda: aiohttp_closes("SLOW"),
    ("HANDED_OFF", "CLOSING"): lambda: aiohttp_closes("HANDED_OFF"),
    ("CLOSING", "LINGERING"): the_client_may_still_be_sending,
    ("CLOSING", "DONE"): all_is_written,
    ("LINGERING", "DONE"): the_client_has_ended_at_last,
    ("*", "DONE"): it_breaks,
    ("DONE", "FREE"): the_slot_is_somebody_elses,
}


def table() -> set[Arrow]:
    """The rows of the table, which has three columns."""
    text = (SOURCES / "_fastpath.pyx").read_text().partition("    from        to          when\n")[2]
    rows = text.partition("\n\n")[0].splitlines()[1:]
    return {(row.split()[0], row.split()[1]) for row in rows}


def test_the_table_has_every_transition_and_no_other() -> None:
    assert table() == set(WALKS)


def test_the_table_has_every_state_the_code_knows_and_sets() -> None:
    known = set(re.findall(r"^    ([A-Z_]+) = \d$", _part("_reactor.pxd", "cdef enum State"), re.MULTILINE))
    code = "".join((SOURCES / name).read_text() for name in ("_fastpath.pyx", "_reactor.pyx"))
    targets = set(re.findall(r"\bstate = ([A-Z_]+)", code)) | set(
        re.findall(r"else ([A-Z_]+)$", code, re.MULTILINE)
    )
    assert {state for arrow in table() for state in arrow} - {"*"} == known
    assert targets & known == {target for _, target in table()}


def _part(name: str, start: str) -> str:
    return (SOURCES / name).read_text().partition(start)[2].partition("\n\n")[0]


@pytest.mark.parametrize("arrow", WALKS, ids="-".join)
async def test_a_connection_walks(arrow: Arrow) -> None:
    await WALKS[arrow]()
