from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ocspd.errors import IndexFileError
from ocspd.index.manifest import (
    FUTURE_S,
    MAX_BYTES,
    MAX_SEGMENTS,
    History,
    Manifest,
    SegmentRef,
    parse_manifest,
)

NOW_S = 1_772_366_400
REF = SegmentRef(sha256="a" * 64, size_bytes=8192, entries=3, created_at=NOW_S)
GOOD = Manifest(
    generation=7, published_at=NOW_S, segments=(REF,), changes=((7, NOW_S - 0.5),), index_id="0" * 32
)
HUGE = int("1" + "0" * 400)


def text(**members: Any) -> bytes:
    return json.dumps(json.loads(GOOD.to_bytes()) | members).encode()


def segment(**members: Any) -> bytes:
    return text(segments=[json.loads(GOOD.to_bytes())["segments"][0] | members])


NUMBERS: list[Any] = [HUGE, -1, 1.5, True, None, "7", [], {}, float("nan"), float("inf"), -0.5, 1 << 64]
LISTS: list[Any] = [{}, "", 7, None, [7], [[7]], [[7, 1, 1]], ["ab"], [{"a": 1, "b": 2}]]
SEGMENTS: list[Any] = [{}, "", 7, None, [7], [[]], [None], [{}]]
NAMES: list[Any] = ["", "0" * 31, "0" * 33, "G" * 32, 7, None, [], "0" * 31 + "\n"]
DIGESTS: list[Any] = ["", "a" * 63, "A" * 64, "../" + "a" * 61, 7, None, "a" * 64 + "\n"]
VERSIONS: list[Any] = [0, 2, HUGE, True, 1.0, "1", None]
VALUES: list[Any] = [[], 7, None, "x", {}, [7]]
BAD = [
    *(text(generation=value) for value in NUMBERS),
    *(text(published_at=value) for value in NUMBERS),
    *(segment(size_bytes=value) for value in NUMBERS),
    *(segment(entries=value) for value in NUMBERS),
    *(segment(created_at=value) for value in NUMBERS),
    *(text(changes=[[2, value]]) for value in NUMBERS if value != 1.5),
    *(text(changes=[[value, NOW_S]]) for value in NUMBERS),
    *(text(changes=value) for value in LISTS),
    *(text(segments=value) for value in SEGMENTS),
    *(text(index=value) for value in NAMES),
    *(segment(sha256=value) for value in DIGESTS),
    *(text(version=value) for value in VERSIONS),
    *(json.dumps(value).encode() for value in VALUES),
    b"",
    b"{",
    b"\xff\xfe{}",
    GOOD.to_bytes() + b"x",
    GOOD.to_bytes()[:-30],
    GOOD.to_bytes().decode().encode("utf-16"),
    b"[" * 100_000,
    b'{"a":' * 100_000,
    GOOD.to_bytes().replace(b'"generation": 7', b'"generation": 7, "generation": 8'),
    GOOD.to_bytes().replace(b'"entries": 3', b'"entries": 3, "entries": 3'),
    GOOD.to_bytes().replace(b"1772366399.5", b"1e400"),
    GOOD.to_bytes().replace(b"1772366399.5", b"-Infinity"),
    GOOD.to_bytes() + b" " * MAX_BYTES,
]


@pytest.mark.parametrize("data", BAD, ids=lambda data: data[:40].decode("ascii", "replace") + str(len(data)))
def test_S6_what_is_no_manifest_is_refused_by_name_in_one_line(data: bytes) -> None:
    with pytest.raises(IndexFileError) as caught:
        parse_manifest(data, "/x/manifest.json")
    assert str(caught.value).startswith("/x/manifest.json: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_was_written_is_read_with_and_without_the_name_of_the_index() -> None:
    for manifest in (GOOD, replace(GOOD, index_id="")):
        assert parse_manifest(manifest.to_bytes(), "x") == manifest


def test_every_manifest_that_is_accepted_can_be_written_again_and_read_by_a_worker() -> None:
    """A worker reads what the supervisor writes: 6500 segments in a megabyte were more when written."""
    ref = {"sha256": "a" * 64, "size_bytes": 1 << 50, "entries": 1 << 53, "created_at": 253_402_300_799}
    most = text(segments=[ref] * MAX_SEGMENTS, changes=[[1 << 53, 1772366399.123456]] * 1000)
    parsed = parse_manifest(most, "x")
    assert parse_manifest(parsed.to_bytes(), "x") == parsed
    with pytest.raises(IndexFileError, match=r"segments has 1025 elements, more than 1024"):
        parse_manifest(text(segments=[ref] * (MAX_SEGMENTS + 1)), "x")


def later(manifest: Manifest, generations: int, seconds: int, **changes: Any) -> Manifest:
    return replace(
        manifest,
        generation=manifest.generation + generations,
        published_at=manifest.published_at + seconds,
        **changes,
    )


OTHER = {"index_id": "1" * 32}


@pytest.mark.parametrize(
    ("manifest", "accepted"),
    [
        (later(GOOD, 1, 1), True),
        (later(GOOD, 1, 0), True),
        (later(GOOD, 1, -90_000), True),  # the signer's clock was set back
        (later(GOOD, -1, -1), False),
        (later(GOOD, -1, 0), False),
        (later(GOOD, 0, -1), False),
        (later(GOOD, 0, 0, segments=()), True),  # a generation in front of an older base, then with its own
        (later(GOOD, -5, 1), True),  # the signer goes on from a backup
        (later(GOOD, 100, -1, **OTHER), False),
        (later(GOOD, 100, 0, **OTHER), False),
        (later(GOOD, -6, 1, **OTHER), True),
        (later(GOOD, 1, 0, index_id=""), True),
        (later(GOOD, -1, 0, index_id=""), False),
    ],
)
def test_S7_the_past_and_another_index_never_take_the_place_of_what_is_newer(
    manifest: Manifest,
    accepted: bool,  # noqa: FBT001  (a column of the table)
) -> None:
    history = History()
    history.check(manifest, "x", NOW_S)
    history.note(GOOD)
    if accepted:
        history.check(manifest, "x", NOW_S)
    else:
        with pytest.raises(
            IndexFileError, match=r"x: generation .* is older than generation 7, which is in use"
        ):
            history.check(manifest, "x", NOW_S)


def test_S7_an_index_comes_back_after_another_one_stood_in_its_place_for_a_moment() -> None:
    history = History()
    history.note(GOOD)
    history.note(later(GOOD, -6, 5, **OTHER))
    history.check(later(GOOD, 1, 5), "x", NOW_S)  # published again in the same second
    with pytest.raises(IndexFileError):
        history.check(GOOD, "x", NOW_S)


def test_a_manifest_from_the_future_is_refused_before_everything_true_looks_old() -> None:
    history = History()
    history.check(later(GOOD, 0, FUTURE_S), "x", NOW_S)
    with pytest.raises(IndexFileError, match="x: published 24 hours in the future: the clock"):
        history.check(later(GOOD, 0, FUTURE_S + 1), "x", NOW_S)
