from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import open_certdb
from ocspd.clock import SystemClock
from ocspd.model import CertificateRow, CertStatus
from tests.binary import ocspd
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

AKI = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def config_file(tmp_path: Path, db_config: DBConfig) -> Path:
    path = tmp_path / "db.json"
    path.write_text(json.dumps({"driver": db_config.driver, "data_source": db_config.data_source}))
    return path


BEFORE = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)


async def insert(certdb: CertDB, serial: int, aki: str = AKI, revoked: int | None = None) -> None:
    row = CertificateRow(serial=serial, aki=aki, pem="PEM", expiry=datetime.now(UTC) + timedelta(days=1))
    if revoked is not None:
        row = replace(row, status=CertStatus.REVOKED, reason=revoked, revoked_at=BEFORE)
    await certdb.insert_certificate(row)


def error_of(stderr: str) -> tuple[int, str]:
    error = json.loads(stderr.splitlines()[-1])
    return error["code"], error["message"]


async def test_up_makes_a_database_that_status_and_down_know(config_file: Path, db_config: DBConfig) -> None:
    first = ocspd("db", "up", "-db-config", config_file)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == (
        "applied 001_CreateCertificates.sql\n"
        "applied 002_AddMetadataToCertificates.sql\n"
        "applied 003_OCSPDChangeFeed.sql\n"
        "applied 004_OCSPDUrgency.sql\n"
        "applied 005_OCSPDEveryWriter.sql\n"
        "applied 006_OCSPDAnswers.sql\n"
    )
    second = ocspd("db", "up", "-db-config", config_file)
    assert (second.returncode, second.stdout.endswith("is up to date\n")) == (0, True)
    async with await open_certdb(db_config, SystemClock()) as db:
        await db.check()

    assert ocspd("db", "down", "-db-config", config_file).stdout == "undone 006_OCSPDAnswers.sql\n"
    assert ocspd("db", "down", "-db-config", config_file).stdout == "undone 005_OCSPDEveryWriter.sql\n"
    assert ocspd("db", "down", "-db-config", config_file).stdout == "undone 004_OCSPDUrgency.sql\n"
    assert ocspd("db", "down", "-db-config", config_file).stdout == "undone 003_OCSPDChangeFeed.sql\n"
    status = ocspd("db", "-db-config", config_file, "status").stdout.splitlines()
    assert status[3].endswith("-- 001_CreateCertificates.sql")
    assert status[3].strip().startswith("20")
    assert status[5].split() == ["Pending", "--", "003_OCSPDChangeFeed.sql"]

    refused = ocspd("db", "down", "-db-config", config_file)
    assert refused.returncode == 1
    assert "-force" in refused.stderr
    forced = ocspd("db", "down", "-force", "-db-config", config_file)
    assert (forced.returncode, forced.stdout) == (0, "undone 002_AddMetadataToCertificates.sql\n")


@pytest.mark.parametrize(
    ("serial", "aki"),
    [
        (str(0xABCDEF0123), AKI),
        ("0xabcdef0123", AKI.upper()),
        ("AB:CD:EF:01:23", ":".join(AKI[at : at + 2] for at in range(0, 40, 2))),
        ("ab:cd:ef:1:23", None),
    ],
)
async def test_a_certificate_is_revoked_whatever_the_spelling(
    config_file: Path, certdb: CertDB, serial: str, aki: str | None
) -> None:
    await insert(certdb, 0xABCDEF0123)
    result = ocspd("revoke", "-db-config", config_file, "-serial", serial, *(["-aki", aki] if aki else []))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    row = await certdb.get_certificate(0xABCDEF0123, AKI)
    assert row is not None
    assert (row.status, row.reason) == (CertStatus.REVOKED, 0)
    assert row.revoked_at is not None
    assert abs(row.revoked_at - datetime.now(UTC)) < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("reason", "number"), [("", 0), ("0", 0), ("10", 10), ("keyCompromise", 1), ("SUPERSEDED", 4), ("6", 6)]
)
async def test_reasons_are_names_or_numbers(
    config_file: Path, certdb: CertDB, reason: str, number: int
) -> None:
    await insert(certdb, 7)
    result = ocspd("revoke", "-db-config", config_file, "-serial", "7", "-aki", AKI, "-reason", reason)
    assert (result.returncode, result.stderr) == (0, "")
    row = await certdb.get_certificate(7, AKI)
    assert row is not None
    assert row.reason == number


