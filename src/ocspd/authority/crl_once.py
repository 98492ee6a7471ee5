"""CRLs on request, for CFSSL's verbs and endpoints `crl` and `gencrl`.

The list of `crl` is the same as CFSSL's, certificates of other CAs excepted: what is revoked and unexpired.
(The CRL that `serve` publishes keeps expired certificates for a while; see `crls`.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd import limits
from ocspd.authority.crls import next_number
from ocspd.authority.revocations import Revocations
from ocspd.authority.revoked_list import RevokedList
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.pki import crl_writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.pki.crl_writer import CRLSigner, Heading

_WEEK = timedelta(days=7)
_OCTAL = re.compile(r"^([+-]?)0(?=[0-7_])")
_MAX_DIGITS = 100
"""As many as `model.parse_serial` accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseCRL:
    """A CRL made from a database, and what is not on it."""

    der: bytes
    foreign: int
    """How many revoked certificates of other CAs were left out."""
    unreadable: int
    """How many rows were left out because their serial number cannot be read."""


async def crl_of_database(
    db: CertDB,
    signer: CRLSigner,
    validity: timedelta,
    clock: Clock,
    offload: Callable[[Callable[[], bytes]], Awaitable[bytes]],
) -> DatabaseCRL:
    """Sign a CRL of the revoked and unexpired certificates of a CA; CodedError 11000 if the database fails.

    `offload` runs what takes long.
    """
    revocations = Revocations(db, signer.certificate, signer.aki, clock)
    listed = RevokedList()
    async for some in revocations.read(clock.now()):
        for revoked in some:
            listed.put(revoked)
    runs, size = listed.runs()
    del listed
    der = await offload(lambda: signer.sign(_heading(validity, clock), runs, size))
    return DatabaseCRL(der=der, foreign=revocations.foreign, unreadable=revocations.unreadable)


def crl_of_serials(signer: CRLSigner, serials: Iterable[int], validity: timedelta, clock: Clock) -> bytes:
    """Sign a CRL of serial numbers, each revoked now without a reason."""
    now_s = int(clock.now().timestamp())
    entries = [crl_writer.entry(serial, now_s) for serial in dict.fromkeys(serials)]
    return signer.sign(_heading(validity, clock), entries)


def _heading(validity: timedelta, clock: Clock) -> Heading:
    now = clock.now()
    this_update = now.replace(microsecond=0)
    return crl_writer.Heading(
        number=next_number(now), this_update=this_update, next_update=this_update + validity
    )


def decimal_serial(text: str, where: str) -> int:
    """Read a serial number in decimal; CodedError 1300 saying `where` otherwise.

    CFSSL puts serial number 0 on the list instead, and takes negative ones.
    """
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        raise CodedError(Code.CERT_BAD_REQUEST, f"{where}: {digits[:64]!r} is not a serial number in decimal")
    return int(digits)


def parse_seconds(text: str) -> timedelta:
    """Read how long a CRL is valid: seconds as Go's ParseInt reads them with base 0; none or 0 is a week.

    OCSPDError in Go's words if that is not a number of 32 bits, or one that no CRL can have.
    """
    text = text.strip()
    if not text:
        return _WEEK
    plain = text if text.isascii() and len(text) <= _MAX_DIGITS else "not a number"
    try:
        value = int(_OCTAL.sub(r"\g<1>0o", plain), 0)
    except ValueError:
        raise OCSPDError(f'strconv.ParseInt: parsing "{text[:64]}": invalid syntax') from None
    if not -(1 << 31) <= value < 1 << 31:
        raise OCSPDError(f'strconv.ParseInt: parsing "{text[:64]}": value out of range')
    seconds = timedelta(seconds=value)
    if value and seconds not in limits.CRL_EXPIRY:
        raise OCSPDError(f"a CRL cannot be valid for {value} seconds: use {limits.CRL_EXPIRY}")
    return seconds or _WEEK
