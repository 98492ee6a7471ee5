"""Bearer tokens (RFC 6750): 256 random bits, of which a configuration holds only the SHA-256.

A hash that costs time, such as scrypt, protects secrets that can be guessed. These cannot.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from dataclasses import dataclass, field

from ocspd.errors import Code, CodedError

PREFIX = "ocspd_"
"""What every token begins with, so that scanners for leaked secrets can find it."""
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class TokenHash:
    """What a configuration knows of a token."""

    digest: bytes = field(repr=False)

    def accepts(self, digest: bytes) -> bool:
        """Return whether this is the digest of the token; takes the same time either way."""
        return hmac.compare_digest(self.digest, digest)


def new_token() -> tuple[str, str]:
    """Make a token; return it, and what a configuration has to hold."""
    token = PREFIX + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    return token, _HASH_PREFIX + digest(token).hex()


def digest(token: str) -> bytes:
    """Return what is compared: the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def parse_hash(text: str) -> TokenHash:
    """Read the form in a configuration; CodedError 5200, which never shows what stands there instead."""
    if text.startswith(PREFIX):
        raise CodedError(
            Code.POLICY_INVALID,
            "the token itself stands in the configuration: make a new one (ocspd token new), write its hash",
        )
    if not _HASH.fullmatch(text):
        raise CodedError(
            Code.POLICY_INVALID, "not sha256: and 64 hexadecimal digits, as `ocspd token new` prints them"
        )
    return TokenHash(bytes.fromhex(text.removeprefix(_HASH_PREFIX)))
