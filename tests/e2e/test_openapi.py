"""The API against its own OpenAPI description: schemathesis sends what fits it, and what does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.authority.cfssl import make_material, wait_for_port
from tests.binary import OCSPD, ocspd
from tests.ports import free_port

HOOKS = '''
import schemathesis


@schemathesis.hook
def map_body(context, body):
    """Nothing leaves this machine, and no key takes a minute to make."""
    if isinstance(body, dict):
        for name in ("domain", "ip"):
            if isinstance(body.get(name), str):
                body[name] = "127.0.0.1"
        for fields in (body, body.get("request")):
            key = fields.get("key") if isinstance(fields, dict) else None
            if isinstance(key, dict) and isinstance(key.get("size"), int) and key["size"] > 2048:
                key["size"] = 2048
    return body
'''
CONFIG = """
hooks = "hooks.py"

[checks]
positive_data_acceptance.enabled = false

[[operations]]
include-path = ["/api/v1/cfssl/bundle", "/api/v1/cfssl/certinfo", "/api/v1/cfssl/crl", "/api/v1/cfssl/gencrl"]
checks.not_a_server_error.enabled = false
"""
"""500 with code 0 is how CFSSL refuses what these endpoints cannot read. What fits may be refused, as
a schema cannot tell a CSR from other text."""

REFUSALS = {"DurationError", "FetchError", "JSONError", "OCSPDError"}
"""What is behind a 500 that is no defect."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA with an OCSP signer and a database."""
    make_material(tmp_path)
    (tmp_path / "db.json").write_text('{"driver": "sqlite3", "data_source": "certs.db"}')
    made = ocspd("db", "up", "-db-config", "db.json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    return tmp_path


def test_schemathesis_finds_nothing(folder: Path) -> None:
    port = free_port()
    serve = [*OCSPD, "serve", "-port", str(port), "-ca", "ca.pem", "-ca-key", "ca-key.pem"]
    serve += ["-config", "config.json", "-responder", "ocsp.pem", "-responder-key", "ocsp-key.pem"]
    serve += ["-db-config", "db.json", "-disable", "scan"]
    look = [str(Path(sys.executable).with_name("st")), "run", f"http://127.0.0.1:{port}/api/v1/openapi.json"]
    look += ["--phases", "examples,coverage,fuzzing"]
    look += ["--max-examples", "10", "--generation-deterministic", "--no-shrink"]
    look += ["--workers", "1", "--warnings", "off", "--no-color"]
    with (folder / "log").open("wb") as log, subprocess.Popen(serve, cwd=folder, stderr=log) as process:
        try:
            wait_for_port(port, process)
            done = subprocess.run(look, cwd=folder, capture_output=True, text=True, check=False)
            alive = process.poll() is None
        finally:
            process.terminate()
    assert done.returncode == 0, f"{done.stdout[-8000:]}{done.stderr[-2000:]}"
    assert alive
    text = (folder / "log").read_text()
    assert "request failed" not in text
    assert set(re.findall(r"request refused: (\w+)", text)) <= REFUSALS
    assert "Traceback" not in text
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None, done.stdout
    assert int(tested[1]) >= 10
    assert (
        len(re.findall(r'"POST /api/v1/cfssl/sign" 200', text)) == 0
    )  # no CSR: nothing was signed by chance
