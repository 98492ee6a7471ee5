"""The index in use: watched in its directory, checked before a worker hears of it, described for metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd._survey import live_stats
from ocspd.errors import IndexFileError
from ocspd.logs import logger

if TYPE_CHECKING:
    from ocspd._index import Index
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest

_VERIFIED_BYTES = 64 << 20
"""Segments up to this size are compared with their SHA-256 before use (about 50 ms); larger ones are
checked in structure only, since reading them whole would delay every revocation: `ocspd index verify`."""

_RETRY_LOOKS = 10
_SURVEY_EVERY_S = 10.0
"""At most so often the index is counted: that takes a lookup for each answer in the newer segments."""


@dataclass(frozen=True, slots=True)
class IssuerState:
    """The answers given out about one issuer under one CertID hash, a few seconds old."""

    key_hash: str
    hash_name: str
    entries: int
    next_update_min: int
    next_update_max: int
    this_update_min: int


class ServedIndex:
    """The newest usable generation of an index directory.

    A manifest or segment that cannot be used is told once, by name; the generation before stays.
    """

    def __init__(self, directory: IndexDirectory) -> None:
        self.directory = directory
        self.manifest: Manifest | None = None
        """What is in use; None before the first `refresh` that returned True."""
        self.issuers: tuple[IssuerState, ...] = ()
        self._survey: asyncio.Task[None] | None = None
        self.refused = 0
        """How many generations could not be used."""
        self._index: Index | None = None
        self._seen: tuple[int, int, int] | None = None
        self._complaint = ""
        self._looks = 0

    @property
    def generation(self) -> int:
        """Of the index in use; -1 for none."""
        return -1 if self.manifest is None else self.manifest.generation

    @property
    def entries(self) -> int:
        """Keys in the index; one that stands in several segments counts several times."""
        return 0 if self._index is None else self._index.entries

    @property
    def segments(self) -> int:
        """Segments in the index."""
        return 0 if self._index is None else len(self._index.segments)

    async def refresh(self, *, force: bool = False) -> bool:
        """Look whether there is a new generation and check it; True when there is one to use.

        What cannot be used is looked at again after `_RETRY_LOOKS` calls, or when it changes. Raises
        IndexFileError only while nothing is in use yet.
        """
        try:
            stamp = self._stamp()
            self._looks += 1
            due = self.manifest is None or (self._complaint and self._looks % _RETRY_LOOKS == 0)
            if stamp == self._seen and not force and not due:
                return False
            self._seen = stamp
            manifest = self._read()
            changed = manifest != self.manifest
            if changed:
                await self._check(manifest)
        except IndexFileError as err:
            self._refuse(err)
            return False
        self._complaint = ""
        return changed

    def _refuse(self, error: IndexFileError) -> None:
        if self.manifest is None:
            raise error
        if str(error) != self._complaint:
            self._complaint = str(error)
            self.refused += 1
            logger.error("%s; generation %d goes on serving", error, self.generation)

    def _read(self) -> Manifest:
        manifest = self.directory.manifest()
        if manifest is None:
            raise IndexFileError(
                f"{self.directory.path}: no manifest.json: nothing has been published here yet "
                "(`ocspd refresh`, `ocspd index build` or `ocspd ocsprefresh -index` does)"
            )
        return manifest

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.directory.manifest_path.stat()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise IndexFileError(f"{self.directory.manifest_path}: cannot read: {err.strerror}") from err
        return found.st_ino, found.st_mtime_ns, found.st_size

    async def _check(self, manifest: Manifest) -> None:
        old = set() if self.manifest is None else {ref.sha256 for ref in self.manifest.segments}
        for ref in manifest.segments:
            if ref.sha256 not in old and ref.size_bytes <= _VERIFIED_BYTES:
                await asyncio.to_thread(self.directory.verify, ref)
        index = self.directory.open(manifest)
        if self._index is None:
            self.issuers = await asyncio.to_thread(_describe, index)
        self._index, self.manifest = index, manifest
        if self._survey is None or self._survey.done():
            self._survey = asyncio.create_task(self._describe_later())

    async def _describe_later(self) -> None:
        """Count the newest index, after the workers have it."""
        await asyncio.sleep(_SURVEY_EVERY_S)
        index = self._index
        if index is not None:
            self.issuers = await asyncio.to_thread(_describe, index)
            if self._index is not index:
                self._survey = asyncio.create_task(self._describe_later())


def _describe(index: Index) -> tuple[IssuerState, ...]:
    found: dict[tuple[str, str], list[dict[str, int]]] = {}
    for (hash_name, _, key_hash), stats in live_stats(index).items():
        found.setdefault((key_hash.hex(), hash_name), []).append(stats)
    return tuple(
        IssuerState(
            key_hash=key_hash,
            hash_name=hash_name,
            entries=sum(row["entries"] for row in rows),
            next_update_min=min(row["next_update_min"] for row in rows),
            next_update_max=max(row["next_update_max"] for row in rows),
            this_update_min=min(row["this_update_min"] for row in rows),
        )
        for (key_hash, hash_name), rows in sorted(found.items())
    )
