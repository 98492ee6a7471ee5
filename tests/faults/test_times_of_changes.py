"""The times of a response that is signed because of a change, on every path that signs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.x509 import ocsp

from ocspd.clock import ManualClock
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus, StatusRow
from ocspd.pki.certid import issuer_hashes
from ocspd.pki.signing_policy import MAX_AHEAD, change_time
from ocspd.signer.generations import Generations
from ocspd.signer.signing import BatchSigner, Chunk, reduced, to_chunk
from ocspd.signer.staleness import Staleness
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.index._writer import SegmentWriter
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.staleness import StaleRows

SECOND = timedelta(seconds=1)
START = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
NOW = START + timedelta(seconds=20, microseconds=700_000)
SIGNER = make_chain().signer(clock=ManualClock(NOW), this_update_step=timedelta(minutes=1))
KEY = ("sha1", *issuer_hashes(SIGNER.issuer, "sha1"))


def row(status: CertStatus, revoked_at: datetime | None = None, serial: int = 5) -> StatusRow:
    return StatusRow(serial, SIGNER.aki, status, 1 if revoked_at else 0, revoked_at, NOW + timedelta(days=30))


def answers(chunk: Chunk, signer: OCSPSigner = SIGNER) -> list[ocsp.OCSPResponse]:
    signed = BatchSigner([signer]).sign(chunk, NOW)
    found = []
    for each in signed.responses:
        assert not isinstance(each, str)
        found.append(ocsp.load_der_ocsp_response(each[0]))
    return found


class Stored:
    """An index of one answer after the other, as a signer would keep it."""

    def __init__(self, path: Path) -> None:
        self.generations = Generations(IndexDirectory(path), ManualClock(NOW))

    async def add(self, chunk: Chunk) -> ocsp.OCSPResponse:
        signed = [
            der
            for each in BatchSigner([SIGNER]).sign(chunk, NOW).responses
            for der in each
            if isinstance(der, bytes)
        ]

        def fill(writer: SegmentWriter) -> None:
            for der in signed:
                writer.add(der)

        await self.generations.add_changes(fill, [])
        return ocsp.load_der_ocsp_response(signed[0])

    def known(self) -> StaleRows:
        return Staleness.of(self.generations.directory.path, self.generations.segments, [SIGNER], 0).open()


AGO = [
    timedelta(microseconds=1),
    timedelta(milliseconds=700),
    SECOND,
    timedelta(seconds=20),
    timedelta(days=9),
]


@pytest.mark.parametrize("ago", AGO)
@pytest.mark.parametrize("path", ["feed", "pass", "ocspsign"])
def test_a_response_about_a_revocation_is_never_from_before_it(ago: timedelta, path: str) -> None:
    revoked = row(CertStatus.REVOKED, NOW - ago)
    match path:
        case "feed":
            (answer,) = answers(to_chunk(0, [revoked]))
        case "pass":
            (answer,) = answers(Chunk(0, reduced([revoked])))
        case _:
            hourly = make_chain().signer(clock=ManualClock(NOW))
            der = hourly.sign(serial=5, status=CertStatus.REVOKED, reason=1, revoked_at=NOW - ago)
            answer = ocsp.load_der_ocsp_response(der)
    assert answer.revocation_time_utc == (NOW - ago).replace(microsecond=0)
    assert answer.revocation_time_utc <= answer.this_update_utc <= answer.produced_at_utc <= NOW


@pytest.mark.parametrize("path", ["feed", "pass"])
def test_a_revocation_dated_in_the_future_is_told_as_one_that_has_happened(path: str) -> None:
    revoked = row(CertStatus.REVOKED, NOW + timedelta(days=400))
    chunk = to_chunk(0, [revoked]) if path == "feed" else Chunk(0, reduced([revoked]))
    (answer,) = answers(chunk)
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.revocation_time_utc == answer.this_update_utc == NOW.replace(microsecond=0)


async def test_a_revocation_dated_in_the_future_is_not_signed_again_in_every_pass(tmp_path: Path) -> None:
    revoked = row(CertStatus.REVOKED, NOW + timedelta(days=400))
    stored = Stored(tmp_path)
    await stored.add(to_chunk(0, [revoked]))
    later_s = int(NOW.timestamp()) + 60
    assert stored.known()(0, reduced([revoked]), later_s) == ([], [])
    other = revoked._replace(revoked_at=NOW - timedelta(days=1))
    assert stored.known()(0, reduced([other]), later_s) == ([0], [])


@pytest.mark.parametrize("path", ["feed", "pass"])
async def test_changes_within_one_second_get_later_and_later_times(tmp_path: Path, path: str) -> None:
    stored = Stored(tmp_path)
    seen = []
    backdated = NOW - timedelta(days=2)
    for turn in range(5):
        current = row(CertStatus.REVOKED, backdated) if turn % 2 else row(CertStatus.GOOD)
        known = stored.known()
        if path == "feed":
            chunk = to_chunk(0, [current], known)
        else:
            chunk = Chunk(0, reduced([current]), replaced=known.replaced(0, reduced([current])))
        seen.append(await stored.add(chunk))
    times = [answer.this_update_utc for answer in seen]
    assert times == sorted(set(times))
    assert times[-1] <= NOW + 5 * SECOND
    assert len({answer.next_update_utc for answer in seen}) == len(seen)


async def test_one_certificate_that_changes_often_puts_no_other_into_the_future(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    for status in (CertStatus.GOOD, CertStatus.REVOKED):
        await stored.add(to_chunk(0, [row(status, NOW if status else None)], stored.known()))
    rows = [row(CertStatus.GOOD), row(CertStatus.GOOD, serial=6)]
    first, second = answers(to_chunk(0, rows, stored.known()))
    assert (first.serial_number, second.serial_number) == (5, 6)
    assert second.this_update_utc == NOW.replace(microsecond=0) < first.this_update_utc


async def test_a_pass_signs_what_has_changed_with_the_times_of_a_change(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    good = [row(CertStatus.GOOD, serial=serial) for serial in range(1, 6)]
    await stored.add(Chunk(0, reduced(good)))  # in the same minute, so its thisUpdate is cut down alike
    rows = [*good[:2], row(CertStatus.REVOKED, NOW - timedelta(days=3), serial=3), *good[3:]]
    plain = reduced(rows)
    replaced = stored.known().replaced(0, plain)
    assert [each > 0 for each in replaced] == [False, False, True, False, False]
    signed = answers(Chunk(0, plain, replaced=replaced))
    assert [answer.serial_number for answer in signed] == [1, 2, 3, 4, 5]
    assert signed[2].this_update_utc > signed[0].this_update_utc == START


@pytest.mark.parametrize(
    ("replaced", "expected"),
    [
        (timedelta(days=-1), timedelta()),
        (timedelta(), SECOND),
        (3 * SECOND, 4 * SECOND),
        (MAX_AHEAD - SECOND, MAX_AHEAD),
        (MAX_AHEAD, timedelta()),  # from so far ahead nobody believes the one replaced
        (timedelta(days=1), timedelta()),
    ],
)
def test_a_change_is_later_than_what_it_replaces_but_not_far_in_the_future(
    replaced: timedelta, expected: timedelta
) -> None:
    second = NOW.replace(microsecond=0)
    assert change_time(NOW, int((second + replaced).timestamp())) == second + expected
