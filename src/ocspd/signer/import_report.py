"""What was taken from files and what was left out, for the log."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ocspd.logs import logger
from ocspd.signer.importing import EXPIRED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.signer.importing import FileReport, ImportReport

SHOWN = 20
"""How many skipped lines are listed by default."""


def report_import(read: ImportReport, named: Sequence[tuple[str, str]], *, more: str = "") -> None:
    """Log what was imported and skipped; `named` are the first skipped lines, `more` is how to list all."""
    for file in read.files:
        logger.info("%s: %s: %d imported, %d skipped", file.file, file.kind, file.taken, file.skipped.total())
    for where, cause in named:
        logger.warning("skipping %s: %s", where, cause)
    for counts, what in ((_sum(read.files, "skipped"), "skipped"), (_sum(read.files, "notes"), "imported")):
        for cause, count in counts.most_common():
            logger.log(20 if cause == EXPIRED else 30, "%d %s: %s", count, what, cause)
    shown = sum(count for cause, count in _sum(read.files, "skipped").items() if cause != EXPIRED)
    if more and named and shown > len(named):
        logger.warning("%s", more)
    if read.duplicates:
        logger.info("%d lines repeat a serial; revoked takes precedence over valid", read.duplicates)
    if read.conflicts:
        logger.warning(
            "%d certificates are valid in index.txt but on a CRL; signed as revoked", read.conflicts
        )
    for remark in read.remarks:
        logger.warning("%s", remark)
    logger.info("%d certificates good, %d revoked", read.good, read.revoked)


def _sum(files: Sequence[FileReport], name: str) -> Counter[str]:
    return sum((getattr(file, name) for file in files), Counter())
