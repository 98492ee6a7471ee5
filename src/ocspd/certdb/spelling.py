"""Rows about one certificate that are spelled differently: which they are, and how to find them.

A certificate is named by its issuer and by its serial number *as a number*, but the primary key of
`certificates` is text: `7` and `07`, `ab` and `AB` are two rows about one certificate. CFSSL writes one
spelling, called canonical here: a decimal serial number without leading zeros, of at most 153 digits (64
bytes), and a key identifier in lower-case hex. There is at most one row of that spelling for a
certificate, so all others, of which there are few, are examined together with all other rows of
their certificate (`CertDB.stream_odd`, `CertDB.find_statuses`), and the canonical ones can be read by
themselves.

A row without a readable expiry is odd as well, as is a row whose key has another type than CFSSL's text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

POSTGRES_ODD = (
    "(encode(serial_number, 'escape') !~ '^(0|[1-9][0-9]{0,152})$'"
    " OR encode(authority_key_identifier, 'escape') !~ '^[0-9a-f]+$'"
    " OR expiry IS NULL)"
)
"""True for a row that is not canonical; an index with this predicate finds them at once."""

SQLITE_ODD = (
    "(typeof(serial_number) <> 'text' OR typeof(authority_key_identifier) <> 'text'"
    " OR serial_number = '' OR serial_number GLOB '*[^0-9]*' OR serial_number GLOB '0?*'"
    " OR length(serial_number) > 153"
    " OR authority_key_identifier = '' OR authority_key_identifier GLOB '*[^0-9a-f]*'"
    " OR expiry IS NULL OR typeof(expiry) <> 'text' OR expiry NOT GLOB '[0-9][0-9][0-9][0-9]-*')"
)
"""The same for SQLite, where any column may hold any type, and a year of five digits sorts before now."""

MYSQL_ODD = (
    "(serial_number = '' OR serial_number > '0' AND serial_number < '1'"
    " OR CONVERT(serial_number USING latin1) REGEXP '[^0-9]' OR LENGTH(serial_number) > 153"
    " OR authority_key_identifier = ''"
    " OR CONVERT(authority_key_identifier USING latin1) COLLATE latin1_bin REGEXP '[^0-9a-f]'"
    " OR expiry IS NULL OR expiry = '0000-00-00 00:00:00')"
)
"""The same for MySQL, where no index finds them: each pass reads the table for them once."""

SQLITE_MAYBE_UNEXPIRED = (
    "(expiry > ? OR expiry IS NULL OR typeof(expiry) <> 'text' OR expiry NOT GLOB '[0-9][0-9][0-9][0-9]-*')"
)
"""True for all rows that have not expired, and for some whose expiry does not compare as text."""

POSTGRES_WORTH = (
    "(expiry > $1 OR expiry IS NULL OR status = 'revoked' AND (substr(serial_number, 1, 1) = '\\x30'::bytea "
    "OR EXISTS (SELECT FROM certificates AS other WHERE other.serial_number = certificates.serial_number "
    "AND other.expiry > $1)))"
)
SQLITE_WORTH = (
    f"({SQLITE_MAYBE_UNEXPIRED} OR CAST(status AS TEXT) = 'revoked' AND (typeof(serial_number) <> 'text' "  # noqa: S608  (constants)
    "OR serial_number GLOB '0*' OR EXISTS (SELECT 1 FROM certificates AS other "
    "WHERE other.serial_number = certificates.serial_number AND other.expiry > ?)))"
)
MYSQL_WORTH = (
    "(expiry > %(now)s OR expiry IS NULL OR expiry = '0000-00-00 00:00:00' OR status = 'revoked' AND "
    "(LEFT(serial_number, 1) = '0' OR EXISTS (SELECT 1 FROM certificates AS other "
    "WHERE other.serial_number = certificates.serial_number AND other.expiry > %(now)s)))"
)
"""True for the odd rows that count: unexpired ones, and a revocation that has expired but beside which there
may be a row in CFSSL's spelling that says something else and has not. (Each odd row that is unexpired brings
all others of its certificate along.)
"""

POSTGRES_ZEROS = "substr(serial_number, 1, 1) = '\\x30'::bytea"
SQLITE_ZEROS = "CAST(substr(serial_number, 1, 1) AS TEXT) = '0'"
"""True for serial numbers with a leading zero; the predicate of the index that finds them by their number."""

_SERIAL = re.compile(rb"0|[1-9][0-9]{0,152}")
_AKI = re.compile(rb"[0-9a-f]+")


def is_canonical(serial: object, aki: object) -> bool:
    """Return whether serial number and key identifier, as stored, are in CFSSL's spelling."""
    return (
        isinstance(serial, bytes)
        and isinstance(aki, bytes)
        and _SERIAL.fullmatch(serial) is not None
        and _AKI.fullmatch(aki) is not None
    )


def is_canonical_aki(aki: str) -> bool:
    """Return whether a key identifier is lower-case hex, and not empty."""
    return _AKI.fullmatch(aki.encode("utf-8", "surrogateescape")) is not None


def stripped(serials: Sequence[int]) -> list[str]:
    """Return the serial numbers as text without leading zeros: the empty string for 0."""
    return [str(serial) if serial else "" for serial in serials]
