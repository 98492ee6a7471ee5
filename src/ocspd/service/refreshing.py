"""The signer that never stops: follows certdb's change feed and keeps every answer of an index fresh.

Four tasks share one index directory (`generations`) and one database:

    follow   reads the change feed and publishes answers to what changed, within milliseconds
    passes   streams the status of every certificate and signs what the index lacks, says differently
             or has past its refresh point; being asked of the index, a pass can be killed and
             begun again without losing what it had signed
    merges   keeps the number of segments small
    signers  takes over responder certificates and keys replaced on disk

A failure of the database, the disk or a key file ends none of them: what is published goes on being
served, the task tries again with growing pauses, and the log says so once when the state changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from ocspd import strict_json
from ocspd.certdb.feed import CursorLostError
from ocspd.errors import IndexFileError, OCSPDError
from ocspd.files import read_bounded, write_atomic
from ocspd.logs import logger
from ocspd.model import normalize_aki
from ocspd.service.presigning import (
    CHUNK_ROWS,
    LOCAL_ROWS,
    StatusSource,
    by_issuer,
    refresh_table,
    usable_cpus,
)
from ocspd.service.signing import LocalSigning, to_chunk
from ocspd.service.signing_pool import SigningPool
from ocspd.service.staleness import Staleness
from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from ocspd._writer import SegmentWriter
    from ocspd.certdb.feed import ChangeFeed, Cursor, StatusRowChange
    from ocspd.clock import Clock
    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.service.generations import Generations
    from ocspd.service.presigning import Progress, SkippedRow
    from ocspd.service.publishing import PublishStats
    from ocspd.service.signing import Signing
    from ocspd.service.staleness import StaleRows

STATE_NAME = "signer.json"
"""The file beside the manifest that keeps the position in the change feed."""
_FEED_LIMIT = 5_000
_FEED_WAIT_S = 5.0
_TRIM_EVERY_S = 600.0
_TRIM_KEEP = timedelta(days=1)
_BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SKIPPED_KEPT = 1_000
_MAX_STATE_BYTES = 16 << 20
"""A snapshot names every transaction that was open: a few bytes for each."""
_SNAPSHOT = re.compile(r"[0-9]{1,20}:[0-9]{1,20}:(?:[0-9]{1,20}(?:,[0-9]{1,20})*)?")
_MEANWHILE = {"signers_up": "the signers loaded before stay in use"}
_AGAIN = {
    "database_up": "the source of certificates works again",
    "index_up": "the index can be written again",
    "signers_up": "certificates and keys can be used again",
}
_EXPIRY_WARNING = timedelta(days=14)


class RefreshSource(StatusSource, Protocol):
    """Whose certificates are answered: any `certdb.base.CertDB`, or files (`importing.FileStatus`)."""

    @property
    def name(self) -> str:
        """The source for messages."""
        ...

    def change_feed(self) -> ChangeFeed:
        """Return a feed of changes; close it after use."""
        ...


class SignerSource(Protocol):
    """Where the signers come from: files that may be replaced while the daemon runs."""

    def load(self) -> Sequence[OCSPSigner] | None:
        """Return the signers when they are new or have changed since the last call, else None.

        Raises OCSPDError when what lies there now cannot be used; the old signers stay in use then.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSettings:
    """How a signer works. Durations in seconds."""

    processes: int = 0
    """Signing processes of a pass; 0 is one for each usable CPU."""
    pass_interval_s: float = 600.0
    """Pause between passes; at least nine times the length of the last pass is kept in any case."""
    slice_answers: int = 1_000_000
    """A running pass publishes what it has after this many answers."""
    spread: float = 0.25
    """The share of an answer's life by which its renewal may come early, by a hash of the serial."""
    merge_interval_s: float = 5.0
    signers_interval_s: float = 5.0
    table: bool = False
    """Whether answers are also written to certdb's `ocsp_responses`, as CFSSL's ocsprefresh does."""


