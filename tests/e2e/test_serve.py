from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from tests.authority import tls_servers
from tests.authority.cfssl import AUTH_KEY, make_material, run, wait_for_port
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OCSPD = (sys.executable, "-m", "ocspd.cli.main")
PREFIX = "/api/v1/cfssl/"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("made"))


@pytest.fixture
def material(made: Path, tmp_path: Path) -> Path:
    """A copy of the key material that a test may change."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


class Server:
    """A running `ocspd serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    def log(self) -> str:
        return self._log.read_text()

    def post(self, endpoint: str, body: Any) -> tuple[int, str]:
        request = urllib.request.Request(f"{self.url}{PREFIX}{endpoint}", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as err:
            with err:
                return err.code, err.read().decode()

    def get(self, target: str) -> tuple[int, Any]:
        """Return status and result."""
        with urllib.request.urlopen(f"{self.url}{PREFIX}{target}", timeout=120) as answer:
            return answer.status, json.load(answer)["result"]

    def wait_for(self, text: str) -> None:
        """Wait until the log has a text."""
        for _ in range(2400):
            if text in self.log():
                return
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"{text!r} is not in the log: {self.log()}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def flags_of(material: Path) -> list[str]:
    return [
        *("-ca", f"{material}/ca.pem", "-ca-key", f"{material}/ca-key.pem"),
        *("-config", f"{material}/config.json"),
        *("-responder", f"{material}/ocsp.pem", "-responder-key", f"{material}/ocsp-key.pem"),
    ]


@contextmanager
def serve(material: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    port = free_port()
    command = [*OCSPD, "serve", "-port", str(port), *flags]
    path = material / "serve.log"
    with (
        path.open("wb") as log,
        subprocess.Popen(command, stderr=log, env=os.environ | (env or {}), cwd=material) as process,
    ):
        try:
            wait_for_port(port, process)
            yield Server(process, port, path)
        finally:
            process.kill()


def fails(*flags: str) -> str:
    """Run a `serve` that must end with exit code 1 and one line; return the line."""
    result = run(*OCSPD, "serve", "-port", str(free_port()), *flags, check=False)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "[INFO]" not in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


def csr_of(material: Path) -> str:
    return (material / "leaf.csr").read_text()


def test_it_says_what_is_on_and_where_it_listens_and_ends_with_zero_on_sigterm(material: Path) -> None:
    with serve(material, *flags_of(material)) as server:
        assert server.post("info", {})[0] == 200
        assert server.stop() == 0
        log = server.log()
    for name in ("sign", "authsign", "info", "newcert", "newkey", "init_ca", "ocspsign", "bundle", "health"):
        assert f"[INFO] endpoint '{PREFIX}{name}' is enabled" in log
    assert f"[WARNING] endpoint '{PREFIX}revoke' is disabled: cert db not configured" in log
    assert f"[INFO] Now listening on 127.0.0.1:{server.port}" in log
    assert f'- "POST {PREFIX}info" 200' in log


def test_scans_and_certinfo_connect_to_this_machine_only_if_allowed(material: Path) -> None:
    root = tls_servers.issue("Root")
    path = tls_servers.write(material, "good", tls_servers.issue("localhost", root), root)
    (material / "root.pem").write_bytes(root.pem())
    with tls_servers.openssl_server(path) as port:
        query = f"scan?host=localhost:{port}&scanner=TLSDial"
        with serve(material, "-allow-private", "-ca-bundle", "root.pem") as server:
            assert server.get(query) == (200, {"Connectivity": {"TLSDial": {"grade": "Good"}}})
            status, text = server.post("certinfo", {"domain": f"localhost:{port}"})
            assert (status, json.loads(text)["result"]["subject"]["common_name"]) == (200, "localhost")
        with serve(material) as server:
            status, result = server.get(query)
            assert "no public address" in result["Connectivity"]["TLSDial"]["error"]
            status, text = server.post("certinfo", {"domain": f"localhost:{port}"})
            assert status == 500
            assert "no public address" in text


def test_nothing_configured_still_serves(material: Path) -> None:
    with serve(material, "-ca-bundle", "bundle.pem") as server:
        assert '[WARNING] couldn\'t initialize bundler: {"code":4001,' in server.log()
        assert "[WARNING] couldn't initialize scan roots: open bundle.pem: no such file" in server.log()
        for endpoint in ("sign", "bundle", "scan"):
            assert server.post(endpoint, {})[0] == 404
        assert server.post("init_ca", {"CN": "x"})[0] == 200


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("ca.pem", "junk", "ca.pem"),
        ("ca-key.pem", "junk", "ca-key.pem"),
        ("ca-key.pem", None, "ca-key.pem"),
        ("ca-key.pem", "leaf-key.pem", "ca-key.pem"),
    ],
)
def test_an_unusable_ca_is_a_warning_and_its_endpoints_are_off(
    material: Path, file: str, content: str | None, told: str
) -> None:
    path = material / file
    if content is None:
        path.unlink()
    else:
        path.write_text((material / content).read_text() if content.endswith(".pem") else content)
    with serve(material, *flags_of(material)) as server:
        assert server.post("sign", {})[0] == 404
        assert server.post("newkey", {})[0] == 200
        (line,) = [line for line in server.log().splitlines() if "couldn't initialize signer" in line]
    assert "[WARNING]" in line
    assert told in line


def test_an_unusable_responder_is_a_warning_and_ocspsign_is_off(material: Path) -> None:
    (material / "ocsp.pem").write_text((material / "client.pem").read_text())
    (material / "ocsp-key.pem").write_text((material / "client-key.pem").read_text())
    with serve(material, *flags_of(material)) as server:
        assert server.post("ocspsign", {})[0] == 404
        assert server.post("sign", {"certificate_request": csr_of(material)})[0] == 200
        assert "[WARNING] couldn't initialize ocsp signer: " in server.log()


def test_a_taken_port_is_one_line_and_exit_code_one(material: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(*OCSPD, "serve", "-port", str(port), check=False)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"cannot listen on 127.0.0.1:{port}: address already in use")


def test_unusable_settings_end_it_with_one_line(material: Path) -> None:
    bad = material / "bad.json"
    bad.write_text("{")
    assert "Failed to load config file" in fails("-config", str(bad))
    assert "bad.json" in fails("-db-config", str(bad))
    assert "nonexistent.json" in fails("-db-config", f"{material}/nonexistent.json")
    bad.write_text('{"driver":"oracle","data_source":"x"}')
    assert "unknown driver" in fails("-db-config", str(bad))
    assert "given together" in fails("-tls-cert", f"{material}/server.pem")
    assert "stray" in fails("stray")
    pair = ("-tls-cert", f"{material}/server.pem", "-tls-key", f"{material}/leaf-key.pem")
    assert "leaf-key.pem: not a usable TLS certificate and key" in fails(*pair)


@pytest.mark.parametrize("form", ["pkcs8", "traditional"])
def test_an_encrypted_ca_key_is_opened_with_the_password_of_the_environment(
    material: Path, form: str
) -> None:
    key = material / "ca-key.pem"
    source, target = str(key), str(material / "encrypted.pem")
    if form == "pkcs8":
        run(need("openssl"), "pkcs8", "-topk8", "-in", source, "-out", target, "-passout", "pass:sesame")
    else:
        run(need("openssl"), "ec", "-in", source, "-out", target, "-aes128", "-passout", "pass:sesame")
    (material / "encrypted.pem").replace(key)
    assert "ENCRYPTED" in key.read_text()
    request = {"certificate_request": csr_of(material)}
    with serve(material, *flags_of(material), env={"CFSSL_CA_PK_PASSWORD": "sesame"}) as server:
        assert server.post("sign", request)[0] == 200
    with serve(material, *flags_of(material)) as server:
        assert server.post("sign", request)[0] == 404
        assert "ca-key.pem" in server.log()


def test_the_ca_can_come_from_the_environment(material: Path) -> None:
    env = {"CA": (material / "ca.pem").read_text(), "CA_KEY": (material / "ca-key.pem").read_text()}
    with serve(material, "-ca", "env:CA", "-ca-key", "env:CA_KEY", env=env) as server:
        assert server.post("sign", {"certificate_request": csr_of(material)})[0] == 200


def test_endpoints_can_be_disabled(material: Path) -> None:
    with serve(material, *flags_of(material), "-disable", "sign,init_ca") as server:
        assert [server.post(name, {})[0] for name in ("sign", "init_ca", "info")] == [404, 404, 200]


def reload(server: Server, said: str) -> None:
    server.process.send_signal(signal.SIGHUP)
    for _ in range(400):
        if server.log().count(said):
            return
        server.post("info", {})
    raise AssertionError(server.log())


def test_sighup_takes_up_a_changed_configuration_and_keeps_the_old_one_when_it_is_broken(
    material: Path,
) -> None:
    def expiry(server: Server) -> str:
        expiry: str = json.loads(server.post("info", {"profile": "client"})[1])["result"]["expiry"]
        return expiry

    path = material / "config.json"
    with serve(material, *flags_of(material)) as server:
        assert expiry(server) == "1h"
        path.write_text(path.read_text().replace('"1h"', '"3h"'))
        reload(server, "reloaded")
        assert expiry(server) == "3h"
        path.write_text("{")
        reload(server, "reload failed, nothing was changed")
        assert expiry(server) == "3h"


def test_sighup_takes_up_a_ca_that_was_not_usable_at_start(material: Path) -> None:
    key = (material / "ca-key.pem").read_bytes()
    (material / "ca-key.pem").unlink()
    with serve(material, *flags_of(material)) as server:
        assert server.post("info", {})[0] == 404
        (material / "ca-key.pem").write_bytes(key)
        reload(server, "reloaded")
        assert server.post("info", {})[0] == 200


# -- clients -------------------------------------------------------------------------------------


def client(program: str) -> tuple[str, ...]:
    return (need("cfssl"),) if program == "cfssl" else OCSPD


@pytest.mark.parametrize("program", ["cfssl", "ocspd"])
def test_sign_remote_works_with_debians_client_and_with_ours(material: Path, program: str) -> None:
    with serve(material, *flags_of(material)) as server:
        command = (*client(program), "sign", "-remote", server.url, "-profile", "client")
        answer = json.loads(run(*command, f"{material}/leaf.csr").stdout)
    assert sorted(answer) == ["cert", "csr"]
    certificate = x509.load_pem_x509_certificate(answer["cert"].encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((material / "ca.pem").read_bytes()))


@pytest.mark.parametrize("program", ["cfssl", "ocspd"])
def test_sign_remote_with_a_token_works_with_debians_client_and_with_ours(
    material: Path, program: str
) -> None:
    with serve(material, *flags_of(material)) as server:
        profile = {"auth_remote": {"remote": "ca", "auth_key": "k"}}
        config = {
            "signing": {
                "default": {"expiry": "1h", "usages": ["client auth"]},
                "profiles": {"authed": profile},
            },
            "remotes": {"ca": server.url},
            "auth_keys": {"k": {"type": "standard", "key": AUTH_KEY}},
        }
        (material / "client.json").write_text(json.dumps(config))
        command = (*client(program), "sign", "-remote", server.url, "-config", f"{material}/client.json")
        answer = json.loads(run(*command, "-profile", "authed", f"{material}/leaf.csr").stdout)
        assert f'"POST {PREFIX}authsign" 200' in server.log()
        refused = run(
            *(*client(program), "sign", "-remote", server.url, "-profile", "authed", f"{material}/leaf.csr"),
            check=False,
        )
    assert "BEGIN CERTIFICATE" in answer["cert"]
    assert refused.returncode == 1
    assert "authentication required" in refused.stderr


@pytest.mark.parametrize("program", ["cfssl", "ocspd"])
def test_info_and_gencert_remote_work_with_debians_client_and_with_ours(material: Path, program: str) -> None:
    with serve(material, *flags_of(material)) as server:
        info = json.loads(run(*client(program), "info", "-remote", server.url).stdout)
        command = (*client(program), "gencert", "-remote", server.url, "-profile", "client", "-")
        answer = json.loads(run(*command, stdin='{"CN":"x","hosts":["x.example"]}').stdout)
    assert info["expiry"] == "8760h"
    assert sorted(answer) == ["cert", "csr", "key"]


def test_an_address_without_scheme_works_with_our_client(material: Path) -> None:
    with serve(material, *flags_of(material)) as server:
        group = f"127.0.0.1:{free_port()},127.0.0.1:{server.port}"
        answer = json.loads(run(*OCSPD, "sign", "-remote", group, f"{material}/leaf.csr").stdout)
    assert "BEGIN CERTIFICATE" in answer["cert"]


def test_a_server_can_stand_before_another(material: Path) -> None:
    with serve(material, *flags_of(material)) as behind:
        front_directory = material / "front"
        front_directory.mkdir()
        with serve(front_directory, "-remote", behind.url) as front:
            request = {"certificate_request": csr_of(material), "profile": "client", "hosts": ["z.example"]}
            status, text = front.post("sign", request)
            assert json.loads(front.post("info", {"profile": "client"})[1])["result"]["expiry"] == "1h"
    assert status == 200, text
    certificate = x509.load_pem_x509_certificate(json.loads(text)["result"]["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["z.example"]


def test_curl_over_mutual_tls(material: Path) -> None:
    tls = ("-tls-cert", f"{material}/server.pem", "-tls-key", f"{material}/server-key.pem")
    mutual = ("-mutual-tls-ca", f"{material}/ca.pem", "-mutual-tls-cn", "^The client$")
    curl = (need("curl"), "-sS", "--cacert", f"{material}/ca.pem", "-w", "%{http_code}", "-d", "{}")
    with serve(material, *flags_of(material), *tls, *mutual) as server:
        url = f"https://127.0.0.1:{server.port}{PREFIX}info"

        def ask(name: str) -> str:
            pair = ("--cert", f"{material}/{name}.pem", "--key", f"{material}/{name}-key.pem")
            return run(*curl, *pair, url).stdout

        assert ask("client").endswith("}\n200")
        assert ask("other") == "Invalid CN\n403"
        assert run(*curl, url, check=False).returncode != 0


def test_issuing_and_revoking_leave_their_rows_in_the_database(material: Path) -> None:
    config = material / "db.json"
    config.write_text(json.dumps({"driver": "sqlite3", "data_source": f"{material}/certs.db"}))
    run(*OCSPD, "db", "up", "-db-config", str(config))
    with serve(material, *flags_of(material), "-db-config", str(config)) as server:
        body = server.post("sign", {"certificate_request": csr_of(material)})[1]
        certificate = x509.load_pem_x509_certificate(json.loads(body)["result"]["certificate"].encode())
        identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert identifier.key_identifier is not None
        request = {
            "serial": str(certificate.serial_number),
            "authority_key_id": identifier.key_identifier.hex(),
            "reason": "superseded",
        }
        assert server.post("revoke", request) == (
            200,
            '{"success":true,"result":{},"errors":[],"messages":[]}\n',
        )
    connection = sqlite3.connect(material / "certs.db")
    (row,) = connection.execute("SELECT serial_number, status, reason, typeof(status) FROM certificates")
    connection.close()
    assert row == (str(certificate.serial_number), "revoked", 4, "text")


def test_a_database_without_tables_is_a_warning_at_start(material: Path) -> None:
    config = material / "db.json"
    config.write_text(json.dumps({"driver": "sqlite3", "data_source": f"{material}/empty.db"}))
    with serve(material, *flags_of(material), "-db-config", str(config)) as server:
        assert "[WARNING]" in server.log()
        assert "db up" in server.log()
        assert server.post("info", {})[0] == 200
