from __future__ import annotations

import asyncio
import base64
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from ocspd._der import parse_response
from ocspd.certdb.base import OddRows
from ocspd.certdb.spelling import is_canonical_aki
from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError, ConfigError, OCSPDError, SignerError
from ocspd.index.directory import IndexDirectory
from ocspd.model import ZERO_TIME, CertificateRow, CertStatus, OCSPRow, StatusRow
from ocspd.pki.certid import issuer_hashes
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy, refresh_at
from ocspd.signer.index_pass import index_pass
from ocspd.signer.presigning import run_pass
from ocspd.signer.response_table import dump_table
from ocspd.signer.signing import BATCH_ROWS, BatchSigner, Chunk, LocalSigning, to_chunk
from ocspd.signer.signing_pool import Pools, SigningPool
from ocspd.signer.tally import Progress, SkippedRow, Tally
from tests import sessions
from tests.pki.chain import NOW, common_name, make_certificate, make_chain, make_key, pem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocspd.certdb.base import CertDB

CHAIN = make_chain()
OTHER = make_chain(name="Other CA", number=1)
CLOCK = ManualClock(NOW)
EXPIRY = NOW + timedelta(days=30)


class TableDB:
    """As much of a CertDB as presigning uses."""

    def __init__(self, rows: Sequence[StatusRow], *, chunk_rows: int = 5000) -> None:
        self.rows = list(rows)
        self.certificates: dict[tuple[int, str], CertificateRow] = {}
        self.responses: dict[tuple[int, str], OCSPRow] = {}
        self.chunk_rows = chunk_rows
        self.fail_upserts_after: int | None = None
        self.upserts = 0
        self.closed_streams = 0
        self.written = asyncio.Event()

    async def stream_status(self, *, chunk_rows: int = 5000) -> AsyncIterator[list[StatusRow]]:
        try:
            usual = [row for row in self.rows if row.key is None]
            for start in range(0, len(usual), self.chunk_rows):
                await asyncio.sleep(0)
                yield usual[start : start + self.chunk_rows]
        finally:
            self.closed_streams += 1

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:
        return self.certificates.get((serial, aki))

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        self.upserts += 1
        if self.fail_upserts_after is not None and self.upserts > self.fail_upserts_after:
            raise CodedError(Code.STORE_FAILED, "the database went away")
        self.responses.update({(row.serial, row.aki): row for row in rows})
        self.written.set()

    async def stream_odd(self) -> AsyncIterator[OddRows]:
        if odd := [row for row in self.rows if row.key is not None]:
            yield OddRows(odd, [])

    async def find_statuses(self, serials: Sequence[int]) -> list[StatusRow]:
        return [row for row in self.rows if row.serial in serials]

    async def get_pem(self, row: StatusRow) -> bytes:
        found = self.certificates.get((row.serial, row.aki))
        return b"" if found is None else found.pem.encode()

    async def unexpired_ocsp(self, *, chunk_rows: int = 5000) -> AsyncIterator[list[OCSPRow]]:
        yield list(self.responses.values())


def row(serial: int, aki: str, status: CertStatus = CertStatus.GOOD, **fields: Any) -> StatusRow:
    values: dict[str, Any] = {"reason": 0, "revoked_at": None, "expiry": EXPIRY} | fields
    key = None if is_canonical_aki(aki) else (str(serial).encode(), aki.encode())
    return StatusRow(serial=serial, aki=aki, status=status, key=key, **values)


def rows_of(signer: OCSPSigner, count: int, first: int = 1 << 150) -> list[StatusRow]:
    return [
        row(first + n, signer.aki)
        if n % 10
        else row(first + n, signer.aki, CertStatus.REVOKED, reason=1, revoked_at=NOW - timedelta(hours=1))
        for n in range(count)
    ]


async def refresh(db: TableDB, *signers: OCSPSigner, **options: Any) -> Tally:
    return await run_pass(cast("CertDB", db), signers, clock=CLOCK, **options)


