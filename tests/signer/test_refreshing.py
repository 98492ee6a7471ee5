from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from ocspd._der import parse_response
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError, IndexFileError
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertificateRow
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.admin import SignerAdmin
from ocspd.signer.generations import Generations, due_for_merge
from ocspd.signer.refreshing import SignerDaemon
from ocspd.signer.signer_parts import RefreshSettings
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from ocspd._index import StoredResponse
    from ocspd.certdb.base import CertDB
    from ocspd.pki.ocsp import OCSPSigner

CLOCK = SystemClock()
CHAIN = make_chain()
SETTINGS = RefreshSettings(processes=1, pass_interval_s=3600, merge_interval_s=0.05, signers_interval_s=0.05)


class Signers:
    """A SignerSource whose next answer is set by the test."""

    def __init__(self, *signers: OCSPSigner) -> None:
        self.next: Sequence[OCSPSigner] | None = signers

    def load(self) -> Sequence[OCSPSigner] | None:
        signers, self.next = self.next, None
        return signers


def signer() -> OCSPSigner:
    return CHAIN.signer(clock=CLOCK)


def certificate(serial: int, aki: str) -> CertificateRow:
    now = datetime.now(UTC)
    return CertificateRow(
        serial=serial, aki=aki, pem="unused", expiry=now + timedelta(days=30), issued_at=now
    )


