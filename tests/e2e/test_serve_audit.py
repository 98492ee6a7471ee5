"""`ocspd serve -audit-log` as it is run: nothing is issued or revoked unlogged, whatever happens to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import resource
import signal
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ocspd.authority.access.tokens import new_token
from ocspd.pki.auth import AuthKey
from tests.authority.audit.logs import checked, entries, entry, events, opened, texts
from tests.authority.cfssl import AUTH_KEY, CONFIG, make_material
from tests.binary import ocspd
from tests.e2e.test_authority_admin import get, values
from tests.e2e.test_crl import until
from tests.e2e.test_serve import Server, csr_of, flags_of, serve
from tests.e2e.test_serve_access import status
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

TOKEN, HASH = new_token()
ACCESS = {
    "clients": {
        "ops": {"token": HASH, "issue": ["default", "client"], "revoke": True},
    },
    "open": ["sign"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("made"))


@pytest.fixture
def material(made: Path, tmp_path: Path) -> Path:
    """A copy of the key material, with a database and a directory for the log."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"access": ACCESS}))
    database = {"driver": "sqlite3", "data_source": str(tmp_path / "certs.db")}
    (tmp_path / "db.json").write_text(json.dumps(database))
    assert ocspd("db", "up", "-db-config", tmp_path / "db.json").returncode == 0
    (tmp_path / "log").mkdir()
    return tmp_path


def log_of(material: Path) -> Path:
    return material / "log" / "audit.log"


def flags(material: Path) -> list[str]:
    return [
        *flags_of(material),
        *("-db-config", f"{material}/db.json", "-audit-log", str(log_of(material))),
    ]


def issue(server: Server, material: Path, **more: Any) -> x509.Certificate:
    code, text = server.post("sign", {"certificate_request": csr_of(material), **more})
    assert code == 200, text
    return x509.load_pem_x509_certificate(json.loads(text)["result"]["certificate"].encode())


def rows(material: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(material / "certs.db", timeout=60)) as db:
        return [
            (serial.decode() if isinstance(serial, bytes) else str(serial), word)
            for serial, word in db.execute("SELECT serial_number, status FROM certificates")
        ]


def agree(material: Path) -> str:
    """Verify the log and compare it with the database as an auditor does; return what that says."""
    log = log_of(material)
    verified = ocspd("audit", "verify", log)
    compared = ocspd("audit", "reconcile", "-db-config", material / "db.json", log)
    return verified.stdout + compared.stdout if verified.returncode or compared.returncode else ""


def test_everything_that_is_done_has_an_entry_that_says_who_and_what(material: Path) -> None:
    with serve(material, *flags(material)) as server:
        first = issue(server, material, profile="client", label="east")
        body = {"certificate_request": csr_of(material), "profile": "authed"}
        inner = json.dumps(body).encode()
        token = AuthKey(bytes.fromhex(AUTH_KEY)).token(inner)
        wrapped = {"token": base64.b64encode(token).decode(), "request": base64.b64encode(inner).decode()}
        assert server.post("authsign", wrapped)[0] == 200
        new = {"request": {"CN": "made", "hosts": ["made.example"]}}
        assert status(server, "newcert", new, token=TOKEN) == 200
        aki = next(each.fields["aki"] for each in entries(log_of(material)) if each.event == "issue")
        revoked = {"serial": str(first.serial_number), "authority_key_id": aki, "reason": "superseded"}
        assert status(server, "revoke", revoked, token=TOKEN) == 200
        assert status(server, "newkey", {"CN": "x"}, token=TOKEN) == 403
        assert status(server, "revoke", revoked) == 401
        assert server.stop() == 0
    found = entries(log_of(material))
    assert [each.event for each in found] == [
        *("start", "checkpoint", "issue", "issue", "issue", "revoke", "refused", "stop", "checkpoint")
    ]
    csr = x509.load_pem_x509_csr(csr_of(material).encode())
    by_sign, by_authsign, by_newcert, revocation, refusal = (each.fields for each in found[2:7])
    assert {name: by_sign[name] for name in by_sign if name not in {"n", "prev", "time", "address"}} == {
        "event": "issue",
        "serial": str(first.serial_number),
        "aki": aki,
        "common_name": "leaf.example",
        "sans": ["192.0.2.1", "leaf.example"],
        "not_after": f"{first.not_valid_after_utc:%Y-%m-%dT%H:%M:%S}.000000Z",
        "certificate_sha256": hashlib.sha256(first.public_bytes(Encoding.DER)).hexdigest(),
        "profile": "client",
        "label": "east",
        "csr_sha256": hashlib.sha256(csr.public_bytes(Encoding.DER)).hexdigest(),
        "endpoint": "sign",
        "result": "ok",
    }
    assert by_sign["address"].startswith("127.0.0.1:")
    assert (by_authsign["key"], by_authsign["profile"]) == ("k", "authed")
    assert (by_newcert["client"], by_newcert["profile"], by_newcert["sans"]) == (
        *("ops", "default", ["made.example"]),
    )
    assert (revocation["client"], revocation["serial"], revocation["reason"]) == (
        *("ops", str(first.serial_number), "superseded"),
    )
    assert (refusal["client"], refusal["endpoint"], refusal["code"]) == ("ops", "newkey", 403)
    text = log_of(material).read_text()
    assert TOKEN not in text
    assert AUTH_KEY.lower() not in text.lower()
    assert "PRIVATE" not in text
    assert agree(material) == ""


