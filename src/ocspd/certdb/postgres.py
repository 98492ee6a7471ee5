"""certdb on PostgreSQL. CFSSL keeps text as ASCII bytes in bytea columns, so bytes go in and out."""

from __future__ import annotations

import contextlib
import json
from copy import copy
from typing import TYPE_CHECKING, Any, Self

from ocspd.certdb import _copyrows, migrate, rows
from ocspd.certdb.base import CHUNK_ROWS
from ocspd.certdb.feed_polled import FoundFeed, Notice, PolledFeed
from ocspd.certdb.feed_postgres import PostgresFeed, sight_of
from ocspd.certdb.packed import PACKED_BYTES, PackedRows
from ocspd.certdb.postgres_connection import (
    COMMAND_TIMEOUT_S,
    MAINTENANCE_TIMEOUT_S,
    OF_ONE_ROW,
    Database,
)
from ocspd.certdb.spelling import POSTGRES_ODD, POSTGRES_WORTH, POSTGRES_ZEROS, stripped
from ocspd.errors import Code, CodedError
from ocspd.model import AnsweredRequest, CertificateRow, OCSPRow, normalize_aki, serial_to_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import datetime
    from types import TracebackType

    from ocspd.certdb.base import OddRows
    from ocspd.clock import Clock
    from ocspd.model import StatusRow

_COLUMNS = (
    "serial_number, authority_key_identifier, ca_label, status, reason, expiry, revoked_at, pem, "
    "issued_at, not_before, metadata, sans, common_name"
)
_PACKED_COLUMNS = (  # casts: what binary COPY sends must have the types `_copyrows` expects
    "serial_number, authority_key_identifier, status, reason::int4, revoked_at::timestamptz, "
    "expiry::timestamptz"
)
_STATUS_COLUMNS = (  # times as they are: the driver has no room for all that PostgreSQL can hold
    "serial_number, authority_key_identifier, substr(status, 1, 64), reason, timestamptz_send(revoked_at), "
    "timestamptz_send(expiry)"
)
_CERTIFICATE_COLUMNS = (
    "serial_number, authority_key_identifier, ca_label, status, reason, timestamptz_send(expiry), "
    "timestamptz_send(revoked_at), pem, timestamptz_send(issued_at), timestamptz_send(not_before), metadata, "
    "sans, common_name"
)
_KEY = "serial_number, authority_key_identifier"
_OCSP_COLUMNS = "serial_number, authority_key_identifier, body, timestamptz_send(expiry)"
# Go's zero time as text: asyncpg would write datetime.min as -infinity, which CFSSL cannot read.
_UNEXPIRED = "FROM certificates WHERE expiry > $1"
_BY_SERIALS = f"""
SELECT {{columns}} FROM {{table}} WHERE serial_number = ANY($1::bytea[])
UNION ALL
SELECT {{columns}} FROM {{table}}
WHERE {POSTGRES_ZEROS} AND serial_number <> '0'
  AND ltrim(encode(substr(serial_number, 1, 201), 'escape'), '0') = ANY($2::text[])
"""  # noqa: S608  (constants)
_ANALYZED = "SELECT reltuples > 0 FROM pg_class WHERE oid = 'certificates'::regclass"
_INSERT = f"""
INSERT INTO certificates ({_COLUMNS})
SELECT serial, aki, label, status, reason, expiry,
       COALESCE(revoked_at, timestamptz '0001-01-01 00:00:00+00'), pem, issued_at, not_before,
       metadata, sans, cn
FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::int4[], $6::timestamptz[],
            $7::timestamptz[], $8::bytea[], $9::timestamptz[], $10::timestamptz[], $11::jsonb[], $12::jsonb[],
            $13::text[])
    AS row (serial, aki, label, status, reason, expiry, revoked_at, pem, issued_at, not_before,
            metadata, sans, cn)
"""  # noqa: S608  (constants)
_ANSWER_COLUMNS = "request_key, digest, serial_number, authority_key_identifier, expires_at"
_INSERT_ANSWERS = f"""
WITH answers AS (
    INSERT INTO ocspd_answers ({_ANSWER_COLUMNS})
    SELECT * FROM unnest($14::bytea[], $15::bytea[], $16::bytea[], $17::bytea[], $18::timestamptz[])
) {_INSERT}"""  # noqa: S608  (constants)
_FIND_ANSWERS = f"""
WITH expired AS (DELETE FROM ocspd_answers WHERE request_key = ANY($1::bytea[]) AND expires_at <= $2)
SELECT {_ANSWER_COLUMNS} FROM ocspd_answers WHERE request_key = ANY($1::bytea[]) AND expires_at > $2
"""  # noqa: S608  (constants)
_PRESENT = """
SELECT serial_number, authority_key_identifier FROM certificates
JOIN unnest($1::bytea[], $2::bytea[]) AS wanted (serial_number, authority_key_identifier)
USING (serial_number, authority_key_identifier)
"""
_UPSERT = """
INSERT INTO ocsp_responses (serial_number, authority_key_identifier, body, expiry)
SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::timestamptz[])
ON CONFLICT (serial_number, authority_key_identifier)
DO UPDATE SET body = excluded.body, expiry = excluded.expiry
"""
_REVOKE_ROWS = """
UPDATE certificates SET status = 'revoked', revoked_at = $4, reason = wanted.reason
FROM unnest($1::bytea[], $2::bytea[], $3::int4[]) AS wanted (serial, aki, reason)
WHERE serial_number = wanted.serial AND authority_key_identifier = wanted.aki
  AND (status IS DISTINCT FROM 'revoked' OR (certificates.reason = 6 AND wanted.reason <> 6))
RETURNING serial_number, authority_key_identifier
"""
_GROUP_ROWS = 500
_GROUP_BYTES = 4 * 1024 * 1024
"""The most that one statement inserts: a certificate with thousands of names has half a megabyte."""
_Insertion = tuple[CertificateRow, AnsweredRequest | None]
_MIGRATION_LOCK = 0x6F637370  # any number, the same for every ocspd