class Answers:
    """An IndexWriter that remembers."""

    def __init__(self) -> None:
        self.added: list[tuple[bytes, int | None]] = []

    def add(self, der: bytes, refresh_at: int | None = None) -> None:
        self.added.append((der, refresh_at))


async def test_each_certificate_gets_the_row_cfssl_would_write() -> None:
    signer = CHAIN.signer()
    db = TableDB(rows_of(signer, 25))
    report = await refresh(db, signer)
    assert (report.certificates, report.signed, report.revoked, report.responses) == (25, 25, 3, 50)
    assert set(db.responses) == {(entry.serial, entry.aki) for entry in db.rows}
    for entry in db.rows:
        stored = db.responses[entry.serial, entry.aki]
        answer = ocsp.load_der_ocsp_response(stored.body)
        assert answer.hash_algorithm.name == "sha1"
        assert answer.serial_number == entry.serial
        assert answer.certificate_status.value == entry.status
        assert stored.expiry == answer.next_update_utc == report.next_update
        CHAIN.responder_key.public_key().verify(
            answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA256())
        )


async def test_C43_the_index_gets_an_answer_for_every_certid_hash_and_its_refresh_point() -> None:
    signer = CHAIN.signer(certid_hashes=("sha256", "sha1", "sha512"))
    db, index = TableDB(rows_of(signer, 4)), Answers()
    await refresh(db, signer, index=index)
    found = [parse_response(data) for data, _ in index.added]
    assert sorted((answer.serial, answer.hash_name) for answer in found) == sorted(
        (entry.serial, name) for entry in db.rows for name in ("sha1", "sha256", "sha512")
    )
    assert {parse_response(entry.body).hash_name for entry in db.responses.values()} == {"sha1"}
    batch = signer.batch(NOW)
    due = int(refresh_at(batch.this_update, batch.next_update).timestamp())
    assert {point for _, point in index.added} == {due}


async def test_without_sha1_the_table_gets_the_first_hash() -> None:
    signer = CHAIN.signer(certid_hashes=("sha384", "sha256"))
    db = TableDB(rows_of(signer, 2))
    await refresh(db, signer)
    assert {parse_response(entry.body).hash_name for entry in db.responses.values()} == {"sha384"}


async def test_several_issuers_share_a_database_and_foreign_rows_are_counted() -> None:
    first, second = CHAIN.signer(), OTHER.signer(direct=True)
    rows = [*rows_of(first, 5), *rows_of(second, 4), row(7, "aa" * 20), row(8, "aa" * 20), row(9, "")]
    rows.append(row(rows[0].serial, second.aki))  # the same serial from two issuers
    db = TableDB(rows[::-1])
    skipped: list[SkippedRow] = []
    report = await refresh(db, first, second, on_skip=skipped.append)
    assert (report.certificates, report.signed) == (13, 10)
    assert report.foreign == {"aa" * 20: 2, "": 1}
    assert sorted(skipped, key=lambda entry: entry.serial) == [
        SkippedRow(7, "aa" * 20, "foreign issuer"),
        SkippedRow(8, "aa" * 20, "foreign issuer"),
        SkippedRow(9, "", "foreign issuer"),
    ]
    for (serial, aki), stored in db.responses.items():
        chain = CHAIN if aki == first.aki else OTHER
        answer = parse_response(stored.body)
        assert answer.serial == serial
        assert (answer.issuer_name_hash, answer.issuer_key_hash) == issuer_hashes(chain.ca, "sha1")
        assert len(answer.certificates) == (chain is CHAIN)