def test_a_killed_server_has_logged_everything_that_it_answered_and_stored(material: Path) -> None:
    """With requests under way from several threads; the log goes on after the next start."""
    answered: list[int] = []
    for _ in range(2):
        with serve(material, *flags(material)) as server:
            enough = threading.Event()

            def work(server: Server = server, enough: threading.Event = enough) -> None:
                try:
                    while True:
                        answered.append(issue(server, material).serial_number)
                        if len(answered) % 20 == 0:
                            enough.set()
                except OSError:
                    return  # it was killed

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            assert enough.wait(200)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(60)
            for thread in threads:
                thread.join(200)
    with serve(material, *flags(material)) as server:
        assert server.stop() == 0
    logged = {each.fields["serial"] for each in entries(log_of(material)) if each.event == "issue"}
    assert {str(serial) for serial in answered} <= {serial for serial, _ in rows(material)}
    assert {serial for serial, _ in rows(material)} <= logged
    assert texts(checked(log_of(material))) == []


def test_with_a_full_disk_nothing_is_issued_or_revoked_and_it_heals_by_itself(material: Path) -> None:
    log = log_of(material)
    file = opened(log, every=1000)
    for start in range(0, 3000, 500):  # longer than the database, so that a limit is one for the log only
        file.append([entry(number, event="note", text="x" * 300) for number in range(start, start + 500)])
    file.close()
    admin = free_port()
    with serve(material, *flags(material), "-admin-port", str(admin)) as server:
        server.wait_for("admin listener on")
        until(lambda: get(admin, "/readyz") == (200, "ok\n"))
        certificate = issue(server, material)
        aki = next(each.fields["aki"] for each in entries(log) if each.event == "issue")
        revoked = {"serial": str(certificate.serial_number), "authority_key_id": aki, "reason": "superseded"}
        before = rows(material)
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 100, hard))
        assert (material / "certs.db").stat().st_size + 100_000 < log.stat().st_size
        for name, body in (
            ("sign", {"certificate_request": csr_of(material)}),
            ("newcert", {"request": {"CN": "x"}}),
            ("revoke", revoked),
        ):
            assert status(server, name, body, token=TOKEN) == 503
        code, text = server.post("sign", {"certificate_request": csr_of(material)})
        assert (code, json.loads(text)["errors"][0]["code"]) == (503, 12000)
        assert server.post("info", {})[0] == 200
        assert rows(material) == before
        code, text = get(admin, "/readyz")
        assert code == 503
        assert "File too large" in text
        found = values(admin)
        assert found["ocspd_authority_audit_up"] == 0
        assert found["ocspd_authority_audit_failures_total"] >= 4
        assert found["ocspd_authority_open_endpoints"] == 1
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        server.wait_for("the audit log is written again")
        until(lambda: get(admin, "/readyz") == (200, "ok\n"))
        assert status(server, "revoke", revoked, token=TOKEN) == 200
        issue(server, material)
        assert server.stop() == 0
        lost = "".join(line for line in server.log().splitlines() if "was signed but not stored" in line)
        told = [line for line in server.log().splitlines() if "nothing is issued" in line]
    assert len(told) == 1
    assert "File too large" in told[0]
    assert "recovered" in events(log)
    owed = [each.fields for each in entries(log) if each.event == "not-stored"]
    assert {each["code"] for each in owed} == {12000}
    assert [each["serial"] for each in owed] == re.findall(r"with serial number (\d+),", lost)
    assert texts(checked(log)) == []
    assert agree(material) == ""


def test_what_could_not_be_stored_has_an_entry_with_its_serial(material: Path) -> None:
    with serve(material, *flags(material)) as server:
        issue(server, material)
        with closing(sqlite3.connect(material / "certs.db", timeout=60)) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON certificates BEGIN SELECT RAISE(ABORT, 'no room'); END"
            )
        code, text = server.post("sign", {"certificate_request": csr_of(material)})
        assert (code, json.loads(text)["errors"][0]["code"]) == (400, 11000)
        assert server.stop() == 0
    issued, again, lost = (each.fields for each in entries(log_of(material))[2:5])
    assert (issued["event"], again["event"], lost["event"]) == ("issue", "issue", "not-stored")
    assert lost["serial"] == again["serial"]
    assert (lost["result"], lost["code"]) == ("failed", 11000)
    assert agree(material) == ""


