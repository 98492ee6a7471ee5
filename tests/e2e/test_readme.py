"""The commands of README.md, run one after the other in the directory it asks for, on free ports."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.binary import OCSPD, ocspd
from tests.ports import free_port
from tests.tools import ROOT, need

PORTS = ("8888", "8889", "9402", "9403")
"""The ports README uses: API, responder, and the admin listeners of responder and signer."""


def script() -> str:
    """Return the commands of the two blocks, ready for one shell that is to end."""
    _, _, cfssl, signer = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    # What the reader ends with Ctrl-C is ended once it serves.
    cfssl = re.sub(
        r"^(.* -port 8889 .*?) +# until Ctrl-C$",
        r"\1 -admin-port 9402 & served=$!\n"
        r"until curl -sf 127.0.0.1:9402/readyz; do sleep 0.2; done\nkill $served; wait $served",
        cfssl,
        flags=re.MULTILINE,
    )
    assert "wait $served" in cfssl
    for port, words in (("9403", " -index index &"), ("9402", "-port 8889 -index index &")):
        signer = signer.replace(words, f"{words[:-2]} -admin-port {port} &", 1)
    cfssl = cfssl.replace("ocspd serve ", "ocspd serve -port 8888 ")
    lines = f"{cfssl}{signer}".replace("sleep 1;", "sleep 0.2;")
    for port in PORTS:
        assert lines.count(port) > 1, f"README does not use port {port} any more"
        lines = re.sub(rf"\b{port}\b", str(free_port()), lines)
    return lines


@pytest.mark.timeout(300)
def test_every_command_of_the_readme_works_as_it_stands(tmp_path: Path) -> None:
    need("openssl")
    need("curl")
    assert ocspd("demo", "--once", cwd=tmp_path).returncode == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p); wait' EXIT\n{script()}"],
        check=False,
        capture_output=True,
        text=True,
        cwd=mine,
        env=os.environ | {"PATH": f"{Path(OCSPD[0]).parent}:{os.environ['PATH']}"},
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Response verify OK" in done.stderr, done.stdout + done.stderr
    assert "client.pem: revoked" in done.stdout
    assert "Reason: superseded" in done.stdout
