from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ocspd.clock import SystemClock
from ocspd.errors import IndexFileError
from ocspd.index.directory import COPY_NAME, IndexDirectory
from ocspd.model import CertStatus
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.generations import MAX_SEGMENTS, Generations
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ocspd._index import Segment
    from ocspd.index._writer import SegmentWriter
    from ocspd.index.manifest import SegmentRef

CLOCK = SystemClock()
SIGNER = make_chain().signer(clock=CLOCK)
KEY = ("sha1", *issuer_hashes(SIGNER.issuer, "sha1"))


@pytest.fixture
def generations(tmp_path: Path) -> Iterator[Generations]:
    directory = IndexDirectory(tmp_path / "index")
    with directory.lock():
        yield Generations(directory, CLOCK)


async def add_slice(generations: Generations, serials: range) -> None:
    batch = SIGNER.batch()
    with generations.directory.writer(0) as writer:
        for serial in serials:
            writer.add(batch.sign(serial))
        writer.finish()
    await generations.add_slice([writer.path])


async def test_a_long_pass_keeps_few_segments_while_it_runs(generations: Generations) -> None:
    await generations.begin_pass()
    most = 0
    for number in range(40):
        await add_slice(generations, range(number * 10, number * 10 + 10))
        while await generations.merge():
            pass
        most = max(most, len(generations.segments))
    assert most <= MAX_SEGMENTS
    index = generations.open()
    assert index.entries == 400
    assert all(index.lookup(*KEY, serial) is not None for serial in range(400))


async def test_a_change_during_a_pass_stays_in_front_of_its_merged_slices(generations: Generations) -> None:
    await generations.begin_pass()
    revoked = SIGNER.batch().sign(5, CertStatus.REVOKED, 1, CLOCK.now())

    def fill(writer: SegmentWriter) -> None:
        writer.add(revoked)

    await generations.add_changes(fill, [])
    for number in range(MAX_SEGMENTS + 2):
        await add_slice(generations, range(number * 10, number * 10 + 10))
    assert await generations.merge()
    await generations.end_pass()
    await generations.begin_pass()
    while await generations.merge():
        pass
    found = generations.open().lookup(*KEY, 5)
    assert found is not None
    assert found.status == CertStatus.REVOKED


def unfinished(directory: Path) -> list[Path]:
    return list(directory.glob("*new-*"))


