"""The CRL that follows the database."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from ocspd.authority.api.call import Call, Document
from ocspd.authority.api.distribution import distribution_points
from ocspd.authority.crl_once import crl_of_database
from ocspd.authority.crls import CRLPublisher, CRLSettings
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import ManualClock, SystemClock
from ocspd.model import CertificateRow, CertStatus
from ocspd.pki.certs import certificate_to_pem
from ocspd.pki.crl_writer import CRLSigner
from tests.certdb.raw import execute
from tests.pki.chain import common_name, make_certificate, make_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ocspd.certdb.base import CertDB

NAME = common_name("CRL CA")
KEY = make_key("ecdsa-256")
CA = make_certificate(NAME, KEY, NAME, KEY, serial=1, ca=True)
SIGNER = CRLSigner(CA, KEY)
AKI = SIGNER.aki
OTHER = "ab" * 20
NOW = datetime.now(UTC)
EVERY_DRIVER = pytest.mark.parametrize("db_config", ["sqlite3", "postgres", "mysql"], indirect=True)
FOREVER_S = 60.0
"""No test waits for so long unless something is broken."""


def row(
    serial: int, *, aki: str = AKI, reason: int | None = None, days: float = 30, pem: str = ""
) -> CertificateRow:
    made = CertificateRow(serial=serial, aki=aki, pem=pem, expiry=NOW + timedelta(days=days))
    if reason is None:
        return made
    return replace(made, status=CertStatus.REVOKED, reason=reason, revoked_at=NOW - timedelta(days=40))


def leaf(serial: int) -> str:
    key = make_key("ecdsa-256", 9)
    return certificate_to_pem(make_certificate(common_name("leaf"), key, NAME, KEY, serial=serial))


def read(crl: bytes) -> dict[int, str]:
    """Return the reasons on a CRL by serial number, "" for none; its signature must be the CA's."""
    found = x509.load_der_x509_crl(crl)
    assert found.is_signature_valid(CA.public_key())  # type: ignore[arg-type]
    return {
        one.serial_number: next(iter([each.value.reason.value for each in one.extensions]), "")
        for one in found
    }


def number_of(crl: bytes) -> int:
    return x509.load_der_x509_crl(crl).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


async def until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + FOREVER_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def publishing(
    db: CertDB, clock: ManualClock | SystemClock, settings: CRLSettings | None = None
) -> AsyncIterator[CRLPublisher]:
    publisher = CRLPublisher(db, SIGNER, settings or CRLSettings(), clock)
    async with following(publisher):
        await until(lambda: publisher.complete is not None)
        yield publisher


@asynccontextmanager
async def following(publisher: CRLPublisher) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run())
    try:
        await asyncio.sleep(0)  # so that it has begun
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def listed(publisher: CRLPublisher) -> dict[int, str]:
    assert publisher.complete is not None
    return read(publisher.complete.der)


async def get(
    publisher: CRLPublisher, clock: ManualClock | SystemClock, path: str = "/crl", **headers: str
) -> Document:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await distribution_points(publisher, clock)[path].run(Call(path=path, headers=fields))
    assert isinstance(reply, Document)
    return reply


@EVERY_DRIVER
async def test_what_is_revoked_at_the_start_is_listed_and_nothing_else(certdb: CertDB) -> None:
    await certdb.insert_certificate(row(1, reason=0))
    await certdb.insert_certificate(row(2, reason=1))
    await certdb.insert_certificate(row(3))
    await certdb.insert_certificate(row(4, aki=OTHER, reason=1))
    await certdb.insert_certificate(row(5, reason=1, days=-30))
    async with publishing(certdb, SystemClock()) as publisher:
        assert listed(publisher) == {1: "", 2: "keyCompromise"}


