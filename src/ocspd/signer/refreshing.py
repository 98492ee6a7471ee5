"""The signer daemon: follows certdb's change feed and keeps every response of an index fresh.

Four tasks share one index directory (`generations`) and one database:

    follow   reads the change feed and publishes responses for what changed, within milliseconds (`changes`)
    passes   streams the status of every certificate and signs what is missing or different in the index
             or past its refresh point; since the index decides this, a pass can be killed and started
             again without losing what it had signed (`presigning`)
    merges   keeps the number of segments small
    signers  reloads responder certificates and keys replaced on disk

The invariants, and where they are enforced:

 1. Once a revocation is committed, nothing published more than the bound after it is good for that CertID
    until its rows are. `_follow` signs changes by the present rows, and moves its cursor only when that is
    published; it waits for no pass, and each batch is done in a fraction of a second (`changes.Pace`). What
    an interruption of the feed has hidden is found by a pass and a sweep (`sweeping`).
 2. Revoked wins over other rows of one CertID: `resolving`.
 3. No row, key, issuer, file or process ends the daemon or delays others: `_forever` retries after any
    error, failing rows and signers only leave out themselves (`signing`), and what is left out is counted.
    Every operation works on one snapshot of the signers (`signers`).
 4. What is published never goes back: `generations`.
 5. Every signal is true: `health`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd.certdb.feed import CursorLostError, OtherDatabaseError, UnrecordedChangesError
from ocspd.errors import CodedError, DERError, IndexFileError, OCSPDError
from ocspd.logs import logger
from ocspd.model import CertStatus
from ocspd.recovery import Recovery
from ocspd.signer.changes import Crew, Pace, Postponed, certificates_of, decide, sign_decided
from ocspd.signer.daemon_state import DaemonState
from ocspd.signer.polling import Polling
from ocspd.signer.presigning import HELD, run_pass, usable_cpus
from ocspd.signer.resolving import AllRows
from ocspd.signer.response_table import TableTurns, write_changes
from ocspd.signer.signer_parts import SKIPPED_KEPT, SignerStats
from ocspd.signer.signers import Signers
from ocspd.signer.signing import LocalSigning
from ocspd.signer.signing_pool import Pools
from ocspd.signer.staleness import Staleness
from ocspd.signer.sweeping import good_responses
from ocspd.signer.tally import SkippedRow
from ocspd.tasks import Tasks, cancelled_from_outside, time_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ocspd.certdb.feed import ChangeFeed, Cursor
    from ocspd.clock import Clock
    from ocspd.index._writer import SegmentWriter
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.generations import Generations
    from ocspd.signer.signer_parts import RefreshSettings, RefreshSource, SignerSource
    from ocspd.signer.signers import CertKey
    from ocspd.signer.signing import RowSigner
    from ocspd.signer.staleness import StaleRows
    from ocspd.signer.tally import Progress

_FEED_WAIT_S = 5.0
_TRIM_KEEP = timedelta(days=1)
_POSTPONED_S = 5.0
_FOLLOW_S = 0.5
"""Longest pause before the feed is retried: changes are signed within a second of its return."""
_CLOCK_STEP_S = 60.0
"""A clock that moves by this much more, or less, than time was set: responses may have expired or be from
the future."""
_EXPIRY_WARNING = timedelta(days=14)


class SignerDaemon:
    """One signer at work. The caller holds the lock of the generations' directory."""

    def __init__(  # noqa: PLR0913  (one collaborator each)
        self,
        *,
        db: RefreshSource,
        source: SignerSource,
        generations: Generations,
        clock: Clock,
        settings: RefreshSettings,
        pools: Pools | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_pass: Callable[[], None] | None = None,
    ) -> None:
        """`on_progress` is called with the progress of a pass, `on_pass` when one has ended.

        `pools` makes signing processes.
        """
        self.stats = SignerStats()
        self.ready = asyncio.Event()
        """Set when the first pass is published: every certificate known then has its response."""
        self._db = db
        self._source = source
        self._generations = generations
        self._clock = clock
        self._settings = settings
        self._on_progress = on_progress
        self._on_pass = on_pass
        self._signers = Signers.of(())
        self._local: RowSigner = LocalSigning(())
        self._pools = pools or Pools()
        self._crew = Crew(settings.processes or usable_cpus(), self._pools)
        self._postponed = Postponed()
        self._turns = TableTurns()
        self._trimming = Recovery(
            meanwhile="entries that have been read stay in the change feed", level=logging.WARNING
        )
        self._state = DaemonState(generations.directory)
        self._signing_changes = asyncio.Lock()
        self._passing = False  # whether responses for rows read a while ago may still be published
        self._blind = False  # the database does not record every change
        self._pass_wanted = asyncio.Event()
        self._polling = Polling(self._pass_wanted)
        self._check_due = asyncio.Event()
        self._following = asyncio.Event()  # no pass before the feed has a cursor, or changes would be missed

    def now_s(self) -> float:
        """Return the time by the signer's clock, in seconds since the epoch."""
        return self._clock.now().timestamp()

    def check_now(self) -> None:
        """Check certificates and keys at once, not only when the next check is due."""
        self._check_due.set()

    def sign_again(self) -> None:
        """Sign all responses again as fast as a pass can: a responder key is no longer trusted.

        The request is kept beside the index until it is done, even over a restart.
        """
        minute = 60
        # producedAt is cut down to the minute: those of this minute count as before
        self._state.sign_again_s = int(self._clock.now().timestamp()) // minute * minute + minute
        logger.info("signing all responses again; see the progress of the pass")
        self._pass_wanted.set()

    async def run(self) -> None:
        """Run until cancelled. Raises OCSPDError at once if there are no usable signers at the start."""
        self._generations.load()
        self._state.load()
        self._state.note_database(self._db.name)
        if self._state.sign_again_s:
            self._state.save()
        signers = self._source.load()
        if signers is not None:  # None: the ones of an earlier run are still good
            self._take(signers)
        try:
            async with Tasks() as tasks:
                tasks.create_task(self._forever("database", "follow", self._follow))
                tasks.create_task(self._forever("database", "pass", self._passes))
                tasks.create_task(self._forever("index", "merge", self._merges))
                tasks.create_task(self._forever("index", "guard", self._guard_manifest))
                tasks.create_task(self._forever("keys", "signers", self._watch_signers, wake=self._check_due))
        finally:
            self._crew.dismiss()

    async def _forever(
        self, part: str, name: str, work: Callable[[], Awaitable[None]], *, wake: asyncio.Event | None = None
    ) -> None:
        """Repeat work whenever it fails, for any reason. `wake` ends the pause after a failure."""
        first_s, longest_s = self._settings.retry_s
        recovery = Recovery(retry_s=(first_s, min(longest_s, _FOLLOW_S) if name == "follow" else longest_s))
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                await work()
            except asyncio.CancelledError:
                if cancelled_from_outside():
                    raise
                self.stats.health.failed(RuntimeError("cancelled for no reason"), name, part)
            except Exception as err:  # noqa: BLE001  (a bug in one task is no reason to stop the others)
                self.stats.health.failed(err, name, part)
            recovery.failed(name, lasted_s=asyncio.get_running_loop().time() - begun)
            await recovery.pause(wake)

    # -- signers ---------------------------------------------------------------------------------

    def _take(self, signers: Sequence[OCSPSigner]) -> None:
        self._signers = Signers.of(signers)
        self._local = LocalSigning(signers)
        self.stats.responder_not_after = {
            signer.subject: signer.responder.not_valid_after_utc.timestamp() for signer in signers
        }
        self.stats.failing = {}
        for signer in signers:
            left = signer.responder.not_valid_after_utc - self._clock.now()
            if left < _EXPIRY_WARNING:
                logger.warning(
                    "responder certificate for %s expires on %s: replace the file; "
                    "it is reloaded automatically",
                    signer.subject,
                    signer.responder.not_valid_after_utc.date(),
                )
        self._check_expiry()

    def _check_expiry(self) -> None:
        now = self._clock.now()
        for signer in self._signers:
            if now >= signer.responder.not_valid_after_utc:
                end = signer.responder.not_valid_after_utc
                self._fails(
                    signer,
                    f"the responder certificate for {signer.subject} expired on {end:%Y-%m-%d %H:%M} UTC",
                )

    def _fails(self, signer: OCSPSigner, why: str) -> None:
        """Record that a signer cannot sign; it is logged once."""
        if signer.subject not in self.stats.failing:
            logger.error("%s; still signing for the other issuers", why)
        self.stats.failing[signer.subject] = why

    def _signs(self, signer: OCSPSigner) -> None:
        if signer.subject in self.stats.failing:
            del self.stats.failing[signer.subject]
            logger.info("the signer of %s works again", signer.subject)

    async def _watch_signers(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with time_limit(self._settings.signers_interval_s):
                    await self._check_due.wait()
            self._check_due.clear()
            self._check_expiry()
            signers = await asyncio.to_thread(self._source.load)
            if signers is not None:
                self._take(signers)
                self._pass_wanted.set()
                logger.info(
                    "reloaded responder certificates and keys. Responses signed before stay until they are "
                    "due for renewal: if a key was compromised, sign all again with SIGUSR1 or "
                    "refresh -resign"
                )
            self.stats.health.works("signers")

    # -- changes ---------------------------------------------------------------------------------

    async def _follow(self) -> None:
        feed = self._db.change_feed()
        try:
            cursor = self._cursor()
            if cursor is None:
                cursor = await feed.current_cursor()
                self._note_blindness(feed)
                if self._generations.segments:
                    self._state.sweep_due += 1
                if self._following.is_set():
                    self._pass_wanted.set()  # before the cursor is saved, as saving may fail
                self._state.save_cursor(self._db.name, cursor)
            async with Tasks() as tasks:
                trimming = tasks.create_task(self._trim(feed))
                try:
                    await self._read_changes(feed, cursor)
                finally:
                    trimming.cancel()
        except CursorLostError as err:
            logger.warning("%s; starting a full pass", err)
            self._state.forget_cursor(other_database=isinstance(err, OtherDatabaseError))
            self._state.save()
        except (TypeError, ValueError, LookupError, AttributeError):
            self._state.forget_cursor()  # what a feed cannot make out is no position of its own
            raise
        finally:
            await feed.close()

    async def _read_changes(self, feed: ChangeFeed, cursor: Cursor) -> None:
        pace = Pace()
        loop = asyncio.get_running_loop()
        tried = loop.time()
        tried_with = self._signers
        while True:
            begun = loop.time()
            begun_s = self._clock.now().timestamp()
            try:
                changes, after = await feed.read(cursor, pace.limit)
            except UnrecordedChangesError:
                changes, after = [], await feed.current_cursor()
                self._state.sweep_due += 1  # saved with the cursor, before the pass that is to find it
                self._polling.changed()
            self._note_blindness(feed)
            self._following.set()  # now the database is known to be the one that was followed before, if any
            self.stats.health.works("follow", "database")
            if self.stats.behind_since is None and changes:
                self.stats.behind_since = begun_s
            if changes:
                await self._sign_changes(certificates_of(changes, self._signers), self._signers)
                pace.took(len(changes), loop.time() - begun)
            if self._postponed and (self._signers is not tried_with or loop.time() - tried > _POSTPONED_S):
                tried, tried_with = loop.time(), self._signers
                signers = self._signers
                await self._sign_changes(dict.fromkeys(self._postponed.take(signers), ()), signers)
            if after != cursor:
                cursor = after
                self._state.save_cursor(self._db.name, cursor)
            self.stats.health.works("follow")
            if not changes:
                self.stats.behind_since = None
                self._crew.dismiss()
                await feed.wait(_FEED_WAIT_S)

    def _note_blindness(self, feed: ChangeFeed) -> None:
        """Have passes and sweeps find what a database does not record."""
        if feed.blind and not self._blind:
            self._pass_wanted.set()
        self._blind = bool(feed.blind)
        self.stats.health.tell("feed", "triggers", feed.blind)

    async def _trim(self, feed: ChangeFeed) -> None:
        """Remove entries that have been read from the feed from time to time, while reading."""
        while True:
            await asyncio.sleep(self._settings.trim_interval_s)
            if (cursor := self._cursor()) is None:
                continue
            try:
                await feed.trim(cursor, _TRIM_KEEP)
            except CodedError as err:
                # no reason to stop following; a right that is lacking is told once, not at every attempt
                self._trimming.failed(err.message)
            else:
                self._trimming.works()

    async def _sign_changes(self, certificates: Mapping[CertKey, Sequence[float]], signers: Signers) -> None:
        """Sign changed certificates by all of their present rows, and publish before anything else.

        `certificates` has the times of the changes of each. One call at a time, and slices of a pass wait
        for it: what is read from the database later is published later.
        """
        if certificates and isinstance(self._db, AllRows):
            async with self._signing_changes:
                await self._sign_present(self._db, certificates, signers)

    async def _sign_present(
        self, db: AllRows, certificates: Mapping[CertKey, Sequence[float]], signers: Signers
    ) -> None:
        self._turns.will_sign(certificates)
        now = self._clock.now()
        open_index = None if self._passing else self._generations.open
        decided = await decide(db, signers, certificates, now, open_index)
        if not decided:
            return
        local = self._local if signers is self._signers else LocalSigning(signers.every)
        row_signer = self._crew.for_changes(len(decided), signers, local)
        known = await asyncio.to_thread(self._known, signers)
        try:
            signed = await sign_decided(row_signer, decided, now, known)
        except OCSPDError:
            self._crew.dismiss()
            raise
        self._postponed.add(signers, [key for key in decided if key[0] in signed.failed])
        for signer_index, why in signed.failed.items():
            self._fails(signers[signer_index], why)
        for signer_index in {signer_index for signer_index, _ in signed.done}:
            self._signs(signers[signer_index])
        changed_at = [moment for key in signed.done for moment in certificates[key]]
        if signed.responses:
            await self._generations.add_changes(lambda writer: _add_all(writer, signed.responses), changed_at)
            published_at = self._clock.now().timestamp()
            for moment in changed_at:
                self.stats.observe(published_at - moment)
            if self._settings.table:
                async with self._turns.writing:
                    await write_changes(self._db, signers, signed.done)
        for row, cause in signed.skipped:
            self.stats.skipped[cause] += 1
            self.stats.skipped_rows.append(SkippedRow(row.serial, row.aki, cause))
            logger.warning("certificate %d of %s: %s", row.serial, row.aki or "no key identifier", cause)
        self.stats.changes += len(changed_at)
        self.stats.responses += len(signed.responses)

    def _known(self, signers: Signers) -> StaleRows | None:
        """Map the index to see what changes replace; None if it cannot be read at present."""
        try:
            return self._staleness(signers, 0).open()
        except IndexFileError:
            return None  # `Generations` says so, and mends it

    def _cursor(self) -> Cursor | None:
        """Return the position in this database's feed, if there is one and the index is still here."""
        return self._state.cursor_of(self._db.name) if self._generations.segments else None

    # -- passes ----------------------------------------------------------------------------------

    async def _passes(self) -> None:
        await self._following.wait()
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()  # the clock may be set meanwhile, by years on a machine that has just started
            self._pass_wanted.clear()
            self._polling.pass_begins()
            swept_s = 0.0
            try:
                swept_s = await self._pass()
            finally:
                if self._on_pass is not None:
                    self._on_pass()
            elapsed = loop.time() - begun
            self.stats.passes += 1
            self.stats.pass_seconds = elapsed
            self.stats.pass_ended_at = self.now_s()
            self.stats.health.works("pass")
            self.ready.set()
            self._polling.pass_ended(elapsed - swept_s, sweep_due=bool(self._state.sweep_due))
            with contextlib.suppress(TimeoutError):
                settings = self._settings
                interval_s = settings.blind_interval_s if self._blind else settings.pass_interval_s
                pause = max(interval_s, 9 * elapsed)
                async with time_limit(pause):
                    await self._pass_wanted.wait()

    async def _pass(self) -> float:
        """Make one pass; return how many seconds the sweep at its end took."""
        signers = self._signers
        signed_after_s = self._state.sign_again_s
        sweep = self._state.sweep_due if self._polling.may_sweep() else 0
        self._turns.begin_pass(table=self._settings.table)
        self._passing = True
        await self._generations.begin_pass()
        skipped: deque[SkippedRow] = deque(maxlen=SKIPPED_KEPT)
        failed: dict[int, str] = {}
        tally = await run_pass(
            self._db,
            signers,
            clock=self._clock,
            processes=self._settings.processes,
            background=True,
            table=self._settings.table,
            segments=_Slices(self._generations, self._settings.slice_responses, self._signing_changes),
            staleness=self._staleness(signers, signed_after_s),
            turns=self._turns,
            hold=lambda: self._state.other_database,
            pools=self._pools,
            on_progress=self._on_progress,
            on_skip=skipped.append,
            on_failed=failed.__setitem__,
        )
        await self._generations.end_pass()
        self._passing = False
        if not self._generations.segments:  # an empty index is an index: responders start with it
            await self._generations.publish()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if sweep or self._blind:
            await self._sweep(signers)
        swept_s = loop.time() - begun
        self._polling.sweep_ended(swept_s)
        if sweep and self._state.sweep_due == sweep:  # the feed was not interrupted again meanwhile
            self._state.sweep_due = 0
            self._state.save()
        for signer_index, why in failed.items():
            self._fails(signers[signer_index], why)
        self.stats.pass_certificates = tally.certificates
        self.stats.responses += tally.responses
        self.stats.foreign = tally.foreign.total()
        self.stats.unreadable = tally.unreadable
        if tally.held and tally.held != self.stats.held:
            some = [f"{row.serial} of {row.aki}" for row in skipped if row.cause == HELD][:10]
            logger.warning(
                "%d certificates stay revoked although they are not revoked in this database, which replaced "
                "another one (%s): revoke them again, or change their rows if they are to be good",
                tally.held,
                ", ".join([*some, "..."][: tally.held]),
            )
        self.stats.held = tally.held
        self.stats.skipped = Counter(tally.skipped)
        self.stats.skipped_rows = skipped
        if signed_after_s and not failed and self._state.sign_again_s == signed_after_s:
            self._state.sign_again_s = 0
            self._state.save()
            logger.info("all responses have been signed again")
        return swept_s

    def _staleness(self, signers: Signers, signed_after_s: int) -> Staleness:
        return Staleness.of(
            self._generations.directory.path,
            self._generations.segments,
            signers.every,
            self._settings.spread,
            signed_after_s=signed_after_s,
        )

    async def _sweep(self, signers: Signers) -> None:
        """Sign as unknown what is good in the index but not, or no longer, in the database."""
        if not isinstance(self._db, AllRows):
            return
        index = await asyncio.to_thread(self._generations.open)
        now = self._clock.now()
        async for batch in good_responses(index, signers, int(now.timestamp())):
            keys = dict.fromkeys(batch)
            decided = await decide(self._db, signers, keys, now, lambda: index)
            wrong = {key: () for key in keys if key in decided and decided[key].row.status != CertStatus.GOOD}
            await self._sign_changes(wrong, signers)

    # -- merges ----------------------------------------------------------------------------------

    async def _merges(self) -> None:
        while True:
            if await self._generations.merge():
                self.stats.health.works("merge")
            else:
                await asyncio.sleep(self._settings.merge_interval_s)

    async def _guard_manifest(self) -> None:
        """See that manifest and clock stay what they were; beside merges, one of which may take minutes."""
        ahead_s = self._clock_ahead_s()
        while True:
            await asyncio.sleep(self._settings.merge_interval_s)
            before_s, ahead_s = ahead_s, self._clock_ahead_s()
            if abs(ahead_s - before_s) > _CLOCK_STEP_S:
                logger.warning(
                    "the clock was set %s by %d s, or the machine was asleep: checking every response",
                    "forward" if ahead_s > before_s else "back",
                    abs(ahead_s - before_s),
                )
                self._pass_wanted.set()
            await self._generations.mend()
            self.stats.health.works("guard")
            if self._generations.pass_wanted:
                self._pass_wanted.set()

    def _clock_ahead_s(self) -> float:
        return self.now_s() - asyncio.get_running_loop().time()


def _add_all(writer: SegmentWriter, responses: Sequence[tuple[bytes, int]]) -> None:
    for der, due_s in responses:
        with contextlib.suppress(DERError):  # a response an index has no room for is in nobody's way
            writer.add(der, due_s)


class _Slices:
    """Publishes the segments of a running pass (`presigning.SegmentSink`)."""

    def __init__(self, generations: Generations, limit: int, signing_changes: asyncio.Lock) -> None:
        self.prefix = generations.directory.prefix
        self.machine = generations.directory.machine
        self.limit = limit
        self._generations = generations
        self._signing_changes = signing_changes

    async def publish(self, paths: list[str]) -> None:
        """Publish one slice, after changes whose rows may have been read before its own."""
        async with self._signing_changes:
            pass
        await self._generations.add_slice(paths)
