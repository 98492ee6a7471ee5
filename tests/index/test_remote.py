from __future__ import annotations

import asyncio
import functools
import hashlib
import http.server
import os
import random
import shutil
import threading
import time
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ocspd.clock import ManualClock
from ocspd.errors import ConfigError, IndexFileError
from ocspd.index.directory import COPY_NAME, IndexDirectory
from ocspd.index.manifest import SegmentRef
from ocspd.index.remote import REMOTE_GRACE_S, REMOTE_KEPT_S, RemoteIndex
from ocspd.index.store import RemoteStore
from ocspd.machine import Machine
from tests.index.buckets import Bucket, Proxy, bucket, proxy
from tests.native.answers import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator
    from pathlib import Path

    from ocspd.index.manifest import Manifest

CA = Authority()
CLOCK = ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024  (as shutil's own)


def add(directory: IndexDirectory, *serials: int, keep: bool = True, now_s: int = 1_772_366_400) -> Manifest:
    """Publish one more segment in a directory, before the old ones or instead of them."""
    directory.create()
    before = directory.manifest()
    with directory.writer(now_s) as writer:
        for serial in serials:
            writer.add(CA.answer(serial))
        writer.finish()
    old = before.segments if before and keep else ()
    return directory.publish([directory.adopt(writer.path), *old], now_s)


@pytest.fixture
def source(tmp_path: Path) -> IndexDirectory:
    """A signer's index with two segments."""
    directory = IndexDirectory(tmp_path / "signer")
    add(directory, 1, 2, 3)
    add(directory, 4)
    return directory


@pytest.fixture
def cut(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between us and S3."""
    with proxy(s3.address) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.address[1]}")
        yield running


@pytest.fixture
def target(tmp_path: Path) -> IndexDirectory:
    return IndexDirectory(tmp_path / "responder")


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket() as running:
        yield running


@pytest.fixture
def s3(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in server.names():
        server.delete(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


class Folder:
    """What `Bucket` is for S3, for file://."""

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, f"file://{path}"

    def names(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir()}

    def put(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def get(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def delete(self, name: str) -> None:
        (self.path / name).unlink()


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket | Folder:
    if request.param == "file":
        return Folder(tmp_path / "a share")
    found = request.getfixturevalue("s3")
    assert isinstance(found, Bucket)
    return found


def files(directory: IndexDirectory) -> set[str]:
    found = {path.name for path in directory.path.iterdir()} if directory.path.exists() else set()
    return found - {COPY_NAME}


def names(manifest: Manifest) -> set[str]:
    return {"manifest.json", *(ref.file_name for ref in manifest.segments)}


def holds(directory: IndexDirectory, serials: Iterable[int]) -> bool:
    index = directory.open()
    return all(index.lookup("sha1", *CA.hashes("sha1"), serial) is not None for serial in serials)


async def test_what_is_published_is_pulled_octet_by_octet(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    manifest = source.manifest()
    assert manifest is not None
    await RemoteIndex(place.url, CLOCK).publish(source, manifest)
    assert place.names() == names(manifest)
    remote = RemoteIndex(place.url, CLOCK)
    assert await remote.pull(target) == manifest
    assert target.manifest() == manifest
    assert files(target) == names(manifest)
    for ref in manifest.segments:
        target.verify(ref)
    assert holds(target, (1, 2, 3, 4))
    assert await remote.pull(target) is None
    assert await RemoteIndex(place.url, CLOCK).pull(target) is None  # a restart pulls nothing again


async def test_only_new_segments_travel(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    publisher, puller = RemoteIndex(place.url, CLOCK), RemoteIndex(place.url, CLOCK)
    first = source.manifest()
    assert first is not None
    await publisher.publish(source, first)
    await puller.pull(target)
    total = sum(ref.size_bytes for ref in first.segments)
    assert (publisher.published_bytes, puller.pulled_bytes) == (total, total)
    second = add(source, 5)
    another = RemoteIndex(place.url, CLOCK)  # one that does not remember what is there
    await another.publish(source, second)
    await puller.pull(target)
    assert another.published_bytes == second.segments[0].size_bytes
    assert puller.pulled_bytes == total + second.segments[0].size_bytes
    assert holds(target, (1, 5))


async def test_a_large_segment_goes_in_parts_and_comes_in_pieces(
    s3: Bucket, target: IndexDirectory, tmp_path: Path
) -> None:
    directory = IndexDirectory(tmp_path / "large")
    directory.create()
    answers = [CA.answer(serial) for serial in range(100)]
    with directory.writer(1) as writer:
        for answer in answers:
            writer.add(answer)
        writer.finish()
    ref = directory.adopt(writer.path)
    manifest = directory.publish([ref], 1)
    # A segment of 12 MB would take long to sign: the transport sees any file as one.
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(range(256)) * 48_000)
    remote = RemoteIndex(s3.url, CLOCK)
    await remote._store.write("blob", blob)
    head = s3.client.head_object(Bucket=s3.name, Key="an/index/blob")
    assert head["ETag"].strip('"').endswith("-3")  # three parts
    pieces = [bytes(piece) async for piece in remote._store.stream("blob")]
    assert len(pieces) > 5
    assert b"".join(pieces) == blob.read_bytes()
    assert (
        b"".join([bytes(p) async for p in remote._store.stream("blob", 12_000_000)])
        == (blob.read_bytes()[12_000_000:])
    )
    await remote.publish(directory, manifest)
    assert await remote.pull(target) == manifest


@pytest.mark.parametrize(
    "damage", ["corrupted", "missing", "truncated", "longer", "manifest cut", "manifest gone", "no segment"]
)
async def test_nothing_damaged_is_used_and_the_last_good_generation_stays(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory, damage: str
) -> None:
    publisher, puller = RemoteIndex(place.url, CLOCK), RemoteIndex(place.url, CLOCK)
    good = source.manifest()
    assert good is not None
    await publisher.publish(source, good)
    await puller.pull(target)
    manifest = add(source, 5)
    await publisher.publish(source, manifest)
    segment = manifest.segments[0].file_name
    data = place.get(segment)
    match damage:
        case "corrupted":
            place.put(segment, data[:-1] + bytes([data[-1] ^ 1]))
            message = "contents do not match the manifest's SHA-256"
        case "missing":
            place.delete(segment)
            message = "no such object"
        case "truncated":
            place.put(segment, data[:-1])
            message = "bytes; not used"
        case "longer":
            place.put(segment, data * 3)
            message = "bytes; not used"
        case "manifest cut":
            place.put("manifest.json", place.get("manifest.json")[:-40])
            message = "manifest.json: not a manifest"
        case "manifest gone":
            place.delete("manifest.json")
            message = "nothing has been published there yet"
        case _:
            bad = b"not a segment"
            name = hashlib.sha256(bad).hexdigest()
            place.put(f"{name}.seg", bad)
            text = manifest.to_bytes().decode().replace(manifest.segments[0].sha256, name)
            text = text.replace(f'"size_bytes": {len(data)}', f'"size_bytes": {len(bad)}', 1)
            place.put("manifest.json", text.encode())
            message = ".seg"
    for _ in range(2):
        with pytest.raises(IndexFileError) as caught:
            await puller.pull(target)
        assert message in str(caught.value)
        assert target.manifest() == good
        assert holds(target, (1, 2, 3, 4))
        assert not [name for name in files(target) if name.startswith((".", "new-"))]
        if damage != "no segment":  # its contents are what the manifest says, only of no use
            assert files(target) == names(good)
    place.put(segment, data)
    place.put("manifest.json", manifest.to_bytes())
    assert await puller.pull(target) == manifest
    assert holds(target, (1, 2, 3, 4, 5))


async def test_a_store_out_of_reach_is_one_line_that_says_why(
    s3: Bucket, cut: Proxy, source: IndexDirectory, target: IndexDirectory
) -> None:
    remote = RemoteIndex(s3.url, CLOCK)
    manifest = source.manifest()
    assert manifest is not None
    await remote.publish(source, manifest)
    cut.stop()
    for act in (remote.pull(target), remote.publish(source, add(source, 9))):
        with pytest.raises(IndexFileError) as caught:
            await act
        assert str(caught.value).startswith(f"{s3.url}/")
        assert "Connection refused" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert files(target) == set()
    cut.start()
    assert await remote.pull(target) == manifest


@pytest.mark.parametrize("url", ["s3://nobody-made-this/x", "file:///nowhere/at/all"])
async def test_a_place_that_does_not_exist_is_no_empty_index(
    s3: Bucket, target: IndexDirectory, url: str
) -> None:
    with pytest.raises(IndexFileError) as caught:
        await RemoteIndex(url, CLOCK).pull(target)
    assert str(caught.value).startswith(url)
    assert ("NoSuchBucket" in str(caught.value)) == url.startswith("s3")


async def test_a_broken_connection_is_taken_up_where_it_broke(s3: Bucket, cut: Proxy, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(15_000_000)  # a segment of that size would take long to sign
    ref = SegmentRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), entries=0, created_at=0)
    s3.put(ref.file_name, data)
    cut.limit = 1_500_000
    remote = RemoteIndex(s3.url, CLOCK, retry_s=(0.01, 0.01))
    assert await remote._download(ref, tmp_path / "segment") == ref.sha256
    assert (tmp_path / "segment").read_bytes() == data
    assert cut.cuts > 4
    assert remote.pulled_bytes == len(data)


async def test_an_interrupted_download_leaves_nothing(
    s3: Bucket, cut: Proxy, target: IndexDirectory, tmp_path: Path
) -> None:
    directory = IndexDirectory(tmp_path / "signer")
    manifest = add(directory, *range(2000))
    await RemoteIndex(s3.url, CLOCK).publish(directory, manifest)
    begun = asyncio.Event()

    class Stalled(RemoteStore):
        async def stream(self, name: str, offset: int = 0) -> AsyncGenerator[memoryview, None]:
            async for piece in super().stream(name, offset):
                yield piece[:1000]
                begun.set()
                await asyncio.Event().wait()

    remote = RemoteIndex(s3.url, CLOCK, store=Stalled(s3.url))
    pull = asyncio.create_task(remote.pull(target))
    await begun.wait()
    assert any(name.startswith("new-") for name in files(target))
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert files(target) == set()


async def test_a_full_disk_refuses_the_new_generation_and_keeps_the_old(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    free = 1 << 40
    puller = RemoteIndex(place.url, CLOCK, disk_usage=lambda _: Usage(1 << 40, 0, free))
    publisher = RemoteIndex(place.url, CLOCK)
    good = source.manifest()
    assert good is not None
    await publisher.publish(source, good)
    await puller.pull(target)
    manifest = add(source, *range(10, 20))
    await publisher.publish(source, manifest)
    free = (1 << 30) + manifest.segments[0].size_bytes - 1
    with pytest.raises(
        IndexFileError, match=r"not enough space for the new generation \(it needs 1 MiB and 1024 MiB"
    ):
        await puller.pull(target)
    assert (target.manifest(), files(target)) == (good, names(good))
    free += 1
    assert await puller.pull(target) == manifest


async def test_a_disk_that_fills_up_meanwhile_is_one_line(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    manifest = source.manifest()
    assert manifest is not None
    await RemoteIndex(place.url, CLOCK).publish(source, manifest)

    class Full(Machine):
        def replace(self, source: str | Path, target: str | Path) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(IndexFileError, match="cannot write: No space left on device"):
        await RemoteIndex(place.url, CLOCK).pull(IndexDirectory(target.path, Full()))
    assert files(target) == set()


async def test_S7_a_generation_that_goes_back_counts_only_when_published_later(
    place: Bucket | Folder, tmp_path: Path, target: IndexDirectory
) -> None:
    publisher, puller = RemoteIndex(place.url, CLOCK), RemoteIndex(place.url, CLOCK)
    signer = IndexDirectory(tmp_path / "signer")
    old = add(signer, 1, now_s=1000)
    new = add(signer, 2, now_s=2000)
    await publisher.publish(signer, new)
    await puller.pull(target)
    await publisher.publish(signer, old)
    for remote in (puller, puller, RemoteIndex(place.url, CLOCK)):
        with pytest.raises(IndexFileError, match="generation 1 is older than generation 2, which is in use"):
            await remote.pull(target)
        assert target.manifest() == new
    foreign = add(IndexDirectory(tmp_path / "foreign"), 4, now_s=2000)
    await publisher.publish(IndexDirectory(tmp_path / "foreign"), replace(foreign, generation=99))
    with pytest.raises(IndexFileError, match="generation 99 of another index is older than generation 2"):
        await puller.pull(target)
    rebuilt = IndexDirectory(tmp_path / "rebuilt")
    restored = add(rebuilt, 3, now_s=3000)
    assert restored.generation == 1
    await publisher.publish(rebuilt, restored)
    assert await puller.pull(target) == restored
    assert holds(target, (3,))


async def test_P1_what_somebody_removed_or_cut_in_the_cache_is_pulled_again(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    manifest = source.manifest()
    assert manifest is not None
    await RemoteIndex(place.url, CLOCK).publish(source, manifest)
    puller = RemoteIndex(place.url, CLOCK)
    await puller.pull(target)
    victim = target.segment_path(manifest.segments[0])
    for damage in ("removed", "cut", "manifest", "directory"):
        match damage:
            case "removed":
                victim.unlink()
            case "cut":
                os.truncate(victim, 100)
            case "manifest":
                target.manifest_path.write_text('{"version": 1, "version": 1}')
            case _:
                shutil.rmtree(target.path)
        assert await puller.pull(target) == manifest
        assert holds(target, (1, 2, 3, 4))
        assert await puller.pull(target) is None


async def test_a_cache_that_a_manifest_from_the_future_poisoned_is_pulled_again(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    manifest = source.manifest()
    assert manifest is not None
    publisher, puller = RemoteIndex(place.url, CLOCK), RemoteIndex(place.url, CLOCK)
    await publisher.publish(source, manifest)
    await puller.pull(target)
    far = replace(manifest, generation=1000, published_at=253_402_300_799)
    await publisher.publish(source, far)
    with pytest.raises(IndexFileError, match="hours in the future"):
        await puller.pull(target)
    assert target.manifest() == manifest
    target.manifest_path.write_bytes(far.to_bytes())  # what an earlier version pulled
    await publisher.publish(source, manifest)
    assert await RemoteIndex(place.url, CLOCK).pull(target) == manifest


async def test_P1_a_cache_that_cannot_be_written_or_listed_is_one_error_of_the_index(
    place: Bucket | Folder, source: IndexDirectory, tmp_path: Path
) -> None:
    manifest = source.manifest()
    assert manifest is not None
    await RemoteIndex(place.url, CLOCK).publish(source, manifest)
    (tmp_path / "file").touch()
    target = IndexDirectory(tmp_path / "file")
    with pytest.raises(IndexFileError, match="file"):
        await RemoteIndex(place.url, CLOCK).pull(target)


async def test_S10_segments_of_many_small_changes_are_bounded_in_size(
    place: Bucket | Folder, tmp_path: Path
) -> None:
    clock = ManualClock(CLOCK.instant)
    signer = IndexDirectory(tmp_path / "signer")
    remote = RemoteIndex(place.url, clock)
    manifest = add(signer, 0)
    kept_bytes = 3 * manifest.segments[0].size_bytes
    for serial in range(1, 41):
        await remote.publish(signer, manifest)
        await remote.collect(manifest, kept_bytes=kept_bytes)
        manifest = add(signer, serial, keep=False)
        clock.advance(timedelta(seconds=REMOTE_KEPT_S / 10))
    await remote.publish(signer, manifest)
    clock.advance(timedelta(seconds=1))
    await remote.collect(manifest, kept_bytes=kept_bytes)
    left = {name for name in place.names() if name.endswith(".seg")}
    assert len(left) <= 10 + 3
    assert manifest.segments[0].file_name in left


async def test_old_segments_go_after_a_grace_time_that_a_restart_does_not_forget(
    place: Bucket | Folder, tmp_path: Path
) -> None:
    clock = ManualClock(CLOCK.instant)
    signer = IndexDirectory(tmp_path / "signer")
    first = add(signer, 1)
    await RemoteIndex(place.url, clock).publish(signer, first)
    place.put("somebody-elses.txt", b"x")
    place.put("short.seg", b"x")
    clock.advance(timedelta(days=30))
    second = add(signer, 2, keep=False)
    for wait_s in (0, REMOTE_GRACE_S / 2, REMOTE_GRACE_S / 2 - 1):
        clock.advance(timedelta(seconds=wait_s))
        remote = RemoteIndex(place.url, clock)
        await remote.publish(signer, second)
        assert await remote.collect(second) == []
    assert names(first) <= place.names()
    clock.advance(timedelta(seconds=2))
    assert await RemoteIndex(place.url, clock).collect(second) == [first.segments[0].file_name]
    left = {"somebody-elses.txt", "short.seg", "retired.json"}
    assert place.names() == names(second) | left
    third = signer.publish(first.segments, 1_772_366_500)  # what was removed is needed again
    remote = RemoteIndex(place.url, clock)
    await remote.publish(signer, third)
    assert names(third) <= place.names()


async def test_a_note_of_old_segments_that_cannot_be_read_starts_the_grace_time_again(
    place: Bucket | Folder, source: IndexDirectory
) -> None:
    manifest = add(source, 8, keep=False)
    remote = RemoteIndex(place.url, CLOCK)
    await remote.publish(source, manifest)
    place.put("0" * 64 + ".seg", b"x")
    for text in (b"[]", b"{", b'{"a": []}', b"\xff"):
        place.put("retired.json", text)
        assert await RemoteIndex(place.url, CLOCK).collect(manifest) == []


async def test_local_segments_go_after_the_grace_time(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    clock = ManualClock(datetime.now(UTC))
    publisher, puller = RemoteIndex(place.url, clock), RemoteIndex(place.url, clock)
    first = source.manifest()
    assert first is not None
    await publisher.publish(source, first)
    await puller.pull(target)
    old = [target.segment_path(ref) for ref in first.segments]
    for path in old:
        os.utime(path, (1, 1))
    second = add(source, 7, keep=False)
    await publisher.publish(source, second)
    await puller.pull(target)
    assert all(path.exists() for path in old)  # its grace time has begun with this pull
    clock.instant = datetime.fromtimestamp(time.time() + 301, UTC)
    third = add(source, 8, keep=False)
    await publisher.publish(source, third)
    await puller.pull(target)
    assert not any(path.exists() for path in old)
    assert names(third) <= files(target)


async def test_a_segment_damaged_on_the_signers_disk_is_not_sent(
    place: Bucket | Folder, source: IndexDirectory
) -> None:
    manifest = source.manifest()
    assert manifest is not None
    path = source.segment_path(manifest.segments[1])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(IndexFileError, match="contents do not match"):
        await RemoteIndex(place.url, CLOCK).publish(source, manifest)
    if isinstance(place, Bucket) or place.path.exists():
        assert "manifest.json" not in place.names()


async def test_a_wrong_file_of_a_segments_name_is_replaced(
    place: Bucket | Folder, source: IndexDirectory, target: IndexDirectory
) -> None:
    manifest = source.manifest()
    assert manifest is not None
    await RemoteIndex(place.url, CLOCK).publish(source, manifest)
    target.create()
    target.segment_path(manifest.segments[0]).write_bytes(b"cut off")
    await RemoteIndex(place.url, CLOCK).pull(target)
    target.verify(manifest.segments[0])


@contextmanager
def site(path: Path) -> Iterator[str]:
    """Serve a directory as a static site does that knows neither ETag nor Range."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(path))
    ) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/index"
        running.shutdown()


async def test_a_static_site_is_enough_to_pull_from(
    tmp_path: Path, source: IndexDirectory, target: IndexDirectory
) -> None:
    shutil.copytree(source.path, tmp_path / "htdocs" / "index")
    with site(tmp_path / "htdocs") as url:
        remote = RemoteIndex(url, CLOCK)
        assert await remote.pull(target) == source.manifest()
        assert await remote.pull(target) is None
        with pytest.raises(IndexFileError, match="nothing has been published there yet"):
            await RemoteIndex(f"{url}/nothing", CLOCK).pull(target)
        with pytest.raises(ConfigError, match="this URL is read-only"):
            remote.check_writable()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", "use file://, s3://, gs://, az:// or https://"),
        ("memory:///x", "use file://"),
        ("s3:///x", "no bucket given"),
        ("gs://", "no bucket given"),
        ("az://", "no container given"),
        ("http://example.org/x", "only be pulled over https://"),
        ("https:///x", "use file://"),
        ("file://host/x", "write file:///absolute/path"),
        ("https://user:secret@example.org/x", "remove user"),
        ("https://example.org/x?sig=secret", "remove user"),
        ("az://container/x", "Account must be specified"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_at_once(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as caught:
        RemoteIndex(url, CLOCK)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("gs://bucket/x", {}),
        ("az://container/x", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}),
        ("s3://bucket/x", {"AWS_REGION": "eu-north-1"}),
        ("https://example.org/x/", {}),
    ],
)
def test_every_store_is_made_from_its_environment_without_contacting_it(
    url: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert RemoteIndex(url, CLOCK).url == url.rstrip("/")


def test_a_private_ca_of_a_store_comes_from_a_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE: .*: No such file"):
        RemoteIndex("s3://bucket/x", CLOCK)
    (tmp_path / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    RemoteIndex("s3://bucket/x", CLOCK)
    (tmp_path / "ca.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="s3://bucket/x"):
        RemoteIndex("s3://bucket/x", CLOCK)
