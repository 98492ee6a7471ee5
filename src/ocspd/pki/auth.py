"""CFSSL's standard authentication: an HMAC-SHA256 over the exact bytes of a request.

The key is written in hexadecimal, or as `env:VARIABLE` or `file:PATH` with the hexadecimal there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path

from ocspd.errors import Code, CodedError


@dataclass(frozen=True, slots=True)
class AuthKey:
    """A shared key; its octets never show in a repr."""

    key: bytes = field(repr=False)

    def token(self, data: bytes, /) -> bytes:
        """Return the 32 octets that prove knowledge of the key for these bytes."""
        return hmac.new(self.key, data, hashlib.sha256).digest()

    def verify(self, data: bytes, token: bytes, /) -> bool:
        """Whether the token is the one for these bytes; takes the same time either way."""
        return hmac.compare_digest(self.token(data), token)


def parse_auth_key(spec: str) -> AuthKey:
    """Read a key; CodedError 5200 that never shows the key itself.

    An empty key, which CFSSL takes (an unset variable gives one), is refused: anybody could use it.
    """
    prefix, colon, rest = spec.partition(":")
    if not colon:
        text, where = spec, "the key"
    elif prefix == "env":
        if rest not in os.environ:
            raise _invalid(f"environment variable {rest} is not set")
        text, where = os.environ[rest], f"environment variable {rest}"
    elif prefix == "file":
        try:
            text, where = Path(rest).read_text("ascii"), rest
        except (OSError, ValueError) as err:
            reason = err.strerror if isinstance(err, OSError) else "not a text file"
            raise _invalid(f"{rest}: cannot be read: {reason}") from err
    else:
        raise _invalid(f"unknown key prefix {prefix[:20]!r}: write hexadecimal, env:VARIABLE or file:PATH")
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        raise _invalid(f"{where} is not hexadecimal") from None
    if not key:
        raise _invalid(f"{where} is empty")
    return AuthKey(key)


def _invalid(text: str) -> CodedError:
    return CodedError(Code.POLICY_INVALID, f"auth key: {text}")
