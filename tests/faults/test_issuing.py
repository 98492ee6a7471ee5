"""A certificate that a client has is in the database, whatever becomes of the database's server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from ocspd.authority.issuing import Authority, Shared
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from ocspd.errors import CodedError
from ocspd.pki import ca, csr
from ocspd.pki.certs import load_certificate
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.profiles import default_config
from tests.certdb import raw
from tests.faults.cluster import Cluster, clusters
from tests.pki.chain import make_key

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with clusters(1) as (only,):
        only.make()
        only.start()
        yield only


def make_issuer() -> Issuer:
    key = make_key("ecdsa-256")
    made = ca.init_ca(csr.parse_request(json.dumps({"CN": "root"}).encode()), SystemClock(), key)
    return Issuer(load_certificate(made.cert.encode()), key, default_config(), SystemClock())


async def test_no_certificate_that_was_returned_is_lost_when_the_server_is_cut_off(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = make_issuer()
    caplog.set_level("INFO", "ocspd")
    caplog.clear()
    config = DBConfig("postgres", f"postgres://postgres@/postgres?host={cluster.path}&sslmode=disable")
    wanted = SignRequest(csr_pem=csr.make_csr(csr.parse_request(b'{"CN": "leaf"}'), make_key("ecdsa-256", 1)))
    got: list[int] = []
    stop = asyncio.Event()
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        authority = Authority(issuer, None, SystemClock(), shared=Shared(db, SystemClock()))

        async def client() -> None:
            while not stop.is_set():
                try:
                    got.append((await authority.sign(wanted)).serial)
                except CodedError:
                    await asyncio.sleep(0.01)

        clients = [asyncio.create_task(client()) for _ in range(8)]
        try:
            for _ in range(2):
                before = len(got)
                while len(got) < before + 50:  # noqa: ASYNC110  (nobody tells)
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(cluster.stop)
                signed = caplog.text.count("signed certificate with serial number")
                await asyncio.sleep(0.3)
                assert caplog.text.count("signed certificate with serial number") - signed <= 16
                await asyncio.to_thread(cluster.start)
        finally:
            stop.set()
            await asyncio.gather(*clients)
        await authority.finish()
    stored = {int(serial) for (serial,) in await raw.fetch(config, "SELECT serial_number FROM certificates")}
    assert set(got) <= stored
    assert len(set(got)) == len(got)
    unstored = [record for record in caplog.records if "signed but not stored" in record.getMessage()]
    signed = caplog.text.count("signed certificate with serial number")
    assert signed == len(got) + len(unstored), "each is either with a client or told of"
