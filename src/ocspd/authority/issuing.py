"""Issuing: sign, then store in certdb, each for many requests at a time.

A request goes through two queues: for signing, in other processes or in threads, and for the database
(`storage`). Who waits for it may leave at any time: what was signed is stored all the same.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ocspd.authority.groups import Groups, apart
from ocspd.authority.offload import offload
from ocspd.authority.once import Answers
from ocspd.authority.signing_processes import DEPTH, SigningProcesses
from ocspd.authority.storage import FRESH_S, Delivery, SignedCertificate, Storage, log_unstored
from ocspd.pki.issuer_spec import IssuerSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from ocspd.authority.once import Once
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.model import AnsweredRequest, CertificateRow
    from ocspd.pki.issuer import Issuer, SignRequest
    from ocspd.pki.template import Issued

__all__ = ["Authority", "Shared", "SignedCertificate"]

_THREADS = 2
_GROUP = 16
"""Requests signed one after the other by one process: a group of the slowest takes a tenth of a second."""


class Shared:
    """What the authorities of a server have in common, before and after a reload."""

    def __init__(  # noqa: PLR0913  (one for each thing that can be chosen)
        self,
        db: CertDB | None,
        clock: Clock,
        *,
        workers: int = 1,
        issued: Callable[[Sequence[SignedCertificate]], Awaitable[None]] | None = None,
        unstored: Callable[[SignedCertificate, Exception], None] = log_unstored,
        fresh_s: float = FRESH_S,
    ) -> None:
        """With more than one of `workers` these are processes; the rest as for `Storage`."""
        self.storage = Storage(db, issued=issued, unstored=unstored, fresh_s=fresh_s)
        self.answers = Answers(db, clock)
        self.processes = SigningProcesses(workers) if workers > 1 else None
        self.authorities: deque[Authority] = deque(maxlen=2)
        """The one in use, and the one before a reload."""

    async def start(self) -> None:
        """Start the processes, if there is an authority they can sign for; ProcessError if that fails."""
        if self.processes is not None and self.processes.wanted:
            await self.processes.start()

    async def close(self) -> None:
        """Wait until what is being signed is signed and stored, then end the processes."""
        for authority in self.authorities:
            await authority.finish()
        if self.processes is not None:
            await self.processes.close()


class Authority:
    """An issuer and the database of what it issued; without one nothing is stored."""

    def __init__(
        self, issuer: Issuer, db: CertDB | None, clock: Clock, *, shared: Shared | None = None
    ) -> None:
        """Without `shared` it signs in threads of this process, and stores in `db`."""
        shared = shared or Shared(db, clock)
        shared.authorities.append(self)
        self.issuer = issuer
        self.storage = shared.storage
        self._answers = shared.answers
        self._clock = clock
        self._processes = shared.processes
        self._number = 0
        at_once = _THREADS
        spec = None if self._processes is None else IssuerSpec.of(issuer)
        if self._processes is None or spec is None:
            self._processes = None
        else:
            self._number = self._processes.register(spec)
            at_once = DEPTH * self._processes.count
        self._signing = Groups(self._sign, at_once=at_once, largest=_GROUP)

    async def sign(self, request: SignRequest, once: Once | None = None) -> SignedCertificate:
        """Sign and store a certificate; for a request that was answered before, return that certificate.

        Raises the CodedErrors of `Issuer.issue`, and 11000 when it cannot be stored; the certificate is then
        not returned, as one that is not in the database could never be revoked. So nothing is signed when the
        database is away. With `once`, also what `Answers.answer` raises.
        """
        if once is None:
            return await self._checked(request)

        async def issue(answer: AnsweredRequest) -> CertificateRow:
            return (await self._checked(request, answer)).row

        answer = await self._answers.answer(once, issue)
        return SignedCertificate(cert_pem=answer.row.pem, row=answer.row, request=request, again=answer.again)

    async def _checked(
        self, request: SignRequest, answer: AnsweredRequest | None = None
    ) -> SignedCertificate:
        """Issue if the database is there and has no certificate with a serial number that a client chose."""
        profile = self.issuer.config.profile(request.profile)
        chosen = request.serial if profile.client_provides_serial else None
        if chosen is None or not 0 < chosen < 1 << 159:
            await self.storage.check()
            return await self._issue(request, answer)
        with self.storage.reserved(chosen, self.issuer.aki):
            await self.storage.check_unused(chosen, self.issuer.aki)
            return await self._issue(request, answer)

    async def finish(self) -> None:
        """Wait until what is being signed is signed and stored."""
        await self._signing.finish()
        await self.storage.finish()

    async def _issue(self, request: SignRequest, answer: AnsweredRequest | None) -> SignedCertificate:
        delivery = Delivery(request, answer)
        self._signing.put(delivery)
        return await delivery.done

    async def _sign(self, deliveries: list[Delivery]) -> None:
        """Sign for those who still wait, and pass on what was signed."""
        wanted = [delivery for delivery in deliveries if not delivery.done.done()]
        now = self._clock.now()
        outcomes = await self._outcomes([delivery.request for delivery in wanted], now)
        for delivery, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Exception):
                delivery.fail(outcome)
                continue
            row = outcome.row(label=delivery.request.label, issued_at=now)
            delivery.certificate = SignedCertificate(cert_pem=row.pem, row=row, request=delivery.request)
            self.storage.put(delivery)

    async def _outcomes(self, requests: list[SignRequest], now: datetime) -> Sequence[Issued | Exception]:
        if not requests:
            return []
        try:
            if self._processes is not None:
                return await self._processes.issue(self._number, requests, now)
            return await offload(lambda: [_outcome(self.issuer, request, now) for request in requests])
        except Exception as err:  # noqa: BLE001  (whatever it is, those who wait are to hear of it)
            return [apart(err) for _ in requests]


def _outcome(issuer: Issuer, request: SignRequest, now: datetime) -> Issued | Exception:
    try:
        return issuer.issue(request, now)
    except Exception as err:  # noqa: BLE001  (as above)
        return err
