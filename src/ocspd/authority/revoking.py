"""Revoke a certificate in the certdb. Responses follow through the change feed; nothing else happens here.

A revocation is final (RFC 5280 §5.3.1): the first one's date and reason stay, as relying parties have acted
on them. Only a certificate on hold may be revoked for another reason, or released with removeFromCRL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError
from ocspd.model import (
    REMOVE_FROM_CRL,
    CertStatus,
    hex_hint,
    normalize_aki,
    parse_reason,
    parse_serial,
    reason_name,
)
from ocspd.pki.certs import aki_hex, load_certificate

if TYPE_CHECKING:
    from ocspd.authority.audit.ledger import Ledger
    from ocspd.certdb.base import CertDB


async def revoke(  # noqa: PLR0913  (what is said of one revocation)
    db: CertDB,
    *,
    serial_text: str,
    aki: str | None,
    reason: str = "",
    force: bool = False,
    ledger: Ledger | None = None,
) -> str:
    """Mark a certificate as revoked now, or release it from hold; return a notice for the operator.

    `serial_text` may be decimal, 0x… or hex pairs with colons; `aki` hex in any case, with or without
    colons ("" is the certificate without a key identifier). Without an aki (None) the serial must belong
    to one certificate. `reason` is a name or number of RFC 5280 §5.3.1, "" for unspecified. A
    certificate that is already revoked is not changed unless `force` is given; the notice says so, and is
    "" otherwise.

    A CFSSL built with Go 1.15 or later, Debian's for one, stores no key identifier, and then cannot
    revoke what it issued. Such a row is revoked here if its certificate has the requested identifier.

    Raises CodedError: 1300 (serial), 8200 (a number that is no reason, removeFromCRL for a certificate not on
    hold), 11200 (no
    such certificate), 1400 (several certificates have this serial; the message lists their key
    identifiers), 11000 (database), 12000 (the audit log of `ledger` cannot be written).
    """
    serial = parse_serial(serial_text)
    code = parse_reason(reason)
    if aki is None:
        aki = await _only_issuer(db, serial, hex_hint(serial_text))
    aki = normalize_aki(aki.strip())
    try:
        return await _logged(db, serial, aki, code, force=force, ledger=ledger)
    except CodedError as err:
        if err.code is not Code.STORE_NOT_FOUND:
            raise
        if not aki or not await _is_stored_without(db, serial, aki):
            raise CodedError(err.code, f"{err.message}{hex_hint(serial_text)}") from err
        return await _logged(db, serial, "", code, force=force, ledger=ledger)


async def _logged(  # noqa: PLR0913
    db: CertDB, serial: int, aki: str, reason: int, *, force: bool, ledger: Ledger | None
) -> str:
    """Revoke, with an entry before it; there is none about a certificate that the database does not have."""
    if ledger is None or ledger.log is None or await db.get_certificate(serial, aki) is None:
        return await _revoke(db, serial, aki, reason, force=force)
    async with ledger.revoking(serial, aki, reason, release=reason == REMOVE_FROM_CRL):
        notice = await _revoke(db, serial, aki, reason, force=force)
    if notice:
        await ledger.unchanged(serial, aki)
    return notice


async def _revoke(db: CertDB, serial: int, aki: str, reason: int, *, force: bool) -> str:
    if reason == REMOVE_FROM_CRL:
        if await db.release_certificate(serial, aki):
            return ""
        raise CodedError(
            Code.OCSP_INVALID_STATUS,
            f"serial {serial} is not on hold: removeFromCRL only releases a certificate that was revoked "
            "with the reason certificateHold",
        )
    if await db.revoke_certificate(serial, aki, reason, keep_first=not force):
        return ""
    row = await db.get_certificate(serial, aki)
    if row is None or row.status is not CertStatus.REVOKED:
        return ""  # somebody has changed it since
    when = "" if row.revoked_at is None else f" on {row.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"serial {serial} was already revoked{when}, reason {reason_name(row.reason)}: nothing changed"


async def _only_issuer(db: CertDB, serial: int, hint: str) -> str:
    found = await db.find_certificates(serial)
    if not found:
        raise CodedError(
            Code.STORE_NOT_FOUND,
            f"failed to revoke the certificate: no certificate has serial {serial}{hint}",
        )
    spelled = {normalize_aki(row.aki): row.aki for row in found}  # rows may be about one certificate
    if len(spelled) > 1:
        choices = ", ".join(aki or '""' for aki in spelled.values())
        raise CodedError(
            Code.CERT_MISSING_SERIAL,
            f"{len(spelled)} certificates have serial {serial}: select one by its aki: {choices}",
        )
    return found[0].aki


async def _is_stored_without(db: CertDB, serial: int, aki: str) -> bool:
    row = await db.get_certificate(serial, "")
    if row is None:
        return False
    try:
        return aki_hex(load_certificate(row.pem.encode())) == aki
    except CodedError:
        return False  # the row's PEM is unreadable: nothing says it is the one that is meant
