from __future__ import annotations

import contextlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ocspd.cli.main import main
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus
from ocspd.signer import indexing
from tests.pki.chain import common_name, key_pem, make_certificate, make_key, pem
from tests.signer.revocation import CHAIN, OTHER, crl, der, revoked
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONFIG = """
[ca]
default_ca = it
[it]
dir = .
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = certs
certificate = ca.pem
private_key = ca-key.pem
default_md = sha256
default_days = 90
default_crl_days = 7
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = supplied
[req]
distinguished_name = name
[name]
[none]
"""
REVOKED: dict[int, tuple[str, ...]] = {
    2: (),
    3: ("-crl_reason", "keyCompromise"),
    4: ("-crl_reason", "superseded"),
    5: ("-crl_hold", "holdInstructionReject"),
    6: ("-crl_compromise", "20260101000000Z"),
    7: ("-crl_CA_compromise", "20260101000000Z"),
    8: ("-crl_reason", "removeFromCRL"),
}
"""How openssl ca revokes, by position; the others stay good."""
ISSUED = 10


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [need("openssl"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def issue(folder: Path, number: int) -> Path:
    """Issue a certificate with openssl ca; the name has a tab, which index.txt escapes."""
    key = make_key("ecdsa-256", 50)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    subject = f"/O=A\tB/CN=host{number}" if number == 1 else f"/CN=host{number}"
    openssl(folder, "req", "-new", "-config", "ca.cnf", "-key", "key.pem", "-subj", subject, "-out", "it.csr")
    path = folder / f"host{number}.pem"
    openssl(folder, "ca", "-config", "ca.cnf", "-batch", "-notext", "-in", "it.csr", "-out", path.name)
    return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA that only openssl has worked on."""
    folder = tmp_path_factory.mktemp("ca")
    CHAIN.write(folder)
    (folder / "ca.cnf").write_text(CONFIG)
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("00FE\n")
    (folder / "crlnumber").write_text("01\n")
    (folder / "certs").mkdir()
    for number in range(ISSUED):
        issue(folder, number)
    for number, how in REVOKED.items():
        openssl(folder, "ca", "-config", "ca.cnf", "-revoke", f"host{number}.pem", *how)
    openssl(folder, "ca", "-config", "ca.cnf", "-gencrl", "-crlexts", "none", "-out", "ca.crl")
    return folder


def serial_of(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def signed_by(folder: Path) -> list[str]:
    return [
        *("-ca", str(folder / "ca.pem")),
        *("-responder", str(folder / "responder.pem"), "-responder-key", str(folder / "responder-key.pem")),
    ]


def build(folder: Path, index: Path, *arguments: str | Path) -> int:
    return main(["index", "build", "-o", str(index), *signed_by(folder), *map(str, arguments)])


def ask(folder: Path, index: Path, certificate: Path, answer: Path) -> str:
    """Let openssl judge the answer that the index gives about a certificate."""
    code = main(
        [
            *("index", "lookup", str(index), str(serial_of(certificate)), "-ca", str(folder / "ca.pem")),
            *("-der", str(answer)),
        ]
    )
    assert code == 0
    return judge(folder, certificate, answer)


def judge(folder: Path, certificate: Path, answer: Path) -> str:
    """Return what openssl makes of an answer about a certificate."""
    return openssl(
        folder,
        *("ocsp", "-respin", str(answer), "-no_nonce"),
        *("-CAfile", "ca.pem", "-issuer", "ca.pem", "-cert", str(certificate)),
    )


def by_openssl(folder: Path, certificate: Path, answer: Path) -> str:
    """Return what OpenSSL's own responder says from index.txt."""
    openssl(
        folder,
        *("ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "responder.pem"),
        *("-rkey", "responder-key.pem", "-issuer", "ca.pem", "-cert", str(certificate)),
        *("-respout", str(answer), "-ndays", "1"),
    )
    return judge(folder, certificate, answer)


def status_lines(text: str) -> list[str]:
    """Reduce openssl's text to status, reason and revocation time."""
    return [
        line.strip().rpartition("pem: ")[2]
        for line in text.splitlines()
        if ".pem: " in line or "Reason" in line or "Revocation Time" in line
    ]


def test_index_txt_is_answered_as_by_openssls_own_responder(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "index"
    assert build(authority, index, "-index-txt", authority / "index.txt") == 0
    assert f"{ISSUED - len(REVOKED)} certificates good, {len(REVOKED)} revoked" in capsys.readouterr().err
    for number in range(ISSUED):
        certificate = authority / f"host{number}.pem"
        ours = ask(authority, index, certificate, tmp_path / "answer.der")
        assert "Response verify OK" in ours
        theirs = status_lines(by_openssl(authority, certificate, tmp_path / "theirs.der"))
        if number == 8:  # a reason that only a delta CRL may have: revoked, without it
            theirs.remove("Reason: removeFromCRL")
        assert status_lines(ours) == theirs, number
        assert theirs[0] == ("revoked" if number in REVOKED else "good")
    assert main(["index", "verify", str(index), "-ca", str(authority / "ca.pem")]) == 0


def test_openssls_crl_and_a_list_of_serials_say_the_same_as_its_index(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issued = [serial_of(authority / f"host{number}.pem") for number in range(ISSUED)]
    (tmp_path / "serials").write_text("# issued\n" + "".join(f"{serial:#x}\n" for serial in issued))
    index = tmp_path / "index"
    assert build(authority, index, "-crl", authority / "ca.crl", "-serials", tmp_path / "serials") == 0
    for number in range(ISSUED):
        if number == 8:
            continue
        certificate = authority / f"host{number}.pem"
        ours = status_lines(ask(authority, index, certificate, tmp_path / "answer.der"))
        assert ours == status_lines(by_openssl(authority, certificate, tmp_path / "theirs.der"))
    capsys.readouterr()
    # openssl puts removeFromCRL into a complete CRL: such a certificate gets no answer at all
    assert main(["index", "lookup", str(index), str(issued[8]), "-ca", str(authority / "ca.pem")]) == 1
    assert "the responder would return unauthorized" in capsys.readouterr().out


def test_C58_without_a_list_of_serials_nothing_is_called_good_and_the_report_says_so(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    index = tmp_path / "index"
    assert build(authority, index, "-crl", authority / "ca.crl", "-report", report) == 0
    assert "only revoked certificates get a response" in capsys.readouterr().err
    value = json.loads(report.read_bytes())
    assert value["good"] == 0
    assert value["revoked"] == len(REVOKED) - 1
    assert value["files"][0]["kind"] == "CRL 1"
    assert value["files"][0]["skipped"] == {"removeFromCRL in a complete CRL": 1}
    assert value["first_skipped"][0]["cause"] == "removeFromCRL in a complete CRL"
    assert "-serials" in value["remarks"][0]
    assert value["entries"] == value["signed_answers"] == 2 * value["revoked"]
    answers = IndexDirectory(index).open()
    good = serial_of(authority / "host0.pem")
    assert indexing.lookup(answers, CHAIN.ca, good) == {}


def test_a_delta_crl_takes_a_certificate_off_hold(authority: Path, tmp_path: Path) -> None:
    serial = serial_of(authority / "host5.pem")
    hold = x509.ReasonFlags.certificate_hold
    released = x509.ReasonFlags.remove_from_crl
    (tmp_path / "full.crl").write_bytes(der(crl([revoked(serial, hold)], number=1)))
    (tmp_path / "delta.crl").write_bytes(der(crl([revoked(serial, released)], number=2, base=1)))
    (tmp_path / "serials").write_text(f"{serial}\n")
    arguments: list[str | Path] = ["-crl", tmp_path / "full.crl", "-serials", tmp_path / "serials"]
    for more, status in (((), CertStatus.REVOKED), (("-crl", tmp_path / "delta.crl"), CertStatus.GOOD)):
        assert build(authority, tmp_path / "index", *arguments, *more) == 0
        found = indexing.lookup(IndexDirectory(tmp_path / "index").open(), CHAIN.ca, serial)
        assert {answer.status for answer in found.values()} == {status}
        assert set(found) == {"sha1", "sha256"}


def test_an_answer_does_not_outlast_the_crl_it_comes_from(authority: Path, tmp_path: Path) -> None:
    host = authority / "host2.pem"
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    (tmp_path / "short.crl").write_bytes(der(crl([revoked(serial_of(host))], end=end)))
    assert build(authority, tmp_path / "index", "-crl", tmp_path / "short.crl") == 0
    said = ask(authority, tmp_path / "index", host, tmp_path / "answer.der")
    assert f"Next Update: {end:%b} {end.day:2d} {end:%H:%M:%S %Y} GMT" in said


def test_several_issuers_each_have_their_own_index_txt(authority: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    OTHER.write(other)
    (other / "index.txt").write_text("V\t350101000000Z\t\t63\tunknown\t/CN=other\n")
    (other / "other.crl").write_bytes(der(crl([revoked(7)], chain=OTHER)))
    index = tmp_path / "index"
    two: list[str | Path] = [*signed_by(other), "-crl", other / "other.crl", "-crl", authority / "ca.crl"]
    assert build(authority, index, *two, "-index-txt", "", "-index-txt", other / "index.txt") == 0
    answers = IndexDirectory(index).open()
    assert indexing.lookup(answers, OTHER.ca, 0x63)["sha1"].status == CertStatus.GOOD
    assert indexing.lookup(answers, OTHER.ca, 7)["sha1"].status == CertStatus.REVOKED
    assert indexing.lookup(answers, CHAIN.ca, 7) == {}
    revoked_one = serial_of(authority / "host3.pem")
    assert indexing.lookup(answers, CHAIN.ca, revoked_one)["sha256"].status == CertStatus.REVOKED


def test_which_file_belongs_to_which_of_two_cas_must_be_said(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    OTHER.write(tmp_path)
    files: list[str | Path] = ["-index-txt", authority / "index.txt"]
    assert build(authority, tmp_path / "index", *signed_by(tmp_path), *files) == 1
    assert "got 2 -ca but 1 -index-txt" in capsys.readouterr().err


def test_a_ca_without_a_key_identifier_is_answered_for_too(tmp_path: Path) -> None:
    name, key = common_name("Old CA"), CHAIN.ca_key
    old = make_certificate(name, key, name, key, serial=1, ca=True, with_ski=False)
    (tmp_path / "ca.pem").write_bytes(pem(old))
    (tmp_path / "ca-key.pem").write_bytes(key_pem(key))
    (tmp_path / "index.txt").write_text("V\t350101000000Z\t\t0B\tunknown\t/CN=new\n")
    words = ["index", "build", "-o", "index", "-ca", "ca.pem", "-responder", "ca.pem"]
    words += ["-responder-key", "ca-key.pem", "-index-txt", "index.txt"]
    with contextlib.chdir(tmp_path):
        assert main(words) == 0
    found = indexing.lookup(IndexDirectory(tmp_path / "index").open(), old, 0x0B)
    assert found["sha1"].status == CertStatus.GOOD


def test_the_first_twenty_skipped_lines_are_named_and_all_on_request(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "".join(f"junk{n}\n" for n in range(30))
    expired = "E\t200101000000Z\t\t0A\tunknown\t/CN=old\n"
    (tmp_path / "index.txt").write_text(bad + expired + "V\t350101000000Z\t\t0B\tunknown\t/CN=new\n")
    arguments: list[str | Path] = ["-index-txt", tmp_path / "index.txt"]
    assert build(authority, tmp_path / "index", *arguments) == 0
    err = capsys.readouterr().err
    assert f"skipping {tmp_path}/index.txt: line 20: 1 fields instead of 6" in err
    assert "line 21" not in err
    assert "30 skipped: 1 fields instead of 6" in err
    assert "1 skipped: expired" in err
    assert "-list-skipped lists all of them" in err
    assert build(authority, tmp_path / "index", *arguments, "-list-skipped") == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 31
    assert out[-1] == f"{tmp_path}/index.txt: line 31\texpired"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-crl", "forged.crl"], "forged.crl: its signature is not that of"),
        (["-crl", "ca.pem"], "ca.pem: not a CRL"),
        (["-crl", "none.crl"], "none.crl: cannot read: No such file or directory"),
        (["-crl", "empty.crl"], "no usable response: the index is unchanged"),
        (
            ["-index-txt", "ca.pem"],
            "ca.pem: line 1: 1 fields instead of 6; no line is usable: is this an index.txt",
        ),
        (["-index-txt", "empty"], "empty: is older than the index.txt used before"),
        (["-serials", "serials"], "there is no source of revocations for"),
        (["-crl", "empty.crl", "-serials", "index.txt"], "index.txt: line 1: not a serial"),
        (["-crl", "/dev/zero"], "/dev/zero: not a regular file"),
        (["-crl", "."], ".: cannot read: Is a directory"),
    ],
)
def test_bad_input_is_one_line_and_the_index_stays_as_it_was(
    authority: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    arguments: Sequence[str],
    message: str,
) -> None:
    assert build(authority, tmp_path / "index", "-index-txt", authority / "index.txt") == 0
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    files = sorted(path.name for path in (tmp_path / "index").iterdir())
    CHAIN.write(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "serials").write_text("1\n")
    (tmp_path / "index.txt").write_text("V\t350101000000Z\t\t0B\tunknown\t/CN=new\n")
    (tmp_path / "empty.crl").write_bytes(der(crl([])))
    (tmp_path / "forged.crl").write_bytes(der(crl([], key=OTHER.ca_key)))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert build(authority, tmp_path / "index", *arguments) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "[INFO]" not in line]
    assert any(message in line for line in errors), errors
    assert not any("Traceback" in line for line in errors)
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == files


def test_files_to_sign_need_a_responder(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[Any] = ["index", "build", "-o", str(tmp_path / "index")]
    assert main([*arguments, "-ca", str(authority / "ca.pem"), "-crl", str(authority / "ca.crl")]) == 1
    assert "need responder certificate (provide with -responder)" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "nothing to build from" in capsys.readouterr().err
