"""Signing rows: input, output, and the signer in this process.

Rows are a chunk, a thousand of one issuer, or packed: exactly as the database sent them, sorted by signer
where they are signed. `signing_pool` does the same in other processes.

Invariant 3, as far as it is enforced here: a row that cannot be signed only leaves out itself (a chunk that
fails is signed again row by row), a signer that cannot sign leaves out the rows of its issuer. Invariant 2:
rows that are not revoked while the index has revoked, and those of `IssuerRouter.contested`, are not signed
here (`resolving`).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ocspd.certdb.packed import unpack
from ocspd.errors import IndexFileError, OCSPDError, SignerError
from ocspd.index._writer import SegmentWriter
from ocspd.machine import MACHINE, Machine
from ocspd.model import CertStatus, known_reason
from ocspd.signer.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from ocspd.certdb.packed import PackedRows
    from ocspd.model import Row, StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.pki.ocsp_template import ResponseBatch
    from ocspd.signer.signers import CertKey, SignersByAKI
    from ocspd.signer.staleness import Staleness, StaleRows

BATCH_ROWS = 1_000
"""Rows in one message to a signing process and in one upsert: 17 ms of P-256 signatures for each hash."""
CANNOT_BE_SIGNED = "cannot be signed"
FOREIGN = "foreign issuer"
UNREADABLE_SERIAL = "unreadable serial number"
_FAILURES = 20
"""Rows that fail one after another before the key is tested."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one issuer to sign at one instant."""

    signer_index: int
    rows: list[Row]
    until: datetime | None = None
    """When the responses end at the latest."""
    changed: bool = False
    """Whether the rows are signed because they have changed (`pki.signing_policy.change_time`)."""
    replaced: Sequence[int] = ()
    """For each row the thisUpdate (seconds since the epoch) of a response it replaces with another status, 0
    for none; empty if it is known for none."""


@dataclass(slots=True)
class Signed:
    """The result of signing rows."""

    tally: Tally = field(default_factory=Tally)
    responses: list[list[bytes] | str] = field(default_factory=list)
    """For each row of a chunk its responses in the order of the signer's CertID hashes, or why it has none.
    If responses stay with the process that signed them (see `Segments`), the lists are empty."""
    due_s: int = 0
    """When the responses are due for renewal, in seconds since the epoch."""
    left_out: list[tuple[int | str, str, str]] = field(default_factory=list)
    """Packed rows without a response, or with a different one: fields of `SkippedRow`, cheap to pickle."""
    lowering: list[CertKey] = field(default_factory=list)
    """Certificates that are revoked in the index while their packed row is not."""


@dataclass(frozen=True, slots=True)
class IssuerRouter:
    """How packed rows find their signers."""

    signers_by_aki: SignersByAKI
    staleness: Staleness | None = None
    """Which of them need a response; all by default."""
    contested: frozenset[CertKey] = frozenset()
    """Certificates that have already been signed, as they have rows in several spellings."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Where a signer also writes its responses, as segments of an index directory.

    Responses then need not be sent back, which costs a fifth of the signing; `keep` sends them anyway, for
    the table. Names of the files begin with `prefix`.
    """

    prefix: str
    created_at: int
    keep: bool = False
    machine: Machine = MACHINE


class RowSigner(Protocol):
    """Signs rows: this process (`LocalSigning`) or others (`signing_pool.SigningPool`)."""

    async def sign(self, rows: PackedRows | Chunk, now: datetime) -> Signed:
        """Sign rows at an instant; packed ones, of any issuer, into segments.

        SignerError when the signer of a chunk cannot, another OCSPDError when no signer can.
        """
        ...

    async def finish(self) -> list[str]:
        """Finish the segments written so far and return their paths; the next rows start new ones."""
        ...


def to_chunk(signer_index: int, rows: Sequence[StatusRow], known: StaleRows | None = None) -> Chunk:
    """Reduce changed rows of one issuer to what signing needs; `known` is the present index."""
    plain = reduced(rows)
    replaced = known.replaced(signer_index, plain, same=True) if known is not None else ()
    return Chunk(signer_index, plain, ends(rows), changed=True, replaced=replaced)


def ends(rows: Iterable[StatusRow]) -> datetime | None:
    """Return when the first of the rows ends, None if none does."""
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


def _late(chunk: Chunk, first_s: float) -> bool:
    """Return whether a row of a pass was revoked after its truncated thisUpdate."""
    return any(row[1] == CertStatus.REVOKED and (row[3] or 0) > first_s for row in chunk.rows)


def _tally(
    rows: Sequence[Row], responses: Sequence[list[bytes] | str], hashes: int, next_update: datetime
) -> Tally:
    """Count what was signed and what was not, for a number of CertID hashes."""
    skipped: Counter[str] = Counter()
    if str in map(type, responses):
        skipped.update(cause for cause in responses if isinstance(cause, str))
        rows = [row for row, each in zip(rows, responses, strict=True) if not isinstance(each, str)]
    revoked = [row for row in rows if row[1] == CertStatus.REVOKED]
    return Tally(
        signed=len(rows),
        revoked=len(revoked),
        responses=len(rows) * hashes,
        reasons_dropped=sum(not known_reason(row[2]) for row in revoked),
        skipped=skipped,
        next_update=next_update if rows else None,
    )