async def test_rows_without_a_key_identifier_are_signed_by_the_issuer_whose_signature_they_bear() -> None:
    key, name = make_key("ecdsa-256", 3), common_name("CA without SKI")
    ca = make_certificate(name, key, name, key, serial=1, ca=True, with_ski=False)
    bare = OCSPSigner(ca, ca, key, SigningPolicy(), CLOCK)
    leaf = make_certificate(
        common_name("leaf"), make_key("ecdsa-256", 9), name, key, serial=77, with_ski=False
    )
    db = TableDB([row(77, ""), row(78, ""), row(79, "")])
    db.certificates[77, ""] = CertificateRow(serial=77, aki="", pem=pem(leaf).decode(), expiry=EXPIRY)
    db.certificates[78, ""] = CertificateRow(serial=78, aki="", pem="nonsense", expiry=EXPIRY)
    report = await refresh(db, CHAIN.signer(), bare)
    assert set(db.responses) == {(77, "")}
    assert parse_response(db.responses[77, ""].body).issuer_name_hash == issuer_hashes(ca, "sha1")[0]
    assert report.foreign == {"": 2}


async def test_rows_that_cannot_be_signed_are_skipped_and_counted_by_cause() -> None:
    signer = CHAIN.signer()
    db = TableDB(
        [
            row(-4, signer.aki),
            row(5, signer.aki, CertStatus.UNKNOWN),
            row(6, signer.aki, CertStatus.UNKNOWN),
            row(0, signer.aki),
        ]
    )
    skipped: list[SkippedRow] = []
    report = await refresh(db, signer, on_skip=skipped.append)
    assert (report.signed, set(db.responses)) == (3, {(serial, signer.aki) for serial in (0, 5, 6)})
    assert parse_response(db.responses[5, signer.aki].body).status == 2
    assert report.skipped == {"bad serial": 1}
    assert [entry.cause for entry in skipped] == ["bad serial"]


async def test_a_revocation_with_a_reason_or_time_that_does_not_exist_is_answered_all_the_same() -> None:
    signer = CHAIN.signer()
    db = TableDB(
        [
            row(1, signer.aki, CertStatus.REVOKED, reason=7, revoked_at=NOW),
            row(2, signer.aki, CertStatus.REVOKED, reason=1, revoked_at=ZERO_TIME),
            row(3, signer.aki, CertStatus.REVOKED, reason=1, revoked_at=None),
        ]
    )
    report = await refresh(db, signer)
    assert (report.signed, report.reasons_dropped) == (3, 1)
    found = [parse_response(db.responses[serial, signer.aki].body) for serial in (1, 2, 3)]
    assert [(answer.status, answer.reason) for answer in found] == [(1, None), (1, 1), (1, 1)]
    assert [answer.revoked_at for answer in found] == [int(NOW.timestamp()), 0, 0]


async def test_an_empty_database_is_a_pass_of_nothing() -> None:
    report = await refresh(TableDB([]), CHAIN.signer())
    assert report == Tally()


async def test_two_signers_for_one_issuer_are_refused() -> None:
    with pytest.raises(ConfigError, match="two signers for CN=Example CA"):
        await refresh(TableDB([]), CHAIN.signer(), CHAIN.signer(direct=True))


async def test_processes_sign_the_same_as_this_process() -> None:
    first, second = make_chain("ed25519").signer(), make_chain("rsa-2048", "RSA CA").signer()
    rows = [*rows_of(first, 1200), *rows_of(second, 700), row(1, "bb"), row(-1, first.aki)]
    alone, pooled = TableDB(rows), TableDB(rows)
    seen: list[Progress] = []
    local = await refresh(alone, first, second, processes=1)
    report = await refresh(pooled, first, second, processes=2, on_progress=seen.append)
    assert report == local
    assert pooled.responses == alone.responses
    assert seen[-1] == Progress(certificates=1902, signed=1900)
    assert [entry.certificates for entry in seen] == sorted(entry.certificates for entry in seen)