class Watched(IndexDirectory):
    """Notes the policy of every thread that adopts a segment, and paced writers; holds up `map`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.policies: list[int] = []
        self.paced: list[SegmentWriter] = []
        self.mapping, self.may_map = threading.Event(), threading.Event()

    def writer(self, now_s: int, *, paced: bool = False) -> SegmentWriter:
        writer = super().writer(now_s, paced=paced)
        if paced:
            self.paced.append(writer)
        return writer

    def adopt(self, path: str | Path) -> SegmentRef:
        self.policies.append(os.sched_getscheduler(0))  # 0: the calling thread
        return super().adopt(path)

    def map(self, refs: Sequence[SegmentRef]) -> list[Segment]:
        self.mapping.set()
        assert self.may_map.wait(120)
        return super().map(refs)


async def test_merges_yield_to_everything_else(tmp_path: Path) -> None:
    directory = Watched(tmp_path)
    directory.may_map.set()
    generations = Generations(directory, CLOCK)
    await add_slice(generations, range(10))
    await add_slice(generations, range(10, 20))
    await generations.end_pass()
    own = os.sched_getscheduler(0)
    assert await generations.merge()
    assert directory.policies == [own, own, os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == own


async def test_a_merge_that_is_cancelled_publishes_nothing_and_ends_soon(tmp_path: Path) -> None:
    directory = Watched(tmp_path)
    generations = Generations(directory, CLOCK)
    for number in range(3):
        await add_slice(generations, range(number * 10, number * 10 + 10))
    await generations.end_pass()
    before = directory.manifest()
    merging = asyncio.create_task(generations.merge())
    assert await asyncio.to_thread(directory.mapping.wait, 10)
    merging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await merging
    directory.may_map.set()
    generations.close()
    assert directory.manifest() == before
    assert not unfinished(tmp_path)


async def test_a_merge_that_somebody_waits_for_hurries(tmp_path: Path) -> None:
    directory = Watched(tmp_path)
    generations = Generations(directory, CLOCK)
    for number in range(2):
        await add_slice(generations, range(number * 10, number * 10 + 10))
    await generations.end_pass()
    merging = asyncio.create_task(generations.merge())
    assert await asyncio.to_thread(directory.mapping.wait, 10)
    (merged,) = directory.paced
    before = merged.paced
    beginning = asyncio.create_task(generations.begin_pass())
    await asyncio.sleep(0)
    assert (before, merged.paced, beginning.done()) == (True, False, False)
    directory.may_map.set()
    assert await merging
    await beginning
    assert len(generations.segments) == 1


async def test_a_merge_hurries_while_slices_pile_up(tmp_path: Path) -> None:
    directory = Watched(tmp_path)
    generations = Generations(directory, CLOCK)
    for number in range(2):
        await add_slice(generations, range(number * 10, number * 10 + 10))
    await generations.end_pass()
    merging = asyncio.create_task(generations.merge())
    assert await asyncio.to_thread(directory.mapping.wait, 10)
    (merged,) = directory.paced
    paced_at = []
    for number in range(2, 2 * MAX_SEGMENTS + 1):
        await add_slice(generations, range(number * 10, number * 10 + 10))
        paced_at.append(merged.paced)
    assert paced_at == [True] * (len(paced_at) - 1) + [False]
    directory.may_map.set()
    assert await merging
    assert generations.open().entries == (2 * MAX_SEGMENTS + 1) * 10


async def test_what_an_earlier_signer_left_unfinished_goes_whatever_its_process_number(
    generations: Generations,
) -> None:
    await add_slice(generations, range(10))
    before = generations.directory.manifest()
    path = generations.directory.path
    for name in (f"new-{os.getpid()}-1.seg", f".new-{os.getpid()}-2.seg.abc", "new-1-3.seg"):
        (path / name).write_bytes(b"half a segment")
    later = Generations(generations.directory, CLOCK)
    assert later.load() == before
    assert not unfinished(path)
    assert later.open().entries == 10


@pytest.mark.parametrize("damage", ["garbage", "missing", "older"])
async def test_a_manifest_somebody_spoils_is_published_again(
    generations: Generations, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = generations.directory.manifest_path
    await add_slice(generations, range(10))
    older = path.read_bytes()
    await add_slice(generations, range(10, 20))
    assert not await generations.mend()
    match damage:
        case "garbage":
            path.write_text('{"x')
        case "missing":
            path.unlink()
        case "older":
            path.write_bytes(older)
    assert await generations.mend()
    assert not await generations.mend()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "manifest.json: " in caplog.text
    published = generations.directory.manifest()
    assert published is not None
    assert published.generation == 3
    assert published.segments == generations.segments
    assert generations.directory.open().entries == 20


async def test_a_spoilt_manifest_holds_up_no_change(generations: Generations) -> None:
    await add_slice(generations, range(10))
    generations.directory.manifest_path.write_text('{"x')
    await add_slice(generations, range(10, 20))
    assert generations.directory.open().entries == 20


async def test_a_manifest_spoilt_before_the_start_is_refused_with_the_remedy(
    generations: Generations,
) -> None:
    await add_slice(generations, range(10))
    for name in ("manifest.json", COPY_NAME):
        (generations.directory.path / name).write_text('{"x')
    with pytest.raises(
        IndexFileError, match=r"manifest\.json: not a manifest .* restore it, or remove it and sign again"
    ):
        Generations(generations.directory, CLOCK).load()


async def test_a_damaged_segment_is_named_and_nothing_changes(generations: Generations) -> None:
    for number in range(2):
        await add_slice(generations, range(number * 10, number * 10 + 10))
    await generations.end_pass()
    before = generations.directory.manifest()
    damaged = generations.directory.segment_path(generations.segments[0])
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(IndexFileError, match=damaged.name):
        await generations.merge()
    assert generations.directory.manifest() == before
