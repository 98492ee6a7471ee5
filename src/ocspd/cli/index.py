"""The verb `index`: build, stats, verify, lookup and merge."""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocspd.app import open_database
from ocspd.cli.flags import boolean, string, strings
from ocspd.cli.index_import import BUILD_FLAGS, Imported, as_json, import_files, sources_of
from ocspd.cli.io import write_stdout
from ocspd.cli.progress import ByteProgress
from ocspd.cli.signers import open_signers
from ocspd.cli.verb import Verb, no_action
from ocspd.clock import SystemClock
from ocspd.errors import CodedError, ConfigError, DERError, UsageError
from ocspd.files import check_output, write_atomic
from ocspd.index.directory import IndexDirectory
from ocspd.inputs import read_key_material
from ocspd.logs import logger
from ocspd.model import CertStatus, hex_hint, parse_serial
from ocspd.pki.certs import load_certificates
from ocspd.shown import shown
from ocspd.signer import indexing
from ocspd.wire import dumps_indented

if TYPE_CHECKING:
    from ocspd._index import StoredResponse
    from ocspd.cli.flags import Flags
    from ocspd.index._writer import SegmentWriter
    from ocspd.pki.certs import Certificate

_BAD_SHOWN = 20


def _directory(action: str, arguments: list[str], extra: int = 0) -> IndexDirectory:
    if len(arguments) != 1 + extra:
        what = "an index directory" + (" and a serial number" if extra else "")
        raise UsageError(f"index {action} takes {what}, but got {len(arguments)} arguments")
    return IndexDirectory(arguments[0])


def _now_s() -> int:
    return int(SystemClock().now().timestamp())


def _certificates(flags: Flags) -> list[Certificate]:
    found = []
    for name in flags.strings("ca"):
        try:
            found += load_certificates(read_key_material(name))
        except CodedError as err:
            raise CodedError(err.code, f"{name}: {err.message}") from err
    if not found:
        raise ConfigError("need CA certificate (provide with -ca)")
    return found


# -- build -------------------------------------------------------------------------------------------


async def _build(flags: Flags, arguments: list[str]) -> int:
    if arguments:
        raise UsageError(f"index build takes no arguments, but got {shown(arguments[0])!r}")
    if not flags.string("o"):
        raise ConfigError("need index directory (provide with -o)")
    if flags.string("report"):
        check_output(flags.string("report"))
    sources = sources_of(flags, len(flags.strings("ca")))
    if not sources and not any(flags.strings("responses")) and not flags.string("db-config"):
        raise ConfigError(
            "nothing to build from (provide -responses, -db-config, -crl, -index-txt or -serials)"
        )
    clock = SystemClock()
    signers = open_signers(flags, clock) if sources else []
    directory = IndexDirectory(flags.string("o"))
    report = indexing.BuildReport()
    imported = Imported()
    with directory.lock(), directory.writer(_now_s()) as writer:
        for name in filter(None, flags.strings("responses")):
            _add_file(writer, Path(name), report)
        if flags.string("db-config"):
            await _add_table(writer, flags.string("db-config"), report)
        _report_bad(report)
        writer.order_by_time()  # whatever the order of dumps
        if sources:  # last, as later answers replace earlier ones
            imported = await import_files(writer, sources, signers, flags, clock)
        if not report.responses + imported.signed.responses:
            raise ConfigError("no usable response: the index is unchanged")
        writer.finish()
        ref = directory.adopt(writer.path)
        manifest = directory.publish([ref], _now_s())
        directory.collect(_now_s())
    logger.info(
        "%s: generation %d with %d responses in %d bytes (%.1f each), %d skipped",
        directory.path,
        manifest.generation,
        ref.entries,
        ref.size_bytes,
        ref.size_bytes / max(ref.entries, 1),
        report.skipped,
    )
    if flags.string("report"):
        _write_report(flags.string("report"), manifest.generation, ref.entries, report, imported)
    return 0


def _report_bad(report: indexing.BuildReport) -> None:
    for position, why in report.bad[:_BAD_SHOWN]:
        logger.error("skipping response %d: %s", position, why)
    if report.skipped > _BAD_SHOWN:
        logger.error("skipped %d responses in total", report.skipped)


def _write_report(
    path: str, generation: int, entries: int, report: indexing.BuildReport, imported: Imported
) -> None:
    value = {
        "generation": generation,
        "entries": entries,
        "responses": {
            "taken": report.responses,
            "skipped": report.skipped,
            "first_skipped": [{"response": position, "cause": why} for position, why in report.bad],
        },
        **as_json(imported),
    }
    write_atomic(path, (dumps_indented(value) + "\n").encode())


def _add_file(writer: SegmentWriter, path: Path, report: indexing.BuildReport) -> None:
    try:
        size = path.stat().st_size
    except OSError as err:
        raise ConfigError(f"{path}: cannot read: {err.strerror}") from err
    with ByteProgress(f"reading {path.name}", size) as progress:
        indexing.add_dump(writer, path, report, progress.advance)


async def _add_table(writer: SegmentWriter, db_config: str, report: indexing.BuildReport) -> None:
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(await open_database(db_config, SystemClock()))
        await db.check()
        async for rows in db.unexpired_ocsp():
            for row in rows:
                try:
                    writer.add(row.body)
                    report.responses += 1
                except DERError as err:
                    report.skipped += 1
                    report.bad.append((report.responses + report.skipped, f"serial {row.serial}: {err}"))


# -- stats, verify, lookup, merge --------------------------------------------------------------------


