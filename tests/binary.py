"""The installed program `ocspd`, run as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_SCRIPT = Path(sys.executable).with_name("ocspd")

OCSPD: tuple[str, ...] = (str(_SCRIPT),) if _SCRIPT.exists() else (sys.executable, "-m", "ocspd.cli.main")
"""The words that start it: the console script beside the interpreter, or the module."""


def ocspd(
    *words: str | Path,
    cwd: Path | None = None,
    stdin: str | bytes = b"",
    env: dict[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run ocspd to its end; standard output and error are text."""
    result = subprocess.run(
        [*OCSPD, *map(str, words)],
        cwd=cwd,
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        env=os.environ | (env or {}),
        capture_output=True,
        timeout=180,
        check=False,
        **options,
    )
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
    )
