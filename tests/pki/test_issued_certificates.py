"""Every kind of certificate the default profiles issue, under the strictest checks of two other programs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.binary import OCSPD
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"P-256": ("ecdsa", 256), "P-384": ("ecdsa", 384), "RSA-2048": ("rsa", 2048)}
PROFILES = ("www", "client", "intermediate", "ocsp")


def ocspd(folder: Path, *words: str) -> str:
    done = subprocess.run([*OCSPD, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make(folder: Path, name: str, key: tuple[str, int], *words: str, hosts: list[str] | None = None) -> None:
    """Issue NAME.pem with a key of its own."""
    request = {
        "CN": f"{name}.example.com",
        "key": {"algo": key[0], "size": key[1]},
        "names": [{"C": "DE", "O": "Example", "OU": name}],
        **({"hosts": hosts} if hosts else {}),
    }
    (folder / f"{name}.json").write_text(json.dumps(request))
    made = json.loads(ocspd(folder, "gencert", *words, f"{name}.json"))
    (folder / f"{name}.pem").write_text(made["cert"])
    (folder / f"{name}-key.pem").write_text(made["key"])


@pytest.fixture(scope="module", params=list(KEYS))
def issued(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root, an intermediate of it, and a certificate of the root for each default profile."""
    key = KEYS[request.param]
    folder = tmp_path_factory.mktemp("issued")
    config = ocspd(folder, "print-defaults", "config")
    if key[0] == "ecdsa":  # CFSSL's default is for RSA; RFC 5480 §3 knows no such use of an EC key
        config = config.replace('"key encipherment",', "")
    (folder / "config.json").write_text(config)
    make(folder, "root", key, "-initca")
    by_root = ("-ca", "root.pem", "-ca-key", "root-key.pem", "-config", "config.json")
    hosts = ["www.example.com", "192.0.2.1", "me@example.com", "https://example.com/a"]
    for profile in PROFILES:
        plain = profile in {"intermediate", "ocsp"}
        make(folder, profile, key, *by_root, "-profile", profile, hosts=None if plain else hosts)
    by_intermediate = ("-ca", "intermediate.pem", "-ca-key", "intermediate-key.pem", "-config", "config.json")
    make(folder, "leaf", key, *by_intermediate, "-profile", "www", hosts=hosts[:1])
    return folder


@pytest.mark.parametrize("name", ["root", *PROFILES, "leaf"])
def test_openssl_verifies_strictly_and_pkilint_finds_no_error(issued: Path, name: str) -> None:
    strict = ("verify", "-x509_strict", "-check_ss_sig", "-CAfile", "root.pem")
    done = subprocess.run(
        [need("openssl"), *strict, "-untrusted", "intermediate.pem", f"{name}.pem"],
        cwd=issued, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{name}.pem: OK\n"), done.stderr
    linted = subprocess.run(
        [sys.executable, "-m", "pkilint.bin.lint_pkix_cert", "lint", "-s", "WARNING",
         "--document-format", "PEM", f"{name}.pem"],
        cwd=issued, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (linted.returncode, linted.stdout.strip(), linted.stderr) == (0, "", "")