async def test_a_failing_database_ends_the_pass_with_its_own_error() -> None:
    signer = CHAIN.signer()
    db = TableDB(rows_of(signer, 3000), chunk_rows=1000)
    db.fail_upserts_after = 1
    with pytest.raises(CodedError, match=r'"code":11000,"message":"the database went away"'):
        await refresh(db, signer, processes=2)
    assert len(db.responses) == BATCH_ROWS
    assert db.closed_streams == 1


async def test_an_expired_responder_is_told_in_the_end() -> None:
    signer = CHAIN.signer()
    db = TableDB(rows_of(signer, 3))
    late = ManualClock(CHAIN.responder.not_valid_after_utc)
    with pytest.raises(SignerError, match=r"OCSP of Example CA.*expired on"):
        await run_pass(cast("CertDB", db), [signer], clock=late)
    assert db.responses == {}


async def test_a_cancelled_pass_ends_its_processes_at_once() -> None:
    signer = make_chain("rsa-2048").signer(certid_hashes=("sha1",))
    db = TableDB(rows_of(signer, 50_000))
    task = asyncio.create_task(refresh(db, signer, processes=2))
    await db.written.wait()  # the first chunk has arrived, others are under way
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert signing_children() == []
    assert db.closed_streams == 1


def signing_children() -> list[int]:
    import multiprocessing

    return [child.pid or 0 for child in multiprocessing.active_children() if child.name == "ocspd-sign"]


async def test_a_killed_worker_ends_the_pass_with_one_clear_line() -> None:
    signer = CHAIN.signer()
    chunk = Chunk(0, [(serial, 0, 0, None) for serial in range(20_000)])
    async with SigningPool([signer], processes=1) as pool:
        task = asyncio.create_task(pool.sign(chunk, NOW))
        await asyncio.sleep(0)
        os.kill(signing_children()[0], signal.SIGKILL)
        with pytest.raises(OCSPDError, match=r"signing process ended unexpectedly \(exit code -9\)"):
            await task
        with pytest.raises(OCSPDError, match=r"exit code -9"):  # the place it had left
            await pool.sign(chunk, NOW)
    assert signing_children() == []


class FailingPool:
    """A pool that fails with its first rows, and says so before anybody can see it."""

    def __init__(self, failing: asyncio.Event) -> None:
        self.failing = failing

    def __call__(self, signers: Sequence[OCSPSigner], **_options: Any) -> FailingPool:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None: ...

    def close(self) -> None: ...

    async def sign(self, rows: Any, now: datetime) -> Any:
        self.failing.set()
        raise OCSPDError("the signing process ended")

    async def finish(self) -> list[str]:
        return []


class FollowingDB(TableDB):
    """A database whose second rows arrive at the moment the first ones fail."""

    failing: asyncio.Event

    async def stream_status(self, *, chunk_rows: int = 5000) -> AsyncIterator[list[StatusRow]]:
        yield self.rows[:chunk_rows]
        await self.failing.wait()
        yield self.rows[chunk_rows:]


async def test_rows_that_arrive_as_a_pass_fails_are_left_without_a_warning() -> None:
    """Their task is cancelled before it begins; nothing it was given may be waiting to be awaited."""
    signer = CHAIN.signer()
    db = FollowingDB(rows_of(signer, 6000))
    db.failing = asyncio.Event()
    pools = Pools(make=FailingPool(db.failing), local_rows=0)
    with pytest.raises(OCSPDError, match="process ended"):
        await refresh(db, signer, processes=2, pools=pools)
    gc.collect()  # a coroutine that nobody awaited fails the test here, as every warning does


async def test_a_worker_reports_what_it_cannot_sign_with() -> None:
    late = CHAIN.responder.not_valid_after_utc
    async with SigningPool([CHAIN.signer()], processes=1) as pool:
        with pytest.raises(OCSPDError, match="expired on"):
            await pool.sign(Chunk(0, [(1, 0, 0, None)]), late)


