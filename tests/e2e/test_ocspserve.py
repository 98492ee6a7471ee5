from __future__ import annotations

import asyncio
import base64
import datetime as dt
import http.client
import json
import sqlite3
import subprocess
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ocspd.certdb import open_certdb
from ocspd.clock import SystemClock
from ocspd.model import CertificateRow, OCSPRow
from tests.ports import free_port
from tests.responder.responder import CA, OCSPD, answer, now, responder, until
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB
    from tests.responder.responder import Running


def write_dump(path: Path, answers: Iterable[bytes]) -> None:
    path.write_bytes(b"".join(base64.b64encode(der) + b"\n" for der in answers))


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    write_dump(tmp_path / "dump.txt", [answer(1), answer(2, revoked=True)])
    (tmp_path / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    return tmp_path / "dump.txt"


def openssl(dump: Path, port: int, serial: int, *flags: str) -> str:
    """Ask with `openssl ocsp`, which checks the signature; what it prints."""
    ca = str(dump.parent / "ca.pem")
    command = [need("openssl"), "ocsp", *flags, "-issuer", ca, "-serial", str(serial), "-CAfile", ca]
    result = subprocess.run(
        [*command, "-url", f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("flags", [("-no_nonce",), ("-nonce",), ("-sha256", "-no_nonce")])
def test_openssl_believes_good_revoked_and_unauthorized(dump: Path, flags: tuple[str, ...]) -> None:
    write_dump(
        dump,
        [
            *(answer(1), answer(2, revoked=True)),
            *(CA.answer(n, hash_name="sha256", this_update=now(), next_update=None) for n in (1,)),
        ],
    )
    with responder(dump.parent / "log", "-responses", str(dump)) as running:
        good = openssl(dump, running.port, 1, *flags)
        assert "Response verify OK" in good
        assert "1: good" in good
        if "-sha256" not in flags:
            assert "2: revoked" in openssl(dump, running.port, 2, *flags)
        assert "unauthorized (6)" in openssl(dump, running.port, 3, *flags)


def test_gnutls_believes_it_too(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "request").write_bytes(CA.request(1))
    with responder(tmp_path / "log", "-responses", str(dump)) as running:
        (tmp_path / "answer").write_bytes(running.ask(1))
    shown = subprocess.run(
        [need("ocsptool"), "--response-info", "--infile", tmp_path / "answer"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Certificate Status: good" in shown
    result = subprocess.run(
        [
            *(need("ocsptool"), "--verify-response", "--load-response", tmp_path / "answer"),
            *("--load-trust", tmp_path / "ca.pem"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Success" in result.stdout, result.stdout + result.stderr


def test_the_log_has_the_lines_of_cfssl(dump: Path) -> None:
    with dump.open("ab") as file:
        file.write(b"bm90IGFuIGFuc3dlcg==\n!!!\n")
    with responder(dump.parent / "log", "-responses", str(dump)) as running:
        assert "[INFO] Read 2 OCSP responses" in running.log
        assert "[INFO] Registering OCSP responder handler" in running.log
        until(lambda: f"[INFO] Now listening on 127.0.0.1:{running.port}" in running.log)
        assert running.log.count("[ERROR]") == 2
        assert f"{dump}: OCSP response 4 skipped: not base64" in running.log


@pytest.mark.parametrize("how", ["rewritten", "replaced"])
def test_a_changed_file_is_served_within_two_seconds(dump: Path, how: str) -> None:
    with responder(dump.parent / "log", "-responses", str(dump)) as running:
        assert running.status(1) == "good"
        target = dump if how == "rewritten" else dump.with_suffix(".new")
        write_dump(target, [answer(1, revoked=True), answer(7)])
        if how == "replaced":
            target.replace(dump)
        assert until(lambda: running.status(1) == "revoked") < 2
        assert running.status(7) == "good"
        assert running.status(2) == "unauthorized"
        assert "Read 2 OCSP responses" in running.log


def test_sighup_reads_the_file_again(dump: Path) -> None:
    with responder(dump.parent / "log", "-responses", str(dump)) as running:
        running.process.send_signal(1)
        until(lambda: running.log.count("Read 2 OCSP responses") == 2)
        assert running.status(1) == "good"


@pytest.mark.parametrize("damage", ["vanished", "empty", "garbage", "cut off"])
def test_a_file_that_is_of_no_use_changes_nothing_and_is_told_once(dump: Path, damage: str) -> None:
    with responder(dump.parent / "log", "-responses", str(dump)) as running:
        match damage:
            case "vanished":
                dump.unlink()
            case "empty":
                dump.write_bytes(b"")
            case "garbage":
                dump.write_bytes(b"what is this?\n" * 100)
            case "cut off":
                dump.write_bytes(base64.b64encode(answer(1, revoked=True)) + b"\n" + b"MIIC")
        until(lambda: "[ERROR]" in running.log)
        time.sleep(1)
        assert running.log.count("[ERROR]") == 1
        assert "still serving the responses read before" in running.log
        assert (running.status(1), running.status(2)) == ("good", "revoked")
        write_dump(dump, [answer(3)])
        until(lambda: running.status(3) == "good")


def test_the_path_flag_is_taken_off_for_get_and_post(dump: Path) -> None:
    with responder(dump.parent / "log", "-responses", str(dump), "-path", "/ocsp/") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=120)
        target = base64.b64encode(CA.request(1)).decode()
        for path, status in ((f"/ocsp/{target}", 200), (f"/{target}", 404)):
            connection.request("GET", path)
            reply = connection.getresponse()
            reply.read()
            assert reply.status == status
        connection.close()


def test_the_answers_of_a_get_are_those_in_the_file(dump: Path) -> None:
    stored = answer(5)
    write_dump(dump, [stored])
    with responder(dump.parent / "log", "-responses", str(dump)) as running:
        assert running.ask(5) == stored


def fails(*flags: str | Path) -> str:
    """Run an `ocspserve` that must end with exit code 1 and one line; return the line."""
    words = [*OCSPD, "ocspserve", "-port", str(free_port()), "-admin-port", "0", *map(str, flags)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1, result.stderr
    lines = [line for line in result.stderr.splitlines() if "[INFO]" not in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_what_cannot_be_served_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    assert fails().startswith(
        "no response file or db-config provided, please set the one of these using either -responses or "
        "-db-config flags"
    )
    assert fails("-responses", tmp_path / "none") == (
        f"unable to read response file {tmp_path}/none: no such file or directory"
    )
    assert fails("-responses", tmp_path).endswith(": is a directory")
    assert fails("-db-config", tmp_path / "none").startswith("unable to read configuration file")
    (tmp_path / "db.json").write_text("{")
    assert "unable to read configuration file" in fails("-db-config", tmp_path / "db.json")
    assert fails("surplus").startswith("ocspserve takes no arguments, but got 'surplus'")


def test_an_empty_file_is_served_as_cfssl_does(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(b"")
    with responder(tmp_path / "log", "-responses", str(tmp_path / "dump")) as running:
        assert "Read 0 OCSP responses" in running.log
        assert running.status(1) == "unauthorized"


# certdb


def run(*words: str | Path, cwd: Path) -> str:
    result = subprocess.run(
        [*OCSPD, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def database(tmp_path: Path, migrated_db_config: DBConfig) -> Path:
    """A directory with db.json, a CA, an OCSP signer and two certificates in the database."""
    config = {"driver": migrated_db_config.driver, "data_source": migrated_db_config.data_source}
    (tmp_path / "db.json").write_text(json.dumps(config))
    for name in ("ca", "ocsp", "csr"):
        csr = {"CN": f"the {name}", "key": {"algo": "ecdsa", "size": 256}}
        (tmp_path / f"{name}.json").write_text(json.dumps(csr))
    profiles = {"ocsp": {"usages": ["digital signature", "ocsp signing"], "expiry": "8760h"}}
    default = {"usages": ["signing", "server auth"], "expiry": "8760h"}
    (tmp_path / "config.json").write_text(json.dumps({"signing": {"default": default, "profiles": profiles}}))
    unpack(run("gencert", "-initca", "ca.json", cwd=tmp_path), tmp_path / "ca")
    issue(tmp_path, "ocsp", "-profile", "ocsp")
    for name in ("one", "two"):
        issue(tmp_path, name, "-db-config", "db.json")
    return tmp_path


def unpack(output: str, base: Path) -> None:
    made = json.loads(output)
    base.with_name(f"{base.name}.pem").write_text(made["cert"])
    base.with_name(f"{base.name}-key.pem").write_text(made["key"])


def issue(directory: Path, name: str, *flags: str) -> None:
    words = (
        "gencert",
        "-ca",
        "ca.pem",
        "-ca-key",
        "ca-key.pem",
        "-config",
        "config.json",
        *flags,
        "csr.json",
    )
    unpack(run(*words, cwd=directory), directory / name)


def verdict(directory: Path, name: str, port: int) -> str:
    command = [need("openssl"), "ocsp", "-issuer", "ca.pem", "-cert", f"{name}.pem", "-CAfile", "ca.pem"]
    result = subprocess.run(
        [*command, "-no_nonce", "-url", f"http://127.0.0.1:{port}"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    text = result.stdout + result.stderr
    if "unauthorized (6)" in text:
        return "unauthorized"
    assert "Response verify OK" in text, text
    return text.split(f"{name}.pem: ")[1].split("\n")[0]


def revoke(directory: Path, name: str) -> None:
    from cryptography import x509

    serial = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes()).serial_number
    run("revoke", "-db-config", "db.json", "-serial", str(serial), "-reason", "keyCompromise", cwd=directory)


SIGNER = ("-ca", "ca.pem", "-responder", "ocsp.pem", "-responder-key", "ocsp-key.pem")


def test_the_table_is_served_and_followed(database: Path) -> None:
    with responder(database / "log", "-db-config", "db.json", cwd=database) as running:
        assert verdict(database, "one", running.port) == "unauthorized"
        run("ocsprefresh", "-db-config", "db.json", *SIGNER, cwd=database)
        until(lambda: verdict(database, "one", running.port) == "good")
        revoke(database, "one")
        run("ocsprefresh", "-db-config", "db.json", *SIGNER, cwd=database)
        until(lambda: verdict(database, "one", running.port) == "revoked")
        assert verdict(database, "two", running.port) == "good"


def test_with_a_signer_nothing_need_be_refreshed_by_hand(database: Path) -> None:
    with responder(database / "log", "-db-config", "db.json", *SIGNER, cwd=database) as running:
        assert verdict(database, "one", running.port) == "good"
        revoke(database, "one")
        assert until(lambda: verdict(database, "one", running.port) == "revoked") < 2
        issue(database, "three", "-db-config", "db.json")
        assert until(lambda: verdict(database, "three", running.port) == "good") < 2
        assert verdict(database, "two", running.port) == "good"
        count = running.metric("ocspd_change_visible_seconds_count")
        assert count >= 2
        assert running.metric('ocspd_change_visible_seconds_bucket{le="2.0"}') == count


def test_only_what_has_no_fresh_answer_is_signed(database: Path) -> None:
    run("ocsprefresh", "-db-config", "db.json", *SIGNER, "-certid-hash", "sha1", cwd=database)
    issue(database, "three", "-db-config", "db.json")
    flags = ("-db-config", "db.json", *SIGNER, "-certid-hash", "sha1")
    with responder(database / "log", *flags, cwd=database) as running:
        assert "Read 2 OCSP responses" in running.log
        assert "signed 1 OCSP responses for 3 certificates" in running.log
        assert verdict(database, "three", running.port) == "good"


async def test_answers_of_other_issuers_are_followed_beside_the_signing(
    database: Path, migrated_db_config: DBConfig
) -> None:
    async with await open_certdb(migrated_db_config, SystemClock()) as db:
        with responder(database / "log", "-db-config", "db.json", *SIGNER, cwd=database) as running:
            for serial, revoked in ((41, False), (42, False), (41, True)):
                await add_foreign(db, serial, revoked=revoked)
                expected = "revoked" if revoked else "good"
                await asyncio.to_thread(until, partial(says, running, serial, expected), 3)
            assert running.status(42) == "good"
            assert verdict(database, "one", running.port) == "good"


def says(running: Running, serial: int, expected: str) -> bool:
    return running.status(serial) == expected


async def add_foreign(db: CertDB, serial: int, *, revoked: bool) -> None:
    """Store a certificate and its answer that no signer here has to do with."""
    aki, expiry = CA.hashes("sha1")[1].hex(), now() + dt.timedelta(hours=90)
    if await db.get_certificate(serial, aki) is None:
        await db.insert_certificate(CertificateRow(serial=serial, aki=aki, pem="-", expiry=expiry))
    await db.upsert_ocsp(
        [OCSPRow(serial=serial, aki=aki, body=answer(serial, revoked=revoked), expiry=expiry)]
    )


def test_a_table_that_goes_away_and_comes_back_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "db.json").write_text('{"driver": "sqlite3", "data_source": "certs.db"}')
    run("db", "up", "-db-config", "db.json", cwd=tmp_path)
    store(tmp_path / "certs.db", 1)
    with responder(tmp_path / "log", "-db-config", "db.json", cwd=tmp_path) as running:
        assert running.status(1) == "good"
        execute(tmp_path / "certs.db", "ALTER TABLE ocsp_responses RENAME TO away")
        until(lambda: "retrying" in running.log)
        assert running.status(1) == "good"
        assert running.log.count("[ERROR]") == 1
        execute(tmp_path / "certs.db", "ALTER TABLE away RENAME TO ocsp_responses")
        store(tmp_path / "certs.db", 2)
        until(lambda: running.status(2) == "good")
        assert "works again" in running.log


def store(path: Path, serial: int) -> None:
    """Write an answer into the table as CFSSL would."""
    aki, expiry = CA.hashes("sha1")[1].hex(), f"{now() + dt.timedelta(hours=90):%Y-%m-%d %H:%M:%S}+00:00"
    key = (str(serial).encode(), aki.encode())
    execute(
        path,
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
        "expiry, pem) VALUES (?, ?, '', 'good', 0, ?, '-')",
        (*key, expiry),
    )
    execute(
        path,
        "INSERT INTO ocsp_responses (serial_number, authority_key_identifier, body, expiry) "
        "VALUES (?, ?, ?, ?)",
        (*key, answer(serial), expiry),
    )


def execute(path: Path, statement: str, values: tuple[object, ...] = ()) -> None:
    with closing(sqlite3.connect(path, timeout=120)) as connection, connection:
        connection.execute(statement, values)


def is_good(directory: Path, name: str, port: int) -> bool:
    return verdict(directory, name, port) == "good"


def test_many_changes_are_merged_and_the_newest_counts(database: Path) -> None:
    with responder(database / "log", "-db-config", "db.json", *SIGNER, cwd=database) as running:
        for number in range(10):
            issue(database, f"n{number}", "-db-config", "db.json")
            until(partial(is_good, database, f"n{number}", running.port))
        assert running.health()["index"]["segments"] <= 10
        assert {verdict(database, f"n{number}", running.port) for number in range(10)} == {"good"}


def test_a_database_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "db.json").write_text('{"driver": "sqlite3", "data_source": "nowhere/certs.db"}')
    assert "certs.db" in fails("-db-config", tmp_path / "db.json")


def test_a_signer_that_does_not_fit_is_one_line(database: Path) -> None:
    words = (
        "-db-config",
        database / "db.json",
        "-ca",
        database / "ca.pem",
        "-responder",
        database / "one.pem",
    )
    assert "one.pem" in fails(*words, "-responder-key", database / "one-key.pem")
    assert "need responder key" in fails(*words)


@pytest.mark.parametrize(
    ("words", "most"), [((), 3600), (("-max-age", "90s"), 90), (("-max-age", "0s"), 30 * 86400)]
)
def test_caches_keep_a_response_no_longer_than_they_may(
    dump: Path, words: tuple[str, ...], most: int
) -> None:
    write_dump(dump, [CA.answer(1, this_update=now(), next_update=now() + dt.timedelta(days=30))])
    path = base64.b64encode(CA.request(1)).decode().replace("/", "%2F").replace("+", "%2B")
    with responder(dump.parent / "log", "-responses", str(dump), *words) as running:
        ages = []
        for target, chunked in ((f"/{path}", False), ("/", True)):  # the fast path and the slow one
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=120)
            if chunked:
                headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/ocsp-request"}
                connection.request("POST", target, iter([CA.request(1)]), headers, encode_chunked=True)
            else:
                connection.request("GET", target)
            field = connection.getresponse().headers["Cache-Control"]
            ages.append(int(field.split("max-age=")[1].split(",")[0]))
            connection.close()
    assert all(most * 0.9 <= age <= most for age in ages), ages
