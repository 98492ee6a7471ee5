"""The newest CRLs and index.txt used, so that replacing one with an older edition un-revokes nothing.

Stored in `sources.json` in the index directory, by issuer (its subject and key): for each scope of its CRLs
the highest cRLNumber and latest thisUpdate used, and for its index.txt the latest date of revocation. An
older edition is rejected by name. If a CA starts again with lower numbers, or a row of index.txt is made
valid again by hand, the file must be removed.

A file that exists but cannot be read does not count as removed: an older CRL could then not be recognised.
Its copy (`sources.copy.json`, written after it) is used instead, and if that cannot be read either, nothing
is used until a person decides. If the file is removed, nothing counts as seen, whatever the copy contains.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ocspd import strict_json
from ocspd.errors import ConfigError
from ocspd.files import read_bounded, write_atomic
from ocspd.logs import logger
from ocspd.pki.certid import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ocspd.pki.certs import Certificate
    from ocspd.pki.crl import CRLInfo

STATE_NAME = "sources.json"
COPY_NAME = "sources.copy.json"
_MAX_BYTES = 16 << 20
_NUMBER = re.compile(r"0x[0-9a-f]+")
"""CRL numbers, which have up to 20 bytes (RFC 5280 §5.2.3), are written in hexadecimal."""


class SeenSources:
    """Compares what is read with what was read before; call `save` when everything was read."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the index directory. ConfigError when neither file nor copy can be read."""
        self._path = folder / STATE_NAME
        self._copy = folder / COPY_NAME
        self._mend = False
        self._before: dict[str, Any] = self._read()
        self._now: dict[str, Any] = dict(self._before)

    def _read(self) -> dict[str, Any]:
        try:
            return _parse(read_bounded(self._path, _MAX_BYTES + 1))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as err:
            with contextlib.suppress(OSError, ValueError):
                found = _parse(read_bounded(self._copy, _MAX_BYTES + 1))
                logger.warning("%s: cannot be read (%s); using its copy", self._path, _cause(err))
                self._mend = True
                return found
            raise ConfigError(
                f"{self._path}: cannot be read ({_cause(err)}), so an older CRL or index.txt would not be "
                "noticed: restore it, or remove it to accept the current ones"
            ) from err

    def crls(self, issuer: Certificate, scope: bytes, used: Iterable[CRLInfo]) -> None:
        """Record a complete CRL and its deltas; ConfigError when a newer edition was used before."""
        headings = list(used)
        newest = max(headings, key=lambda heading: (heading.number or 0, heading.this_update))
        number = max((heading.number or 0 for heading in headings), default=0)
        this_update = int(max(heading.this_update for heading in headings).timestamp())
        key = f"{_name(issuer)} crl {scope.hex()}"
        known_number, known_update = _pair(self._before.get(key))
        if key in self._before and (number < known_number or this_update < known_update):
            what = f"number {known_number} of " if known_number else ""
            raise ConfigError(
                f"{newest.where}: is older than the CRL used before ({what}{_when(known_update)}): "
                f"give the current one, or remove {self._path} to go back to this one"
            )
        self._now[key] = [hex(number), max(this_update, 0)]

    def index_txt(self, issuer: Certificate, where: str, revoked_s: int) -> None:
        """Record the latest revocation in an issuer's index.txt; ConfigError as for `crls`."""
        key = f"{_name(issuer)} index.txt"
        known = self._before.get(key, 0)
        if revoked_s < known:
            raise ConfigError(
                f"{where}: is older than the index.txt used before, which had a revocation of "
                f"{_when(known)}: give the current one, or remove {self._path} to go back to this one"
            )
        self._now[key] = revoked_s

    def save(self) -> None:
        """Save what was seen; OCSPDError when that cannot be written."""
        if self._now != self._before or self._mend:
            data = (json.dumps(self._now, indent=1) + "\n").encode()
            write_atomic(self._path, data)
            write_atomic(self._copy, data)
            self._before, self._mend = self._now, False


def _parse(data: bytes) -> dict[str, Any]:
    """Read what `save` writes; ValueError for anything else."""
    found = strict_json.read(data, _MAX_BYTES)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  (of a file, not of an argument)
    for name, value in found.items():
        number, moment = value if isinstance(value, list) and len(value) == 2 else (0, value)
        if not isinstance(number, str) or not _NUMBER.fullmatch(number):
            strict_json.natural(number, name)
        strict_json.natural(moment, name, strict_json.MAX_TIME_S)
    return found


def _cause(err: Exception) -> str:
    return str(err.strerror if isinstance(err, OSError) else err)


def _name(issuer: Certificate) -> str:
    parts = parts_of(issuer)
    return hashlib.sha256(parts.subject + parts.key_info).hexdigest()


def _pair(value: Any) -> tuple[int, int]:
    """Return number and time; zeros if nothing was seen."""
    if not value:
        return 0, 0
    number, moment = value
    return int(number, 16) if isinstance(number, str) else number, moment


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