async def test_a_chunk_of_a_later_minute_is_signed_with_later_times() -> None:
    local = LocalSigning([CHAIN.signer()])
    answers = []
    for minutes in (0, 0, 1, 61, 60):
        signed = await local.sign(Chunk(0, [(1, 0, 0, None)]), NOW + timedelta(minutes=minutes))
        entry = signed.responses[0]
        assert isinstance(entry, list)
        answers.append(parse_response(entry[0]))
    minute = int(NOW.timestamp()) // 60 * 60
    assert [answer.produced_at - minute for answer in answers] == [0, 0, 60, 3660, 3600]
    assert all(answer.this_update <= answer.produced_at for answer in answers)


ORPHAN = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.pki.chain import NOW, make_chain
from ocspd.signer.signing import Chunk
from ocspd.signer.signing_pool import Pools, SigningPool
from tests.signer.test_presigning import signing_children

async def main():
    async with SigningPool([make_chain().signer()], processes=2) as pool:
        await pool.sign(Chunk(0, [(1, 0, 0, None)]), NOW)
        print(*signing_children(), flush=True)
        await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_do_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN.format(root=str(Path(__file__).parents[2])))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    for _ in range(500):
        if not any(alive(worker) for worker in workers):
            return
        time.sleep(0.01)
    pytest.fail(f"still running: {workers}")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_the_dump_is_one_base64_line_for_each_answer() -> None:
    signer = CHAIN.signer()
    db = TableDB(rows_of(signer, 3))
    await refresh(db, signer)
    written: list[bytes] = []
    assert await dump_table(cast("CertDB", db), written.append) == 3
    lines = b"".join(written).decode("ascii").split("\n")
    assert lines[-1] == ""
    assert {base64.b64decode(line, validate=True) for line in lines[:-1]} == {
        entry.body for entry in db.responses.values()
    }


async def test_a_pass_into_an_index_is_found_by_either_certid(tmp_path: Path) -> None:
    first, second = CHAIN.signer(), OTHER.signer()
    db = TableDB([*rows_of(first, 30), *rows_of(second, 10)])
    async with index_pass(tmp_path / "index", [first, second], CLOCK) as writer:
        await refresh(db, first, second, index=writer)
    index = IndexDirectory(tmp_path / "index").open()
    assert index.entries == 80
    for entry in db.rows:
        chain = CHAIN if entry.aki == first.aki else OTHER
        for name in ("sha1", "sha256"):
            answer = index.lookup(name, *issuer_hashes(chain.ca, name), entry.serial)
            assert answer is not None
            assert answer.status == entry.status
            if name == "sha1":
                assert answer.der == db.responses[entry.serial, entry.aki].body


async def test_a_later_pass_replaces_what_is_ours_and_keeps_what_is_not(tmp_path: Path) -> None:
    first, second = CHAIN.signer(), OTHER.signer()
    directory = IndexDirectory(tmp_path)
    for signer in (first, second, first):
        async with index_pass(tmp_path, [signer], CLOCK) as writer:
            await refresh(TableDB(rows_of(signer, 20)), signer, index=writer)
    manifest = directory.manifest()
    assert manifest is not None
    assert (manifest.generation, len(manifest.segments)) == (3, 2)
    assert directory.open().entries == 80
    # a pass with fewer hashes leaves no answer of the other hash behind to go stale
    sha1 = CHAIN.signer(certid_hashes=("sha1",))
    async with index_pass(tmp_path, [sha1], CLOCK) as writer:
        await refresh(TableDB(rows_of(sha1, 20)), sha1, index=writer)
    assert directory.open().lookup("sha256", *issuer_hashes(CHAIN.ca, "sha256"), 1 << 150) is None
    assert directory.open().entries == 60