class PostgresCertDB:
    """A certdb in PostgreSQL 13 or later; see `ocspd.certdb.base.CertDB`."""

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
        outcomes: list[CodedError | None] = []
        while len(outcomes) < len(insertions):
            some = _statement(insertions[len(outcomes) :])
            try:
                outcomes += await self._insert(some)
            except CodedError as err:
                outcomes += [copy(err) for _ in some]
        return outcomes

    async def _insert(self, some: Sequence[_Insertion]) -> list[CodedError | None]:
        """Insert with one statement or, if something about a row prevents it, row by row."""
        async with self._database.inserter() as connection:
            try:
                columns = _columns(map(_values, (row for row, _ in some)))
                answered = [_answer_values(*each) for each in some if each[1] is not None]
                if answered:
                    tag = await connection.execute(_INSERT_ANSWERS, *columns, *_columns(answered))
                else:
                    tag = await connection.execute(_INSERT, *columns)
            except OF_ONE_ROW:
                if len(some) == 1:
                    raise
            else:
                if tag == f"INSERT 0 {len(some)}":
                    return [None] * len(some)
                present = {tuple(key) for key in await connection.fetch(_PRESENT, *columns[:2])}
                keys = zip(*columns[:2], strict=True)
                return [None if key in present else _not_inserted() for key in keys]
        outcomes: list[CodedError | None] = []
        for each in some:
            try:
                outcomes += await self._insert([each])
            except CodedError as err:
                outcomes.append(err)
        return outcomes

    async def find_answers(self, keys: Sequence[bytes]) -> list[AnsweredRequest]:
        """See CertDB."""
        async with self._database.connection() as connection:
            records = await connection.fetch(_FIND_ANSWERS, keys, self._clock.now())
        return [
            AnsweredRequest(
                key=key,
                digest=digest,
                expires_at=expires_at,
                serial=rows.read_serial(serial),
                aki=rows.read_text(aki),
            )
            for key, digest, serial, aki, expires_at in records
        ]

    async def trim_answers(self) -> int:
        """See CertDB."""
        return await self._change("DELETE FROM ocspd_answers WHERE expires_at <= $1", self._clock.now())

    @property
    def connected(self) -> bool:
        """See CertDB."""
        return self._database.inserter_is_open

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:
        """See CertDB."""
        found = rows.same_key(await self._by_serials(_CERTIFICATE_COLUMNS, [serial]), serial, aki)
        return rows.preferred(rows.readable_certificates(found, parse=rows.parse_binary_time))

    async def find_certificates(self, serial: int) -> list[CertificateRow]:
        """See CertDB."""
        found = await self._by_serials(_CERTIFICATE_COLUMNS, [serial])
        read = rows.readable_certificates(found, parse=rows.parse_binary_time)
        return sorted(read, key=lambda row: row.aki)

    async def estimate_unexpired(self) -> int:
        """See CertDB."""
        now = self._clock.now()
        async with self._database.connection(MAINTENANCE_TIMEOUT_S) as connection:
            if await connection.fetchval(_ANALYZED):
                plan = json.loads(
                    await connection.fetchval(f"EXPLAIN (FORMAT JSON) SELECT {_UNEXPIRED}", now)
                )
                return int(plan[0]["Plan"]["Plan Rows"])
            return int(
                await connection.fetchval(f"SELECT count(*) {_UNEXPIRED}", now, timeout=MAINTENANCE_TIMEOUT_S)
            )

    async def stream_status(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[StatusRow]]:
        """See CertDB."""
        async for chunk in self._pages("certificates", _STATUS_COLUMNS, chunk_rows, f"NOT {POSTGRES_ODD}"):
            if read := rows.readable_rows(chunk, rows.status_row_from_times):
                yield read

    async def stream_odd(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[OddRows]:
        """See CertDB."""
        async for chunk in self._pages(
            "certificates", _STATUS_COLUMNS, chunk_rows, POSTGRES_ODD, unexpired=POSTGRES_WORTH
        ):
            yield rows.odd_rows(chunk, rows.status_row_from_times)

    async def stream_revoked(
        self, after: datetime, *, chunk_rows: int = CHUNK_ROWS
    ) -> AsyncIterator[list[StatusRow]]:
        """See CertDB."""
        where = f"status = 'revoked' AND NOT {POSTGRES_ODD}"
        async for chunk in self._pages("certificates", _STATUS_COLUMNS, chunk_rows, where, after=after):
            if read := rows.readable_rows(chunk, rows.status_row_from_times):
                yield read

    async def find_statuses(self, serials: Sequence[int]) -> list[StatusRow]:
        """See CertDB."""
        records = await self._by_serials(_STATUS_COLUMNS, serials, newest=True)
        return rows.odd_rows(records, rows.status_row_from_times).rows

    async def get_pem(self, row: StatusRow) -> bytes:
        """See CertDB."""
        async with self._database.connection() as connection:
            pem = await connection.fetchval(
                "SELECT pem FROM certificates WHERE serial_number = $1 AND authority_key_identifier = $2",
                *(row.key or _key(row.serial, row.aki)),
            )
        return bytes(pem or b"")

    async def stream_packed(self) -> AsyncIterator[PackedRows]:
        """See packed.PackedSource."""
        # a literal: with a value the driver would prepare a named statement, which a pooler may lose
        now = self._clock.now().isoformat()
        sql = f"SELECT {_PACKED_COLUMNS} FROM certificates WHERE expiry > '{now}'::timestamptz"  # noqa: S608
        pieces: list[bytes] = []
        size = 0
        begun = False
        async for piece in self._database.copy_out(sql):
            pieces.append(piece)
            size += len(piece)
            if size >= PACKED_BYTES:
                packed, rest = self._whole_rows(b"".join(pieces), begun=begun)
                begun = True
                pieces, size = [rest], len(rest)
                if packed.count:
                    yield packed
        packed, rest = self._whole_rows(b"".join(pieces), begun=begun)
        if packed.count:
            yield packed

    def _whole_rows(self, data: bytes, *, begun: bool) -> tuple[PackedRows, bytes]:
        """Split COPY's output into whole rows and the rest, without the header it begins with."""
        try:
            if not begun:
                data = data[_copyrows.header_size(data) :]
            end, count = _copyrows.whole_rows(data)
        except ValueError as err:
            raise CodedError(Code.STORE_FAILED, f"{self.name}: {err}") from err
        return PackedRows(data[:end], count), data[end:]

    async def revoke_certificate(
        self, serial: int, aki: str, reason: int, *, keep_first: bool = False
    ) -> bool:
        """See CertDB."""
        where = "(status IS DISTINCT FROM 'revoked' OR (reason = 6 AND $4 <> 6))" if keep_first else "TRUE"
        set_ = "status = 'revoked', revoked_at = $3, reason = $4"
        return await self._set_status(serial, aki, set_, where, self._clock.now(), reason)

    async def release_certificate(self, serial: int, aki: str) -> bool:
        """See CertDB."""
        set_ = "status = 'good', revoked_at = timestamptz '0001-01-01 00:00:00+00', reason = 0"
        return await self._set_status(serial, aki, set_, "status = 'revoked' AND reason = 6")

    async def _set_status(self, serial: int, aki: str, set_: str, where: str, *values: object) -> bool:
        """Change the status of the rows of a certificate that meet a condition; return whether any did."""
        count = await self._change_key(
            "certificates",
            f"UPDATE certificates SET {set_}",  # noqa: S608  (constants)
            (serial, aki),
            *values,
            where=where,
        )
        if count == 0 and await self.get_certificate(serial, aki) is None:
            raise CodedError(Code.STORE_NOT_FOUND, "failed to revoke the certificate: certificate not found")
        return count > 0

    async def revoke_rows(self, changes: Sequence[tuple[StatusRow, int]]) -> list[bool]:
        """See CertDB."""
        keys = [row.key or _key(row.serial, row.aki) for row, _ in changes]
        async with self._database.connection(COMMAND_TIMEOUT_S) as connection:
            records = await connection.fetch(
                _REVOKE_ROWS,
                [serial for serial, _ in keys],
                [aki for _, aki in keys],
                [reason for _, reason in changes],
                self._clock.now(),
            )
        changed = {(serial, aki) for serial, aki in records}
        return [key in changed for key in keys]

    async def find_ocsp(self, rows: Sequence[StatusRow]) -> list[bytes | None]:
        """See CertDB."""
        keys = [row.key or _key(row.serial, row.aki) for row in rows]
        async with self._database.connection() as connection:
            records = await connection.fetch(
                "SELECT serial_number, authority_key_identifier, body FROM ocsp_responses "
                "JOIN unnest($1::bytea[], $2::bytea[]) AS wanted (serial_number, authority_key_identifier) "
                "USING (serial_number, authority_key_identifier)",
                [serial for serial, _ in keys],
                [aki for _, aki in keys],
            )
        bodies = {(serial, aki): body for serial, aki, body in records}
        return [bodies.get(key) for key in keys]

    async def unexpired_ocsp(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[OCSPRow]]:
        """See CertDB."""
        async for chunk in self._pages("ocsp_responses", _OCSP_COLUMNS, chunk_rows):
            if read := rows.readable_rows(chunk, _ocsp_row):
                yield read

    async def update_ocsp(self, row: OCSPRow) -> None:
        """See CertDB."""
        count = await self._change_key(
            "ocsp_responses",
            "UPDATE ocsp_responses SET body = $3, expiry = $4",
            (row.serial, row.aki),
            row.body,
            row.expiry,
        )
        if count == 0:
            raise CodedError(Code.STORE_NOT_FOUND, "failed to update the OCSP record: no such record")

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """See CertDB."""
        # one statement may not touch a row twice: the last one given wins
        values = {row.key or _key(row.serial, row.aki): row for row in rows}
        if values:
            async with self._database.connection(COMMAND_TIMEOUT_S) as connection:
                await connection.execute(
                    _UPSERT,
                    [serial for serial, _ in values],
                    [aki for _, aki in values],
                    [row.body for row in values.values()],
                    [row.expiry for row in values.values()],
                )

    def change_feed(self) -> FoundFeed:
        """See CertDB."""
        database = self._database.sibling()
        look = sight_of(database)
        polled = PolledFeed(self.name, look, database.close)
        return FoundFeed(PostgresFeed(database), polled, look, self._notice)

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
        """See migrate.Migratable."""
        async with self._database.transaction(MAINTENANCE_TIMEOUT_S, readonly=not write) as connection:
            if write:
                await connection.execute(
                    f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})", timeout=MAINTENANCE_TIMEOUT_S
                )
                if connection.get_server_version() < (13,):
                    raise CodedError(Code.STORE_FAILED, f"{self.name}: ocspd needs PostgreSQL 13 or later")
            yield _Session(connection)

    async def _change(self, sql: str, *values: Any) -> int:
        async with self._database.connection() as connection:
            tag: str = await connection.execute(sql, *values)
        return int(tag.rsplit(" ", 1)[-1])

    async def _change_key(
        self, table: str, sql: str, key: tuple[int, str], *values: Any, where: str = "TRUE"
    ) -> int:
        """Change the rows with this serial number and key identifier, in whatever spelling."""
        found = rows.same_key(await self._by_serials(_KEY, [key[0]], table=table), *key)
        keys = "(SELECT * FROM unnest($1::bytea[], $2::bytea[]))"
        return await self._change(
            f"{sql} WHERE (serial_number, authority_key_identifier) IN {keys} AND {where}",
            [record[0] for record in found],
            [record[1] for record in found],
            *values,
        )

    async def _by_serials(
        self, columns: str, serials: Sequence[int], *, table: str = "certificates", newest: bool = False
    ) -> list[Any]:
        """Return the rows with one of these serial numbers, in any spelling.

        With `newest` the server must have what the change feed was read from: what is signed depends on it.
        """
        texts = [serial_to_text(serial).encode() for serial in serials]
        async with self._database.connection() as connection:
            if newest:
                await self._database.not_behind(connection)
            return list(
                await connection.fetch(
                    _BY_SERIALS.format(columns=columns, table=table), texts, stripped(serials)
                )
            )

    async def _pages(  # noqa: PLR0913  (the parts of a query)
        self,
        table: str,
        columns: str,
        size: int,
        where: str = "true",
        *,
        unexpired: str = "expiry > $1",
        after: datetime | None = None,
    ) -> AsyncIterator[list[Any]]:
        sql = f"SELECT {columns} FROM {table} WHERE {unexpired} AND {where}"  # noqa: S608  (constants)
        now = after or self._clock.now()
        async with self._database.transaction(None, readonly=True) as connection:
            await self._database.not_behind(connection)
            if self._database.pooled:  # the driver's cursors are named statements
                sql = sql.replace("$1", f"'{now.isoformat()}'::timestamptz")
                await connection.execute(f"DECLARE ocspd_rows NO SCROLL CURSOR FOR {sql}")
                while records := await connection.fetch(f"FETCH {int(size)} FROM ocspd_rows"):
                    yield records
                return
            cursor = await connection.cursor(sql, now)
            while records := await cursor.fetch(size):
                yield records


