"""PEM as Go's encoding/pem reads and writes it (RFC 7468, plus RFC 1421 headers of old encrypted keys).

Text around blocks is ignored. A block whose base64 is broken is skipped, as in Go. Reading takes time
linear in the text, whatever its content: each END line is examined once, with the last BEGIN line before it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ocspd.errors import DERError
from ocspd.pki import der_reader

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGIN, _END, _DASHES = b"-----BEGIN ", b"-----END ", b"-----"
_HEADER = re.compile(r"([A-Za-z0-9-]+)[ \t]*:[ \t]*(.*)")


@dataclass(frozen=True, slots=True)
class Block:
    """One PEM block: its label, its RFC 1421 headers, its content, and its own text."""

    label: str
    headers: dict[str, str]
    content: bytes
    text: bytes


class Span(NamedTuple):
    """Where a block lies in a text; `label` is what its BEGIN and END lines say."""

    label: str
    begin: int
    """Of the BEGIN line."""
    body: int
    """Of the line after it."""
    end: int
    """Of the END line."""
    after: int
    """The end of the END line."""


def spans(data: bytes) -> Iterator[Span]:
    """Yield every block whose BEGIN and END lines agree, in order; the base64 is not looked at."""
    position = 0
    while (end := data.find(_END, position)) >= 0:
        begin = data.rfind(_BEGIN, position, end)
        position = end + len(_END)
        if begin < 0:
            continue
        body = data.find(b"\n", begin, end) + 1
        first_line = data[begin + len(_BEGIN) : body].rstrip(b" \t\r\n")
        last_line = _END + first_line
        if body and first_line.endswith(_DASHES) and data.startswith(last_line, end):
            label = first_line.removesuffix(_DASHES).decode("latin-1")
            yield Span(label, begin, body, end, end + len(last_line))


def count(data: bytes, label: str) -> int:
    """Return how many BEGIN lines with a label a text has, whether blocks follow them or not."""
    return data.count(_BEGIN + label.encode() + _DASHES)


def blocks(data: bytes) -> list[Block]:
    """Return every well-formed block of a text, in order."""
    return [block for span in spans(data) if (block := _block(data, span)) is not None]


def _block(data: bytes, span: Span) -> Block | None:
    """Return what a block holds, None when that is not base64."""
    headers: dict[str, str] = {}
    body = data[span.body : span.end].decode("latin-1")
    if ":" in body:
        lines = body.splitlines()
        first = 0
        while first < len(lines) and (header := _HEADER.fullmatch(lines[first].strip())) is not None:
            headers[header[1]] = header[2]
            first += 1
        body = "".join(lines[first:])
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return Block(span.label, headers, content, data[span.begin : span.after] + b"\n")


def without_newline(data: bytes) -> bytes:
    """Return DER without the white space that editors and scripts leave at the end of a file."""
    if data[-1:] not in {b"\n", b"\r", b" "}:
        return data
    try:
        _, _, end = der_reader.span(data, 0, len(data))
    except DERError:
        return data
    return data[:end] if not data[end:].strip(b" \r\n") else data


def hint(data: bytes) -> str:
    """Explain why a text contains no PEM block, if possible: a remedy in brackets, or ""."""
    head = data[:64]
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or (head and head.count(0) * 3 > len(head)):
        return " (it is in UTF-16: save it as ASCII or UTF-8)"
    if data[:4] == b"\xef\xbb\xbf\x30":
        return " (it is DER after a byte order mark: remove the first three bytes)"
    if head.lstrip()[:1] == b"{":
        return " (it is JSON: `ocspd json -bare NAME` splits the output of other commands into PEM files)"
    if _BEGIN in data:
        return " (it has a BEGIN line but no complete block: it was truncated or changed)"
    return ""


def encode(label: str, content: bytes) -> str:
    """Write one block: lines of 64 characters, each ended by a line feed."""
    text = base64.b64encode(content).decode()
    body = "".join(f"{text[start : start + 64]}\n" for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"
