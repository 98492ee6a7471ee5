"""An issuer on its way to a process that signs for this one: sent over a socket, key included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives import serialization

from ocspd.clock import SystemClock
from ocspd.pki.cert_reader import read_certificate
from ocspd.pki.issuer import Issuer

if TYPE_CHECKING:
    from ocspd.pki.keys import PrivateKey
    from ocspd.pki.profiles import Profile, SigningConfig


@dataclass(frozen=True, slots=True)
class IssuerSpec:
    """Everything another process needs to issue like this one; holds the private key in memory."""

    certificate: bytes
    key: bytes
    config: SigningConfig
    allow_weak_rsa: bool

    def __repr__(self) -> str:
        return f"IssuerSpec(<{len(self.key)} bytes of private key>)"

    @classmethod
    def of(cls, issuer: Issuer) -> IssuerSpec | None:
        """Describe an issuer; None when its key cannot leave this process."""
        export = getattr(issuer.key, "private_bytes", None)
        if issuer.certificate is None or export is None:
            return None
        return cls(
            issuer.certificate.public_bytes(serialization.Encoding.DER),
            export(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            _without_tokens(issuer.config),
            issuer.allow_weak_rsa,
        )

    def open(self) -> Issuer:
        """Make the issuer again."""
        return Issuer(
            read_certificate(self.certificate),
            cast("PrivateKey", serialization.load_der_private_key(self.key, None)),
            self.config,
            SystemClock(),
            allow_weak_rsa=self.allow_weak_rsa,
        )


def _without_tokens(config: SigningConfig) -> SigningConfig:
    """Return a configuration without the keys of clients and remote signers, which issuing does not need."""

    def stripped(profile: Profile) -> Profile:
        return replace(profile, auth_key=None, prev_auth_key=None, auth_remote=None)

    return replace(
        config,
        default=stripped(config.default),
        profiles={name: stripped(profile) for name, profile in config.profiles.items()},
        auth_keys={},
    )
