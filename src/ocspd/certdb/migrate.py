"""Bring a database to the present schema, in goose's files and with goose's state table.

`goose_db_version` gets a row for each step: (version, applied or not). A version is in force when its
newest row says so. A database that CFSSL's goose made is migrated from where it is, and goose keeps
working on one of ours: it only sees a version higher than its own files.

Each call is one transaction: a failing step leaves the database as it was. MySQL commits every statement that
changes a table by itself, so there the statements of a failing migration are undone one by one, by those of
its other direction, which are in reverse order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from ocspd.errors import Code, CodedError, SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

LATEST = 6
"""The version this program needs for everything; CFSSL's own operations need 2."""

_FILE = re.compile(r"(\d+)_(\w+)\.sql", re.ASCII)
_TRIGGER = re.compile(r"(CREATE|ALTER TABLE \w+ ENABLE(?: \w+)?) TRIGGER (\w+)", re.ASCII)
_HAVE_TRIGGERS = {
    "postgres": "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN "
    "('certificates'::regclass, 'ocspd_changes'::regclass)",
    "mysql": "SELECT TRIGGER_NAME, '' FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE() "
    "AND EVENT_OBJECT_TABLE = 'certificates'",
    "sqlite": "SELECT name, '' FROM sqlite_master WHERE type = 'trigger' "
    "AND tbl_name IN ('certificates', 'ocspd_changes')",
}

_STATE_TABLE = {
    "postgres": """CREATE TABLE goose_db_version (
        id serial NOT NULL,
        version_id bigint NOT NULL,
        is_applied boolean NOT NULL,
        tstamp timestamp NULL DEFAULT now(),
        PRIMARY KEY (id))""",
    "mysql": """CREATE TABLE goose_db_version (
        id serial NOT NULL,
        version_id bigint NOT NULL,
        is_applied boolean NOT NULL,
        tstamp timestamp NULL DEFAULT now(),
        PRIMARY KEY (id))""",
    "sqlite": """CREATE TABLE goose_db_version (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        version_id INTEGER NOT NULL,
        is_applied INTEGER NOT NULL,
        tstamp TIMESTAMP DEFAULT (datetime('now')))""",
}