async def _stats(_flags: Flags, arguments: list[str]) -> int:
    write_stdout(dumps_indented(indexing.describe(_directory("stats", arguments))) + "\n")
    return 0


async def _verify(flags: Flags, arguments: list[str]) -> int:
    directory = _directory("verify", arguments)
    issuers = _certificates(flags)
    with ByteProgress("verifying responses", None) as progress:
        report = indexing.verify(directory, issuers, _now_s(), progress.set)
    for example in report.examples:
        logger.error("%s", example)
    for cause, count in report.failures.most_common():
        logger.error("%d responses: %s", count, cause)
    verdict = "sound" if report.good else "NOT SOUND"
    write_stdout(
        f"{directory.path}: {verdict}: {report.checked} responses checked, {report.failures.total()} failed, "
        f"{report.replaced} replaced by newer ones\n"
    )
    return 0 if report.good else 1


async def _lookup(flags: Flags, arguments: list[str]) -> int:
    directory = _directory("lookup", arguments, extra=1)
    serial = parse_serial(arguments[1])
    index = directory.open()
    found = {
        name: response
        for issuer in _certificates(flags)
        for name, response in indexing.lookup(index, issuer, serial).items()
    }
    if not found:
        write_stdout(
            f"serial {serial} is not in the index: the responder would return unauthorized"
            f"{hex_hint(arguments[1])}\n"
        )
        return 1
    if flags.string("der"):
        check_output(flags.string("der"))
        write_atomic(flags.string("der"), next(iter(found.values())).der)
    result = {"serial": str(serial), "serial_hex": f"{serial:#x}"}
    whole = flags.boolean("base64")
    shown = {name: _show(response, whole=whole) for name, response in found.items()}
    write_stdout(dumps_indented(result | shown) + "\n")
    return 0


def _show(response: StoredResponse, *, whole: bool) -> dict[str, Any]:
    shown = {
        "status": CertStatus(response.status).word,
        "produced_at": indexing.iso(response.produced_at),
        "this_update": indexing.iso(response.this_update),
        "next_update": indexing.iso(response.next_update),
        "refresh_at": indexing.iso(response.refresh_at),
        "etag": response.etag,
        "bytes": len(response.der),
    }
    return shown | {"response": base64.b64encode(response.der).decode()} if whole else shown


async def _merge(_flags: Flags, arguments: list[str]) -> int:
    directory = _directory("merge", arguments)
    directory.open()  # before the lock, which would create the directory
    with directory.lock():
        manifest = indexing.merge(directory, _now_s())
        directory.collect(_now_s())
    ref = manifest.segments[0]
    logger.info(
        "%s: generation %d, one segment of %d responses", directory.path, manifest.generation, ref.entries
    )
    return 0


_CA = strings("ca", "CA certificate of the responses; may be repeated")

_ACTIONS = (
    Verb(
        "index build",
        """ocspd index build -- create an index from signed responses, or from CRLs and lists of certificates

Usage of index build:
        ocspd index build -o directory [-responses file]... [-db-config db-config]
        ocspd index build -o directory -ca cert -responder cert -responder-key key
                          [-crl file]... [-index-txt file] [-serials file]

The first form reads responses in base64 (ocspdump of CFSSL and ocspd, Boulder) or the table ocsp_responses.
The second form signs responses from CRLs, an index.txt of openssl ca, and lists of issued serials.
Only serials in -index-txt or -serials can be good.""",
        (
            string("o", "index directory to build"),
            strings("responses", "file of OCSP responses in base64; may be repeated"),
            "db-config",
            _CA,
            *BUILD_FLAGS,
        ),
        _build,
        cfssl=False,
    ),
    Verb(
        "index stats",
        """ocspd index stats -- print the statuses, issuers, times and segments of an index

Usage of index stats:
        ocspd index stats directory

Prints JSON; times are UTC.""",
        (),
        _stats,
        cfssl=False,
    ),
    Verb(
        "index verify",
        """ocspd index verify -- check the format, times and signature of every response of an index

Usage of index verify:
        ocspd index verify directory -ca cert [-ca cert]...

The exit code is 1 if any response fails a check.""",
        (_CA,),
        _verify,
        cfssl=False,
    ),
    Verb(
        "index lookup",
        """ocspd index lookup -- print the responses of an index for one certificate

Usage of index lookup:
        ocspd index lookup directory serial -ca cert [-der file]

The serial may be decimal, 0x... or hex pairs with colons.
Prints JSON, one object for each CertID hash. The exit code is 1 if there is no response.""",
        (
            _CA,
            string("der", "file to write the response to, in DER"),
            boolean("base64", "also print the response, in base64"),
        ),
        _lookup,
        cfssl=False,
    ),
    Verb(
        "index merge",
        """ocspd index merge -- merge the segments of an index into one, without replaced responses

Usage of index merge:
        ocspd index merge directory""",
        (),
        _merge,
        cfssl=False,
    ),
)

VERBS = (
    Verb(
        "index",
        """ocspd index -- build, inspect and verify index directories

Usage of index:
        ocspd index build     create an index from signed responses, or from CRLs and lists of certificates
        ocspd index stats     print its statuses, issuers, times and segments
        ocspd index verify    check every response
        ocspd index lookup    print the responses for one certificate
        ocspd index merge     merge its segments into one

ocspd index build -h lists the flags of index build, and so on.""",
        (),
        no_action,
        cfssl=False,
        actions=_ACTIONS,
    ),
)
