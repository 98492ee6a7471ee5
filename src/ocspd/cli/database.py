"""The verbs `db` (create, migrate and inspect the certificate database) and `revoke`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ocspd.app import open_database
from ocspd.authority.revoking import revoke
from ocspd.authority.revoking_entries import one_entry, read_entries
from ocspd.authority.revoking_list import ListError, Result, revoke_all
from ocspd.certdb import migrate
from ocspd.cli.flags import boolean, string
from ocspd.cli.io import read_input, write_stdout
from ocspd.cli.verb import Verb, no_action, no_more_arguments
from ocspd.clock import SystemClock
from ocspd.errors import CodedError, ConfigError, OCSPDError, UsageError
from ocspd.inputs import read_file
from ocspd.logs import logger
from ocspd.model import serial_to_text
from ocspd.pki.certs import aki_hex, load_certificate
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ocspd.authority.revoking_entries import Entry
    from ocspd.authority.revoking_list import Outcome
    from ocspd.certdb.base import CertDB
    from ocspd.cli.flags import Flags
    from ocspd.cli.verb import Run

_CFSSL_VERSION = 2


async def _open(flags: Flags) -> CertDB:
    path = flags.string("db-config")
    if not path:
        raise ConfigError("need DB config file (provide with -db-config)")
    return await open_database(path, SystemClock())


def _with_database(work: Callable[[CertDB, Flags], Awaitable[None]]) -> Run:
    async def run(flags: Flags, arguments: list[str]) -> None:
        if arguments:
            raise UsageError(f"unexpected argument {arguments[0][:100]!r}")
        async with await _open(flags) as db:
            await work(db, flags)

    return run


async def _up(db: CertDB, _flags: Flags) -> None:
    done = await migrate.up(db)
    write_stdout("".join(_shown(name) for name in done) or f"{db.name} is up to date\n")


def _shown(name: str) -> str:
    return f"applied {name}\n" if name.endswith(".sql") else f"restored trigger {name}\n"


async def _down(db: CertDB, flags: Flags) -> None:
    version = await migrate.current_version(db)
    if 0 < version <= _CFSSL_VERSION and not flags.boolean("force"):
        raise OCSPDError(
            f"{db.name} is at CFSSL's own migration {version}: undoing it deletes certificates or "
            "their details. Add -force to do it anyway"
        )
    name = await migrate.down(db)
    write_stdout(f"undone {name}\n" if name else f"{db.name} has no migration to undo\n")


async def _status(db: CertDB, _flags: Flags) -> None:
    lines = [db.name, f"    {'Applied At':<26}    Migration", "    " + "=" * 60]
    lines += [
        f"    {state.applied_at if state.applied else 'Pending':<26} -- {state.name}"
        for state in await migrate.status(db)
    ]
    write_stdout("\n".join(lines) + "\n")


async def _revoke(flags: Flags, arguments: list[str]) -> int | None:
    no_more_arguments(arguments)
    if flags.string("file"):
        return await _revoke_listed(flags)
    serial, aki = flags.string("serial"), flags.string("aki")
    if flags.string("cert"):
        if serial or aki:
            raise UsageError("give either -cert, or -serial and -aki")
        serial, aki = _identity(read_file(flags.string("cert")))
    if not serial:
        raise ConfigError("serial number is required but not provided (give -serial, -cert or -file)")
    if flags.boolean("dry-run"):
        if flags.boolean("force"):
            raise UsageError("-dry-run does not say what -force would do: give one of them")
        return await _done(flags, [one_entry(serial, aki or None, flags.string("reason"))])
    async with await _open(flags) as db:
        notice = await revoke(
            db,
            serial_text=serial,
            aki=aki or None,
            reason=flags.string("reason"),
            force=flags.boolean("force"),
        )
        if notice:
            logger.warning("%s (-force replaces date and reason)", notice)
    return None


async def _revoke_listed(flags: Flags) -> int:
    if flags.string("serial") or flags.string("aki") or flags.string("cert"):
        raise UsageError("give either -file, or -cert, or -serial and -aki")
    if flags.boolean("force"):
        raise UsageError("-force is for one certificate: give it with -serial or -cert, not with -file")
    name = flags.string("file")
    return await _done(flags, read_entries(read_input(name), flags.string("reason"), name=name))


async def _done(flags: Flags, entries: Iterable[Entry]) -> int:
    """Revoke, print a line for each entry, and return the exit status."""
    dry_run = flags.boolean("dry-run")
    counts = Counter[Result]()
    async with await _open(flags) as db:
        await db.check()
        try:
            async for outcomes in revoke_all(db, entries, dry_run=dry_run):
                counts.update(outcome.result for outcome in outcomes)
                write_stdout("".join(map(_outcome_line, outcomes)))
        except ListError as err:
            write_stdout("".join(map(_outcome_line, err.failed)))
            done = counts.total()
            raise CodedError(
                err.code, f"{err.message}; stopped after {done} entries, which stay done: use the list again"
            ) from err
    if not counts:
        raise OCSPDError(f"{shown(flags.string('file'), 4096)}: has no serial number and no certificate")
    summary = ", ".join(f"{counts[result]} {result.value}" for result in Result)
    logger.info("%s%s", "dry run, nothing is changed: " if dry_run else "", summary)
    return 1 if counts[Result.FAILED] else 0


def _outcome_line(outcome: Outcome) -> str:
    entry = outcome.entry
    words = [f"{entry.place}:"] if entry.line else []
    if not entry.problem:
        words += [f"serial {entry.serial}" + (f" aki {entry.aki}" if entry.aki else "") + ":"]
    words += ["failed:"] if outcome.result is Result.FAILED else []
    return " ".join([*words, outcome.text]) + "\n"


def _identity(pem: bytes) -> tuple[str, str]:
    certificate = load_certificate(pem)
    serial_number = certificate.serial_number
    # not in decimal: what was typed nowhere needs no hint that it may be meant as hex
    return f"{serial_number:#x}" if serial_number >= 0 else serial_to_text(serial_number), aki_hex(
        certificate
    )


_DB_ACTIONS = (
    Verb(
        "db up",
        "ocspd db up -- create the tables, or apply missing migrations and restore triggers\n\n"
        "Usage of db up:\n        ocspd db up -db-config config\n\n"
        "A database made by CFSSL's goose is migrated from where it is; CFSSL keeps working on it.",
        ("db-config",),
        _with_database(_up),
        cfssl=False,
    ),
    Verb(
        "db down",
        "ocspd db down -- undo the newest migration\n\n"
        "Usage of db down:\n        ocspd db down -db-config config [-force]",
        ("db-config", boolean("force", "undo CFSSL's own migrations too, which deletes data")),
        _with_database(_down),
        cfssl=False,
    ),
    Verb(
        "db status",
        "ocspd db status -- list the migrations and when they were applied\n\n"
        "Usage of db status:\n        ocspd db status -db-config config",
        ("db-config",),
        _with_database(_status),
        cfssl=False,
    ),
)

VERBS = (
    Verb(
        "db",
        "ocspd db -- create, migrate and inspect the certificate database\n\n"
        "Usage of db:\n"
        "        ocspd db up -db-config config      create the tables, or apply missing migrations\n"
        "        ocspd db down -db-config config    undo the newest migration\n"
        "        ocspd db status -db-config config  list the migrations\n\n"
        "ocspd db up -h lists the flags of db up, and so on.",
        (),
        no_action,
        cfssl=False,
        actions=_DB_ACTIONS,
    ),
    Verb(
        "revoke",
        "ocspd revoke -- revoke a certificate in the certificate store\n\n"
        "Usage of revoke:\n\n"
        "Revoke a certificate:\n"
        "        ocspd revoke -db-config config_file -serial serial [-aki key_id] [-reason reason]\n"
        "        ocspd revoke -db-config config_file -cert certificate [-reason reason]\n"
        "        ocspd revoke -db-config config_file -file list [-reason reason] [-dry-run]\n\n"
        "A certificate that is already revoked keeps its date and reason.\n"
        "One on hold can be given another reason, or be released with -reason removeFromCRL.\n"
        "The serial may be decimal, 0x... or hex pairs with colons. Without -aki it must be unique.\n"
        "Reasons can be an integer code or a string in ReasonFlags in RFC 5280.\n\n"
        "A list has one certificate a line: serial number, key identifier and reason, separated by spaces\n"
        "or commas, the last two optional; or certificates in PEM. - is standard input, # begins a comment.\n"
        "A line is printed for each; if one fails, the others are done and the exit status is 1.",
        (
            "serial",
            "aki",
            string("cert", "certificate to revoke, instead of -serial and -aki"),
            "db-config",
            string("reason", "Reason code for revocation (default: unspecified)"),
            string("file", "list of certificates to revoke, instead of -serial or -cert"),
            boolean("dry-run", "only print what would be done"),
            boolean("force", "replace date and reason of a certificate that is already revoked"),
        ),
        _revoke,
    ),
)
