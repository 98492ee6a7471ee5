from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import TYPE_CHECKING

from ocspd._index import Index, Segment
from ocspd.index._freshness import stale
from ocspd.index._writer import SegmentWriter
from tests.native.answers import NOW, Authority

if TYPE_CHECKING:
    from pathlib import Path

CA = Authority()
KEY = ("sha1", *CA.hashes("sha1"))
NOW_S = int(NOW.timestamp())
HOUR = dt.timedelta(hours=1)


def segment(path: Path, *answers: bytes, refresh_at: int | None = None) -> Segment:
    with SegmentWriter(str(path), created_at=NOW_S) as writer:
        for answer in answers:
            writer.add(answer, refresh_at)
        writer.finish()
    return Segment(str(path))


def test_only_answers_that_are_given_out_count(tmp_path: Path) -> None:
    base = segment(tmp_path / "base", *(CA.answer(n, next_update=NOW + HOUR) for n in range(1, 11)))
    middle = segment(tmp_path / "middle", *(CA.answer(n, next_update=NOW + 2 * HOUR) for n in range(1, 10)))
    newest = segment(tmp_path / "newest", CA.answer(1, revoked_at=NOW), CA.answer(50))
    assert Index([base]).live_stats()[KEY]["next_update_min"] == NOW_S + 3600
    stats = Index([newest, middle, base]).live_stats()[KEY]
    assert (stats["entries"], stats["good"], stats["revoked"]) == (11, 10, 1)
    assert stats["next_update_min"] == NOW_S + 3600  # serial 10 is in the base alone
    middle = segment(tmp_path / "all", *(CA.answer(n, next_update=NOW + 2 * HOUR) for n in range(1, 11)))
    assert Index([newest, middle, base]).live_stats()[KEY]["next_update_min"] == NOW_S + 7200
    assert Index([]).live_stats() == {}


def test_a_row_is_stale_when_its_answer_is_missing_different_due_or_of_the_future(tmp_path: Path) -> None:
    index = Index(
        [
            segment(
                tmp_path / "segment",
                CA.answer(1),
                CA.answer(2, revoked_at=NOW - HOUR),
                CA.answer(200),
                refresh_at=NOW_S + 1000,
            )
        ]
    )
    when = f"{NOW - HOUR:%Y%m%d%H%M%S}Z".encode()
    fresh = [(1, 0, 0, None), (2, 1, 0, when), (200, 0, 0, None)]
    assert stale(index, [KEY], fresh, NOW_S) == ([], [])
    assert stale(index, [KEY], [(3, 0, 0, None), *fresh], NOW_S) == ([0], [])
    assert stale(index, [KEY], [(1, 1, 0, when), (2, 0, 0, None)], NOW_S) == ([0], [1])
    assert stale(index, [KEY], [(2, 1, 4, when), (2, 1, 0, b"20260301000000Z")], NOW_S) == ([0, 1], [])
    assert stale(index, [KEY], fresh, NOW_S + 1000) == ([0, 1, 2], [])
    assert stale(index, [KEY], fresh, NOW_S - 60) == ([], [])
    assert stale(index, [KEY], fresh, NOW_S - 61) == ([0, 1, 2], [])
    assert stale(index, [KEY, ("sha256", *CA.hashes("sha256"))], fresh, NOW_S) == ([0, 1, 2], [])
    assert stale(index, [KEY], [(-1, 0, 0, None)], NOW_S) == ([0], [])
    # what says less than revoked is told apart, also where another CertID hash has no answer
    keys = [("sha256", *CA.hashes("sha256")), KEY]
    assert stale(index, keys, [(2, 0, 0, None), (2, 2, 0, None)], NOW_S) == ([], [0, 1])
    assert stale(index, [KEY], fresh, NOW_S, signed_after_s=NOW_S + 10**8) == ([0, 1, 2], [])


def test_an_answer_that_cannot_be_made_to_last_longer_is_not_due(tmp_path: Path) -> None:
    index = Index([segment(tmp_path / "segment", CA.answer(1), refresh_at=NOW_S + 1000)])
    found = index.lookup(*KEY, 1)
    assert found is not None
    row: list[tuple[int, int, int, bytes | None]] = [(1, 0, 0, None)]
    due_s = NOW_S + 1000
    assert stale(index, [KEY], row, due_s, 0, found.next_update + 1) == ([0], [])
    assert stale(index, [KEY], row, due_s, 0, found.next_update) == ([], [])
    assert stale(index, [KEY], [(1, 1, 0, b"20260301000000Z")], due_s, 0, found.next_update) == ([0], [])


def test_renewal_is_spread_over_the_time_before_it_is_due(tmp_path: Path) -> None:
    serials = range(1, 400)
    index = Index([segment(tmp_path / "segment", *map(CA.answer, serials), refresh_at=NOW_S + 1000)])
    rows: list[tuple[int, int, int, bytes | None]] = [(serial, 0, 0, None) for serial in serials]
    due = [len(stale(index, [KEY], rows, NOW_S + moment, 1000)[0]) for moment in range(0, 1001, 250)]
    assert due[0] < 5
    assert due[-1] == len(rows)
    for before, after in pairwise(due):
        assert 60 < after - before < 140
