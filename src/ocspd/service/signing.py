"""Signing chunks of rows: what goes in, what comes out, and whoever signs in this process.

A chunk is a thousand rows of one issuer, or rows just as the database sent them, to be sorted where
they are signed. `signing_pool` does the same in other processes.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

from ocspd._writer import SegmentWriter
from ocspd.certdb.packed import unpack
from ocspd.model import CertStatus, normalize_aki

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.pki.ocsp_template import Batch, Row
    from ocspd.service.staleness import Staleness, StaleRows

_STATUS = itemgetter(1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one issuer to sign at one instant; `signer` is the signer's number in its list."""

    signer: int
    now: datetime
    rows: list[Row]
    until: datetime | None = None
    """When the answers end at the latest."""
    changed: bool = False
    """Whether the rows are signed because they have changed (`pki.ocsp.change_time`)."""
    replaced: Sequence[int] = ()
    """For each row the thisUpdate (seconds since the epoch) of an answer it replaces that says something
    else, 0 for none; empty where that is known of none."""


@dataclass(frozen=True, slots=True)
class SignedChunk:
    """The answers to a chunk.

    `answers` has one entry for each row: its answers in the order of the signer's CertID hashes, or
    the cause why there is none. `reasons_dropped` counts revoked rows whose reason is no CRLReason:
    they were signed without one, as a revocation must not stay unheard for a detail.
    """

    answers: list[list[bytes] | str]
    this_update: datetime
    next_update: datetime
    reasons_dropped: int
    made: int
    """Signatures made; where answers stay with the worker (see `Segments`) the lists above are empty."""
    skipped: int
    """Rows that got no answer."""


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """Rows as the database sent them (`certdb.packed`), of any issuer, to sign at one instant."""

    now: datetime
    data: bytes


@dataclass(slots=True)
class SignedPacked:
    """What became of a packed chunk whose answers stay with the worker."""

    signed: int = 0
    """Rows that got answers, and how many of them are revoked."""
    revoked: int = 0
    made: int = 0
    fresh: int = 0
    """Rows that needed no answer."""
    reasons_dropped: int = 0
    next_update: datetime | None = None
    foreign: dict[str, list[int]] = field(default_factory=dict)
    """Serials of issuers no signer was given for, by key identifier."""
    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    """Serial, key identifier and cause of the rows that could not be signed."""
    nameless: list[StatusRow] = field(default_factory=list)
    """Rows without a key identifier: whose they are, their certificates say."""
    unreadable: list[str] = field(default_factory=list)
    """Why rows could not be read."""


@dataclass(frozen=True, slots=True)
class Sorting:
    """How rows of a packed chunk are told apart."""

    numbers: Mapping[str, int]
    """The signers' numbers by key identifier."""
    staleness: Staleness | None = None
    """Which of them need an answer; all by default."""

    def number(self, aki: str) -> int | None:
        """Return the number of the signer for a key identifier as it is stored."""
        number = self.numbers.get(aki)
        return self.numbers.get(normalize_aki(aki)) if number is None else number


@dataclass(frozen=True, slots=True)
class Segments:
    """Where whoever signs also writes its answers, as segments of an index directory of its own making.

    Answers then need not travel back, which costs as much as a fifth of the signing; `keep` has them
    travel all the same, for the table. Names of the files begin with `prefix`.
    """

    prefix: str
    created_at: int
    keep: bool = False


