"""External programs the tests compare ocspd with: shown in the header, required when CI is set."""

from __future__ import annotations

import os
import shutil

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


def find(program: str) -> str | None:
    """Return the program's path, also from sbin directories that are often not in PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def need(program: str) -> str:
    """Return the program's path; skip visibly without it, or fail where CI is set."""
    path = find(program)
    if path is not None:
        return path
    reason = f"{program} is not installed (Debian package {PROGRAMS[program]})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
