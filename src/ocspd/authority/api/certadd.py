"""The endpoint `certadd`: a certificate that was issued elsewhere is added to the database.

The checks and their order are CFSSL's. Values are compared with the certificate itself, so that no row
contradicts it.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ocspd import wire
from ocspd.authority.adding import AlreadyStoredError, add
from ocspd.authority.api.api_response import BadRequest, HTTPStatusError, Success
from ocspd.authority.offload import read_input
from ocspd.errors import Code, CodedError
from ocspd.model import CertificateRow, CertStatus, known_reason, parse_status
from ocspd.pki.certs import aki_hex, load_certificate

if TYPE_CHECKING:
    from ocspd.authority.audit.ledger import Ledger
    from ocspd.certdb.base import CertDB
    from ocspd.pki.certs import Certificate

_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9})\d*)?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_SERIAL = re.compile(r"[+-]?[0-9]{1,200}")


class CertAddEndpoint:
    """certadd for one database; without one it refuses every call, as CFSSL does."""

    def __init__(self, db: CertDB | None, ledger: Ledger | None = None) -> None:
        self._db = db
        self._ledger = ledger

    async def certadd(self, body: bytes) -> Success:
        """Add a certificate; the result is `{}`."""
        try:
            request = await read_input(_Request, body)
        except wire.JSONError:
            raise BadRequest("Unable to parse certificate addition request") from None
        request.check_fields()
        try:
            certificate = await read_input(load_certificate, request.pem.encode("utf-8", "replace"))
        except CodedError:
            raise BadRequest("Unable to parse PEM encoded certificates") from None
        row = request.row(certificate)
        if self._db is None:
            raise _refused("there is no certificate database (missing -db-config)")
        try:
            await add(self._db, row, self._ledger)
        except AlreadyStoredError as err:
            raise _refused(str(err)) from err
        return Success({})


def _refused(text: str) -> HTTPStatusError:
    return HTTPStatusError(HTTPStatus.BAD_REQUEST, text, code=int(Code.STORE_FAILED))


class _Request:
    """The JSON of a request; JSONError when a field has the wrong type or is not a time."""

    def __init__(self, body: bytes) -> None:
        fields = wire.Fields(wire.loads(body), "AddRequest")
        self.serial = fields.string("serial_number")
        self.aki = fields.string("authority_key_identifier")
        self.label = fields.string("ca_label")
        self.status = fields.string("status")
        self.reason = fields.integer("reason")
        self.expiry = _time(fields, "expiry")
        self.revoked_at = _time(fields, "revoked_at")
        self.pem = fields.string("pem")
        self.issued_at = _time(fields, "issued_at")
        self.not_before = _time(fields, "not_before")
        self.metadata = _json(fields, "metadata")
        self.sans = _json(fields, "sans")
        self.common_name = fields.string("common_name")

    def check_fields(self) -> None:
        """Raise BadRequest for what is wrong whatever the certificate is."""
        if not self.serial:
            raise BadRequest("Serial number is required but not provided")
        if not self.aki:
            raise BadRequest("Authority key identifier is required but not provided")
        try:
            status = parse_status(self.status)
        except CodedError:
            raise BadRequest("Invalid certificate status") from None
        if status is CertStatus.REVOKED:
            if self.revoked_at is None:
                raise BadRequest("Revoked certificate should specify when it was revoked")
            if not known_reason(self.reason):
                raise BadRequest("Invalid certificate status reason code")
        if not self.pem:
            raise BadRequest("The provided certificate is empty")
        if self.expiry is None:
            raise BadRequest("Expiry is required but not provided")

    def row(self, certificate: Certificate) -> CertificateRow:
        """Return the row; BadRequest if it contradicts the certificate."""
        if _SERIAL.fullmatch(self.serial) is None:
            raise BadRequest("Unable to parse serial key of request")
        if int(self.serial) != certificate.serial_number:
            raise BadRequest("Serial key of request and certificate do not match")
        if _HEX.fullmatch(self.aki) is None:
            raise BadRequest("Unable to decode authority key identifier")
        if self.aki.lower() != aki_hex(certificate):
            raise BadRequest("Authority key identifier of request and certificate do not match")
        if self.expiry is None or self.expiry != certificate.not_valid_after_utc:
            raise BadRequest("Expiry of request and certificate do not match")
        return CertificateRow(
            serial=certificate.serial_number,
            aki=self.aki.lower(),
            pem=self.pem,
            expiry=self.expiry,
            ca_label=self.label,
            status=parse_status(self.status),
            reason=self.reason if known_reason(self.reason) else 0,
            revoked_at=self.revoked_at,
            issued_at=self.issued_at,
            not_before=self.not_before,
            metadata=self.metadata,
            sans=self.sans,
            common_name=self.common_name,
        )


def _time(fields: wire.Fields, key: str) -> datetime | None:
    """Read a time as Go does (RFC 3339); None if it is absent, or Go's zero time."""
    text = fields.string(key)
    if fields.get(key) is None:
        return None
    match = _TIME.fullmatch(text)
    found = None
    if match is not None:
        day, fraction, zone = match.groups()
        with contextlib.suppress(ValueError, OverflowError):
            given = datetime.fromisoformat(f"{day}.{(fraction or '0')[:6]:0<6}{zone}")
            found = given.astimezone(UTC) if given.year > 1 else given
    if found is None:
        raise wire.JSONError(f'parsing time "{text[:64]}" as RFC 3339: cannot parse it')
    return found if found.year > 1 else None


def _json(fields: wire.Fields, key: str) -> Any:
    """Return a free JSON value; an absent one is an empty object, as CFSSL stores it."""
    return fields.get(key) if any(wire.fold(name) == key for name in fields.values()) else {}
