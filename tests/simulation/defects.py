"""Parts with one mistake each that somebody could make: a simulation that misses them is worth nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ocspd.errors import OCSPDError
from ocspd.index.manifest import MANIFEST_NAME
from ocspd.index.remote import RemoteIndex
from ocspd.signer.generations import Generations
from ocspd.signer.refreshing import SignerDaemon
from tests.simulation.incidents import deleted_during_passes, restored_and_killed
from tests.simulation.machine import SimulatedMachine
from tests.simulation.world import Parts

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.index._writer import SegmentWriter
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest, SegmentRef


class MovesOnUnpublished(SignerDaemon):
    """Moves its cursor past changes whose publication has failed."""

    async def _sign_changes(self, *args: Any) -> None:
        try:
            await super()._sign_changes(*args)
        except OCSPDError as err:
            self.stats.health.failed(err, "follow", "index")


class PublishesSlicesAtOnce(SignerDaemon):
    """Publishes slices of a pass before changes that were read earlier; so did ocspd at first."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._signing_changes = _NoLock()


class _NoLock(asyncio.Lock):
    async def acquire(self) -> bool:  # type: ignore[override]
        return True

    def release(self) -> None:
        return


class MergeDropsNewest(Generations):
    """Loses the newest segment of a merge."""

    def _join(self, run: tuple[SegmentRef, ...], writer: SegmentWriter, drop_expired: bool) -> SegmentRef:  # noqa: FBT001
        return super()._join(run[1:], writer, drop_expired)


class MergeTurnsRound(Generations):
    """Has the older of two responses win."""

    def _join(self, run: tuple[SegmentRef, ...], writer: SegmentWriter, drop_expired: bool) -> SegmentRef:  # noqa: FBT001
        return super()._join(run[::-1], writer, drop_expired)


class NoFsync(SimulatedMachine):
    """Renames files whose contents are not durable."""

    def fsync(self, descriptor: int) -> None:
        return


class NoFsyncOfDirectories(SimulatedMachine):
    """Relies on names that are not durable."""

    def fsync_directory(self, path: Path) -> None:
        return


class ManifestFirst(RemoteIndex):
    """Publishes a manifest before what it names."""

    async def publish(self, directory: IndexDirectory, manifest: Manifest) -> None:
        await self._store.write(MANIFEST_NAME, manifest.to_bytes())
        await super().publish(directory, manifest)


class SweepsOnceOnly(SignerDaemon):
    """Forgets over a restart that a sweep was due."""

    async def run(self) -> None:
        self._state.load()
        if self._state.sweep_due:
            self._state.sweep_due = 0
            self._state.save()
        await super().run()


class TrustsTheIndexDuringAPass(SignerDaemon):
    """Takes a deletion for answered that a pass is about to undo."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value if name != "_passing" else False)


INCIDENTS = {
    "a sweep that a restart forgets": (Parts(daemon=SweepsOnceOnly), restored_and_killed),
    "deletions undone by a pass": (Parts(daemon=TrustsTheIndexDuringAPass), deleted_during_passes),
}
"""What is found where it is looked for: it takes more than one coincidence."""
DEFECTS = {
    "a cursor that moves on unpublished": Parts(daemon=MovesOnUnpublished),
    "slices published before older changes": Parts(daemon=PublishesSlicesAtOnce),
    "a merge without its newest": Parts(generations=MergeDropsNewest),
    "a merge in the wrong order": Parts(generations=MergeTurnsRound),
    "files without fsync": Parts(machine=NoFsync),
    "directories without fsync": Parts(machine=NoFsyncOfDirectories),
    "a manifest before its segments": Parts(remote=ManifestFirst),
}
