"""Shared fixtures; the header names the external programs that were found and those that were not."""

from __future__ import annotations

from tests.tools import PROGRAMS, find


def pytest_report_header() -> list[str]:
    """Say which comparisons this run can make."""
    have = [name for name in PROGRAMS if find(name)]
    lack = [name for name in PROGRAMS if not find(name)]
    lines = ["compared with: " + ", ".join(have)]
    if lack:
        lines.append("NOT INSTALLED, tests against them are skipped: " + ", ".join(lack))
    return lines