def test_a_reload_is_logged_with_the_digests_of_what_it_read(material: Path) -> None:
    config = material / "config.json"
    with serve(material, *flags(material)) as server:
        before = hashlib.sha256(config.read_bytes()).hexdigest()
        config.write_text(config.read_text() + "\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("] reloaded ")
        config.write_text("{}")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reload failed")
        assert server.stop() == 0
    found = entries(log_of(material))
    assert [each.event for each in found] == [
        *("start", "checkpoint", "reload", "reload", "stop", "checkpoint")
    ]
    start, first, second = found[0].fields, found[2].fields, found[3].fields
    assert start["files"]["config"] == before
    assert first["result"] == "ok"
    assert first["files"]["config"] not in {before, ""}
    assert "ca-key" not in first["files"]
    assert second["result"] == "failed"
    assert "signing" in second["message"]


def test_a_rename_by_logrotate_keeps_the_chain(material: Path) -> None:
    log = log_of(material)
    with serve(material, *flags(material)) as server:
        issue(server, material)
        log.rename(log.with_name("audit.log-20261126"))
        server.process.send_signal(signal.SIGHUP)
        issue(server, material)
        log.rename(log.with_name("audit.log-20261127"))
        issue(server, material)
        assert server.stop() == 0
    assert len([event for event in events(log) if event == "issue"]) == 3
    assert agree(material) == ""
    log.with_name("audit.log-20261127").unlink()
    assert "missing before this line" in agree(material)


def test_two_servers_share_a_log(material: Path) -> None:
    with serve(material, *flags(material)) as one, serve(material, *flags(material)) as two:

        def work(server: Server) -> None:
            for _ in range(15):
                issue(server, material)

        threads = [threading.Thread(target=work, args=(server,)) for server in (one, two) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(250)
        assert two.stop() == 0
        issue(one, material)
        assert one.stop() == 0
    assert len([event for event in events(log_of(material)) if event == "issue"]) == 61
    assert agree(material) == ""


def test_reconcile_of_a_server_at_work_finds_nothing(material: Path) -> None:
    with serve(material, *flags(material)) as server:
        enough = threading.Event()

        def work() -> None:
            while not enough.is_set():
                issue(server, material)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            found = [agree(material) for _ in range(2)]
        finally:
            enough.set()
            for thread in threads:
                thread.join(250)
        assert found == ["", ""]


def test_a_torn_last_line_is_kept_aside_at_the_next_start(material: Path) -> None:
    log = log_of(material)
    with serve(material, *flags(material)) as server:
        issue(server, material)
        assert server.stop() == 0
    with log.open("ab") as file:
        file.write(b'{"n":6,"prev":"00')
    with serve(material, *flags(material)) as server:
        issue(server, material)
        assert server.stop() == 0
        assert "the last line is torn: its 17 bytes were moved to" in server.log()
    assert log.with_name("audit.log.torn-6").read_bytes() == b'{"n":6,"prev":"00'
    assert events(log)[5:7] == ["torn", "start"]
    assert agree(material) == ""


def test_a_log_that_has_grown_is_renamed(material: Path) -> None:
    log = log_of(material)
    file = opened(log, every=1000)
    for _ in range(3):
        file.append([entry(number, event="note", text="x" * 300) for number in range(900)])
    file.close()
    with serve(material, *flags(material), "-audit-rotate-mb", "1") as server:
        issue(server, material)
        assert server.stop() == 0
    names = sorted(path.name for path in log.parent.iterdir() if path.name[-1].isdigit())
    assert len(names) == 1
    assert log.stat().st_size < 10_000
    assert agree(material) == ""


def test_a_changed_log_is_found_by_verify_and_the_server_goes_on(material: Path) -> None:
    log = log_of(material)
    with serve(material, *flags(material)) as server:
        for _ in range(3):
            issue(server, material)
        assert server.stop() == 0
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:3] + lines[4:]))
    with serve(material, *flags(material)) as server:
        issue(server, material)
        assert server.stop() == 0
    found = agree(material)
    assert f"{log}:4: entry 4 is missing before this line" in found
    assert "is in the database, but not in the log" in found


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing/audit.log", "missing/audit.log.key: cannot write: No such file or directory"),
        ("ca.pem", "ca.pem: is not an audit log: move it away, or give another name"),
        ("log", "log: is not a regular file: an audit log cannot be kept there"),
    ],
)
def test_a_log_that_cannot_be_used_ends_the_start_with_a_line(material: Path, name: str, told: str) -> None:
    run = ocspd("serve", "-port", "0", *flags_of(material), "-audit-log", f"{material}/{name}")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].endswith(told)
    assert "Traceback" not in run.stderr
