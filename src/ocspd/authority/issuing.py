"""Issuing: sign, then store in certdb, each for many requests at a time.

A request goes through two queues: for signing, in other processes or in threads, and for the database
(`storage`). Who waits for it may leave at any time: what was signed is stored all the same.

A profile with logs of certificate transparency needs two signatures: one of the precertificate, which every
log must accept, and one of the certificate with their timestamps. Until the second there is nothing to return
or to store.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakSet

from ocspd.authority.groups import Groups, apart
from ocspd.authority.offload import offload
from ocspd.authority.once import Answers, OtherRequestError
from ocspd.authority.signing_processes import DEPTH, SigningProcesses
from ocspd.authority.storage import FRESH_S, Delivery, SignedCertificate, Storage
from ocspd.errors import CodedError, OCSPDError
from ocspd.logs import logger
from ocspd.pki.issuer_spec import IssuerSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ocspd.authority.once import Once
    from ocspd.authority.signing_processes import Registered
    from ocspd.authority.storage import Journal
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

    def __init__(
        self,
        db: CertDB | None,
        clock: Clock,
        *,
        workers: int = 1,
        journal: Journal | None = None,
        fresh_s: float = FRESH_S,
    ) -> None:
        """With more than one of `workers` these are processes; the rest as for `Storage`."""
        self.storage = Storage(db, journal=journal, fresh_s=fresh_s)
        self.answers = Answers(db, clock)
        self.processes = SigningProcesses(workers) if workers > 1 else None
        self.authorities: WeakSet[Authority] = WeakSet()
        """The one in use, and those before it that still work on something."""

    async def start(self) -> None:
        """Start the processes, if there is an authority they can sign for; ProcessError if that fails."""
        if self.processes is not None and self.processes.wanted:
            await self.processes.start()

    async def close(self) -> None:
        """Wait until what is being signed is signed and stored, then end the processes."""
        for authority in list(self.authorities):
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
        shared.authorities.add(self)
        self.issuer = issuer
        self.storage = shared.storage
        self._answers = shared.answers
        self._clock = clock
        self._processes = shared.processes
        self._registered: Registered | None = None
        at_once = shares = _THREADS
        spec = None if self._processes is None else IssuerSpec.of(issuer)
        if self._processes is not None and spec is not None:
            self._registered = self._processes.register(spec)
            shares = self._processes.count
            at_once = DEPTH * shares
        self._signing = Groups(self._sign, at_once=at_once, shares=shares, largest=_GROUP)
        self._slow: set[asyncio.Task[None]] = set()

    @property
    def trouble(self) -> str:
        """Why nothing can be signed at present; "" when it can."""
        return "" if self._processes is None or self._registered is None else self._processes.trouble

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
        if answer.row.aki != self.issuer.aki:  # CAs may share a database
            raise OtherRequestError(
                f"a certificate was issued for this Idempotency-Key by another CA, with key identifier "
                f"{answer.row.aki or '(none)'}: use another key"
            )
        return SignedCertificate(
            cert_pem=answer.row.pem,
            row=answer.row,
            request=request,
            context=copy_context(),
            again=answer.again,
        )

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
        while self._slow:
            await asyncio.wait(set(self._slow))
        await self.storage.finish()

    async def _issue(self, request: SignRequest, answer: AnsweredRequest | None) -> SignedCertificate:
        delivery = Delivery(request, answer)
        profile = self.issuer.config.profile(request.profile)
        if profile.ct_logs or (request.return_precert and not profile.is_remote):
            task = asyncio.get_running_loop().create_task(self._with_timestamps(delivery))
            self._slow.add(task)
            task.add_done_callback(self._slow.discard)
        else:
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
            self._signed(delivery, outcome, now)

    def _signed(self, delivery: Delivery, issued: Issued, now: datetime) -> None:
        request = delivery.request
        is_ca = self.issuer.config.profile(request.profile).ca_constraint.is_ca
        replaced = request.hosts is not None and not is_ca  # a CA has no DNS names, whoever asks
        row = issued.row(label=request.label, issued_at=now, replaced=replaced)
        if request.metadata is not None:
            row = replace(row, metadata=dict(request.metadata))
        delivery.certificate = SignedCertificate(
            cert_pem=row.pem,
            row=row,
            request=delivery.request,
            context=delivery.context,
            names=issued.names,
        )
        self.storage.put(delivery)

    async def _with_timestamps(self, delivery: Delivery) -> None:
        """Issue a certificate with the timestamps of its profile's logs, or the precertificate if wanted."""
        try:
            issued = await self._timestamped(delivery.request)
        except Exception as err:  # noqa: BLE001  (whatever it is, who waits is to hear of it)
            delivery.fail(err)
        else:
            self._signed(delivery, issued, self._clock.now())

    async def _timestamped(self, request: SignRequest) -> Issued:
        """Return what `_with_timestamps` issues; CodedError 10100 naming the log that returned none."""
        # The HTTP client takes longer to import than a certificate takes to sign.
        from ocspd.authority.ct_logs import submit  # noqa: PLC0415
        from ocspd.pki import ct  # noqa: PLC0415

        issuer = self.issuer.certificate
        assert issuer is not None
        draft = await offload(lambda: self.issuer.draft(request))
        wanted = request.return_precert
        poisoned = await offload(
            lambda: self.issuer.certify(draft, draft.with_extension(ct.poison()), quiet=not wanted)
        )
        if wanted:
            return poisoned
        precertificate = ct.Precertificate.of(poisoned.certificate(), issuer)
        try:
            timestamps = ct.sct_list(await submit(precertificate, draft.profile.ct_logs, self._clock))
            issued = await offload(lambda: self.issuer.certify(draft, draft.with_extension(timestamps)))
            precertificate.check_certificate(issued.certificate())
        except OCSPDError as err:
            logger.warning(
                "serial number %d was given to a precertificate that logs may have published, but no "
                "certificate was issued: %s",
                draft.template.serial,
                err.message if isinstance(err, CodedError) else err,
            )
            raise
        return issued

    async def _outcomes(self, requests: list[SignRequest], now: datetime) -> Sequence[Issued | Exception]:
        if not requests:
            return []
        try:
            if self._processes is not None and self._registered is not None:
                return await self._processes.issue(self._registered, requests, now)
            return await offload(lambda: [_outcome(self.issuer, request, now) for request in requests])
        except Exception as err:  # noqa: BLE001  (whatever it is, those who wait are to hear of it)
            return [apart(err) for _ in requests]


def _outcome(issuer: Issuer, request: SignRequest, now: datetime) -> Issued | Exception:
    try:
        return issuer.issue(request, now)
    except Exception as err:  # noqa: BLE001  (as above)
        return err
