"""`ocspd serve` as it is run: who may do what, and what is open."""

from __future__ import annotations

import json
import signal
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from ocspd.authority.access.tokens import new_token
from tests.authority.audit.logs import entries
from tests.authority.cfssl import AUTH_KEY, CONFIG, make_material, run
from tests.e2e.test_serve import PREFIX, Server, csr_of, fails, flags_of, serve
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

TOKEN, HASH = new_token()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("made"))


@pytest.fixture
def material(made: Path, tmp_path: Path) -> Path:
    """A copy of the key material that a test may change."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def configure(material: Path, **access: Any) -> None:
    (material / "config.json").write_text(json.dumps(CONFIG | {"access": access}))


def status(server: Server, name: str, body: Any, *, token: str = "", **options: Any) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    scheme = "https" if options else "http"
    request = urllib.request.Request(
        f"{scheme}://127.0.0.1:{server.port}{PREFIX}{name}", json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=120, **options) as answer:
            assert answer.status == 200
            return 200
    except urllib.error.HTTPError as err:
        with err:
            return err.code


def test_without_any_of_it_serve_is_open_and_says_so_once(material: Path) -> None:
    with serve(material, *flags_of(material)) as server:
        assert server.post("sign", {"certificate_request": csr_of(material)})[0] == 200
        assert server.stop() == 0
        log = server.log()
    lines = [line for line in log.splitlines() if "open without authentication" in line]
    assert len(lines) == 1
    assert "[WARNING]" in lines[0]
    assert f"everybody who can connect to 127.0.0.1:{server.port}: sign, newcert, newkey, init_ca" in lines[0]


def test_require_auth_closes_what_is_open_and_leaves_the_keys_of_profiles(material: Path) -> None:
    need("cfssl")
    remote: dict[str, Any] = {
        "signing": {
            "default": {"auth_remote": {"remote": "r", "auth_key": "k"}, "expiry": "1h"},
            "profiles": {"authed": {"auth_remote": {"remote": "r", "auth_key": "k"}}},
        },
        "auth_keys": {"k": {"type": "standard", "key": AUTH_KEY}},
    }
    with serve(material, *flags_of(material), "-require-auth") as server:
        for name in ("sign", "newcert", "newkey", "init_ca", "ocspsign"):
            assert server.post(name, {"certificate_request": csr_of(material), "request": {}})[0] == 401
        assert server.post("info", {})[0] == 200
        assert "open without authentication" not in server.log()
        remote["remotes"] = {"r": f"localhost:{server.port}"}
        (material / "client.json").write_text(json.dumps(remote))
        flags = ("-config", f"{material}/client.json", "-profile", "authed", f"{material}/leaf.csr")
        signed = run("cfssl", "sign", *flags)
        assert "BEGIN CERTIFICATE" in json.loads(signed.stdout)["cert"]


def test_a_reload_takes_another_policy_and_keeps_the_old_one_if_it_cannot_be_read(material: Path) -> None:
    body = {"certificate_request": csr_of(material), "profile": "client"}
    configure(material, clients={"a": {"token": HASH, "issue": ["client"]}})
    with serve(material, *flags_of(material)) as server:
        assert status(server, "sign", body, token=TOKEN) == 200
        configure(material, clients={"a": {"token": HASH, "isue": ["client"]}})
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reload failed, nothing was changed")
        assert status(server, "sign", body, token=TOKEN) == 200
        assert status(server, "sign", body) == 401
        configure(material, clients={"a": {"token": HASH, "revoke": True}})
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reloaded -config")
        assert status(server, "sign", body, token=TOKEN) == 403


def test_a_policy_that_is_not_understood_ends_the_start(material: Path) -> None:
    configure(material, clients={"a": {"token": TOKEN}})
    line = fails(*flags_of(material))
    assert "config.json: " in line
    assert "client a: token: the token itself stands in the configuration" in line
    assert TOKEN not in line


def test_a_client_certificate_of_mutual_tls_is_a_client(material: Path) -> None:
    configure(material, clients={"web": {"certificate": {"CN": "The client"}, "issue": ["client"]}})
    flags = [*flags_of(material), "-tls-cert", f"{material}/server.pem", "-tls-key"]
    log = material / "audit.log"
    flags += [f"{material}/server-key.pem", "-mutual-tls-ca", f"{material}/ca.pem", "-audit-log", str(log)]
    body = {"certificate_request": csr_of(material), "profile": "client"}
    with serve(material, *flags) as server:
        found = {}
        for name in ("client", "other"):
            context = ssl.create_default_context(cafile=f"{material}/ca.pem")
            context.load_cert_chain(f"{material}/{name}.pem", f"{material}/{name}-key.pem")
            found[name] = status(server, "sign", body, context=context)
        assert found == {"client": 200, "other": 401}
    issued, refused = (each.fields for each in entries(log) if each.event in {"issue", "refused"})
    assert (issued["client"], issued["subject"]) == ("web", "CN=The client")
    assert (refused["subject"], refused["code"], "client" in refused) == ("CN=The other", 401, False)


def test_a_rate_limit_counts_for_everybody(material: Path) -> None:
    with serve(material, *flags_of(material), "-rate-limit", "1") as server:
        found = [server.post("info", {})[0] for _ in range(40)]
    assert found[:5] == [200] * 5
    assert 429 in found