@contextlib.asynccontextmanager
async def refreshing(
    db: CertDB,
    path: Path,
    *signers: OCSPSigner,
    settings: RefreshSettings = SETTINGS,
    kind: type[Generations] = Generations,
) -> AsyncIterator[tuple[SignerDaemon, Generations]]:
    directory = IndexDirectory(path)
    with directory.lock():
        generations = kind(directory, CLOCK)
        refresher = SignerDaemon(
            db=db, source=Signers(*signers), generations=generations, clock=CLOCK, settings=settings
        )
        task = asyncio.create_task(refresher.run())
        ready = asyncio.create_task(refresher.ready.wait())
        await asyncio.wait([task, ready], timeout=120, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if task.done():
            task.result()
        try:
            yield refresher, generations
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def answer_in(path: Path, signer: OCSPSigner, serial: int, name: str = "sha1") -> StoredResponse | None:
    return IndexDirectory(path).open().lookup(name, *issuer_hashes(signer.issuer, name), serial)


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110  (what it waits for is another task's file)
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_the_first_pass_answers_every_certificate_under_every_hash(
    certdb: CertDB, tmp_path: Path
) -> None:
    ours = signer()
    for serial in range(1, 30):
        await certdb.insert_certificate(certificate(serial, ours.aki))
    await certdb.insert_certificate(certificate(99, "ab" * 20))
    async with refreshing(certdb, tmp_path / "index", ours) as (refresher, _):
        for serial in range(1, 30):
            for name in ("sha1", "sha256"):
                found = answer_in(tmp_path / "index", ours, serial, name)
                assert found is not None
                assert parse_response(found.der).serial == serial
        assert refresher.stats.foreign == 1
        assert refresher.stats.responses == 58


async def test_a_revocation_and_a_new_certificate_are_answered_through_the_feed(
    certdb: CertDB, tmp_path: Path
) -> None:
    ours = signer()
    path = tmp_path / "index"
    await certdb.insert_certificate(certificate(7, ours.aki))
    async with refreshing(certdb, path, ours) as (refresher, _):
        found = answer_in(path, ours, 7)
        assert found is not None
        assert found.status == 0
        await certdb.revoke_certificate(7, ours.aki, 4)
        await certdb.insert_certificate(certificate(8, ours.aki))
        await until(lambda: refresher.stats.changes >= 2, "both changes are answered")
        found = answer_in(path, ours, 7, "sha256")
        assert found is not None
        response = parse_response(found.der)
        assert (response.status, response.reason) == (1, 4)
        found = answer_in(path, ours, 8)
        assert found is not None
        assert found.status == 0
        manifest = IndexDirectory(path).manifest()
        assert manifest is not None
        assert len(manifest.changes) == 2
        assert all(abs(moment - CLOCK.now().timestamp()) < 20 for _, moment in manifest.changes)
        assert refresher.stats.publish_latency_s.total() == 2


async def test_a_second_run_signs_nothing_that_is_fresh_and_misses_nothing(
    certdb: CertDB, tmp_path: Path
) -> None:
    ours = signer()
    path = tmp_path / "index"
    for serial in range(1, 20):
        await certdb.insert_certificate(certificate(serial, ours.aki))
    async with refreshing(certdb, path, ours):
        pass
    await certdb.revoke_certificate(5, ours.aki, 1)
    await certdb.insert_certificate(certificate(50, ours.aki))
    async with refreshing(certdb, path, ours) as (refresher, _):
        await until(lambda: refresher.stats.changes >= 2, "what changed meanwhile is answered")
        found = answer_in(path, ours, 5)
        assert found is not None
        assert found.status == 1
        assert answer_in(path, ours, 50) is not None
        # the two changes, by the feed and at most once more by the pass that ran beside it
        assert refresher.stats.responses <= 8


@pytest.mark.parametrize(
    "damage",
    [
        '{"database": DB, "cursor": {"id": 1' + "0" * 400 + "}}",
        '{"database": DB, "cursor": {"id": -1}}',
        '{"database": DB, "cursor": {"id": true}}',
        '{"database": DB, "cursor": {"id": NaN}}',
        '{"database": DB, "cursor": {"id": "x"}}',
        '{"database": DB, "cursor": {"seen": "x", "source": "y"}}',
        '{"database": DB, "cursor": {"seen": [[]], "source": {}}}',
        '{"database": DB, "cursor": []}',
        '{"database": DB, "database": DB, "cursor": {}}',
        '{"database": DB}',
        "[" * 100_000,
        "\x00",
    ],
    ids=lambda text: text[16:50],
)
async def test_S6_a_state_that_somebody_has_damaged_costs_a_pass_and_nothing_else(
    certdb: CertDB, tmp_path: Path, damage: str
) -> None:
    ours = signer()
    await certdb.insert_certificate(certificate(1, ours.aki))
    async with refreshing(certdb, tmp_path / "index", ours):
        pass
    state = tmp_path / "index" / "signer.json"
    state.write_text(damage.replace("DB", json.dumps(certdb.name)))
    await certdb.revoke_certificate(1, ours.aki, 1)
    async with refreshing(certdb, tmp_path / "index", ours) as (refresher, _):
        found = answer_in(tmp_path / "index", ours, 1)
        assert found is not None
        assert found.status == 1
        await until(lambda: refresher.stats.health.up("database"), "the database is said to be up")


async def test_many_small_changes_are_merged_and_none_is_lost(certdb: CertDB, tmp_path: Path) -> None:
    ours = signer()
    path = tmp_path / "index"
    async with refreshing(certdb, path, ours) as (refresher, generations):
        for serial in range(1, 41):
            await certdb.insert_certificate(certificate(serial, ours.aki))
            await until(lambda serial=serial: refresher.stats.changes >= serial, "answered")  # type: ignore[misc]
        assert len(generations.segments) <= 2
        for serial in range(1, 41):
            assert answer_in(path, ours, serial) is not None


class BadSigners(Signers):
    """Cannot be used but for the first time, until the test says so."""

    def load(self) -> Sequence[OCSPSigner] | None:
        if self.next is None:
            raise ConfigError("responder-key.pem: is not the key")
        return super().load()


async def test_looking_now_does_not_wait_for_the_end_of_a_pause(
    certdb: CertDB, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = signer()
    source = BadSigners(ours)
    directory = IndexDirectory(tmp_path / "index")
    with directory.lock():
        refresher = SignerDaemon(
            db=certdb,
            source=source,
            generations=Generations(directory, CLOCK),
            clock=CLOCK,
            settings=replace(SETTINGS, retry_s=(3600.0, 3600.0)),
        )
        task = asyncio.create_task(refresher.run())
        await until(lambda: not refresher.stats.health.up("keys"), "the bad key is seen")
        source.next = [ours]
        refresher.check_now()
        await until(lambda: refresher.stats.health.up("keys"), "the good one is taken")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert "still using the previous signers" in caplog.text


async def test_a_manifest_that_is_removed_comes_back_during_a_merge(certdb: CertDB, tmp_path: Path) -> None:
    class Merging(Generations):
        async def merge(self) -> bool:
            await asyncio.sleep(3600)
            return False

    path = tmp_path / "index"
    async with refreshing(certdb, path, signer(), kind=Merging) as (refresher, generations):
        admin = SignerAdmin(refresher, generations)
        (path / "manifest.json").unlink()
        await until((path / "manifest.json").exists, "published again")
        assert await readyz(admin) == (200, "ok")
        refresher.stats.health.failed(IndexFileError("disk full"), "guard", "index")
        assert await readyz(admin) == (503, "the index cannot be written")
        (path / "manifest.json").unlink()
        await until(lambda: refresher.stats.health.up("index"), "the index could be written")
        assert await readyz(admin) == (200, "ok")


async def readyz(admin: SignerAdmin) -> tuple[int, str | None]:
    response = await admin(make_mocked_request("GET", "/readyz"))
    assert isinstance(response, web.Response)
    return response.status, (response.text or "").partition("\n")[0]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_replaced_responder_is_taken_over_without_restart(
    certdb: CertDB, tmp_path: Path, *, asked: bool
) -> None:
    ours = signer()
    path = tmp_path / "index"
    await certdb.insert_certificate(certificate(1, ours.aki))
    source = Signers(ours)
    directory = IndexDirectory(path)
    with directory.lock():
        refresher = SignerDaemon(
            db=certdb,
            source=source,
            generations=Generations(directory, CLOCK),
            clock=CLOCK,
            settings=replace(SETTINGS, signers_interval_s=3600) if asked else SETTINGS,
        )
        task = asyncio.create_task(refresher.run())
        await asyncio.wait_for(refresher.ready.wait(), 20)
        source.next = [CHAIN.signer(clock=CLOCK, certid_hashes=("sha1", "sha256", "sha384"))]
        if asked:
            refresher.check_now()
        await until(lambda: answer_in(path, ours, 1, "sha384") is not None, "an answer of the new signer")
        await until(lambda: refresher.stats.passes == 2, "the pass is over")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("entries", "merged"),
    [
        ([], 0),
        ([5], 1),
        ([5, 8], 2),
        ([5, 100], 1),
        ([5, 8, 20, 1000], 3),
        ([1] * 5 + [1000, 900], 5),
        ([10, 1000, 500, 600, 10**4, 9000, 8000], 4),
    ],
)
def test_only_neighbours_of_like_size_are_merged(entries: list[int], merged: int) -> None:
    from ocspd.index.manifest import SegmentRef

    refs = [
        SegmentRef(sha256=f"{number:064x}", size_bytes=1, entries=count, created_at=0)
        for number, count in enumerate(entries)
    ]
    assert len(due_for_merge(refs)) == merged
