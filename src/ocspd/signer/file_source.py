"""Opening files as the source of certificates' status for a signer that stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.errors import ConfigError
from ocspd.inputs import read_certificate
from ocspd.pki.certs import ski_hex
from ocspd.signer.import_report import SHOWN, report_import
from ocspd.signer.importing import EXPIRED, FileStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ocspd.clock import Clock
    from ocspd.pki.certs import Certificate
    from ocspd.signer.importing import Sources


async def open_files(sources: Sources, cas: Sequence[str], folder: Path, clock: Clock) -> FileStatus:
    """Read the files once, so that unusable ones are reported before the daemon starts.

    `cas` name the certificates of the issuers in `sources`, `folder` takes what is kept of the files.
    """

    def issuers() -> list[Certificate]:
        return [read_certificate(name) for name in cas]

    for name, certificate in zip(cas, issuers(), strict=True):
        if not ski_hex(certificate):
            raise ConfigError(
                f"{name}: has no subject key identifier, which refresh needs with files: use index build"
            )
    identifiers = [ski_hex(certificate) for certificate in issuers()]
    for name, identifier in zip(cas, identifiers, strict=True):
        if identifiers.count(identifier) > 1:
            raise ConfigError(
                f"{name}: has the same key as another given CA, and files do not say which of the two "
                "issued a certificate: run one refresh for each, or use index build"
            )
    named: list[tuple[str, str]] = []

    def on_skip(where: str, cause: str) -> None:
        if cause != EXPIRED and len(named) < SHOWN:
            named.append((where, cause))

    status = FileStatus(sources, issuers, clock=clock, folder=folder, on_skip=on_skip)
    await status.check()
    report_import(status.report, named)
    return status
