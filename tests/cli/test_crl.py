"""The verbs crl, gencrl and certadd."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ocspd.model import CertStatus
from ocspd.pki.certs import certificate_to_pem, load_certificate, to_row
from tests.authority.cfssl import run
from tests.binary import OCSPD, ocspd
from tests.pki.chain import common_name, make_certificate, make_key
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

WEEK = timedelta(days=7)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """A directory with ca.pem, ca-key.pem and leaf.pem (serial 4711)."""
    name, key = common_name("A CA"), make_key("ecdsa-256")
    leaf_key = make_key("ecdsa-256", 1)
    made = make_certificate(name, key, name, key, serial=1, ca=True)
    (tmp_path / "ca.pem").write_text(certificate_to_pem(made))
    (tmp_path / "ca-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    leaf = make_certificate(common_name("leaf"), leaf_key, name, key, serial=4711)
    (tmp_path / "leaf.pem").write_text(certificate_to_pem(leaf))
    return tmp_path


@pytest.fixture
def db_file(tmp_path: Path, migrated_db_config: DBConfig) -> Path:
    path = tmp_path / "db.json"
    config = {"driver": migrated_db_config.driver, "data_source": migrated_db_config.data_source}
    path.write_text(json.dumps(config))
    return path


def flags(ca: Path) -> tuple[str | Path, ...]:
    return "-ca", ca / "ca.pem", "-ca-key", ca / "ca-key.pem"


def read(line: str, ca: Path) -> x509.CertificateRevocationList:
    """Read CFSSL's form of a CRL: one line of base64."""
    assert line.endswith("\n")
    assert line.count("\n") == 1
    crl = x509.load_der_x509_crl(base64.b64decode(line.removesuffix("\n"), validate=True))
    issuer = load_certificate((ca / "ca.pem").read_bytes())
    assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    return crl


def validity(crl: x509.CertificateRevocationList) -> timedelta:
    assert crl.next_update_utc is not None
    assert abs(datetime.now(UTC) - crl.last_update_utc) < timedelta(minutes=5)
    return crl.next_update_utc - crl.last_update_utc


# -- crl -----------------------------------------------------------------------------------------


async def test_crl_prints_the_revoked_certificates_of_the_ca(ca: Path, db_file: Path, certdb: CertDB) -> None:
    leaf = load_certificate((ca / "leaf.pem").read_bytes())
    row = to_row(leaf, label="", issued_at=None)
    revoked = replace(row, status=CertStatus.REVOKED, reason=1, revoked_at=datetime(2024, 2, 3, tzinfo=UTC))
    await certdb.insert_certificate(revoked)
    await certdb.insert_certificate(replace(row, serial=5))
    await certdb.insert_certificate(replace(revoked, serial=6, aki="ab" * 20))
    done = ocspd("crl", "-db-config", db_file, *flags(ca))
    assert done.returncode == 0
    assert "left out of the CRL: 1 revoked certificate of other CAs" in done.stderr
    crl = read(done.stdout, ca)
    assert validity(crl) == WEEK
    (one,) = crl
    assert (one.serial_number, one.revocation_date_utc) == (4711, datetime(2024, 2, 3, tzinfo=UTC))
    assert (
        one.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    )


def test_crl_takes_expiry_and_a_format(ca: Path, db_file: Path) -> None:
    done = ocspd("crl", "-db-config", db_file, *flags(ca), "-expiry", "24h")
    assert validity(read(done.stdout, ca)) == timedelta(days=1)
    pem = ocspd("crl", "-db-config", db_file, *flags(ca), "-out-format", "pem")
    assert pem.stdout.startswith("-----BEGIN X509 CRL-----\n")
    assert list(x509.load_pem_x509_crl(pem.stdout.encode())) == []
    command = [*OCSPD, "crl", "-db-config", db_file, *flags(ca), "-out-format", "der"]
    der = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    assert list(x509.load_der_x509_crl(der)) == []
    wrong = ocspd("crl", "-db-config", db_file, *flags(ca), "-out-format", "text")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("-out-format 'text': use one of base64, der, pem\n")


@pytest.mark.parametrize("missing", ["-ca", "-ca-key", "-db-config"])
def test_crl_without_a_flag_names_it(ca: Path, missing: str) -> None:
    words = {"-ca": str(ca / "ca.pem"), "-ca-key": str(ca / "ca-key.pem"), "-db-config": "db.json"}
    del words[missing]
    done = ocspd("crl", *[word for pair in words.items() for word in pair])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"(provide one with {missing})\n")


# -- gencrl --------------------------------------------------------------------------------------


def test_gencrl_lists_serials_in_decimal(ca: Path) -> None:
    (ca / "serials").write_text("1\n\n  2  \r\n730750818665451459101842416358141509827966271487\n")
    done = ocspd("gencrl", ca / "serials", ca / "ca.pem", ca / "ca-key.pem")
    assert (done.returncode, done.stderr) == (0, "")
    crl = read(done.stdout, ca)
    assert [one.serial_number for one in crl] == [1, 2, (1 << 159) - 1]
    assert {one.revocation_date_utc for one in crl} == {crl.last_update_utc}
    assert validity(crl) == WEEK


