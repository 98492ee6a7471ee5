"""What is published never goes back: merges, expiry, spoilt directories, restarts, failures of the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocspd.clock import ManualClock
from ocspd.errors import IndexFileError
from ocspd.index.directory import COPY_NAME, KEPT_BYTES, KEPT_S, IndexDirectory
from ocspd.model import CertStatus
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.generations import ROLL_BYTES, Generations
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ocspd._index import Index
    from ocspd.index._writer import SegmentWriter
    from ocspd.index.manifest import Manifest

START = datetime.now(UTC).replace(microsecond=0)
CHAIN = make_chain()
SIGNER = CHAIN.signer(clock=ManualClock(START))
KEY = ("sha1", *issuer_hashes(SIGNER.issuer, "sha1"))
GOOD, REVOKED = CertStatus.GOOD, CertStatus.REVOKED


@pytest.fixture
def generations(tmp_path: Path) -> Iterator[Generations]:
    directory = IndexDirectory(tmp_path / "index")
    with directory.lock(), contextlib.closing(Generations(directory, ManualClock(START))) as made:
        yield made


def response(serial: int, status: CertStatus, now: datetime, hours: float) -> bytes:
    batch = SIGNER.batch(now, until=now + timedelta(hours=hours))
    return batch.sign(serial, status, 1 if status is REVOKED else 0, now)


def fill_with(responses: Sequence[bytes]) -> object:
    def fill(writer: SegmentWriter) -> None:
        for each in responses:
            writer.add(each)

    return fill


async def change(generations: Generations, *responses: bytes) -> Manifest:
    return await generations.add_changes(fill_with(responses), [])  # type: ignore[arg-type]


async def pass_over(generations: Generations, *responses: bytes) -> None:
    with generations.directory.writer(0) as writer:
        for each in responses:
            writer.add(each)
        writer.finish()
    await generations.add_slice([writer.path])


def status_in(index: Index, serial: int, now: datetime) -> CertStatus | None:
    """Return what a responder says: nothing for an expired response."""
    found = index.lookup(*KEY, serial)
    if found is None or found.next_update <= now.timestamp():
        return None
    return CertStatus(found.status)


async def test_S13_a_merge_never_brings_back_what_an_expired_response_hid(generations: Generations) -> None:
    clock = generations.clock
    assert isinstance(clock, ManualClock)
    await pass_over(generations, *(response(serial, GOOD, START, 90) for serial in range(200)))
    await generations.end_pass()
    for serial in (5, 6):
        await change(generations, response(serial, REVOKED, START, 2))
        await generations.begin_pass()
    clock.advance(timedelta(hours=3))
    merged = 0
    while await generations.merge():
        merged += 1
    assert merged, "nothing was merged"
    for serial in (5, 6):
        assert status_in(generations.open(), serial, clock.now()) is None
        assert status_in(generations.directory.open(), serial, clock.now()) is None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(0, 5), st.sampled_from([GOOD, REVOKED]), st.integers(1, 60)),
        st.tuples(st.just("slice"), st.integers(0, 5), st.sampled_from([GOOD, REVOKED]), st.integers(1, 60)),
        st.tuples(st.just("begin")),
        st.tuples(st.just("end")),
        st.tuples(st.just("merge")),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("restart")),
    ),
    min_size=6,
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_whatever_is_added_merged_and_expires_the_newest_response_is_the_one_found(
    steps: list[tuple[object, ...]], tmp_path: Path
) -> None:
    asyncio.run(_against_a_model(steps, tmp_path / os.urandom(8).hex()))


async def _against_a_model(  # noqa: C901  (a case for each kind of step)
    steps: list[tuple[object, ...]], path: Path
) -> None:
    """Hold an index against lists of responses by serial, newest first, from which nothing ever goes."""
    directory = IndexDirectory(path)
    clock = ManualClock(START)
    recent: dict[int, bytes] = {}
    passing: dict[int, bytes] = {}
    settled: dict[int, bytes] = {}
    with directory.lock():
        generations = Generations(directory, clock)
        for step in steps:
            match step:
                case ("change", int(serial), CertStatus() as status, int(hours)):
                    recent[serial] = response(serial, status, clock.now(), hours)
                    await change(generations, recent[serial])
                case ("slice", int(serial), CertStatus() as status, int(hours)):
                    passing[serial] = response(serial, status, clock.now(), hours)
                    await pass_over(generations, passing[serial])
                case ("begin",):
                    await generations.begin_pass()
                    settled |= passing | recent
                    recent, passing = {}, {}
                case ("end",):
                    await generations.end_pass()
                    settled |= passing
                    passing = {}
                case ("merge",):
                    while await generations.merge():
                        pass
                case ("wait", int(hours)):
                    clock.advance(timedelta(hours=hours))
                case ("restart",):
                    generations.close()
                    generations = Generations(directory, clock)
                    generations.load()
                    settled |= passing | recent
                    recent, passing = {}, {}
            newest = settled | passing | recent
            index = generations.open()
            for serial, expected in newest.items():
                found = index.lookup(*KEY, serial)
                if found is None:  # gone, which only an expired one may be
                    alone = directory.writer(0)
                    alone.add(expected)
                    alone.finish()
                    (_, _, lost), *_ = directory.map([directory.adopt(alone.path)])[0].records()
                    assert lost.next_update <= clock.now().timestamp()
                else:
                    assert found.der == expected
        generations.close()
    shutil.rmtree(path)


# The directory is spoilt (S5, S7)


async def filled(generations: Generations) -> Manifest:
    await pass_over(generations, *(response(serial, GOOD, START, 90) for serial in range(300)))
    await generations.end_pass()
    return await change(generations, response(5, REVOKED, START, 90))


def spoil(directory: IndexDirectory, damage: str, manifest: Manifest) -> None:
    newest, base = (directory.segment_path(ref) for ref in manifest.segments)
    match damage:
        case "directory removed":
            shutil.rmtree(directory.path)
        case "emptied":
            for path in directory.path.iterdir():
                path.unlink()
        case "base removed":
            base.unlink()
        case "newest removed":
            newest.unlink()
        case "base replaced by rubbish":
            base.unlink()
            base.write_bytes(b"rubbish")


DAMAGES = ["directory removed", "emptied", "base removed", "newest removed", "base replaced by rubbish"]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_S5_what_is_removed_while_the_signer_runs_is_written_again(
    generations: Generations, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = await filled(generations)
    spoil(generations.directory, damage, manifest)
    assert await generations.mend()
    assert not await generations.mend(), "it flaps"
    assert not generations.pass_wanted
    assert "written again" in caplog.text
    again = generations.directory.manifest()
    assert again is not None
    assert again.segments == manifest.segments
    index = generations.directory.open()
    assert all(index.lookup(*KEY, serial) is not None for serial in range(300))
    assert status_in(index, 5, START) is REVOKED


@pytest.mark.parametrize("damage", ["directory removed", "emptied", "newest removed"])
async def test_S5_a_change_is_published_at_once_whatever_was_removed(
    generations: Generations, damage: str
) -> None:
    manifest = await filled(generations)
    spoil(generations.directory, damage, manifest)
    await change(generations, response(7, REVOKED, START, 90))
    index = generations.directory.open() if damage != "newest removed" else generations.open()
    assert status_in(index, 7, START) is REVOKED
    await generations.mend()
    assert status_in(generations.directory.open(), 5, START) is REVOKED


async def test_S5_no_second_signer_gets_the_lock_of_a_directory_made_again(generations: Generations) -> None:
    manifest = await filled(generations)
    spoil(generations.directory, "directory removed", manifest)
    assert await generations.mend()
    with (
        pytest.raises(IndexFileError, match="another process"),
        IndexDirectory(generations.directory.path).lock(),
    ):
        pass


@pytest.mark.parametrize("damage", ["base removed", "newest removed", "base replaced by rubbish"])
async def test_S5_what_was_removed_before_a_restart_is_named_until_a_pass_has_signed_it_again(
    generations: Generations, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = await filled(generations)
    spoil(generations.directory, damage, manifest)
    later = Generations(generations.directory, generations.clock)
    assert later.load() == manifest
    assert [later.pass_wanted] == [True]
    assert "signed again" in caplog.text
    lost = manifest.segments if damage.startswith("newest") else manifest.segments[1:]
    assert later.lost == frozenset(lost)
    assert not later.lost.intersection(later.segments)
    published = await change(later, response(9, REVOKED, START, 90))
    assert set(lost) <= set(published.segments), "running responders lose answers"
    assert not await later.mend(), "it flaps"
    await later.begin_pass()
    assert [later.pass_wanted] == [False], "passes follow each other"
    await pass_over(later, *(response(serial, GOOD, START, 90) for serial in range(20, 300)))
    await later.end_pass()
    published_last = later.directory.manifest()
    assert published_last is not None
    assert not set(lost) & set(published_last.segments)
    index = later.directory.open()
    assert status_in(index, 9, START) is REVOKED
    assert status_in(index, 25, START) is GOOD
    later.close()


@pytest.mark.parametrize("older", ["older", "gone", "rubbish"])
async def test_S7_a_restart_on_an_older_manifest_goes_on_from_the_newest(
    generations: Generations, older: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = generations.directory.manifest_path
    await pass_over(generations, *(response(serial, GOOD, START, 90) for serial in range(300)))
    before = path.read_bytes()
    newest = await change(generations, response(5, REVOKED, START, 90))
    match older:
        case "older":
            path.write_bytes(before)
        case "gone":
            path.unlink()
        case "rubbish":
            path.write_bytes(b"{")
    later = Generations(generations.directory, generations.clock)
    published = later.load()
    assert published is not None
    assert published.generation > newest.generation
    assert "published again" in caplog.text
    assert status_in(generations.directory.open(), 5, START) is REVOKED
    later.close()


async def test_S7_generations_count_on_from_the_newest_even_when_its_segments_are_gone(
    generations: Generations,
) -> None:
    await pass_over(generations, response(5, GOOD, START, 90))
    before = generations.directory.manifest_path.read_bytes()
    newest = await change(generations, response(5, REVOKED, START, 90))
    generations.directory.segment_path(newest.segments[0]).unlink()
    generations.directory.manifest_path.write_bytes(before)
    later = Generations(generations.directory, generations.clock)
    published = later.load()
    assert published is not None
    assert published.generation > newest.generation
    later.close()


async def test_a_generation_readers_may_have_seen_is_never_published_with_other_contents(
    tmp_path: Path,
) -> None:
    class Failing(IndexDirectory):
        fails = False

        def replace(self, manifest: Manifest, before: Manifest | None) -> None:
            super().replace(manifest, before)
            if self.fails:
                raise IndexFileError("cannot write: Input/output error")

    directory = Failing(tmp_path)
    generations = Generations(directory, ManualClock(START))
    await pass_over(generations, response(5, GOOD, START, 90))
    directory.fails = True
    with pytest.raises(IndexFileError):
        await change(generations, response(5, REVOKED, START, 90))
    seen = directory.manifest()
    directory.fails = False
    published = await generations.publish()
    assert seen is not None
    assert published.generation == seen.generation + 1
    assert status_in(directory.open(), 5, START) is REVOKED
    generations.close()


# The room on the disk


async def test_S10_small_changes_cost_small_files(generations: Generations) -> None:
    await pass_over(generations, *(response(serial, GOOD, START, 90) for serial in range(1000)))
    sizes = []
    for serial in range(300):
        manifest = await change(generations, response(serial, REVOKED, START, 90))
        sizes.append(manifest.segments[0].size_bytes)
        if serial % 50 == 0:
            while await generations.merge():
                pass
    assert sizes[0] < 16 << 10
    assert max(sizes) <= 2 * ROLL_BYTES
    assert len(generations.segments) < 10


def test_S10_what_is_not_named_any_more_is_bounded_in_size(tmp_path: Path) -> None:
    directory = IndexDirectory(tmp_path)
    directory.publish([], 0)
    half = KEPT_BYTES // 2
    paths = [tmp_path / f"{number:064x}.seg" for number in range(5)]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(half)
    now = paths[0].stat().st_ctime
    assert directory.collect(now + KEPT_S - 1) == [], "a reader may just be opening them"
    assert len(directory.collect(now + KEPT_S + 1)) == 3
    assert len(directory.collect(now + 301)) == 2


def test_S12_a_clock_set_back_keeps_no_files_for_ever(tmp_path: Path) -> None:
    directory = IndexDirectory(tmp_path)
    directory.publish([], 0)
    path = tmp_path / f"{0:064x}.seg"
    path.write_bytes(b"")
    assert directory.collect(path.stat().st_ctime - 86_400) == [path.name]
    assert (tmp_path / COPY_NAME).exists()


async def test_a_signer_whose_lock_was_removed_lets_another_one_publish_alone(tmp_path: Path) -> None:
    path = tmp_path / "index"
    one, other = IndexDirectory(path), IndexDirectory(path)
    with one.lock(), contextlib.closing(Generations(one, ManualClock(START))) as first:
        await change(first, response(1, GOOD, START, 90))
        shutil.rmtree(path)
        with other.lock(), contextlib.closing(Generations(other, ManualClock(START))) as second:
            newest = await change(second, response(1, REVOKED, START, 90))
            with pytest.raises(IndexFileError, match="another process is writing this index"):
                await change(first, response(2, GOOD, START, 90))
            assert other.manifest() == newest
        # the other one has ended: the first goes on, and nobody else may begin
        path.joinpath(".lock").unlink()
        await change(first, response(3, GOOD, START, 90))
        with pytest.raises(IndexFileError, match="another process"), other.lock():
            pass


async def test_S12_a_finished_segment_is_not_taken_for_a_left_over_when_the_clock_was_set(
    generations: Generations,
) -> None:
    directory, clock = generations.directory, generations.clock
    assert isinstance(clock, ManualClock)
    with directory.writer(0) as writer:
        writer.add(response(1, GOOD, START, 90))
        writer.finish()
    finished = directory.adopt(writer.path)
    clock.advance(timedelta(hours=-5))
    await change(generations, response(2, GOOD, START, 90))
    assert directory.present(finished)
    directory.publish([finished], 0)
    directory.publish([], 0)
    removed = directory.collect(clock.now().timestamp())
    assert finished.file_name in removed, "it is one, once it was named"