class MigrationSession(Protocol):
    """One transaction on a database, with no other migration running at the same time."""

    dialect: str

    async def has_table(self, name: str) -> bool:
        """Return whether a table of this name exists."""
        ...

    async def has_column(self, table: str, column: str) -> bool:
        """Return whether a table has a column of this name."""
        ...

    async def fetch(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run a query."""
        ...

    async def execute(self, sql: str) -> None:
        """Run one statement."""
        ...


class Migratable(Protocol):
    """A database that can be migrated."""

    @property
    def name(self) -> str:
        """How messages name the database."""
        ...

    def migration(self, *, write: bool) -> AbstractAsyncContextManager[MigrationSession]:
        """Begin a transaction, committed at the end of the block and rolled back on an error."""
        ...


@dataclass(frozen=True, slots=True)
class Migration:
    """A file of migrations/: its version, name, and the statements for both directions."""

    version: int
    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationState:
    """A migration, whether it is applied, and since when (as the database writes it, UTC or local)."""

    version: int
    name: str
    applied: bool
    applied_at: str | None


def parse_migration(name: str, text: str) -> Migration:  # noqa: C901  (one line loop with goose's five cases)
    """Read a goose SQL file.

    A statement ends with a line that ends in `;`, except between StatementBegin and StatementEnd.
    Raises ValueError for a file without sections or with an unfinished statement.
    """
    match = _FILE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name}: not named NNN_Name.sql")
    sections: dict[str, list[str]] = {"Up": [], "Down": []}
    section: str | None = None
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("-- +goose "):
            command = line.removeprefix("-- +goose ").strip()
            if command in sections:
                section = command
            elif command == "StatementBegin":
                inside = True
            elif command == "StatementEnd":
                inside = False
                sections[section or "Up"].append("\n".join(lines))
                lines = []
            else:
                raise ValueError(f"{name}: unknown marker {line!r}")
            continue
        code = line.strip()
        if not lines and (not code or code.startswith("--")):
            continue
        if section is None:
            raise ValueError(f"{name}: statement before the first marker")
        lines.append(line)
        if code.endswith(";") and not inside:
            sections[section].append("\n".join(lines))
            lines = []
    if lines or section is None:
        raise ValueError(f"{name}: unfinished statement")
    return Migration(int(match[1]), name, tuple(sections["Up"]), tuple(sections["Down"]))


def load_migrations(dialect: str) -> list[Migration]:
    """Return the migrations of a dialect (`postgres`, `mysql` or `sqlite`) by version."""
    directory = resources.files("ocspd.certdb") / "migrations" / dialect
    found = [
        parse_migration(file.name, file.read_text("utf-8"))
        for file in directory.iterdir()
        if file.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.version)


async def up(db: Migratable) -> list[str]:
    """Apply the missing migrations; return the names of the files applied, and of triggers made again.

    Raises CodedError 11000 when the database cannot be reached or a statement fails.
    """
    done = []
    async with db.migration(write=True) as session:
        if not await session.has_table("goose_db_version"):
            await _begin_state(db, session)
        state = await _applied(session)
        for migration in load_migrations(session.dialect):
            if not state.get(migration.version, (False, None))[0]:
                await _run(session, migration.up, migration.down)
                await _record(session, migration.version, applied=True)
                done.append(migration.name)
        done += await _mend_triggers(session)
    return done


async def _run(session: MigrationSession, statements: Sequence[str], reverse: Sequence[str]) -> None:
    """Run the statements of a migration, all or none."""
    for count, statement in enumerate(statements):
        try:
            await session.execute(statement)
        except CodedError:
            if session.dialect == "mysql":
                for undoing in reverse[len(reverse) - count :]:
                    await session.execute(undoing)
            raise


async def _mend_triggers(session: MigrationSession) -> list[str]:
    """Restore triggers of the migrations that were dropped or disabled; return their names.

    Without them changes are not recorded.
    """
    made: dict[str, str] = {}
    enabled: dict[str, str] = {}
    for migration in load_migrations(session.dialect):
        for statement in migration.up:
            if match := _TRIGGER.match(statement):
                (made if match[1] == "CREATE" else enabled)[match[2]] = statement
    have = {_text(name): _text(state) for name, state in await session.fetch(_HAVE_TRIGGERS[session.dialect])}
    mended = []
    for name, statement in made.items():
        wanted = enabled.get(name, "")
        state = "A" if "ALWAYS" in wanted else "R" if "REPLICA" in wanted else "O"
        if name not in have:
            if session.dialect in {"sqlite", "mysql"}:  # where a table that was renamed has taken it along
                await session.execute(f"DROP TRIGGER IF EXISTS {name}")
            await session.execute(statement)
        elif not wanted or have[name] == state:
            continue
        if wanted:
            await session.execute(wanted)
        mended.append(name)
    return mended


async def down(db: Migratable) -> str | None:
    """Undo the newest applied migration, data included; return its name, None when there is none.

    Raises CodedError 11000 as `up`, and when the database is newer than this program.
    """
    async with db.migration(write=True) as session:
        if not await session.has_table("goose_db_version"):
            return None
        current = _current(await _applied(session))
        if current == 0:
            return None
        migration = next((item for item in load_migrations(session.dialect) if item.version == current), None)
        if migration is None:
            raise CodedError(
                Code.STORE_FAILED,
                f"{db.name} is at migration {current}, unknown to this ocspd: use the one that made it",
            )
        await _run(session, migration.down, migration.up)
        await _record(session, current, applied=False)
        return migration.name


async def status(db: Migratable) -> list[MigrationState]:
    """Return every known migration and whether it is applied."""
    async with db.migration(write=False) as session:
        state = await _applied(session) if await session.has_table("goose_db_version") else {}
        states = []
        for migration in load_migrations(session.dialect):
            applied, moment = state.get(migration.version, (False, None))
            states.append(
                MigrationState(migration.version, migration.name, applied, moment if applied else None)
            )
        return states


async def current_version(db: Migratable) -> int:
    """Return the newest version in force, 0 for a database without any."""
    async with db.migration(write=False) as session:
        if not await session.has_table("goose_db_version"):
            return 0
        return _current(await _applied(session))


async def require_usable(db: Migratable) -> None:
    """Raise CodedError 11000 with the remedy unless the database can be served from.

    That is one at version LATEST or above, or one that only CFSSL's goose migrated, as far as it goes: the
    tables tell, because a role that may read them need not be able to read goose's.
    """
    async with db.migration(write=False) as session:
        if not await session.has_table("ocspd_feed") and await session.has_column(
            "certificates", "issued_at"
        ):
            return
    version = await current_version(db)
    if version < LATEST:
        raise unmigrated(db.name, f"it is at version {version}, this ocspd needs {LATEST}")


def unmigrated(name: str, detail: str) -> CodedError:
    """Return the error of a database that lacks tables or columns."""
    return SetupError(f"{name} is not migrated ({detail}): run ocspd db up -db-config FILE")


async def _begin_state(db: Migratable, session: MigrationSession) -> None:
    if await session.has_table("certificates"):
        raise CodedError(
            Code.STORE_FAILED,
            f"{db.name} has a table certificates but no goose_db_version, so what was applied is unknown: "
            "create goose_db_version as goose does and insert the versions applied",
        )
    await session.execute(_STATE_TABLE[session.dialect])
    await _record(session, 0, applied=True)


async def _applied(session: MigrationSession) -> dict[int, tuple[bool, Any]]:
    rows = await session.fetch("SELECT version_id, is_applied, tstamp FROM goose_db_version ORDER BY id")
    return {int(version): (bool(applied), _text(moment)) for version, applied, moment in rows}


def _text(moment: Any) -> str:
    return moment.decode("ascii", "replace") if isinstance(moment, bytes) else str(moment or "")


def _current(state: dict[int, tuple[bool, Any]]) -> int:
    return max((version for version, (applied, _) in state.items() if applied), default=0)


async def _record(session: MigrationSession, version: int, *, applied: bool) -> None:
    # session.execute takes no values; these are an int and a constant
    truth = "TRUE" if applied else "FALSE"
    await session.execute(
        f"INSERT INTO goose_db_version (version_id, is_applied) VALUES ({version}, {truth})"  # noqa: S608
    )