@pytest.mark.parametrize(
    ("seconds", "valid"),
    [
        ("0", WEEK),
        ("3600", timedelta(hours=1)),
        ("0x10", timedelta(seconds=16)),
        ("010", timedelta(seconds=8)),
    ],
)
def test_gencrl_takes_seconds_as_go_reads_them(ca: Path, seconds: str, valid: timedelta) -> None:
    done = ocspd("gencrl", "-", ca / "ca.pem", ca / "ca-key.pem", seconds, stdin="1\n")
    assert validity(read(done.stdout, ca)) == valid


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ("x", 'strconv.ParseInt: parsing "x": invalid syntax\n'),
        ("1h", 'strconv.ParseInt: parsing "1h": invalid syntax\n'),
        ("2147483648", 'strconv.ParseInt: parsing "2147483648": value out of range\n'),
        ("2147483647", "a CRL cannot be valid for 2147483647 seconds: use 1s to 87600h\n"),
    ],
)
def test_gencrl_refuses_other_times(ca: Path, seconds: str, text: str) -> None:
    done = ocspd("gencrl", "-", ca / "ca.pem", ca / "ca-key.pem", seconds, stdin="1\n")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", text)


@pytest.mark.parametrize("line", ["abc", "0x12", "ab:cd", "-1", "1 2", "\u0661", "1" * 101])
def test_a_line_that_is_no_serial_number_is_refused_and_does_not_become_0(ca: Path, line: str) -> None:
    done = ocspd("gencrl", "-", ca / "ca.pem", ca / "ca-key.pem", stdin=f"7\n{line}\n")
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)
    assert error["code"] == 1300
    assert error["message"].startswith("standard input, line 2: ")


def test_gencrl_refuses_what_does_not_belong_together(ca: Path) -> None:
    other = make_key("ecdsa-256", 5).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    done = ocspd("gencrl", ca / "leaf.pem", ca / "ca.pem", "-", stdin=other)
    assert (done.returncode, done.stdout) == (1, "")  # the list is no list
    (ca / "serials").write_text("1\n")
    done = ocspd("gencrl", ca / "serials", ca / "ca.pem", "-", stdin=other)
    assert (done.returncode, json.loads(done.stderr)["code"]) == (1, 2300)
    done = ocspd("gencrl", "-", ca / "ca.pem", "-", stdin=other)
    assert (done.returncode, done.stdout) == (1, "")
    assert "only one of the three files can be -" in done.stderr
    done = ocspd("gencrl", ca / "serials", ca / "ca.pem")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "not enough arguments are supplied --- please refer to the usage\n"


def test_gencrl_of_cfssl_has_the_same_entries(ca: Path) -> None:
    cfssl = need("cfssl")
    (ca / "serials").write_text("1\n123456789012345678901234567890\n")
    files = [str(ca / name) for name in ("serials", "ca.pem", "ca-key.pem")]
    theirs = read(run(cfssl, "gencrl", *files).stdout, ca)
    ours = read(ocspd("gencrl", *files).stdout, ca)
    assert [one.serial_number for one in ours] == [one.serial_number for one in theirs]
    assert (ours.issuer, ours.signature_algorithm_oid) == (theirs.issuer, theirs.signature_algorithm_oid)
    assert validity(ours) == validity(theirs)
    left = {each.oid for each in theirs.extensions}
    assert {each.oid.dotted_string for each in ours.extensions if each.oid not in left} == {"2.5.29.20"}


# -- certadd -------------------------------------------------------------------------------------


async def test_certadd_adds_a_certificate_once(ca: Path, db_file: Path, certdb: CertDB) -> None:
    leaf = load_certificate((ca / "leaf.pem").read_bytes())
    wanted = to_row(leaf, label="elsewhere", issued_at=None)
    words = ("certadd", "-db-config", db_file, "-label", "elsewhere", ca / "leaf.pem")
    done = ocspd(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert await certdb.get_certificate(4711, wanted.aki) == wanted
    again = ocspd(*words)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"certificate 4711 of {wanted.aki} is already in the database" in again.stderr


async def test_certadd_adds_a_revoked_certificate(ca: Path, db_file: Path, certdb: CertDB) -> None:
    words = ("-status", "revoked", "-reason", "superseded", "-revoked-at", "2024-02-03", "-")
    done = ocspd("certadd", "-db-config", db_file, *words, stdin=(ca / "leaf.pem").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = await certdb.find_certificates(4711)
    assert (found.status, found.reason) == (CertStatus.REVOKED, 4)
    assert found.revoked_at == datetime(2024, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-status", "lost"], "Invalid revocation status"),
        (["-status", "revoked", "-reason", "7"], "Invalid revocation reason"),
        (["-status", "revoked", "-revoked-at", "yesterday"], "use now or YYYY-MM-DD"),
    ],
)
def test_certadd_refuses_statuses_that_do_not_exist(
    ca: Path, tmp_path: Path, words: list[str], text: str
) -> None:
    (tmp_path / "db.json").write_text(
        json.dumps({"driver": "sqlite3", "data_source": str(tmp_path / "x.db")})
    )
    done = ocspd("certadd", "-db-config", tmp_path / "db.json", *words, ca / "leaf.pem")
    assert done.returncode != 0
    assert text in done.stderr
