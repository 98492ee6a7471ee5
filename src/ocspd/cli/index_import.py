"""What `index build` reads besides responses: CRLs, `index.txt`, lists of serials; and its report."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocspd.cli.flags import boolean, string, strings
from ocspd.cli.io import write_stdout
from ocspd.cli.progress import ByteProgress, PassProgress
from ocspd.cli.shared_flags import CERTID_HASH, EMBED_CA, PROCESSES, RESPONDER_ID
from ocspd.errors import ConfigError
from ocspd.signer.import_report import SHOWN, report_import
from ocspd.signer.importing import EXPIRED, FileStatus, ImportReport, IssuerFiles, Sources
from ocspd.signer.presigning import run_pass
from ocspd.signer.signers import Signers
from ocspd.signer.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.cli.flags import Flags
    from ocspd.clock import Clock
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.pass_parts import IndexWriter
    from ocspd.signer.tally import Progress

SOURCE_FLAGS = (
    strings("crl", "CRL, complete or delta, DER or PEM; may be repeated"),
    strings(
        "index-txt", "index.txt of openssl ca; with several -ca, one for each in the same order, '' for none"
    ),
    strings("serials", "file of issued serials, one per line; with several -ca, as for -index-txt"),
    boolean("allow-expired", "use CRLs whose nextUpdate has passed"),
)
BUILD_FLAGS = (
    *SOURCE_FLAGS,
    strings("responder", "responder certificate; one for each -ca, in the same order"),
    strings("responder-key", "private key of -responder"),
    "interval",
    CERTID_HASH,
    RESPONDER_ID,
    EMBED_CA,
    PROCESSES,
    boolean("list-skipped", "print every skipped line and CRL entry, with the reason"),
    string("report", "file to write a report to, in JSON"),
)


def sources_of(flags: Flags, issuers: int) -> Sources:
    """Return the files given by SOURCE_FLAGS, for this many CAs.

    ConfigError when it is not clear which file belongs to which CA.
    """
    crls = tuple(filter(None, flags.strings("crl")))
    files = {name: flags.strings(name) for name in ("index-txt", "serials")}
    if issuers <= 1:
        only = IssuerFiles(
            index_txt=tuple(filter(None, files["index-txt"])),
            serials=tuple(filter(None, files["serials"])),
        )
        return Sources(crls=crls, issuers=(only,), allow_expired=flags.boolean("allow-expired"))
    for name, given in files.items():
        if given and len(given) != issuers:
            raise ConfigError(
                f"got {issuers} -ca but {len(given)} -{name}: give one for each CA, in the same "
                "order, '' where there is none"
            )
    each = tuple(
        IssuerFiles(
            index_txt=_at(files["index-txt"], issuer_index), serials=_at(files["serials"], issuer_index)
        )
        for issuer_index in range(issuers)
    )
    return Sources(crls=crls, issuers=each, allow_expired=flags.boolean("allow-expired"))


def _at(names: tuple[str, ...], issuer_index: int) -> tuple[str, ...]:
    return tuple(filter(None, names[issuer_index : issuer_index + 1]))


@dataclass(slots=True)
class Imported:
    """The result of importing the files."""

    read: ImportReport = field(default_factory=ImportReport)
    signed: Tally = field(default_factory=Tally)
    named: list[tuple[str, str]] = field(default_factory=list)
    """The first skipped entries, apart from expired certificates: where and why."""


async def import_files(
    writer: IndexWriter, sources: Sources, signers: Sequence[OCSPSigner], flags: Flags, clock: Clock
) -> Imported:
    """Sign responses from the files into an index segment and report what was imported and skipped."""
    imported = Imported()
    every = flags.boolean("list-skipped")

    def on_skip(where: str, cause: str) -> None:
        if every:
            write_stdout(f"{where}\t{cause}\n")
        elif cause != EXPIRED and len(imported.named) < SHOWN:
            imported.named.append((where, cause))

    with ExitStack() as stack:
        reading = stack.enter_context(ByteProgress("reading files", sources.total_bytes))
        signing = stack.enter_context(PassProgress("signing OCSP responses", clock))
        status = FileStatus(
            sources,
            lambda: [signer.issuer for signer in signers],
            clock=clock,
            folder=Path(flags.string("o")),
            on_bytes=reading.advance,
            on_skip=on_skip,
        )

        def on_progress(progress: Progress) -> None:
            reading.stop()  # a terminal takes one bar at a time
            signing.update(progress)

        imported.signed = await run_pass(
            status,
            Signers.of(signers, status.issuer_indexes()),
            clock=clock,
            processes=flags.integer("processes"),
            table=False,
            index=writer,
            on_progress=on_progress,
        )
    imported.read = status.report
    report_import(imported.read, imported.named, more="-list-skipped lists all of them")
    return imported


def as_json(imported: Imported) -> dict[str, Any]:
    """Return the part of the report about the files."""
    read, signed = imported.read, imported.signed
    return {
        "files": [
            {
                "file": file.file,
                "kind": file.kind,
                "taken": file.taken,
                "skipped": dict(file.skipped),
                "notes": dict(file.notes),
            }
            for file in read.files
        ],
        "good": read.good,
        "revoked": read.revoked,
        "duplicates": read.duplicates,
        "conflicts": read.conflicts,
        "remarks": read.remarks,
        "signed_answers": signed.responses,
        "not_signed": dict(signed.skipped),
        "first_skipped": [{"where": where, "cause": cause} for where, cause in imported.named],
    }
