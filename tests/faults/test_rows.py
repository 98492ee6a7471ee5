"""Never good after revoked, whatever rows there are: D5, D6, D9 and D10 through the daemon's own loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from ocspd._der import parse_response
from ocspd.authority.revoking import revoke
from ocspd.clock import ManualClock, SystemClock
from ocspd.model import OCSPRow
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy
from tests.certdb.raw import execute, fetch
from tests.faults.daemon import SETTINGS, Rows, signing
from tests.faults.oracle import Oracle
from tests.pki.chain import NOW, common_name, make_certificate, make_chain, pem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB
    from ocspd.model import CertStatus, StatusRow

CHAIN, OTHER = make_chain(), make_chain(name="Other CA", number=1)
SIGNER, OTHER_SIGNER = CHAIN.signer(clock=SystemClock()), OTHER.signer(clock=SystemClock())
AKI, OTHER_AKI = SIGNER.aki, OTHER_SIGNER.aki
COLONS = ":".join(AKI[at : at + 2] for at in range(0, len(AKI), 2)).upper()
GOOD, REVOKED, UNKNOWN = 0, 1, 2
LEAF = pem(CHAIN.issue(7)).decode()
PAIRS = [
    (("7", AKI), ("7", AKI.upper())),
    (("7", AKI), ("7", COLONS)),
    (("7", AKI), ("7", "")),
    (("7", AKI), ("7", "the CA of the first floor")),
    (("7", AKI), ("07", AKI)),
    (("7", AKI), ("0007", COLONS)),
    (("7", AKI.upper()), ("07", "")),
    (("7", ""), ("007", "")),
]


@pytest.mark.parametrize("revoked_first", [True, False])
@pytest.mark.parametrize("pair", PAIRS, ids=[f"{one}-{other}"[:60] for one, other in PAIRS])
async def test_D9_of_two_rows_the_revoked_one_counts_in_every_pass(
    certdb: CertDB,
    migrated_db_config: DBConfig,
    tmp_path: Path,
    pair: tuple[tuple[str, str], tuple[str, str]],
    *,
    revoked_first: bool,
) -> None:
    rows = Rows(migrated_db_config)
    oracle = Oracle([CHAIN.ca], 0.0)
    await rows.insert("8", AKI)
    for key, revoked in zip(pair, (revoked_first, not revoked_first), strict=True):
        await rows.insert(*key, "revoked" if revoked else "good", pem=LEAF)
    oracle.committed(0, 7, ["good", "revoked"])
    async with signing(certdb, tmp_path / "index", SIGNER, oracle=oracle) as signer:
        for _ in range(2):
            assert (signer.status(7), signer.status(8)) == (REVOKED, GOOD)
            await signer.another_pass()
        assert signer.status(7) == REVOKED
        assert oracle.unanswered() == []


@pytest.mark.parametrize("pair", PAIRS[::3], ids=[f"{one}-{other}"[:60] for one, other in PAIRS[::3]])
async def test_D9_of_two_rows_the_revoked_one_counts_in_the_feed(
    certdb: CertDB,
    migrated_db_config: DBConfig,
    tmp_path: Path,
    pair: tuple[tuple[str, str], tuple[str, str]],
) -> None:
    rows = Rows(migrated_db_config)
    async with signing(certdb, tmp_path / "index", SIGNER) as signer:
        for one, other in (pair, pair[::-1]):
            with signer.oracle.committing(0, 7, ["good"]):
                await rows.insert(*one, pem=LEAF)
            await signer.until(lambda: signer.status(7) == GOOD, "the certificate is good")
            with signer.oracle.committing(0, 7, ["good", "revoked"]):
                await rows.insert(*other, "revoked", pem=LEAF)
            await signer.until(lambda: signer.status(7) == REVOKED, "the second row counts")
            # a change of the row that says good makes nothing good
            await rows.set(*one, "reason = 3")
            await rows.insert("9", AKI)
            await signer.until(lambda: signer.status(9) == GOOD, "all is answered")
            assert signer.status(7) == REVOKED
            await signer.another_pass()
            assert signer.status(7) == REVOKED
            # and without the revoked row it is what the other one says
            with signer.oracle.committing(0, 7, ["good"]):
                await rows.delete(*other)
            await signer.until(lambda: signer.status(7) == GOOD, "good again")
            for key in (one, ("9", AKI)):
                await rows.delete(*key)
            signer.oracle.committed(0, 7, [])
            await signer.until(lambda: signer.status(7) == UNKNOWN == signer.status(9), "gone")


@pytest.mark.parametrize("pair", PAIRS[::2], ids=[f"{one}-{other}"[:60] for one, other in PAIRS[::2]])
async def test_D9_a_revoked_row_counts_although_it_has_expired_and_another_has_not(
    certdb: CertDB,
    migrated_db_config: DBConfig,
    tmp_path: Path,
    pair: tuple[tuple[str, str], tuple[str, str]],
) -> None:
    rows = Rows(migrated_db_config)
    for number, (live, expired) in enumerate((pair, pair[::-1])):
        await rows.insert(*live, pem=LEAF)
        await rows.insert(*expired, "revoked", pem=LEAF, days=-3)
        async with signing(certdb, tmp_path / f"index{number}", SIGNER) as signer:
            assert signer.status(7) == REVOKED, "in the first pass"
            await rows.set(*live, "reason = 3")
            await rows.insert("9", AKI)
            await signer.until(lambda: signer.status(9) == GOOD, "all is answered")
            assert signer.status(7) == REVOKED, "in the feed"
            await signer.another_pass()
            assert signer.status(7) == REVOKED, "in another pass"
        for key in (live, expired, ("9", AKI)):
            await rows.delete(*key)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("delete", UNKNOWN),
        ("unknown", UNKNOWN),
        ("Revoked?", UNKNOWN),
        ("", UNKNOWN),
        ("revoked", REVOKED),
    ],
)
async def test_D6_what_is_no_longer_good_is_not_called_good(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, change: str, status: int
) -> None:
    rows = Rows(migrated_db_config)
    await rows.insert("7", AKI)
    await rows.insert("8", AKI)
    async with signing(certdb, tmp_path / "index", SIGNER) as signer:
        assert signer.status(7) == GOOD
        with signer.oracle.committing(0, 7, [] if change == "delete" else [change]):
            if change == "delete":
                await rows.delete("7", AKI)
            else:
                await rows.says("7", AKI, change)
        await signer.until(lambda: signer.status(7) == status, f"{change} is answered")
        await signer.another_pass()
        assert (signer.status(7), signer.status(8)) == (status, GOOD)
        # a row that is good again is good
        with signer.oracle.committing(0, 7, ["good"]):
            if change == "delete":
                await rows.insert("7", AKI)
            else:
                await rows.says("7", AKI, "good")
        await signer.until(lambda: signer.status(7) == GOOD, "good again")


async def test_D6_a_row_deleted_while_nobody_followed_is_found_by_the_next_start(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path
) -> None:
    rows = Rows(migrated_db_config)
    for serial in range(1, 30):
        await rows.insert(str(serial), AKI)
    path = tmp_path / "index"
    async with signing(certdb, path, SIGNER):
        pass
    await rows.delete("7", AKI)
    (path / "signer.json").unlink()  # the position in the feed is lost, and with it the deletion
    async with signing(certdb, path, SIGNER) as signer:
        assert {serial for serial in range(1, 30) if signer.status(serial) != GOOD} == {7}
        assert signer.status(7) == UNKNOWN


@pytest.mark.parametrize(
    "what",
    ["9999-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+08", "12345-01-01 00:00:00+00", "0044-03-15 BC"],
)
async def test_D5_a_revocation_at_an_impossible_time_is_a_revocation(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, what: str
) -> None:
    rows = Rows(migrated_db_config)
    for serial in "789":
        await rows.insert(serial, AKI)
    await rows.insert("10", AKI, "revoked")
    await rows.set("10", AKI, f"revoked_at = '{what}'")
    async with signing(certdb, tmp_path / "index", SIGNER) as signer:
        assert signer.status(10) == REVOKED
        await rows.set("7", AKI, f"status = {rows.text('revoked')}, revoked_at = '{what}'")
        with signer.oracle.committing(0, 8, ["revoked"]):
            await rows.says("8", AKI, "revoked")
        await signer.until(lambda: signer.status(7) == REVOKED == signer.status(8), "both are revoked")
        await signer.another_pass()
        assert [signer.status(serial) for serial in (7, 8, 9, 10)] == [REVOKED, REVOKED, GOOD, REVOKED]


async def test_D5_a_row_nobody_can_answer_for_holds_nobody_up(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path
) -> None:
    rows = Rows(migrated_db_config)
    poison = ["9" * 155, "9" * 156, "9" * 5000, "seven", "-1", "", "0x7"]
    for serial in poison[::2]:
        await rows.insert(serial, AKI)
    await rows.insert("7", AKI)
    async with signing(certdb, tmp_path / "index", SIGNER) as signer:
        skipped = signer.refresher.stats.skipped.total()
        assert skipped == len(poison[::2])
        for serial in poison[1::2]:
            await rows.insert(serial, AKI, "revoked")
        with signer.oracle.committing(0, 7, ["revoked"]):
            await rows.says("7", AKI, "revoked")
        await signer.until(lambda: signer.status(7) == REVOKED, "the revocation behind them is answered")
        await signer.another_pass()
        assert signer.refresher.stats.skipped.total() == len(poison)
        assert all(signer.refresher.stats.health.up(part) for part in ("database", "index", "keys"))


def expired_signer() -> OCSPSigner:
    """Make the signer of the other CA whose responder certificate has just expired."""
    responder = make_certificate(
        common_name("OCSP of Other CA"),
        OTHER.responder_key,
        OTHER.ca.subject,
        OTHER.ca_key,
        serial=3,
        ocsp=True,
        start=NOW - timedelta(days=2),
        days=-0.01,
    )
    return OCSPSigner(
        OTHER.ca, responder, OTHER.responder_key, SigningPolicy(), ManualClock(NOW - timedelta(days=1))
    )


@pytest.mark.parametrize("processes", [1, 2])
async def test_D10_an_expired_signer_holds_up_the_certificates_of_its_own_issuer_only(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, processes: int
) -> None:
    rows = Rows(migrated_db_config)
    for serial in range(1, 600 if processes > 1 else 10):
        await rows.insert(str(serial), AKI)
        if serial < 10:
            await rows.insert(str(serial), OTHER_AKI)
    settings = SETTINGS if processes == 1 else replace(SETTINGS, processes=2)
    async with signing(certdb, tmp_path / "index", SIGNER, expired_signer(), settings=settings) as signer:
        stats = signer.refresher.stats
        assert (signer.status(7), signer.status(7, 1)) == (GOOD, None)
        assert list(stats.failing) == [OTHER_SIGNER.subject]
        assert stats.skipped["signer fails"] == 9
        await rows.says("8", OTHER_AKI, "revoked")
        with signer.oracle.committing(0, 7, ["revoked"]):
            await rows.says("7", AKI, "revoked")
        await signer.until(lambda: signer.status(7) == REVOKED, "the other issuer's revocation")
        assert all(stats.health.up(part) for part in ("database", "index", "keys", "processes"))
        signer.source.next = [SIGNER, OTHER_SIGNER]
        await signer.until(lambda: signer.status(8, 1) == REVOKED, "what was owed is answered")
        await signer.until(lambda: signer.status(7, 1) == GOOD, "and all others")
        assert stats.failing == {}


async def test_one_key_under_two_names_is_answered_under_both(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path
) -> None:
    renamed = make_certificate(
        common_name("Example CA, renamed"), CHAIN.ca_key, CHAIN.ca.subject, CHAIN.ca_key, serial=5, ca=True
    )
    second = OCSPSigner(renamed, renamed, CHAIN.ca_key, SigningPolicy(), SystemClock())
    assert second.aki == AKI
    rows = Rows(migrated_db_config)
    await rows.insert("7", AKI)
    async with signing(certdb, tmp_path / "index", SIGNER, second) as signer:
        assert (signer.status(7), signer.status(7, 1)) == (GOOD, GOOD)
        await rows.says("7", AKI, "revoked")
        await signer.until(lambda: signer.status(7) == REVOKED == signer.status(7, 1), "under both")


@pytest.mark.parametrize("aki", [None, AKI, COLONS], ids=["no aki", "plain", "colons"])
async def test_D9_every_row_of_a_certificate_is_revoked_held_and_released_in_its_own_spelling(
    certdb: CertDB, migrated_db_config: DBConfig, aki: str | None
) -> None:
    rows = Rows(migrated_db_config)
    for key in (("7", AKI), ("07", AKI.upper()), ("7", COLONS), ("0007", AKI), ("8", AKI), ("7", OTHER_AKI)):
        if aki is not None or key[1] != OTHER_AKI:
            await rows.insert(*key)

    async def says() -> tuple[set[CertStatus], set[CertStatus]]:
        found = await certdb.find_statuses([7, 8])
        ours = {row.status for row in found if row.serial == 7 and row.aki != OTHER_AKI}
        return ours, {row.status for row in found if row.serial == 8 or row.aki == OTHER_AKI}

    for reason, status in (("certificateHold", REVOKED), ("removeFromCRL", GOOD), ("keyCompromise", REVOKED)):
        assert not await revoke(certdb, serial_text="7", aki=aki, reason=reason)
        assert await says() == ({status}, {GOOD})
    # what is revoked stays as it is, in every row
    assert "already revoked" in await revoke(certdb, serial_text="7", aki=aki, reason="superseded")
    assert {row.reason for row in await certdb.find_statuses([7]) if row.status} == {1}


async def stored(config: DBConfig) -> dict[str, int]:
    """Return the statuses in `ocsp_responses`, by serial number."""
    query = "SELECT serial_number, {} FROM ocsp_responses"
    body = "body" if config.driver == "postgres" else "CAST(body AS BLOB)"
    return {
        serial.decode() if isinstance(serial, bytes) else serial: parse_response(bytes(body)).status
        for serial, body in await fetch(config, query.format(body))
    }


async def test_the_table_has_what_changes_say_and_a_pass_mends_it(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path
) -> None:
    rows = Rows(migrated_db_config)
    for serial in ("7", "8", "9"):
        await rows.insert(serial, AKI)
    await rows.insert("09", AKI.upper(), "revoked")
    settings = replace(SETTINGS, table=True)
    async with signing(certdb, tmp_path / "index", SIGNER, settings=settings) as signer:
        wanted = {"7": GOOD, "8": GOOD, "9": REVOKED, "09": REVOKED}
        assert await stored(migrated_db_config) == wanted
        answer = signer.answer(7)
        assert answer is not None
        await rows.says("7", AKI, "revoked")
        await signer.until(lambda: signer.status(7) == REVOKED, "the index says revoked")
        await signer.until(lambda: signer.refresher.stats.changes == 1, "the change is done with")
        assert await stored(migrated_db_config) == {**wanted, "7": REVOKED}
        # somebody puts back what was there, and takes another away
        (row,) = [row for row in await certdb.find_statuses([7]) if row.key is None]
        await certdb.upsert_ocsp([OCSPRow(serial=7, aki=AKI, body=answer.der, expiry=row.expiry)])
        await rows_of_table_without(migrated_db_config, "8")
        assert (await stored(migrated_db_config)) == {"7": GOOD, "9": REVOKED, "09": REVOKED}
        before = signer.refresher.stats.responses
        await signer.another_pass()
        assert await stored(migrated_db_config) == {**wanted, "7": REVOKED}
        assert signer.refresher.stats.responses == before, "nothing had to be signed for it"


class HeldUp:
    """A certdb whose pass has read the rows and waits before it does anything with them."""

    def __init__(self, db: CertDB) -> None:
        self._db = db
        self.has_read = asyncio.Event()
        self.may_go_on = asyncio.Event()
        # Since CPython 3.12 isinstance() of a protocol does not ask __getattr__.
        for name in dir(db):
            if not name.startswith("_") and not hasattr(type(self), name) and callable(getattr(db, name)):
                setattr(self, name, getattr(db, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def stream_status(self) -> AsyncIterator[list[StatusRow]]:
        async for rows in self._db.stream_status():
            self.has_read.set()
            await self.may_go_on.wait()
            yield rows


@pytest.mark.parametrize("first", [True, False], ids=["first pass", "later pass"])
async def test_a_pass_does_not_take_back_what_a_change_has_written_to_the_table(
    certdb: CertDB,
    migrated_db_config: DBConfig,
    tmp_path: Path,
    first: bool,  # noqa: FBT001  (a parameter)
) -> None:
    rows = Rows(migrated_db_config)
    for serial in ("7", "8", "9"):
        await rows.insert(serial, AKI)
    settings = replace(SETTINGS, table=True)
    if not first:
        async with signing(certdb, tmp_path / "index", SIGNER, settings=settings):
            pass
        await rows_of_table_without(migrated_db_config, "7")  # the pass would write it again
    held = HeldUp(certdb)
    async with signing(
        cast("CertDB", held), tmp_path / "index", SIGNER, settings=settings, wait=False
    ) as signer:
        await asyncio.wait_for(held.has_read.wait(), 60)
        await rows.says("7", AKI, "revoked")
        await signer.until(lambda: signer.refresher.stats.changes == 1, "the change is answered")
        held.may_go_on.set()
        await signer.until(signer.refresher.ready.is_set, "the pass")
        wanted = {"7": REVOKED, "8": GOOD, "9": GOOD}
        assert await stored(migrated_db_config) == wanted
        assert signer.status(7) == REVOKED
        await signer.another_pass()
        assert await stored(migrated_db_config) == wanted


async def rows_of_table_without(config: DBConfig, serial: str) -> None:
    await execute(config, f"DELETE FROM ocsp_responses WHERE serial_number = {Rows(config).text(serial)}")


async def test_signing_again_replaces_every_response_and_a_replaced_key_alone_none(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows(migrated_db_config)
    for serial in range(1, 20):
        await rows.insert(str(serial), AKI)
    caplog.set_level("INFO", "ocspd")
    path = tmp_path / "index"
    async with signing(certdb, path, SIGNER) as signer:
        before = {serial: signer.answer(serial) for serial in range(1, 20)}
        signer.source.next = [CHAIN.signer(clock=SystemClock(), direct=True)]
        await signer.until(lambda: signer.refresher.stats.passes == 2, "the pass after the exchange")
        assert all(_der(signer.answer(serial)) == _der(before[serial]) for serial in before)
        assert "stay until they are due" in caplog.text
        passes = signer.refresher.stats.passes
        signer.refresher.sign_again()
        await signer.until(lambda: signer.refresher.stats.passes > passes, "the pass that signs again")
        answers = [parse_response(_der(signer.answer(serial))) for serial in before]
        assert not any(answer.certificates for answer in answers)
        made = signer.refresher.stats.responses
        await signer.another_pass()
        assert signer.refresher.stats.responses == made


def _der(answer: object) -> bytes:
    return answer.der  # type: ignore[attr-defined, no-any-return]
