"""A request that comes again with the same Idempotency-Key gets the same certificate."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ocspd.authority.issuing import Authority, Shared
from ocspd.authority.once import REMEMBERED, BadKeyError, Once, OtherRequestError
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import ManualClock, SystemClock
from ocspd.errors import Code, CodedError
from ocspd.pki.certs import load_certificate
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.keys import load_private_key
from ocspd.pki.profiles import default_config
from tests.authority.api import make_backend, serving
from tests.authority.cfssl import AUTH_KEY
from tests.authority.test_api import PREFIX
from tests.certdb import raw
from tests.pki.chain import common_name, make_certificate, make_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ocspd.authority.storage import SignedCertificate
    from ocspd.certdb.base import CertDB

NOW = datetime(2026, 5, 4, 3, 2, 31, tzinfo=UTC)
KEY = Once.of("a-key", "sign", b"body")


def server(material: Path, db: CertDB | None, clock: ManualClock, **hooks: Any) -> Authority:
    """What one server has: its own memory, the same database."""
    issuer = Issuer(
        load_certificate((material / "ca.pem").read_bytes()),
        load_private_key((material / "ca-key.pem").read_bytes()),
        default_config(),
        clock,
    )
    return Authority(issuer, db, clock, shared=Shared(db, clock, **hooks))


def request(material: Path) -> SignRequest:
    return SignRequest(csr_pem=(material / "leaf.csr").read_text())


async def count(config: DBConfig, table: str = "certificates") -> int:
    ((number,),) = await raw.fetch(config, f"SELECT count(*) FROM {table}")
    return int(number)


async def test_the_same_key_is_the_same_certificate_also_after_a_restart(
    migrated_db_config: DBConfig, material: Path
) -> None:
    clock = ManualClock(NOW)
    got: list[SignedCertificate] = []
    for _ in range(2):
        async with await open_certdb(migrated_db_config, clock) as db:
            ours = server(material, db, clock)
            got += [await ours.sign(request(material), KEY) for _ in range(2)]
    assert len({each.cert_pem for each in got}) == 1
    assert [each.again for each in got] == [False, True, True, True]
    assert await count(migrated_db_config) == 1


async def test_another_request_with_the_same_key_is_refused(
    migrated_db_config: DBConfig, material: Path
) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        ours = server(material, db, clock)
        await ours.sign(request(material), KEY)
        for other in (Once.of("a-key", "sign", b"other"), Once.of("a-key", "authsign", b"body")):
            with pytest.raises(OtherRequestError, match="another request"):
                await ours.sign(request(material), other)
        racing = await asyncio.gather(
            ours.sign(request(material), Once.of("new", "sign", b"1")),
            ours.sign(request(material), Once.of("new", "sign", b"2")),
            return_exceptions=True,
        )
    assert sum(isinstance(each, OtherRequestError) for each in racing) == 1
    assert await count(migrated_db_config) == 2


async def test_another_ca_on_the_same_database_returns_no_certificate_of_the_first(
    migrated_db_config: DBConfig, material: Path
) -> None:
    clock = ManualClock(NOW)
    name, key = common_name("Another CA"), make_key("rsa-2048")
    other = Issuer(make_certificate(name, key, name, key, serial=9, ca=True), key, default_config(), clock)
    async with await open_certdb(migrated_db_config, clock) as db:
        first = await server(material, db, clock).sign(request(material), KEY)
        theirs = Authority(other, db, clock)
        with pytest.raises(OtherRequestError, match="by another CA"):
            await theirs.sign(request(material), KEY)
        assert (await server(material, db, clock).sign(request(material), KEY)).cert_pem == first.cert_pem
        signed = await theirs.sign(request(material), Once.of("another", "sign", b"body"))
        assert (await theirs.sign(request(material), Once.of("another", "sign", b"body"))).again
        assert signed.aki != first.aki
    assert await count(migrated_db_config) == 2


async def test_one_that_comes_while_the_first_is_worked_on_waits_for_it(
    migrated_db_config: DBConfig, material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ocspd")
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        ours = server(material, db, clock)
        got = await asyncio.gather(*(ours.sign(request(material), KEY) for _ in range(20)))
    assert len({each.cert_pem for each in got}) == 1
    assert caplog.text.count("signed certificate") == 1
    assert await count(migrated_db_config) == 1


async def test_two_servers_that_both_sign_return_the_one_certificate_that_is_stored(
    migrated_db_config: DBConfig, material: Path
) -> None:
    clock = ManualClock(NOW)
    told: list[int] = []

    class Journal:
        async def signed(self, certificates: Sequence[SignedCertificate]) -> None:
            pass

        async def unstored(self, failures: Sequence[tuple[SignedCertificate, Exception]]) -> None:
            told.extend(certificate.serial for certificate, _ in failures)

    async with (
        await open_certdb(migrated_db_config, clock) as first,
        await open_certdb(migrated_db_config, clock) as second,
    ):
        servers = [server(material, db, clock, journal=Journal()) for db in (first, second)]
        for number in range(8):
            key = Once.of(f"key {number}".replace(" ", "-"), "sign", b"body")
            got = await asyncio.gather(*(each.sign(request(material), key) for each in servers))
            assert got[0].cert_pem == got[1].cert_pem
            assert got[0].serial not in told
    assert await count(migrated_db_config) == 8
    assert await count(migrated_db_config, "ocspd_answers") == 8


async def test_a_request_that_failed_is_not_remembered(migrated_db_config: DBConfig, material: Path) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        ours = server(material, db, clock)
        with pytest.raises(CodedError):
            await ours.sign(SignRequest(csr_pem="nonsense"), KEY)
        assert not (await ours.sign(request(material), KEY)).again


async def test_a_key_is_forgotten_after_a_day(migrated_db_config: DBConfig, material: Path) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        ours = server(material, db, clock)
        first = await ours.sign(request(material), KEY)
        await ours.sign(request(material), Once.of("other", "sign", b"body"))
        clock.advance(REMEMBERED - timedelta(seconds=1))
        assert (await ours.sign(request(material), KEY)).serial == first.serial
        clock.advance(timedelta(seconds=1))
        second = await ours.sign(request(material), KEY)
        assert (second.again, second.serial == first.serial) == (False, False)
        assert await count(migrated_db_config, "ocspd_answers") == 2
        assert await db.trim_answers() == 1
    assert await count(migrated_db_config, "ocspd_answers") == 1


async def test_who_leaves_early_may_come_again(migrated_db_config: DBConfig, material: Path) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        ours = server(material, db, clock)
        first = asyncio.create_task(ours.sign(request(material), KEY))
        await asyncio.sleep(0)
        first.cancel()
        again = await ours.sign(request(material), KEY)
        assert (await ours.sign(request(material), KEY)).serial == again.serial
    assert await count(migrated_db_config) == 1


async def test_a_certificate_that_was_deleted_is_not_issued_again(
    migrated_db_config: DBConfig, material: Path
) -> None:
    clock = ManualClock(NOW)
    async with await open_certdb(migrated_db_config, clock) as db:
        ours = server(material, db, clock)
        await ours.sign(request(material), KEY)
        await raw.execute(migrated_db_config, "DELETE FROM certificates")
        with pytest.raises(OtherRequestError, match="no longer in the database"):
            await ours.sign(request(material), KEY)


async def test_without_a_database_a_key_is_refused(material: Path) -> None:
    with pytest.raises(BadKeyError, match="-db-config"):
        await server(material, None, ManualClock(NOW)).sign(request(material), KEY)


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256, "a\n", "\x7f"])
def test_what_is_not_a_key_is_refused(key: str) -> None:
    with pytest.raises(BadKeyError, match="255"):
        Once.of(key, "sign", b"")


async def test_the_api_repeats_what_it_replied(certdb: CertDB, material: Path) -> None:
    csr = (material / "leaf.csr").read_text()
    async with serving(make_backend(material, certdb)) as url, aiohttp.ClientSession() as session:

        async def post(endpoint: str, body: Any, key: str | None) -> tuple[int, Any]:
            headers = {} if key is None else {"idempotency-key": key}
            async with session.post(url + PREFIX + endpoint, json=body, headers=headers) as reply:
                return reply.status, await reply.json(content_type=None)

        body = {"certificate_request": csr}
        first = await post("sign", body, "one")
        assert first[0] == 200
        assert await post("sign", body, "one") == first
        assert await post("sign", body, "two") != first
        assert await post("sign", body, None) != first
        for other in ("sign", "newcert"):
            status, reply = await post(other, {**body, "profile": "client", "request": {"CN": "x"}}, "one")
            assert (status, reply["success"], reply["errors"][0]["code"]) == (422, False, 422)
            assert "another key" in reply["errors"][0]["message"]
        status, reply = await post("sign", body, "two words")
        assert (status, reply["errors"][0]["code"]) == (400, 400)
        made = await post("newcert", {"request": {"CN": "x"}}, "three")
        assert made[0] == 200
        status, reply = await post("newcert", {"request": {"CN": "x"}}, "three")
        assert (status, reply["errors"][0]["code"]) == (409, 409)
        assert "private key" in reply["errors"][0]["message"]


async def test_an_authenticated_request_may_come_again_too(certdb: CertDB, material: Path) -> None:
    inner = json.dumps(
        {"certificate_request": (material / "leaf.csr").read_text(), "profile": "authed"}
    ).encode()
    token = hmac.new(bytes.fromhex(AUTH_KEY), inner, hashlib.sha256).digest()
    async with serving(make_backend(material, certdb)) as url, aiohttp.ClientSession() as session:
        replies = []
        for stamp in (1, 2):
            body = {
                "token": base64.b64encode(token).decode(),
                "request": base64.b64encode(inner).decode(),
                "timestamp": stamp,
            }
            headers = {"Idempotency-Key": "k"}
            async with session.post(f"{url}{PREFIX}authsign", json=body, headers=headers) as reply:
                replies.append((reply.status, await reply.text()))
        assert replies[0][0] == 200
        assert replies[0] == replies[1]


async def test_a_database_without_the_table_says_what_to_do(postgres_url: str, material: Path) -> None:
    async with await open_certdb(DBConfig("postgres", postgres_url), SystemClock()) as db:
        await migrate.up(db)
        await migrate.down(db)
        ours = server(material, db, ManualClock(NOW))
        assert (await ours.sign(request(material))).serial
        with pytest.raises(CodedError, match="ocspd db up") as caught:
            await ours.sign(request(material), KEY)
        assert caught.value.code is Code.STORE_FAILED
