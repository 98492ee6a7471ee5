"""Debian's CFSSL as a peer: make key material with it and run its server beside ours."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AUTH_KEY = "0123456789ABCDEF0123456789ABCDEF"

CONFIG: dict[str, Any] = {
    "signing": {
        "default": {"expiry": "8760h", "usages": ["signing", "key encipherment", "server auth"]},
        "profiles": {
            "client": {"expiry": "1h", "usages": ["signing", "client auth"]},
            "ocsp": {"expiry": "720h", "usages": ["digital signature", "ocsp signing"]},
            "authed": {"expiry": "2h", "usages": ["client auth"], "auth_key": "k"},
        },
    },
    "auth_keys": {"k": {"type": "standard", "key": AUTH_KEY}},
}


def run(*command: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program with text in and out."""
    result = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=120, check=False, env=None
    )
    assert not check or result.returncode == 0, f"{command}: {result.stderr}"
    return result


def make_material(directory: Path) -> Path:
    """Write config.json, leaf.csr and, each with its -key.pem: ca, leaf, ocsp, server, client, other."""
    cfssl = need("cfssl")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    request = {"CN": "Test CA", "key": {"algo": "ecdsa", "size": 256}, "names": [{"C": "FR", "O": "ACME"}]}
    made = json.loads(run(cfssl, "genkey", "-initca", "-", stdin=json.dumps(request)).stdout)
    (directory / "ca.pem").write_text(made["cert"])
    (directory / "ca-key.pem").write_text(made["key"])
    (directory / "foreign.pem").write_text(
        json.loads(run(cfssl, "genkey", "-initca", "-", stdin='{"CN":"F"}').stdout)["cert"]
    )
    leaf = {"CN": "leaf.example", "hosts": ["leaf.example", "192.0.2.1"]}
    made = json.loads(run(cfssl, "genkey", "-", stdin=json.dumps(leaf)).stdout)
    (directory / "leaf.csr").write_text(made["csr"])
    (directory / "leaf-key.pem").write_text(made["key"])
    for name, profile in (("ocsp", "ocsp"), ("server", "default"), ("client", "client"), ("other", "client")):
        command = [cfssl, "gencert", "-ca", f"{directory}/ca.pem", "-ca-key", f"{directory}/ca-key.pem"]
        command += ["-config", f"{directory}/config.json", "-profile", profile, "-"]
        request = {"CN": f"The {name}", "hosts": ["127.0.0.1", "localhost"]}
        made = json.loads(run(*command, stdin=json.dumps(request)).stdout)
        (directory / f"{name}.pem").write_text(made["cert"])
        (directory / f"{name}-key.pem").write_text(made["key"])
    return directory


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until something accepts connections on port of 127.0.0.1."""
    for _ in range(4800):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "the server has ended"
        time.sleep(0.025)
    raise AssertionError(f"nothing listens on port {port}")


@contextmanager
def cfssl_serve(directory: Path, *flags: str) -> Iterator[str]:
    """Run Debian's `cfssl serve` and yield its base URL."""
    port = free_port()
    command = [need("cfssl"), "serve", "-address", "127.0.0.1", "-port", str(port), *flags]
    with (directory / "cfssl-serve.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
