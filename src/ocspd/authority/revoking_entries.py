"""Read lists of certificates to revoke: serial numbers, or the certificates themselves.

A line is `SERIAL [KEY IDENTIFIER] [REASON]`, separated by spaces or by commas. An empty field or `-` is one
that is not given, and `""` is the certificate without a key identifier. `#` begins a comment, and a
certificate in PEM takes several lines. Everything else is an entry with a problem: nothing is skipped in
silence, since a line that nobody reads is a certificate that nobody revokes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import CodedError, OCSPDError
from ocspd.model import REASONS, hex_hint, normalize_aki, parse_reason, parse_serial
from ocspd.pki.certs import aki_hex, load_certificate, serial_of
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_AKI = re.compile(r"[0-9a-f]{1,1000}")
_NUMBER = re.compile(r"[0-9]{1,2}")
_DER_LENGTH = 0x80
_MAX_FIELDS = 3
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate to revoke, or what is wrong with the lines that name one."""

    line: int
    """Where it begins; 0 if it is not from a list."""
    serial: int = 0
    aki: str | None = None
    """In certdb's form; None if not given."""
    reason: int = 0
    hint: str = ""
    """Added when no such serial number is found."""
    problem: str = ""

    @property
    def place(self) -> str:
        """How messages about other entries name this one."""
        return f"line {self.line}"


def read_entries(data: bytes, default_reason: str, *, name: str) -> Iterator[Entry]:
    """Read a list, the content of the file `name`; `default_reason` is for lines without one.

    Raises OCSPDError for a file that is no list at all, and what `parse_reason` raises of the default.
    """
    reason = parse_reason(default_reason)
    if data[:1] == b"\x30" and data[1:2] >= bytes([_DER_LENGTH]):
        yield _of_certificate(1, data, reason)
        return
    if b"\0" in data:
        raise OCSPDError(
            f"{shown(name, 4096)}: not a list of serial numbers or certificates: save it as text (UTF-8)"
        )
    block: list[bytes] = []
    start = 0
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if line.startswith(b"-----BEGIN "):
            if block:
                yield Entry(start, problem="a PEM block without END")
            block, start = [line], number
        elif block:
            block.append(line)
            if line.startswith(b"-----END "):
                yield _of_certificate(start, b"\n".join(block) + b"\n", reason)
                block = []
        else:
            text = line.decode("utf-8", "replace").partition("#")[0].strip()
            if text:
                yield _of_line(number, text, reason)
    if block:
        yield Entry(start, problem="a PEM block without END")


def one_entry(serial: str, aki: str | None, reason: str) -> Entry:
    """Return the entry of one certificate given otherwise; CodedError and OCSPDError for what is wrong."""
    return Entry(
        0,
        parse_serial(serial),
        None if aki is None else normalize_aki(aki.strip()),
        parse_reason(reason),
        hex_hint(serial),
    )


def _of_certificate(line: int, data: bytes, reason: int) -> Entry:
    if b" PRIVATE KEY-----" in data[:100]:
        return Entry(line, problem="a private key, not a certificate")
    try:
        certificate = load_certificate(data)
        serial = serial_of(certificate)
        if serial < 0:
            return Entry(line, problem="this certificate has a negative serial number")
        return Entry(line, serial, aki_hex(certificate), reason)
    except CodedError as err:
        return Entry(line, problem=err.message)


def _of_line(number: int, text: str, reason: int) -> Entry:
    fields = [part.strip() for part in text.split(",")] if "," in text else text.split()
    if len(fields) > _MAX_FIELDS:
        return Entry(
            number, problem="more than three fields: write a serial number, key identifier and reason"
        )
    try:
        serial = parse_serial(fields[0])
    except CodedError:
        return Entry(
            number,
            problem=f"{shown(fields[0], _SHOWN)!r} is no serial number: write it in decimal, as 0x... or as "
            "hex pairs with colons",
        )
    aki: str | None = None
    rest = fields[1:]
    if len(rest) == 1 and (rest[0].lower() in REASONS or _NUMBER.fullmatch(rest[0])):
        rest = ["", rest[0]]
    if rest and rest[0] not in {"", "-"}:
        aki = "" if rest[0] == '""' else normalize_aki(rest[0])
        if aki and not _AKI.fullmatch(aki):
            return Entry(
                number,
                problem=f"{shown(rest[0], _SHOWN)!r} is neither a key identifier in hex nor a reason",
            )
    if len(rest) > 1 and rest[1] not in {"", "-"}:
        try:
            reason = parse_reason(rest[1])
        except OCSPDError:
            words = ", ".join(REASONS)
            return Entry(
                number, problem=f"{shown(rest[1], _SHOWN)!r} is no reason: use 0-6, 8-10, or one of {words}"
            )
    return Entry(number, serial, aki, reason, hex_hint(fields[0]))
