"""certdb on SQLite.

CFSSL binds every string, the DER of OCSP responses included, as TEXT. SQLite never holds TEXT equal
to BLOB, so this module does the same, and reads all TEXT as bytes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from copy import copy
from typing import TYPE_CHECKING, Any, Self

from ocspd.certdb import migrate, rows
from ocspd.certdb.base import CHUNK_ROWS
from ocspd.certdb.feed_polled import FoundFeed, Notice, PolledFeed
from ocspd.certdb.feed_sqlite import SQLiteFeed, sight_of
from ocspd.certdb.spelling import SQLITE_ODD, SQLITE_WORTH, SQLITE_ZEROS, stripped
from ocspd.certdb.sqlite_connection import BUSY_TIMEOUT_S, Location, Worker, translate
from ocspd.errors import Code, CodedError
from ocspd.model import (
    ZERO_TIME,
    AnsweredRequest,
    CertificateRow,
    OCSPRow,
    normalize_aki,
    serial_to_text,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from ocspd.certdb.base import OddRows
    from ocspd.clock import Clock
    from ocspd.model import StatusRow

_VALUES = 200
"""How many values are bound at a time: the smallest SQLite takes 999, and a serial number needs four."""
_SCANNED = 20_000
"""How many rows are looked through at a time, so that nobody else waits long for the connection."""
_COLUMNS = (
    "serial_number, authority_key_identifier, ca_label, status, reason, expiry, revoked_at, pem, "
    "issued_at, not_before, metadata, sans, common_name"
)
# No more of a value than anybody can use. Blobs, because SQLite's functions end text at a NUL.
_STATUS_COLUMNS = ", ".join(
    [
        f"CASE WHEN length({column}) > 4096 THEN substr(CAST({column} AS BLOB), 1, 4096) ELSE {column} END"
        for column in ("serial_number", "authority_key_identifier")
    ]
    + [
        f"CASE WHEN typeof({column}) IN ('text', 'blob') THEN substr(CAST({column} AS BLOB), 1, {size}) "
        f"ELSE {column} END"
        for column, size in (("status", 64), ("reason", 64), ("revoked_at", 65), ("expiry", 65))
    ]
)
_KEY = "serial_number, authority_key_identifier"
_REVOKE_ROW = (
    "UPDATE certificates SET status = 'revoked', revoked_at = ?3, reason = ?4 "
    "WHERE serial_number IN (CAST(?1 AS TEXT), ?1) AND authority_key_identifier IN (CAST(?2 AS TEXT), ?2) "
    "AND (status IS NULL OR CAST(status AS TEXT) <> 'revoked' OR (reason = 6 AND ?4 <> 6))"
)
_INSERT = f"INSERT INTO certificates ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608  (constants)
_INSERT_ANSWER = (
    "INSERT INTO ocspd_answers (request_key, digest, serial_number, authority_key_identifier, expires_at) "
    "VALUES (?,?,?,?,?)"
)
_FIND_ANSWER = (
    "SELECT request_key, digest, serial_number, authority_key_identifier, expires_at FROM ocspd_answers "
    "WHERE request_key = ?"
)
_OCSP_COLUMNS = "serial_number, authority_key_identifier, CAST(body AS BLOB), expiry"


class SQLiteCertDB:
    """A certdb in an SQLite file; see `ocspd.certdb.base.CertDB`."""

    def __init__(self, data_source: str, clock: Clock, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """`busy_timeout_s` is how long a statement waits for another process's lock."""
        self._location = Location(data_source, busy_timeout_s=busy_timeout_s)
        self._worker = Worker(self._location)
        self._clock = clock
        self._notice = Notice(self.name)

    @property
    def name(self) -> str:
        """How messages name the database."""
        return self._location.name

    async def insert_certificate(self, row: CertificateRow) -> None:
        """See CertDB."""
        (error,) = await self.insert_certificates([row])
        if error is not None:
            raise error

    async def insert_certificates(
        self, rows: Sequence[CertificateRow], answers: Sequence[AnsweredRequest | None] = ()
    ) -> list[CodedError | None]:
        """See CertDB."""
        insertions = list(zip(rows, answers or [None] * len(rows), strict=True))

        def work(connection: sqlite3.Connection) -> list[CodedError | None]:
            with _transaction(connection):
                return [_insert(connection, *each, self._location) for each in insertions]

        try:
            return await self._worker.run(work)
        except CodedError as err:
            return [copy(err) for _ in rows]

    async def find_answers(self, keys: Sequence[bytes]) -> list[AnsweredRequest]:
        """See CertDB."""
        now = self._now()

        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            found = []
            for key in keys:
                records = connection.execute(_FIND_ANSWER, (key,)).fetchall()
                if records and records[0][-1] <= now.encode():
                    connection.execute(
                        "DELETE FROM ocspd_answers WHERE request_key = ? AND expires_at <= ?", (key, now)
                    )
                else:
                    found += records
            return found

        return [
            AnsweredRequest(
                key=key,
                digest=digest,
                expires_at=rows.read_expiry(rows.parse_time("expires_at", expires_at)),
                serial=rows.read_serial(serial),
                aki=rows.read_text(aki),
            )
            for key, digest, serial, aki, expires_at in await self._worker.run(work)
        ]

    async def trim_answers(self) -> int:
        """See CertDB."""
        return await self._change("DELETE FROM ocspd_answers WHERE expires_at <= ?", (self._now(),))

    @property
    def connected(self) -> bool:
        """See CertDB."""
        return self._location.identity is not None

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:
        """See CertDB."""
        found = rows.same_key(await self._by_serials(_COLUMNS, [serial]), serial, aki)
        return rows.preferred(rows.readable_certificates(found, parse=rows.parse_time))

    async def find_certificates(self, serial: int) -> list[CertificateRow]:
        """See CertDB."""
        found = await self._by_serials(_COLUMNS, [serial])
        return sorted(rows.readable_certificates(found, parse=rows.parse_time), key=lambda row: row.aki)

    async def estimate_unexpired(self) -> int:
        """See CertDB."""
        sql = "SELECT count(*) FROM certificates WHERE expiry > ?"
        return int((await self._fetch(sql, (self._now(),)))[0][0])

    async def stream_status(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[StatusRow]]:
        """See CertDB."""
        async for chunk in self._pages("certificates", _STATUS_COLUMNS, chunk_rows, f"NOT {SQLITE_ODD}"):
            if read := rows.readable_rows(chunk, rows.status_row_from_text):
                yield read

    async def stream_odd(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[OddRows]:
        """See CertDB."""
        # all their places first: in the order of places SQLite would read the whole table instead of an index
        places = await self._fetch(
            f"SELECT rowid FROM certificates WHERE {SQLITE_ODD} "  # noqa: S608  (constants)
            f"AND {SQLITE_WORTH}",
            (self._now(), self._now()),
        )
        for start in range(0, len(places), min(chunk_rows, _VALUES)):
            some = [place for (place,) in places[start : start + min(chunk_rows, _VALUES)]]
            records = await self._fetch(
                f"SELECT {_STATUS_COLUMNS} FROM certificates WHERE rowid IN ({_marks(some)})",  # noqa: S608
                some,
            )
            yield rows.odd_rows(records, rows.status_row_from_text)

    async def stream_revoked(
        self, after: datetime, *, chunk_rows: int = CHUNK_ROWS
    ) -> AsyncIterator[list[StatusRow]]:
        """See CertDB."""
        # In the order of the index of migration 003, which has the revoked ones by expiry. Two questions, as
        # SQLite would look through all rows of one expiry to find those behind the last.
        same, later = (
            f"SELECT expiry, rowid, {_STATUS_COLUMNS} FROM certificates "  # noqa: S608  (constants)
            f"WHERE status = 'revoked' AND {place} AND NOT {SQLITE_ODD} ORDER BY expiry, rowid LIMIT ?"
            for place in ("expiry = CAST(? AS TEXT) AND rowid > ?", "expiry > CAST(? AS TEXT)")
        )
        expiry, last = rows.format_time(after), 2**63 - 1
        while True:
            records = await self._fetch(same, (expiry, last, chunk_rows))
            if not records:
                records = await self._fetch(later, (expiry, chunk_rows))
            if not records:
                break
            expiry, last = records[-1][:2]
            if read := rows.readable_rows([record[2:] for record in records], rows.status_row_from_text):
                yield read
        async for chunk in self._revoked_in_blobs(after):
            yield chunk

    async def _revoked_in_blobs(self, after: datetime) -> AsyncIterator[list[StatusRow]]:
        """Stream the rows whose status is a BLOB, which no index has: SQLite never holds it equal to TEXT."""
        sql = (
            f"SELECT {_STATUS_COLUMNS} FROM certificates WHERE rowid BETWEEN ? AND ? "  # noqa: S608  (constants)
            f"AND status = x'7265766f6b6564' AND expiry > ? AND NOT {SQLITE_ODD}"
        )
        ((first, last),) = await self._fetch("SELECT min(rowid), max(rowid) FROM certificates", ())
        for start in () if first is None else range(first, last + 1, _SCANNED):
            records = await self._fetch(
                sql, (start, min(start + _SCANNED - 1, last), rows.format_time(after))
            )
            if read := rows.readable_rows(records, rows.status_row_from_text):
                yield read

    async def find_statuses(self, serials: Sequence[int]) -> list[StatusRow]:
        """See CertDB."""
        records = await self._by_serials(_STATUS_COLUMNS, serials)
        return rows.odd_rows(records, rows.status_row_from_text).rows

    async def get_pem(self, row: StatusRow) -> bytes:
        """See CertDB."""
        records = await self._fetch(
            "SELECT CAST(pem AS BLOB) FROM certificates WHERE serial_number IN (CAST(?1 AS TEXT), ?1) "
            "AND authority_key_identifier IN (CAST(?2 AS TEXT), ?2)",
            row.key or (serial_to_text(row.serial), normalize_aki(row.aki)),
        )
        return bytes(records[0][0] or b"") if records else b""

    async def revoke_certificate(
        self, serial: int, aki: str, reason: int, *, keep_first: bool = False
    ) -> bool:
        """See CertDB."""
        # as CURRENT_TIMESTAMP, which CFSSL uses: whole seconds, no zone
        now = f"{self._clock.now():%Y-%m-%d %H:%M:%S}"
        set_ = "status = 'revoked', revoked_at = ?2, reason = ?3"
        where = "(status IS NOT 'revoked' OR (reason = 6 AND ?3 <> 6))" if keep_first else "TRUE"
        return await self._set_status(serial, aki, set_, where, now, reason)

    async def release_certificate(self, serial: int, aki: str) -> bool:
        """See CertDB."""
        set_ = "status = 'good', revoked_at = ?2, reason = 0"
        where = "status = 'revoked' AND reason = 6"
        return await self._set_status(serial, aki, set_, where, rows.format_time(ZERO_TIME))

    async def _set_status(self, serial: int, aki: str, set_: str, where: str, *values: str | int) -> bool:
        """Change the status of the rows of a certificate that meet a condition; return whether any did."""
        found = rows.same_key(await self._by_serials(f"{_KEY}, rowid", [serial]), serial, aki)
        sql = f"UPDATE certificates SET {set_} WHERE rowid = ?1 AND {where}"  # noqa: S608  (constants)
        count = sum([await self._change(sql, (place, *values)) for _, _, place in found])
        if count == 0 and await self.get_certificate(serial, aki) is None:
            raise CodedError(Code.STORE_NOT_FOUND, "failed to revoke the certificate: certificate not found")
        return count > 0

    async def revoke_rows(self, changes: Sequence[tuple[StatusRow, int]]) -> list[bool]:
        """See CertDB."""
        now = f"{self._clock.now():%Y-%m-%d %H:%M:%S}"
        values = [
            (*(row.key or (serial_to_text(row.serial), normalize_aki(row.aki))), now, reason)
            for row, reason in changes
        ]

        def work(connection: sqlite3.Connection) -> list[bool]:
            with _transaction(connection):
                return [connection.execute(_REVOKE_ROW, each).rowcount > 0 for each in values]

        return await self._worker.run(work)

    async def find_ocsp(self, rows: Sequence[StatusRow]) -> list[bytes | None]:
        """See CertDB."""
        keys = [row.key or (serial_to_text(row.serial), normalize_aki(row.aki)) for row in rows]
        sql = (
            "SELECT CAST(body AS BLOB) FROM ocsp_responses "
            "WHERE serial_number = CAST(? AS TEXT) AND authority_key_identifier = CAST(? AS TEXT)"
        )

        def work(connection: sqlite3.Connection) -> list[bytes | None]:
            found = [connection.execute(sql, key).fetchone() for key in keys]
            return [None if record is None else record[0] for record in found]

        return await self._worker.run(work)

    async def unexpired_ocsp(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[OCSPRow]]:
        """See CertDB."""
        async for chunk in self._pages("ocsp_responses", _OCSP_COLUMNS, chunk_rows):
            if read := rows.readable_rows(chunk, _ocsp_row):
                yield read

    async def update_ocsp(self, row: OCSPRow) -> None:
        """See CertDB."""
        found = await self._by_serials(f"{_KEY}, rowid", [row.serial], table="ocsp_responses")
        places = [record[2] for record in rows.same_key(found, row.serial, row.aki)]
        count = await self._change(
            f"UPDATE ocsp_responses SET body = CAST(? AS TEXT), expiry = ? WHERE rowid IN ({_marks(places)})",  # noqa: S608  (marks)
            (row.body, rows.format_time(row.expiry), *places),
        )
        if count == 0:
            raise CodedError(Code.STORE_NOT_FOUND, "failed to update the OCSP record: no such record")

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """See CertDB."""
        values = [_ocsp_values(row) for row in rows]

        def work(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                connection.executemany(
                    "INSERT INTO ocsp_responses (serial_number, authority_key_identifier, body, expiry) "
                    "VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?) "
                    "ON CONFLICT (serial_number, authority_key_identifier) "
                    "DO UPDATE SET body = excluded.body, expiry = excluded.expiry",
                    values,
                )

        if values:
            await self._worker.run(work)

    def change_feed(self) -> FoundFeed:
        """See CertDB."""
        watcher = Worker(self._location)
        recorded = SQLiteFeed(self._worker, watcher, Worker(self._location))
        look = sight_of(self._worker, watcher)
        return FoundFeed(recorded, PolledFeed(self.name, look, watcher.close), look, self._notice)

    async def check(self) -> None:
        """See CertDB."""
        await migrate.require_usable(self)

    async def close(self) -> None:
        """See CertDB."""
        await self._worker.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def migration(self, *, write: bool) -> AsyncIterator[_Session]:
        """See migrate.Migratable; with `write` a missing file is created, readable by its owner only."""
        if write and self._location.file is not None:
            await self._worker.run(lambda _: None, create=_create_private(self._location))
        await self._worker.run(lambda connection: connection.execute("BEGIN IMMEDIATE" if write else "BEGIN"))
        try:
            yield _Session(self._worker)
        except BaseException:
            await self._worker.run(lambda connection: connection.execute("ROLLBACK"))
            raise
        await self._worker.run(lambda connection: connection.execute("COMMIT"))

    def _now(self) -> str:
        return rows.format_time(self._clock.now())

    async def _change(self, sql: str, values: Sequence[Any]) -> int:
        return await self._worker.run(lambda connection: connection.execute(sql, values).rowcount)

    async def _by_serials(
        self, columns: str, serials: Sequence[int], *, table: str = "certificates"
    ) -> list[tuple[Any, ...]]:
        """Return the rows with one of these serial numbers, in any spelling and of any type."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(serials), _VALUES):
            some = serials[start : start + _VALUES]
            texts = [serial_to_text(serial) for serial in some]
            # SQLite never holds TEXT equal to BLOB or INTEGER
            exact = [*texts, *map(str.encode, texts), *(serial for serial in some if serial < 2**63)]
            rest = stripped(some)
            found += await self._fetch(
                f"SELECT {columns} FROM {table} WHERE serial_number IN ({_marks(exact)}) "  # noqa: S608  (constants)
                f"UNION ALL SELECT {columns} FROM {table} WHERE {SQLITE_ZEROS} "
                f"AND ltrim(CAST(substr(serial_number, 1, 201) AS TEXT), '0') IN ({_marks(rest)}) "
                "AND serial_number NOT IN ('0', x'30')",
                (*exact, *rest),
            )
        return found

    async def _fetch(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return await self._worker.run(lambda connection: connection.execute(sql, values).fetchall())

    async def _pages(
        self, table: str, columns: str, size: int, where: str = "true"
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        # By rowid and not by one open cursor: that would lock CFSSL out while the consumer signs.
        sql = (
            f"SELECT rowid, {columns} FROM {table} WHERE rowid > ? AND expiry > ? AND {where} "  # noqa: S608  (constants)
            "ORDER BY rowid LIMIT ?"
        )
        now, last = self._now(), -(2**63)
        while True:
            records = await self._fetch(sql, (last, now, size))
            if records:
                yield [record[1:] for record in records]
            if len(records) < size:
                return
            last = records[-1][0]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


class _Session:
    """See migrate.MigrationSession."""

    dialect = "sqlite"

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def has_table(self, name: str) -> bool:
        """See MigrationSession."""
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(await self._worker.run(lambda connection: connection.execute(sql, (name,)).fetchall()))

    async def has_column(self, table: str, column: str) -> bool:
        """See MigrationSession."""
        sql = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
        found = await self._worker.run(lambda connection: connection.execute(sql, (table, column)).fetchall())
        return bool(found)

    async def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """See MigrationSession."""
        return await self._worker.run(lambda connection: connection.execute(sql).fetchall())

    async def execute(self, sql: str) -> None:
        """See MigrationSession."""
        await self._worker.run(lambda connection: connection.execute(sql))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # not after a full disk, for which SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _insert(
    connection: sqlite3.Connection, row: CertificateRow, answer: AnsweredRequest | None, location: Location
) -> CodedError | None:
    """Insert a row; return what keeps it alone from being inserted, and leave the transaction going."""
    if answer is not None:
        connection.execute("SAVEPOINT both")
    try:
        values = (
            serial_to_text(row.serial),
            normalize_aki(row.aki),
            row.ca_label,
            row.status.word,
            row.reason,
            rows.format_time(row.expiry),
            rows.format_time(row.revoked_at or ZERO_TIME),
            row.pem,
            row.issued_at and rows.format_time(row.issued_at),
            row.not_before and rows.format_time(row.not_before),
            rows.write_json(row.metadata).encode(),
            rows.write_json(row.sans).encode(),
            row.common_name,
        )
        if connection.execute(_INSERT, values).rowcount != 1:
            return CodedError(Code.STORE_INSERT_FAILED, "failed to insert the certificate record")
        if answer is not None:
            expires_at = rows.format_time(answer.expires_at)
            connection.execute(_INSERT_ANSWER, (answer.key, answer.digest, *values[:2], expires_at))
    except (sqlite3.IntegrityError, sqlite3.DataError, ValueError) as err:
        if not connection.in_transaction:  # a trigger has ended that of all the others, too
            raise
        if answer is not None:
            connection.execute("ROLLBACK TO both")
        return translate(err, location)
    return None


def _create_private(location: Location) -> bool:
    """Make the file with mode 0600 when it is missing; SQLite would use the umask."""
    with contextlib.suppress(OSError):  # opening it says what is wrong
        os.close(os.open(str(location.file), os.O_CREAT | os.O_RDWR, 0o600))
    return True


def _ocsp_values(row: OCSPRow) -> tuple[Any, Any, bytes, str]:
    serial, aki = row.key or (serial_to_text(row.serial), normalize_aki(row.aki))
    return serial, aki, row.body, rows.format_time(row.expiry)


def _ocsp_row(serial: object, aki: object, body: bytes, expiry: object) -> OCSPRow:
    return OCSPRow(
        serial=rows.read_serial(serial),
        aki=rows.read_text(aki),
        body=body,
        expiry=rows.read_expiry(rows.parse_time("expiry", expiry)),
    )