class Signing(Protocol):
    """Whatever signs chunks."""

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk; OCSPDError when no further chunk can be signed either."""
        ...

    async def sign_packed(self, chunk: PackedChunk) -> SignedPacked:
        """Sort and sign a packed chunk into segments; OCSPDError as `sign`."""
        ...

    async def finish(self) -> list[str]:
        """Finish the segments written so far and return their paths; the next chunk begins new ones."""
        ...


def to_chunk(signer: int, now: datetime, rows: Sequence[StatusRow], known: StaleRows | None = None) -> Chunk:
    """Reduce changed rows of one issuer to what signing needs; `known` is the index as it is."""
    plain = reduced(rows)
    replaced = known.replaced(signer, plain) if known is not None else ()
    return Chunk(signer, now, plain, ends(rows), changed=True, replaced=replaced)


def ends(rows: Iterable[StatusRow]) -> datetime | None:
    """Return when the first of the rows loses its force, None when none does."""
    return min((row.until for row in rows if row.until is not None), default=None)


def reduced(rows: Iterable[StatusRow]) -> list[Row]:
    """Reduce rows to what signing needs."""
    return [
        (serial, int(status), reason, None if revoked_at is None else revoked_at.timestamp())
        for serial, _, status, reason, revoked_at, *_ in rows
    ]


def earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the earlier of two times; None counts as none."""
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _late(chunk: Chunk, first_s: float) -> bool:
    """Whether a row of a pass was revoked after its thisUpdate, cut down as it is."""
    return any(row[1] == CertStatus.REVOKED and (row[3] or 0) > first_s for row in chunk.rows)


def _joined(count: int, parts: Sequence[tuple[Sequence[int], SignedChunk]]) -> SignedChunk:
    """Put the parts of a chunk of `count` rows together, which begins and ends with the first to do so."""
    answers: list[list[bytes] | str] = [[] for _ in range(count)]
    for positions, part in parts:
        for at, answer in zip(positions, part.answers, strict=True):
            answers[at] = answer
    done = [part for _, part in parts]
    return SignedChunk(
        answers=answers,
        this_update=min(part.this_update for part in done),
        next_update=min(part.next_update for part in done),
        reasons_dropped=sum(part.reasons_dropped for part in done),
        made=sum(part.made for part in done),
        skipped=sum(part.skipped for part in done),
    )


