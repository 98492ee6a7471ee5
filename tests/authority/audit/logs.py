"""Audit logs for tests: made by the real writer, and changed as somebody would who wants to hide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ocspd.authority.audit import chain, reading
from ocspd.authority.audit.verify import verify
from ocspd.authority.audit.writer import LogFile, open_key
from ocspd.clock import ManualClock
from ocspd.pki.seals import SealCheck

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.authority.audit.verify import Report

START = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)


def opened(path: Path, *, every: int = 10, rotate_bytes: int = 0, now: datetime = START) -> LogFile:
    key = open_key(reading.beside(path, reading.KEY))
    return LogFile(path, key, ManualClock(now), every=every, rotate_bytes=rotate_bytes)


def entry(serial: int, event: str = "issue", **more: Any) -> bytes:
    time = chain.timestamp(START + timedelta(seconds=serial))
    return chain.encode({"time": time, "event": event, "serial": str(serial)} | {"aki": "ab12"} | more)


def written(path: Path, count: int, *, every: int = 10) -> list[bytes]:
    """Write a log of so many certificates, with a checkpoint at its end, and return its lines."""
    file = opened(path, every=every)
    file.append([entry(number) for number in range(count)], seal=True)
    file.close()
    return path.read_bytes().splitlines(keepends=True)


def checked(path: Path, *, kept: bool = True, begin: int = 1) -> Report:
    """Verify a log as `ocspd audit verify` does; without `kept` the checkpoint beside it does not count."""
    check = SealCheck.load(reading.beside(path, reading.PUBLIC).read_bytes())
    beside = reading.beside(path, reading.CHECKPOINT)
    known = [chain.parse(beside.read_bytes().strip())] if kept and beside.exists() else []
    return verify(reading.find([str(path)]), check=check, known=known, begin=begin)


def texts(report: Report) -> list[str]:
    return [f"{finding.line}: {finding.text}" for finding in report.problems]


def entries(path: Path) -> list[chain.Entry]:
    return list(reading.entries(reading.find([str(path)])))


def events(path: Path) -> list[str]:
    return [entry.event for entry in entries(path)]


def serials(path: Path) -> list[int]:
    return [int(entry.fields["serial"]) for entry in entries(path) if "serial" in entry.fields]
