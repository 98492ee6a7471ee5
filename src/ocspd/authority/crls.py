"""The CRL of the CA, kept up to date as the database changes: signed ahead, so that serving it costs nothing.

`CRLPublisher` follows the change feed as the signer of responses does. These hold:

 1. What is committed as revoked is on the CRL within a second, whoever wrote it. After an interruption the
    database is read whole before anything is published.
 2. Numbers and thisUpdate never go back. A CRL number is the time in milliseconds (decision 0016), so that
    it needs no storage, and several servers of one CA agree.
 3. A revoked certificate that has expired stays on one regularly scheduled CRL issued after that (RFC 5280
    §3.3).
 4. A database that replaces another one takes no revocation back (decision 0015): only a change of its row
    does.
 5. While the database is away, the last CRL is served until its nextUpdate and not longer; it is not signed
    again, as nobody knows what it should list.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd.authority.crl_journal import MAX_CHANGES, Journal
from ocspd.authority.revocations import Revocations
from ocspd.authority.revoked_list import RevokedList
from ocspd.certdb.feed import CursorLostError, OtherDatabaseError, UnrecordedChangesError
from ocspd.errors import OCSPDError
from ocspd.logs import logger
from ocspd.model import CertStatus
from ocspd.pki import crl_writer
from ocspd.recovery import Recovery, without_details
from ocspd.tasks import cancelled_from_outside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ocspd.certdb.base import CertDB
    from ocspd.certdb.feed import ChangeFeed, Cursor, StatusRowChange
    from ocspd.clock import Clock
    from ocspd.pki.crl_writer import CRLSigner

_MAX_RENEWAL = timedelta(hours=24)
_LIMIT = 1000
_WAIT_S = 5.0
_PAUSE_S = 0.1
"""Between two readings that found something: changes of that time are taken together."""
_BUSY_S = 0.5
"""While more changes are waiting than one reading takes, a CRL is signed this often."""
_BLIND_S = 60.0
_REST = 4
"""A database that does not record what changed is read whole after each commit, for a fifth of the time."""
_JITTER = timedelta(minutes=1)
"""A clock that went back by no more than this is one that was corrected."""


def next_number(now: datetime, last: int = 0) -> int:
    """Return the number of a CRL signed now: milliseconds since the epoch, but above the last one."""
    return max(last + 1, int(now.timestamp() * 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLSettings:
    """How CRLs are made and served."""

    validity: timedelta = timedelta(days=7)
    """From thisUpdate to nextUpdate. A CRL is replaced after half of it, after a day at the latest."""
    delta_url: str = ""
    """Where clients find the delta CRL, named by complete ones (freshestCRL); "" if they do not."""
    max_age: timedelta = timedelta(hours=1)
    """How long caches may keep a CRL; it ends at nextUpdate anyway."""

    @property
    def renewal(self) -> timedelta:
        """How long after a CRL the next one is issued at the latest."""
        return min(self.validity / 2, _MAX_RENEWAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCRL:
    """One CRL as it is served."""

    der: bytes
    number: int
    base: int | None
    """BaseCRLNumber of a delta CRL."""
    this_update: datetime
    next_update: datetime
    entries: int
    modified: datetime
    """The first whole second in which nobody could still get the CRL before."""

    @property
    def etag(self) -> str:
        """A strong entity tag: the signature, at the end, covers every byte that varies."""
        return f'"{hashlib.sha256(self.der[-8192:]).hexdigest()[:32]}"'


class CRLPublisher:
    """Keeps `complete` and `delta` up to date while `run` runs."""

    def __init__(
        self,
        db: CertDB,
        signer: CRLSigner,
        settings: CRLSettings,
        clock: Clock,
        *,
        predecessor: CRLPublisher | None = None,
    ) -> None:
        """`predecessor` published for the same server, and is stopped before this one runs.

        If it was for the same CA, its CRL is served until there is another, and what it knew is kept.
        """
        self.settings = settings
        self.signer = signer
        self.complete: SignedCRL | None = None
        """The last CRL; it may have expired."""
        self.signed = 0
        """How many complete CRLs were signed."""
        self.held = 0
        """How many certificates are on the CRL only because of invariant 4."""
        self._db = db
        self._clock = clock
        self._revocations = Revocations(db, signer.certificate, signer.aki, clock)
        self._list = RevokedList()
        self._cursor: Cursor | None = None
        self._pending: set[int] = set()
        self._journal = Journal(settings.validity.total_seconds())
        self._delta: SignedCRL | None = None
        self._signing_delta = asyncio.Lock()
        self._regular: datetime | None = None
        """thisUpdate of the last regularly scheduled CRL."""
        self._reread = True
        """Whether the database must be read whole before anything is signed."""
        self._unread = False
        """Whether the database has changed and does not record how."""
        self._other_database = False
        self._blind = ""
        self._told = (0, 0)
        self._recovery = Recovery(
            again="the CRL follows the database again", retry_s=(0.25, 2.0), same=without_details
        )
        self._predecessor: CRLPublisher | None = None
        if predecessor is not None and predecessor.signer.is_same_ca(signer):
            self._predecessor = predecessor
            self.complete = predecessor.complete

    @property
    def trouble(self) -> str:
        """Why the CRL does not follow the database at present, "" while it does."""
        return self._recovery.trouble or self._blind

    # -- following -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the database until cancelled, whatever fails."""
        if self._predecessor is not None:
            self._take_over(self._predecessor)
            self._predecessor = None
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self._follow()
            except asyncio.CancelledError:
                if cancelled_from_outside():
                    raise
                self._failed("cancelled for no reason", loop.time() - begun)
            except CursorLostError as err:
                self._other_database = self._other_database or isinstance(err, OtherDatabaseError)
                self._cursor = None
                self._failed(str(err), loop.time() - begun)
            except OCSPDError as err:
                self._failed(getattr(err, "message", str(err)), loop.time() - begun)
            except Exception as err:  # noqa: BLE001  (a bug here is no reason to stop the API)
                self._cursor = None  # which may be what cannot be made out
                self._failed(f"unexpected {type(err).__name__}: {err}", loop.time() - begun)
            await self._recovery.pause()

    def _take_over(self, other: CRLPublisher) -> None:
        """Go on where the predecessor stopped: its database may have been replaced by another one."""
        self.complete = other.complete
        self._list, self._cursor = other._list, other._cursor
        self._other_database = other._other_database

    def _failed(self, why: str, lasted_s: float) -> None:
        current = self.complete
        meanwhile = "there is no CRL yet"
        if current is not None:
            meanwhile = f"the last CRL is served until {current.next_update:%Y-%m-%d %H:%M:%S} UTC"
        self._recovery.failed(why, meanwhile=meanwhile, lasted_s=lasted_s)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        feed = self._db.change_feed()
        try:
            if self._cursor is None:
                self._cursor = await feed.current_cursor()
                self._reread = True  # what changed before is in what is read now
            signed_at = loop.time()
            rest_until = 0.0
            while True:
                # first, because it shows whether this is the database that was followed before
                changes = await self._read_changes(feed, self._cursor)
                waiting = len(changes) >= _LIMIT
                if self._is_due() or ((self._unread or self._blind) and loop.time() > rest_until):
                    begun = loop.time()
                    await self._read_all()
                    signed_at = loop.time()
                    rest_until = signed_at + (_BLIND_S if self._blind else _REST * (signed_at - begun))
                elif self._pending and not (waiting and loop.time() - signed_at < _BUSY_S):
                    await self._sign()
                    signed_at = loop.time()
                self._recovery.works()
                if changes:
                    await asyncio.sleep(_PAUSE_S)
                else:
                    await feed.wait(_WAIT_S)
        finally:
            await feed.close()

    async def _read_changes(self, feed: ChangeFeed, cursor: Cursor) -> Sequence[StatusRowChange]:
        """Take over what has changed and move the cursor behind it."""
        changes: Sequence[StatusRowChange] = ()
        try:
            changes, after = await feed.read(cursor, _LIMIT)
        except UnrecordedChangesError:
            after = await feed.current_cursor()
            self._unread = True
        await self._apply(changes)
        self._cursor = after
        self._note_blindness(feed.blind)
        return changes

    def _note_blindness(self, blind: str) -> None:
        if blind and blind != self._blind:
            logger.warning("%s; until then the CRL follows the database once a minute", blind)
        self._blind = blind

    def _is_due(self) -> bool:
        if self._reread or self.complete is None:
            return True
        now = self._clock.now()
        return self._regular_is_due(now) or now < self.complete.this_update - _JITTER

    def _regular_is_due(self, now: datetime) -> bool:
        regular = self._regular
        return regular is None or now >= regular + self.settings.renewal or now < regular - _JITTER

    async def _apply(self, changes: Sequence[StatusRowChange]) -> None:
        """Take over what changes report; most of them are certificates just issued, which need no query."""
        touched = {
            change.serial
            for change in changes
            if self._revocations.may_be_own(change.aki)
            and (
                (change.row is not None and change.row.status is CertStatus.REVOKED)
                or change.serial in self._list
            )
        }
        if not touched:
            return
        now = self._clock.now()
        after_s = self._expired_after(now).timestamp()
        for serial, revoked in (await self._revocations.find(touched)).items():
            if revoked is None:
                expiry_s = self._list.expiry_s(serial)
                # what has expired stays as long as invariant 3 wants it, even if its row is deleted
                changed = expiry_s is not None and expiry_s > now.timestamp() and self._list.remove(serial)
            else:
                changed = revoked.expiry_s > after_s and self._list.put(revoked)
            if changed:
                self._pending.add(serial)

    def _expired_after(self, now: datetime) -> datetime:
        """Return the time after which a listed certificate must expire (invariant 3).

        A regular CRL of the future was issued by a clock that was wrong: it says nothing of what has expired.
        """
        if self._regular is None or now < self._regular:
            return now - self.settings.validity
        return self._regular

    async def _read_all(self) -> None:
        """Make the list anew from the database, and sign it if it is another one or due."""
        now = self._clock.now()
        after = self._expired_after(now)
        revocations, fresh = self._revocations, RevokedList()
        self._reread = self._unread = False
        try:
            async for some in revocations.read(after):
                for revoked in some:
                    fresh.put(revoked)
            before = self._list
            now_s = now.timestamp()
            fresh.keep_from(before, after.timestamp(), now_s)  # rows may be deleted when they have expired
            kept = fresh.keep_from(before, now_s, math.inf) if self._other_database else 0
            if kept and kept != self.held:
                logger.warning(
                    "%d certificates stay on the CRL although they are not revoked in this database, which "
                    "replaced another one: revoke them again, or change their rows if they are to be good",
                    kept,
                )
            self.held = kept
            self._tell_left_out()
            self._pending |= await asyncio.to_thread(lambda: set(fresh.differences(before)))
            self._list = fresh
            regular = self._regular_is_due(now)
            current = self.complete
            if regular or self._pending or current is None or now < current.this_update - _JITTER:
                await self._sign()
        except BaseException:
            self._reread = True
            raise
        if regular and self.complete is not None:
            self._regular = self.complete.this_update

    def _tell_left_out(self) -> None:
        told = (self._revocations.foreign, self._revocations.unreadable)
        if told != self._told and any(told):
            logger.info("%s", left_out(*told))
        self._told = told

    # -- signing -------------------------------------------------------------------------------------

    async def _sign(self) -> None:
        before = self.complete
        now = self._clock.now()
        this_update = now.replace(microsecond=0)
        if before is not None and timedelta() < before.this_update - this_update <= _JITTER:
            this_update = before.this_update
        heading = crl_writer.Heading(
            number=next_number(now, 0 if before is None else before.number),
            this_update=this_update,
            next_update=this_update + self.settings.validity,
            freshest=self.settings.delta_url,
        )
        runs, size = self._list.runs()
        count = len(self._list)
        der = await asyncio.to_thread(self.signer.sign, heading, runs, size)
        now_s = int(now.timestamp())
        changes = None
        if not self._journal.is_empty and len(self._pending) <= MAX_CHANGES:
            changes = await asyncio.to_thread(self._entries_for_deltas, now_s)
        self._journal.note(heading.number, now_s, changes)
        self._pending.clear()
        self._delta = None
        self.signed += 1
        self.complete = SignedCRL(
            der=der,
            number=heading.number,
            base=None,
            this_update=heading.this_update,
            next_update=heading.next_update,
            entries=count,
            modified=self._next_second(),
        )

    def _entries_for_deltas(self, now_s: int) -> dict[int, bytes]:
        return {
            serial: self._list.entry(serial) or crl_writer.removal(serial, now_s) for serial in self._pending
        }

    def _next_second(self) -> datetime:
        return self._clock.now().replace(microsecond=0) + timedelta(seconds=1)

    async def delta(self) -> SignedCRL | None:
        """Return the delta CRL to all complete CRLs in force, signed when it is first asked for."""
        async with self._signing_delta:
            complete = self.complete
            if complete is None or self._delta is not None or self._journal.is_empty:
                return self._delta
            entries = list(self._journal.entries())
            heading = crl_writer.Heading(
                number=complete.number,
                base=self._journal.base,
                this_update=complete.this_update,
                next_update=complete.next_update,
            )
            der = await asyncio.to_thread(self.signer.sign, heading, entries)
            made = SignedCRL(
                der=der,
                number=heading.number,
                base=heading.base,
                this_update=heading.this_update,
                next_update=heading.next_update,
                entries=len(entries),
                modified=self._next_second(),
            )
            if self.complete is complete:
                self._delta = made
            return made


def left_out(foreign: int, unreadable: int) -> str:
    """Return the text about rows that are not on a CRL."""
    parts = []
    if foreign:
        parts.append(f"{foreign} revoked {_certificates(foreign)} of other CAs (by key identifier)")
    if unreadable:
        parts.append(f"{unreadable} {_certificates(unreadable)} without a readable serial number")
    return f"left out of the CRL: {' and '.join(parts)}"


def _certificates(count: int) -> str:
    return "certificate" if count == 1 else "certificates"
