"""What came of rows is counted once: where they are signed."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import reduce as fold
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from ocspd.model import CertStatus, known_reason
from ocspd.signer.signing import BatchSigner, Chunk
from ocspd.signer.tally import Progress, Tally
from tests.pki.chain import NOW, make_chain

if TYPE_CHECKING:
    from ocspd.model import Row

SIGNER = make_chain("ed25519").signer()
LATER = NOW + timedelta(days=1)
ROWS = st.lists(
    st.tuples(
        st.integers(-3, 1 << 160),
        st.sampled_from([0, 0, 1, 1, 2, 7]),
        st.integers(-1, 12),
        st.none() | st.integers(0, 4_000_000_000).map(float),
    ),
    max_size=8,
)
TALLIES = st.builds(
    Tally,
    certificates=st.integers(0, 9),
    signed=st.integers(0, 9),
    revoked=st.integers(0, 9),
    responses=st.integers(0, 9),
    foreign=st.builds(Counter, st.dictionaries(st.sampled_from("ab"), st.integers(1, 9))),
    skipped=st.builds(Counter, st.dictionaries(st.sampled_from("ab"), st.integers(1, 9))),
    unreadable=st.integers(0, 9),
    failed=st.dictionaries(st.integers(0, 2), st.tuples(st.integers(1, 9), st.just("why"))),
    reasons_dropped=st.integers(0, 9),
    fresh=st.integers(0, 9),
    next_update=st.sampled_from([None, NOW, LATER]),
)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_a_chunk_is_counted_as_its_rows_are(rows: list[Row]) -> None:
    signed = BatchSigner([SIGNER]).sign(Chunk(0, rows), NOW)
    tally = signed.tally
    done = [row for row, each in zip(rows, signed.responses, strict=True) if not isinstance(each, str)]
    revoked = [row for row in done if row[1] == CertStatus.REVOKED]
    assert (tally.signed, tally.revoked, tally.responses) == (len(done), len(revoked), 2 * len(done))
    assert tally.reasons_dropped == sum(not known_reason(row[2]) for row in revoked)
    assert tally.skipped.total() == len(rows) - len(done)
    assert (tally.next_update is None) == (not done)
    assert tally.progress == Progress(len(rows), len(done))


@given(st.lists(TALLIES, min_size=1, max_size=5))
def test_tallies_add_up_in_whatever_order_they_come(tallies: list[Tally]) -> None:
    def total(some: list[Tally]) -> Tally:
        return fold(Tally.__iadd__, some, Tally())

    whole = total(tallies)
    assert whole == total(tallies[::-1]) == total([total(tallies[:2]), total(tallies[2:])])
    assert whole.certificates == sum(each.certificates for each in tallies)
    assert whole.failed == {
        signer_index: (sum(each.failed.get(signer_index, (0, ""))[0] for each in tallies), "why")
        for signer_index in {index for each in tallies for index in each.failed}
    }


def test_a_signer_that_fails_leaves_out_what_it_was_given() -> None:
    tally = Tally(signed=2)
    tally += Tally.of_failure(1, 3, "first")
    tally += Tally.of_failure(1, 4, "then")
    assert tally.failed == {1: (7, "then")}
    assert tally.skipped == {"signer fails": 7}
    assert tally.progress == Progress(9, 2)
