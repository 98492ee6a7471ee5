"""An independent oracle of the responder: a dict, a small parser and the rules of OCSP over HTTP.

It shares no code with `ocspd`: answers are read by `cryptography`, requests by the few lines below. It
answers only well-formed requests of the common shapes and says None where it has no opinion.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from cryptography.x509 import ocsp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.native.world import Stored

_OIDS = {
    "2b0e03021a": "sha1",
    "608648016503040201": "sha256",
    "608648016503040202": "sha384",
    "608648016503040203": "sha512",
}
_REQUEST = re.compile(rb"(GET|HEAD|POST) (/[^ ]*) HTTP/1\.([01])\r\n((?:[^\r\n]+\r\n)*)\r\n(.*)\Z", re.DOTALL)
MALFORMED = bytes.fromhex("30030a0101")
UNAUTHORIZED = bytes.fromhex("30030a0106")
TRY_LATER = bytes.fromhex("30030a0103")


@dataclass(frozen=True)
class Node:
    """One element: its tag and its content."""

    tag: int
    content: bytes

    def children(self) -> list[Node]:
        found, at = [], 0
        while at < len(self.content):
            tag, length, at = self.content[at], self.content[at + 1], at + 2
            if length >= 0x80:
                size = length - 0x80
                length, at = int.from_bytes(self.content[at : at + size], "big"), at + size
            found.append(Node(tag, self.content[at : at + length]))
            at += length
        return found


def certid(der: bytes) -> tuple[str, bytes, bytes, int]:
    """Return the first CertID of a well-formed OCSPRequest."""
    (request,) = Node(0, der).children()
    tbs = request.children()[0].children()
    requests = next(node for node in tbs if node.tag == 0x30)
    algorithm, name_hash, key_hash, serial = requests.children()[0].children()[0].children()
    name = _OIDS[algorithm.children()[0].content.hex()]
    return name, name_hash.content, key_hash.content, int.from_bytes(serial.content, "big", signed=True)


class Oracle:
    """Answers from a dict."""

    def __init__(self, answers: Iterable[Stored], now_s: int) -> None:
        self._answers = {answer.key: answer for answer in answers}
        self._now = now_s

    def respond(self, data: bytes, *, der: bytes | None = None) -> bytes | None:
        """Return the whole response to one request; `der` is the OCSPRequest in it."""
        match = _REQUEST.match(data)
        if match is None:
            return None
        method, target, minor, fields, body = match.groups()
        names = {
            line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in fields.split(b"\r\n")
        }
        if method == b"POST":
            asked = body
        else:
            text = (
                unquote_to_bytes(target).lstrip(b"/").translate(bytes.maketrans(b"-_ ", b"+/+")).rstrip(b"=")
            )
            try:
                asked = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
            except binascii.Error:
                return None
        if asked != der:
            return None
        close = names.get(b"connection") == b"close"
        return self._answer(method.decode(), int(minor), asked, names.get(b"if-none-match"), close=close)

    def _answer(self, method: str, minor: int, der: bytes, condition: bytes | None, *, close: bool) -> bytes:
        stored = self._answers.get(certid(der))
        status, body, extra = "200 OK", UNAUTHORIZED, ["Cache-Control: max-age=0, no-cache"]
        if stored is not None:
            parsed = ocsp.load_der_ocsp_response(stored.der)
            next_update = parsed.next_update_utc
            due = None if next_update is None else int(next_update.timestamp())
            if due is not None and due <= self._now:
                body = TRY_LATER
            else:
                body = stored.der
                tag = parsed.signature[-16:]
                age = self._max_age(due, stored.refresh_at, tag)
                extra = [
                    f"Cache-Control: max-age={age}, public, no-transform, must-revalidate",
                    "Last-Modified: " + formatdate(parsed.this_update_utc.timestamp(), usegmt=True),
                ]
                if due is not None:
                    extra.append("Expires: " + formatdate(due, usegmt=True))
                extra.append(f'ETag: "{tag.hex().upper()}"')
                known = (b"*", b'"%s"' % tag.hex().upper().encode(), b'W/"%s"' % tag.hex().upper().encode())
                if condition in known and method != "POST":
                    status = "304 Not Modified"
        lines = [f"HTTP/1.{minor} {status}"]
        if status == "200 OK":
            lines += ["Content-Type: application/ocsp-response", f"Content-Length: {len(body)}"]
        lines += [*extra, "Date: " + formatdate(self._now, usegmt=True)]
        if close and minor == 1:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode()
        return head if method == "HEAD" or status != "200 OK" else head + body

    def _max_age(self, due: int | None, refresh_at: int, tag: bytes) -> int:
        if due is None:
            return 0
        left = due - self._now
        wait = min(refresh_at - self._now, left)
        if wait <= 0:
            return min(left, 60)
        return wait - wait * (tag[0] % 64) // 1024
