"""The verb `audit`: verify, show, export and reconcile for the audit log of `ocspd serve`."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocspd import limits
from ocspd.authority.audit import chain, reading
from ocspd.cli.flags import boolean, integer, string, strings
from ocspd.cli.io import write_stdout
from ocspd.cli.verb import Verb, no_action
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError, ConfigError, OCSPDError, UsageError
from ocspd.inputs import naming, read_file
from ocspd.model import parse_serial, serial_to_text
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ocspd.authority.audit.chain import Entry
    from ocspd.authority.audit.reading import Filter, LogPart
    from ocspd.authority.audit.verify import Report
    from ocspd.cli.flags import Flags
    from ocspd.pki.seals import SealCheck

_FLUSH_BYTES = 1 << 16
_SETTLE_S = 2.0
"""How long a certificate or a revocation may be in one of log and database only."""
_COLUMNS = (
    "n",
    "time",
    "event",
    "result",
    "code",
    "client",
    "address",
    "subject",
    "key",
    "endpoint",
    "serial",
    "aki",
    "profile",
    "label",
    "common_name",
    "sans",
    "not_after",
    "reason",
    "csr_sha256",
    "certificate_sha256",
    "message",
)
"""Of a CSV file, in this order; what else an entry has is in the column `more`, as JSON."""


def _parts(action: str, arguments: list[str]) -> list[LogPart]:
    if not arguments:
        raise UsageError(f"audit {action} needs the name of an audit log")
    return reading.find(arguments)


# -- verify ------------------------------------------------------------------------------------------


def _verify(flags: Flags, arguments: list[str]) -> int:
    from ocspd.authority.audit.verify import verify  # noqa: PLC0415  (see the other actions)

    parts = _parts("verify", arguments)
    if not parts:
        raise OCSPDError(f"{shown(arguments[0], 4096)}: is empty")
    path = Path(arguments[0])
    check = _check(flags, path)
    report = verify(parts, check=check, known=_known(flags, path, check), begin=flags.integer("from"))
    _print_report(report, check)
    return 1 if report.problems else 0


def _check(flags: Flags, path: Path) -> SealCheck | None:
    from ocspd.pki.seals import SealCheck  # noqa: PLC0415  (cryptography, only when needed)

    name = flags.string("key")
    if not name:
        name = str(reading.beside(path, reading.PUBLIC))
        if not Path(name).exists():
            raise ConfigError(
                f"need the public key of checkpoints (provide with -key): there is no {shown(name, 4096)}"
            )
    with naming(name):
        return SealCheck.load(read_file(name))


def _known(flags: Flags, path: Path, check: SealCheck | None) -> list[Entry]:
    """Return the checkpoints that were kept: of -checkpoint, and the one beside the log."""
    found = [_read_checkpoint(name, check) for name in flags.strings("checkpoint")]
    beside = reading.beside(path, reading.CHECKPOINT)
    if beside.exists():
        found.append(_read_checkpoint(str(beside), check))
    return found


def _read_checkpoint(name: str, check: SealCheck | None) -> Entry:
    data = read_file(name)
    start = data.find(b'{"n":')  # a line of the server's log will do
    try:
        entry = chain.parse(data[max(start, 0) :].strip())
        if entry.event != "checkpoint":
            raise ValueError("it is another entry")  # noqa: TRY301  (one message below)
        if check is not None:
            chain.check_checkpoint(entry, check)
    except ValueError as err:
        raise OCSPDError(f"{shown(name, 4096)}: not a checkpoint of this log: {err}") from err
    return entry


def _print_report(report: Report, check: SealCheck | None) -> None:
    lines = [f"{finding}\n" for finding in report.problems]
    lines += [f"note: {finding}\n" for finding in report.notes]
    files = "1 file" if report.files == 1 else f"{report.files} files"
    verdict = f"{len(report.problems)} problems" if report.problems else "OK"
    lines.append(
        f"{verdict}: entries {report.first} to {report.last} in {files}, {report.checkpoints} checkpoints"
        f"{'' if check is None else f' (key {check.name})'}, {report.unsigned} entries after the last one\n"
    )
    write_stdout("".join(lines))


# -- show and export ---------------------------------------------------------------------------------


def _filter(flags: Flags) -> Filter:
    serial = flags.string("serial")
    return reading.Filter(
        events=frozenset(name.strip() for name in flags.string("event").split(",") if name.strip()),
        serial=serial_to_text(parse_serial(serial)) if serial else "",
        client=flags.string("client"),
        since=_time(flags, "since"),
        until=_time(flags, "until"),
    )


def _time(flags: Flags, name: str) -> datetime | None:
    text = flags.string(name)
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"invalid value {shown(text)!r} for flag -{name}: write 2006-01-02 or 2006-01-02T15:04:05Z"
        ) from None


def _wanted(flags: Flags, parts: Sequence[LogPart]) -> Iterator[Entry]:
    wants = _filter(flags).wants
    return (entry for entry in reading.entries(parts) if wants(entry))


def _show(flags: Flags, arguments: list[str]) -> None:
    found = _wanted(flags, _parts("show", arguments))
    last = flags.integer("last")
    if last:
        from collections import deque  # noqa: PLC0415  (for this flag only)

        found = iter(deque(found, last))
    as_json = flags.boolean("json")
    _write(json.dumps(entry.fields) + "\n" if as_json else _line(entry) for entry in found)


def _line(entry: Entry) -> str:
    """Write an entry for people: number, time, event, then name=value, all of it printable."""
    fields = entry.fields
    skipped = {"n", "prev", "time", "event", "signature"}
    words = [str(entry.number), str(fields.get("time", "-")), entry.event or "-"]
    words += [f"{name}={_word(value)}" for name, value in fields.items() if name not in skipped]
    text = " ".join(words)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text) + "\n"


def _word(value: Any) -> str:
    match value:
        case str() if value and " " not in value and '"' not in value:
            return value
        case list() if all(isinstance(item, str) and " " not in item for item in value):
            return ",".join(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _export(flags: Flags, arguments: list[str]) -> None:
    found = _wanted(flags, _parts("export", arguments))
    match flags.string("format"):
        case "jsonl":
            _write(json.dumps(entry.fields) + "\n" for entry in found)
        case "json":
            _write(_array(found))
        case "csv":
            _write(_csv(found))
        case other:
            raise UsageError(f"invalid value {shown(other)!r} for flag -format: use jsonl, json or csv")


def _array(found: Iterator[Entry]) -> Iterator[str]:
    separator = "["
    for entry in found:
        yield separator + "\n" + json.dumps(entry.fields)
        separator = ","
    yield "[]\n" if separator == "[" else "\n]\n"


def _csv(found: Iterator[Entry]) -> Iterator[str]:
    yield _row([*_COLUMNS, "more"])
    for entry in found:
        fields = dict(entry.fields)
        cells = [_cell(fields.pop(name, None)) for name in _COLUMNS]
        del fields["prev"]
        yield _row([*cells, json.dumps(fields) if fields else ""])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    # A spreadsheet runs what begins like a formula; the apostrophe makes it text.
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _row(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _write(texts: Iterator[str]) -> None:
    kept: list[str] = []
    size = 0
    for text in texts:
        kept.append(text)
        size += len(text)
        if size > _FLUSH_BYTES:
            write_stdout("".join(kept))
            kept, size = [], 0
    write_stdout("".join(kept))


# -- reconcile ---------------------------------------------------------------------------------------


async def _reconcile(flags: Flags, arguments: list[str]) -> int:
    import asyncio  # noqa: PLC0415  (for this action only, as the others)

    from ocspd.app import open_database  # noqa: PLC0415
    from ocspd.authority.audit.reconcile import reconcile  # noqa: PLC0415

    parts = _parts("reconcile", arguments)
    if not flags.string("db-config"):
        raise CodedError(Code.POLICY_INVALID, "need DB config file (provide with -db-config)")
    clock = SystemClock()
    async with await open_database(flags.string("db-config"), clock) as db:
        result = await reconcile(reading.entries(parts), db, clock.now())
        if result.differences:  # of a server at work some are under way: they are gone the next time
            await asyncio.sleep(_SETTLE_S)
            again = await reconcile(reading.entries(_parts("reconcile", arguments)), db, clock.now())
            known = {(each.serial, each.aki, each.text) for each in result.differences}
            again.differences = [
                each for each in again.differences if (each.serial, each.aki, each.text) in known
            ]
            result = again
    lines = []
    for each in result.differences:
        where = f" (entry {each.entry})" if each.entry else ""
        lines.append(f"serial {each.serial} aki {each.aki or '-'}: {each.text}{where}\n")
    verdict = f"{len(result.differences)} differences" if result.differences else "OK"
    lines.append(
        f"{verdict}: {result.logged} certificates in the log, {result.stored} unexpired in the database, "
        f"{result.older} of them issued before the log began\n"
    )
    write_stdout("".join(lines))
    return 1 if result.differences else 0


_SELECTION = (
    string("event", "only these events, separated by commas"),
    string("serial", "only the certificate with this serial number"),
    string("client", "only this client: its name in the configuration, or its address"),
    string("since", "only from this time on: 2006-01-02 or 2006-01-02T15:04:05Z"),
    string("until", "only before this time"),
)
_FILES = (
    "LOG is the file that -audit-log of serve names; what rotation made of it is found beside it. If\n"
    "several files are given, the log consists of exactly these."
)

_ACTIONS = (
    Verb(
        "audit verify",
        "ocspd audit verify -- check that nothing in an audit log was changed, removed or re-ordered\n\n"
        "Usage of audit verify:\n"
        "        ocspd audit verify [-key public_key] [-checkpoint file] [-from number] LOG...\n\n"
        f"{_FILES}\n\n"
        "Every problem is one line with file and line number; the exit status is then 1. Keep a copy of the\n"
        "public key elsewhere, and of checkpoints, which the server logs: they prove that the whole log was\n"
        "not made anew.",
        (
            string("key", "public key of checkpoints (default: LOG.pub)"),
            strings("checkpoint", "file with a checkpoint that was kept: it has to be in the log"),
            integer(
                "from", "number of the first entry, if older files are kept elsewhere", 1, limits=limits.ENTRY
            ),
        ),
        _verify,
        cfssl=False,
    ),
    Verb(
        "audit show",
        "ocspd audit show -- print the entries of an audit log, one a line\n\n"
        f"Usage of audit show:\n        ocspd audit show [flags] LOG...\n\n{_FILES}",
        (
            *_SELECTION,
            integer("last", "only so many, the newest (0: all)", limits=limits.ENTRIES_SHOWN),
            boolean("json", "print them as they are in the log"),
        ),
        _show,
        cfssl=False,
    ),
    Verb(
        "audit export",
        "ocspd audit export -- write the entries of an audit log for other programs\n\n"
        f"Usage of audit export:\n        ocspd audit export [-format csv] [flags] LOG...\n\n{_FILES}",
        (string("format", "jsonl, json (one list) or csv", "jsonl"), *_SELECTION),
        _export,
        cfssl=False,
    ),
    Verb(
        "audit reconcile",
        "ocspd audit reconcile -- list certificates that are in either the audit log or the database\n\n"
        f"Usage of audit reconcile:\n        ocspd audit reconcile -db-config config LOG...\n\n{_FILES}\n\n"
        "Revocations are compared too. The exit status is 1 if there are differences.",
        ("db-config",),
        _reconcile,
        cfssl=False,
    ),
)

VERBS = (
    Verb(
        "audit",
        "ocspd audit -- check and read the audit log of the authority\n\n"
        "Usage of audit:\n"
        "        ocspd audit verify LOG                       check the chain and its signatures\n"
        "        ocspd audit show LOG                         print entries\n"
        "        ocspd audit export LOG                       write entries as JSON or CSV\n"
        "        ocspd audit reconcile -db-config config LOG  compare with the certificate database\n\n"
        "ocspd audit verify -h lists the flags of audit verify, and so on.",
        (),
        no_action,
        cfssl=False,
        actions=_ACTIONS,
    ),
)
