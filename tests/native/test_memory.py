from __future__ import annotations

import asyncio
import base64
import gc
import os
import tracemalloc
from pathlib import Path

import pytest

from tests.native.pair import Service
from tests.native.strategies import DERS
from tests.native.wire import Wire, settle
from tests.native.world import GOOD, authorities
from tests.responder.raw_http import get, post

DER = authorities()[0].request(GOOD)
GET = get("/" + base64.b64encode(DER).decode())
ODD = get("/" + base64.b64encode(DER).decode(), "If-Unmodified-Since: x")


def resident() -> int:
    """Octets of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def answer_requests(service: Service, count: int) -> None:
    client = Wire(service.connections)
    batch = b"".join(post(der) for der in DERS[:10]) + GET * 10
    for _ in range(count // 20):
        client.receive(batch[:1_000])
        client.receive(batch[1_000:])
        client.written.clear()
    client.receive(ODD)
    await settle(client)
    client.break_off()
    await settle(client)


async def open_connections(service: Service, count: int) -> None:
    for number in range(count):
        client = Wire(service.connections, takes=number % 5 != 0)
        client.receive(
            (GET, GET[:40], ODD if number % 16 == 2 else GET, b"\x00" if number % 64 == 3 else GET)[
                number % 4
            ]
        )
        if number % 16 == 2:
            await asyncio.sleep(0)
        client.break_off()
        if number % 100 == 99:
            await settle(client)
    service.tick()


@pytest.mark.growth
@pytest.mark.parametrize(
    ("work", "count"),
    [(answer_requests, 200_000), (open_connections, 20_000)],
    ids=["requests", "connections"],
)
async def test_memory_does_not_grow_with_what_has_been_served(work: object, count: int) -> None:
    service = Service()
    await work(service, count // 10)  # type: ignore[operator]
    gc.collect()
    tracemalloc.start()
    try:
        traced, before = tracemalloc.get_traced_memory()[0], resident()
        await work(service, count)  # type: ignore[operator]
        await asyncio.sleep(0)
        gc.collect()
        grown, resident_grown = tracemalloc.get_traced_memory()[0] - traced, resident() - before
    finally:
        tracemalloc.stop()
    assert service.connections.current == 0
    assert len(service.server.connections) == 0
    assert grown < 100_000
    assert resident_grown < 8 << 20


async def test_what_is_kept_for_one_client_is_bounded() -> None:
    service = Service()
    client = Wire(service.connections, takes=False)
    most = 0
    for _ in range(100):
        client.receive(GET * 400)  # more than one read brings
        most = max(most, service.connections.buffered_bytes)
    assert not client.is_reading()
    assert 0 < most < 120_000
