"""Ed25519 keys that sign the checkpoints of an audit log (RFC 8032). They sign nothing else."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from ocspd.errors import Code, CodedError
from ocspd.pki.keys import load_private_key

if TYPE_CHECKING:
    from typing import Self


class SealCheck:
    """A public key; `name` is the beginning of the SHA-256 of its SubjectPublicKeyInfo, in hex."""

    def __init__(self, key: ed25519.Ed25519PublicKey) -> None:
        self._key = key
        info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.name = hashlib.sha256(info).hexdigest()[:32]

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Read a public key in PEM; CodedError 2003 when it is not one for Ed25519."""
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise CodedError(Code.KEY_PARSE_FAILED, "not an Ed25519 public key in PEM")
        return cls(key)

    def pem(self) -> bytes:
        """Return the key in PEM."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def accepts(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature is one of these bytes by this key."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class SealKey:
    """A private key, and its public half as `check`."""

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key
        self.check = SealCheck(key.public_key())

    @classmethod
    def generate(cls) -> Self:
        """Make a new key."""
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, data: bytes, password: bytes | None = None) -> Self:
        """Read a private key; CodedError 2002 to 2200 when it is not one for Ed25519."""
        key = load_private_key(data, password)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise CodedError(Code.KEY_UNSUPPORTED, "not an Ed25519 private key, which checkpoints need")
        return cls(key)

    def pem(self) -> bytes:
        """Return the private key in PEM (PKCS #8), not encrypted."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        return self._key.sign(data)
