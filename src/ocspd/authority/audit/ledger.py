"""What the authority is about to do, written before it is done: certificates stored, revoked and released.

    issue         a certificate was signed and is about to be stored; so is one that certadd adds (`add`)
    precertificate    one was signed for a client that asked for it; it is stored nowhere
    remote        another server issued a certificate for a client of this one, which does not store it
    not-stored    it could not be: nobody got it. If the connection was lost in the middle, it may be there
                  all the same, which `ocspd audit reconcile` finds
    revoke, release, not-revoked    the same for revocations

Without a log nothing is written, and everything is allowed.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ocspd.authority.access.actor import Actor, current
from ocspd.authority.access.policy import DEFAULT
from ocspd.authority.audit.chain import timestamp
from ocspd.errors import Code, CodedError
from ocspd.model import reason_name, serial_to_text
from ocspd.pki import pem
from ocspd.pki.certs import alternative_names, load_certificate, to_row
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocspd.authority.audit.log import AuditLog
    from ocspd.authority.storage import SignedCertificate
    from ocspd.model import CertificateRow
    from ocspd.pki.issuer import SignRequest

_ESCAPED = 12
"""How long a character may be in JSON that is ASCII only."""
MAX_OWED = 1000
"""More are only in the server's own log."""
MAX_NAMES = 100
MAX_NAMES_CHARACTERS = 16_000
"""More names of one certificate are counted, not listed: its SHA-256 is there as well."""

_PLAIN = re.compile(r"-----BEGIN [A-Z ]{1,40}-----\n([A-Za-z0-9+/=\n]*)-----END [A-Z ]{1,40}-----\n?")
_USUAL_NAME = 200
"""Longer ones are not kept in memory."""
_shown = lru_cache(maxsize=256)(shown)
"""For names of profiles and labels that come again and again (`_name`)."""


