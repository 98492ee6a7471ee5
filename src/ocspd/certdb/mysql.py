"""certdb on MySQL and MariaDB. CFSSL keeps text as bytes in varbinary columns, so bytes go in and out."""

from __future__ import annotations

import contextlib
from copy import copy
from typing import TYPE_CHECKING, Any, Self

from ocspd.certdb import migrate, rows
from ocspd.certdb.base import CHUNK_ROWS
from ocspd.certdb.feed_mysql import MySQLFeed, sight_of
from ocspd.certdb.feed_polled import FoundFeed, Notice, PolledFeed
from ocspd.certdb.mysql_connection import (
    MAINTENANCE_TIMEOUT_S,
    PAGE_TIMEOUT_S,
    Database,
    change,
    fetch,
)
from ocspd.certdb.mysql_values import ZERO, format_time, parse_time, status_row
from ocspd.certdb.spelling import MYSQL_ODD, MYSQL_WORTH, stripped
from ocspd.errors import Code, CodedError
from ocspd.model import AnsweredRequest, CertificateRow, OCSPRow, normalize_aki, serial_to_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from ocspd.certdb.base import OddRows
    from ocspd.certdb.mysql_connection import Session
    from ocspd.clock import Clock
    from ocspd.model import StatusRow

_VALUES = 1_000
"""How many serial numbers are looked up by one statement."""
_FEED_CONNECTIONS = 3
"""One reads, one watches and one trims."""
_COLUMNS = (
    "serial_number, authority_key_identifier, ca_label, status, reason, expiry, revoked_at, pem, "
    "issued_at, not_before, metadata, sans, common_name"
)
_INSERT = f"INSERT INTO certificates ({_COLUMNS}) VALUES ({', '.join(['%s'] * 13)})"  # noqa: S608  (constants)
_REVOKE_ROW = (
    "UPDATE certificates SET status = 'revoked', revoked_at = %s, reason = %s "
    "WHERE serial_number = %s AND authority_key_identifier = %s "
    "AND (status <> 'revoked' OR reason = 6 AND %s <> 6)"
)
_INSERT_ANSWER = (
    "INSERT INTO ocspd_answers (request_key, digest, serial_number, authority_key_identifier, expires_at) "
    "VALUES (%s, %s, %s, %s, %s)"
)
_STATUS_COLUMNS = "serial_number, authority_key_identifier, LEFT(status, 64), reason, revoked_at, expiry"
_KEY = "serial_number, authority_key_identifier"
_OCSP_COLUMNS = "serial_number, authority_key_identifier, body, expiry"
_LOCK = "CONCAT('ocspd db ', LEFT(DATABASE(), 50))"
"""The name of the lock that migrations hold: as long as MySQL allows."""


