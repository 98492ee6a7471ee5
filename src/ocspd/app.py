"""Assembly: from settings to working objects; nothing is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.errors import CodedError
from ocspd.files import stamp
from ocspd.pki.certs import load_certificate
from ocspd.pki.ocsp import OCSPSigner, SignerNames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from ocspd.clock import Clock
    from ocspd.config import IssuerConfig
    from ocspd.files import Stamp
    from ocspd.pki.certs import Certificate
    from ocspd.pki.keys import PrivateKey


class FileSigners:
    """Signers made from files, and made again when a file is replaced (`signer.refreshing.SignerSource`)."""

    def __init__(
        self,
        issuers: Sequence[IssuerConfig],
        clock: Clock,
        *,
        read: Callable[[str], bytes],
        read_key: Callable[[str], PrivateKey],
        this_update_step: timedelta,
    ) -> None:
        """`read` fetches the bytes of a file, `file:` or `env:` name, `read_key` the key of one."""
        self._issuers = issuers
        self._clock = clock
        self._read = read
        self._read_key = read_key
        self._step = this_update_step
        self._stamps: list[Stamp | None] = []

    def load(self) -> Sequence[OCSPSigner] | None:
        """Return the signers if a file has changed since the last call that succeeded, else None.

        Raises OCSPDError naming the file that cannot be used.
        """
        stamps = [
            _stamp(name)
            for issuer in self._issuers
            for name in (issuer.ca, issuer.responder, issuer.responder_key)
        ]
        if self._stamps == stamps:
            return None
        signers = [self._signer(issuer) for issuer in self._issuers]
        self._stamps = stamps
        return signers

    def _signer(self, issuer: IssuerConfig) -> OCSPSigner:
        signer = OCSPSigner(
            self._certificate(issuer.ca),
            self._certificate(issuer.responder),
            self._read_key(issuer.responder_key),
            issuer.policy(self._step),
            self._clock,
            names=SignerNames(issuer.ca, issuer.responder, issuer.responder_key),
        )
        signer.log_warnings()
        return signer

    def _certificate(self, name: str) -> Certificate:
        data = self._read(name)
        try:
            return load_certificate(data)
        except CodedError as err:
            raise CodedError(err.code, f"{name}: {err.message}") from err


def _stamp(name: str) -> Stamp | None:
    """Return a value that changes when a file is replaced; None if there is no such file to watch."""
    try:
        return stamp(name.removeprefix("file:"))
    except OSError:
        return None