@dataclass(slots=True)
class RefreshStats:
    """What a signer has done, for metrics and tests."""

    database_up: bool = True
    index_up: bool = True
    signers_up: bool = True
    changes: int = 0
    """Changes answered; `answers` counts the signatures of changes and passes."""
    answers: int = 0
    passes: int = 0
    pass_certificates: int = 0
    """Certificates the last pass saw, and how long it took."""
    pass_seconds: float = 0.0
    pass_ended_at: float = 0.0
    foreign: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows the last pass could not sign, by cause; the first of them in `skipped_rows`."""
    skipped_rows: deque[SkippedRow] = field(default_factory=lambda: deque(maxlen=_SKIPPED_KEPT))
    publish_latency_s: Counter[float] = field(default_factory=Counter)
    """Histogram of commit-to-published, by upper bound; the sum in `publish_latency_sum_s`."""
    publish_latency_sum_s: float = 0.0
    publishing: tuple[PublishStats, ...] = ()
    """The places the index is also published to."""
    responder_not_after: dict[str, float] = field(default_factory=dict)
    """When each issuer's responder certificate ends, seconds since the epoch, by issuer subject."""

    def observe(self, seconds: float) -> None:
        """Count one change's latency from commit to publication."""
        seconds = max(seconds, 0.0)
        self.publish_latency_s[next(bound for bound in LATENCY_BOUNDS_S if seconds <= bound)] += 1
        self.publish_latency_sum_s += seconds


LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, float("inf"))


