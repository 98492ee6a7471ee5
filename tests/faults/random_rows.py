"""Random rows of `certificates`, written by plain SQL, and what they mean by rules of their own.

A `World` writes (`step`) and keeps, beside the database, what every certificate's rows say; the oracle is
told of each commit. What it takes a row to mean is written here once more, from CFSSL's table and RFC 6960
and not from the code under test: a serial number is decimal digits of any length, a key identifier hex in
any case with colons or spaces, and where that names no CA the certificate's signature does.
"""

from __future__ import annotations

import random
import sqlite3
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import asyncpg

from tests.faults.oracle import GOOD, REVOKED, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ocspd.certdb import DBConfig
    from tests.faults.oracle import CertID, Oracle

T = TypeVar("T")
NUMBERS = (0, 1, 7, 10, 127, 128, 255, 2**63, 2**159 - 1, 10**38)
WORDS = (GOOD,) * 6 + (REVOKED,) * 6 + (UNKNOWN, "Revoked", "", "good ", "GOOD", "valid", "revoked\x00")
NO_SERIALS = ("seven", "", "-7", "7 ", "+7", "0x7", "7.0", "\u0667", "9" * 156)


class Value(NamedTuple):
    """A value of a column: octets of a text (or, on SQLite, a blob), or SQL of any kind."""

    sql: str
    text: str | None = None
    """What a reader finds there; None for what is not text."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says."""

    serial: Value
    aki: Value
    status: Value
    expiry: Value
    expired: bool
    readable: bool
    """Whether its expiry is a time."""
    revoked_at: Value
    reason: Value
    pem: str

    @property
    def key(self) -> tuple[str, str]:
        """The primary key as SQL."""
        return self.serial.sql, self.aki.sql


