"""Run Debian's cfssl and ours on one command line, and describe what each did so that it can be compared.

What is made anew each time (keys, serial numbers, times) is left out: a certificate is its `shape`, a key its
PEM label, an error whether it has a number, and which.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.x509 import ocsp

from tests.pki.der import shape
from tests.pki.test_against_cfssl import request_shape

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a program did."""

    code: int
    stdout: Any
    error: str
    """"", "plain" for a text, or the number of an error that has one."""
    files: dict[str, str] = field(default_factory=dict)
    """Files made, with their modes."""


@dataclass(frozen=True)
class Case:
    """A command line for both; `stdin` may be JSON.

    `differs` quotes the line of docs/cfssl-compat.md that explains a difference. `head` is what CFSSL's HEAD
    does where Debian's program, which is older, does something else: exit code and error.
    """

    words: str
    stdin: Any = ""
    differs: str = ""
    head: tuple[int, str] | None = None
    env: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.words or "(nothing)"


def run(program: Path | str, case: Case, directory: Path) -> tuple[Outcome, str]:
    """Run a case in a directory; return what can be compared, and stderr for a message."""
    before = {path.name for path in directory.iterdir()}
    stdin = case.stdin if isinstance(case.stdin, str) else json.dumps(case.stdin)
    done = subprocess.run(
        [program, *case.words.split()],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=directory,
        env=os.environ | case.env,
    )
    made = {
        path.name: oct(path.stat().st_mode & 0o777) for path in directory.iterdir() if path.name not in before
    }
    outcome = Outcome(done.returncode, described(done.stdout), error_in(done.stderr, done.returncode), made)
    return outcome, done.stderr


def error_in(stderr: str, code: int) -> str:
    """Return which error a program ended with: the last line that is not of the log."""
    lines = [line for line in stderr.splitlines() if line.strip() and not _is_log(line)]
    if code == 2:
        return "usage"
    if code == 0 or not lines:
        return ""
    _, brace, rest = lines[-1].partition('{"code":')
    return rest.partition(",")[0] if brace else "plain"


def _is_log(line: str) -> bool:
    return line[:2] == "20" and line[4:5] == "/" and " [" in line


def described(stdout: str) -> Any:
    """Return JSON by what it is made of, and other text as it is."""
    try:
        value = json.loads(stdout)
    except ValueError:
        return crl_shape(stdout) or stdout
    return [_part(key, item) for key, item in value.items()] if isinstance(value, dict) else value


def _part(key: str, value: Any) -> tuple[str, Any]:
    if not isinstance(value, str):
        return key, value
    if value.startswith("-----BEGIN CERTIFICATE-----"):
        made = shape(x509.load_pem_x509_certificate(value.encode()))
        own_key = key == "cert" and made.subject == made.issuer
        return key, _without_key(made) if own_key else _without_own_key(made)
    if value.startswith("-----BEGIN CERTIFICATE REQUEST-----"):
        return key, request_shape(value)
    if value.startswith("-----BEGIN "):
        return key, value.splitlines()[0]
    if key == "ocspResponse":
        return key, response_shape(value)
    return key, value


def _without_own_key(made: Any) -> Any:
    """A certificate without what follows from the key of its subject, which each program makes anew."""
    extensions = [item if item[0] != "551d0e" else (*item[:2], "SKI") for item in made.extensions]
    return (made.subject, made.issuer, made.algorithm, made.lifetime, made.serial_octets, extensions)


def _without_key(made: Any) -> Any:
    own = _without_own_key(made)
    extensions = [item if item[0] != "551d23" else (*item[:2], "AKI") for item in own[-1]]
    return (*own[:-1], extensions)


def crl_shape(text: str) -> Any:
    """Return what is on a CRL, without times, signature and number; None for what is not a line with one."""
    if not text.endswith("\n") or text.count("\n") != 1:
        return None
    try:
        crl = x509.load_der_x509_crl(base64.b64decode(text[:-1], validate=True))
    except ValueError:
        return None
    assert crl.next_update_utc is not None
    return (
        crl.issuer.public_bytes(),
        crl.signature_algorithm_oid.dotted_string,
        crl.next_update_utc - crl.last_update_utc,
        [one.serial_number for one in crl],
        [
            (each.oid.dotted_string, each.critical, each.value.public_bytes())
            for each in crl.extensions
            if each.oid.dotted_string != "2.5.29.20"
        ],
    )


def response_shape(text: str) -> Any:
    """Return what an OCSP response says, without times and signature."""
    response = ocsp.load_der_ocsp_response(base64.b64decode(text))
    return (
        response.certificate_status,
        response.revocation_reason,
        response.hash_algorithm.name,
        response.issuer_key_hash,
        response.responder_name,
        response.serial_number,
        [each.subject.rfc4514_string() for each in response.certificates],
        response.signature_algorithm_oid.dotted_string,
    )
