"""Pipelines of requests whose responses have every size, and what aiohttp alone says to them."""

from __future__ import annotations

import asyncio
import base64
import random
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from ocspd._der import parse_response
from ocspd._index import Index, Segment
from ocspd.index._writer import SegmentWriter
from tests.native.pair import Service
from tests.native.transports import converse, cut
from tests.native.wire import Wire, settle
from tests.native.world import NOW_S, authorities
from tests.responder.raw_http import get, post

CA = authorities()[0]
OUT_ROOM, HEAD_ROOM = 1 << 14, 512  # _fastpath's buffer, and what it keeps for a response's head
EDGES = (OUT_ROOM - HEAD_ROOM, OUT_ROOM, OUT_ROOM // 2 - HEAD_ROOM, OUT_ROOM // 16 - HEAD_ROOM)
SIZES = (600, 3_000, 40_000, 300_000, *(edge + more for edge in EDGES for more in (-1, 0, 1)))
LONGEST = 400


def element(tag: int, content: bytes) -> bytes:
    """Encode one element of DER."""
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sized(serial: int, size: int) -> bytes:
    """Make an answer of this many octets; its signature is filled up, which no responder looks at."""
    known = parse_response(CA.answer(serial))
    oid = bytes.fromhex("06092b0601050507300101")
    filler = size
    while True:
        signature = element(0x03, b"\0" + random.Random(serial).randbytes(filler))
        basic = element(0x30, known.tbs + known.signature_algorithm + signature)
        inner = element(0xA0, element(0x30, oid + element(0x04, basic)))
        der = element(0x30, b"\x0a\x01\x00" + inner)
        if len(der) <= size:
            return der + b"" if len(der) == size else sized(serial + 1_000, size)
        filler -= len(der) - size


@cache
def index_path() -> str:
    """Write an index with an answer of every size once a process."""
    path = str(Path(tempfile.mkdtemp(prefix="ocspd-test-")) / "sizes.seg")
    with SegmentWriter(path, created_at=NOW_S) as writer:
        for der in answers():
            writer.add(der)
        writer.finish()
    return path


@cache
def answers() -> tuple[bytes, ...]:
    return tuple(sized(number + 1, size) for number, size in enumerate(SIZES))


def service() -> Service:
    return Service(index=Index([Segment(index_path())]))


@cache
def requests() -> tuple[bytes, ...]:
    """One request for every size, and every other kind that keeps a connection alive."""
    asked = [CA.request(parse_response(der).serial) for der in answers()]
    paths = ["/" + base64.b64encode(der).decode() for der in asked]
    small = paths[0]
    absent = CA.request(9_999_999)
    return (
        *(get(path) for path in paths),
        post(asked[0]),
        post(asked[2]),
        post(absent),
        post(b"\x30"),
        get("/AAAA"),
        get("/"),
        b"\r\n" + get(small),
        get(small, method="HEAD"),
        get(paths[2], method="HEAD"),
        get(small, "If-None-Match: *"),
        get(small, "Connection: keep-alive", version="1.0"),
        get(small, "If-Unmodified-Since: x"),
        get(paths[2], "If-Unmodified-Since: x"),
        get("*", method="OPTIONS"),
        get("/", "Content-Length: 3", method="PUT") + b"abc",
        get("/", "Transfer-Encoding: chunked", method="POST")
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(absent), absent),
    )


_known: dict[bytes, bytes] = {}


async def wanted(pipeline: list[bytes]) -> bytes:
    """What aiohttp alone says to each request on a connection of its own."""
    for request in set(pipeline) - set(_known):
        _known[request] = (await converse(service().server(), [request]))[0]
    return b"".join(_known[request] for request in pipeline)


async def said(data: bytes, cuts: list[int], *, takes: int = 0) -> bytes:
    """Send a pipeline over a socket pair; `takes` bytes at a time are read, 0 for all at once."""
    ours = service()
    client = Wire(ours.connections, takes=not takes, room=4_608 if takes else 0)
    for segment in cut(data, cuts):
        client.receive(segment)
        while not client.is_reading():
            client.take(takes)
            await settle(client)
    await settle(client)
    while client.waiting or ours.connections.buffered_bytes:
        client.take(takes)
        await settle(client)
    result = bytes(client.written)
    client.break_off()
    await settle(client)
    assert ours.connections.current == 0
    return result


async def fuzz(seed: int) -> None:
    """Send a damaged pipeline in chunks of any size; whatever it says, nothing may break."""
    numbers = random.Random(seed)
    data = bytearray(b"".join(numbers.choices(requests(), k=numbers.choice((1, 3, 20, 60)))))
    for _ in range(numbers.choice((0, 0, 1, 4))):
        place = numbers.randrange(len(data) + 1)
        data[place : place + numbers.choice((0, 1, 7, 300))] = numbers.randbytes(numbers.choice((0, 1, 5)))
    most = numbers.choice((1, 30, 1_000, 100_000))
    ours = service()
    client = Wire(ours.connections, takes=numbers.random() < 0.6, room=numbers.choice((0, 4_608)))
    at = 0
    while at < len(data) and not client.says_no_more():
        size = numbers.randint(1, most)
        if client.is_reading():
            client.receive(bytes(data[at : at + size]))
            at += size
        else:
            await settle(client)
        what = numbers.random()
        if what < 0.2:
            client.take(numbers.choice((1, 500, 100_000)))
        elif what < 0.22:
            ours.tick(numbers.choice((1, 6, 11)))
        elif what < 0.23:
            ours.connections.drain()
        elif what < 0.24:
            client.end()
        elif not client.is_reading():
            client.take(100_000)
    if numbers.random() < 0.5:
        client.break_off()
    ours.tick(200)
    ours.tick(200)
    await settle(client)
    ours.connections.abort()
    await settle(client)
    assert b"HTTP/".startswith(client.written[:5])
    assert ours.connections.current == 0
    assert not [name for name in ours.counts() if "internal_error" in name]


async def fuzz_for(seconds: float, seed: int) -> int:
    """Try seed after seed for a time; the first that was not tried."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await fuzz(seed)
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)  # noqa: T201  (a program for the terminal)
            raise
        seed += 1
    return seed


if __name__ == "__main__":  # python -m tests.native.pipelines SECONDS [FIRST_SEED]
    last = asyncio.run(fuzz_for(float(sys.argv[1]), int((*sys.argv, "0")[2])))
    print(f"no failure up to seed {last - 1}")  # noqa: T201  (a program for the terminal)
