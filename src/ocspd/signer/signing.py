"""Signing chunks of rows: what goes in, what comes out, and whoever signs in this process.

A chunk is a thousand rows of one issuer, or rows just as the database sent them, to be sorted where
they are signed. `signing_pool` does the same in other processes.

Invariant 3, as far as it is kept here: a row that cannot be signed leaves out itself (a chunk that fails is
signed again row by row), a signer that cannot sign leaves out the rows of its issuer. Invariant 2: rows that
say less than the index, and those of `IssuerRouter.contested`, are not signed here (`resolving`).
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

from ocspd.certdb.packed import unpack
from ocspd.errors import IndexFileError, OCSPDError, SignerError
from ocspd.index._writer import SegmentWriter
from ocspd.machine import MACHINE, Machine
from ocspd.model import CertStatus
from ocspd.pki.ocsp_template import SignedRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ocspd.model import Row, StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.pki.ocsp_template import ResponseBatch
    from ocspd.signer.staleness import Staleness, StaleRows

BATCH_ROWS = 1_000
"""Rows in one message to a signing process and in one upsert: 17 ms of P-256 signatures for each hash."""
_STATUS = itemgetter(1)
CANNOT_BE_SIGNED = "cannot be signed"
_FAILURES = 20
"""Rows that fail one after another before it is asked whether the key can sign anything."""
CertKey = tuple[int, int]
"""The number of a signer, and a serial number."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one issuer to sign at one instant; `signer` is the signer's number in its list."""

    signer: int
    now: datetime
    rows: list[Row]
    until: datetime | None = None
    """When the answers end at the latest."""
    changed: bool = False
    """Whether the rows are signed because they have changed (`pki.signing_policy.change_time`)."""
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
    odd: int = 0
    """Rows left out because they are not spelled as CFSSL does (`certdb.spelling`)."""
    unreadable: list[str] = field(default_factory=list)
    """Why other rows stand for no certificate."""
    contested: int = 0
    """Rows left out because another row of the certificate has been looked at already."""
    lowering: list[CertKey] = field(default_factory=list)
    """Certificates whose row says something else while the index says revoked."""
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    """Serial, key identifier and what could not be read of a row that was signed as unknown, or revoked."""
    failed: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By number of a signer that cannot sign: how many rows it left out, and why."""


@dataclass(frozen=True, slots=True)
class IssuerRouter:
    """How rows of a packed chunk are told apart."""

    numbers: Mapping[str, tuple[int, ...]]
    """The signers' numbers by key identifier (`issuers`)."""
    staleness: Staleness | None = None
    """Which of them need an answer; all by default."""
    contested: frozenset[CertKey] = frozenset()
    """Certificates that have been answered already, as they have rows in several spellings."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Where whoever signs also writes its answers, as segments of an index directory of its own making.

    Answers then need not travel back, which costs as much as a fifth of the signing; `keep` has them
    travel all the same, for the table. Names of the files begin with `prefix`.
    """

    prefix: str
    created_at: int
    keep: bool = False
    machine: Machine = MACHINE


