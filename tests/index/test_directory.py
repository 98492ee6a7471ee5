from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ocspd._index import Segment
from ocspd.errors import IndexFileError, OCSPDError
from ocspd.index.directory import IndexDirectory
from ocspd.index.manifest import MAX_BYTES, Manifest, SegmentRef, parse_manifest
from ocspd.machine import Machine
from tests.native.world import GOOD, NOW_S, REVOKED, authorities

if TYPE_CHECKING:
    from pathlib import Path

CA = authorities()[0]


@pytest.fixture
def directory(tmp_path: Path) -> IndexDirectory:
    index = IndexDirectory(tmp_path / "index")
    index.create()
    return index


def add(directory: IndexDirectory, *serials: int) -> SegmentRef:
    with directory.writer(NOW_S) as writer:
        for serial in serials:
            writer.add(CA.answer(serial))
        writer.finish()
    return directory.adopt(writer.path)


def names(directory: IndexDirectory) -> set[str]:
    return {path.name for path in directory.path.iterdir()}


def test_what_is_published_is_what_is_opened(directory: IndexDirectory) -> None:
    base, delta = add(directory, GOOD, REVOKED), add(directory, GOOD)
    directory.publish([base], NOW_S)
    manifest = directory.publish([delta, base], NOW_S + 1)
    assert manifest == directory.manifest()
    assert (manifest.generation, manifest.published_at) == (2, NOW_S + 1)
    index = directory.open()
    assert index.generation == 2
    assert [segment.entries for segment in index.segments] == [1, 2]
    assert names(directory) == {"manifest.json", "published.json", base.file_name, delta.file_name}
    for ref in (base, delta):
        directory.verify(ref)


def test_before_the_first_publication_there_is_nothing_to_open(directory: IndexDirectory) -> None:
    assert directory.manifest() is None
    with pytest.raises(IndexFileError, match="nothing has been published here yet"):
        directory.open()
    with pytest.raises(IndexFileError, match="nothing has been published here yet"):
        IndexDirectory(directory.path / "absent").open()


def test_a_file_in_the_way_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexFileError, match="file: cannot create index directory"):
        IndexDirectory(tmp_path / "file").create()
    with pytest.raises(IndexFileError, match=r"file/manifest.json: cannot read manifest"):
        IndexDirectory(tmp_path / "file").manifest()


GOOD_MANIFEST = {
    "version": 1,
    "generation": 7,
    "published_at": NOW_S,
    "segments": [{"sha256": "ab" * 32, "size_bytes": 9, "entries": 3, "created_at": 1}],
}


def test_a_manifest_reads_back_as_it_was_written() -> None:
    manifest = parse_manifest(json.dumps(GOOD_MANIFEST).encode(), "x")
    assert manifest.segments[0].file_name == "ab" * 32 + ".seg"
    assert parse_manifest(manifest.to_bytes(), "x") == manifest


def changed(**changes: object) -> bytes:
    return json.dumps(GOOD_MANIFEST | changes).encode()


def changed_segment(**changes: object) -> bytes:
    return changed(segments=[{"sha256": "ab" * 32, "size_bytes": 9, "entries": 3, "created_at": 1} | changes])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
        changed(version=2),
        changed(version="1"),
        changed(generation=-1),
        changed(generation=True),
        changed(generation=1.5),
        changed(segments=None),
        changed(segments=[[]]),
        changed(segments={"a": 1}),
        changed_segment(sha256="AB" * 32),
        changed_segment(sha256="../../etc/passwd"),
        changed_segment(sha256="ab" * 32 + "\n"),
        changed_segment(size_bytes="9"),
        changed_segment(entries=None),
        changed().replace(b"7", b"1" * 5000),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_source(data: bytes) -> None:
    with pytest.raises(IndexFileError, match=r"^the source: "):
        parse_manifest(data, "the source")


def test_a_missing_or_exchanged_segment_is_named(directory: IndexDirectory) -> None:
    # so many that the size differs: a few answers of one form fill no further page
    one, two = add(directory, GOOD), add(directory, *range(100, 200))
    directory.publish([one], NOW_S)
    shutil.copy(directory.segment_path(two), directory.segment_path(one))
    with pytest.raises(IndexFileError, match=rf"{one.file_name}: .* bytes, but the manifest says"):
        directory.open()
    with pytest.raises(IndexFileError, match=f"{one.file_name}: contents do not match"):
        directory.verify(one)
    directory.segment_path(one).unlink()
    with pytest.raises(IndexFileError, match=one.file_name):
        directory.open()
    with pytest.raises(IndexFileError, match=one.file_name):
        directory.verify(one)


def test_a_flipped_bit_in_a_segment_is_found_by_its_sha256(directory: IndexDirectory) -> None:
    ref = add(directory, GOOD)
    path = directory.segment_path(ref)
    data = bytearray(path.read_bytes())
    data[4200] ^= 1
    path.write_bytes(data)
    with pytest.raises(IndexFileError, match="contents do not match"):
        directory.verify(ref)


