"""A responder below HTTP, in Python: the answers `cryptography` signed, by CertID."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from ocspd._der import parse_request
from ocspd.errors import DERError
from ocspd.metrics import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from ocspd.clock import Clock

_NAMES = {hashes.SHA1: "sha1", hashes.SHA256: "sha256", hashes.SHA384: "sha384", hashes.SHA512: "sha512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeReply:
    http_status: int
    outcome: str
    body: bytes
    cacheable: bool = False
    this_update: int = 0
    next_update: int = 0
    max_age_s: int = 0
    etag: str = ""


def _error(outcome: str, status: int, http_status: int = 200) -> FakeReply:
    return FakeReply(http_status=http_status, outcome=outcome, body=bytes((0x30, 3, 10, 1, status)))


class FakeResponder:
    """Answers as `_responder.Responder` does, max-age being the time until nextUpdate."""

    def __init__(self, answers: Iterable[bytes], clock: Clock) -> None:
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self._answers = {}
        for der in answers:
            response = ocsp.load_der_ocsp_response(der)
            name = _NAMES[type(response.hash_algorithm)]
            key = (name, response.issuer_name_hash, response.issuer_key_hash, response.serial_number)
            self._answers[key] = (der, response)

    def count(self, counter: str, amount: int = 1, /) -> None:
        assert counter in COUNTERS, counter
        self.counts[counter] += amount

    def reply_to(self, request_der: bytes, /) -> FakeReply:
        try:
            request = parse_request(request_der)
        except DERError:
            return _error("malformed", 1, 400)
        issuer = (request.hash_name, request.issuer_name_hash, request.issuer_key_hash)
        if all(key[:3] != issuer for key in self._answers):
            return _error("unknown_issuer", 6)
        if (*issuer, request.serial) not in self._answers:
            return _error("unknown_serial", 6)
        der, response = self._answers[(*issuer, request.serial)]
        now = self.clock.now()
        next_update = response.next_update_utc
        if next_update is not None and next_update <= now:
            return _error("try_later", 3)
        return FakeReply(
            http_status=200,
            outcome=response.certificate_status.name.lower(),
            body=der,
            cacheable=True,
            this_update=_seconds(response.this_update_utc),
            next_update=(1 << 63) - 1 if next_update is None else _seconds(next_update),
            max_age_s=0 if next_update is None else int((next_update - now).total_seconds()),
            etag=response.signature[-16:].hex().upper(),
        )


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())