@pytest.mark.parametrize(
    ("first", "words", "outcome"),
    [
        (1, [], "already"),
        (1, ["-reason", "superseded"], "already"),
        (0, ["-reason", "keyCompromise"], "already"),
        (1, ["-reason", "certificateHold"], "already"),
        (6, ["-reason", "6"], "already"),
        (6, ["-reason", "keyCompromise"], 1),
        (6, [], 0),
        (1, ["-reason", "superseded", "-force"], 4),
        (6, ["-reason", "removeFromCRL"], "good"),
        (1, ["-reason", "8"], "refused"),
        (1, ["-reason", "8", "-force"], "refused"),
        (None, ["-reason", "removefromcrl"], "refused"),
    ],
)
async def test_the_first_revocation_stays_unless_it_is_a_hold(
    config_file: Path, certdb: CertDB, first: int | None, words: list[str], outcome: int | str
) -> None:
    await insert(certdb, 7, revoked=first)
    before = await certdb.get_certificate(7, AKI)
    result = ocspd("revoke", "-db-config", config_file, "-serial", "7", "-aki", AKI, *words)
    after = await certdb.get_certificate(7, AKI)
    assert before is not None
    assert after is not None
    match outcome:
        case "already":
            assert (result.returncode, after) == (0, before)
            assert "serial 7 was already revoked on 2024-02-03 04:05:06 UTC" in result.stderr
            assert "-force" in result.stderr
            assert len(result.stderr.splitlines()) == 1
        case "refused":
            assert (result.returncode, after) == (1, before)
            assert error_of(result.stderr)[0] == 8200
            assert "certificateHold" in result.stderr
        case "good":
            assert (result.returncode, result.stderr) == (0, "")
            assert (after.status, after.reason, after.revoked_at) == (CertStatus.GOOD, 0, None)
        case _:
            assert (result.returncode, result.stderr) == (0, "")
            assert (after.status, after.reason) == (CertStatus.REVOKED, outcome)
            assert after.revoked_at is not None
            assert after.revoked_at > BEFORE


async def test_a_serial_of_two_issuers_needs_the_aki(config_file: Path, certdb: CertDB) -> None:
    await insert(certdb, 7, "aa")
    await insert(certdb, 7, "")
    result = ocspd("revoke", "-db-config", config_file, "-serial", "7")
    assert result.returncode == 1
    code, message = error_of(result.stderr)
    assert code == 1400
    assert 'select one by its aki: "", aa' in message
    assert {row.status for row in await certdb.find_statuses([7])} == {CertStatus.GOOD}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-serial", "8", "-aki", AKI], 11200),
        (["-serial", "8"], 11200),
        (["-serial", "seven", "-aki", AKI], 1300),
        (["-serial", "7", "-aki", AKI, "-reason", "7"], 8200),
        (["-serial", "7", "-aki", AKI, "-reason", "11"], 8200),
    ],
)
async def test_what_cannot_be_revoked_has_a_code(
    config_file: Path, certdb: CertDB, words: list[str], code: int
) -> None:
    await insert(certdb, 7)
    result = ocspd("revoke", "-db-config", config_file, *words)
    assert (result.returncode, result.stdout) == (1, "")
    assert error_of(result.stderr)[0] == code
    assert {row.status for row in await certdb.find_statuses([7])} == {CertStatus.GOOD}


async def test_a_reason_that_is_no_number_has_no_code_as_in_cfssl(config_file: Path, certdb: CertDB) -> None:
    await insert(certdb, 7)
    words = ["-serial", "7", "-aki", AKI, "-reason", "because"]
    result = ocspd("revoke", "-db-config", config_file, *words)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Invalid revocation reason 'because': use a number")
    assert {row.status for row in await certdb.find_statuses([7])} == {CertStatus.GOOD}


async def test_only_a_serial_that_was_typed_may_have_been_meant_as_hex(
    config_file: Path, certdb: CertDB, tmp_path: Path
) -> None:
    del certdb  # migrated, and empty
    make_chain().write(tmp_path)
    given = ocspd("revoke", "-db-config", config_file, "-cert", tmp_path / "leaf.pem")
    code, message = error_of(given.stderr)
    assert (code, message) == (11200, "failed to revoke the certificate: certificate not found")
    typed = ocspd("revoke", "-db-config", config_file, "-serial", "12345", "-aki", AKI)
    assert "it was read as decimal; if it is hex" in error_of(typed.stderr)[1]


def test_an_unmigrated_database_is_one_line_with_the_remedy(config_file: Path) -> None:
    result = ocspd("revoke", "-db-config", config_file, "-serial", "7", "-aki", AKI)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    code, message = error_of(result.stderr)
    assert code == 11000
    assert "ocspd db up -db-config" in message


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["revoke", "-serial", "7"], 1),
        (["revoke", "-db-config", "nowhere.json", "-serial", "7"], 1),
        (["revoke", "-db-config", "x"], 1),
        (["revoke", "-serial", "7", "extra"], 1),
        (["revoke"], 1),
        (["db"], 2),
        (["db", "sideways"], 2),
        (["db", "up", "down"], 2),
        (["db", "up"], 1),
    ],
)
def test_a_wrong_command_line_has_an_exit_code_and_no_traceback(words: list[str], code: int) -> None:
    result = ocspd(*words)
    assert (result.returncode, result.stdout) == (code, "")
    assert "Traceback" not in result.stderr
    if "nowhere.json" in words:
        assert error_of(result.stderr)[0] == 5200
    elif words[0] == "revoke":
        assert not result.stderr.startswith("{")  # CFSSL's errors about flags have no number
