from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.x509 import ocsp

from ocspd._der import parse_response
from ocspd.certdb import migrate
from ocspd.certdb.sqlite import SQLiteCertDB
from ocspd.cli.progress import PassProgress
from ocspd.clock import ManualClock, SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertificateRow, CertStatus
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.tally import Progress
from tests.binary import ocspd
from tests.pki.chain import NOW, Chain, common_name, make_certificate, make_chain, make_key, pem
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

CHAIN = make_chain()
OTHER = make_chain(name="Other CA", number=1)
SIGNING = ("-ca", "ca.pem", "-responder", "responder.pem", "-responder-key", "responder-key.pem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CHAIN.write(tmp_path)
    (tmp_path / "other").mkdir()
    OTHER.write(tmp_path / "other")
    (tmp_path / "db.json").write_text('{"driver":"sqlite3","data_source":"certs.db"}')
    return tmp_path


def row(chain: Chain, serial: int, status: CertStatus = CertStatus.GOOD, reason: int = 0) -> CertificateRow:
    certificate = chain.issue(serial)
    return CertificateRow(
        serial=serial,
        aki=chain.signer().aki,
        pem=pem(certificate).decode(),
        expiry=certificate.not_valid_after_utc,
        status=status,
        reason=reason,
        revoked_at=NOW - timedelta(hours=2) if status is CertStatus.REVOKED else None,
    )


def fill(folder: Path, *rows: CertificateRow) -> None:
    async def work() -> None:
        async with SQLiteCertDB(str(folder / "certs.db"), SystemClock()) as db:
            await migrate.up(db)
            for entry in rows:
                await db.insert_certificate(entry)

    asyncio.run(work())


def sign(folder: Path, *words: str) -> ocsp.OCSPResponse:
    result = ocspd("ocspsign", *SIGNING, "-cert", "leaf.pem", *words, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith('"}\n')
    value = json.loads(result.stdout)
    assert result.stdout == json.dumps(value, separators=(",", ":")) + "\n"
    assert list(value) == ["ocspResponse"]
    return ocsp.load_der_ocsp_response(base64.b64decode(value["ocspResponse"], validate=True))


def fails(folder: Path, *words: str) -> str:
    result = ocspd(*words, cwd=folder)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.rstrip("\n")


ENCRYPTED_KEY = ("-ca", "ca.pem", "-responder", "responder.pem", "-responder-key", "encrypted.pem")


@pytest.mark.parametrize(
    "verb",
    [
        ("ocspsign", "-cert", "leaf.pem"),
        ("ocsprefresh", "-db-config", "db.json"),
        ("refresh", "-once", "-db-config", "db.json", "-index", "index", "-admin-port", "0"),
        ("ocspserve", "-db-config", "db.json", "-port", "0", "-admin-port", "0", "-loglevel", "3"),
    ],
)
def test_an_encrypted_key_without_its_password_says_where_the_password_goes(
    folder: Path, verb: tuple[str, ...]
) -> None:
    fill(folder)
    words = ("openssl", "pkey", "-in", "responder-key.pem", "-aes256", "-passout", "pass:sesame")
    encrypted = subprocess.run([need(words[0]), *words[1:]], cwd=folder, check=True, capture_output=True)
    (folder / "encrypted.pem").write_bytes(encrypted.stdout)
    assert fails(folder, *verb, *ENCRYPTED_KEY) == (
        '{"code":2100,"message":"encrypted.pem: Private key is encrypted. '
        'Set CFSSL_CA_PK_PASSWORD to its password"}'
    )


# -- ocspsign ----------------------------------------------------------------------------------------


def test_ocspsign_prints_cfssls_object_and_openssl_verifies_it(folder: Path) -> None:
    answer = sign(folder)
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert answer.serial_number == CHAIN.leaf.serial_number
    assert answer.next_update_utc is not None
    assert answer.next_update_utc - answer.this_update_utc == timedelta(hours=96, seconds=-1)


def test_ocspsign_of_a_revoked_certificate_needs_no_reason(folder: Path) -> None:
    answer = sign(folder, "-status", "revoked")
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.revocation_reason is None
    assert answer.revocation_time_utc is not None
    assert abs(answer.revocation_time_utc - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("reason", ["1", "keyCompromise", "KEYCOMPROMISE"])
def test_ocspsign_takes_reason_and_date(folder: Path, reason: str) -> None:
    answer = sign(folder, "-status=revoked", "-reason", reason, "-revoked-at", "2026-01-02", "-interval=24h")
    assert answer.revocation_reason is not None
    assert answer.revocation_reason.value == "keyCompromise"
    assert answer.revocation_time_utc == datetime(2026, 1, 2, tzinfo=UTC)
    assert answer.next_update_utc is not None
    assert answer.next_update_utc - answer.this_update_utc == timedelta(hours=24, seconds=-1)


def test_ocspsign_takes_certid_hash_and_responder_id(folder: Path) -> None:
    answer = sign(folder, "-certid-hash", "SHA256", "-responder-id", "name")
    assert answer.hash_algorithm.name == "sha256"
    assert answer.responder_name == CHAIN.responder.subject


def test_ocspsign_falls_back_to_key_as_cfssl_does(folder: Path) -> None:
    words = (*SIGNING[:4], "-key", "responder-key.pem", "-cert", "leaf.pem", "-status", "unknown")
    result = ocspd("ocspsign", *words, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")


def test_ocspsign_of_a_CA_signing_itself_embeds_nothing(folder: Path) -> None:
    result = ocspd(
        "ocspsign", "-ca", "file:ca.pem", "-responder", "ca.pem", "-responder-key", "ca-key.pem",
        "-cert", "leaf.pem", cwd=folder,
    )  # fmt: skip
    answer = ocsp.load_der_ocsp_response(base64.b64decode(json.loads(result.stdout)["ocspResponse"]))
    assert answer.certificates == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-cert", ""), "need certificate (provide with -cert)"),
        (("-cert", "absent.pem"), "open absent.pem: no such file or directory"),
        (("-cert", "db.json"), "db.json: "),
        (("-cert", "other/leaf.pem"), '{"code":8100,"message":"Certificate not issued by this issuer"}'),
        (("-status", "fine"), '{"code":8200,"message":"Invalid revocation status"}'),
        (("-status", "revoked", "-reason", "7"), "Invalid revocation reason '7'"),
        (("-status", "revoked", "-revoked-at", "yesterday"), "Malformed revocation time: 'yesterday'"),
        (("-status", "revoked", "-revoked-at", "2026-13-01"), "use now or a date YYYY-MM-DD"),
        (("-responder-key", "ca-key.pem"), "ca-key.pem: is not the private key of responder.pem (CN=OCSP of"),
        (("-responder-key", "ca.pem"), "ca.pem: "),
        (("-ca", "other/ca.pem"), "not by other/ca.pem (CN=Other CA"),
        (("-responder", "leaf.pem", "-responder-key", "leaf-key.pem"), "not have the extended key usage"),
        (("-certid-hash", "md5"), "unknown CertID hash 'md5'"),
        (("-certid-hash", "sha1,sha256"), "ocspsign signs a single response"),
        (("-responder-id", "subject"), "unknown responder id 'subject': use key or name"),
        (("-interval", "30m"), "use a longer interval"),
        (("stray",), "ocspsign takes no arguments, but got 'stray'"),
    ],
)  # fmt: skip
def test_ocspsign_refuses_with_one_line_that_names_the_object(
    folder: Path, words: tuple[str, ...], text: str
) -> None:
    from tests.pki.chain import key_pem

    (folder / "leaf-key.pem").write_bytes(key_pem(make_key("ecdsa-256", 9)))
    assert text in fails(folder, "ocspsign", *SIGNING, "-cert", "leaf.pem", *words)


# -- ocsprefresh and ocspdump ------------------------------------------------------------------------


def stored(folder: Path) -> dict[str, bytes]:
    with sqlite3.connect(folder / "certs.db") as connection:
        found = connection.execute("SELECT serial_number, CAST(body AS BLOB) FROM ocsp_responses").fetchall()
    connection.close()
    return dict(found)


def test_refresh_then_dump_gives_what_openssl_verifies(folder: Path) -> None:
    serials = (5, 1 << 152, CHAIN.leaf.serial_number)
    fill(
        folder,
        row(CHAIN, serials[0]),
        row(CHAIN, serials[1], CertStatus.REVOKED, 4),
        row(CHAIN, serials[2], CertStatus.REVOKED, 1),
        row(OTHER, 5),
    )
    result = ocspd("ocsprefresh", "-db-config", "db.json", *SIGNING, cwd=folder)
    assert (result.returncode, result.stdout) == (0, "")
    # The table keeps one response for a certificate, so no other is signed.
    assert "signed 3 OCSP responses for 3 certificates (2 revoked)" in result.stderr
    assert (
        f"skipped 1 certificates of other issuers, by key identifier ({OTHER.signer().aki}: 1)"
        in result.stderr
    )
    dump = ocspd("ocspdump", "-db-config", "db.json", cwd=folder)
    assert (dump.returncode, dump.stderr) == (0, "")
    answers = [base64.b64decode(line, validate=True) for line in dump.stdout.splitlines()]
    found = {parse_response(answer).serial: parse_response(answer) for answer in answers}
    assert {serial: (found[serial].status, found[serial].reason) for serial in serials} == {
        serials[0]: (0, None),
        serials[1]: (1, 4),
        serials[2]: (1, 1),
    }
    leaf = next(answer for answer in answers if parse_response(answer).serial == serials[2])
    (folder / "answer.der").write_bytes(leaf)
    verdict = subprocess.run(
        [
            need("openssl"), "ocsp", "-respin", "answer.der", "-issuer", "ca.pem", "-cert", "leaf.pem",
            "-CAfile", "ca.pem",
        ],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Response verify OK" in verdict.stderr
    assert "leaf.pem: revoked" in verdict.stdout


def test_refresh_takes_several_issuers_and_writes_an_index(folder: Path) -> None:
    fill(folder, row(CHAIN, 5), row(OTHER, 5, CertStatus.REVOKED, 1), row(OTHER, 6))
    others = [word if word.startswith("-") else f"other/{word}" for word in SIGNING]
    words = ("-db-config", "db.json", *SIGNING, *others, "-index", "index", "-loglevel", "2")
    result = ocspd("ocsprefresh", *words, cwd=folder)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    index = IndexDirectory(folder / "index").open()
    for chain, serial, status in ((CHAIN, 5, 0), (OTHER, 5, 1), (OTHER, 6, 0)):
        for name in ("sha1", "sha256"):
            answer = index.lookup(name, *issuer_hashes(chain.ca, name), serial)
            assert answer is not None
            assert answer.status == status
    assert index.entries == 6
    assert len(stored(folder)) == 2  # by serial


def test_refresh_can_leave_the_table_alone(folder: Path) -> None:
    fill(folder, row(CHAIN, 5))
    words = ("ocsprefresh", "-db-config", "db.json", *SIGNING, "-table=false")
    assert ocspd(*words, "-index", "index", cwd=folder).returncode == 0
    assert IndexDirectory(folder / "index").open().entries == 2
    assert stored(folder) == {}
    assert "give an index directory with -index" in fails(folder, *words)


def test_refresh_again_replaces_and_takes_in_what_changed(folder: Path) -> None:
    fill(folder, row(CHAIN, 5), row(CHAIN, 6))
    words = ("ocsprefresh", "-db-config", "db.json", *SIGNING)
    assert ocspd(*words, cwd=folder).returncode == 0
    with sqlite3.connect(folder / "certs.db") as connection:
        connection.execute(
            "UPDATE certificates SET status = 'revoked', reason = 1, revoked_at = '2026-11-01 00:00:00' "
            "WHERE serial_number = '5'"
        )
    connection.close()
    assert ocspd(*words, cwd=folder).returncode == 0
    answers = {serial: parse_response(body).status for serial, body in stored(folder).items()}
    assert answers == {"5": 1, "6": 0}


def test_skipped_certificates_are_listed_on_request(folder: Path) -> None:
    fill(folder, row(CHAIN, 5), row(OTHER, 77))
    result = ocspd("ocsprefresh", "-db-config", "db.json", *SIGNING, "-list-skipped", cwd=folder)
    assert (result.returncode, result.stdout) == (0, f"77\t{OTHER.signer().aki}\tforeign issuer\n")


def test_a_refresh_with_the_wrong_CA_says_so(folder: Path) -> None:
    fill(folder, row(OTHER, 77))
    result = ocspd("ocsprefresh", "-db-config", "db.json", *SIGNING, cwd=folder)
    assert result.returncode == 0
    assert "[WARNING] none of the certificates was issued by CN=Example CA" in result.stderr


def test_a_refresh_of_nothing_says_so(folder: Path) -> None:
    fill(folder)
    result = ocspd("ocsprefresh", "-db-config", "db.json", *SIGNING, cwd=folder)
    assert (result.returncode, result.stdout) == (0, "")
    assert "has no unexpired certificates: nothing to sign" in result.stderr


@pytest.mark.parametrize("lines", [0, 2])
def test_a_dump_of_an_empty_table_says_on_stderr_what_to_run(folder: Path, lines: int) -> None:
    fill(folder, *(row(CHAIN, 5 + number) for number in range(lines)))
    result = ocspd("ocspdump", "-db-config", "db.json", cwd=folder)
    assert (result.returncode, result.stdout) == (0, "")
    assert "ocspd ocsprefresh -db-config db.json -ca" in result.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-db-config", ""), "need DB config file (provide with -db-config)"),
        (("-db-config", "absent.json"), "open absent.json: no such file or directory"),
        (("-db-config", "ca.pem"), "ca.pem: Invalid database configuration"),
        (("-db-config", "db.json"), "certs.db"),
        (("-ca", "other/ca.pem"), "got 2 -ca, 1 -responder, 1 -responder-key"),
        (("-certid-hash", ""), "no CertID hash given"),
        (("stray",), "ocsprefresh takes no arguments"),
    ],
)
def test_ocsprefresh_refuses_with_one_line(folder: Path, words: tuple[str, ...], text: str) -> None:
    assert text in fails(folder, "ocsprefresh", "-db-config", "db.json", *SIGNING, *words)
    assert not (folder / "certs.db").exists()


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_ocsprefresh_names_the_flag_that_is_missing(folder: Path, missing: int) -> None:
    words = [*SIGNING[:missing], *SIGNING[missing + 2 :]]
    text = fails(folder, "ocsprefresh", "-db-config", "db.json", *words)
    assert text.endswith(f"(provide with {SIGNING[missing]})")


def test_an_index_directory_that_cannot_be_written_is_one_line(folder: Path) -> None:
    fill(folder, row(CHAIN, 5))
    text = fails(folder, "ocsprefresh", "-db-config", "db.json", *SIGNING, "-index", "ca.pem")
    assert "ca.pem: cannot create index directory" in text


def test_a_responder_certificate_without_nocheck_is_warned_of(folder: Path) -> None:
    key = make_key("ecdsa-256", 3)
    bare = make_certificate(
        common_name("bare"), key, CHAIN.ca.subject, CHAIN.ca_key, serial=9, ocsp=True, nocheck=False
    )
    (folder / "responder.pem").write_bytes(pem(bare))
    from tests.pki.chain import key_pem

    (folder / "responder-key.pem").write_bytes(key_pem(key))
    result = ocspd("ocspsign", *SIGNING, "-cert", "leaf.pem", cwd=folder)
    assert result.returncode == 0
    assert "[WARNING] responder.pem (CN=bare): has no id-pkix-ocsp-nocheck" in result.stderr


def test_an_index_beside_the_table_has_a_response_for_each_hash(folder: Path) -> None:
    fill(folder, row(CHAIN, 5))
    result = ocspd("ocsprefresh", "-db-config", "db.json", *SIGNING, "-index", "index", cwd=folder)
    assert "signed 2 OCSP responses for 1 certificates (0 revoked)" in result.stderr


def test_the_help_of_ocspsign_describes_what_it_prints(folder: Path) -> None:
    printed = ocspd("ocspsign", *SIGNING, "-cert", "leaf.pem", cwd=folder).stdout
    (member,) = json.loads(printed)
    assert f'JSON with the response in base64, {{"{member}":"..."}}' in ocspd("ocspsign", "-h").stderr


@pytest.mark.parametrize("verb", ["ocspsign", "ocsprefresh", "ocspdump"])
def test_help_lists_the_flags_of_cfssl(verb: str) -> None:
    theirs = subprocess.run([need("cfssl"), verb, "-h"], capture_output=True, text=True, check=False).stderr
    ours = ocspd(verb, "-h").stderr
    for line in theirs.splitlines():
        name = line.strip().partition("=")[0]
        if name.startswith("-"):
            assert f"\n  {name}=" in ours


def test_progress_is_plain_lines_away_from_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(NOW)
    with caplog.at_level("INFO", "ocspd"), PassProgress("signing", clock) as progress:
        for second in range(25):
            progress.update(Progress(certificates=100 * second, signed=90 * second))
            clock.advance(timedelta(seconds=1))
    assert [record.getMessage() for record in caplog.records] == [
        "signing: 1000 certificates done, 900 signed, 100/s",
        "signing: 2000 certificates done, 1800 signed, 100/s",
    ]


def test_progress_of_another_pass_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(NOW)
    with caplog.at_level("INFO", "ocspd"), PassProgress("signing", clock, total=3_000) as progress:
        for _ in range(2):
            for second in range(12):
                progress.update(Progress(certificates=100 * second, signed=0))
                clock.advance(timedelta(seconds=1))
            progress.finish()
            clock.advance(timedelta(hours=1))
    line = "signing: 1000 certificates done, 0 signed, 100/s, about 20 s left"
    assert [record.getMessage() for record in caplog.records] == [line, line]


def test_progress_moves_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    clock = ManualClock(NOW)
    with PassProgress("signing", clock) as progress:
        for second in range(3):
            progress.update(Progress(certificates=1000 * second, signed=second))
            clock.advance(timedelta(seconds=1))
    text = capsys.readouterr().err
    assert "signing" in text
    assert "2,000 certificates" in text