class Bench:
    """Signers with the batch of the current minute of each, and the segment they write."""

    def __init__(
        self,
        signers: Iterable[OCSPSigner],
        segments: Segments | None = None,
        sorting: Sorting | None = None,
        *,
        background: bool = False,
    ) -> None:
        """In the `background`, whatever else waits for this CPU gets it after every few signatures."""
        self._signers = list(signers)
        self._yielding = background
        self._sorting = sorting
        self._stale = None if sorting is None or sorting.staleness is None else sorting.staleness.open()
        self._batches: dict[tuple[int, bool], tuple[tuple[datetime, datetime | None, int | None], Batch]] = {}
        self._segments = segments
        self._writer: SegmentWriter | None = None
        self._written = 0

    def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign a chunk; OCSPDError when no further one can be signed either."""
        rounded = self._batch(chunk)
        first_s = rounded.this_update.timestamp()
        now_s = int(chunk.now.timestamp())
        parts: dict[int, list[int]] = {}
        plain = not (chunk.changed or chunk.replaced or _late(chunk, first_s))
        for at, row in enumerate(() if plain else chunk.rows):
            replaced_s = chunk.replaced[at] if chunk.replaced else 0
            late = row[1] == CertStatus.REVOKED and row[3] is not None and row[3] > first_s
            if chunk.changed or replaced_s or late:
                parts.setdefault(replaced_s if replaced_s >= now_s else 0, []).append(at)
        if not parts:
            return self._sign(chunk, rounded)
        changed = {at for positions in parts.values() for at in positions}
        rest = [at for at in range(len(chunk.rows)) if at not in changed]
        signed = []
        for replaced_s, positions in (*parts.items(), *(((None, rest),) if rest else ())):
            part = replace(chunk, rows=[chunk.rows[at] for at in positions])
            batch = rounded if replaced_s is None else self._batch(chunk, replaced_s)
            signed.append((positions, self._sign(part, batch)))
        return _joined(len(chunk.rows), signed)

    def _batch(self, chunk: Chunk, replaced_s: int | None = None) -> Batch:
        """Return the batch of the minute, or where `replaced_s` is given that of a change in this second."""
        signer, changed = self._signers[chunk.signer], replaced_s is not None
        times = chunk.now.replace(microsecond=0), chunk.until, replaced_s
        if not changed:
            times = chunk.now.replace(second=0, microsecond=0), chunk.until, None
        made_for, batch = self._batches.get((chunk.signer, changed), (None, None))
        if batch is None or made_for != times:
            batch = signer.batch(chunk.now, until=chunk.until, changed=changed, replaced_s=replaced_s or 0)
            self._batches[chunk.signer, changed] = times, batch
        return batch

    def _sign(self, chunk: Chunk, batch: Batch) -> SignedChunk:
        signer = self._signers[chunk.signer]
        keep = self._segments is None or self._segments.keep
        signed = batch.sign_rows(
            chunk.rows,
            signer.certid_hashes,
            writer=self._segment(),
            due_s=signer.due_s(batch.this_update, batch.next_update),
            keep=keep,
            yielding=self._yielding,
        )
        return SignedChunk(
            answers=signed.answers,
            this_update=batch.this_update,
            next_update=batch.next_update,
            reasons_dropped=signed.reasons_dropped,
            made=signed.made,
            skipped=len(chunk.rows) - signed.made // len(signer.certid_hashes),
        )

    def sign_packed(self, chunk: PackedChunk) -> SignedPacked:
        """Sort and sign a packed chunk; OCSPDError as `sign`."""
        assert self._sorting is not None
        unpacked = unpack(chunk.data)
        result = SignedPacked(unreadable=unpacked.unreadable)
        for aki, group in unpacked.groups.items():
            self._sign_group(aki, group, chunk.now, result)
        for row in unpacked.unusual:
            if row.aki:
                self._sign_group(row.aki, reduced([row]), chunk.now, result)
            else:
                result.nameless.append(row)
        return result

    def _sign_group(self, aki: str, rows: list[Row], now: datetime, result: SignedPacked) -> None:
        """Sign rows of one issuer, if they are ours and need it."""
        assert self._sorting is not None
        number = self._sorting.number(aki)
        if number is None:
            result.foreign.setdefault(aki, []).extend(row[0] for row in rows)
            return
        replaced: Sequence[int] = ()
        if self._stale is not None:
            wanted = [rows[at] for at in self._stale(number, rows, int(now.timestamp()))]
            result.fresh += len(rows) - len(wanted)
            rows = wanted
            replaced = self._stale.replaced(number, rows)
        if not rows:
            return
        signed = self.sign(Chunk(number, now, rows, replaced=replaced))
        result.signed += len(rows) - signed.skipped
        result.revoked += list(map(_STATUS, rows)).count(CertStatus.REVOKED)
        result.made += signed.made
        result.reasons_dropped += signed.reasons_dropped
        result.next_update = earlier(result.next_update, signed.next_update if signed.made else None)
        if signed.skipped:
            for row, cause in zip(rows, signed.answers, strict=True):
                if isinstance(cause, str):
                    result.skipped.append((row[0], aki, cause))
                    result.revoked -= row[1] == CertStatus.REVOKED

    def _segment(self) -> SegmentWriter | None:
        """Return the segment to write to."""
        if self._segments is not None and self._writer is None:
            self._written += 1
            path = f"{self._segments.prefix}{os.getpid()}-{self._written}.seg"
            self._writer = SegmentWriter(path, created_at=self._segments.created_at)
        return self._writer

    def finish(self) -> str | None:
        """Finish the segment begun and return its path."""
        writer, self._writer = self._writer, None
        if writer is None:
            return None
        with writer:
            if writer.added:
                writer.finish()
        return writer.path if writer.added else None


class LocalSigning:
    """Signs in a thread of this process: for a few rows, which are done before a process has started."""

    def __init__(
        self,
        signers: Sequence[OCSPSigner],
        segments: Segments | None = None,
        sorting: Sorting | None = None,
    ) -> None:
        self._bench = Bench(signers, segments, sorting)
        self._lock = asyncio.Lock()

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk."""
        async with self._lock:
            return await asyncio.to_thread(self._bench.sign, chunk)

    async def sign_packed(self, chunk: PackedChunk) -> SignedPacked:
        """Sort and sign a packed chunk."""
        async with self._lock:
            return await asyncio.to_thread(self._bench.sign_packed, chunk)

    async def finish(self) -> list[str]:
        """Finish the segment written so far."""
        async with self._lock:
            path = await asyncio.to_thread(self._bench.finish)
        return [path] if path is not None else []
