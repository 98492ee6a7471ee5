from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ocspd.authority.crl_journal import MAX_CHANGES, Journal
from ocspd.authority.revocations import Revocation
from ocspd.authority.revoked_list import BUCKETS, RevokedList
from ocspd.pki import crl_writer

SERIALS = st.sampled_from([0, 1, 2, 5, 257, BUCKETS, BUCKETS + 1, 5 * BUCKETS + 5, 1 << 130, (1 << 130) + 1])
"""Several in one bucket, and some whose encoding is part of another's."""
ACTIONS = st.lists(st.tuples(SERIALS, st.sampled_from([None, 0, 1, 6]), st.integers(0, 3)))


def entry(serial: int, reason: int) -> bytes:
    return crl_writer.entry(serial, 1_700_000_000, reason)


def made(actions: list[tuple[int, int | None, int]]) -> tuple[RevokedList, dict[int, tuple[bytes, int]]]:
    listed = RevokedList()
    model: dict[int, tuple[bytes, int]] = {}
    for serial, reason, expiry_s in actions:
        if reason is None:
            assert listed.remove(serial) == (model.pop(serial, None) is not None)
            continue
        encoded = entry(serial, reason)
        before = model.get(serial)
        changed = listed.put(Revocation(serial, 1_700_000_000, reason, expiry_s))
        assert changed == (before is None or before[0] != encoded)
        model[serial] = (encoded, expiry_s)
    return listed, model


@given(ACTIONS)
def test_a_list_has_what_was_put_and_not_removed(actions: list[tuple[int, int | None, int]]) -> None:
    listed, model = made(actions)
    runs, size = listed.runs()
    content = b"".join(runs)
    assert (len(listed), size) == (len(model), len(content))
    assert sum(len(encoded) for encoded, _ in model.values()) == size
    for serial in [0, 1, 2, 5, 257, BUCKETS, BUCKETS + 1, 5 * BUCKETS + 5, 1 << 130, (1 << 130) + 1]:
        assert (serial in listed) == (serial in model)
        assert listed.entry(serial) == model.get(serial, (None, 0))[0]


@given(ACTIONS, ACTIONS)
def test_differences_are_the_serials_whose_entries_differ(
    some: list[tuple[int, int | None, int]], others: list[tuple[int, int | None, int]]
) -> None:
    (one, model), (other, theirs) = made(some), made(others)
    wanted = {
        serial
        for serial in model.keys() | theirs.keys()
        if model.get(serial, (b"", 0))[0] != theirs.get(serial, (b"", 0))[0]
    }
    assert set(one.differences(other)) == wanted == set(other.differences(one))


@given(ACTIONS, ACTIONS)
def test_kept_is_what_the_other_list_had_and_has_not_expired(
    some: list[tuple[int, int | None, int]], others: list[tuple[int, int | None, int]]
) -> None:
    (one, model), (other, theirs) = made(some), made(others)
    kept = {serial: each for serial, each in theirs.items() if serial not in model and 1 < each[1] <= 2}
    assert one.keep_from(other, 1, 2) == len(kept)
    for serial, (encoded, _) in (model | kept).items():
        assert one.entry(serial) == encoded
        assert one.expiry_s(serial) == (model | kept)[serial][1]
    assert len(one) == len(model | kept)


def test_memory_is_a_little_more_than_the_bytes_of_the_entries() -> None:
    listed = RevokedList()
    for serial in range(200_000):
        listed.put(Revocation((serial << 100) | serial, 1_700_000_000, 1, 1_800_000_000))
    _, size = listed.runs()
    buckets = listed._buckets.values()
    used = sum(each.entries.__sizeof__() + each.expiries.__sizeof__() for each in buckets)
    assert len(listed) == 200_000
    assert used < 1.6 * size


WEEK = 7 * 86400.0


def test_a_delta_has_every_change_since_the_oldest_crl_in_force() -> None:
    journal = Journal(WEEK)
    journal.note(1, 0, None)
    assert (journal.base, list(journal.entries())) == (1, [])
    journal.note(2, 3600, {5: b"a", 6: b"b"})
    journal.note(3, 7200, {6: b"c"})
    assert (journal.base, list(journal.entries())) == (1, [b"a", b"c"])
    journal.note(4, 7200 + WEEK - 1, {7: b"d"})
    assert (journal.base, list(journal.entries())) == (2, [b"c", b"d"])
    journal.note(5, 7200 + WEEK, {})
    assert (journal.base, list(journal.entries())) == (3, [b"d"])


def test_what_is_issued_within_a_minute_has_the_same_base() -> None:
    journal = Journal(WEEK)
    journal.note(1, 0.1, None)
    for number in range(2, 100):
        journal.note(number, number / 10, {number: b"x"})
    journal.note(100, WEEK + 10, {})
    assert journal.base == 1
    assert len(list(journal.entries())) == 98


def test_a_delta_does_not_grow_without_limit() -> None:
    journal = Journal(WEEK)
    journal.note(1, 0, None)
    journal.note(2, 3600, dict.fromkeys(range(MAX_CHANGES), b"x"))
    assert (journal.base, len(list(journal.entries()))) == (1, MAX_CHANGES)
    journal.note(3, 7200, {-1: b"y"})
    assert (journal.base, list(journal.entries())) == (2, [b"y"])
    journal.note(4, 7201, dict.fromkeys(range(MAX_CHANGES), b"x"))
    assert (journal.base, len(list(journal.entries()))) == (3, MAX_CHANGES)
    journal.note(5, 7300, dict.fromkeys(range(MAX_CHANGES + 1), b"x"))
    assert (journal.base, list(journal.entries())) == (5, [])
