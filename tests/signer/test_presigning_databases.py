from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp

from ocspd._der import parse_response
from ocspd._index import Index
from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertificateRow, CertStatus
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.presigning import run_pass
from ocspd.signer.response_table import dump_table
from ocspd.signer.staleness import Staleness
from ocspd.signer.tally import Progress, SkippedRow
from tests.certdb.raw import execute, fetch
from tests.pki.chain import make_chain, pem
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB
    from ocspd.index.manifest import SegmentRef

CHAIN = make_chain()
OTHER = make_chain(name="Other CA", number=1)
COUNT = 12_345
DER = Encoding.DER


def many_rows(driver: str, aki: str) -> str:
    """SQL that inserts COUNT certificates with serials from 1, every tenth revoked, as CFSSL writes them."""
    text = "convert_to({}, 'UTF8')" if driver == "postgres" else "{}"
    upto = f"SELECT n + 1 FROM t WHERE n < {COUNT}"
    numbers = (
        f"SELECT generate_series(1, {COUNT}) AS n"
        if driver == "postgres"
        else f"WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL {upto}) SELECT n FROM t"
    )
    word = "CASE WHEN n % 10 = 0 THEN 'revoked' ELSE 'good' END"
    return (
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
        f"expiry, revoked_at, pem) SELECT {text.format('CAST(n AS text)')}, {text.format(repr(aki))}, "
        f"{text.format(repr(''))}, {text.format(word)}, CASE WHEN n % 10 = 0 THEN 1 ELSE 0 END, "
        "'2099-01-01 00:00:00+00:00', '2026-01-02 03:04:05+00:00', "
        f"{text.format(repr('unused'))} FROM ({numbers}) AS numbers"
    )


