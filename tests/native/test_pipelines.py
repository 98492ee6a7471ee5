from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.native.pair import native
from tests.native.pipelines import (
    EDGES,
    HEAD_ROOM,
    LONGEST,
    OUT_ROOM,
    SIZES,
    answers,
    fuzz,
    requests,
    said,
    service,
    wanted,
)
from tests.native.strategies import places
from tests.native.transports import cut

KINDS = len(requests())
SMALL = (0, *range(len(SIZES), KINDS))  # kinds whose responses are short
runs = st.lists(st.tuples(st.integers(0, KINDS - 1), st.integers(1, 4)), min_size=1, max_size=12) | st.lists(
    st.tuples(st.sampled_from(SMALL), st.integers(1, LONGEST)), min_size=1, max_size=6
)
pipelines = runs.map(
    lambda found: [requests()[kind] for kind, count in found for _ in range(count)][:LONGEST]
)
FEW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def test_the_sizes_are_what_they_say() -> None:
    assert [len(der) for der in answers()] == list(SIZES)
    assert max(SIZES) > OUT_ROOM


@FEW
@given(pipeline=pipelines, cuts=places, takes=st.sampled_from([0, 0, 700, 20_000]))
def test_R5_a_pipeline_of_every_size_is_answered_in_order(
    runner: asyncio.Runner, pipeline: list[bytes], cuts: list[int], takes: int
) -> None:
    data = b"".join(pipeline)
    if takes == 700:  # a turn of the loop for each: not for megabytes
        data, pipeline = b"".join(pipeline[:12]), pipeline[:12]
    assert runner.run(said(data, cuts, takes=takes)) == runner.run(wanted(pipeline))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("before", [0, 1, 15, 16, 24, 25, 26])
def test_R5_responses_that_just_fill_the_buffer_are_answered(
    runner: asyncio.Runner, edge: int, before: int
) -> None:
    assert edge - HEAD_ROOM < OUT_ROOM
    at = SIZES.index(edge)
    short = [requests()[0]] * before
    for kinds in ((at,), (at - 1,), (at + 1,), (at - 1, at, at + 1), (at, at), (at + 1, at + 1, at)):
        pipeline = [*short, *(requests()[kind] for kind in kinds), *short]
        assert runner.run(said(b"".join(pipeline), [])) == runner.run(wanted(pipeline))


async def over_a_socket(data: bytes, cuts: list[int], size: int, *, narrow: bool) -> bytes:
    """Send a pipeline over a real socket; with `narrow`, buffers and reads are small."""
    ours, loop, got = service(), asyncio.get_running_loop(), bytearray()
    async with native(ours, send_buffer=4_096 if narrow else 0) as port:
        with socket.socket() as client:
            if narrow:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)  # noqa: FBT003  (positional only)
            await loop.sock_connect(client, ("127.0.0.1", port))

            async def send() -> None:
                for segment in cut(data, cuts):
                    await loop.sock_sendall(client, segment)
                    await asyncio.sleep(0)

            sending = asyncio.create_task(send())
            async with asyncio.timeout(120):
                while len(got) < size:
                    more = await loop.sock_recv(client, 3_000 if narrow else 1 << 18)
                    assert more, "closed too early"
                    got += more
                await sending
        async with asyncio.timeout(120):
            while ours.connections.current:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)
    return bytes(got)


@settings(FEW, max_examples=15)
@given(pipeline=pipelines, cuts=st.lists(st.integers(0, 40_000), max_size=12), narrow=st.booleans())
def test_R5_a_pipeline_of_every_size_is_answered_in_order_over_sockets(
    runner: asyncio.Runner, pipeline: list[bytes], cuts: list[int], *, narrow: bool
) -> None:
    expected = runner.run(wanted(pipeline))
    if narrow and len(expected) > 400_000:
        narrow = False
    assert runner.run(over_a_socket(b"".join(pipeline), cuts, len(expected), narrow=narrow)) == expected


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_whatever_arrives_in_whatever_chunks_breaks_nothing(runner: asyncio.Runner, start: int) -> None:
    for seed in range(start, start + 50):
        runner.run(fuzz(seed))
