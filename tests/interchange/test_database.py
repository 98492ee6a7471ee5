"""One database that Debian's cfssl and ours use in turn."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from tests.authority.api import make_backend, serving
from tests.authority.test_api import result_of
from tests.binary import ocspd
from tests.interchange.programs import Case, run

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb.base import CertDB

AKIS = ["AB:CD", "ABCD", "ab cd", "free text", "abcd", ""]


@pytest.mark.parametrize("aki", AKIS)
def test_a_key_identifier_is_found_by_the_text_it_is_stored_as(
    places: tuple[Path, Path], ours: Path, aki: str
) -> None:
    place = places[1]
    assert ocspd("db", "up", "-db-config", "db.json", cwd=place).returncode == 0
    with sqlite3.connect(place / "certs.db") as connection:
        connection.execute(
            "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
            "expiry, revoked_at, pem) VALUES ('7', ?, '', 'good', 0, '2099-01-01 00:00:00+00:00', "
            "'0001-01-01 00:00:00+00:00', '')",
            (aki,),
        )
    connection.close()
    words = ["revoke", "-db-config", "db.json", "-serial", "7", "-aki", aki, "-reason", "superseded"]
    done = ocspd(*words, cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with sqlite3.connect(place / "certs.db") as connection:
        rows = connection.execute(
            "SELECT authority_key_identifier, status, reason FROM certificates"
        ).fetchall()
    connection.close()
    assert rows == [(aki, "revoked", 4)]


@pytest.mark.parametrize(
    ("request_", "sans"),
    [
        ({"hosts": []}, []),
        ({"hosts": ["192.0.2.1"]}, []),
        ({"hosts": ["a.example", "192.0.2.1"]}, ["a.example"]),
        ({"hostname": "192.0.2.1"}, []),
        ({"hosts": None}, ["leaf.example"]),
        ({}, ["leaf.example"]),
        ({"hosts": [], "profile": "bare"}, []),
    ],
)
async def test_the_column_sans_is_what_go_writes(
    inputs: Path, certdb: CertDB, tmp_path: Path, request_: dict[str, Any], sans: list[str] | None
) -> None:
    csr = (inputs / "leaf.csr").read_text()
    async with serving(make_backend(inputs, certdb)) as url:
        await result_of(url, "sign", {"certificate_request": csr, **request_})
    (row,) = [row async for rows in certdb.stream_status() for row in rows]
    (found,) = await certdb.find_certificates(row.serial)
    assert found.sans == sans


def test_ocspdump_takes_no_notice_of_arguments_as_cfssl(
    places: tuple[Path, Path], ours: Path, theirs: str
) -> None:
    for program, place in ((theirs, places[0]), (ours, places[1])):
        assert ocspd("db", "up", "-db-config", "db.json", cwd=place).returncode == 0
        outcome, told = run(program, Case("ocspdump -db-config db.json x"), place)
        assert (outcome.code, outcome.stdout) == (0, ""), told


def test_what_debians_cfssl_stored_ours_revokes_and_refreshes_and_the_other_way_round(
    places: tuple[Path, Path], ours: Path, theirs: str
) -> None:
    place = places[1]
    assert ocspd("db", "up", "-db-config", "db.json", cwd=place).returncode == 0
    for program in (theirs, ours):
        words = "sign -ca ca.pem -ca-key ca-key.pem -config config.json -db-config db.json leaf.csr"
        outcome, told = run(program, Case(words), place)
        assert outcome.code == 0, told
    with sqlite3.connect(place / "certs.db") as connection:
        serials = [row[0] for row in connection.execute("SELECT serial_number FROM certificates")]
    connection.close()
    assert len(serials) == 2
    for serial in serials:
        outcome, told = run(ours, Case(f"revoke -db-config db.json -serial {serial}"), place)
        assert outcome.code == 0, told
    signer = "-ca ca.pem -responder ocsp.pem -responder-key ocsp-key.pem"
    outcome, told = run(ours, Case(f"ocsprefresh -db-config db.json {signer}"), place)
    assert outcome.code == 0, told
    outcome, told = run(theirs, Case("ocspdump -db-config db.json"), place)
    assert (outcome.code, len(outcome.stdout.splitlines())) == (0, 2), told
    assert json.dumps(outcome.stdout)
