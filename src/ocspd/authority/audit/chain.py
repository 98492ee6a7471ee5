"""The format of an audit log: JSON lines, each of which carries the SHA-256 of the line before it.

An entry is one line that ends in a newline, at most MAX_LINE_BYTES long:

    {"n":17,"prev":"<64 hex digits>","time":"2026-11-26T23:17:01.250000Z","event":"issue",...}

 1. `n` counts from 1, without gaps, through all files of a log. `prev` is the SHA-256 of the bytes of entry
    n - 1 without its newline; the first entry has 64 zeros.
 2. An entry whose event is `checkpoint` is signed with a key of its own (Ed25519) over `signed_bytes`. As its
    `prev` covers everything before it, so does its signature. Every entry whose number is a multiple of
    `every` (in the newest checkpoint) is one; there may be others.
 3. Only ASCII is written: text of clients cannot disturb a terminal, and a line never contains a newline.

Trust: whoever can write to the file can append to it and can rewrite what no checkpoint covers yet. To
rewrite anything else takes the checkpoint key, and a copy of one checkpoint kept elsewhere reveals even that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ocspd import strict_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.pki.seals import SealCheck, SealKey

MAX_LINE_BYTES = 64 * 1024
GENESIS = "0" * 64
"""What the first entry carries in place of a digest."""
LARGEST = 1 << 53
"""The largest number of an entry."""
EVERY = 1000
"""How many entries a checkpoint covers at most."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ROOM = 200
"""What number and digest add to the rest of a line, rounded up."""


@dataclass(frozen=True, slots=True)
class Position:
    """The end of a chain: the number of its last entry, 0 for none, and that entry's SHA-256 in hex."""

    number: int = 0
    digest: str = GENESIS


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it was read: `fields` has every member of the object."""

    number: int
    previous: str
    digest: str
    fields: Mapping[str, Any]

    @property
    def event(self) -> str:
        """What happened; "" when it says nothing."""
        event = self.fields.get("event")
        return event if isinstance(event, str) else ""

    @property
    def position(self) -> Position:
        """Where the chain is after this entry."""
        return Position(self.number, self.digest)


def timestamp(instant: datetime) -> str:
    """Write a time as entries have it: UTC, with microseconds."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return an entry's own members as JSON without the opening brace; ValueError when it is too long."""
    text = _ENCODER.encode(fields).encode()[1:]
    if len(text) > MAX_LINE_BYTES - _ROOM:
        raise ValueError(f"an audit entry of {len(text)} bytes is longer than {MAX_LINE_BYTES - _ROOM}")
    return text


def link(after: Position, encoded: bytes) -> tuple[bytes, Position]:
    """Return the line of the next entry, newline included, and where the chain is then."""
    number = after.number + 1
    line = b'{"n":%d,"prev":"%s",%s' % (number, after.digest.encode(), encoded)
    return line + b"\n", Position(number, digest(line))


def digest(line: bytes) -> str:
    """Return the SHA-256 of a line without its newline."""
    return hashlib.sha256(line).hexdigest()


def parse(line: bytes) -> Entry:
    """Read a line without its newline; ValueError with the reason when it is no entry."""
    fields = strict_json.read(line, MAX_LINE_BYTES)
    number = strict_json.natural(strict_json.member(fields, "n"), "n", LARGEST)
    previous = strict_json.member(fields, "prev")
    if not isinstance(previous, str) or not _DIGEST.fullmatch(previous):
        raise ValueError("prev is not a SHA-256 in hexadecimal")
    if number == 0:
        raise ValueError("n is 0")
    return Entry(number, previous, digest(line), fields)


# -- checkpoints -------------------------------------------------------------------------------------


def signed_bytes(number: int, previous: str, fields: Mapping[str, Any]) -> bytes:
    """Return what the signature of a checkpoint is over: its number, the digest, time, every and key."""
    parts = [number, previous, fields.get("time"), fields.get("every"), fields.get("key")]
    return "\n".join(["ocspd audit checkpoint 1", *map(str, parts)]).encode()


def checkpoint(after: Position, key: SealKey, now: datetime, every: int) -> bytes:
    """Return the members of a checkpoint that follows `after`, encoded."""
    fields: dict[str, Any] = {"time": timestamp(now), "event": "checkpoint", "every": every}
    fields["key"] = key.check.name
    signature = key.sign(signed_bytes(after.number + 1, after.digest, fields))
    fields["signature"] = base64.b64encode(signature).decode()
    return encode(fields)


def check_checkpoint(entry: Entry, check: SealCheck) -> None:
    """Raise ValueError with the reason unless a checkpoint is signed with this key."""
    name = entry.fields.get("key")
    if name != check.name:
        raise ValueError(f"signed with the key {str(name)[:40]!r}, not with {check.name}")
    strict_json.natural(entry.fields.get("every"), "every")
    signature = entry.fields.get("signature")
    try:
        raw = base64.b64decode(signature if isinstance(signature, str) else "", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not check.accepts(signed_bytes(entry.number, entry.previous, entry.fields), raw):
        raise ValueError("its signature is not valid")