@EVERY_DRIVER
async def test_a_revocation_by_anybody_is_listed_within_a_second(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    await certdb.insert_certificate(row(7))
    async with publishing(certdb, SystemClock()) as publisher:
        first = publisher.complete
        assert first is not None
        assert listed(publisher) == {}
        async with await open_certdb(migrated_db_config, SystemClock()) as writer:
            await writer.revoke_certificate(7, AKI, 4)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await until(lambda: publisher.complete is not first)
        assert listed(publisher) == {7: "superseded"}
        assert publisher.complete is not None
        assert publisher.complete.number > first.number
        assert loop.time() - begun < 10, "a second on a machine that does nothing else"


@EVERY_DRIVER
async def test_a_database_that_records_nothing_is_followed_too(migrated_db_config: DBConfig) -> None:
    async with await open_certdb(migrated_db_config, SystemClock()) as db:
        while await migrate.current_version(db) > 2:
            await migrate.down(db)  # to what CFSSL's goose leaves
        await db.insert_certificate(row(7))
        async with publishing(db, SystemClock()) as publisher:
            await db.insert_certificate(row(8))
            await db.revoke_certificate(7, AKI, 4)
            await until(lambda: listed(publisher) == {7: "superseded"})
            await db.release_certificate(7, AKI)
            await execute(migrated_db_config, "DELETE FROM certificates WHERE serial_number = '7'")
            await until(lambda: listed(publisher) == {})
            assert publisher.signed <= 4
            assert publisher.trouble == ""


async def test_a_restored_database_takes_nothing_off_the_crl(tmp_path: Path) -> None:
    config = DBConfig("sqlite3", str(tmp_path / "certs.db"))
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        await db.insert_certificate(row(7))
        await db.insert_certificate(row(8))
        shutil.copy(tmp_path / "certs.db", tmp_path / "backup.db")
        async with publishing(db, SystemClock()) as publisher:
            await db.revoke_certificate(7, AKI, 4)
            await until(lambda: 7 in listed(publisher))
            before = publisher.complete
            (tmp_path / "backup.db").replace(tmp_path / "certs.db")
            async with await open_certdb(config, SystemClock()) as writer:
                await writer.revoke_certificate(8, AKI, 1)
            await until(lambda: 8 in listed(publisher))
            assert publisher.complete is not before
            assert listed(publisher) == {7: "superseded", 8: "keyCompromise"}
            async with await open_certdb(config, SystemClock()) as writer:
                await writer.revoke_certificate(7, AKI, 6)
                await until(lambda: listed(publisher)[7] == "certificateHold")
                await writer.release_certificate(7, AKI)
            await until(lambda: listed(publisher) == {8: "keyCompromise"})


async def test_a_renewed_ca_certificate_takes_nothing_off_the_crl_either(tmp_path: Path) -> None:
    config = DBConfig("sqlite3", str(tmp_path / "certs.db"))
    renewed = CRLSigner(make_certificate(NAME, KEY, NAME, KEY, serial=2, ca=True), KEY)
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        await db.insert_certificate(row(7))
        await db.insert_certificate(row(8))
        shutil.copy(tmp_path / "certs.db", tmp_path / "backup.db")
        async with publishing(db, SystemClock()) as publisher:
            await db.revoke_certificate(7, AKI, 4)
            await until(lambda: 7 in listed(publisher))
            first = CRLPublisher(db, renewed, CRLSettings(), SystemClock(), predecessor=publisher)
            await db.revoke_certificate(8, AKI, 1)
            await until(lambda: 8 in listed(publisher))
        (tmp_path / "backup.db").replace(tmp_path / "certs.db")  # while nobody looks
        async with following(first):
            assert first.complete is publisher.complete, "what was published in the meantime"
            await until(lambda: first.complete is not publisher.complete)
            assert listed(first) == {7: "superseded", 8: "keyCompromise"}
        second = CRLPublisher(db, SIGNER, CRLSettings(), SystemClock(), predecessor=first)
        async with following(second):
            await until(lambda: second.complete is not first.complete)
            assert listed(second) == {7: "superseded", 8: "keyCompromise"}


async def test_issuing_does_not_sign_a_crl(certdb: CertDB) -> None:
    async with publishing(certdb, SystemClock()) as publisher:
        for serial in range(1, 20):
            await certdb.insert_certificate(row(serial))
        await certdb.insert_certificate(row(20, reason=1))
        await until(lambda: 20 in listed(publisher))
        assert publisher.signed <= 3


@EVERY_DRIVER
async def test_holds_are_released_on_the_complete_crl_and_in_deltas(certdb: CertDB) -> None:
    await certdb.insert_certificate(row(7))
    await certdb.insert_certificate(row(8, reason=1))
    async with publishing(certdb, SystemClock()) as publisher:
        assert publisher.complete is not None
        base = publisher.complete.number
        delta = await publisher.delta()
        assert delta is not None
        assert (read(delta.der), delta.base, delta.number) == ({}, base, base)
        await certdb.revoke_certificate(7, AKI, 6)
        await until(lambda: 7 in listed(publisher))
        delta = await publisher.delta()
        assert delta is not None
        assert (read(delta.der), delta.base) == ({7: "certificateHold"}, base)
        assert delta.number == publisher.complete.number
        assert await publisher.delta() is delta, "it is signed once"
        await certdb.release_certificate(7, AKI)
        await until(lambda: 7 not in listed(publisher))
        delta = await publisher.delta()
        assert delta is not None
        assert (read(delta.der), delta.base) == ({7: "removeFromCRL"}, base)
        assert listed(publisher) == {8: "keyCompromise"}


@EVERY_DRIVER
async def test_rows_in_any_spelling_count_and_revoked_wins(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    await certdb.insert_certificate(row(7))
    await certdb.insert_certificate(row(8, aki="", reason=1, pem=leaf(8)))  # Debian's CFSSL stores none
    await certdb.insert_certificate(row(9, aki="", reason=1, pem="not a certificate"))
    await certdb.insert_certificate(row(10, aki="", reason=1))
    insert = (
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
        "expiry, revoked_at, pem) SELECT '{serial}', '{aki}', ca_label, 'revoked', 4, expiry, expiry, pem "
        "FROM certificates WHERE serial_number = '7' AND ca_label = ''"
    )
    colons = ":".join(AKI[at : at + 2] for at in range(0, 40, 2)).upper()
    await execute(migrated_db_config, insert.format(serial="007", aki=AKI))
    await execute(migrated_db_config, insert.format(serial="11", aki=colons))
    await execute(migrated_db_config, insert.format(serial="12", aki=AKI.upper()))
    wanted = {7: "superseded", 8: "keyCompromise", 11: "superseded", 12: "superseded"}
    async with publishing(certdb, SystemClock()) as publisher:
        assert listed(publisher) == wanted
        await execute(migrated_db_config, insert.format(serial="0013", aki=AKI))
        await until(lambda: 13 in listed(publisher))
        await execute(migrated_db_config, "DELETE FROM certificates WHERE serial_number = '007'")
        await until(lambda: 7 not in listed(publisher))


@EVERY_DRIVER
async def test_of_several_revocations_the_first_counts(certdb: CertDB, migrated_db_config: DBConfig) -> None:
    await certdb.insert_certificate(row(7, reason=1))
    await execute(
        migrated_db_config,
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
        "expiry, revoked_at, pem) "
        "SELECT '07', authority_key_identifier, ca_label, 'revoked', 4, expiry, expiry, pem "
        "FROM certificates",
    )
    async with publishing(certdb, SystemClock()) as publisher:
        assert listed(publisher) == {7: "keyCompromise"}


async def test_an_expired_certificate_stays_on_one_regular_crl_and_then_goes(
    migrated_db_config: DBConfig,
) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        await db.insert_certificate(row(1, reason=1, days=1 / 48))
        await db.insert_certificate(row(2, reason=1))
        publisher = CRLPublisher(db, SIGNER, CRLSettings(validity=timedelta(hours=4)), clock)
        await publisher._read_all()
        assert set(listed(publisher)) == {1, 2}
        clock.advance(timedelta(hours=2))  # expired 1.5 hours ago; the regular CRL before was issued earlier
        assert publisher._is_due()
        await publisher._read_all()
        assert set(listed(publisher)) == {1, 2}
        clock.advance(timedelta(hours=1))
        assert not publisher._is_due()
        await publisher._sign()
        assert set(listed(publisher)) == {1, 2}
        clock.advance(timedelta(hours=1))
        assert publisher._is_due()
        await publisher._read_all()
        assert set(listed(publisher)) == {2}


@EVERY_DRIVER
async def test_a_row_that_is_deleted_after_it_expired_is_listed_once_more(
    migrated_db_config: DBConfig,
) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        await db.insert_certificate(row(1, reason=1, days=1 / 48))
        await db.insert_certificate(row(2, reason=1))
        async with publishing(db, clock, CRLSettings(validity=timedelta(hours=4))) as publisher:
            clock.advance(timedelta(hours=1))
            await execute(migrated_db_config, "DELETE FROM certificates")
            await until(lambda: set(listed(publisher)) == {1})
            for _ in range(2):
                clock.advance(timedelta(hours=2))
                before = publisher.complete
                await until(lambda before=before: publisher.complete is not before)  # type: ignore[misc]
            assert listed(publisher) == {}


async def test_numbers_and_this_update_do_not_go_back_with_the_clock(migrated_db_config: DBConfig) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        publisher = CRLPublisher(db, SIGNER, CRLSettings(), clock)
        await publisher._sign()
        first = publisher.complete
        clock.advance(timedelta(seconds=-20))
        await publisher._sign()
        second = publisher.complete
        assert first is not None
        assert second is not None
        assert second.number == first.number + 1
        assert second.this_update == first.this_update


async def test_a_clock_that_is_corrected_by_seconds_leads_to_no_crl(migrated_db_config: DBConfig) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        publisher = CRLPublisher(db, SIGNER, CRLSettings(), clock)
        await publisher._read_all()
        clock.advance(timedelta(seconds=-20))
        assert not publisher._is_due()
        clock.advance(timedelta(seconds=-60))
        assert publisher._is_due()


async def test_a_clock_that_was_wrong_takes_no_unexpired_certificate_off_the_crl(
    migrated_db_config: DBConfig,
) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        await db.insert_certificate(row(1, reason=1))
        publisher = CRLPublisher(db, SIGNER, CRLSettings(), clock)
        await publisher._read_all()
        for days in (60, 1):  # the second CRL of that time no longer has what seems to have expired
            clock.advance(timedelta(days=days))
            await publisher._read_all()
        assert listed(publisher) == {}
        clock.advance(timedelta(days=-61))
        assert publisher._is_due()
        await publisher._read_all()
        assert listed(publisher) == {1: "keyCompromise"}


async def test_a_database_that_is_away_leaves_the_last_crl_until_its_next_update(
    migrated_db_config: DBConfig, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        await db.insert_certificate(row(1, reason=1))
        async with publishing(db, clock) as publisher:
            await execute(migrated_db_config, "ALTER TABLE certificates RENAME TO away")
            await until(lambda: publisher.trouble != "")
            assert listed(publisher) == {1: "keyCompromise"}
            assert (await get(publisher, clock)).status == 200
            clock.advance(timedelta(days=7))
            reply = await get(publisher, clock)
            assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
            assert b"expired" in reply.body
            told = [record.message for record in caplog.records if "is served until" in record.message]
            assert len(told) == 1
            await execute(migrated_db_config, "ALTER TABLE away RENAME TO certificates")
            await until(lambda: publisher.trouble == "")
            assert (await get(publisher, clock)).status == 200


# -- HTTP ----------------------------------------------------------------------------------------


async def test_conditional_requests_get_304_only_for_the_present_crl(migrated_db_config: DBConfig) -> None:
    clock = ManualClock(NOW.replace(microsecond=300_000))
    async with await open_certdb(migrated_db_config, clock) as db:
        publisher = CRLPublisher(db, SIGNER, CRLSettings(), clock)
        assert (await get(publisher, clock)).status == 503
        await publisher._sign()
        reply = await get(publisher, clock)
        assert (reply.status, reply.content_type) == (200, "application/pkix-crl")
        assert "Last-Modified" not in reply.headers, "another may follow within this second"
        clock.advance(timedelta(seconds=1))
        reply = await get(publisher, clock)
        tag, modified = reply.headers["ETag"], reply.headers["Last-Modified"]
        for fields, status in (
            ({"If_None_Match": tag}, 304),
            ({"If_None_Match": f'"x", W/{tag}'}, 304),
            ({"If_None_Match": "*"}, 304),
            ({"If_None_Match": '"x"', "If_Modified_Since": modified}, 200),
            ({"If_Modified_Since": modified}, 304),
            ({"If_Modified_Since": "yesterday"}, 200),
            ({"If_Modified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
            ({"If_Modified_Since": "Mon, 01 Jan 2024 00:00:00 +9999999999999"}, 200),
            ({"If_Modified_Since": "9999999999 Jan 2024 00:00:00 GMT"}, 200),
            ({"If_Modified_Since": "Fri, 31 Dec 9999 23:59:59 GMT"}, 200),
        ):
            reply = await get(publisher, clock, **fields)
            assert (reply.status, reply.headers["ETag"]) == (status, tag), fields
            assert bool(reply.body) == (status == 200)
        # a client that got the CRL in the second in which the next one is signed
        await publisher._sign()
        assert (await get(publisher, clock, If_Modified_Since=modified)).status == 200
        assert (await get(publisher, clock, If_None_Match=tag)).status == 200


async def test_caches_keep_a_crl_no_longer_than_told_and_never_past_next_update(
    migrated_db_config: DBConfig,
) -> None:
    clock = ManualClock(NOW.replace(microsecond=0))
    async with await open_certdb(migrated_db_config, clock) as db:
        publisher = CRLPublisher(db, SIGNER, CRLSettings(max_age=timedelta(hours=2)), clock)
        await publisher._sign()
        reply = await get(publisher, clock)
        assert reply.headers["Cache-Control"] == "max-age=7200, public, no-transform, must-revalidate"
        clock.advance(timedelta(days=7) - timedelta(seconds=9))
        reply = await get(publisher, clock)
        assert reply.headers["Cache-Control"].startswith("max-age=9,")


async def test_the_delta_is_served_under_the_key_identifier(certdb: CertDB) -> None:
    settings = CRLSettings(delta_url="http://crl.example/delta.crl")
    async with publishing(certdb, SystemClock(), settings) as publisher:
        assert set(distribution_points(publisher, SystemClock())) == {
            "/crl",
            f"/crl/{AKI}.crl",
            f"/crl/{AKI}-delta.crl",
        }
        delta = await get(publisher, SystemClock(), f"/crl/{AKI}-delta.crl")
        found = x509.load_der_x509_crl(delta.body)
        assert found.extensions.get_extension_for_class(x509.DeltaCRLIndicator).critical
        with pytest.raises(x509.ExtensionNotFound):
            found.extensions.get_extension_for_class(x509.FreshestCRL)
        whole = x509.load_der_x509_crl((await get(publisher, SystemClock(), f"/crl/{AKI}.crl")).body)
        assert whole.extensions.get_extension_for_class(x509.FreshestCRL)


async def test_a_successor_for_the_same_ca_serves_the_crl_until_it_has_its_own(certdb: CertDB) -> None:
    async with publishing(certdb, SystemClock()) as publisher:
        renewed = CRLSigner(make_certificate(NAME, KEY, NAME, KEY, serial=2, ca=True), KEY)
        after = CRLPublisher(certdb, renewed, CRLSettings(), SystemClock(), predecessor=publisher)
        assert after.complete is publisher.complete
        key = make_key("ecdsa-256", 3)
        other = CRLSigner(make_certificate(NAME, key, NAME, key, serial=2, ca=True), key)
        after = CRLPublisher(certdb, other, CRLSettings(), SystemClock(), predecessor=publisher)
        assert after.complete is None


async def test_a_revocation_is_not_in_the_future(certdb: CertDB) -> None:
    late = replace(row(7, reason=1), revoked_at=NOW + timedelta(days=3))
    await certdb.insert_certificate(late)
    async with publishing(certdb, SystemClock()) as publisher:
        assert publisher.complete is not None
        crl = x509.load_der_x509_crl(publisher.complete.der)
        (one,) = crl
        assert NOW - timedelta(minutes=1) < one.revocation_date_utc <= crl.last_update_utc


# -- once ----------------------------------------------------------------------------------------


@EVERY_DRIVER
async def test_crl_has_the_unexpired_ones_of_this_ca_and_counts_the_others(certdb: CertDB) -> None:
    await certdb.insert_certificate(row(1, reason=0))
    await certdb.insert_certificate(row(2, reason=10))
    await certdb.insert_certificate(row(3))
    await certdb.insert_certificate(row(4, aki=OTHER, reason=1))
    await certdb.insert_certificate(row(5, reason=1, days=-0.1))

    async def here(work: Callable[[], bytes]) -> bytes:
        return work()

    made = await crl_of_database(certdb, SIGNER, timedelta(days=7), SystemClock(), here)
    assert read(made.der) == {1: "", 2: "aACompromise"}
    assert (made.foreign, made.unreadable) == (1, 0)
    again = await crl_of_database(certdb, SIGNER, timedelta(days=7), SystemClock(), here)
    assert number_of(again.der) >= number_of(made.der)
