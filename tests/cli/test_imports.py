"""What a verb does not need it does not import: scripts run small verbs hundreds of times."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.binary import OCSPD

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"aiohttp", "asyncpg", "obstore", "pkilint", "prometheus_client", "rich", "sqlite3", "uvloop"}
PROGRAM = """
import json, sys
from ocspd.cli.main import main
code = main(sys.argv[1:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""
CA = ("-ca", "ca.pem", "-ca-key", "ca-key.pem")
RESPONDER = ("-ca", "ca.pem", "-responder", "ca.pem", "-responder-key", "ca-key.pem")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imports")
    (path / "csr.json").write_text('{"CN": "x", "hosts": ["x"], "key": {"algo": "ecdsa", "size": 256}}')
    (path / "config.json").write_text('{"signing": {"default": {"expiry": "1h", "usages": ["server auth"]}}}')
    for words, name in ((("gencert", "-initca", "csr.json"), "ca"), (("genkey", "csr.json"), "leaf")):
        made = subprocess.run([*OCSPD, *words], cwd=path, capture_output=True, check=True).stdout
        subprocess.run([*OCSPD, "json", "-bare", name], cwd=path, input=made, check=True)
    return path


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("version",), set()),
        (("print-defaults", "config"), set()),
        (("json", "-version"), set()),
        (("genkey", "csr.json"), set()),
        (("gencert", "-initca", "csr.json"), set()),
        (("gencert", *CA, "-config", "config.json", "csr.json"), set()),
        (("sign", *CA, "-config", "config.json", "leaf.csr"), set()),
        (("sign", *CA, "leaf.csr"), set()),
        (("info", *CA, "-config", "config.json"), set()),
        (("selfsign", "x", "csr.json"), set()),
        (("certinfo", "-cert", "ca.pem"), set()),
        (("certinfo", "-csr", "leaf.csr"), set()),
        (("scan", "-list"), set()),
        (("ocspsign", *RESPONDER, "-cert", "ca.pem"), set()),
        (("ocspserve", "-h"), set()),
        (("refresh", "-h"), set()),
        (("serve", "-h"), set()),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_a_verb_imports_only_what_it_needs(folder: Path, words: tuple[str, ...], needed: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stderr.splitlines()[-1]))
    assert imported & HEAVY == needed
    if words[0] in {"version", "print-defaults", "json"}:
        assert imported & {"cryptography", "asyncio", "ssl", "importlib.metadata"} == set()