class RowSigner(Protocol):
    """Whatever signs chunks."""

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk; SignerError when this signer cannot, another OCSPDError when nobody can."""
        ...

    async def sign_packed(self, chunk: PackedChunk) -> SignedPacked:
        """Sort and sign a packed chunk into segments; OCSPDError when nobody can sign."""
        ...

    async def finish(self) -> list[str]:
        """Finish the segments written so far and return their paths; the next chunk begins new ones."""
        ...


def to_chunk(signer: int, now: datetime, rows: Sequence[StatusRow], known: StaleRows | None = None) -> Chunk:
    """Reduce changed rows of one issuer to what signing needs; `known` is the index as it is."""
    plain = reduced(rows)
    replaced = known.replaced(signer, plain, same=True) if known is not None else ()
    return Chunk(signer, now, plain, ends(rows), changed=True, replaced=replaced)


def ends(rows: Iterable[StatusRow]) -> datetime | None:
    """Return when the first of the rows loses its force, None when none does."""
    return min((row.until for row in rows if row.until is not None), default=None)


def reduced(rows: Iterable[StatusRow]) -> list[Row]:
    """Reduce rows to what signing needs."""
    return [
        # whole seconds, as GeneralizedTime has: a float would round the end of 9999 up to a year too many
        (serial, int(status), reason, None if revoked_at is None else _whole_seconds(revoked_at))
        for serial, _, status, reason, revoked_at, *_ in rows
    ]


def _whole_seconds(moment: datetime) -> float:
    return moment.replace(microsecond=0).timestamp()


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


class BatchSigner:
    """Signers with the batch of the current minute of each, and the segment they write."""

    def __init__(
        self,
        signers: Iterable[OCSPSigner | SignerError],
        segments: Segments | None = None,
        sorting: IssuerRouter | None = None,
        *,
        background: bool = False,
    ) -> None:
        """In the `background`, whatever else waits for this CPU gets it after every few signatures."""
        self._signers = list(signers)
        self._yielding = background
        self._sorting = sorting
        self._stale = None if sorting is None or sorting.staleness is None else sorting.staleness.open()
        self._batches: dict[
            tuple[int, bool], tuple[tuple[datetime, datetime | None, int | None], ResponseBatch]
        ] = {}
        self._segments = segments
        self._writer: SegmentWriter | None = None
        self._written = 0

    def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign a chunk; SignerError when this signer cannot, another OCSPDError when nobody can."""
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

    def _signer(self, number: int) -> OCSPSigner:
        signer = self._signers[number]
        if isinstance(signer, SignerError):
            raise SignerError(str(signer))
        return signer

    def _batch(self, chunk: Chunk, replaced_s: int | None = None) -> ResponseBatch:
        """Return the batch of the minute, or where `replaced_s` is given that of a change in this second."""
        signer, changed = self._signer(chunk.signer), replaced_s is not None
        times = chunk.now.replace(microsecond=0), chunk.until, replaced_s
        if not changed:
            times = chunk.now.replace(second=0, microsecond=0), chunk.until, None
        made_for, batch = self._batches.get((chunk.signer, changed), (None, None))
        if batch is None or made_for != times or chunk.now >= signer.responder.not_valid_after_utc:
            try:
                batch = signer.batch(
                    chunk.now, until=chunk.until, changed=changed, replaced_s=replaced_s or 0
                )
            except OCSPDError as err:
                if chunk.until is not None and chunk.until <= chunk.now:
                    raise  # what is known has ended, not the signer
                raise SignerError(str(err)) from err
            self._batches[chunk.signer, changed] = times, batch
        return batch

    def _sign(self, chunk: Chunk, batch: ResponseBatch) -> SignedChunk:
        signer = self._signer(chunk.signer)
        try:
            signed = self._sign_rows(signer, batch, chunk.rows)
        except IndexFileError:
            raise  # the disk, not a row
        except Exception:  # noqa: BLE001  (whatever a row does to a library)
            signed = self._sign_one_by_one(signer, batch, chunk.rows)
        return SignedChunk(
            answers=signed.answers,
            this_update=batch.this_update,
            next_update=batch.next_update,
            reasons_dropped=signed.reasons_dropped,
            made=signed.made,
            skipped=len(chunk.rows) - signed.made // len(signer.policy.certid_hashes),
        )

    def _sign_rows(self, signer: OCSPSigner, batch: ResponseBatch, rows: list[Row]) -> SignedRows:
        return batch.sign_rows(
            rows,
            signer.policy.certid_hashes,
            writer=self._segment(),
            due_s=signer.policy.due_s(batch.this_update, batch.next_update),
            keep=self._segments is None or self._segments.keep,
            yielding=self._yielding,
        )

    def _sign_one_by_one(self, signer: OCSPSigner, batch: ResponseBatch, rows: list[Row]) -> SignedRows:
        """Find the rows that cannot be signed. SignerError when none can: it is not for the rows then."""
        answers: list[list[bytes] | str] = []
        made = dropped = failures = 0
        error: Exception | None = None
        for row in rows:
            try:
                signed = self._sign_rows(signer, batch, [row])
            except IndexFileError:
                raise
            except Exception as err:  # noqa: BLE001  (as above)
                error = err
                failures += 1
                answers.append(CANNOT_BE_SIGNED)
                if failures == _FAILURES and not made and not self._can_sign(batch):
                    break
            else:
                answers += signed.answers
                made += signed.made
                dropped += signed.reasons_dropped
        if error is not None and not made and not self._can_sign(batch):
            raise SignerError(f"{signer.subject}: the responder key cannot sign: {error}") from error
        answers += [CANNOT_BE_SIGNED] * (len(rows) - len(answers))
        return SignedRows(answers, made, dropped)

    @staticmethod
    def _can_sign(batch: ResponseBatch) -> bool:
        try:
            batch.sign(1)
        except Exception:  # noqa: BLE001  (a key may fail in any way)
            return False
        return True

    def sign_packed(self, chunk: PackedChunk) -> SignedPacked:
        """Sort and sign a packed chunk; OCSPDError when nobody can sign."""
        assert self._sorting is not None
        unpacked = unpack(chunk.data)
        result = SignedPacked(odd=unpacked.odd, unreadable=unpacked.unreadable)
        for aki, group in unpacked.groups.items():
            self._sign_group(aki, group, chunk.now, result)
        for row in unpacked.unusual:
            if row.problem:
                result.problems.append((row.serial, row.aki, row.problem))
            self._sign_group(row.aki, reduced([row]), chunk.now, result)
        return result

    def _sign_group(self, aki: str, rows: list[Row], now: datetime, result: SignedPacked) -> None:
        """Sign rows of one key identifier, if they are ours and need it."""
        assert self._sorting is not None
        numbers = self._sorting.numbers.get(aki)
        if numbers is None:
            result.foreign.setdefault(aki, []).extend(row[0] for row in rows)
            return
        for number in numbers:
            try:
                self._sign_wanted(number, aki, self._wanted(number, rows, now, result), now, result)
            except SignerError as err:
                count, _ = result.failed.get(number, (0, ""))
                result.failed[number] = count + len(rows), str(err)

    def _wanted(self, number: int, rows: list[Row], now: datetime, result: SignedPacked) -> list[Row]:
        """Return the rows that need an answer and may have one as they are."""
        assert self._sorting is not None
        contested = self._sorting.contested
        if contested:
            before = len(rows)
            rows = [row for row in rows if (number, row[0]) not in contested]
            result.contested += before - len(rows)
        if self._stale is None:
            return rows
        wanted, lowering = self._stale(number, rows, int(now.timestamp()))
        result.fresh += len(rows) - len(wanted) - len(lowering)
        result.lowering += [(number, rows[at][0]) for at in lowering]
        return [rows[at] for at in wanted]

    def _sign_wanted(
        self, number: int, aki: str, rows: list[Row], now: datetime, result: SignedPacked
    ) -> None:
        if not rows:
            return
        replaced = self._stale.replaced(number, rows) if self._stale is not None else ()
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
            self._writer = SegmentWriter(
                path, created_at=self._segments.created_at, machine=self._segments.machine
            )
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
        sorting: IssuerRouter | None = None,
    ) -> None:
        self._bench = BatchSigner(signers, segments, sorting)
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
