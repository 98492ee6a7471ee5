"""The reader of binary COPY against the slow one, `certdb.rows`, which also reads asyncpg's values."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocspd.certdb import _copyrows
from ocspd.certdb.packed import unpack
from ocspd.certdb.rows import RowError, status_row_from_binary
from ocspd.certdb.spelling import is_canonical
from ocspd.model import CertStatus
from ocspd.signer.signing import reduced

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
Fields = tuple[bytes | None, ...]
INFINITY = (1 << 63) - 1
YEAR_1 = -63_082_281_600_000_000  # Go's zero time in microseconds since 2000
AKI = b"0102a0ff"

serials = (
    st.integers(0, (1 << 160) - 1).map(lambda number: str(number).encode())
    | st.sampled_from([b"", b"0", b"007", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"0x1", b"9" * 60, b"9" * 61])
    | st.sampled_from([b"1\x00", b"\xd9\xa1", b"9" * 5000, None])
)
akis = st.sampled_from([AKI, AKI, b"", None, b"01:02:A0:FF", b"ff", b"\xff\xfe", b"a\x00b"])
words = st.sampled_from(
    [b"good", b"good", b"revoked", b"revoked", b"unknown", b"GOOD", b"", None, b"revoked "]
)
reasons = st.sampled_from([0, 1, 7, -1, 2**31 - 1, None]).map(
    lambda number: None if number is None else struct.pack(">i", number)
)
times = (
    st.integers(-(1 << 63), INFINITY)
    | st.integers(-1_000_000_000_000_000, 10_000_000_000_000_000)
    | st.sampled_from([INFINITY, -INFINITY - 1, YEAR_1, -946_684_800_000_000, 6_311_433_600_000_000, 0, None])
).map(lambda us: None if us is None else struct.pack(">q", us))
# the query chooses by it; the fast way does not read it
expiries = st.sampled_from([struct.pack(">q", us) for us in (0, 10**15, INFINITY)])
rows = st.tuples(serials, akis, words, reasons, times, expiries)


def packed(*fields: Fields) -> bytes:
    """Encode rows as the PostgreSQL manual says."""
    return b"".join(
        struct.pack(">h", len(row))
        + b"".join(struct.pack(">i", -1) if f is None else struct.pack(">i", len(f)) + f for f in row)
        for row in fields
    )


@given(st.lists(rows, max_size=12))
def test_what_is_read_is_what_the_slow_way_reads(fields: list[Fields]) -> None:
    data = packed(*fields)
    assert _copyrows.whole_rows(data) == (len(data), len(fields))
    groups, unusual, unreadable = unpack(data)
    expected, messages = [], []
    for row in fields:
        if not is_canonical(row[0], row[1]):
            continue
        try:
            expected.append(status_row_from_binary(*row))
        except RowError as err:
            messages.append(err.message)
    assert unreadable == messages
    read = [(aki, *row) for aki, group in groups.items() for row in group]
    read += [(row.aki, *reduced([row])[0]) for row in unusual]

    def said(aki: str, serial: int, status: int, reason: int, revoked_s: float | None) -> tuple[object, ...]:
        return aki, serial, status, reason, revoked_s if status == CertStatus.REVOKED else None

    wanted = [said(row.aki, *reduced([row])[0]) for row in expected]
    assert Counter(said(*row) for row in read) == Counter(wanted)


@given(st.lists(rows, max_size=3), st.data())
def test_rows_cut_anywhere_are_put_together_again(fields: list[Fields], data: st.DataObject) -> None:
    whole = packed(*fields) + b"\xff\xff"
    cut = data.draw(st.integers(0, len(whole)))
    end, count = _copyrows.whole_rows(whole[:cut])
    assert end == len(packed(*fields[:count]))
    rest, others = _copyrows.whole_rows(whole[end:])
    assert count + others == len(fields)
    assert whole[end + rest :] == b"\xff\xff"


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: packed((b"1",) * 6) + tail))
def test_anything_else_is_refused_or_left(data: bytes) -> None:
    try:
        end, count = _copyrows.whole_rows(data)
    except ValueError as err:
        assert "no row of PostgreSQL's binary COPY at byte" in str(err)  # noqa: PT017
        return
    groups, unusual = _copyrows.unpack(data[:end])
    assert sum(map(len, groups.values())) + len(unusual) == count
    if end != len(data):
        with pytest.raises(ValueError, match="not whole rows"):
            _copyrows.unpack(data)


def test_the_header_is_skipped_with_its_extension() -> None:
    assert _copyrows.header_size(HEADER) == 19
    assert _copyrows.header_size(HEADER + b"\0\6") == 19
    assert _copyrows.header_size(HEADER[:15] + struct.pack(">i", 3) + b"abc\xff\xff") == 22
    for bad in (b"", HEADER[:18], b"X" + HEADER[1:], HEADER[:15] + struct.pack(">i", 3) + b"ab"):
        with pytest.raises(ValueError, match=r"binary COPY"):
            _copyrows.header_size(bad)
    with pytest.raises(ValueError, match="no header"):
        _copyrows.header_size(HEADER[:11] + b"\0\1\0\0" + HEADER[15:])  # rows with OIDs, as old servers had


def test_D9_what_is_not_spelled_as_cfssl_does_is_left_to_be_looked_up() -> None:
    for serial, aki in ((b"5", b"\xff"), (b"05", AKI), (b"5", AKI.upper()), (b"5", b""), (b"5", None)):
        data = packed((serial, aki, b"good", None, None, struct.pack(">q", 0)))
        assert unpack(data) == ({}, [], [])
