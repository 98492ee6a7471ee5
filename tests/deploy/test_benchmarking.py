"""The commands of docs/benchmarking.md, run as they stand against a responder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench.openssl import own_responder

from tests.tools import need

DOC = Path(__file__).parent.parent.parent / "docs" / "benchmarking.md"
ROOT = DOC.parent.parent


def blocks() -> list[str]:
    """Return the shell commands of the page; the first block sets the reader's values."""
    return re.findall(r"```sh\n(.*?)```", DOC.read_text(), re.DOTALL)[1:]


@pytest.mark.timeout(240)
def test_every_command_of_the_page_works_as_it_stands(tmp_path: Path) -> None:
    for program in ("openssl", "curl", "wrk"):
        need(program)
    with own_responder(tmp_path) as target:
        values = {
            "URL": target.url,
            "ADMIN": target.admin_url,
            "CA": str(target.issuer),
            "RESPONDER": str(target.pid),
            "CERT": str(target.certificates[0]),
            "RUN": "1",
            "PY": sys.executable,
        }
        # one shell, as a reader has; what it writes goes to the scratch directory
        script = "set -eu\n" + "\n".join(
            block.replace("request.der", f"{tmp_path}/request.der").replace("wrk.txt", f"{tmp_path}/wrk.txt")
            for block in blocks()
        )
        done = subprocess.run(
            ["bash", "-c", script],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **values},
            timeout=200,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Response verify OK" in done.stderr
    assert "100.0 % verified" in done.stdout
    assert done.stdout.count("Requests/sec") == 2
    spent = re.search(r"^(\d+) us of CPU per request$", done.stdout, re.MULTILINE)
    assert spent is not None
    assert 0 < int(spent[1]) < 10_000
