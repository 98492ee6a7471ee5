"""Issuing: sign, then store in certdb.

A profile with logs of certificate transparency needs two signatures: one of the precertificate, which every
log must accept, and one of the certificate with their timestamps. Until the second there is nothing to return
or to store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.authority.offload import offload
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.logs import logger
from ocspd.pki.certs import certificate_to_pem, ski_hex, to_row

if TYPE_CHECKING:
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.pki.certs import Certificate
    from ocspd.pki.issuer import Issuer, SignRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCertificate:
    """A certificate that was signed and, with a database, stored; `cert_pem` ends in a newline."""

    cert_pem: str
    serial: int
    aki: str


class Authority:
    """An issuer and the database of what it issued; without one nothing is stored."""

    def __init__(self, issuer: Issuer, db: CertDB | None, clock: Clock) -> None:
        self.issuer = issuer
        self._db = db
        self._clock = clock

    async def sign(self, request: SignRequest) -> SignedCertificate:
        """Sign and store a certificate.

        Raises the CodedErrors of `Issuer.sign`, and 11000 when it cannot be stored; the certificate is then
        not returned, as one that is not in the database could never be revoked. So the database is checked
        before anything is signed.
        """
        if self._db is not None:
            await self._check_storage(self._db, request)
        profile = self.issuer.config.profile(request.profile)
        if profile.ct_logs or (request.return_precert and not profile.is_remote):
            certificate = await self._with_timestamps(request)
        else:
            certificate = await offload(lambda: self.issuer.sign(request))
        row = to_row(certificate, label=request.label, issued_at=self._clock.now())
        if self._db is not None and not request.return_precert:
            await self._db.insert_certificate(row)
        return SignedCertificate(cert_pem=certificate_to_pem(certificate), serial=row.serial, aki=row.aki)

    async def _with_timestamps(self, request: SignRequest) -> Certificate:
        """Issue a certificate with the timestamps of its profile's logs, or the precertificate if wanted.

        CodedError 10100 naming the log that returned none.
        """
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
        precertificate = ct.Precertificate.of(poisoned, issuer)
        try:
            timestamps = ct.sct_list(await submit(precertificate, draft.profile.ct_logs, self._clock))
            certificate = await offload(lambda: self.issuer.certify(draft, draft.with_extension(timestamps)))
            precertificate.check_certificate(certificate)
        except OCSPDError:
            logger.warning(
                "serial number %d was given to a precertificate that logs may have published, but no "
                "certificate was issued",
                draft.template.serial,
            )
            raise
        return certificate

    async def _check_storage(self, db: CertDB, request: SignRequest) -> None:
        """Raise CodedError if storing would fail: no table, no connection, a requested serial in use."""
        profile = self.issuer.config.profile(request.profile)
        chosen = request.serial if profile.client_provides_serial else None
        certificate = self.issuer.certificate
        aki = "" if certificate is None else ski_hex(certificate)
        serial = chosen if chosen is not None and 0 < chosen < 1 << 159 else 0
        if await db.get_certificate(serial, aki) is not None:
            raise CodedError(Code.CERT_BAD_REQUEST, f"serial {serial} is already used by another certificate")
