"""The endpoints `revoke`, `ocspsign` and `health`."""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.authority.api.api_response import DATABASE_FAILED, BadRequest, HTTPStatusError, Success
from ocspd.authority.offload import offload, read_input
from ocspd.authority.revoking import revoke as revoke_certificate
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.model import REASONS, CertStatus, parse_date, parse_reason, parse_status
from ocspd.pki.certs import load_certificate
from ocspd.recovery import Recovery
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from datetime import datetime

    from ocspd.authority.audit.ledger import Ledger
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.pki.ocsp import OCSPSigner

_HASHES = {"SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512", "MD5": "md5"}


HEALTH_S = 3.0
"""How long the database may take to respond before it counts as unavailable."""


def _read_object(body: bytes) -> wire.Fields:
    return wire.Fields(wire.loads(body), "jsonSignRequest")


def _read_revocation(body: bytes) -> tuple[str, str, str]:
    """Read serial, key identifier and reason."""
    fields = wire.Fields(wire.loads(body), "jsonRevokeRequest")
    return fields.string("serial"), fields.string("authority_key_id"), fields.string("reason")


class StatusEndpoints:
    """Revoking in the database, and signing an OCSP response on demand."""

    def __init__(
        self,
        clock: Clock,
        *,
        db: CertDB | None = None,
        ocsp_signer: OCSPSigner | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._db = db
        self._signer = ocsp_signer
        self._health = Recovery(
            meanwhile="/health fails until it works again", again="the database responds again"
        )

    async def health(self, _body: bytes) -> Success:
        """Report healthy if database and audit log, where there are any, work; otherwise fail with 503."""
        if self._ledger is not None and self._ledger.log is not None:
            await self._ledger.log.check()
        trouble = ""
        if self._db is not None:
            try:
                async with time_limit(HEALTH_S):
                    await self._db.find_certificates(0)
            except CodedError as err:
                trouble = err.message
            except TimeoutError:
                trouble = f"{self._db.name} does not respond"
        if trouble:
            self._health.failed(trouble)
            raise HTTPStatusError(HTTPStatus.SERVICE_UNAVAILABLE, DATABASE_FAILED)
        self._health.works()
        return Success({"healthy": True})

    async def revoke(self, body: bytes) -> Success:
        """Revoke `serial` of the issuer `authority_key_id` for `reason`; the result is `{}`."""
        assert self._db is not None
        try:
            serial, aki, reason = await read_input(_read_revocation, body)
        except wire.JSONError:
            raise BadRequest("Unable to parse revocation request") from None
        if not serial:
            raise BadRequest("serial number is required but not provided")
        try:
            parse_reason(reason)
        except OCSPDError:
            raise BadRequest("Invalid reason code") from None
        await revoke_certificate(self._db, serial_text=serial, aki=aki, reason=reason, ledger=self._ledger)
        return Success({})

    async def ocspsign(self, body: bytes) -> Success:
        """Sign the status of `certificate`; the result is `{"ocspResponse": base64 of the DER}`.

        The response is not stored.
        """
        assert self._signer is not None
        try:
            fields = await read_input(_read_object, body)
            pem = fields.string("certificate")
            status_text = fields.string("status")
            reason = fields.integer("reason")
            revoked_text = fields.string("revoked_at")
            hash_name = fields.string("issuer_hash")
        except wire.JSONError:
            raise BadRequest("Unable to parse sign request") from None
        try:
            certificate = await read_input(load_certificate, pem.encode("utf-8", "replace"))
        except CodedError:
            raise BadRequest("Malformed certificate") from None
        revoked_at = self._revoked_at(revoked_text) if status_text == "revoked" else None
        if hash_name and hash_name not in _HASHES:
            raise BadRequest("Unsupported hash algorithm in request")
        signer = self._signer
        await offload(lambda: signer.check_certificate(certificate))
        status = parse_status(status_text or "good")
        if status is not CertStatus.REVOKED:
            reason = 0
        elif reason not in REASONS.values():
            raise CodedError(Code.OCSP_INVALID_STATUS, f"Invalid revocation reason {reason}")
        if hash_name == "MD5":
            raise OCSPDError("unsupported issuer hash algorithm")
        response = await offload(
            lambda: signer.sign(
                serial=certificate.serial_number,
                status=status,
                reason=reason,
                revoked_at=revoked_at,
                certid_hash=_HASHES[hash_name or "SHA1"],
            )
        )
        return Success({"ocspResponse": base64.b64encode(response).decode()})

    def _revoked_at(self, text: str) -> datetime:
        """Read `now`, nothing (now) or a date, which means 00:00 UTC."""
        if text in {"", "now"}:
            return self._clock.now()
        try:
            return parse_date(text)
        except ValueError:
            raise BadRequest("Malformed revocation time") from None
