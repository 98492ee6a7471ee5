"""External programs the tests compare ocspd with: shown in the header, required when CI is set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PROGRAMS = {
    "openssl": "openssl",
    "cfssl": "golang-cfssl",
    "cfssljson": "golang-cfssl",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "promtool": "prometheus",
    "ocsptool": "gnutls-bin",
    "systemd-analyze": "systemd",
    "curl": "curl",
}
"""Program name and the Debian package that has it."""

IS_CHECKOUT = (Path(__file__).parent.parent / ".git").exists()
NO_CHECKOUT = "not a git checkout"


def find(program: str) -> str | None:
    """Return the program's path, also from sbin directories that are often not in PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def need(program: str) -> str:
    """Return the program's path; skip visibly without it, or fail where CI is set."""
    path = find(program)
    if path is None:
        do_without(f"{program} is not installed (Debian package {PROGRAMS[program]})")
    return path


def lacking() -> list[str]:
    """Say what this run cannot test, for the header."""
    names = [name for name in PROGRAMS if find(name) is None]
    found = ["NOT INSTALLED, tests against them are skipped: " + ", ".join(names)] if names else []
    if not IS_CHECKOUT:
        found.append(f"{NO_CHECKOUT}: tests of the tracked files are skipped")
    return found


def do_without(reason: str) -> NoReturn:
    """Skip a test whose surroundings are not there (the header says so too), or fail it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
