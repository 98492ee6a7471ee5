"""The CRL of `ocspd serve`, used by those it is for: openssl, curl and nginx."""

from __future__ import annotations

import email.utils
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.authority.cfssl import run, wait_for_port
from tests.binary import ocspd
from tests.e2e.test_serve import Server, serve
from tests.pki.chain import common_name, make_certificate, make_key
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GIVE_UP_S = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a CA, a database, and a configuration."""
    request = {"CN": "CRL CA", "key": {"algo": "ecdsa", "size": 256}}
    made = json.loads(ocspd("gencert", "-initca", "-", stdin=json.dumps(request)).stdout)
    (tmp_path / "ca.pem").write_text(made["cert"])
    (tmp_path / "ca-key.pem").write_text(made["key"])
    usages = {"usages": ["signing", "server auth", "client auth"], "expiry": "720h"}
    (tmp_path / "config.json").write_text(json.dumps({"signing": {"default": usages}}))
    (tmp_path / "db.json").write_text(
        json.dumps({"driver": "sqlite3", "data_source": str(tmp_path / "certs.db")})
    )
    assert ocspd("db", "up", "-db-config", tmp_path / "db.json").returncode == 0
    return tmp_path


def flags_of(home: Path) -> list[str]:
    return [
        *("-ca", f"{home}/ca.pem", "-ca-key", f"{home}/ca-key.pem"),
        *("-config", f"{home}/config.json", "-db-config", f"{home}/db.json"),
    ]


def issue(home: Path, name: str) -> Path:
    """Issue a certificate through the database; NAME.pem and NAME-key.pem."""
    request = json.dumps({"CN": name, "hosts": ["localhost", "127.0.0.1"]})
    made = json.loads(ocspd("gencert", *flags_of(home), "-", stdin=request).stdout)
    (home / f"{name}.pem").write_text(made["cert"])
    (home / f"{name}-key.pem").write_text(made["key"])
    return home / f"{name}.pem"


def revoke(home: Path, certificate: Path, reason: str = "superseded") -> None:
    done = ocspd("revoke", "-db-config", home / "db.json", "-cert", certificate, "-reason", reason)
    assert (done.returncode, done.stderr) == (0, "")


def curl(*words: str | Path) -> str:
    return run(need("curl"), "--silent", "--show-error", "--noproxy", "*", *map(str, words)).stdout


def fetch(server: Server, path: str, to: Path) -> x509.CertificateRevocationList:
    curl("--fail", "--retry", "20", "--retry-delay", "1", "-o", to, f"{server.url}{path}")
    return x509.load_der_x509_crl(to.read_bytes())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def serials_at(server: Server, home: Path, path: str = "/crl") -> set[int]:
    return {one.serial_number for one in fetch(server, path, home / "now.crl")}


def serial_of(certificate: Path) -> int:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number


def verify(home: Path, certificate: Path, *flags: str | Path) -> str:
    """Return openssl's verdict: OK, revoked, or all it said."""
    command = [need("openssl"), "verify", "-crl_check", "-CAfile", f"{home}/ca.pem", *map(str, flags)]
    done = run(*command, str(certificate), check=False)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return "OK"
    return "revoked" if "certificate revoked" in said else said


def test_openssl_verifies_with_the_served_crl_and_its_delta(home: Path) -> None:
    port = free_port()
    good, held = issue(home, "good"), issue(home, "held")
    key_id = run(
        need("openssl"), "x509", "-in", f"{home}/ca.pem", "-noout", "-ext", "subjectKeyIdentifier"
    ).stdout
    name = key_id.split("\n")[1].strip().replace(":", "").lower()
    delta_url = f"http://127.0.0.1:{port}/crl/{name}-delta.crl"
    with serve(home, *flags_of(home), "-delta-crl-url", delta_url) as server:
        whole = home / "whole.crl"
        first = fetch(server, "/crl", whole)
        assert (verify(home, good, "-CRLfile", whole), verify(home, held, "-CRLfile", whole)) == ("OK", "OK")
        point = first.extensions.get_extension_for_class(x509.FreshestCRL).value[0]
        assert [each.value for each in point.full_name or ()] == [delta_url]
        revoke(home, held, "certificateHold")
        until(lambda: serial_of(held) in serials_at(server, home))
        delta = home / "delta.crl"
        fetch(server, f"/crl/{name}-delta.crl", delta)
        both = home / "both.pem"
        both.write_text(
            "".join(
                run(need("openssl"), "crl", "-inform", "DER", "-in", str(each)).stdout
                for each in (whole, delta)
            )
        )
        old = home / "old.pem"
        old.write_text(run(need("openssl"), "crl", "-inform", "DER", "-in", str(whole)).stdout)
        assert verify(home, held, "-CRLfile", old) == "OK"
        assert verify(home, held, "-CRLfile", both, "-extended_crl", "-use_deltas") == "revoked"
        assert verify(home, good, "-CRLfile", both, "-extended_crl", "-use_deltas") == "OK"
        held_crl = home / "held.crl"
        fetch(server, f"/crl/{name}.crl", held_crl)
        revoke(home, held, "removeFromCRL")
        until(lambda: serial_of(held) not in serials_at(server, home))
        fetch(server, f"/crl/{name}-delta.crl", delta)
        both.write_text(
            "".join(
                run(need("openssl"), "crl", "-inform", "DER", "-in", str(each)).stdout
                for each in (held_crl, delta)
            )
        )
        assert verify(home, held, "-CRLfile", held_crl) == "revoked"
        assert verify(home, held, "-CRLfile", both, "-extended_crl", "-use_deltas") == "OK"


