"""PEM as Go's encoding/pem reads and writes it (RFC 7468, plus RFC 1421 headers of old encrypted keys).

Text around blocks is ignored. A block whose base64 is broken is skipped, as in Go.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

_BLOCK = re.compile(
    rb"-----BEGIN ([^\r\n]*?)-----[ \t]*\r?\n(.*?)-----END \1-----",
    re.DOTALL,
)
_HEADER = re.compile(r"([A-Za-z0-9-]+)[ \t]*:[ \t]*(.*)")


@dataclass(frozen=True, slots=True)
class Block:
    """One PEM block: its label, its RFC 1421 headers, its content, and its own text."""

    label: str
    headers: dict[str, str]
    content: bytes
    text: bytes


def blocks(data: bytes) -> list[Block]:
    """Return every well-formed block of a text, in order."""
    found = []
    for match in _BLOCK.finditer(data):
        headers: dict[str, str] = {}
        lines = match[2].decode("latin-1").splitlines()
        while lines and (header := _HEADER.fullmatch(lines[0].strip())) is not None:
            headers[header[1]] = header[2]
            del lines[0]
        try:
            content = base64.b64decode("".join("".join(lines).split()), validate=True)
        except (binascii.Error, ValueError):
            continue
        found.append(Block(match[1].decode("latin-1"), headers, content, match[0] + b"\n"))
    return found


def encode(label: str, content: bytes) -> str:
    """Write one block: lines of 64 characters, each ended by a line feed."""
    text = base64.b64encode(content).decode()
    body = "".join(f"{text[start : start + 64]}\n" for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"
