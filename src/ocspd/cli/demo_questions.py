"""Querying the demo's responder: with the system's `openssl ocsp`, or our own check if it is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from ocspd.cli.demo_processes import fetch
from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "ca-server.pem"
CHAIN = "chain.pem"


@dataclass(frozen=True, slots=True)
class StatusReport:
    """A checked response: the status, whether its signature was verified, and the details."""

    status: str
    verified: bool
    details: str


class StatusClient(Protocol):
    """A client of the responder; `who` is for the table's header."""

    who: str

    def check(self, name: str) -> StatusReport:
        """Request the status of NAME.pem."""
        ...


def status_client(directory: Path, url: str) -> StatusClient:
    """Return a client that uses openssl if it is installed."""
    program = shutil.which("openssl")
    return BuiltIn(directory, url) if program is None else OpenSSL(directory, url, program)


def openssl_words(name: str, url: str) -> list[str]:
    """Return the command line, without the program, that requests the status of NAME.pem."""
    return ["ocsp", "-issuer", ISSUER, "-no_nonce", "-cert", f"{name}.pem", "-CAfile", CHAIN, "-url", url]


class OpenSSL:
    """A client using `openssl ocsp`, which is independent of ocspd."""

    who = "openssl ocsp"

    def __init__(self, directory: Path, url: str, program: str) -> None:
        self._directory, self._url, self._program = directory, url, program

    def check(self, name: str) -> StatusReport:
        """Request the status of NAME.pem; OCSPDError with openssl's message if there is no response."""
        done = subprocess.run(  # noqa: S603  (openssl and our own words)
            [self._program, *openssl_words(name, self._url)],
            cwd=self._directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
        text = done.stdout + done.stderr
        if error := re.search(r"Responder Error: (\w+)", text):
            return StatusReport(error[1], verified=False, details="an error response is not signed")
        status = re.search(rf"^{re.escape(name)}\.pem: (\w+)", text, re.MULTILINE)
        if status is None:
            raise OCSPDError(f"openssl ocsp gave no status of {name}.pem: {text.strip()}")
        fields = dict(re.findall(r"^\t([\w ]+): (.+)$", text, re.MULTILINE))
        return StatusReport(
            status[1],
            verified="Response verify OK" in text,
            details=_details(
                fields.get("Next Update", "?"), fields.get("Reason"), fields.get("Revocation Time")
            ),
        )


class BuiltIn:
    """A client using the check that is part of ocspd."""

    who = "built-in check"

    def __init__(self, directory: Path, url: str) -> None:
        self._directory, self._url = directory, url

    def check(self, name: str) -> StatusReport:
        """Request the status of NAME.pem; OCSPDError when the response is not acceptable."""
        from ocspd.pki.certs import load_certificate  # noqa: PLC0415  (only without openssl)
        from ocspd.pki.relying_party import (  # noqa: PLC0415
            ErrorStatusError,
            check_response,
            make_request,
        )

        certificate = load_certificate((self._directory / f"{name}.pem").read_bytes())
        issuer = load_certificate((self._directory / ISSUER).read_bytes())
        request = make_request(certificate, issuer)
        der = fetch(self._url, body=request, content_type="application/ocsp-request")
        try:
            found = check_response(der, certificate=certificate, issuer=issuer, now=datetime.now(UTC))
        except ErrorStatusError as err:
            return StatusReport(str(err), verified=False, details="an error response is not signed")
        until, revoked = (
            None if moment is None else str(datetime.fromtimestamp(moment, UTC))
            for moment in (found.next_update, found.revoked_at)
        )
        return StatusReport(
            found.status.word, verified=True, details=_details(str(until), found.reason, revoked)
        )


def _details(until: str, reason: str | None, revoked_at: str | None) -> str:
    parts = [f"valid until {until}"]
    if revoked_at:
        parts.insert(0, f"revoked {revoked_at}")
    if reason:
        parts.insert(0, reason)
    return ", ".join(parts)
