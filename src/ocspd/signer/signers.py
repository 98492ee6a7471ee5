"""The issuers and the signers of their responses: a snapshot that never changes.

Files of certificates and keys may be replaced while a signer daemon runs. Every operation takes one snapshot
at its beginning and keeps it, so that the index of a signer means the same from the first row to the last
response.

A CA's key may have two names (renamed, cross-certified): certificates of both carry the same key identifier
while a CertID has the hash of the name. So rows of one key identifier get responses under each of its names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.certdb.spelling import is_canonical_aki
from ocspd.errors import ConfigError
from ocspd.model import normalize_aki
from ocspd.pki.certid import issuer_hashes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner

CertKey = tuple[int, int]
"""The index of a signer, and a serial number: the identity of a certificate here."""
SignersByAKI = dict[str, tuple[int, ...]]
"""The indexes of signers, by the key identifier their certificates' rows carry."""


@dataclass(frozen=True, slots=True)
class Signers:
    """Signers by index, and their indexes by key identifier."""

    every: tuple[OCSPSigner, ...]
    by_aki: SignersByAKI

    @classmethod
    def of(cls, signers: Sequence[OCSPSigner], issuer_indexes: Mapping[str, int] | None = None) -> Signers:
        """Take signers. `issuer_indexes` has what rows carry where that is not their issuer's key identifier.

        ConfigError when two of them are for the same CertIDs.
        """
        if issuer_indexes is not None:
            return cls(tuple(signers), {aki: (index,) for aki, index in issuer_indexes.items()})
        by_aki: SignersByAKI = {}
        prefixes: set[tuple[bytes, bytes]] = set()
        for index, signer in enumerate(signers):
            prefix = issuer_hashes(signer.issuer, "sha256")
            if prefix in prefixes:
                raise ConfigError(
                    f"two signers for {signer.subject} (key identifier {signer.aki or 'none'}): give each "
                    "issuer once"
                )
            prefixes.add(prefix)
            if signer.aki:
                by_aki[signer.aki] = (*by_aki.get(signer.aki, ()), index)
        return cls(tuple(signers), by_aki)

    def __getitem__(self, signer_index: int) -> OCSPSigner:
        return self.every[signer_index]

    def __len__(self) -> int:
        return len(self.every)

    def __iter__(self) -> Iterator[OCSPSigner]:
        return iter(self.every)

    def of_aki(self, aki: str) -> tuple[int, ...] | None:
        """Return the indexes of the signers of rows with a key identifier, in any spelling.

        None if the key identifier does not show the issuer, being none of ours and not hex: then the
        certificate's signature does (`of_row`).
        """
        found = self.by_aki.get(aki)
        if found is None and not is_canonical_aki(aki):
            spelled = normalize_aki(aki)
            found = self.by_aki.get(spelled)
            if found is None and not is_canonical_aki(spelled):
                return None
        return found or ()

    async def of_row(
        self, row: StatusRow, get_pem: Callable[[StatusRow], Awaitable[bytes]]
    ) -> tuple[int, ...]:
        """Return the indexes of the signers of a row, by its key identifier or its certificate."""
        found = self.of_aki(row.aki)
        if found is not None:
            return found
        pem = await get_pem(row)
        return tuple(index for index, signer in enumerate(self.every) if pem and signer.issued(pem))[:1]
