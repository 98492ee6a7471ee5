from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, open_certdb
from ocspd.certdb.migrate import up
from ocspd.clock import SystemClock
from ocspd.pki import certs
from tests.authority import corpus, tls_servers
from tests.binary import ocspd
from tests.pki.chain import make_chain
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

_TARGET = "Must specify certinfo target through -cert, -csr, -domain or -serial + -aki\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, a leaf, a request, both in PKCS #7, and a database with the leaf."""
    path = tmp_path_factory.mktemp("certinfo")
    make_chain().write(path)
    (path / "leaf.csr").write_bytes(corpus.armour("CERTIFICATE REQUEST", corpus.request()))
    leaf, ca = (path / "leaf.pem").read_bytes(), (path / "ca.pem").read_bytes()
    (path / "twice.pem").write_bytes(leaf + ca)
    (path / "empty.pem").touch()
    for name, files in (("one", ["leaf.pem"]), ("two", ["leaf.pem", "ca.pem"])):
        words = ["crl2pkcs7", "-nocrl", *(word for file in files for word in ("-certfile", file))]
        subprocess.run([need("openssl"), *words, "-out", f"{name}.p7"], cwd=path, check=True, timeout=60)
    data_source = str(path / "certs.db")
    (path / "db.json").write_text(json.dumps({"driver": "sqlite3", "data_source": data_source}))
    certificate = certs.load_certificate(leaf)

    async def fill() -> None:
        async with await open_certdb(DBConfig("sqlite3", data_source), SystemClock()) as db:
            await up(db)
            row = certs.to_row(certificate, label="", issued_at=certificate.not_valid_before_utc)
            await db.insert_certificate(row)
            # as Debian's CFSSL 1.2.0 stores them
            other = certs.load_certificate(corpus.certificate(serial=77, extensions=(corpus.AKI,)))
            row = certs.to_row(other, label="", issued_at=certificate.not_valid_before_utc)
            await db.insert_certificate(dataclasses.replace(row, aki=""))

    asyncio.run(fill())
    return path


def test_a_file_and_standard_input_are_described_as_by_cfssl(folder: Path) -> None:
    theirs = subprocess.run(
        [need("cfssl"), "certinfo", "-cert", "leaf.pem"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    mine = ocspd("certinfo", "-cert", "leaf.pem", cwd=folder)
    assert (mine.returncode, mine.stderr) == (0, "")
    assert {**json.loads(theirs.stdout), "authority_key_id": 0, "subject_key_id": 0} == {
        **json.loads(mine.stdout),
        "authority_key_id": 0,
        "subject_key_id": 0,
    }
    assert mine.stdout.endswith("\n}\n")
    assert list(json.loads(mine.stdout)) == [
        "subject",
        "issuer",
        "serial_number",
        "not_before",
        "not_after",
        "sigalg",
        "authority_key_id",
        "subject_key_id",
        "pem",
    ]
    again = ocspd("certinfo", "-cert", "-", stdin=(folder / "leaf.pem").read_bytes())
    assert again.stdout == mine.stdout
    assert ocspd("certinfo", "-cert", "one.p7", cwd=folder).stdout == mine.stdout
    assert ocspd("certinfo", "-cert", "leaf.pem", "-csr", "leaf.csr", cwd=folder).stdout == mine.stdout


def test_a_request_is_written_out(folder: Path) -> None:
    mine = ocspd("certinfo", "-csr", "leaf.csr", cwd=folder)
    assert mine.returncode == 0
    assert json.loads(mine.stdout)["SignatureAlgorithm"] == 4
    assert ocspd("certinfo", "-csr", "-", stdin=(folder / "leaf.csr").read_bytes()).stdout == mine.stdout


def test_a_stored_certificate_is_found_in_any_notation(folder: Path) -> None:
    described = ocspd("certinfo", "-cert", "leaf.pem", cwd=folder).stdout
    shown = json.loads(described)
    serial, aki = int(shown["serial_number"]), shown["authority_key_id"]
    for a_serial in (str(serial), hex(serial)):
        for an_aki in (aki, aki.lower().replace(":", "")):
            words = ["certinfo", "-serial", a_serial, "-aki", an_aki, "-db-config", "db.json"]
            assert ocspd(*words, cwd=folder).stdout == described
    words = ["certinfo", "-serial", "77", "-aki", bytes(range(20)).hex(), "-db-config", "db.json"]
    assert json.loads(ocspd(*words, cwd=folder).stdout)["serial_number"] == "77"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", _TARGET),
        ("-serial 1", _TARGET),
        ("-aki 00", _TARGET),
        ("-serial 1 -aki 00", "need DB config file (provide with -db-config)\n"),
        ("-serial 1 -aki 00 -db-config db.json", "no certificate found\n"),
        ("-serial 77 -aki 00 -db-config db.json", "no certificate found\n"),
        ("-serial x -aki 00 -db-config db.json", "no certificate found: "),
        ("-serial 1 -aki 00 -db-config leaf.pem", '{"code":5200,'),
        ("-cert nowhere.pem", "open nowhere.pem: no such file"),
        ("-cert empty.pem", '{"code":1002,"message":"empty.pem: Failed to decode certificate'),
        ("-cert twice.pem", '{"code":1003,"message":"twice.pem: the PEM file should contain only one object'),
        ("-cert two.p7", '{"code":1003,"message":"two.p7: the PEM file should contain only one object'),
        ("-cert leaf.csr", '{"code":1003,"message":"leaf.csr: Failed to parse certificate'),
        ("-csr empty.pem", '{"code":9002,"message":"empty.pem: CSR Decode failed'),
        ("-csr leaf.pem", "CSR parse failed: "),
        ("-cert leaf.pem extra", "unexpected argument 'extra'"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(folder: Path, words: str, text: str) -> None:
    done = ocspd("certinfo", *words.split(), cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(text)


def test_the_certificate_that_a_host_serves_is_described(tmp_path: Path) -> None:
    root = tls_servers.issue("Root")
    leaf = tls_servers.issue("localhost", root, days=-1)  # nothing is verified
    path = tls_servers.write(tmp_path, "expired", leaf, root)
    with tls_servers.openssl_server(path) as port:
        done = ocspd("certinfo", "-domain", f"127.0.0.1:{port}")
    assert json.loads(done.stdout)["serial_number"] == str(leaf.certificate.serial_number), done.stderr


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        ("127.0.0.1:1", "dial tcp 127.0.0.1:1: connect: connection refused"),
        ("localhost:99999", "localhost:99999: the port is not a number from 1 to 65535"),
        (":443", ":443: no host given"),
        ("a b", "a b: not a host name"),
    ],
)
def test_a_host_that_cannot_be_asked_is_one_line(domain: str, text: str) -> None:
    done = ocspd("certinfo", "-domain", domain)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(text)