def test_there_is_one_writer_at_a_time_over_processes(directory: IndexDirectory) -> None:
    program = (
        "import sys\n"
        "from ocspd.index.directory import IndexDirectory\n"
        "from ocspd.errors import IndexFileError\n"
        "try:\n  with IndexDirectory(sys.argv[1]).lock(): print('locked')\n"
        "except IndexFileError as err: print(err)\n"
    )

    def other() -> str:
        command = [sys.executable, "-c", program, str(directory.path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with directory.lock():
        assert "another process is writing this index" in other()
        with pytest.raises(IndexFileError, match="another process"), directory.lock():
            pass
    assert other() == "locked\n"


def test_an_error_under_the_lock_gives_it_back(directory: IndexDirectory) -> None:
    with pytest.raises(ZeroDivisionError), directory.lock():
        raise ZeroDivisionError
    with directory.lock():
        pass


def test_collecting_keeps_what_the_manifest_names_and_what_is_young(directory: IndexDirectory) -> None:
    old, new = add(directory, GOOD), add(directory, REVOKED)
    directory.publish([old], NOW_S)
    directory.publish([new], NOW_S)
    leftover = directory.path / ".new-1.seg.abc"
    leftover.write_bytes(b"")
    (directory.path / "README").write_text("mine")
    now = os.stat(leftover).st_ctime  # noqa: PTH116
    assert directory.collect(now + 299) == []
    assert sorted(directory.collect(now + 301)) == sorted([old.file_name, leftover.name])
    assert names(directory) == {"manifest.json", "published.json", new.file_name, "README"}
    assert directory.open().entries == 1


def test_a_segment_whose_writer_lives_is_never_collected(directory: IndexDirectory) -> None:
    with directory.writer(NOW_S) as writer:
        writer.add(CA.answer(GOOD))
        assert directory.collect(1 << 60) == []
        writer.finish()
        assert directory.collect(1 << 60) == []
        assert directory.adopt(writer.path).entries == 1


def test_a_segment_that_cannot_be_adopted_is_removed(directory: IndexDirectory) -> None:
    path = directory.new_path()
    path.write_bytes(b"no segment" * 1000)
    with pytest.raises(IndexFileError, match="wrong magic"):
        directory.adopt(path)
    assert not path.exists()


def test_a_mapped_segment_outlives_its_file(directory: IndexDirectory) -> None:
    ref = add(directory, GOOD)
    directory.publish([ref], NOW_S)
    index = directory.open()
    directory.publish([], NOW_S)
    now = os.stat(directory.segment_path(ref)).st_ctime  # noqa: PTH116
    assert directory.collect(now + 301) == [ref.file_name]
    assert index.lookup("sha1", *CA.hashes("sha1"), GOOD) is not None


# A crash between two steps: the previous generation goes on being served


class Crashing(Machine):
    """A machine on which the writer dies at one of its steps."""

    def __init__(self, step: int) -> None:
        self.left = step

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def fsync(self, descriptor: int) -> None:
        self.step()
        super().fsync(descriptor)

    def replace(self, source: str | Path, target: str | Path) -> None:
        self.step()
        super().replace(source, target)

    def fsync_directory(self, path: Path) -> None:
        self.step()
        super().fsync_directory(path)


@pytest.mark.parametrize("step", range(7))
def test_a_crash_between_two_steps_leaves_the_previous_generation(
    directory: IndexDirectory, step: int
) -> None:
    before = directory.publish([add(directory, GOOD)], NOW_S)
    expected = names(directory)
    crashing = IndexDirectory(directory.path, Crashing(step))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  (a segment has five steps, a manifest three)
        ref = add(crashing, REVOKED)
        crashing.publish([ref], NOW_S)
    assert directory.manifest() == before
    assert directory.open().generation == 1
    after = IndexDirectory(directory.path)  # who comes after the crash
    after.discard_unfinished()
    after.collect(1 << 60)
    assert names(directory) == expected
    assert directory.publish([add(directory, REVOKED)], NOW_S).generation == 2


def test_a_directory_without_write_permission_is_named(directory: IndexDirectory) -> None:
    ref = add(directory, GOOD)
    shutil.rmtree(directory.path)
    with pytest.raises(OCSPDError, match=r"index/manifest.json: cannot write"):
        directory.publish([ref], NOW_S)
    with pytest.raises(IndexFileError, match="cannot write segment"):
        directory.writer(NOW_S)


def test_the_content_addressed_name_is_the_sha256_of_the_file(directory: IndexDirectory) -> None:
    ref = add(directory, GOOD)
    path = directory.segment_path(ref)
    assert (
        subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout[:64].decode()
        == ref.sha256
    )
    segment = Segment(str(path))
    assert (ref.entries, ref.size_bytes, ref.created_at) == (1, path.stat().st_size, NOW_S)
    assert segment.entries == ref.entries
    assert isinstance(Manifest(generation=1, published_at=1, segments=(ref,)).to_bytes(), bytes)
