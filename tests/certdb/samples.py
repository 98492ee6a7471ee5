"""Rows for the certdb tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ocspd.model import CertificateRow, OCSPRow

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
AKI = "b5d7e5a1c0ffee00b5d7e5a1c0ffee0012345678"
BIG_SERIAL = 2**159 - 7


def certificate(serial: int = BIG_SERIAL, **changes: Any) -> CertificateRow:
    values: dict[str, Any] = {
        "serial": serial,
        "aki": AKI,
        "pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "expiry": NOW + timedelta(days=30),
    }
    return CertificateRow(**(values | changes))


def response(serial: int = BIG_SERIAL, **changes: Any) -> OCSPRow:
    values: dict[str, Any] = {
        "serial": serial,
        "aki": AKI,
        "body": b"0\x82\x00\xff\xfe'\x00" * 9,
        "expiry": NOW + timedelta(days=4),
    }
    return OCSPRow(**(values | changes))