class World:
    """The table, as it is and as it is meant."""

    def __init__(
        self, config: DBConfig, oracle: Oracle, akis: Sequence[str], pems: Sequence[str], seed: int
    ) -> None:
        """`akis` and `pems` are the key identifier and a certificate of each issuer."""
        self._config = config
        self._oracle = oracle
        self._akis = akis
        self._pems = pems
        self._random = random.Random(seed)
        self._postgres = config.driver == "postgres"
        self._rows: dict[tuple[str, str], Row] = {}
        self._connection: Any = None
        self.done: list[str] = []
        """What was written, for whoever has to find out."""

    async def open(self) -> None:
        """Connect."""
        if self._postgres:
            self._connection = await asyncpg.connect(self._config.data_source)
        else:
            self._connection = sqlite3.connect(self._config.data_source, isolation_level=None, timeout=30)

    async def close(self) -> None:
        """Disconnect."""
        if self._postgres:
            await self._connection.close()
        else:
            self._connection.close()

    # -- what rows mean ----------------------------------------------------------------------------

    def _certids(self, row: Row) -> Iterable[CertID]:
        text = row.serial.text
        if text is None or not (text.isascii() and text.isdigit()) or int(text).bit_length() > 511:
            return
        spelled = (row.aki.text or "").replace(":", "").replace(" ", "").lower()
        if spelled in self._akis:
            yield self._akis.index(spelled), int(text)
        elif not set(spelled or "-") <= set("0123456789abcdef") and row.pem in self._pems:
            yield self._pems.index(row.pem), int(text)

    def words(self, certid: CertID) -> list[str]:
        """Return what the rows of a certificate say; expired ones count as revoked, or not at all."""
        mine = [row for row in self._rows.values() if certid in self._certids(row)]
        said = [_word(row) for row in mine if not row.expired]
        said += [REVOKED for row in mine if row.expired and _word(row) == REVOKED]
        return said or (self._of_expired(mine) if mine else [])

    @staticmethod
    def _of_expired(rows: Sequence[Row]) -> list[str]:
        # the last response stays until it ends, unless the row takes back what it says
        return [_word(row) for row in rows]

    def over(self, certid: CertID) -> bool:
        """Tell whether all rows of a certificate have expired and none is revoked: no answer is wanted."""
        mine = [row for row in self._rows.values() if certid in self._certids(row)]
        return bool(mine) and all(row.expired and _word(row) != REVOKED for row in mine)

    # -- values ------------------------------------------------------------------------------------

    def text(self, text: str, *, blob: bool = False) -> Value:
        """Return a text column's value."""
        octets = text.encode().hex()
        if self._postgres:
            return Value(f"'\\x{octets}'::bytea", text)
        return Value(f"x'{octets}'" if blob else f"CAST(x'{octets}' AS TEXT)", text)

    def _one(self, *values: T) -> T:
        return self._random.choice(values)

    def _serial(self) -> Value:
        number = self._one(*NUMBERS)
        chance = self._random.random()
        if chance < 0.05:
            return self.text(self._one(*NO_SERIALS))
        if chance < 0.15 and not self._postgres:
            if number < 2**63 and chance < 0.1:
                return Value(str(number), str(number))
            return self.text(str(number), blob=True)
        return self.text(self._one("", "", "", "0", "000", "0" * 60) + str(number))

    def _aki(self) -> Value:
        aki = self._one(*self._akis, self._akis[0])
        colons = ":".join(aki[at : at + 2] for at in range(0, len(aki), 2))
        spellings = [aki] * 5 + [aki.upper(), colons, colons.upper(), aki.replace("a", "A"), " " + aki]
        spellings += ["", "", "the CA of the first floor", "abcd", "AB:CD", aki[:-2], aki + "00", "é"]
        blob = not self._postgres and self._random.random() < 0.1
        return self.text(self._one(*spellings), blob=blob)

    def _status(self) -> Value:
        if not self._postgres and self._random.random() < 0.05:
            return self._one(
                Value("0"), Value("1.5"), self.text("good", blob=True), self.text("revoked", blob=True)
            )
        word = self._one(*WORDS)
        return self.text(word.replace("\x00", "") + "!" if "\x00" in word and not self._postgres else word)

    def _expiry(self) -> tuple[Value, bool, bool]:
        """Return an expiry, whether it is over, and whether it is a time."""
        now = datetime.now(UTC)
        chance = self._random.random()
        if chance < 0.1:
            return Value(f"'{now - timedelta(days=1):%Y-%m-%d %H:%M:%S}+00:00'"), True, True
        if chance < 0.25 and self._postgres:
            return Value(self._one("'infinity'", "'20000-01-01 00:00:00+00'")), False, True
        if chance < 0.15:
            return Value(self._one("'never'", "x'00'", "''", "'2031-02-30 00:00:00'")), False, False
        if chance < 0.25:
            later = int((now + timedelta(days=3)).timestamp())
            return (
                Value(self._one(str(later), f"{later}000", f"{later}.5", "'20000-01-01 00:00:00+00:00'")),
                False,
                True,
            )
        return Value(f"'{now + timedelta(days=30):%Y-%m-%d %H:%M:%S}+00:00'"), False, True

    def _revoked_at(self) -> Value:
        now = datetime.now(UTC)
        times = ["0001-01-01 00:00:00+00:00", f"{now - timedelta(days=9):%Y-%m-%d %H:%M:%S}+00:00"]
        times += [f"{now:%Y-%m-%d %H:%M:%S.%f}+00:00", f"{now + timedelta(days=1):%Y-%m-%d %H:%M:%S}+00:00"]
        times += ["9999-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+08:00"]
        if self._postgres:
            return Value(f"'{self._one(*times, 'infinity', '-infinity', '0044-03-15 00:00:00+00 BC')}'")
        odd = ("5", "1.5", "'yesterday'", "x'00ff'", "9223372036854775807", "-1e300", "NULL")
        return Value(self._one(*(f"'{moment}'" for moment in times), *odd))

    def _reason(self) -> Value:
        plain = ["0", "1", "6", "6", "8", "7", "99", "-1", "2147483647", "NULL"]
        return Value(
            self._one(*plain, *([] if self._postgres else ["'text'", "1099511627776", "1.5", "x'00'"]))
        )

    def _row(self) -> Row:
        expiry, expired, readable = self._expiry()
        pem = self._one(*self._pems, "-", "")
        return Row(
            self._serial(), self._aki(), self._status(), expiry, expired, readable,
            self._revoked_at(), self._reason(), pem,
        )  # fmt: skip

    # -- steps -------------------------------------------------------------------------------------

    async def step(self) -> None:
        """Commit something."""
        after = dict(self._rows)
        statements = [self._change(after) for _ in range(self._one(1, 1, 1, 1, 2, 5))]
        if self._random.random() < 0.08:
            await self._run([*statements, "ROLLBACK"])
            return
        await self._commit(statements, after)

    async def truncate(self) -> None:
        """Commit the end of all rows."""
        await self._commit(
            ["TRUNCATE certificates CASCADE" if self._postgres else "DELETE FROM certificates"], {}
        )

    async def _commit(self, statements: list[str], after: dict[tuple[str, str], Row]) -> None:
        changed = {key for key in {*self._rows, *after} if self._rows.get(key) != after.get(key)}
        certids = {
            certid
            for key in changed
            for table in (self._rows, after)
            if key in table
            for certid in self._certids(table[key])
        }
        begun = self._oracle.clock()
        await self._run([*statements, "COMMIT"])
        self._rows = after
        for certid in sorted(certids):
            self._oracle.committed(*certid, self.words(certid), begun=begun)

    def _change(self, rows: dict[tuple[str, str], Row]) -> str:
        """Change one row of `rows`, and return the SQL that does it."""
        kinds: list[Callable[[dict[tuple[str, str], Row]], str]] = [self._insert]
        if rows:
            kinds += [self._update] * 5 + [self._rename, self._delete]
        return self._one(*kinds)(rows)

    def _insert(self, rows: dict[tuple[str, str], Row]) -> str:
        row = self._row()
        exists = row.key in rows
        rows[row.key] = row
        columns = "serial_number, authority_key_identifier, ca_label, "
        columns += "status, reason, expiry, revoked_at, pem"
        values = (
            f"{row.serial.sql}, {row.aki.sql}, {self.text('').sql}, {row.status.sql}, {row.reason.sql}, "
            f"{row.expiry.sql}, {row.revoked_at.sql}, {self.text(row.pem).sql}"
        )
        if not self._postgres:
            return f"INSERT OR REPLACE INTO certificates ({columns}) VALUES ({values})"
        upsert = ", ".join(f"{name} = excluded.{name}" for name in columns.split(", ")[2:])
        conflict = (
            f" ON CONFLICT (serial_number, authority_key_identifier) DO UPDATE SET {upsert}" if exists else ""
        )
        return f"INSERT INTO certificates ({columns}) VALUES ({values}){conflict}"

    def _update(self, rows: dict[tuple[str, str], Row]) -> str:
        key = self._one(*sorted(rows))
        row = rows[key]
        what = self._random.random()
        if what < 0.7:
            row = replace(row, status=self._status())
            values = f"status = {row.status.sql}"
            if self._random.random() < 0.5:
                row = replace(row, reason=self._reason(), revoked_at=self._revoked_at())
                values += f", reason = {row.reason.sql}, revoked_at = {row.revoked_at.sql}"
        elif what < 0.85:
            row = replace(row, reason=self._reason(), revoked_at=self._revoked_at())
            values = f"reason = {row.reason.sql}, revoked_at = {row.revoked_at.sql}"
        else:
            expiry, expired, readable = self._expiry()
            row = replace(row, expiry=expiry, expired=expired, readable=readable)
            values = f"expiry = {expiry.sql}"
        rows[key] = row
        return f"UPDATE certificates SET {values} WHERE {_where(row)}"

    def _rename(self, rows: dict[tuple[str, str], Row]) -> str:
        old = rows[self._one(*sorted(rows))]
        new = replace(old, serial=self._serial(), aki=self._aki() if self._random.random() < 0.5 else old.aki)
        if new.key in rows:
            return self._delete(rows)
        del rows[old.key]
        rows[new.key] = new
        return (
            f"UPDATE certificates SET serial_number = {new.serial.sql}, "
            f"authority_key_identifier = {new.aki.sql} WHERE {_where(old)}"
        )

    def _delete(self, rows: dict[tuple[str, str], Row]) -> str:
        row = rows.pop(self._one(*sorted(rows)))
        return f"DELETE FROM certificates WHERE {_where(row)}"

    async def _run(self, statements: Sequence[str]) -> None:
        self.done.append(f"-- {time.time():.3f}\n" + ";\n".join(statements))
        for statement in ("BEGIN" if self._postgres else "BEGIN IMMEDIATE", *statements):
            if self._postgres:
                await self._connection.execute(statement)
            else:
                self._connection.execute(statement)


def _where(row: Row) -> str:
    return f"serial_number = {row.serial.sql} AND authority_key_identifier = {row.aki.sql}"


def _word(row: Row) -> str:
    word = row.status.text or ""
    return word if word == REVOKED or row.readable else UNKNOWN
