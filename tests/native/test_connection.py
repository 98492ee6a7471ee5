from __future__ import annotations

import asyncio
import base64
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.native import wire
from tests.native.pair import Service
from tests.native.strategies import DERS, clean_requests, odd_requests, places
from tests.native.transports import converse, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROPERTY = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
REFUSAL = re.compile(rb"HTTP/1\.[01] 400 Bad Request\r\n(?:[^\r]+\r\n)+\r\n\x30\x03\x0a\x01\x01\Z")
Said = tuple[bytes, bool]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def octets(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


async def native(segments: Sequence[bytes]) -> tuple[Said, Service]:
    service = Service()
    said = await wire.converse(service.connections, segments)
    assert service.connections.current == 0
    return said, service


async def alone(segments: Sequence[bytes]) -> tuple[Said, Service]:
    service = Service()
    return await converse(service.server(), segments), service


def without_connection(data: bytes) -> bytes:
    return data.replace(b"\r\nConnection: close", b"").replace(b"\r\nConnection: keep-alive", b"")


def agrees(ours: Said, reference: Said) -> bool:
    """Tell whether we said what aiohttp says, or a beginning of it, then perhaps 400, and closed."""
    if ours == reference:
        return True
    said, closed = ours
    theirs = without_connection(reference[0])
    beginning = without_connection(said)
    return closed and theirs.startswith((beginning, REFUSAL.sub(b"", beginning)))


@PROPERTY
@given(requests=st.lists(clean_requests(), min_size=1, max_size=5), cuts=places)
def test_the_native_path_says_what_aiohttp_says(
    runner: asyncio.Runner, requests: list[bytes], cuts: list[int]
) -> None:
    # The reference gets single octets: aiohttp forgets the requests before a broken one in the same read.
    data = b"".join(requests)
    ours, service = runner.run(native(cut(data, cuts)))
    reference, other = runner.run(alone(octets(data)))
    assert ours == reference
    assert service.outcomes() == other.outcomes()


@PROPERTY
@given(requests=st.lists(odd_requests() | clean_requests(), min_size=1, max_size=4), cuts=places)
def test_odd_requests_are_answered_as_by_aiohttp_or_end_the_connection(
    runner: asyncio.Runner, requests: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(requests)
    segments = cut(data, cuts)
    ours, _ = runner.run(native(segments))
    references = [runner.run(alone(way))[0] for way in (segments, requests, octets(data))]
    assert any(agrees(ours, reference) for reference in references), references


@settings(PROPERTY, max_examples=300)
@given(data=st.binary(max_size=200) | st.binary(max_size=40).map(lambda text: b"GET /" + text), cuts=places)
def test_garbage_is_answered_once_or_not_at_all(runner: asyncio.Runner, data: bytes, cuts: list[int]) -> None:
    (said, closed), _ = runner.run(native(cut(data, cuts)))
    assert said.count(b"HTTP/1.") <= 1 or b"\r\n\r\n" in data
    assert closed or not said or b"\r\n\r\n" in data


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40, 400])
@pytest.mark.parametrize("kind", ["good", "malformed", "mixed"])
def test_r5_a_pipeline_longer_than_the_output_buffer_is_answered_in_order(
    runner: asyncio.Runner, kind: str, count: int
) -> None:
    good = b"GET /%b HTTP/1.1\r\nHost: t\r\n\r\n" % base64.b64encode(DERS[1])
    malformed = b"GET /AAAA HTTP/1.1\r\nHost: t\r\n\r\n"
    one = {"good": good, "malformed": malformed, "mixed": good + malformed}[kind]
    ours, service = runner.run(native([one * count]))
    reference, other = runner.run(alone(octets(one * count)))
    assert ours == reference
    assert service.outcomes() == other.outcomes()
