"""Exactly once: a request that comes again, with the same Idempotency-Key, gets the same certificate.

The key is stored with the certificate in one transaction. So it holds across restarts and across servers on
one database, and there is no state in which one of the two exists without the other. Requests with the same
key at the same time: in one server the second waits for the first; of two servers that both sign, the
database takes one certificate, and both return that one.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd.errors import OCSPDError
from ocspd.logs import logger
from ocspd.model import AnsweredRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.model import CertificateRow

REMEMBERED = timedelta(hours=24)
"""How long a key is remembered."""
_TRIM_S = 600.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


class BadKeyError(OCSPDError):
    """A key that is not 1 to 255 visible ASCII characters, or that cannot be used here."""


class OtherRequestError(OCSPDError):
    """The key of another request."""


class AnsweredError(OCSPDError):
    """A request that was answered before, and whose answer cannot be given again."""


@dataclass(frozen=True, slots=True)
class Once:
    """A request by the SHA-256 of its key and of its content."""

    key: bytes
    digest: bytes
    repeatable: bool = True
    """Whether the certificate alone is an answer; off for one that goes with a private key."""

    @classmethod
    def of(cls, key: str, scope: str, content: bytes, *, repeatable: bool = True) -> Once:
        """Identify a request to the endpoint `scope`; BadKeyError for a key that is none."""
        if not _KEY.fullmatch(key):
            raise BadKeyError("Idempotency-Key is not 1 to 255 visible ASCII characters without spaces")
        digest = hashlib.sha256(b"\0".join((scope.encode(), content)))
        return cls(hashlib.sha256(key.encode()).digest(), digest.digest(), repeatable)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with; `again` if the certificate was issued for an earlier one."""

    row: CertificateRow
    again: bool


class Answers:
    """The requests that were answered, in the database, and those that are being answered here."""

    def __init__(self, db: CertDB | None, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._pending: dict[bytes, tuple[bytes, asyncio.Future[Answer]]] = {}
        self._trim_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(
        self, request: Once, issue: Callable[[AnsweredRequest], Awaitable[CertificateRow]]
    ) -> Answer:
        """Return the certificate of an earlier request with this key, or issue one and remember that.

        BadKeyError without a database, OtherRequestError when the key is another request's; otherwise what
        `issue` raises.
        """
        if self._db is None:
            raise BadKeyError(
                "Idempotency-Key cannot be used: this server has no database (-db-config) to remember it in"
            )
        pending = self._pending.get(request.key)
        if pending is not None:
            digest, future = pending
            _compare(digest, request)
            first = await asyncio.shield(future)
            return Answer(first.row, again=True)
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[Answer] = loop.create_future()
        self._pending[request.key] = request.digest, mine
        task = loop.create_task(self._work(self._db, request, issue, mine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(mine)

    async def _work(
        self,
        db: CertDB,
        request: Once,
        issue: Callable[[AnsweredRequest], Awaitable[CertificateRow]],
        future: asyncio.Future[Answer],
    ) -> None:
        """Answer a request; whoever waits for it may leave."""
        try:
            found = await self._find(db, request)
            if found is None:
                found = await self._issue(db, request, issue)
        except Exception as err:  # noqa: BLE001  (for those who wait)
            future.set_exception(err)
            future.exception()  # nobody may be left to hear of it
        else:
            future.set_result(found)
        finally:
            del self._pending[request.key]
        await self._trim(db)

    async def _issue(
        self, db: CertDB, request: Once, issue: Callable[[AnsweredRequest], Awaitable[CertificateRow]]
    ) -> Answer:
        remembered = AnsweredRequest(
            key=request.key, digest=request.digest, expires_at=self._clock.now() + REMEMBERED
        )
        try:
            return Answer(await issue(remembered), again=False)
        except OCSPDError:
            # another server may have been faster; if that cannot be found out, the first error tells more
            try:
                found = await self._find(db, request)
            except OtherRequestError:
                raise
            except OCSPDError:
                found = None
            if found is None:
                raise
            return found

    async def _find(self, db: CertDB, request: Once) -> Answer | None:
        for earlier in await db.find_answers([request.key]):
            _compare(earlier.digest, request)
            row = await db.get_certificate(earlier.serial, earlier.aki)
            if row is not None:
                return Answer(row, again=True)
            raise OtherRequestError(
                f"the certificate issued for this Idempotency-Key, with serial number {earlier.serial}, is "
                "no longer in the database: use another key"
            )
        return None

    async def _trim(self, db: CertDB) -> None:
        """Now and then forget what need not be remembered any longer."""
        now = asyncio.get_running_loop().time()
        if now < self._trim_at:
            return
        self._trim_at = now + _TRIM_S
        try:
            count = await db.trim_answers()
        except OCSPDError as err:
            logger.warning("expired Idempotency-Keys cannot be deleted: %s", err)
        else:
            logger.debug("%d expired Idempotency-Keys deleted", count)


def _compare(digest: bytes, request: Once) -> None:
    if digest != request.digest:
        raise OtherRequestError("this Idempotency-Key was used for another request: use another key")
