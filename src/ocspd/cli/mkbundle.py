"""The verb `mkbundle`: all certificates of some files and directories in one file, without revoked ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd import limits
from ocspd.cli.flags import integer, string
from ocspd.cli.io import write_stdout
from ocspd.cli.verb import Verb
from ocspd.errors import OCSPDError
from ocspd.inputs import read_file
from ocspd.logs import logger
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocspd.authority.bundling_revocation import RevocationChecker
    from ocspd.cli.flags import Flags
    from ocspd.pki.certs import Certificate

_STDOUT = "/dev/stdout"


def _mkbundle(flags: Flags, arguments: list[str]) -> int:
    from ocspd.authority.bundling_revocation import RevocationChecker  # noqa: PLC0415  (not needed for help)
    from ocspd.authority.fetching import Outbound  # noqa: PLC0415
    from ocspd.clock import SystemClock  # noqa: PLC0415
    from ocspd.pki.certs import certificate_to_pem  # noqa: PLC0415

    if not arguments:
        raise OCSPDError("no paths are given: name files and directories with certificates (PEM)")
    walk = _Walk()
    found = [certificate for argument in arguments for certificate in walk.certificates(Path(argument))]
    unique = list(dict.fromkeys(found))
    checker = RevocationChecker(unique, Outbound(allow_private=True), SystemClock())
    with ThreadPoolExecutor(flags.integer("nw")) as workers:
        usable = workers.map(lambda certificate: _is_usable(checker, certificate), unique)
        kept = [certificate for certificate, good in zip(unique, usable, strict=True) if good]
    _write(flags.string("f"), "".join(map(certificate_to_pem, kept)))
    logger.info("Wrote %d certificates.", len(kept))
    return 1 if walk.failed else 0


class _Walk:
    """Reads files; `failed` tells whether one of those named could not be read."""

    def __init__(self) -> None:
        self.failed = False

    def certificates(self, path: Path) -> Iterator[Certificate]:
        """Yield the certificates of a file, or of every file below a directory, in order of their names."""
        from ocspd.pki.certs import load_der  # noqa: PLC0415  (not needed for help)
        from ocspd.pki.pem import blocks  # noqa: PLC0415

        for file in self._files(path):
            logger.info("Loading %s", shown(str(file)))
            try:
                data = read_file(str(file))
            except OCSPDError as err:
                logger.warning("%s", err)
                self.failed = True
                continue
            found = blocks(data)
            if not found:
                logger.warning("%s: no PEM data found", shown(str(file)))
            for block in found:
                if block.label != "CERTIFICATE":
                    logger.info("Skipping non-certificate")
                    continue
                try:
                    yield load_der(block.content)
                except OCSPDError as err:
                    logger.warning("%s: Invalid certificate: %s", shown(str(file)), err)

    def _files(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        # Links are not followed below a directory: a store has one file twice under names of hashes.
        return sorted(file for file in path.rglob("*") if not file.is_symlink() and file.is_file())


def _is_usable(checker: RevocationChecker, certificate: Certificate) -> bool:
    from ocspd.pki.certid import parts_of  # noqa: PLC0415  (not needed for help)
    from ocspd.pki.names import to_text  # noqa: PLC0415

    name = to_text(parts_of(certificate).subject)
    logger.info("Validating %s", name)
    try:
        usable = checker.is_usable(certificate)
    except OCSPDError as err:
        logger.warning("Failed to verify certificate. %s: %s", name, err)
        return False
    if not usable:
        logger.info("Skipping revoked certificate %s", name)
    return usable


def _write(path: str, text: str) -> None:
    from ocspd.files import check_output, write_atomic  # noqa: PLC0415  (not needed for help)

    if path == _STDOUT:
        write_stdout(text)
        return
    check_output(path)
    write_atomic(path, text.encode(), 0o644)


VERBS = (
    Verb(
        "mkbundle",
        """ocspd mkbundle -- gather certificates in one file, except expired and revoked ones

Usage of mkbundle:
        ocspd mkbundle [-f bundle_file] [-nw number_of_workers] certificate_file_path ...

Revocation is checked by the CRLs and OCSP servers that a certificate names; one that cannot be checked is
left out.""",
        (
            string("f", "path to store certificate bundle", "cert-bundle.crt"),
            integer("nw", "number of workers", 4, limits=limits.BUNDLE_WORKERS),
        ),
        _mkbundle,
        cfssl=False,
    ),
)
