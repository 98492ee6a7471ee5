"""`ocspd revoke -file`: many certificates, a line about each."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.model import CertificateRow, CertStatus
from ocspd.pki.certs import aki_hex, certificate_to_pem, to_row
from tests.binary import ocspd
from tests.certdb.test_revoke_rows import reject
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

AKI = "0123456789abcdef0123456789abcdef01234567"
ALREADY = "already revoked on 2024-02-03 04:05:06 UTC, reason keycompromise: nothing changed"
SEVERAL = f'2 certificates have this serial number: add a key identifier: "", {AKI}'
NOWHERE = (
    "no certificate has this serial number (it was read as decimal; if it is hex, as openssl prints it, "
    "write 0x99)"
)
NO_NUMBER = "no serial number: write it in decimal, as 0x... or as hex pairs with colons"
BEFORE = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def config_file(tmp_path: Path, db_config: DBConfig) -> Path:
    path = tmp_path / "db.json"
    path.write_text(json.dumps({"driver": db_config.driver, "data_source": db_config.data_source}))
    return path


async def insert(certdb: CertDB, *serials: int, aki: str = AKI, revoked: int | None = None) -> None:
    expiry = datetime.now(UTC) + timedelta(days=1)
    rows = [CertificateRow(serial=serial, aki=aki, pem="PEM", expiry=expiry) for serial in serials]
    if revoked is not None:
        rows = [replace(row, status=CertStatus.REVOKED, reason=revoked, revoked_at=BEFORE) for row in rows]
    assert await certdb.insert_certificates(rows) == [None] * len(rows)


async def statuses(certdb: CertDB, *serials: int) -> dict[int, tuple[str, int]]:
    return {row.serial: (row.status.word, row.reason) for row in await certdb.find_statuses(serials)}


def revoke(config_file: Path, text: str | bytes, *words: str) -> subprocess.CompletedProcess[str]:
    path = config_file.with_name("list")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return ocspd("revoke", "-db-config", config_file, "-file", path, *words)


LIST = f"""\ufeff# serial, key identifier, reason
1
0x0a  {AKI.upper()}   keyCompromise
0b:0c,,superseded      # as spreadsheets write it
4,{AKI},
5 superseded\r
6 - 9

