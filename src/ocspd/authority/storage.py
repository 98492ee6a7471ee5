"""Storing what was signed: many certificates with one commit, and each returned only after its own.

Rules:
 1. A certificate is delivered when the commit with its row is confirmed, not before.
 2. Nothing is signed while the database is known to be away. A commit or a look at the database within the
    last second, over a connection that is still open, counts as its being there; otherwise it is asked, once
    for all who wait. So when it goes away, what was signed within a second at most cannot be stored.
 3. A certificate that was signed but not stored could never be revoked: nobody gets it, it is an ERROR line,
    and the journal hears of it.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ocspd.authority.groups import Groups, apart
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.logs import logger
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextvars import Context

    from ocspd.certdb.base import CertDB
    from ocspd.model import AnsweredRequest, CertificateRow
    from ocspd.pki.issuer import SignRequest

FRESH_S = 1.0
"""See rule 2."""
_GROUP = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCertificate:
    """A certificate that was signed, and what for; `cert_pem` ends in a newline."""

    cert_pem: str
    row: CertificateRow
    request: SignRequest
    context: Context
    """That of the task that asked for it: in it, `access.actor.current` tells who that was."""
    names: tuple[str, ...] = ()
    """Its alternative names of all kinds; the row has only those of DNS."""
    again: bool = False
    """Whether it was issued before, for the same Idempotency-Key."""

    @property
    def serial(self) -> int:
        """Its serial number."""
        return self.row.serial

    @property
    def aki(self) -> str:
        """Its authority key identifier in certdb's form."""
        return self.row.aki


def log_unstored(certificate: SignedCertificate, cause: Exception) -> None:
    """Write what is known of a certificate that was signed but not stored: its only record."""
    logger.error(
        "the certificate with serial number %d, authority key identifier %s and profile %s was signed but "
        "not stored, and nobody got it: %s",
        certificate.serial,
        certificate.aki or "(none)",
        shown(certificate.request.profile, 100) or "(default)",
        cause.message if isinstance(cause, CodedError) else cause,
    )


class Journal(Protocol):
    """Hears of certificates between their signature and their delivery."""

    async def signed(self, certificates: Sequence[SignedCertificate]) -> None:
        """Hear of certificates that are about to be stored (or, without a database, delivered).

        If this raises, none of them is, and their clients get what was raised.
        """
        ...

    async def unstored(self, failures: Sequence[tuple[SignedCertificate, Exception]]) -> None:
        """Hear of certificates that were signed but not stored. Each has its ERROR line already."""
        ...


class NoJournal:
    """A Journal that keeps nothing."""

    async def signed(self, certificates: Sequence[SignedCertificate]) -> None:
        """See Journal."""

    async def unstored(self, failures: Sequence[tuple[SignedCertificate, Exception]]) -> None:
        """See Journal."""


class Delivery:
    """A signed certificate on its way into the database, and the caller that waits for it."""

    def __init__(self, request: SignRequest, answer: AnsweredRequest | None = None) -> None:
        """`answer` is remembered with the certificate (`once`)."""
        self.request = request
        self.answer = answer
        self.done: asyncio.Future[SignedCertificate] = asyncio.get_running_loop().create_future()
        self.context = copy_context()
        self.certificate: SignedCertificate | None = None

    @property
    def signed(self) -> SignedCertificate:
        """The certificate, once it is signed."""
        assert self.certificate is not None
        return self.certificate

    def deliver(self) -> None:
        """Give the certificate to the caller, unless it has left."""
        if not self.done.done():
            self.done.set_result(self.signed)

    def fail(self, error: Exception) -> None:
        """Give the caller an error, unless it has left."""
        if not self.done.done():
            self.done.set_exception(error)


