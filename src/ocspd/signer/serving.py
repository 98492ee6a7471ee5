"""A signer and a responder in one process: `ocspserve -db-config` with keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ocspd.logs import logger
from ocspd.signer.generations import Generations
from ocspd.signer.health import PARTS
from ocspd.signer.refreshing import SignerDaemon
from ocspd.signer.signer_parts import RefreshSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocspd.clock import Clock
    from ocspd.index._writer import SegmentWriter
    from ocspd.index.directory import IndexDirectory
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.signer_parts import RefreshSource, SignerSource


class ServingSigner:
    """Signs into a responder's own index directory, from before it serves until it ends."""

    def __init__(
        self,
        db: RefreshSource,
        source: SignerSource,
        directory: IndexDirectory,
        clock: Clock,
        *,
        grace_s: float,
    ) -> None:
        """`grace_s`: how long files are kept that the manifest no longer names, in seconds."""
        self._known = _KnownSigners(source)
        self._generations = Generations(directory, clock, grace_s=grace_s)
        self._refresher = SignerDaemon(
            db=db, source=self._known, generations=self._generations, clock=clock, settings=RefreshSettings()
        )
        self._work: asyncio.Task[None] | None = None

    @property
    def akis(self) -> frozenset[str]:
        """Key identifiers of the issuers it signs for."""
        return self._known.akis

    @property
    def up(self) -> bool:
        """Whether signers, database and index can be used."""
        return all(map(self._refresher.stats.health.up, PARTS))

    async def prepare(self) -> None:
        """Start; returns once every known certificate has its response. OCSPDError when that fails."""
        self._work = asyncio.create_task(self._refresher.run())
        ready = asyncio.create_task(self._refresher.ready.wait())
        try:
            await asyncio.wait([self._work, ready], return_when=asyncio.FIRST_COMPLETED)
            if self._work.done():
                self._work.result()
        finally:
            ready.cancel()
        stats = self._refresher.stats
        logger.info("signed %d OCSP responses for %d certificates", stats.responses, stats.pass_certificates)

    async def follow(self) -> None:
        """Continue until cancelled; what has ended meanwhile is restarted."""
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._refresher.run())
        await self._work

    async def add(self, change: Callable[[SegmentWriter], None]) -> None:
        """Publish responses about other issuers."""
        await self._generations.add_changes(change, ())

    def stop(self) -> None:
        """End what `prepare` started."""
        if self._work is not None:
            self._work.cancel()


class _KnownSigners:
    """Passes signers on and records whose responses they sign."""

    def __init__(self, source: SignerSource) -> None:
        self._source = source
        self.akis: frozenset[str] = frozenset()

    def load(self) -> Sequence[OCSPSigner] | None:
        """Return the signers when they are new or have changed."""
        signers = self._source.load()
        if signers is not None:
            self.akis = frozenset(signer.aki for signer in signers)
        return signers