class Refresher:
    """One signer at work. The caller holds the lock of the generations' directory."""

    def __init__(  # noqa: PLR0913  (one collaborator each)
        self,
        *,
        db: RefreshSource,
        source: SignerSource,
        generations: Generations,
        clock: Clock,
        settings: RefreshSettings,
        on_progress: Callable[[Progress], None] | None = None,
        on_pass: Callable[[], None] | None = None,
    ) -> None:
        """`on_progress` is told how far a pass is, `on_pass` that one has ended, well or not."""
        self.stats = RefreshStats()
        self.ready = asyncio.Event()
        """Set when the first pass is published: every certificate known then has its answer."""
        self._db = db
        self._source = source
        self._generations = generations
        self._clock = clock
        self._settings = settings
        self._on_progress = on_progress
        self._on_pass = on_pass
        self._signers: Sequence[OCSPSigner] = ()
        self._numbers: dict[str, int] = {}
        self._local: Signing = LocalSigning(())
        self._pass_wanted = asyncio.Event()
        self._looking = asyncio.Event()
        self._following = asyncio.Event()  # no pass before the feed has a cursor, or changes would be missed

    def look_now(self) -> None:
        """Look at certificates and keys at once, not only when their time has come."""
        self._looking.set()

    async def run(self) -> None:
        """Work until cancelled. Raises OCSPDError at once when there are no usable signers to begin with."""
        self._generations.load()
        signers = self._source.load()
        if signers is not None:  # None: the ones of an earlier run are still good
            self._take(signers)
        async with Tasks() as tasks:
            tasks.create_task(self._forever("database_up", self._follow))
            tasks.create_task(self._forever("database_up", self._passes))
            tasks.create_task(self._forever("index_up", self._merges))
            tasks.create_task(self._forever("index_up", self._guard_manifest))
            tasks.create_task(self._forever("signers_up", self._watch_signers, wake=self._looking))

    async def _forever(
        self, part: str, work: Callable[[], Awaitable[None]], *, wake: asyncio.Event | None = None
    ) -> None:
        """Repeat work whenever it fails; the log hears of each change of state, not of each attempt.

        `wake` ends the pause after a failure.
        """
        failures = 0
        woken = asyncio.Event() if wake is None else wake
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                await work()
            except OCSPDError as err:
                name = "index_up" if isinstance(err, IndexFileError) else part
                if getattr(self.stats, name):
                    setattr(self.stats, name, False)
                    logger.error(
                        "%s; %s, trying again", err, _MEANWHILE.get(name, "what is published stays in force")
                    )
            if asyncio.get_running_loop().time() - begun > _BACKOFF_S[-1]:
                failures = 0  # it had been working
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1

    def _works(self, part: str) -> None:
        if not getattr(self.stats, part):
            setattr(self.stats, part, True)
            logger.info(_AGAIN[part])

    # -- signers ---------------------------------------------------------------------------------

    def _take(self, signers: Sequence[OCSPSigner]) -> None:
        self._numbers = by_issuer(signers)
        self._signers = signers
        self._local = LocalSigning(signers)
        self.stats.responder_not_after = {
            signer.subject: signer.responder.not_valid_after_utc.timestamp() for signer in signers
        }
        for signer in signers:
            left = signer.responder.not_valid_after_utc - self._clock.now()
            if left < _EXPIRY_WARNING:
                logger.warning(
                    "responder certificate for %s ends on %s: replace the file, it is taken over at once",
                    signer.subject,
                    signer.responder.not_valid_after_utc.date(),
                )

    async def _watch_signers(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._looking.wait(), self._settings.signers_interval_s)
            self._looking.clear()
            signers = await asyncio.to_thread(self._source.load)
            if signers is not None:
                self._take(signers)
                self._pass_wanted.set()
                logger.info("responder certificates and keys replaced; in use from now on")
            self._works("signers_up")

    async def _number_of(self, row: StatusRow) -> int | None:
        """Find the signer of a certificate: by key identifier, or by its signature when it has none."""
        if row.aki:
            number = self._numbers.get(row.aki)
            return self._numbers.get(normalize_aki(row.aki)) if number is None else number
        found = await self._db.get_certificate(row.serial, row.aki)
        if found is None:
            return None
        pem = found.pem.encode()
        return next((number for number, signer in enumerate(self._signers) if signer.issued(pem)), None)

    # -- changes ---------------------------------------------------------------------------------

    async def _follow(self) -> None:
        feed = self._db.change_feed()
        try:
            cursor = self._load_cursor()
            if cursor is None:
                cursor = await feed.current_cursor()
                self._save_cursor(cursor)
                if self._following.is_set():
                    self._pass_wanted.set()
            self._following.set()
            await self._read_changes(feed, cursor)
        except CursorLostError as err:
            logger.warning("%s; making a full pass", err)
            self._state_path.unlink(missing_ok=True)
        finally:
            await feed.close()

    async def _read_changes(self, feed: ChangeFeed, cursor: Cursor) -> None:
        trimmed_at = self._clock.now().timestamp()
        while True:
            changes, after = await feed.read(cursor, _FEED_LIMIT)
            self._works("database_up")
            if changes:
                await self._answer(changes)
                self._works("index_up")
            if after != cursor:
                cursor = after
                self._save_cursor(cursor)
            now_s = self._clock.now().timestamp()
            if now_s - trimmed_at > _TRIM_EVERY_S:
                trimmed_at = now_s
                await feed.trim(cursor, _TRIM_KEEP)
            if not changes:
                await feed.wait(_FEED_WAIT_S)

    async def _answer(self, changes: Sequence[StatusRowChange]) -> None:
        """Sign the present status of changed certificates and publish it before anything else."""
        now = self._clock.now()
        rows: dict[int, list[StatusRow]] = {}
        changed_at = []
        for change in changes:
            if change.row is None or change.row.expiry <= now:
                continue
            number = await self._number_of(change.row)
            if number is not None:
                rows.setdefault(number, []).append(change.row)
                changed_at.append(change.changed_at.timestamp())
        answers = await self._sign_changed(rows, now)
        if answers:
            await self._generations.add_changes(lambda writer: _add_all(writer, answers), changed_at)
            published_at = self._clock.now().timestamp()
            for moment in changed_at:
                self.stats.observe(published_at - moment)
        self.stats.changes += len(changed_at)
        self.stats.answers += len(answers)

    async def _sign_changed(self, rows: dict[int, list[StatusRow]], now: datetime) -> list[tuple[bytes, int]]:
        """Return answers and when they are due, for rows by signer; a mass revocation gets every CPU."""
        answers: list[tuple[bytes, int]] = []
        async with contextlib.AsyncExitStack() as stack:
            signing = self._local
            if sum(map(len, rows.values())) > LOCAL_ROWS:
                processes = self._settings.processes or usable_cpus()
                signing = await stack.enter_async_context(SigningPool(self._signers, processes=processes))
            for number, some in rows.items():
                parts = [some[at : at + CHUNK_ROWS] for at in range(0, len(some), CHUNK_ROWS)]
                known = await asyncio.to_thread(self._open_index)
                chunks = [to_chunk(number, now, part, known) for part in parts]
                for signed in await asyncio.gather(*(signing.sign(chunk) for chunk in chunks)):
                    due = self._signers[number].due_s(signed.this_update, signed.next_update)
                    for result in signed.answers:
                        if isinstance(result, str):
                            self.stats.skipped[result] += 1
                        else:
                            answers += [(der, due) for der in result]
        return answers

    def _open_index(self) -> StaleRows | None:
        """Map the index to see what changes replace; None when it cannot be read at the moment."""
        try:
            return Staleness.of(
                self._generations.directory.path, self._generations.segments, self._signers, 0
            ).open()
        except IndexFileError:
            return None  # `Generations` says so, and mends it

    @property
    def _state_path(self) -> Path:
        return self._generations.directory.path / STATE_NAME

    def _load_cursor(self) -> Cursor | None:
        """Return the feed position of an earlier run on this database, if its index is still here.

        A state that cannot be used is none: a full pass finds what changed meanwhile.
        """
        if not self._generations.segments:
            return None
        try:
            state = strict_json.read(read_bounded(self._state_path, _MAX_STATE_BYTES + 1), _MAX_STATE_BYTES)
            cursor = strict_json.member(state, "cursor")
            ours = strict_json.member(state, "database") == self._db.name
        except (OSError, ValueError):
            return None
        return cursor if ours and isinstance(cursor, dict) and all(map(_usable, cursor.items())) else None

    def _save_cursor(self, cursor: Cursor) -> None:
        state = {"database": self._db.name, "cursor": cursor}
        write_atomic(self._state_path, json.dumps(state).encode() + b"\n")

    # -- passes ----------------------------------------------------------------------------------

    async def _passes(self) -> None:
        await self._following.wait()
        while True:
            begun = self._clock.now().timestamp()
            self._pass_wanted.clear()
            try:
                await self._pass()
            finally:
                if self._on_pass is not None:
                    self._on_pass()
            elapsed = self._clock.now().timestamp() - begun
            self.stats.passes += 1
            self.stats.pass_seconds = elapsed
            self.stats.pass_ended_at = begun + elapsed
            self._works("database_up")
            self._works("index_up")
            self.ready.set()
            with contextlib.suppress(TimeoutError):
                pause = max(self._settings.pass_interval_s, 9 * elapsed)
                await asyncio.wait_for(self._pass_wanted.wait(), pause)

    async def _pass(self) -> None:
        await self._generations.begin_pass()
        skipped: deque[SkippedRow] = deque(maxlen=_SKIPPED_KEPT)
        report = await refresh_table(
            self._db,
            self._signers,
            clock=self._clock,
            processes=self._settings.processes,
            background=True,
            table=self._settings.table,
            segments=_Slices(self._generations, self._settings.slice_answers),
            staleness=Staleness.of(
                self._generations.directory.path,
                self._generations.segments,
                self._signers,
                self._settings.spread,
            ),
            on_progress=self._on_progress,
            on_skip=skipped.append,
        )
        await self._generations.end_pass()
        if not self._generations.segments:  # an empty index is an index: responders start with it
            await self._generations.publish()
        self.stats.pass_certificates = report.certificates
        self.stats.answers += report.answers
        self.stats.foreign = report.foreign.total()
        self.stats.skipped = Counter(report.skipped)
        self.stats.skipped_rows = skipped

    # -- merges ----------------------------------------------------------------------------------

    async def _merges(self) -> None:
        while True:
            if await self._generations.merge():
                self._works("index_up")
            else:
                await asyncio.sleep(self._settings.merge_interval_s)

    async def _guard_manifest(self) -> None:
        """See that the manifest stays what was published; beside merges, one of which may take minutes."""
        while True:
            await asyncio.sleep(self._settings.merge_interval_s)
            if await self._generations.mend():
                self._works("index_up")
            if self._generations.pass_wanted:
                self._pass_wanted.set()


def _usable(member: tuple[str, Any]) -> bool:
    """Whether a member of a cursor is what a feed writes: a row number, a snapshot or a short text."""
    name, value = member
    if name == "id":
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    if name in {"seen", "upto"}:
        return isinstance(value, str) and _SNAPSHOT.fullmatch(value) is not None
    if name == "xid":
        return isinstance(value, str | int) and str(value).isascii() and str(value).isdigit()
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _add_all(writer: SegmentWriter, answers: Sequence[tuple[bytes, int]]) -> None:
    for der, due in answers:
        writer.add(der, due)


class _Slices:
    """Publishes the segments of a running pass (`presigning.SegmentSink`)."""

    def __init__(self, generations: Generations, limit: int) -> None:
        self.prefix = generations.directory.prefix
        self.limit = limit
        self._generations = generations

    async def publish(self, paths: list[str]) -> None:
        """Publish one slice."""
        await self._generations.add_slice(paths)
