from __future__ import annotations

import gc
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocspd._index import NO_NEXT_UPDATE, Index, Segment
from ocspd._responder import COUNTER_BLOCK_BYTES, Responder
from ocspd.errors import IndexFileError
from ocspd.index._writer import SegmentWriter
from tests.native.segments import ISSUER_SIZE, TEMPLATE_SIZE, patched, read_header, sealed, with_header
from tests.native.world import ABSENT, ENDLESS, GOOD, NOW_S, authorities, segment_path, stored

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(segment_path()).read_bytes()
HEADER = read_header(DATA)
REQUESTS = [authorities()[0].request(serial) for serial in range(GOOD, ABSENT + 1)]


def exercise(path: Path) -> None:
    """Do everything a segment can be asked for; damage may be noticed or not, never followed."""
    try:
        segment = Segment(str(path))
    except IndexFileError:
        return
    responder = Responder(Index([segment]))
    responder.set_time(NOW_S)
    for answer in stored():
        with suppress(IndexFileError):
            found = segment.lookup(*answer.key)
            assert found is None or len(found.der) < 1 << 20
    for request in REQUESTS:
        assert responder.reply_to(request).body
    for action in (
        segment.verify,
        segment.issuer_stats,
        lambda: list(segment.records()),
        lambda: copy(segment),
    ):
        with suppress(IndexFileError):
            action()


def copy(segment: Segment) -> None:
    with SegmentWriter(segment.path + ".copy", created_at=0) as writer:
        writer.add_segment(segment)  # not finished: fsync would take most of the time


