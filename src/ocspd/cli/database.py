"""The verbs `db` (create, migrate and inspect the certificate database) and `revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.app import open_database
from ocspd.authority.revoking import revoke
from ocspd.certdb import migrate
from ocspd.cli.flags import boolean, string
from ocspd.cli.io import write_stdout
from ocspd.cli.verb import Verb, no_action, no_more_arguments
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError, OCSPDError, UsageError
from ocspd.inputs import read_file
from ocspd.logs import logger
from ocspd.model import serial_to_text
from ocspd.pki.certs import aki_hex, load_certificate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


async def _revoke(flags: Flags, arguments: list[str]) -> None:
    no_more_arguments(arguments)
    serial, aki = flags.string("serial"), flags.string("aki")
    if flags.string("cert"):
        if serial or aki:
            raise UsageError("give either -cert, or -serial and -aki")
        serial, aki = _identity(read_file(flags.string("cert")))
    if not serial:
        raise ConfigError("serial number is required but not provided (give -serial, or -cert)")
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
        "        ocspd revoke -db-config config_file -cert certificate [-reason reason]\n\n"
        "A certificate that is already revoked keeps its date and reason.\n"
        "One on hold can be given another reason, or be released with -reason removeFromCRL.\n"
        "The serial may be decimal, 0x... or hex pairs with colons. Without -aki it must be unique.\n"
        "Reasons can be an integer code or a string in ReasonFlags in RFC 5280.",
        (
            "serial",
            "aki",
            string("cert", "certificate to revoke, instead of -serial and -aki"),
            "db-config",
            string("reason", "Reason code for revocation (default: unspecified)"),
            boolean("force", "replace date and reason of a certificate that is already revoked"),
        ),
        _revoke,
    ),
)