def test_curl_downloads_only_what_is_new(home: Path) -> None:
    certificate = issue(home, "one")
    with serve(home, *flags_of(home)) as server:
        path, url = home / "ca.crl", f"{server.url}/crl"
        fetch(server, "/crl", path)
        until(lambda: "last-modified:" in curl("--head", url).lower())
        head = curl("--head", url)
        assert head.startswith("HTTP/1.1 200 OK")
        fields = dict(line.split(": ", 1) for line in head.strip().splitlines()[1:])
        assert fields["Content-Type"] == "application/pkix-crl"
        assert int(fields["Content-Length"]) == path.stat().st_size
        assert fields["Cache-Control"] == "max-age=3600, public, no-transform, must-revalidate"
        code = ("-o", "/dev/null", "-w", "%{http_code} %{size_download}")
        curl("--remote-time", "-o", path, url)
        moment = email.utils.parsedate_to_datetime(fields["Last-Modified"]).timestamp()
        assert path.stat().st_mtime == moment
        assert curl("-z", path, *code, url) == "304 0"
        assert curl("-H", f"If-None-Match: {fields['ETag']}", *code, url) == "304 0"
        revoke(home, certificate)
        until(lambda: curl("-H", f"If-None-Match: {fields['ETag']}", *code, url).startswith("200 "))
        assert curl("-z", path, *code, url).startswith("200 ")
        assert curl("-X", "POST", *code, url).startswith("405 ")
        assert curl(*code, f"{url}/00.crl").startswith("404 ")


def test_nginx_turns_revoked_clients_away(home: Path) -> None:
    nginx, openssl = need("nginx"), need("openssl")
    good, bad, site = issue(home, "good"), issue(home, "bad"), issue(home, "site")
    revoke(home, bad)
    with serve(home, *flags_of(home)) as server:
        until(lambda: serial_of(bad) in serials_at(server, home))
        (home / "ca.crl.pem").write_text(
            run(openssl, "crl", "-inform", "DER", "-in", f"{home}/now.crl").stdout
        )
    port = free_port()
    (home / "nginx.conf").write_text(
        f"pid {home}/nginx.pid; error_log stderr warn; events {{}} http {{ access_log off;\n"
        + "".join(
            f"  {each}_temp_path {home}/{each};\n"
            for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"  server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {site};\n"
        f"    ssl_certificate_key {home}/site-key.pem; ssl_client_certificate {home}/ca.pem;\n"
        f"    ssl_crl {home}/ca.crl.pem; ssl_verify_client on; return 200 'in'; }} }}\n"
    )
    command = [nginx, "-e", "stderr", "-p", str(home), "-c", f"{home}/nginx.conf", "-g", "daemon off;"]
    if os.geteuid() == 0:
        command[-1] = "daemon off; user root;"
    with (home / "nginx.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_for_port(port, process)
            for client, status in ((good, "200"), (bad, "400")):
                files = (
                    "--cacert",
                    home / "ca.pem",
                    "--cert",
                    client,
                    "--key",
                    f"{home}/{client.stem}-key.pem",
                )
                said = curl(*files, "-o", "/dev/null", "-w", "%{http_code}", f"https://localhost:{port}/")
                assert said == status, (client, (home / "nginx.log").read_text())
        finally:
            process.terminate()


def test_a_new_ca_after_sighup_has_a_crl_of_its_own(home: Path) -> None:
    certificate = issue(home, "one")
    revoke(home, certificate)
    with serve(home, *flags_of(home)) as server:
        until(lambda: serials_at(server, home) == {serial_of(certificate)})
        name, key = common_name("Another CA"), make_key("rsa-2048")
        other = make_certificate(name, key, name, key, serial=9, ca=True)
        (home / "ca.pem").write_bytes(other.public_bytes(serialization.Encoding.PEM))
        (home / "ca-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in server.log())
        crl = fetch(server, "/crl", home / "other.crl")
        assert (crl.issuer, list(crl)) == (name, [])
        assert crl.is_signature_valid(other.public_key())  # type: ignore[arg-type]
        assert "left out of the CRL: 1 revoked certificate of other CAs" in server.log()
        assert server.stop() == 0


def test_without_a_database_or_with_crl_disabled_there_is_none(home: Path) -> None:
    code = ("-o", "/dev/null", "-w", "%{http_code}")
    with serve(home, *flags_of(home)[:-2]) as server:
        assert curl(*code, f"{server.url}/crl") == "404"
    with serve(home, *flags_of(home), "-disable", "crl") as server:
        assert curl(*code, f"{server.url}/crl") == "404"
        assert curl(*code, f"{server.url}/api/v1/cfssl/crl") == "404"
