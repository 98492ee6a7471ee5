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
from ocspd.shown import shown

MIN_BYTES = 8
"""CFSSL accepts any key; a shorter one than this can be guessed by trial."""


@dataclass(frozen=True, slots=True)
class AuthKey:
    """A shared key; its bytes never appear in a repr."""

    key: bytes = field(repr=False)

    def token(self, data: bytes, /) -> bytes:
        """Return the 32 bytes that prove knowledge of the key for these bytes."""
        return hmac.new(self.key, data, hashlib.sha256).digest()

    def verify(self, data: bytes, token: bytes, /) -> bool:
        """Whether the token is the one for these bytes; takes the same time either way."""
        return hmac.compare_digest(self.token(data), token)


def parse_auth_key(spec: str) -> AuthKey:
    """Read a key; CodedError 5200 that never shows the key itself.

    An empty or short key, which CFSSL accepts (an unset variable gives one), is rejected as no protection.
    """
    prefix, colon, rest = spec.partition(":")
    if not colon:
        text, where = spec, "the key"
    elif prefix == "env":
        if rest not in os.environ:
            raise _invalid(f"environment variable {shown(rest)} is not set")
        text, where = os.environ[rest], f"environment variable {shown(rest)}"
    elif prefix == "file":
        try:
            text, where = Path(rest).read_text("ascii"), shown(rest)
        except (OSError, ValueError) as err:
            reason = err.strerror if isinstance(err, OSError) else "not a text file"
            raise _invalid(f"cannot read {shown(rest)}: {reason}") from err
    else:
        # what stands before the colon may be the key itself, so it is not shown
        raise _invalid("unknown prefix before a colon: write hexadecimal, env:VARIABLE or file:PATH")
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        raise _invalid(f"{where} is not hexadecimal") from None
    if len(key) < MIN_BYTES:
        short = f"has {len(key)} bytes" if key else "is empty"
        raise _invalid(f"{where} {short}: use at least {MIN_BYTES} bytes, better 16 or more")
    return AuthKey(key)


def _invalid(text: str) -> CodedError:
    return CodedError(Code.POLICY_INVALID, f"auth key: {text}")