class MySQLCertDB:
    """A certdb in MySQL 8.0 or MariaDB 10.6 or later; see `ocspd.certdb.base.CertDB`."""

    def __init__(self, data_source: str, clock: Clock) -> None:
        self._database = Database.of(data_source)
        self._clock = clock
        self._notice = Notice(self.name)

    @property
    def name(self) -> str:
        """How messages name the database."""
        return self._database.name

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

        def work(connection: Any) -> list[CodedError | None]:
            connection.begin()
            errors = [_insert(connection, *each, self._database) for each in insertions]
            connection.commit()
            return errors

        try:
            return await self._database.run(work)
        except CodedError as err:
            return [copy(err) for _ in rows]

    async def find_answers(self, keys: Sequence[bytes]) -> list[AnsweredRequest]:
        """See CertDB."""
        if not keys:
            return []
        now = self._now()
        await self._database.change(
            "DELETE FROM ocspd_answers WHERE request_key IN %s AND expires_at <= %s", (list(keys), now)
        )
        found = await self._database.fetch(
            "SELECT request_key, digest, serial_number, authority_key_identifier, expires_at "
            "FROM ocspd_answers WHERE request_key IN %s AND expires_at > %s",
            (list(keys), now),
        )
        return [
            AnsweredRequest(
                key=key,
                digest=digest,
                expires_at=rows.read_expiry(parse_time("expires_at", expires_at)),
                serial=rows.read_serial(serial),
                aki=rows.read_text(aki),
            )
            for key, digest, serial, aki, expires_at in found
        ]

    async def trim_answers(self) -> int:
        """See CertDB."""
        return await self._database.change("DELETE FROM ocspd_answers WHERE expires_at <= %s", (self._now(),))

    @property
    def connected(self) -> bool:
        """See CertDB."""
        return self._database.connected

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:
        """See CertDB."""
        found = rows.same_key(await self._by_serials(_COLUMNS, [serial]), serial, aki)
        return rows.preferred(rows.readable_certificates(found, parse=parse_time))

    async def find_certificates(self, serial: int) -> list[CertificateRow]:
        """See CertDB."""
        found = await self._by_serials(_COLUMNS, [serial])
        return sorted(rows.readable_certificates(found, parse=parse_time), key=lambda row: row.aki)

    async def estimate_unexpired(self) -> int:
        """See CertDB."""
        sql = "SELECT count(*) FROM certificates WHERE expiry > %s"
        return int((await self._database.fetch(sql, (self._now(),), PAGE_TIMEOUT_S))[0][0])

    async def stream_status(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[StatusRow]]:
        """See CertDB."""
        where = f"expiry > %(now)s AND NOT {MYSQL_ODD}"
        async for chunk in self._pages("certificates", _STATUS_COLUMNS, chunk_rows, where):
            if read := rows.readable_rows(chunk, status_row):
                yield read

    async def stream_odd(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[OddRows]:
        """See CertDB."""
        where = f"{MYSQL_ODD} AND {MYSQL_WORTH}"
        async for chunk in self._pages("certificates", _STATUS_COLUMNS, chunk_rows, where):
            yield rows.odd_rows(chunk, status_row)

    async def stream_revoked(
        self, after: datetime, *, chunk_rows: int = CHUNK_ROWS
    ) -> AsyncIterator[list[StatusRow]]:
        """See CertDB."""
        where = f"status = 'revoked' AND expiry > %(now)s AND NOT {MYSQL_ODD}"
        async for chunk in self._pages("certificates", _STATUS_COLUMNS, chunk_rows, where, after=after):
            if read := rows.readable_rows(chunk, status_row):
                yield read

    async def find_statuses(self, serials: Sequence[int]) -> list[StatusRow]:
        """See CertDB."""
        records = await self._by_serials(_STATUS_COLUMNS, serials)
        return rows.odd_rows(records, status_row).rows

    async def get_pem(self, row: StatusRow) -> bytes:
        """See CertDB."""
        records = await self._database.fetch(
            "SELECT pem FROM certificates WHERE serial_number = %s AND authority_key_identifier = %s",
            row.key or _key(row.serial, row.aki),
        )
        return bytes(records[0][0] or b"") if records else b""

    async def revoke_certificate(
        self, serial: int, aki: str, reason: int, *, keep_first: bool = False
    ) -> bool:
        """See CertDB."""
        where = "(status <> 'revoked' OR reason = 6 AND %(reason)s <> 6)" if keep_first else "TRUE"
        set_ = "status = 'revoked', revoked_at = %(now)s, reason = %(reason)s"
        return await self._set_status(serial, aki, set_, where, now=self._now(), reason=reason)

    async def release_certificate(self, serial: int, aki: str) -> bool:
        """See CertDB."""
        set_ = "status = 'good', revoked_at = %(never)s, reason = 0"
        return await self._set_status(serial, aki, set_, "status = 'revoked' AND reason = 6", never=ZERO)

    async def _set_status(self, serial: int, aki: str, set_: str, where: str, **values: object) -> bool:
        """Change the status of the rows of a certificate that meet a condition; return whether any did."""
        found = rows.same_key(await self._by_serials(_KEY, [serial]), serial, aki)
        sql = (
            f"UPDATE certificates SET {set_} WHERE serial_number = %(serial)s "  # noqa: S608  (constants)
            f"AND authority_key_identifier = %(aki)s AND {where}"
        )
        count = 0
        for stored_serial, stored_aki in found:
            count += await self._database.change(sql, values | {"serial": stored_serial, "aki": stored_aki})
        if count == 0 and await self.get_certificate(serial, aki) is None:
            raise CodedError(Code.STORE_NOT_FOUND, "failed to revoke the certificate: certificate not found")
        return count > 0

    async def revoke_rows(self, changes: Sequence[tuple[StatusRow, int]]) -> list[bool]:
        """See CertDB."""
        now = self._now()
        values = [(now, reason, *(row.key or _key(row.serial, row.aki)), reason) for row, reason in changes]

        def work(connection: Any) -> list[bool]:
            connection.begin()
            changed = [change(connection, _REVOKE_ROW, each) > 0 for each in values]
            connection.commit()
            return changed

        return await self._database.run(work, PAGE_TIMEOUT_S)

    async def find_ocsp(self, rows: Sequence[StatusRow]) -> list[bytes | None]:
        """See CertDB."""
        keys = [row.key or _key(row.serial, row.aki) for row in rows]
        bodies: dict[tuple[Any, Any], bytes] = {}
        for start in range(0, len(keys), _VALUES):
            some = [serial for serial, _ in keys[start : start + _VALUES]]
            sql = f"SELECT {_OCSP_COLUMNS} FROM ocsp_responses WHERE serial_number IN %s"  # noqa: S608  (constants)
            bodies |= {
                (serial, aki): body for serial, aki, body, _ in await self._database.fetch(sql, (some,))
            }
        return [bodies.get(key) for key in keys]

    async def unexpired_ocsp(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[OCSPRow]]:
        """See CertDB."""
        async for chunk in self._pages("ocsp_responses", _OCSP_COLUMNS, chunk_rows, "expiry > %(now)s"):
            if read := rows.readable_rows(chunk, _ocsp_row):
                yield read

    async def update_ocsp(self, row: OCSPRow) -> None:
        """See CertDB."""
        found = await self._by_serials(_KEY, [row.serial], table="ocsp_responses")
        count = 0
        for serial, aki in rows.same_key(found, row.serial, row.aki):
            count += await self._database.change(
                "UPDATE ocsp_responses SET body = %s, expiry = %s "
                "WHERE serial_number = %s AND authority_key_identifier = %s",
                (row.body, format_time(row.expiry), serial, aki),
            )
        if count == 0:
            raise CodedError(Code.STORE_NOT_FOUND, "failed to update the OCSP record: no such record")

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """See CertDB."""
        values = [
            (*(row.key or _key(row.serial, row.aki)), row.body, format_time(row.expiry)) for row in rows
        ]

        def work(connection: Any) -> None:
            connection.begin()
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO ocsp_responses (serial_number, authority_key_identifier, body, expiry) "
                    "VALUES (%s, %s, %s, %s) "
                    "ON DUPLICATE KEY UPDATE body = VALUES(body), expiry = VALUES(expiry)",
                    values,
                )
            connection.commit()

        if values:
            await self._database.run(work, PAGE_TIMEOUT_S)

    def change_feed(self) -> FoundFeed:
        """See CertDB."""
        database = self._database.sibling(_FEED_CONNECTIONS)
        look = sight_of(database)
        polled = PolledFeed(self.name, look, database.close)
        return FoundFeed(MySQLFeed(database), polled, look, self._notice)

    async def check(self) -> None:
        """See CertDB."""
        await migrate.require_usable(self)

    async def close(self) -> None:
        """See CertDB."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def migration(self, *, write: bool) -> AsyncIterator[_Session]:
        """See migrate.Migratable. MySQL commits after every statement that changes a table."""
        async with self._database.session() as session:
            if write:
                await session.run(_lock, MAINTENANCE_TIMEOUT_S)
            try:
                yield _Session(session)
            finally:
                if write and session.usable:
                    with contextlib.suppress(CodedError):
                        await session.run(
                            lambda connection: fetch(connection, f"SELECT RELEASE_LOCK({_LOCK})")
                        )

    def _now(self) -> str:
        return format_time(self._clock.now())

    async def _by_serials(
        self, columns: str, serials: Sequence[int], *, table: str = "certificates"
    ) -> list[tuple[Any, ...]]:
        """Return the rows with one of these serial numbers, in any spelling."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(serials), _VALUES):
            some = serials[start : start + _VALUES]
            texts = [serial_to_text(serial).encode() for serial in some]
            # those with leading zeros are together in the primary key, and few
            found += await self._database.fetch(
                f"SELECT {columns} FROM {table} WHERE serial_number IN %s "  # noqa: S608  (constants)
                f"UNION ALL SELECT {columns} FROM {table} WHERE serial_number > '0' AND serial_number < '1' "
                "AND TRIM(LEADING '0' FROM serial_number) IN %s",
                (texts, [text.encode() for text in stripped(some)]),
            )
        return found

    async def _pages(
        self, table: str, columns: str, size: int, where: str, *, after: datetime | None = None
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        # By primary key and not by one open result: the server would end a connection whose reader signs.
        sql = (
            f"SELECT {columns} FROM {table} WHERE serial_number >= %(serial)s "  # noqa: S608  (constants)
            f"AND (serial_number > %(serial)s OR authority_key_identifier > %(aki)s) AND {where} "
            "ORDER BY serial_number, authority_key_identifier LIMIT %(size)s"
        )
        values: dict[str, Any] = {"now": format_time(after or self._clock.now()), "size": size}
        # nothing sorts before an empty serial number, which with an empty key identifier is read first
        first = (
            f"SELECT {columns} FROM {table} WHERE serial_number = '' "  # noqa: S608  (constants)
            f"AND authority_key_identifier = '' AND {where}"
        )
        records = await self._database.fetch(first, values, PAGE_TIMEOUT_S)
        if records:
            yield records
        serial, aki = b"", b""
        while True:
            records = await self._database.fetch(sql, values | {"serial": serial, "aki": aki}, PAGE_TIMEOUT_S)
            if records:
                yield records
            if len(records) < size:
                return
            serial, aki = records[-1][:2]


class _Session:
    """See migrate.MigrationSession."""

    dialect = "mysql"

    def __init__(self, session: Session) -> None:
        self._session = session

    async def has_table(self, name: str) -> bool:
        """See MigrationSession."""
        sql = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
        return bool(await self._session.run(lambda connection: fetch(connection, sql, (name,))))

    async def has_column(self, table: str, column: str) -> bool:
        """See MigrationSession."""
        sql = (
            "SELECT 1 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s "
            "AND COLUMN_NAME = %s"
        )
        return bool(await self._session.run(lambda connection: fetch(connection, sql, (table, column))))

    async def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """See MigrationSession."""
        return await self._session.run(lambda connection: fetch(connection, sql))

    async def execute(self, sql: str) -> None:
        """See MigrationSession."""
        await self._session.run(lambda connection: change(connection, sql), MAINTENANCE_TIMEOUT_S)


def _insert(
    connection: Any, row: CertificateRow, answer: AnsweredRequest | None, database: Database
) -> CodedError | None:
    """Insert a row; return what keeps it alone from being inserted, and leave the transaction going."""
    serial, aki = _key(row.serial, row.aki)
    values = (
        serial,
        aki,
        row.ca_label.encode(),
        row.status.word.encode(),
        row.reason,
        format_time(row.expiry),
        format_time(row.revoked_at),
        row.pem.encode(),
        format_time(row.issued_at),
        format_time(row.not_before),
        rows.write_json(row.metadata),
        rows.write_json(row.sans),
        row.common_name,
    )
    if answer is not None:
        change(connection, "SAVEPOINT ocspd_row")
    try:
        count = change(connection, _INSERT, values)
        if answer is not None:
            given = (answer.key, answer.digest, serial, aki, format_time(answer.expires_at))
            change(connection, _INSERT_ANSWER, given)
    except Exception as err:
        error = database.rejection(err)
        if error is None:
            raise
        if answer is not None:
            change(connection, "ROLLBACK TO SAVEPOINT ocspd_row")
        return error
    if count != 1:
        return CodedError(Code.STORE_INSERT_FAILED, "failed to insert the certificate record")
    return None


def _lock(connection: Any) -> None:
    """Wait for other migrations of this database."""
    fetch(connection, f"SELECT GET_LOCK({_LOCK}, {int(MAINTENANCE_TIMEOUT_S)})")


def _key(serial: int, aki: str) -> tuple[bytes, bytes]:
    return serial_to_text(serial).encode(), normalize_aki(aki).encode()


def _ocsp_row(serial: object, aki: object, body: bytes, expiry: object) -> OCSPRow:
    return OCSPRow(
        serial=rows.read_serial(serial),
        aki=rows.read_text(aki),
        body=body,
        expiry=rows.read_expiry(parse_time("expiry", expiry)),
    )