class Storage:
    """The database of what was issued; `db` None stores nothing."""

    def __init__(
        self, db: CertDB | None, *, journal: Journal | None = None, fresh_s: float = FRESH_S
    ) -> None:
        self._db = db
        self._journal = journal or NoJournal()
        self._announcing = Groups(self._announce, largest=_GROUP)
        """While one group is stored, the next one is on its way into the journal."""
        self._fresh_s = fresh_s
        self._seen: float | None = None
        self._checks = Groups(self._ask, largest=1 << 30)
        self._groups = Groups(self._store, largest=_GROUP)
        self._reserved: set[tuple[int, str]] = set()

    @property
    def db(self) -> CertDB | None:
        """The database."""
        return self._db

    async def check(self) -> None:
        """Raise CodedError 11000 if nothing can be stored now (rule 2)."""
        if self._db is None or self._is_fresh(self._db):
            return
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._checks.put(answer)
        await answer

    @contextmanager
    def reserved(self, serial: int, aki: str) -> Iterator[None]:
        """Keep a serial number that a client has chosen from every other request; 1300 if one has it."""
        if (serial, aki) in self._reserved:
            raise _in_use(serial)
        self._reserved.add((serial, aki))
        try:
            yield
        finally:
            self._reserved.discard((serial, aki))

    async def check_unused(self, serial: int, aki: str) -> None:
        """Raise CodedError 1300 if a certificate has this serial number, 11000 if nobody can tell."""
        if self._db is not None and await self._db.get_certificate(serial, aki) is not None:
            raise _in_use(serial)

    def put(self, delivery: Delivery) -> None:
        """Tell the journal of the certificate of a delivery, store it, then deliver it."""
        self._announcing.put(delivery)

    async def finish(self) -> None:
        """Wait until everything that was put in is stored."""
        await self._announcing.finish()
        await self._groups.finish()

    def _is_fresh(self, db: CertDB) -> bool:
        now = asyncio.get_running_loop().time()
        return self._seen is not None and now - self._seen <= self._fresh_s and db.connected

    async def _ask(self, answers: list[asyncio.Future[None]]) -> None:
        """Look for a certificate that does not exist: it takes the table and a connection to find none."""
        assert self._db is not None
        now = asyncio.get_running_loop().time()
        error: Exception | None = None
        try:
            await self._db.get_certificate(0, "")
        except Exception as err:  # noqa: BLE001  (whatever it is, those who wait are to hear of it)
            error = err
        self._seen = now if error is None else None
        for answer in answers:
            if not answer.done():
                if error is None:
                    answer.set_result(None)
                else:
                    answer.set_exception(apart(error))

    async def _announce(self, deliveries: list[Delivery]) -> None:
        """Tell the journal of a group, and have it stored."""
        try:
            await self._journal.signed([delivery.signed for delivery in deliveries])
        except Exception as err:  # noqa: BLE001  (whatever it is, those who wait are to hear of it)
            await self._settle(deliveries, [apart(err) for _ in deliveries])
            return
        for delivery in deliveries:
            if delivery.request.return_precert:
                delivery.deliver()  # there is no certificate yet that could be revoked
            else:
                self._groups.put(delivery)

    async def _store(self, deliveries: list[Delivery]) -> None:
        """Store a group; whoever waits for one of it hears of its own certificate."""
        rows = [delivery.signed.row for delivery in deliveries]
        await self._settle(deliveries, await self._insert(rows, [delivery.answer for delivery in deliveries]))

    async def _settle(self, deliveries: list[Delivery], outcomes: Sequence[Exception | None]) -> None:
        failures = []
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if outcome is not None:
                log_unstored(delivery.signed, outcome)
                failures.append((delivery.signed, outcome))
        if failures:
            try:
                await self._journal.unstored(failures)
            except Exception as err:  # noqa: BLE001  (the log has it, and those who wait are to hear of it)
                logger.error("the journal of what was not stored cannot be written: %s", err)
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if outcome is None:
                delivery.deliver()
            else:
                delivery.fail(outcome)

    async def _insert(
        self, rows: list[CertificateRow], answers: list[AnsweredRequest | None]
    ) -> Sequence[Exception | None]:
        if self._db is None:
            return [None] * len(rows)
        now = asyncio.get_running_loop().time()
        outcomes: Sequence[Exception | None]
        try:
            outcomes = await self._db.insert_certificates(rows, answers if any(answers) else ())
        except Exception as err:  # noqa: BLE001  (as above)
            outcomes = [apart(err) for _ in rows]
        self._seen = now if None in outcomes else None
        return outcomes


def _in_use(serial: int) -> OCSPDError:
    return CodedError(Code.CERT_BAD_REQUEST, f"serial {serial} is already used by another certificate")
