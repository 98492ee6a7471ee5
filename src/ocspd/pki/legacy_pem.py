"""Private keys encrypted in OpenSSL's old form: `Proc-Type: 4,ENCRYPTED` and `DEK-Info` (RFC 1421 §4.6).

The ciphers are those of Go's x509.DecryptPEMBlock, which CFSSL uses; the key is one round of MD5 over
password and salt. `cryptography` reads only some of them.
"""

from __future__ import annotations

import binascii
import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, CipherAlgorithm, algorithms, modes

from ocspd.errors import DERError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocspd.pki.pem import Block

_SALT_BYTES = 8
_CIPHERS: dict[str, tuple[int, int, Callable[[bytes], CipherAlgorithm]]] = {
    "DES-CBC": (8, 8, lambda key: TripleDES(3 * key)),
    "DES-EDE3-CBC": (24, 8, TripleDES),
    "AES-128-CBC": (16, 16, algorithms.AES),
    "AES-192-CBC": (24, 16, algorithms.AES),
    "AES-256-CBC": (32, 16, algorithms.AES),
}
"""Name in DEK-Info: bytes of the key, bytes of a block, and the cipher."""


class UnknownCipherError(DERError):
    """A DEK-Info that cannot be read, or names another cipher."""


def decrypt(block: Block, password: bytes) -> bytes | None:
    """Return what is in an encrypted block, None if the password does not open it."""
    name, _, digits = block.headers.get("DEK-Info", "").partition(",")
    if name not in _CIPHERS:
        raise UnknownCipherError(f"encrypted with {name[:40]!r}")
    key_bytes, block_bytes, make = _CIPHERS[name]
    try:
        start = binascii.unhexlify(digits.strip())
    except ValueError:
        raise UnknownCipherError("malformed DEK-Info") from None
    if len(start) != block_bytes:
        raise UnknownCipherError("malformed DEK-Info")
    data = block.content
    if not data or len(data) % block_bytes:
        return None
    key = _derive(password, start[:_SALT_BYTES], key_bytes)
    decryptor = Cipher(make(key), modes.CBC(start)).decryptor()
    plain = decryptor.update(data) + decryptor.finalize()
    padding = plain[-1]
    if not 0 < padding <= block_bytes or plain[-padding:] != bytes((padding,)) * padding:
        return None
    return plain[:-padding]


def _derive(password: bytes, salt: bytes, size: int) -> bytes:
    """Return OpenSSL's EVP_BytesToKey with MD5 and one round."""
    key = digest = b""
    while len(key) < size:
        digest = hashlib.md5(digest + password + salt, usedforsecurity=False).digest()
        key += digest
    return key[:size]
