"""The admin listener of `ocspd serve`."""

from __future__ import annotations

import json
import re
import resource
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tests.binary import ocspd
from tests.e2e.test_crl import flags_of, home, issue, revoke, until
from tests.e2e.test_serve import serve
from tests.ports import free_port
from tests.tools import need

__all__ = ["home"]

RULES = Path(__file__).parent.parent.parent / "deploy" / "prometheus" / "ocspd.rules.yml"


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()


def values(port: int) -> dict[str, float]:
    """Return the samples of /metrics by name and labels."""
    status, text = get(port, "/metrics")
    assert status == 200
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_metrics_and_readiness_follow_the_crl_and_the_database(home: Path) -> None:
    port = free_port()
    certificate = issue(home, "one")
    with serve(home, *flags_of(home), "-admin-port", str(port)) as server:
        until(lambda: f"admin listener on 127.0.0.1:{port}" in server.log())
        until(lambda: get(port, "/readyz") == (200, "ok\n"))
        found = values(port)
        assert found["ocspd_authority_crl_up"] == 1
        assert found["ocspd_authority_crl_entries"] == 0
        seconds = found["ocspd_authority_crl_next_update_timestamp_seconds"]
        assert seconds - found["ocspd_authority_crl_this_update_timestamp_seconds"] == 7 * 86400
        assert found["ocspd_authority_open_endpoints"] > 3
        assert found['ocspd_authority_not_after_timestamp_seconds{certificate="ca"}'] > seconds
        revoke(home, certificate)
        until(lambda: values(port)["ocspd_authority_crl_entries"] == 1)
        server.post("info", {})
        server.post("sign", {"certificate_request": "junk"})
        server.post("newcert", {"request": {"CN": "x", "hosts": ["x"]}})
        server.post("nothing", {})
        found = values(port)
        assert found['ocspd_authority_replies_total{endpoint="info",status="200"}'] == 1
        assert found['ocspd_authority_replies_total{endpoint="other",status="404"}'] == 1
        assert found['ocspd_authority_refusals_total{code="9002",endpoint="sign"}'] == 1
        assert found['ocspd_authority_reply_duration_seconds_count{endpoint="sign"}'] == 1
        assert found["ocspd_authority_issued_certificates_total"] == 1
        assert found["ocspd_authority_revocations_total"] == 0
        assert found["ocspd_authority_signer_up"] == 1
        with sqlite3.connect(home / "certs.db", timeout=60) as connection:
            connection.execute("ALTER TABLE certificates RENAME TO away")
        connection.close()
        until(lambda: values(port)["ocspd_authority_crl_up"] == 0)
        status, text = get(port, "/readyz")
        assert status == 503
        assert text.startswith("database: ")
        assert "\ncrl: " in text
        assert get(port, "/livez") == (200, "ok\n")
        assert get(port, "/else")[0] == 404
        assert server.stop() == 0


def test_a_reload_that_fails_leaves_what_is_shown_as_it_was(home: Path) -> None:
    port = free_port()
    tls = issue(home, "tls")
    flags = (*flags_of(home), "-tls-cert", str(tls), "-tls-key", f"{home}/tls-key.pem")
    with serve(home, *flags, "-admin-port", str(port)) as server:
        until(lambda: f"admin listener on 127.0.0.1:{port}" in server.log())
        until(lambda: get(port, "/readyz") == (200, "ok\n"))
        ends = [name for name in values(port) if "not_after" in name]
        before = [values(port)[name] for name in ends]
        other = '{"CN": "Another CA", "ca": {"expiry": "8760h"}}'
        made = json.loads(ocspd("gencert", "-initca", "-", stdin=other).stdout)
        (home / "ca.pem").write_text(made["cert"])
        (home / "ca-key.pem").write_text(made["key"])
        tls.unlink()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reload failed, nothing was changed")
        assert [values(port)[name] for name in ends] == before
        assert get(port, "/readyz") == (200, "ok\n")
        assert server.stop() == 0


def test_promtool_finds_nothing_to_object_to(home: Path) -> None:
    port = free_port()
    with serve(home, *flags_of(home), "-admin-port", str(port)) as server:
        until(lambda: "admin listener" in server.log())
        until(lambda: "ocspd_authority_crl_bytes" in values(port))
        _, text = get(port, "/metrics")
    checked = subprocess.run(
        [need("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_without_a_port_there_is_no_listener(home: Path) -> None:
    with serve(home, *flags_of(home)) as server:
        assert server.post("info", {})[0] == 200
        assert "admin listener" not in server.log()
        assert get(server.port, "/metrics")[0] == 404


def test_a_server_without_a_key_lives_but_is_not_ready(home: Path) -> None:
    port = free_port()
    with serve(home, "-admin-port", str(port)) as server:
        until(lambda: "admin listener" in server.log())
        assert get(port, "/livez") == (200, "ok\n")
        status, text = get(port, "/readyz")
        assert status == 503
        assert text.startswith("signer: there is none")
        assert values(port)["ocspd_authority_signer_up"] == 0


def test_readiness_follows_the_audit_log(home: Path, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "audit.log"
    with serve(home, *flags_of(home), "-admin-port", str(port), "-audit-log", str(log)) as server:
        until(lambda: "admin listener" in server.log())
        until(lambda: get(port, "/readyz") == (200, "ok\n"))
        found = values(port)
        assert found["ocspd_authority_audit_up"] == 1
        server.post("info", {})
        named = set(re.findall(r"\bocspd_authority_\w+", RULES.read_text()))
        assert len(named) > 5
        assert named <= {name.partition("{")[0] for name in values(port)}
        limit_file_size(server.process.pid, log.stat().st_size)
        server.post("newcert", {"request": {"CN": "x", "hosts": ["x"]}})
        until(lambda: get(port, "/readyz")[0] == 503)
        assert "audit log: " in get(port, "/readyz")[1]
        assert values(port)["ocspd_authority_audit_up"] == 0
        limit_file_size(server.process.pid, resource.RLIM_INFINITY)
        until(lambda: get(port, "/readyz") == (200, "ok\n"))


def limit_file_size(pid: int, size: int) -> None:
    """Make writes beyond a size fail, as on a full disk."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