def refused(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "damaged.seg"
    path.write_bytes(data)
    with pytest.raises(IndexFileError) as raised:
        Segment(str(path))
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_every_stored_answer_is_found_under_its_own_certid_and_no_other() -> None:
    segment = Segment(segment_path())
    newest = {answer.key: answer for answer in stored()}
    assert segment.entries == len(newest)
    for key, answer in newest.items():
        found = segment.lookup(*key)
        assert found is not None
        assert found.der == answer.der
    first, second = authorities()
    assert segment.lookup("sha1", *first.hashes("sha1"), ABSENT) is None
    assert segment.lookup("sha1", *first.hashes("sha1"), -GOOD) is None
    assert segment.lookup("sha1", *first.hashes("sha1"), 1 << 600) is None
    mixed = (first.hashes("sha1")[0], second.hashes("sha1")[1])
    assert segment.lookup("sha1", *mixed, GOOD) is None
    assert segment.lookup("sha1", b"", b"", GOOD) is None
    assert segment.lookup("sha256", b"a" * 100, b"b" * 100, GOOD) is None
    with pytest.raises(ValueError, match="md5"):
        segment.lookup("md5", *first.hashes("sha1"), GOOD)


def test_records_and_statistics_cover_the_whole_segment() -> None:
    segment = Segment(segment_path())
    newest = {answer.key: answer.der for answer in stored()}
    keys = segment.issuer_keys
    assert {(*keys[number], serial): answer.der for number, serial, answer in segment.records()} == newest
    stats = segment.issuer_stats()
    assert sum(row["entries"] for row in stats) == len(newest) == segment.entries
    assert sum(row["revoked"] for row in stats) == 4
    segment.verify()


def test_an_answer_without_next_update_says_so() -> None:
    found = Segment(segment_path()).lookup("sha1", *authorities()[0].hashes("sha1"), ENDLESS)
    assert found is not None
    assert found.next_update == NO_NEXT_UPDATE


def test_the_newest_segment_wins(tmp_path: Path) -> None:
    newer = authorities()[0].answer(GOOD)
    with SegmentWriter(str(tmp_path / "new.seg"), created_at=NOW_S) as writer:
        writer.add(newer)
        writer.finish()
    index = Index([Segment(str(tmp_path / "new.seg")), Segment(segment_path())], generation=7)
    key = ("sha1", *authorities()[0].hashes("sha1"), GOOD)
    found = index.lookup(*key)
    assert found is not None
    assert found.der == newer
    assert index.generation == 7
    assert index.entries == Segment(segment_path()).entries + 1


def test_an_index_without_segments_knows_nobody() -> None:
    assert Index([]).lookup("sha1", b"a" * 20, b"b" * 20, 1) is None
    assert Responder(Index([])).reply_to(authorities()[0].request(GOOD)).outcome == "unknown_issuer"


# Damage


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 5000, len(DATA) // 2, len(DATA) - 1])
def test_a_truncated_segment_is_refused_with_its_name(tmp_path: Path, size: int) -> None:
    refused(tmp_path, DATA[:size])


def test_a_segment_with_octets_behind_it_is_refused(tmp_path: Path) -> None:
    assert "truncated or damaged" in refused(tmp_path, DATA + b"\0")


def test_a_segment_of_another_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    assert "version 2 is not the version 1" in refused(tmp_path, sealed(with_header(DATA, version=2)))


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    assert "wrong magic" in refused(tmp_path, b"{}" * 4096)


@pytest.mark.parametrize("name", ["missing.seg", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IndexFileError, match="segment"):
        Segment(str(tmp_path / name))


@pytest.mark.parametrize("at", [0, 9, 17, 60, 140, 4000])
def test_a_flipped_bit_in_the_header_is_noticed(tmp_path: Path, at: int) -> None:
    refused(tmp_path, patched(DATA, at, bytes((DATA[at] ^ 4,))))


def test_a_flipped_bit_in_the_tables_is_noticed(tmp_path: Path) -> None:
    numbers = random.Random(1)
    for _ in range(200):
        at = numbers.randrange(HEADER.issuers_offset, len(DATA))
        refused(tmp_path, patched(DATA, at, bytes((DATA[at] ^ 1 << numbers.randrange(8),))))


def test_a_flipped_bit_in_slots_or_records_is_never_followed_out_of_the_file(tmp_path: Path) -> None:
    numbers = random.Random(2)
    path = tmp_path / "flipped.seg"
    for _ in range(300):
        at = numbers.randrange(4096, HEADER.issuers_offset)
        path.write_bytes(patched(DATA, at, bytes((DATA[at] ^ 1 << numbers.randrange(8),))))
        exercise(path)


def test_slots_that_disagree_with_their_records_are_found_by_verify(tmp_path: Path) -> None:
    slots = struct.unpack_from("<512Q", DATA, HEADER.slots_offset)
    number = next(number for number, slot in enumerate(slots) if slot)
    for changed in (slots[number] ^ 1 << 41, slots[number] + 4096, slots[number] | 0xFFFFFFFFFF):
        path = tmp_path / "slots.seg"
        path.write_bytes(patched(DATA, HEADER.slots_offset + 8 * number, struct.pack("<Q", changed)))
        with pytest.raises(IndexFileError, match="slots are damaged"):
            Segment(str(path)).verify()


# Whoever can write segments can also correct their checksums

TABLES = [
    *("records_offset", "records_size", "slots_offset", "slot_pages", "issuers_offset", "issuer_count"),
    *("templates_offset", "template_count", "blobs_offset", "blobs_size", "entries", "seed"),
]


@pytest.mark.parametrize("field", TABLES)
def test_hostile_header_fields_are_refused_or_harmless(tmp_path: Path, field: str) -> None:
    right = getattr(HEADER, field)
    path = tmp_path / "hostile.seg"
    for value in (
        0,
        1,
        2,
        8,
        right - 8,
        right - 1,
        right + 1,
        right + 8,
        right + 4096,
        1 << 24,
        1 << 32,
        (1 << 64) - 1,
    ):
        changed = with_header(DATA, **{field: value & (1 << 64) - 1})
        try:
            path.write_bytes(sealed(changed))
        except MemoryError:
            continue
        exercise(path)


@pytest.mark.parametrize("table", ["issuers", "templates"])
@pytest.mark.parametrize("octets", [b"\0\0", b"\xff\xff", b"\x7f", b"\x41\x00", b"\x01"])
def test_hostile_table_entries_are_refused_or_harmless(tmp_path: Path, table: str, octets: bytes) -> None:
    offset = getattr(HEADER, f"{table}_offset")
    size = {"issuers": ISSUER_SIZE, "templates": TEMPLATE_SIZE}[table]
    path = tmp_path / "hostile.seg"
    for entry in (0, 5):
        for at in range(size):
            path.write_bytes(sealed(patched(DATA, offset + entry * size + at, octets)))
            exercise(path)


def template(number: int, at: int, layout: str, *values: int) -> bytes:
    return sealed(
        patched(
            DATA, HEADER.templates_offset + number * TEMPLATE_SIZE + at, struct.pack("<" + layout, *values)
        )
    )


def test_dates_in_templates_cannot_smuggle_fields_into_responses(tmp_path: Path) -> None:
    at = HEADER.templates_offset + 120
    assert DATA[at + 3 : at + 5] == b", "
    assert "points outside" in refused(tmp_path, sealed(patched(DATA, at, b"x\r\nContent-Length: 0\r\n\r\n")))
    assert "points outside" in refused(
        tmp_path, sealed(patched(DATA, at + 32, b"x\r\nContent-Length: 0\r\n\r\n"))
    )


def hole(number: int) -> int:
    return 72 + 8 * number


@pytest.mark.parametrize(
    "change",
    [
        lambda: template(0, hole(1), "I", 0),  # before the first hole
        lambda: template(0, hole(0), "I", (1 << 32) - 1),
        lambda: template(0, hole(0) + 6, "H", 0xFFFF),
        lambda: template(0, hole(0) + 4, "H", 0xFFF0),
        lambda: template(0, 8, "I", 1 << 31),
        lambda: template(0, 0, "Q", (1 << 64) - 8),
        lambda: template(0, 12, "I", 99),
        lambda: template(0, 32, "q", (1 << 63) - 2),
        lambda: template(0, 40, "q", -(1 << 63)),
        lambda: template(0, 56, "I", 1 << 20),
        lambda: template(0, 62, "B", 3),
        lambda: template(0, 63, "B", 7),
        lambda: template(0, 64, "B", 0),
        lambda: template(0, 64, "B", 65),
    ],
)
def test_templates_that_point_astray_are_refused(tmp_path: Path, change: Callable[[], bytes]) -> None:
    assert "points outside" in refused(tmp_path, change())


def test_a_refused_segment_cannot_be_used_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "bad.seg"
    path.write_bytes(sealed(patched(DATA, HEADER.templates_offset + 8, b"\xff" * 4)))
    segment = Segment.__new__(Segment)
    with pytest.raises(IndexFileError):
        segment.__init__(str(path))
    assert segment.entries == segment.templates == 0
    assert segment.lookup(*stored()[0].key) is None
    assert list(segment.records()) == []
    with pytest.raises(TypeError, match="not opened"):
        Index([segment])


def test_responders_in_garbage_give_their_shared_memory_back(recwarn: pytest.WarningsRecorder) -> None:
    cycle: list[object] = []
    block = bytearray(COUNTER_BLOCK_BYTES)
    cycle += [cycle, Responder(Index([]), counters=memoryview(block))]
    del cycle
    gc.collect()
    block.clear()  # BufferError while somebody holds it