async def test_a_table_of_many_chunks_is_signed_while_it_is_read(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    signer = CHAIN.signer(certid_hashes=("sha1",))
    await execute(migrated_db_config, many_rows(migrated_db_config.driver, signer.aki))
    for _ in range(2):  # the second time every row is replaced
        report = await run_pass(certdb, [signer], clock=SystemClock(), processes=2)
        assert (report.certificates, report.signed, report.revoked) == (COUNT, COUNT, COUNT // 10)
        assert not report.foreign
        assert not report.skipped
    lines: list[bytes] = []
    assert await dump_table(certdb, lines.append) == COUNT
    answers = [parse_response(base64.b64decode(line)) for line in b"".join(lines).split()]
    assert {answer.serial for answer in answers} == set(range(1, COUNT + 1))
    assert all(answer.status == (answer.serial % 10 == 0) for answer in answers)
    assert len(await fetch(migrated_db_config, "SELECT serial_number FROM ocsp_responses")) == COUNT


async def test_what_debians_cfssl_issues_is_signed_and_its_own_refresh_agrees(
    tmp_path: Path, certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    cfssl = need("cfssl")
    CHAIN.write(tmp_path)
    for name, key in (("ca-key", CHAIN.ca_key), ("responder-key", CHAIN.responder_key)):
        (tmp_path / f"{name}.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
    (tmp_path / "db.json").write_text(
        json.dumps({"driver": migrated_db_config.driver, "data_source": migrated_db_config.data_source})
    )
    request = {"CN": "test", "key": {"algo": "ecdsa", "size": 256}, "hosts": ["a.example"]}
    (tmp_path / "csr.json").write_text(json.dumps(request))

    def run(*words: str) -> str:
        result = subprocess.run([cfssl, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    issued = json.loads(
        run("gencert", "-ca", "ca.pem", "-ca-key", "ca-key.pem", "-db-config", "db.json", "csr.json")
    )
    serial = x509.load_pem_x509_certificate(issued["cert"].encode()).serial_number
    signer = CHAIN.signer(responder_id="name")
    report = await run_pass(certdb, [signer], clock=SystemClock())
    assert (report.certificates, report.signed) == (1, 1)
    (ours,) = await stored(certdb)
    assert ours.serial_number == serial
    if migrated_db_config.driver == "postgres":
        return  # there Debian's cfssl breaks its own foreign key: it looks for the AKI it did not store
    words = ("-ca", "ca.pem", "-responder", "responder.pem", "-responder-key", "responder-key.pem")
    run("ocsprefresh", "-db-config", "db.json", *words)
    (theirs,) = [
        answer for answer in await stored(certdb) if answer.public_bytes(DER) != ours.public_bytes(DER)
    ]
    for field in (
        "serial_number",
        "responder_name",
        "certificates",
        "certificate_status",
        "issuer_key_hash",
        "issuer_name_hash",
    ):
        assert getattr(ours, field) == getattr(theirs, field)


async def stored(certdb: CertDB) -> list[ocsp.OCSPResponse]:
    lines: list[bytes] = []
    await dump_table(certdb, lines.append)
    return [ocsp.load_der_ocsp_response(base64.b64decode(line)) for line in b"".join(lines).split()]


async def test_a_row_without_key_identifier_is_found_by_its_signature(certdb: CertDB) -> None:
    signer = CHAIN.signer()
    expiry = datetime.now(UTC) + timedelta(days=5)
    for serial, text in ((5, pem(CHAIN.issue(5)).decode()), (6, "nonsense")):
        await certdb.insert_certificate(CertificateRow(serial=serial, aki="", pem=text, expiry=expiry))
    report = await run_pass(certdb, [signer], clock=SystemClock())
    assert (report.signed, report.foreign) == (1, {"": 1})
    (found,) = await certdb.find_ocsp(await certdb.find_statuses([5]))
    assert found is not None
    assert parse_response(found).serial == 5


class Sink:
    """A SegmentSink that keeps what it gets in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = IndexDirectory(directory)
        self.directory.create()
        self.prefix = self.directory.prefix
        self.machine = self.directory.machine
        self.limit = 3_000
        self.segments: tuple[SegmentRef, ...] = ()

    async def publish(self, paths: list[str]) -> None:
        self.segments = (*map(self.directory.adopt, paths), *self.segments)


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_pass_into_segments_takes_every_kind_of_row(
    certdb: CertDB,
    migrated_db_config: DBConfig,
    tmp_path: Path,
    processes: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On PostgreSQL rows are read where they are signed, on SQLite here: the same comes of it."""
    signers = [CHAIN.signer(), OTHER.signer(certid_hashes=("sha1",))]
    mine, theirs = (signer.aki for signer in signers)
    await execute(migrated_db_config, many_rows(migrated_db_config.driver, mine))
    expiry = datetime.now(UTC) + timedelta(days=5)
    first = COUNT + 1
    good = CertificateRow(serial=first, aki=theirs, pem="unused", expiry=expiry)
    spelled = ":".join(theirs[at : at + 2] for at in range(0, len(theirs), 2)).upper()
    for row in (
        good,
        replace(good, serial=first + 1, status=CertStatus.UNKNOWN),
        replace(good, serial=first + 2, status=CertStatus.REVOKED, reason=77, revoked_at=None),
        replace(good, serial=first + 3, aki="ffff"),
        replace(good, serial=first + 4, aki="", pem=pem(CHAIN.issue(first + 4)).decode()),
        replace(good, serial=first + 5, aki="", pem="nonsense"),
        replace(good, serial=first + 6, expiry=datetime.now(UTC) - timedelta(days=1)),
        replace(
            good, serial=first + 7, status=CertStatus.REVOKED, revoked_at=datetime(1950, 1, 1, tzinfo=UTC)
        ),
    ):
        await certdb.insert_certificate(row)
    text = "convert_to({}, 'UTF8')" if migrated_db_config.driver == "postgres" else "{}"
    await execute(
        migrated_db_config,
        f"UPDATE certificates SET authority_key_identifier = {text.format(repr(spelled))} "
        f"WHERE serial_number = {text.format(repr(str(first)))}",
        f"UPDATE certificates SET serial_number = {text.format(repr('0x5'))} "
        f"WHERE serial_number = {text.format(repr('5'))}",
    )
    sink = Sink(tmp_path / "index")
    skipped: list[SkippedRow] = []
    progress: list[Progress] = []
    report = await run_pass(
        certdb,
        signers,
        clock=SystemClock(),
        processes=processes,
        table=False,
        segments=sink,
        on_progress=progress.append,
        on_skip=skipped.append,
    )
    revoked = COUNT // 10 + 2
    assert (report.certificates, report.signed, report.revoked) == (COUNT + 7, COUNT + 4, revoked)
    assert report.responses == 2 * (COUNT - 1 + 1) + 4
    assert report.foreign == {"ffff": 1, "": 1}
    assert report.skipped == {"unreadable serial number": 1}
    assert (report.reasons_dropped, report.fresh) == (1, 0)
    assert report.next_update is not None
    assert sorted((row.serial, row.aki, row.cause) for row in skipped if row.serial != "?") == [
        (first + 3, "ffff", "foreign issuer"),
        (first + 5, "", "foreign issuer"),
    ]
    assert any("serial_number holds" in row.cause for row in skipped)
    assert progress[-1] == Progress(COUNT + 7, COUNT + 4)
    index = Index(sink.directory.map(sink.segments))
    assert len(sink.segments) > 2 or processes == 1
    for chain, serial, status in (
        *((CHAIN, 1, 0), (CHAIN, 10, 1), (CHAIN, COUNT, 0), (CHAIN, first + 4, 0)),
        *((OTHER, first, 0), (OTHER, first + 1, 2), (OTHER, first + 2, 1), (OTHER, first + 7, 1)),
    ):
        answer = index.lookup("sha1", *issuer_hashes(chain.ca, "sha1"), serial)
        assert answer is not None
        assert parse_response(answer.der).status == status, serial
    assert index.entries == report.responses

    # a second pass asks the index: nothing is due but what the database says differently now
    await certdb.revoke_certificate(7, mine, 4)
    again = await run_pass(
        certdb,
        signers,
        clock=SystemClock(),
        processes=processes,
        table=False,
        segments=sink,
        staleness=Staleness.of(sink.directory.path, sink.segments, signers, 0.25),
    )
    assert (again.certificates, again.fresh, again.signed, again.revoked) == (COUNT + 7, COUNT + 3, 1, 1)
    assert (again.skipped, again.foreign) == (report.skipped, report.foreign)
