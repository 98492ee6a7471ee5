"""Files that change while they are in use: never an older answer for a newer one, never a step outside.

S8 of the fault list, at the level of one segment; `tests/faults` has it against the real program.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

import pytest

from ocspd._index import Index, Segment
from ocspd._responder import Responder
from ocspd.errors import IndexFileError
from ocspd.index._freshness import stale
from ocspd.index._writer import SegmentWriter
from tests.native.answers import NOW
from tests.native.segments import HEADER, TEMPLATE_SIZE, Header, read_header
from tests.native.world import NOW_S, authorities

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = 0x4001000000000000
MAPPED = 4000
"""So many answers make a segment that is mapped; a small one is read."""


@cache
def pattern(*, revoked: bool) -> bytes:
    return authorities()[0].answer(FIRST, revoked_at=NOW if revoked else None)


def answers(count: int, *, revoked: bool) -> list[bytes]:
    """Responses about serial numbers from FIRST on; their signatures are that of the first."""
    der, first = pattern(revoked=revoked), FIRST.to_bytes(8, "big")
    assert der.count(first) == 1
    return [der.replace(first, (FIRST + number).to_bytes(8, "big")) for number in range(count)]


def write(path: Path, ders: list[bytes]) -> Segment:
    with SegmentWriter(str(path), created_at=NOW_S) as writer:
        for der in ders:
            writer.add(der)
        writer.finish()
    return Segment(str(path))


@contextmanager
def changed(path: Path, at: int, octets: bytes) -> Iterator[None]:
    """Write into a file in place, and put back what was there."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        before = os.pread(descriptor, len(octets), at)
        os.pwrite(descriptor, octets, at)
        yield
        os.pwrite(descriptor, before, at)
    finally:
        os.close(descriptor)


def flipped(path: Path, at: int, bit: int) -> bytes:
    return bytes((path.read_bytes()[at] ^ 1 << bit,))


class World:
    """Good answers in an older segment, revoked ones about the same certificates in a newer one."""

    def __init__(self, path: Path, newer: int) -> None:
        self.older_path, self.newer_path = path / "older.seg", path / "newer.seg"
        self.newer = answers(newer, revoked=True)
        self.segments = [
            write(self.newer_path, self.newer),
            write(self.older_path, answers(MAPPED, revoked=False)),
        ]
        self.responder = Responder(Index(self.segments))
        self.responder.set_time(NOW_S)
        self.header: Header = read_header(self.newer_path.read_bytes())

    def outcome(self, number: int) -> str:
        return self.responder.reply_to(authorities()[0].request(FIRST + number)).outcome

    def exercise(self) -> None:
        """Do with the newer segment whatever is done with segments that are open."""
        segment = self.segments[0]
        keys = [("sha1", *authorities()[0].hashes("sha1"))]
        index = Index(self.segments)
        index.live_stats()
        stale(index, keys, [(FIRST + number, 0, 0, None) for number in range(50)], NOW_S)
        for action in (segment.verify, segment.issuer_stats, lambda: self.merge(segment)):
            with suppress(IndexFileError):
                action()

    def merge(self, segment: Segment) -> None:
        with SegmentWriter(segment.path + ".merged", created_at=0) as writer:
            writer.add_segment(segment)


def test_S8_a_template_of_a_live_file_that_changed_is_never_followed(tmp_path: Path) -> None:
    world = World(tmp_path, MAPPED)
    assert world.outcome(0) == "revoked"
    for number in range(world.header.template_count):
        for at in range(TEMPLATE_SIZE):
            place = world.header.templates_offset + number * TEMPLATE_SIZE + at
            for octet in (b"\xff", flipped(world.newer_path, place, at % 8)):
                with changed(world.newer_path, place, octet):
                    assert world.outcome(7) in {"try_later", "revoked"}
                    if at % 16 == 0:
                        world.exercise()
    assert world.outcome(7) == "revoked"


def test_S8_header_and_issuers_of_a_live_file_are_not_looked_at_again(tmp_path: Path) -> None:
    world = World(tmp_path, MAPPED)
    for start, size in ((0, HEADER.size), (world.header.issuers_offset, 136)):
        with changed(world.newer_path, start, b"\xff" * size):
            assert world.outcome(3) == "revoked"
            world.exercise()
            assert world.segments[0].entries == MAPPED
            assert world.segments[0].issuer_keys == world.segments[1].issuer_keys


