"""External programs the tests compare ocspd with: shown in the header, required when CI is set."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGRAMS = {
    "openssl": "openssl",
    "cfssl": "golang-cfssl",
    "cfssljson": "golang-cfssl",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "promtool": "prometheus",
    "ocsptool": "gnutls-bin",
    "certtool": "gnutls-bin",
    "gnutls-serv": "gnutls-bin",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "curl": "curl",
    "wrk": "wrk",
    "pgbouncer": "pgbouncer",
    "mariadbd": "mariadb-server-core",
    "git": "git",
    "chromium": "chromium",
}
"""Program name and the Debian package that has it."""

ROOT = Path(__file__).parent.parent
IS_CHECKOUT = (ROOT / ".git").exists()
NO_CHECKOUT = "not a git checkout"
HAS_RUN_SYSTEMD = Path("/run/systemd").is_dir() or os.access("/run", os.W_OK)
NO_RUN_SYSTEMD = "systemd-analyze needs /run/systemd, which only root can make"

PEERS = ROOT / ".venv" / "peers"
"""What tests/peers.py has unpacked: PEERS/bin is last in PATH, so what is installed comes first."""
os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{PEERS / 'bin'}"


def find(program: str) -> str | None:
    """Return the program's path, also from sbin directories that are often not in PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def need(program: str) -> str:
    """Return the program's path; skip visibly without it, or fail where CI is set."""
    path = find(program)
    if path is None:
        do_without(f"{program} is not installed (Debian package {PROGRAMS[program]})")
    return path


def tracked_files() -> list[str]:
    """Return the names of the files of the repository; does without the test where there is none."""
    if not IS_CHECKOUT:
        do_without(f"{NO_CHECKOUT}: which files are tracked is unknown")
    # As root in somebody else's clone git asks for an exception.
    command = [need("git"), "-c", "safe.directory=*", "ls-files", "-z"]
    listing = subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout.decode()
    return [name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def lacking() -> list[str]:
    """Say what this run cannot test, for the header."""
    names = [name for name in PROGRAMS if find(name) is None]
    found = ["NOT INSTALLED, tests that need them are skipped: " + ", ".join(names)] if names else []
    if not IS_CHECKOUT:
        found.append(f"{NO_CHECKOUT}: tests of the tracked files are skipped")
    if not HAS_RUN_SYSTEMD:
        found.append(f"{NO_RUN_SYSTEMD}: tests of the unit files are skipped")
    return found


def do_without(reason: str) -> NoReturn:
    """Skip a test whose surroundings are not there (the header says so too), or fail it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(f"{DO_WITHOUT}{reason}")


DO_WITHOUT = "left out: "


def told_left_out(reasons: Iterable[str]) -> list[str]:
    """Say how many tests were left out for which program: the last lines of a run. `reasons` are skips'."""
    counted = Counter(
        reason.partition(DO_WITHOUT)[2] for reason in reasons if DO_WITHOUT in reason
    ).most_common()
    if not counted:
        return []
    lines = [f"{count:5} tests skipped: {reason}" for reason, count in counted]
    packages = sorted({PROGRAMS[name] for name in PROGRAMS if find(name) is None})
    if packages:
        lines.append(f"      to run them, on Debian: apt-get install {' '.join(packages)}")
    return lines
