"""Many certificates with one commit, and each delivered after its own."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from ocspd.authority.groups import Groups
from ocspd.authority.issuing import Authority, Shared
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError
from ocspd.pki.certs import load_certificate
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.keys import load_private_key
from ocspd.pki.profiles import Profile, SigningConfig, default_profile
from tests.certdb import raw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ocspd.authority.storage import SignedCertificate
    from ocspd.certdb.base import CertDB
    from ocspd.model import CertificateRow

NOW = datetime(2026, 5, 4, 3, 2, 31, tzinfo=UTC)


class Database:
    """A database that commits when it is told to."""

    def __init__(self) -> None:
        self.connected = True
        self.away: Exception | None = None
        self.looks = 0
        self.groups: list[list[CertificateRow]] = []
        self.commits: asyncio.Queue[Exception | None] | None = None

    async def insert_certificates(
        self, rows: Sequence[CertificateRow], answers: Sequence[None]
    ) -> list[Exception | None]:
        assert not answers
        self.groups.append(list(rows))
        error = await self.commits.get() if self.commits is not None else self.away
        return [error] * len(rows)

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:
        self.looks += 1
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away
        found = [row for group in self.groups for row in group if (row.serial, row.aki) == (serial, aki)]
        return found[0] if found else None


def authority(material: Path, db: object, config: SigningConfig | None = None, **hooks: object) -> Authority:
    usual = SigningConfig(default=default_profile(), profiles={}, auth_keys={}, remotes={})
    issuer = Issuer(
        load_certificate((material / "ca.pem").read_bytes()),
        load_private_key((material / "ca-key.pem").read_bytes()),
        config or usual,
        ManualClock(NOW),
    )
    shared = Shared(db, ManualClock(NOW), fresh_s=3600, **hooks)  # type: ignore[arg-type]  # a stand-in
    return Authority(issuer, None, ManualClock(NOW), shared=shared)


def request(material: Path, **more: object) -> SignRequest:
    return SignRequest(csr_pem=(material / "leaf.csr").read_text(), **more)  # type: ignore[arg-type]


CHOOSING = SigningConfig(
    default=Profile(usages=("signing",), expiry=default_profile().expiry, client_provides_serial=True),
    profiles={},
    auth_keys={},
    remotes={},
)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (nobody tells)
        await asyncio.sleep(0.001)


async def test_a_group_is_what_came_in_while_the_one_before_was_worked_on() -> None:
    worked: list[list[int]] = []
    gate: asyncio.Queue[None] = asyncio.Queue()

    async def work(items: list[int]) -> None:
        worked.append(items)
        await gate.get()

    groups = Groups(work, largest=3)
    groups.put(1)
    await until(lambda: worked == [[1]])
    for number in (2, 3, 4, 5):
        groups.put(number)
    gate.put_nowait(None)
    await until(lambda: len(worked) == 2)
    assert worked == [[1], [2, 3, 4]]
    finishing = asyncio.create_task(groups.finish())
    for _ in range(2):
        gate.put_nowait(None)
    await finishing
    assert worked == [[1], [2, 3, 4], [5]]


async def test_nothing_is_left_behind_when_an_item_comes_as_the_last_group_ends() -> None:
    done: list[int] = []

    async def work(items: list[int]) -> None:
        await asyncio.sleep(0)
        done.extend(items)

    groups = Groups(work, largest=4, at_once=2)
    for number in range(200):
        groups.put(number)
        for _ in range(number % 5):
            await asyncio.sleep(0)
    await groups.finish()
    assert sorted(done) == list(range(200))


async def test_a_certificate_is_delivered_when_its_commit_is_confirmed_and_not_before(material: Path) -> None:
    db = Database()
    db.commits = asyncio.Queue()
    ours = authority(material, db)
    first = asyncio.create_task(ours.sign(request(material)))
    await until(lambda: len(db.groups) == 1)
    others = [asyncio.create_task(ours.sign(request(material))) for _ in range(5)]
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert not first.done()
    db.commits.put_nowait(None)
    await first
    db.commits.put_nowait(None)
    signed = await asyncio.gather(*others)
    assert {each.serial for each in signed} == {row.serial for row in db.groups[1]}
    assert [row.pem for row in db.groups[0]] == [first.result().cert_pem]


async def test_what_was_signed_but_not_stored_is_told_and_nobody_gets_it(
    material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database()
    ours = authority(material, db)
    await ours.sign(request(material))
    db.away = CodedError(Code.STORE_FAILED, "the disk is full")
    with pytest.raises(CodedError, match="the disk is full"):
        await ours.sign(request(material, profile="some"))
    (row,) = db.groups[1]
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    for part in (f"serial number {row.serial}", row.aki, "profile some", "the disk is full"):
        assert part in told.getMessage()


class Journal:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.broken = False

    async def signed(self, certificates: Sequence[SignedCertificate]) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise CodedError(Code.STORE_FAILED, "the audit log cannot be written")
        self.heard += [("signed", each.serial) for each in certificates]

    async def unstored(self, failures: Sequence[tuple[SignedCertificate, Exception]]) -> None:
        if self.broken:
            raise CodedError(Code.STORE_FAILED, "the audit log cannot be written")
        self.heard += [("unstored", each.serial) for each, _ in failures]


async def test_a_journal_hears_of_what_is_signed_first_and_of_what_was_not_stored(material: Path) -> None:
    db, journal = Database(), Journal()
    ours = authority(material, db, journal=journal)
    first = await ours.sign(request(material))
    db.away = CodedError(Code.STORE_FAILED, "gone")
    with pytest.raises(CodedError, match="gone"):
        await ours.sign(request(material))
    (row,) = db.groups[1]
    assert journal.heard == [("signed", first.serial), ("signed", row.serial), ("unstored", row.serial)]


async def test_what_a_journal_cannot_write_is_neither_stored_nor_delivered(
    material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db, journal = Database(), Journal()
    journal.broken = True
    for place in (db, None):
        with pytest.raises(CodedError, match="audit log"):
            await authority(material, place, journal=journal).sign(request(material))
    assert db.groups == []
    assert caplog.text.count("signed but not stored") == 2


async def test_nothing_is_signed_while_the_database_is_away(
    material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ocspd")
    db = Database()
    db.away = CodedError(Code.STORE_FAILED, "gone")
    ours = authority(material, db)
    results = await asyncio.gather(*(ours.sign(request(material)) for _ in range(9)), return_exceptions=True)
    assert {str(result) for result in results} == {str(db.away)}
    assert len({id(result) for result in results}) == 9
    assert db.looks == 1, "all who wait share one look"
    assert db.groups == []
    assert "signed certificate" not in caplog.text
    db.away = None
    assert (await ours.sign(request(material))).serial
    db.connected = False
    db.away = CodedError(Code.STORE_FAILED, "gone again")
    with pytest.raises(CodedError, match="gone again"):
        await ours.sign(request(material))
    assert len(db.groups) == 1


async def test_under_load_the_database_is_not_asked_before_each_signature(material: Path) -> None:
    db = Database()
    ours = authority(material, db)
    await ours.sign(request(material))
    for _ in range(3):
        await asyncio.gather(*(ours.sign(request(material)) for _ in range(10)))
    assert db.looks == 1


async def test_after_a_failure_the_database_is_asked_first(material: Path) -> None:
    db = Database()
    ours = authority(material, db)
    await ours.sign(request(material))
    db.away = CodedError(Code.STORE_FAILED, "gone")
    for _ in range(3):
        with pytest.raises(CodedError):
            await ours.sign(request(material))
    assert len(db.groups) == 2


async def test_whoever_leaves_early_leaves_a_stored_certificate_or_none(material: Path) -> None:
    db = Database()
    db.commits = asyncio.Queue()
    ours = authority(material, db)
    leaving = asyncio.create_task(ours.sign(request(material)))
    await until(lambda: len(db.groups) == 1)
    leaving.cancel()
    finishing = asyncio.create_task(ours.finish())
    db.commits.put_nowait(None)
    await finishing
    assert leaving.cancelled()
    db.commits = None
    gone = asyncio.create_task(ours.sign(request(material)))
    await asyncio.sleep(0)
    gone.cancel()
    await ours.finish()
    assert len(db.groups) <= 2
    gc.collect()  # an error nobody asked for would be reported now


async def test_a_serial_number_that_is_in_use_or_asked_for_by_another_is_1300(
    material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ocspd")
    db = Database()
    ours = authority(material, db, CHOOSING)
    results = await asyncio.gather(
        *(ours.sign(request(material, serial=5)) for _ in range(4)), return_exceptions=True
    )
    results += await asyncio.gather(ours.sign(request(material, serial=5)), return_exceptions=True)
    codes = [result.code if isinstance(result, CodedError) else None for result in results]
    assert codes == [None, *([Code.CERT_BAD_REQUEST] * 4)]
    assert caplog.text.count("signed certificate") == 1
    assert [row.serial for group in db.groups for row in group] == [5]
    assert (await ours.sign(request(material, serial=6))).serial == 6


async def test_no_serial_number_is_used_twice(migrated_db_config: DBConfig, material: Path) -> None:
    async with await open_certdb(migrated_db_config, ManualClock(NOW)) as db:
        ours = authority(material, db)
        signed = await asyncio.gather(*(ours.sign(request(material)) for _ in range(60)))
        serials = [each.serial for each in signed]
        assert len(set(serials)) == 60
        assert all(0 < serial < 1 << 159 for serial in serials)
        assert max(serials).bit_length() > 150
        for each in signed[:3]:  # and if one came again, the table would not take it
            assert [error is None for error in await db.insert_certificates([each.row])] == [False]
    assert await raw.fetch(migrated_db_config, "SELECT count(*) FROM certificates") == [(60,)]


async def test_rows_say_what_the_certificates_say(migrated_db_config: DBConfig, material: Path) -> None:
    async with await open_certdb(migrated_db_config, ManualClock(NOW)) as db:
        signed = await authority(material, db).sign(request(material, label="primary"))
        stored = await db.get_certificate(signed.serial, signed.aki)
    assert stored == signed.row
    assert (stored.ca_label, stored.sans, stored.common_name) == ("primary", ["leaf.example"], "leaf.example")
    assert stored.pem == signed.cert_pem


async def test_an_unmigrated_database_is_told_before_anything_is_signed(
    db_config: DBConfig, material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ocspd")
    async with await open_certdb(db_config, ManualClock(NOW)) as db:
        with pytest.raises(CodedError, match="ocspd db up") as caught:
            await authority(material, db).sign(request(material))
        assert caught.value.code is Code.STORE_FAILED
        await made(db)
        assert (await authority(material, db).sign(request(material))).serial
    assert caplog.text.count("signed certificate") == 1


async def made(db: CertDB) -> None:
    await migrate.up(db)