def test_S8_a_record_that_changed_does_not_bring_an_older_answer_back(tmp_path: Path) -> None:
    world = World(tmp_path, MAPPED)
    data = world.newer_path.read_bytes()
    for number in random.Random(8).sample(range(MAPPED), 40):
        record = data.index((FIRST + number).to_bytes(8, "big"), world.header.records_offset) - 4
        for at in range(12):  # size, template, serial number
            for bit in range(8):
                with changed(world.newer_path, record + at, flipped(world.newer_path, record + at, bit)):
                    assert world.outcome(number) in {"try_later", "revoked"}
        assert world.outcome(number) == "revoked"


def test_S8_a_slot_that_leads_elsewhere_does_not_bring_an_older_answer_back(tmp_path: Path) -> None:
    world = World(tmp_path, MAPPED)
    data = world.newer_path.read_bytes()
    number = 1234
    record = data.index((FIRST + number).to_bytes(8, "big"), world.header.records_offset) - 4
    offset = (record - world.header.records_offset).to_bytes(5, "little")
    slots = range(world.header.slots_offset, world.header.issuers_offset, 8)
    (slot,) = [at for at in slots if data[at : at + 5] == offset]
    for at in range(5):
        for bit in range(8):
            with changed(world.newer_path, slot + at, flipped(world.newer_path, slot + at, bit)):
                assert world.outcome(number) == "try_later"
    with changed(world.newer_path, slot, (16).to_bytes(5, "little")):
        assert world.outcome(number) == "try_later"


@pytest.mark.parametrize("cut", [0, 4096, None])
def test_S9_a_small_segment_that_is_damaged_in_place_goes_on_answering(
    tmp_path: Path, cut: int | None
) -> None:
    world = World(tmp_path, 50)
    size = world.newer_path.stat().st_size
    if cut is None:
        with world.newer_path.open("r+b") as file:
            file.write(random.Random(9).randbytes(size))
    else:
        os.truncate(world.newer_path, cut)
    assert {world.outcome(number) for number in range(50)} == {"revoked"}
    world.exercise()
    world.segments[0].verify()


def test_S8_a_thousand_flipped_bits_never_make_another_answer(tmp_path: Path) -> None:
    world = World(tmp_path, 50)
    older = read_header(world.older_path.read_bytes())
    chosen = random.Random(1000)
    expected = [answers(60, revoked=False)[number] for number in range(50, 60)]
    requests = [authorities()[0].request(FIRST + number) for number in range(50, 60)]
    wrong = 0
    for _ in range(1000):
        at, bit = chosen.randrange(older.file_size), chosen.randrange(8)
        with changed(world.older_path, at, flipped(world.older_path, at, bit)):
            for request, der in zip(requests, expected, strict=True):
                reply = world.responder.reply_to(request)
                wrong += reply.cacheable and (reply.outcome != "good" or len(reply.body) != len(der))
            assert world.outcome(7) == "revoked"
    assert wrong == 0


def test_a_merge_misses_no_record_that_damage_hides(tmp_path: Path) -> None:
    world = World(tmp_path, MAPPED)
    with (
        changed(world.newer_path, world.header.records_offset + 4096, b"\0"),  # "go on at the next page"
        SegmentWriter(str(tmp_path / "merged.seg"), created_at=0) as writer,
        pytest.raises(IndexFileError, match=r"newer\.seg: segment record at \d+ is damaged"),
    ):
        writer.add_segment(world.segments[0])


def test_a_merge_drops_nothing_that_a_damaged_newer_segment_may_replace(tmp_path: Path) -> None:
    world = World(tmp_path, MAPPED)
    with (
        changed(world.newer_path, world.header.templates_offset + 8, b"\xff\xff"),
        SegmentWriter(str(tmp_path / "merged.seg"), created_at=0) as writer,
        pytest.raises(IndexFileError, match=r"older\.seg: a newer segment, which replaces"),
    ):
        writer.add_segment(world.segments[1], newer=Index([world.segments[0]]))


def test_an_index_out_of_service_answers_nothing() -> None:
    responder = Responder(Index([], out_of_service=True))
    responder.set_time(NOW_S)
    assert responder.reply_to(authorities()[0].request(FIRST)).outcome == "try_later"
