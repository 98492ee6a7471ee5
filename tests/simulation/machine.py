"""Computers that lose their disk's promises, and processes on them that die between two steps."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.machine import Machine

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.simulation.clock import SimulatedClock


class DiedError(BaseException):
    """This process has been killed; nothing in it may go on."""


@dataclass(frozen=True, slots=True)
class _Renamed:
    """A name that is not durable yet; without data its end is."""

    path: Path
    data: bytes | None = None
    synced: bool = True


@dataclass(slots=True)
class Disk:
    """The disk of one computer: a real directory, and what of it would be left after a power cut.

    A name is durable after the fsync of its directory, contents after the fsync of the file.
    """

    clock: SimulatedClock
    rng: random.Random
    on_change: Callable[[Path], None]
    """Told of every name that is there now, or not any more."""
    failing: float = 0.0
    """The share of steps that fail, with `error`."""
    error: int = errno.ENOSPC
    steps: int = 0
    _durable: dict[Path, bytes] = field(default_factory=dict)
    _torn: set[Path] = field(default_factory=set)
    _pending: list[_Renamed] = field(default_factory=list)
    _synced: set[int] = field(default_factory=set)
    _named: set[Path] = field(default_factory=set)  # other files are in the making, and nobody's promise
    _changed: dict[Path, float] = field(default_factory=dict)

    def fsync(self, descriptor: int) -> None:
        self._synced.add(os.fstat(descriptor).st_ino)

    def replace(self, source: Path, target: Path) -> None:
        synced = source.stat().st_ino in self._synced
        self._pending.append(_Renamed(target, source.read_bytes(), synced))
        source.replace(target)
        self._named.add(target)
        self._changed[target] = self.clock.now().timestamp()
        self.on_change(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path in self._named:
            self._named.remove(path)
            self._pending.append(_Renamed(path))
            self.on_change(path)

    def fsync_directory(self, path: Path) -> None:
        for each in self._pending:
            if each.path.parent == path:
                self._settle(each)
        self._pending = [each for each in self._pending if each.path.parent != path]

    def touch(self, path: Path) -> None:
        self._changed[path] = self.clock.now().timestamp()

    def changed_at(self, path: Path) -> float:
        return self._changed.setdefault(path, self.clock.now().timestamp())

    def power_cut(self) -> None:
        """Leave what is durable, and of what is not yet as much as the disk happened to have done."""
        touched = {each.path for each in self._pending} | self._torn
        for each in self._pending[: self.rng.randint(0, len(self._pending))]:
            self._settle(each)
        self._pending.clear()
        for path in sorted(touched):
            data = self._durable.get(path)
            if data is None:
                path.unlink(missing_ok=True)
                self._named.discard(path)
                continue
            self._named.add(path)
            if path in self._torn:  # the name has come to the disk, the contents have not, or not all
                data = self._durable[path] = data[: self.rng.randrange(len(data))]
            fresh = path.with_name(f"{path.name}.left")
            fresh.write_bytes(data)
            fresh.replace(path)  # who has the file open keeps what it had
        self._torn.clear()

    def _settle(self, change: _Renamed) -> None:
        self._torn.discard(change.path)
        if change.data is None:
            self._durable.pop(change.path, None)
        else:
            self._durable[change.path] = change.data
            if not change.synced:
                self._torn.add(change.path)


class SimulatedMachine(Machine):
    """One process's way to a disk. Dead after `left` steps, or when told so."""

    def __init__(self, disk: Disk, time: Callable[[], float], rng: random.Random) -> None:
        self.disk = disk
        self.dead = False
        self.left: int | None = None
        self._time = time
        self._rng = rng

    def monotonic(self) -> float:
        return self._time()

    def random_bytes(self, size: int) -> bytes:
        return self._rng.randbytes(size)

    def fsync(self, descriptor: int) -> None:
        self._step(may_fail=True)
        self.disk.fsync(descriptor)

    def replace(self, source: str | Path, target: str | Path) -> None:
        self._step(may_fail=True)
        self.disk.replace(Path(source), Path(target))

    def fsync_directory(self, path: Path) -> None:
        self._step(may_fail=True)
        self.disk.fsync_directory(path)

    def unlink(self, path: Path) -> None:
        if not self.dead:  # what tidies up after itself is dead, too
            self.disk.unlink(path)  # no step: a forgotten writer is tidied up after at any time

    def touch(self, path: Path) -> None:
        self._step()
        self.disk.touch(path)

    def changed_at(self, path: Path) -> float:
        return self.disk.changed_at(path)

    def _step(self, *, may_fail: bool = False) -> None:
        self.disk.steps += 1
        if self.left is not None:
            self.left -= 1
            self.dead = self.dead or self.left < 0
        if self.dead:
            raise DiedError
        if may_fail and self._rng.random() < self.disk.failing:
            raise OSError(self.disk.error, os.strerror(self.disk.error))
