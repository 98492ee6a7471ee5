"""Issuing: sign, then store in certdb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.pki.certs import certificate_to_pem, to_row
from ocspd.service.offload import offload

if TYPE_CHECKING:
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
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

        CodedError as of `Issuer.sign`; 11000 when it cannot be stored, and then the certificate is not
        given out: a certificate the database does not know could never be revoked.
        """
        certificate = await offload(lambda: self.issuer.sign(request))
        row = to_row(certificate, label=request.label, issued_at=self._clock.now())
        if self._db is not None:
            await self._db.insert_certificate(row)
        return SignedCertificate(cert_pem=certificate_to_pem(certificate), serial=row.serial, aki=row.aki)