class _Session:
    """See migrate.MigrationSession."""

    dialect = "postgres"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def has_table(self, name: str) -> bool:
        """See MigrationSession."""
        return bool(await self._connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name))

    async def has_column(self, table: str, column: str) -> bool:
        """See MigrationSession."""
        sql = (
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 "
            "AND NOT attisdropped)"
        )
        return bool(await self._connection.fetchval(sql, table, column))

    async def fetch(self, sql: str) -> list[Any]:
        """See MigrationSession."""
        return list(await self._connection.fetch(sql))

    async def execute(self, sql: str) -> None:
        """See MigrationSession."""
        await self._connection.execute(sql, timeout=MAINTENANCE_TIMEOUT_S)


def _values(row: CertificateRow) -> tuple[Any, ...]:
    """Return the columns of a new row, in the order of _COLUMNS."""
    return (
        *_key(row.serial, row.aki),
        row.ca_label.encode(),
        row.status.word.encode(),
        row.reason,
        row.expiry,
        row.revoked_at,
        row.pem.encode(),
        row.issued_at,
        row.not_before,
        rows.write_json(row.metadata),
        rows.write_json(row.sans),
        row.common_name,
    )


def _answer_values(row: CertificateRow, answer: AnsweredRequest | None) -> tuple[Any, ...]:
    """Return the columns of an answered request, in the order of _ANSWER_COLUMNS."""
    assert answer is not None
    return answer.key, answer.digest, *_key(row.serial, row.aki), answer.expires_at


def _columns(records: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return list(map(list, zip(*records, strict=True)))


def _statement(insertions: Sequence[_Insertion]) -> Sequence[_Insertion]:
    """Return as many of the first insertions as one statement takes."""
    size = count = 0
    for row, _ in insertions[:_GROUP_ROWS]:
        size += len(row.pem)
        if size > _GROUP_BYTES:
            break
        count += 1
    return insertions[: max(count, 1)]


def _not_inserted() -> CodedError:
    return CodedError(Code.STORE_INSERT_FAILED, "failed to insert the certificate record")


def _key(serial: int, aki: str) -> tuple[bytes, bytes]:
    return serial_to_text(serial).encode(), normalize_aki(aki).encode()


def _ocsp_row(serial: object, aki: object, body: bytes, expiry: bytes | None) -> OCSPRow:
    return OCSPRow(
        serial=rows.read_serial(serial),
        aki=rows.read_text(aki),
        body=body,
        expiry=rows.read_expiry(rows.parse_binary_time("expiry", expiry)),
    )
