"""What CRLs and index.txt said last, so that an older edition put in their place un-revokes nothing.

Kept in `sources.json` in the index directory, by issuer (its subject and key): for each scope of its CRLs
the highest cRLNumber and latest thisUpdate used, and for its index.txt the latest date of revocation. An
edition from before these is refused by name. A CA that begins again with lower numbers, or a row of
index.txt that is called valid again by hand, needs the file removed.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ocspd.errors import ConfigError
from ocspd.files import write_atomic
from ocspd.pki.certid import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ocspd.pki.certs import Certificate
    from ocspd.pki.crl import Heading

STATE_NAME = "sources.json"


class SeenSources:
    """Compares what is read with what was read before; `save` when all of it has been."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the index directory. A file that cannot be read counts as none."""
        self._path = folder / STATE_NAME
        self._before: dict[str, Any] = {}
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            self._before = found
        self._now: dict[str, Any] = dict(self._before)

    def crls(self, issuer: Certificate, scope: bytes, used: Iterable[Heading]) -> None:
        """Take note of a complete CRL and its deltas; ConfigError when a newer edition was used before."""
        headings = list(used)
        newest = max(headings, key=lambda heading: (heading.number or 0, heading.this_update))
        number = max((heading.number or 0 for heading in headings), default=0)
        this_update = int(max(heading.this_update for heading in headings).timestamp())
        key = f"{_name(issuer)} crl {scope.hex()}"
        known_number, known_update = _pair(self._before.get(key))
        if number < known_number or this_update < known_update:
            what = f"number {known_number} of " if known_number else ""
            raise ConfigError(
                f"{newest.where}: is older than the CRL used before ({what}{_when(known_update)}): "
                f"give the current one, or remove {self._path} to go back to this one"
            )
        self._now[key] = [number, this_update]

    def index_txt(self, issuer: Certificate, where: str, revoked_s: int) -> None:
        """Take note of the latest revocation in an issuer's index.txt; ConfigError as `crls`."""
        key = f"{_name(issuer)} index.txt"
        _, known = _pair([0, self._before.get(key)])
        if revoked_s < known:
            raise ConfigError(
                f"{where}: is older than the index.txt used before, which had a revocation of "
                f"{_when(known)}: give the current one, or remove {self._path} to go back to this one"
            )
        self._now[key] = revoked_s

    def save(self) -> None:
        """Keep what was seen; OCSPDError when that cannot be written."""
        if self._now != self._before:
            write_atomic(self._path, (json.dumps(self._now, indent=1) + "\n").encode())
            self._before = self._now


def _name(issuer: Certificate) -> str:
    parts = parts_of(issuer)
    return hashlib.sha256(parts.subject + parts.key_info).hexdigest()


def _pair(value: Any) -> tuple[int, int]:
    """Read two numbers; zeros for what is none."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return value[0], value[1]
    return 0, 0


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