class BatchSigner:
    """Signers with the batch of the current minute of each, and the segment they write."""

    def __init__(
        self,
        signers: Iterable[OCSPSigner | SignerError],
        segments: Segments | None = None,
        router: IssuerRouter | None = None,
        *,
        background: bool = False,
    ) -> None:
        """In the `background`, anything else waiting for this CPU gets it every few signatures."""
        self._signers = list(signers)
        self._yielding = background
        self._router = router
        self._stale = None if router is None or router.staleness is None else router.staleness.open()
        self._batches: dict[
            tuple[int, bool], tuple[tuple[datetime, datetime | None, int | None], ResponseBatch]
        ] = {}
        self._segments = segments
        self._writer: SegmentWriter | None = None
        self._written = 0

    def sign(self, rows: PackedRows | Chunk, now: datetime) -> Signed:
        """Sign rows; see `RowSigner.sign`."""
        return self._sign_chunk(rows, now) if isinstance(rows, Chunk) else self._sign_packed(rows, now)

    # -- rows of one issuer ----------------------------------------------------------------------

    def _sign_chunk(self, chunk: Chunk, now: datetime) -> Signed:
        """Sign rows whose status has changed with their own times, others with those of the minute."""
        rounded = self._batch(chunk, now)
        first_s = rounded.this_update.timestamp()
        now_s = int(now.timestamp())
        parts: dict[int, list[int]] = {}
        plain = not (chunk.changed or chunk.replaced or _late(chunk, first_s))
        for at, row in enumerate(() if plain else chunk.rows):
            replaced_s = chunk.replaced[at] if chunk.replaced else 0
            late = row[1] == CertStatus.REVOKED and row[3] is not None and row[3] > first_s
            if chunk.changed or replaced_s or late:
                parts.setdefault(replaced_s if replaced_s >= now_s else 0, []).append(at)
        if not parts:
            return self._sign_rows(chunk.signer_index, chunk.rows, rounded)
        changed = {at for positions in parts.values() for at in positions}
        rest = [at for at in range(len(chunk.rows)) if at not in changed]
        tally = Tally()
        responses: list[list[bytes] | str] = [[] for _ in chunk.rows]
        batches = []
        for replaced_s, positions in (*parts.items(), *(((None, rest),) if rest else ())):
            batch = rounded if replaced_s is None else self._batch(chunk, now, replaced_s)
            part = self._sign_rows(chunk.signer_index, [chunk.rows[at] for at in positions], batch)
            for at, each in zip(positions, part.responses, strict=True):
                responses[at] = each
            tally += part.tally
            batches.append(batch)
        policy = self._signer(chunk.signer_index).policy
        first = min(batch.this_update for batch in batches), min(batch.next_update for batch in batches)
        return Signed(tally, responses, policy.due_s(*first))

    def _signer(self, signer_index: int) -> OCSPSigner:
        signer = self._signers[signer_index]
        if isinstance(signer, SignerError):
            raise SignerError(str(signer))
        return signer

    def _batch(self, chunk: Chunk, now: datetime, replaced_s: int | None = None) -> ResponseBatch:
        """Return the batch of the minute, or with `replaced_s` that of a change in this second."""
        signer, changed = self._signer(chunk.signer_index), replaced_s is not None
        times = now.replace(microsecond=0), chunk.until, replaced_s
        if not changed:
            times = now.replace(second=0, microsecond=0), chunk.until, None
        made_for, batch = self._batches.get((chunk.signer_index, changed), (None, None))
        if batch is None or made_for != times or now >= signer.responder.not_valid_after_utc:
            try:
                batch = signer.batch(now, until=chunk.until, changed=changed, replaced_s=replaced_s or 0)
            except OCSPDError as err:
                if chunk.until is not None and chunk.until <= now:
                    raise  # what is known has ended, not the signer
                raise SignerError(str(err)) from err
            self._batches[chunk.signer_index, changed] = times, batch
        return batch

    def _sign_rows(self, signer_index: int, rows: list[Row], batch: ResponseBatch) -> Signed:
        """Sign rows in one batch, or one by one if that fails."""
        signer = self._signer(signer_index)
        due_s = signer.policy.due_s(batch.this_update, batch.next_update)
        sign = partial(
            batch.sign_rows,
            certid_hashes=signer.policy.certid_hashes,
            writer=self._segment(),
            due_s=due_s,
            keep=self._segments is None or self._segments.keep,
            yielding=self._yielding,
        )
        try:
            responses = sign(rows)
        except IndexFileError:
            raise  # the disk, not a row
        except Exception:  # noqa: BLE001  (whatever a row does to a library)
            responses = self._sign_one_by_one(sign, rows, signer, batch)
        hashes = len(signer.policy.certid_hashes)
        return Signed(_tally(rows, responses, hashes, batch.next_update), responses, due_s)

    @staticmethod
    def _sign_one_by_one(
        sign: Callable[[list[Row]], list[list[bytes] | str]],
        rows: list[Row],
        signer: OCSPSigner,
        batch: ResponseBatch,
    ) -> list[list[bytes] | str]:
        """Find the rows that cannot be signed. SignerError when none can: then the rows are not the cause."""
        responses: list[list[bytes] | str] = []
        made = False
        failures = 0
        error: Exception | None = None
        for row in rows:
            try:
                signed = sign([row])
            except IndexFileError:
                raise
            except Exception as err:  # noqa: BLE001  (as above)
                error = err
                failures += 1
                responses.append(CANNOT_BE_SIGNED)
                if failures == _FAILURES and not made and not _can_sign(batch):
                    break
            else:
                responses += signed
                made = made or not isinstance(signed[0], str)
        if error is not None and not made and not _can_sign(batch):
            raise SignerError(f"{signer.subject}: the responder key cannot sign: {error}") from error
        return responses + [CANNOT_BE_SIGNED] * (len(rows) - len(responses))

    # -- rows as the database sent them ----------------------------------------------------------

    def _sign_packed(self, packed: PackedRows, now: datetime) -> Signed:
        """Give rows to their signers; OCSPDError when no signer can sign."""
        assert self._router is not None
        groups, unusual, unreadable = unpack(packed.data)
        result = Signed()
        tally = result.tally
        tally.certificates = sum(map(len, groups.values())) + len(unusual) + len(unreadable)
        for aki, group in groups.items():
            self._sign_group(aki, group, now, result)
        for row in unusual:
            if row.problem:
                tally.unreadable += 1
                result.left_out.append((row.serial, row.aki, row.problem))
            self._sign_group(row.aki, reduced([row]), now, result)
        if unreadable:
            tally.skipped[UNREADABLE_SERIAL] += len(unreadable)
            result.left_out += [("?", "", message) for message in unreadable]
        return result

    def _sign_group(self, aki: str, rows: list[Row], now: datetime, result: Signed) -> None:
        """Sign rows of one key identifier, if they are ours and need it."""
        assert self._router is not None
        signer_indexes = self._router.signers_by_aki.get(aki)
        if signer_indexes is None:
            result.tally.foreign[aki] += len(rows)
            result.left_out += [(row[0], aki, FOREIGN) for row in rows]
            return
        tally = result.tally
        for signer_index in signer_indexes:
            wanted = self._wanted(signer_index, rows, now, result)
            if not wanted:
                continue
            replaced = self._stale.replaced(signer_index, wanted) if self._stale is not None else ()
            try:
                signed = self._sign_chunk(Chunk(signer_index, wanted, replaced=replaced), now)
            except SignerError as err:
                tally += Tally.of_failure(signer_index, len(rows), str(err))
                continue
            tally += signed.tally
            if signed.tally.skipped:
                result.left_out += [
                    (row[0], aki, cause)
                    for row, cause in zip(wanted, signed.responses, strict=True)
                    if isinstance(cause, str)
                ]

    def _wanted(self, signer_index: int, rows: list[Row], now: datetime, result: Signed) -> list[Row]:
        """Return the rows that need a new response and may be signed as they are."""
        assert self._router is not None
        contested = self._router.contested
        if contested:
            rows = [row for row in rows if (signer_index, row[0]) not in contested]
        if self._stale is None:
            return rows
        wanted, lowering = self._stale(signer_index, rows, int(now.timestamp()))
        result.tally.fresh += len(rows) - len(wanted) - len(lowering)
        result.lowering.extend((signer_index, rows[at][0]) for at in lowering)
        return [rows[at] for at in wanted]

    # -- segments --------------------------------------------------------------------------------

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
        """Finish the current segment and return its path."""
        writer, self._writer = self._writer, None
        if writer is None:
            return None
        with writer:
            if writer.added:
                writer.finish()
        return writer.path if writer.added else None


def _can_sign(batch: ResponseBatch) -> bool:
    try:
        batch.sign(1)
    except Exception:  # noqa: BLE001  (a key may fail in any way)
        return False
    return True


class LocalSigning:
    """Signs in a thread of this process: for a few rows, which are done before a process could start."""

    def __init__(
        self,
        signers: Iterable[OCSPSigner],
        segments: Segments | None = None,
        router: IssuerRouter | None = None,
    ) -> None:
        self._signer = BatchSigner(signers, segments, router)
        self._lock = asyncio.Lock()

    async def sign(self, rows: PackedRows | Chunk, now: datetime) -> Signed:
        """Sign rows."""
        async with self._lock:
            return await asyncio.to_thread(self._signer.sign, rows, now)

    async def finish(self) -> list[str]:
        """Finish the segment written so far."""
        async with self._lock:
            path = await asyncio.to_thread(self._signer.finish)
        return [path] if path is not None else []
