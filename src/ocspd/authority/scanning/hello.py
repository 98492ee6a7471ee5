"""A ClientHello that offers exactly what it is told to, and what a server replies to it.

A TLS library offers what it supports. To learn what a server supports, old and broken things included, the
first message is written here and the unencrypted part of the reply is read: no key is exchanged, nothing is
decrypted, and the connection is closed. So a server with SSL 3.0 or RC4 is seen as such, whatever the OpenSSL
below this program has (RFC 5246 §7.4, RFC 8446 §4.1, RFC 6101, RFC 8422).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd.authority.scanning.suites import SSL30, SUITES, TLS10, TLS12, TLS13
from ocspd.errors import FetchError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ocspd.authority.fetching import Deadline

MAX_REPLY_BYTES = 256 * 1024
"""What is read of one reply: several times the longest chain of certificates in use."""

_ALERT, _HANDSHAKE = 21, 22
_RECORD_TYPES = {20, _ALERT, _HANDSHAKE, 23}
_CLIENT_HELLO, _SERVER_HELLO, _CERTIFICATE, _SERVER_KEY_EXCHANGE, _SERVER_HELLO_DONE = 1, 2, 11, 12, 14
_SERVER_NAME, _GROUPS, _POINTS, _SIGNATURES, _VERSIONS, _KEY_SHARE = 0, 10, 11, 13, 43, 51
_NAMED_CURVE = 3
_WARNING, _CLOSE_NOTIFY = 1, 0
_RENEGOTIATION_SCSV = 0x00FF
_MAX_RECORD_BYTES = 16384 + 2048
_ALERTS = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    40: "handshake_failure",
    42: "bad_certificate",
    47: "illegal_parameter",
    50: "decode_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    109: "missing_extension",
    112: "unrecognized_name",
    116: "certificate_required",
}


class Refused(FetchError):
    """The server rejects what was offered: an alert, another version, or a connection closed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a ClientHello offers; `version` is the only version."""

    version: int
    suites: Sequence[int]
    groups: Sequence[int]
    signatures: Sequence[int]
    hostname: str = ""
    """For server_name, in ASCII; left out if empty."""


@dataclass(slots=True)
class Reply:
    """What a server has chosen. A group only if the suite has one and it was read."""

    version: int
    suite: int
    group: int | None = None
    certificates: list[bytes] = field(default_factory=list)


def say_hello(connection: socket.socket, offer: Offer, deadline: Deadline, *, whole: bool = True) -> Reply:
    """Send a ClientHello and read the reply up to ServerKeyExchange, or ServerHello without `whole`.

    Refused when the server rejects the offer, FetchError when it does not speak TLS or not in time.
    """
    stream = _Stream(connection, deadline)
    stream.send(_record(offer))
    reply = _server_hello(stream.message(), offer)
    while whole and reply.version != TLS13:
        kind, body = stream.message()
        if kind == _CERTIFICATE:
            reply.certificates = _certificates(body)
        elif kind == _SERVER_KEY_EXCHANGE:
            reply.group = _group(body, SUITES.get(reply.suite, ""))
            break
        elif kind == _SERVER_HELLO_DONE:
            break
    return reply


def _record(offer: Offer) -> bytes:
    suites = b"".join(struct.pack(">H", each) for each in (*offer.suites, _RENEGOTIATION_SCSV))
    body = struct.pack(">H", min(offer.version, TLS12)) + os.urandom(32)
    body += _vector(1, os.urandom(32) if offer.version == TLS13 else b"")  # some middleboxes expect it
    body += _vector(2, suites) + _vector(1, b"\0")
    if offer.version != SSL30:
        body += _vector(2, _extensions(offer))
    message = bytes((_CLIENT_HELLO,)) + _vector(3, body)
    version = SSL30 if offer.version == SSL30 else TLS10
    return struct.pack(">BHH", _HANDSHAKE, version, len(message)) + message


def _extensions(offer: Offer) -> bytes:
    groups = b"".join(struct.pack(">H", each) for each in offer.groups)
    signatures = b"".join(struct.pack(">H", each) for each in offer.signatures)
    found = b""
    if offer.hostname:
        name = _vector(2, offer.hostname.encode("ascii"))
        found += _extension(_SERVER_NAME, _vector(2, b"\0" + name))
    if groups:
        found += _extension(_GROUPS, _vector(2, groups)) + _extension(_POINTS, _vector(1, b"\0"))
    if offer.version >= TLS12 and signatures:
        found += _extension(_SIGNATURES, _vector(2, signatures))
    if offer.version == TLS13:
        # no key share: the server names the group that it wants one for (HelloRetryRequest)
        found += _extension(_VERSIONS, _vector(1, struct.pack(">H", TLS13)))
        found += _extension(_KEY_SHARE, _vector(2, b""))
    return found


def _extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">H", kind) + _vector(2, content)


def _vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def _server_hello(message: tuple[int, bytes], offer: Offer) -> Reply:
    kind, body = message
    if kind != _SERVER_HELLO:
        raise FetchError("the server's first message is not a ServerHello")
    reader = _Reader(body)
    version = reader.number(2)
    reader.take(32)
    reader.take(reader.number(1))
    suite = reader.number(2)
    reader.take(1)
    group = None
    extensions = _Reader(reader.take(reader.number(2))) if reader.left() else _Reader(b"")
    while extensions.left():
        extension = extensions.number(2)
        content = extensions.take(extensions.number(2))
        if extension == _VERSIONS and len(content) == 2:
            version = int.from_bytes(content, "big")
        elif extension == _KEY_SHARE and len(content) >= 2:
            group = int.from_bytes(content[:2], "big")
    if version != offer.version:
        raise Refused("the server chooses another version")
    if suite not in offer.suites:
        raise FetchError(f"the server chooses a cipher suite that was not offered: 0x{suite:04X}")
    return Reply(version, suite, group)


def _certificates(body: bytes) -> list[bytes]:
    outer = _Reader(body)
    listed = _Reader(outer.take(outer.number(3)))
    found = []
    while listed.left():
        found.append(listed.take(listed.number(3)))
    return found


def _group(body: bytes, suite: str) -> int | None:
    """Return the curve of a ServerKeyExchange, None if the suite has none or its parameters are explicit."""
    if "_ECDH" not in suite:
        return None
    reader = _Reader(body)
    if "_PSK_" in suite:
        reader.take(reader.number(2))  # the identity hint
    return reader.number(2) if reader.number(1) == _NAMED_CURVE else None


class _Reader:
    """A position in octets; FetchError beyond their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        if size > self.left():
            raise FetchError("the server sends a malformed handshake message")
        self._position += size
        return self._data[self._position - size : self._position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


class _Stream:
    """Handshake messages of a connection, out of records; bounded in bytes and time."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._handshake = bytearray()
        self._left = MAX_REPLY_BYTES

    def send(self, data: bytes) -> None:
        self._connection.settimeout(self._deadline.remaining())
        try:
            self._connection.sendall(data)
        except TimeoutError:
            raise FetchError("the server does not read what is sent") from None
        except OSError:
            raise Refused("the server closes the connection") from None

    def message(self) -> tuple[int, bytes]:
        """Return type and body of the next handshake message."""
        self._fill(4)
        size = 4 + int.from_bytes(self._handshake[1:4], "big")
        if size > MAX_REPLY_BYTES:
            raise FetchError("the server announces a handshake message that is too long")
        self._fill(size)
        kind, body = self._handshake[0], bytes(self._handshake[4:size])
        del self._handshake[:size]
        return kind, body

    def _fill(self, size: int) -> None:
        while len(self._handshake) < size:
            kind, version, length = struct.unpack(">BHH", self._read(5))
            if kind not in _RECORD_TYPES or version >> 8 != 3 or length > _MAX_RECORD_BYTES:
                raise FetchError("the server does not speak TLS")
            content = self._read(length)
            if kind == _ALERT:
                level, number = content if len(content) == 2 else (0, -1)
                if level == _WARNING and number != _CLOSE_NOTIFY:
                    continue
                raise Refused(f"the server sends the alert {_ALERTS.get(number, number)}")
            if kind != _HANDSHAKE:
                raise FetchError("the server sends something other than a handshake")
            self._handshake += content

    def _read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise FetchError(f"the server's reply is longer than {MAX_REPLY_BYTES >> 10} KiB")
        data = bytearray()
        while len(data) < size:
            self._connection.settimeout(self._deadline.remaining())
            try:
                chunk = self._connection.recv(size - len(data))
            except TimeoutError:
                raise FetchError("the server does not reply in time") from None
            except OSError:
                chunk = b""
            if not chunk:
                raise Refused("the server closes the connection")
            data += chunk
        return bytes(data)