class Ledger:
    """Writes to an audit log for the actor of the current task; None for no log."""

    def __init__(self, log: AuditLog | None = None) -> None:
        self.log = log
        self._owed: list[dict[str, Any]] = []
        """Entries of certificates that were signed while the log could not be written."""

    async def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write entries together; CodedError 12000 when that fails."""
        if self.log is None or not entries:
            return
        owed, self._owed = self._owed, []
        try:
            await self.log.append_all([*owed, *entries])
        except CodedError:
            self._owed = [*owed, *self._owed][:MAX_OWED]
            raise

    async def signed(self, certificates: Sequence[SignedCertificate]) -> None:
        """Write that certificates are about to be stored: a `storage.Journal`."""
        if self.log is not None:
            await self.append([_issued(certificate) for certificate in certificates])

    async def unstored(self, failures: Sequence[tuple[SignedCertificate, Exception]]) -> None:
        """Write which of them could not be; as soon as possible of those that could not be announced."""
        entries = []
        for certificate, error in failures:
            actor = certificate.context.run(current)
            entry = failure_entry("not-stored", actor, *identity(certificate.row), error)
            if not (isinstance(error, CodedError) and error.code is Code.AUDIT_FAILED):
                entries.append(entry)
            elif self.log is not None and len(self._owed) < MAX_OWED:
                self._owed.append({**entry, "at": timestamp(self.log.now())})
        await self.append(entries)

    async def forwarded(self, request: SignRequest, certificate_pem: str) -> None:
        """Write that a certificate of another server is about to be handed on."""
        if self.log is None:
            return
        profile = request.profile or DEFAULT
        try:
            certificate = load_certificate(certificate_pem.encode("utf-8", "replace"))
            row = to_row(certificate, label=request.label, issued_at=None)
        except CodedError as err:
            fields = {"event": "remote", "profile": _name(profile), **current().describe()}
            await self.append([{**fields, "result": "unreadable", "message": shown(err.message, 500)}])
            return
        names = alternative_names(certificate).to_hosts()
        await self.append(
            [certificate_entry("remote", current(), row, names, profile=profile, csr_pem=request.csr_pem)]
        )

    @asynccontextmanager
    async def adding(self, row: CertificateRow) -> AsyncIterator[None]:
        """Surround the insertion of a certificate that was issued elsewhere."""
        if self.log is None:
            yield
            return
        fields = certificate_entry("add", current(), row, _names_in(row.pem))
        if row.status.word == "revoked":
            fields |= {"status": "revoked", "reason": reason_name(row.reason)}
        await self.append([fields])
        try:
            yield
        except Exception as err:
            await self.append([failure_entry("not-stored", current(), row.serial, row.aki, err)])
            raise

    @asynccontextmanager
    async def revoking(self, serial: int, aki: str, reason: int, *, release: bool) -> AsyncIterator[None]:
        """Surround a revocation or a release."""
        event = "release" if release else "revoke"
        identity = {"serial": serial_to_text(serial), "aki": aki}
        about = {} if release else {"reason": reason_name(reason)}
        await self.append([{"event": event, **identity, **about, **current().describe(), "result": "ok"}])
        try:
            yield
        except Exception as err:
            await self.append([failure_entry("not-revoked", current(), serial, aki, err)])
            raise

    async def unchanged(self, serial: int, aki: str) -> None:
        """Note that what was to be revoked had been revoked before, and was not changed."""
        fields = {"serial": serial_to_text(serial), "aki": aki, **current().describe()}
        await self.append([{"event": "not-revoked", **fields, "result": "unchanged"}])


def identity(row: CertificateRow) -> tuple[int, str]:
    """Return what tells a certificate from every other one: serial number and key identifier."""
    return row.serial, row.aki


def _issued(certificate: SignedCertificate) -> dict[str, Any]:
    request = certificate.request
    return certificate_entry(
        "precertificate" if request.return_precert else "issue",
        certificate.context.run(current),
        certificate.row,
        certificate.names,
        profile=request.profile or DEFAULT,
        csr_pem=request.csr_pem,
    )


def certificate_entry(  # noqa: PLR0913  (what an entry is made of)
    event: str,
    actor: Actor,
    row: CertificateRow,
    names: Sequence[str],
    *,
    profile: str = "",
    csr_pem: str = "",
) -> dict[str, Any]:
    """Return the entry about a certificate; `names` are its subject alternative names of all kinds."""
    fields: dict[str, Any] = {
        "event": event,
        "serial": serial_to_text(row.serial),
        "aki": row.aki,
        "common_name": shown(row.common_name, 300),
        **_names(names),
        "not_after": timestamp(row.expiry),
        "certificate_sha256": _digest(row.pem),
    }
    if profile:
        fields["profile"] = _name(profile)
    if row.ca_label:
        fields["label"] = _name(row.ca_label)
    if csr_pem:
        fields["csr_sha256"] = _digest(csr_pem)
    return {**fields, **actor.describe(), "result": "ok"}


def _name(text: str) -> str:
    """Return the name of a profile or a label for an entry: a client's text of any length."""
    return (_shown if len(text) <= _USUAL_NAME else shown)(text, 100)


def failure_entry(event: str, actor: Actor, serial: int, aki: str, error: Exception) -> dict[str, Any]:
    """Return the entry about something that had been announced and then failed."""
    code = int(error.code) if isinstance(error, CodedError) else 0
    text = error.message if isinstance(error, CodedError) else str(error)
    fields = {"event": event, "serial": serial_to_text(serial), "aki": aki, **actor.describe()}
    return {**fields, "result": "failed", "code": code, "message": shown(text, 500)}


def _names_in(text: str) -> Sequence[str]:
    """Return the names in a certificate; those in a request about it may be anything."""
    try:
        return alternative_names(load_certificate(text.encode("utf-8", "replace"))).to_hosts()
    except CodedError:
        return ()


def _names(names: Sequence[str]) -> dict[str, Any]:
    kept: list[str] = []
    size = 0
    for name in names[:MAX_NAMES]:
        size += len(name) if name.isascii() and name.isprintable() else _ESCAPED * len(name)
        if size > MAX_NAMES_CHARACTERS:
            break
        kept.append(name)
    fields: dict[str, Any] = {"sans": kept}
    if len(kept) < len(names):
        fields["sans_total"] = len(names)
    return fields


def _digest(text: str) -> str:
    """Return the SHA-256 of the DER in a PEM text, "" if there is none."""
    plain = _PLAIN.fullmatch(text)
    if plain is not None:  # a fifth of the time, for nearly every text
        with suppress(binascii.Error):
            return hashlib.sha256(binascii.a2b_base64(plain[1])).hexdigest()
    blocks = pem.blocks(text.encode("utf-8", "replace"))
    return hashlib.sha256(blocks[0].content).hexdigest() if blocks else ""
