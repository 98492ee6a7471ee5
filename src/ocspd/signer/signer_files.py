"""OCSP signers made from files, once or again whenever one of the files is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import Code
from ocspd.files import stamp
from ocspd.inputs import naming, parse_key, read_certificate, read_key_material, unreadable_as
from ocspd.pki.certs import load_certificate
from ocspd.pki.ocsp import OCSPSigner, SignerNames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocspd.clock import Clock
    from ocspd.files import Stamp
    from ocspd.pki.signing_policy import SigningPolicy


@dataclass(frozen=True, slots=True)
class SignerFiles:
    """Where certificates and key of an issuer's signer are, and how it signs."""

    names: SignerNames
    policy: SigningPolicy


def open_signer(
    files: SignerFiles, clock: Clock, read: Callable[[str], bytes] = read_key_material
) -> OCSPSigner:
    """Make the signer of one issuer; OCSPDError naming the file that cannot be used.

    `read` fetches the bytes of responder certificate and key. CFSSL has plain paths there; a signer that
    stays accepts file: and env: as well.
    """
    names = files.names
    data = read(names.responder)
    with naming(names.responder):
        responder = load_certificate(data)
    issuer = read_certificate(names.issuer)
    with unreadable_as(Code.CERT_READ_FAILED):
        key = read(names.key)
    signer = OCSPSigner(
        issuer,
        responder,
        parse_key(names.key, key),
        files.policy,
        clock,
        names=names,
    )
    signer.log_warnings()
    return signer


class FollowedSigners:
    """Signers that are made again when a file is replaced (`signer_parts.SignerSource`)."""

    def __init__(self, files: Sequence[SignerFiles], clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._stamps: list[Stamp | None] = []

    def load(self) -> Sequence[OCSPSigner] | None:
        """Return the signers if a file has changed since the last call that succeeded, else None.

        Raises OCSPDError naming the file that cannot be used.
        """
        stamps = [
            _stamp(name)
            for each in self._files
            for name in (each.names.issuer, each.names.responder, each.names.key)
        ]
        if self._stamps == stamps:
            return None
        signers = [open_signer(each, self._clock) for each in self._files]
        self._stamps = stamps
        return signers


def _stamp(name: str) -> Stamp | None:
    """Return a value that changes when a file is replaced; None if there is no such file to watch."""
    try:
        return stamp(name.removeprefix("file:"))
    except OSError:
        return None