async def test_S13_a_pass_never_brings_back_what_a_shared_segment_says(tmp_path: Path) -> None:
    first, second = CHAIN.signer(), OTHER.signer()
    rows = rows_of(first, 20)
    gone = rows[0]
    good = gone._replace(status=CertStatus.GOOD)
    revoked = gone._replace(status=CertStatus.REVOKED, revoked_at=NOW)
    async with index_pass(tmp_path, [first, second], CLOCK) as writer:
        await refresh(TableDB([good, *rows_of(second, 5)]), first, second, index=writer)
    async with index_pass(tmp_path, [first], CLOCK) as writer:
        await refresh(TableDB([revoked]), first, index=writer)
    async with index_pass(tmp_path, [first], CLOCK) as writer:
        await refresh(TableDB(rows[1:]), first, index=writer)
    answer = IndexDirectory(tmp_path).open().lookup("sha1", *issuer_hashes(CHAIN.ca, "sha1"), gone.serial)
    assert answer is not None
    assert answer.status == CertStatus.REVOKED


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_failed_pass_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    signer = CHAIN.signer()
    async with index_pass(tmp_path, [signer], CLOCK) as writer:
        await refresh(TableDB(rows_of(signer, 20)), signer, index=writer)
    before = names_in(tmp_path)
    db = TableDB(rows_of(signer, 3000))
    db.fail_upserts_after = 2
    with pytest.raises(CodedError):
        async with index_pass(tmp_path, [signer], CLOCK) as writer:
            await refresh(db, signer, index=writer, processes=1)
    assert names_in(tmp_path) == before
    assert IndexDirectory(tmp_path).open().generation == 1


@pytest.mark.parametrize("background", [True, False])
async def test_one_cpu_in_the_background_has_a_signing_process_too(*, background: bool) -> None:
    signer = CHAIN.signer()
    seen: list[int] = []
    db = TableDB(rows_of(signer, 1200))
    await refresh(
        db,
        signer,
        processes=1,
        background=background,
        on_progress=lambda _: seen.append(len(signing_processes())),
    )
    assert max(seen) == int(background)  # it may have ended before the last rows are told of
    assert len(db.responses) == 1200


@pytest.mark.parametrize("background", [True, False])
async def test_signing_processes_in_the_background_yield_to_everything_else(*, background: bool) -> None:
    signer = CHAIN.signer()
    async with SigningPool([signer], processes=1, background=background) as pool:
        await pool.sign(to_chunk(0, [row(1, signer.aki)]), NOW)
        (pid,) = signing_processes()
        policy, session, weight = os.sched_getscheduler(pid), os.getsid(pid), sessions.weight(pid)
    if background:
        # a session of its own: the kernel shares CPUs out between sessions first
        assert (policy, session, weight) in {(os.SCHED_IDLE, pid, 19), (os.SCHED_IDLE, pid, None)}
    else:
        assert (policy, session) == (os.SCHED_OTHER, os.getsid(0))


def test_signing_in_the_background_gives_way_between_two_ticks_of_the_kernel() -> None:
    signer = CHAIN.signer()
    chunk = to_chunk(0, [row(number, signer.aki) for number in range(400)])

    def interruptions(*, background: bool) -> int:
        batch_signer = BatchSigner([signer], background=background)
        batch_signer.sign(chunk, NOW)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        batch_signer.sign(chunk, NOW)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - before

    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            try:
                # 800 signatures are 13 ms: it may 200 times, and the kernel's ticks are three or four
                assert interruptions(background=True) > 3 * interruptions(background=False) + 10
            finally:
                other.kill()
    finally:
        os.sched_setaffinity(0, cpus)


def signing_processes() -> list[int]:
    children = [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_times_given_to_workers_survive_the_way_there() -> None:
    late = row(5, "", CertStatus.REVOKED, reason=4, revoked_at=ZERO_TIME)
    chunk = to_chunk(0, [late])
    assert chunk.rows == [(5, 1, 4, ZERO_TIME.timestamp())]
    assert chunk.until is None
    assert datetime.fromtimestamp(ZERO_TIME.timestamp(), UTC) == ZERO_TIME
