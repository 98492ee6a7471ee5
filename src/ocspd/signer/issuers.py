"""Whose certificates are answered, and who signs for them: a snapshot that never changes.

Files of certificates and keys may be exchanged while a signer runs. Whatever it does takes one snapshot at
its beginning and keeps it, so that the number of an issuer means the same from the first row to the last
answer.

A CA's key may have two names (renamed, cross-certified): certificates of both carry the same key identifier
while a CertID has the hash of the name. So rows of one key identifier are answered under each of its names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.certdb.spelling import is_canonical_aki
from ocspd.errors import ConfigError
from ocspd.model import normalize_aki
from ocspd.pki.certid import issuer_hashes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ocspd.pki.ocsp import OCSPSigner

Numbers = dict[str, tuple[int, ...]]
"""The numbers of signers, by the key identifier their certificates' rows carry."""


@dataclass(frozen=True, slots=True)
class Issuers:
    """Signers by number, and their numbers by key identifier."""

    signers: tuple[OCSPSigner, ...]
    numbers: Numbers

    @classmethod
    def of(cls, signers: Sequence[OCSPSigner], numbers: Mapping[str, int] | None = None) -> Issuers:
        """Take signers; `numbers`, where given, says in place of the issuers whose rows they answer.

        ConfigError when two of them are for the same CertIDs.
        """
        if numbers is not None:
            return cls(tuple(signers), {aki: (number,) for aki, number in numbers.items()})
        found: Numbers = {}
        prefixes: set[tuple[bytes, bytes]] = set()
        for number, signer in enumerate(signers):
            prefix = issuer_hashes(signer.issuer, "sha256")
            if prefix in prefixes:
                raise ConfigError(
                    f"two signers for {signer.subject} (key identifier {signer.aki or 'none'}): give each "
                    "issuer once"
                )
            prefixes.add(prefix)
            if signer.aki:
                found[signer.aki] = (*found.get(signer.aki, ()), number)
        return cls(tuple(signers), found)

    def numbers_of(self, aki: str) -> tuple[int, ...] | None:
        """Return the numbers of the signers of rows with a key identifier, in any spelling.

        None when the key identifier does not say it, as none of ours does and it is no hex: then the
        certificate's signature does (`issued`).
        """
        numbers = self.numbers.get(aki)
        if numbers is None and not is_canonical_aki(aki):
            spelled = normalize_aki(aki)
            numbers = self.numbers.get(spelled)
            if numbers is None and not is_canonical_aki(spelled):
                return None
        return numbers or ()

    def issued(self, pem: bytes) -> tuple[int, ...]:
        """Return the numbers of the signers whose issuer signed a certificate: one, or none."""
        return tuple(number for number, signer in enumerate(self.signers) if pem and signer.issued(pem))[:1]