99
seven
8 {AKI} because
9 wrong
10 {AKI} 1 2
12
12 1
12 0
13 removeFromCRL
14 removeFromCRL
15
16
16 ""
"""


async def test_a_list_is_done_line_by_line(config_file: Path, certdb: CertDB) -> None:
    every = [1, 10, 0x0B0C, 4, 5, 6, 8, 9, 12, 14, 16]
    await insert(certdb, *every)
    await insert(certdb, 16, aki="")
    await insert(certdb, 13, revoked=6)
    await insert(certdb, 15, revoked=1)
    before = await statuses(certdb, *every, 13, 15)

    dry = revoke(config_file, LIST, "-dry-run")
    assert dry.returncode == 1
    assert await statuses(certdb, *every, 13, 15) == before
    result = revoke(config_file, LIST)
    assert result.returncode == 1
    expected = [
        "line 2: serial 1: revoked, reason unspecified",
        f"line 3: serial 10 aki {AKI}: revoked, reason keycompromise",
        "line 4: serial 2828: revoked, reason superseded",
        f"line 5: serial 4 aki {AKI}: revoked, reason unspecified",
        "line 6: serial 5: revoked, reason superseded",
        "line 7: serial 6: revoked, reason privilegewithdrawn",
        f"line 9: serial 99: failed: {NOWHERE}",
        f"line 10: failed: 'seven' is {NO_NUMBER}",
        "line 11: failed: 'because' is no reason: use 0-6, 8-10, or one of unspecified, ",
        "line 12: failed: 'wrong' is neither a key identifier in hex nor a reason",
        "line 13: failed: more than three fields: write a serial number, key identifier and reason",
        "line 14: serial 12: revoked, reason unspecified",
        "line 15: serial 12: failed: line 14 gives this certificate the reason unspecified: nothing changed",
        "line 16: serial 12: the same certificate as line 14",
        "line 17: serial 13: released from hold",
        "line 18: serial 14: failed: not on hold: removeFromCRL only releases from certificateHold",
        f"line 19: serial 15: {ALREADY}",
        f"line 20: serial 16: failed: {SEVERAL}",
        "line 21: serial 16: revoked, reason unspecified",
    ]
    lines = result.stdout.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected
    assert dry.stdout == result.stdout.replace(": revoked", ": would be revoked").replace(
        ": released", ": would be released"
    )
    assert "8 revoked, 1 released from hold, 2 unchanged, 8 failed" in result.stderr
    assert "dry run, nothing is changed: 8 revoked" in dry.stderr
    after = await statuses(certdb, 1, 10, 0x0B0C, 4, 5, 6, 8, 9, 12, 13, 14, 15)
    good = ("good", 0)
    assert after == {
        1: ("revoked", 0),
        10: ("revoked", 1),
        0x0B0C: ("revoked", 4),
        4: ("revoked", 0),
        5: ("revoked", 4),
        6: ("revoked", 9),
        12: ("revoked", 0),
        13: good,
        15: ("revoked", 1),
    } | dict.fromkeys((8, 9, 14), good)


async def test_a_list_used_again_changes_nothing(config_file: Path, certdb: CertDB) -> None:
    await insert(certdb, *range(1, 1202))
    text = "".join(f"{serial}\n" for serial in range(1, 1202))
    first = revoke(config_file, text, "-reason", "superseded")
    assert (first.returncode, first.stdout.count(": revoked, reason superseded\n")) == (0, 1201)
    rows = {row.serial: row for row in await certdb.find_statuses(range(1, 1202))}
    again = revoke(config_file, text, "-reason", "keyCompromise")
    assert (again.returncode, again.stdout.count("already revoked on ")) == (0, 1201)
    assert {row.serial: row for row in await certdb.find_statuses(range(1, 1202))} == rows


async def test_certificates_in_pem_are_revoked_and_a_key_is_not_shown(
    config_file: Path, certdb: CertDB
) -> None:
    chain = make_chain()
    certificate = chain.leaf
    row = to_row(certificate, label="", issued_at=None)
    await certdb.insert_certificate(replace(row, aki=""))  # as Debian's CFSSL stores it
    pem = certificate_to_pem(certificate)
    key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n"
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    result = revoke(config_file, f"{key}{pem}{broken}{pem}7\n{pem[:200]}", "-reason", "1")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "line 1: failed: a private key, not a certificate"
    name = f"serial {row.serial} aki {aki_hex(certificate)}"
    assert lines[1] == f"line 4: {name}: revoked, reason keycompromise"
    assert "failed: Failed to parse certificate" in lines[2]
    assert lines[3].endswith(f"{name}: the same certificate as line 4")
    assert "serial 7: failed: no certificate" in lines[4]
    assert lines[5].endswith("failed: a PEM block without END")
    assert "MIGH" not in result.stdout + result.stderr
    assert (await statuses(certdb, row.serial))[row.serial] == ("revoked", 1)


async def test_a_row_that_the_database_rejects_fails_alone(
    config_file: Path, certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    await insert(certdb, 1, 2, 3)
    await reject(migrated_db_config, "2")
    result = revoke(config_file, "1\n2\n3\n")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "line 1: serial 1: revoked, reason unspecified"
    assert lines[1].startswith("line 2: serial 2: failed: ")
    assert "not this one" in lines[1]
    assert lines[2] == "line 3: serial 3: revoked, reason unspecified"
    assert {serial: word for serial, (word, _) in (await statuses(certdb, 1, 2, 3)).items()} == {
        1: "revoked",
        2: "good",
        3: "revoked",
    }


async def test_one_certificate_can_be_tried_too(config_file: Path, certdb: CertDB) -> None:
    await insert(certdb, 7)
    words = ["revoke", "-db-config", str(config_file), "-serial", "0x07", "-reason", "1", "-dry-run"]
    result = ocspd(*words)
    assert (result.returncode, result.stdout) == (0, "serial 7: would be revoked, reason keycompromise\n")
    assert await statuses(certdb, 7) == {7: ("good", 0)}
    assert ocspd(*words, "-force").returncode == 2


@pytest.mark.parametrize("db_config", ["sqlite3"], indirect=True)
@pytest.mark.parametrize(
    ("data", "words", "error"),
    [
        (b"", [], "has no serial number and no certificate"),
        (b"# nothing\n\n", [], "has no serial number and no certificate"),
        ("7\n".encode("utf-16"), [], "save it as text"),
        (b"7\n", ["-reason", "because"], "Invalid revocation reason"),
        (b"7\n", ["-serial", "7"], "give either -file, or -cert, or -serial and -aki"),
        (b"7\n", ["-force"], "-force is for one certificate"),
    ],
)
async def test_what_is_no_list_is_an_error(
    config_file: Path, certdb: CertDB, data: bytes, words: list[str], error: str
) -> None:
    await insert(certdb, 7)
    result = revoke(config_file, data, *words)
    assert (result.returncode, result.stdout) == (2 if error.startswith(("give", "-force")) else 1, "")
    assert error in result.stderr
    assert "Traceback" not in result.stderr
    assert await statuses(certdb, 7) == {7: ("good", 0)}


@pytest.mark.parametrize("db_config", ["sqlite3"], indirect=True)
def test_a_list_needs_a_migrated_database(config_file: Path) -> None:
    result = revoke(config_file, "7\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert "ocspd db up -db-config" in result.stderr


async def test_a_list_may_come_from_standard_input(config_file: Path, certdb: CertDB) -> None:
    await insert(certdb, 7)
    result = ocspd("revoke", "-db-config", config_file, "-file", "-", stdin="7\n")
    assert (result.returncode, result.stdout) == (0, "line 1: serial 7: revoked, reason unspecified\n")
