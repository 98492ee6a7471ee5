"""The index in use: watched in its directory, checked before a worker gets it, described for metrics.

Nothing here touches a page of a segment: the examiner does (`responder/examiner.py`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ocspd.errors import IndexFileError
from ocspd.files import stamp
from ocspd.index.exhaustion import is_exhaustion
from ocspd.index.manifest import History
from ocspd.logs import logger
from ocspd.recovery import Recovery
from ocspd.responder.examining import Examined, ExaminerUnavailableError, Examining

if TYPE_CHECKING:
    from ocspd.clock import Clock
    from ocspd.files import Stamp
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest
    from ocspd.responder.examiner import IssuerState

_RETRY_CHECKS = 10
_SURVEY_EVERY_S = 10.0
"""The least interval between counts of the index: each takes a lookup per response in newer segments."""
_SURVEY_SOON_S = 0.1
_SURVEY_SHARE = 9  # of the time, a tenth at most goes into surveys
_WORTH_A_SURVEY = 0.01
"""From this share of expired responses on, a new generation is counted at once for readiness."""
_NONE = Examined(0, 0)


class ServedIndex:
    """The newest usable generation of an index directory.

    A manifest or segment that cannot be used is reported once, by name; the previous generation stays in
    service. So it does when the manifest is replaced by one of an older generation, or of an index published
    earlier: what is served never goes back.
    """

    def __init__(self, directory: IndexDirectory, examining: Examining, clock: Clock) -> None:
        self.directory = directory
        self.manifest: Manifest | None = None
        """The manifest in use; None before the first `refresh` that returned True."""
        self.issuers: tuple[IssuerState, ...] = ()
        self.refused = 0
        """How many generations could not be used."""
        self.shortage = ""
        """The same, if the reason is this machine and not the index."""
        self._examining = examining
        self._clock = clock
        self._history = History()
        self._examined = _NONE
        self._surveyed: Manifest | None = None
        self._freshness: asyncio.Task[None] | None = None
        self._survey_s = 0.0
        self._newest = Recovery()
        self._seen: Stamp | None = None
        self._checks = 0

    @property
    def generation(self) -> int:
        """The generation of the index in use; -1 for none."""
        return -1 if self.manifest is None else self.manifest.generation

    @property
    def complaint(self) -> str:
        """Why the directory's current manifest is not in use; "" when it is."""
        return self._newest.trouble

    @property
    def entries(self) -> int:
        """Responses in the index; one that is in several segments counts several times."""
        return self._examined.entries

    @property
    def segments(self) -> int:
        """Segments in the index."""
        return self._examined.segments

    async def refresh(self, *, force: bool = False) -> bool:
        """Check for a new generation and examine it; return whether there is one to use.

        One that cannot be used is examined again after `_RETRY_CHECKS` calls, or when it changes; at every
        call if this machine is short of a resource. Raises IndexFileError only while nothing is in use yet.
        """
        try:
            seen = self._stamp()
            self._checks += 1
            due = (
                self.manifest is None
                or self.shortage
                or (self.complaint and self._checks % _RETRY_CHECKS == 0)
            )
            if seen == self._seen and not force and not due:
                if not self.complaint and self._checks % _RETRY_CHECKS == 0:
                    self._is_damaged()
                return False
            self._seen = seen
            manifest = self._read()
            changed = manifest != self.manifest
            if changed:
                self._history.check(manifest, str(self.directory.manifest_path), self._now_s())
                await self._check(manifest)
            elif self._is_damaged():
                return False
        except IndexFileError as err:
            self._refuse(err)
            return False
        self.shortage = ""
        if self._newest.works() and not changed:
            logger.info("%s is readable again", self.directory.path)
        return changed

    def damage(self) -> str:
        """Name a segment in use whose file is missing or has the wrong size; "" for none."""
        for ref in () if self.manifest is None else self.manifest.segments:
            path = self.directory.segment_path(ref)
            try:
                size = path.stat().st_size
            except OSError as err:
                return f"{path}: {err.strerror}"
            if size != ref.size_bytes:
                return f"{path}: {size} bytes instead of {ref.size_bytes}: truncated while it was mapped"
        return ""

    def _is_damaged(self) -> bool:
        """Report once that a segment in use is missing or truncated, before a starting worker needs it.

        Workers that have it open keep serving from memory, or until they touch a missing page.
        """
        damage = self.damage()
        if damage:
            self._refuse(IndexFileError(damage))
        return bool(damage)

    async def close(self) -> None:
        """End the examiner."""
        if self._freshness is not None:
            self._freshness.cancel()
            await asyncio.gather(self._freshness, return_exceptions=True)
        await self._examining.close()

    def _refuse(self, error: IndexFileError) -> None:
        if self.manifest is None:
            raise error
        exhausted = isinstance(error, ExaminerUnavailableError) or is_exhaustion(error)
        self.shortage = str(error) if exhausted else ""
        if self._newest.failed(error, meanwhile=f"still serving generation {self.generation}"):
            self.refused += 1

    def _read(self) -> Manifest:
        manifest = self.directory.manifest()
        if manifest is None:
            raise IndexFileError(
                f"{self.directory.path}: no manifest.json: nothing has been published here yet "
                "(`ocspd refresh`, `ocspd index build` or `ocspd ocsprefresh -index` does)"
            )
        return manifest

    def _stamp(self) -> Stamp | None:
        try:
            return stamp(self.directory.manifest_path)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise IndexFileError(f"{self.directory.manifest_path}: cannot read: {err.strerror}") from err

    async def _check(self, manifest: Manifest) -> None:
        examined = await self._examining.check(self.directory, manifest)
        if self.manifest is None:
            self.issuers = await self._examining.survey(self.directory, manifest)
            self._surveyed = manifest
        self._examined, self.manifest = examined, manifest
        self._history.note(manifest)
        if self._freshness is None or self._freshness.done():
            self._freshness = asyncio.create_task(self._describe_later())

    async def _describe_later(self) -> None:
        """Count the newest index, after the workers have it."""
        while self._surveyed != self.manifest:
            now_s = self._now_s()
            soon = any(issuer.expired(now_s) > _WORTH_A_SURVEY for issuer in self.issuers)
            pause = _SURVEY_SOON_S if soon else _SURVEY_EVERY_S
            await asyncio.sleep(max(pause, _SURVEY_SHARE * self._survey_s))
            manifest, started = self.manifest, asyncio.get_running_loop().time()
            assert manifest is not None
            try:
                self.issuers = await self._examining.survey(self.directory, manifest)
                self._surveyed = manifest
            except IndexFileError as err:  # superseded and removed meanwhile, or named when it is used
                logger.debug("%s", err)
                self._survey_s = _SURVEY_EVERY_S
            else:
                self._survey_s = asyncio.get_running_loop().time() - started

    def _now_s(self) -> float:
        return self._clock.now().timestamp()
