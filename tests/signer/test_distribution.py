from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from ocspd.clock import ManualClock, SystemClock
from ocspd.errors import IndexFileError
from ocspd.index.directory import IndexDirectory
from ocspd.index.remote import RemoteIndex
from ocspd.responder.pulling import PulledIndex
from ocspd.signer.generations import Generations
from ocspd.signer.publishing import Publisher
from tests.index.test_remote import CA, add

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from ocspd.index.manifest import Manifest, SegmentRef

CLOCK = SystemClock()


@pytest.fixture(autouse=True)
def _log_is_seen() -> Iterator[None]:
    log = logging.getLogger("ocspd")
    before = log.propagate, log.level
    log.propagate = True
    log.setLevel(logging.INFO)
    yield
    log.propagate, log.level = before


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110  (what it waits for is another task's file)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def publishing(
    directory: IndexDirectory, *places: str | RemoteIndex, large_bytes: int = 1 << 30
) -> AsyncIterator[tuple[Publisher, list[RemoteIndex]]]:
    remotes = [RemoteIndex(place, CLOCK) if isinstance(place, str) else place for place in places]
    publisher = Publisher(remotes, directory, CLOCK, large_bytes=large_bytes)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher, remotes
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def following(source: PulledIndex) -> AsyncIterator[None]:
    task = asyncio.create_task(source.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        source.close()


@pytest.fixture
def signer(tmp_path: Path) -> IndexDirectory:
    directory = IndexDirectory(tmp_path / "signer")
    add(directory, 1)
    return directory


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return tmp_path / "share"


def answers(directory: IndexDirectory, serial: int) -> bool:
    return directory.open().lookup("sha1", *CA.hashes("sha1"), serial) is not None


async def test_every_place_gets_the_newest_generation(signer: IndexDirectory, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a", "b")]
    async with publishing(signer, *(f"file://{place}" for place in places)) as (publisher, _):
        generations = Generations(signer, CLOCK, published=publisher.offer)
        generations.load()

        def fill(writer: object) -> None:
            writer.add(CA.answer(2))  # type: ignore[attr-defined]

        manifest = await generations.add_changes(fill, [CLOCK.now().timestamp()])
        await until(lambda: all(stats.generation == manifest.generation for stats in publisher.stats))
        for place in places:
            assert IndexDirectory(place).manifest() == manifest
            assert answers(IndexDirectory(place), 2)
        assert [(stats.up, stats.failures) for stats in publisher.stats] == [(True, 0)] * 2
        assert all(abs(stats.published_at - CLOCK.now().timestamp()) < 20 for stats in publisher.stats)
        assert all(stats.sent_bytes > 0 for stats in publisher.stats)


async def test_generations_that_come_while_one_is_sent_are_skipped(
    signer: IndexDirectory, share: Path
) -> None:
    sent: list[int] = []

    class Slow(RemoteIndex):
        async def publish(self, directory: IndexDirectory, manifest: Manifest) -> None:
            await asyncio.sleep(0.1)
            sent.append(manifest.generation)
            await super().publish(directory, manifest)

    async with publishing(signer, Slow(f"file://{share}", CLOCK)) as (publisher, _):
        first = signer.manifest()
        assert first is not None
        publisher.offer(first)
        await asyncio.sleep(0.05)
        for serial in range(2, 30):
            last = add(signer, serial)
            publisher.offer(last)
        await until(lambda: publisher.stats[0].generation == last.generation)
        assert sent == [first.generation, last.generation]


async def test_a_place_that_refuses_is_told_once_and_holds_up_no_other(
    signer: IndexDirectory, share: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a directory should be")
    async with publishing(signer, f"file://{blocked}", f"file://{share}") as (publisher, _):
        first = signer.manifest()
        assert first is not None
        publisher.offer(first)
        bad, good = publisher.stats
        await until(lambda: bad.failures >= 2 and good.generation == 1)
        assert (bad.up, bad.generation) == (False, -1)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "stays in force" in errors[0].getMessage()
        blocked.unlink()
        await until(lambda: bad.generation == 1)
        assert bad.up
        assert "publishing works again" in caplog.text


class Late(RemoteIndex):
    """Sends large segments only when told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url, CLOCK)
        self.go = asyncio.Event()

    async def upload(self, directory: IndexDirectory, ref: SegmentRef) -> None:
        if ref.size_bytes > 100_000:
            await self.go.wait()
        await super().upload(directory, ref)


async def test_revocations_do_not_wait_for_a_large_segment(signer: IndexDirectory, share: Path) -> None:
    remote = Late(f"file://{share}")
    async with publishing(signer, remote, large_bytes=100_000) as (publisher, _):
        first = signer.manifest()
        assert first is not None
        publisher.offer(first)
        await until(lambda: publisher.stats[0].generation == 1)
        base = add(signer, *range(10, 2000), keep=False)  # a merged base: the old segment is gone
        publisher.offer(base)
        place = IndexDirectory(share)
        for serial in (2001, 2002, 2003):
            newest = add(signer, serial)
            publisher.offer(newest)
            await until(lambda n=newest: publisher.stats[0].generation == n.generation)  # type: ignore[misc]
            assert answers(place, serial)
            assert answers(place, 1)  # what stood there before the base
            assert not answers(place, 10)
        interim = place.manifest()
        assert interim is not None
        assert interim.segments == (*newest.segments[:3], *first.segments)
        target = IndexDirectory(share.parent / "responder")
        puller = RemoteIndex(remote.url, CLOCK)
        assert await puller.pull(target) == interim
        remote.go.set()
        await until(lambda: place.manifest() == newest)
        assert all(answers(place, serial) for serial in (10, 1999, 2001, 2003))
        assert await puller.pull(target) == newest  # the same generation, complete


async def test_what_is_merged_into_the_large_segment_meanwhile_is_not_lost_to_view(
    signer: IndexDirectory, share: Path
) -> None:
    async with publishing(signer, Late(f"file://{share}"), large_bytes=100_000) as (publisher, _):
        place = IndexDirectory(share)
        first = signer.manifest()
        assert first is not None
        publisher.offer(first)
        await until(lambda: publisher.stats[0].generation == 1)
        publisher.offer(add(signer, *range(10, 2000), keep=False))
        small = add(signer, 3000)
        publisher.offer(small)
        await until(lambda: publisher.stats[0].generation == small.generation)
        merged = add(signer, *range(10, 2000), 3000, keep=False)  # 3000 is in the new base now
        publisher.offer(merged)
        await until(lambda: publisher.stats[0].generation == merged.generation)
        assert answers(place, 3000)


async def test_a_run_that_ends_after_one_pass_publishes_it_and_says_so_if_it_cannot(
    signer: IndexDirectory, share: Path, tmp_path: Path
) -> None:
    manifest = signer.manifest()
    assert manifest is not None
    await Publisher([RemoteIndex(f"file://{share}", CLOCK)], signer, CLOCK).finish(manifest)
    assert IndexDirectory(share).manifest() == manifest
    (tmp_path / "blocked").write_text("")
    with pytest.raises(IndexFileError, match="blocked"):
        await Publisher([RemoteIndex(f"file://{tmp_path}/blocked", CLOCK)], signer, CLOCK).finish(manifest)


def pulled(share: Path, cache: Path, poll_s: float = 0.02) -> PulledIndex:
    return PulledIndex(RemoteIndex(f"file://{share}", CLOCK), IndexDirectory(cache), CLOCK, poll_s=poll_s)


async def publish(signer: IndexDirectory, share: Path) -> None:
    manifest = signer.manifest()
    assert manifest is not None
    await RemoteIndex(f"file://{share}", CLOCK).publish(signer, manifest)


async def test_a_responder_starts_from_its_cache_and_catches_up(
    signer: IndexDirectory, share: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    await publish(signer, share)
    source = pulled(share, cache)
    await source.prepare()
    source.close()
    away = await asyncio.to_thread(share.rename, share.with_name("away"))
    source = pulled(share, cache)
    await source.prepare()
    assert answers(source.directory, 1)
    assert not source.stats.up
    async with following(source):
        await until(lambda: source.stats.failures > 2)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "starting with the previously pulled generation" in errors[0].getMessage()
        add(signer, 2)
        await asyncio.to_thread(away.rename, share)
        await publish(signer, share)
        await until(lambda: source.stats.up)
        assert answers(source.directory, 2)
        assert source.stats.generation == 2
        assert source.stats.bytes > 0
        assert "pulling works again" in caplog.text


async def test_without_cache_and_store_there_is_nothing_to_start_with(share: Path, tmp_path: Path) -> None:
    source = pulled(share, tmp_path / "cache")
    with pytest.raises(IndexFileError, match="share"):
        await source.prepare()
    source.close()


@pytest.mark.parametrize("what", ["a segment's contents", "a segment's length", "the manifest"])
async def test_a_damaged_cache_is_pulled_again(
    signer: IndexDirectory, share: Path, tmp_path: Path, what: str
) -> None:
    cache = tmp_path / "cache"
    await publish(signer, share)
    source = pulled(share, cache)
    await source.prepare()
    source.close()
    manifest = signer.manifest()
    assert manifest is not None
    path = source.directory.segment_path(manifest.segments[0])
    data = path.read_bytes()
    match what:
        case "a segment's contents":
            path.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
        case "a segment's length":
            path.write_bytes(data[:-1])
        case _:
            source.directory.manifest_path.write_bytes(b"{")
    source = pulled(share, cache)
    await source.prepare()
    source.close()
    assert path.read_bytes() == data
    assert source.directory.manifest() == manifest


async def test_a_slow_store_does_not_hold_up_a_start_from_the_cache(
    signer: IndexDirectory, share: Path, tmp_path: Path
) -> None:
    await publish(signer, share)
    source = pulled(share, tmp_path / "cache")
    await source.prepare()
    source.close()

    class Silent(RemoteIndex):
        async def pull(self, directory: IndexDirectory) -> None:
            await asyncio.Event().wait()

    silent = PulledIndex(
        Silent(f"file://{share}", ManualClock(datetime.now(UTC))),
        IndexDirectory(tmp_path / "cache"),
        CLOCK,
        start_s=0.05,
    )
    await silent.prepare()
    assert answers(silent.directory, 1)
    silent.close()


async def test_two_responders_cannot_share_a_cache(
    signer: IndexDirectory, share: Path, tmp_path: Path
) -> None:
    await publish(signer, share)
    first, second = pulled(share, tmp_path / "cache"), pulled(share, tmp_path / "cache")
    await first.prepare()
    with pytest.raises(IndexFileError, match="another process"):
        await second.prepare()
    first.close()


async def test_sighup_looks_at_the_store_at_once(signer: IndexDirectory, share: Path, tmp_path: Path) -> None:
    await publish(signer, share)
    source = pulled(share, tmp_path / "cache", poll_s=3600)
    await source.prepare()
    async with following(source):
        add(signer, 5)
        await publish(signer, share)
        source.reload()
        await until(lambda: answers(source.directory, 5))


@pytest.mark.parametrize("lost", ["restored", "removed", "another signer's"])
async def test_a_store_that_is_ahead_keeps_what_it_has_until_the_first_pass_and_numbers_count_on(
    signer: IndexDirectory, share: Path, tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(signer.path, backup)
    for serial in range(2, 6):
        newest = add(signer, serial)
    await RemoteIndex(f"file://{share}", CLOCK).publish(signer, newest)
    if lost == "restored":
        here = IndexDirectory(backup)
    else:
        here = IndexDirectory(tmp_path / "other")
        for serial in range(1, 9 if lost == "another signer's" else 2):
            add(here, serial)
    generations = Generations(here, CLOCK)
    generations.load()
    remote = RemoteIndex(f"file://{share}", CLOCK)
    publisher = Publisher([remote], here, CLOCK, renumber=lambda above: generations.publish(above=above))
    generations.published = publisher.offer
    publisher.takes_over = asyncio.Event()
    task = asyncio.create_task(publisher.run())
    try:
        manifest = here.manifest()
        assert manifest is not None
        publisher.offer(manifest)
        await until(lambda: not publisher.stats[0].up)
        for serial in (21, 22):
            await generations.add_changes(lambda writer, one=serial: writer.add(CA.answer(one)), [])  # type: ignore[misc]
        assert IndexDirectory(share).manifest() == newest
        assert caplog.text.count("is ahead of generation") == 1
        publisher.takes_over.set()
        await until(lambda: publisher.stats[0].up and IndexDirectory(share).manifest() == here.manifest())
        taken = here.manifest()
        assert taken is not None
        assert taken.generation > newest.generation
        assert all(answers(IndexDirectory(share), serial) for serial in (1, 21, 22))
    finally:
        task.cancel()
        await asyncio.wait([task])
        generations.close()


async def test_a_run_of_one_pass_counts_on_from_a_store_that_is_ahead(
    signer: IndexDirectory, share: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(signer.path, backup)
    for serial in range(2, 6):
        newest = add(signer, serial)
    remote = RemoteIndex(f"file://{share}", CLOCK)
    await remote.publish(signer, newest)
    generations = Generations(IndexDirectory(backup), CLOCK)
    manifest = generations.load()
    assert manifest is not None
    publisher = Publisher(
        [remote], generations.directory, CLOCK, renumber=lambda above: generations.publish(above=above)
    )
    await publisher.finish(manifest)
    assert IndexDirectory(share).manifest() == generations.directory.manifest()
    assert remote.generation > newest.generation
    generations.close()


def spoilt(share: Path, content: bytes) -> None:
    share.mkdir()
    (share / "manifest.json").write_bytes(content)


async def test_a_manifest_in_a_store_that_somebody_has_spoilt_is_published_again(
    signer: IndexDirectory, share: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = signer.manifest()
    assert manifest is not None
    spoilt(share, b'{"version": 1, "generation": ')
    async with publishing(signer, f"file://{share}") as (publisher, _):
        publisher.offer(manifest)
        await until(lambda: publisher.stats[0].generation == manifest.generation)
    assert IndexDirectory(share).manifest() == manifest
    assert "manifest.json: not a manifest" in caplog.text


async def test_a_store_whose_numbers_are_used_up_is_refused_by_name(
    signer: IndexDirectory, share: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = signer.manifest()
    assert manifest is not None
    last = replace(manifest, generation=1 << 53)
    spoilt(share, last.to_bytes())
    async with publishing(signer, f"file://{share}") as (publisher, _):
        publisher.offer(manifest)
        await until(lambda: publisher.stats[0].failures > 0)
    assert IndexDirectory(share).manifest() == last
    assert signer.manifest() == manifest
    assert "leaves no higher numbers: remove its manifest.json" in caplog.text
