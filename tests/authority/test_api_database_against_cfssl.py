"""CFSSL's server and ours on one SQLite database, which ours has migrated."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from ocspd.certdb import DBConfig, open_certdb
from ocspd.certdb.migrate import up
from ocspd.clock import SystemClock
from ocspd.model import CertStatus
from tests.authority.api import make_backend, serving
from tests.authority.cfssl import cfssl_serve
from tests.authority.test_api import PREFIX, result_of
from tests.authority.test_api_against_cfssl import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB


@asynccontextmanager
async def both(material: Path, directory: Path) -> AsyncIterator[tuple[str, str, CertDB]]:
    """Yield the URLs of CFSSL's server and of ours, and their database."""
    path = directory / "certs.db"
    config = directory / "db.json"
    config.write_text(json.dumps({"driver": "sqlite3", "data_source": str(path)}))
    async with await open_certdb(DBConfig("sqlite3", str(path)), SystemClock()) as db:
        await up(db)
        flags = ["-ca", f"{material}/ca.pem", "-ca-key", f"{material}/ca-key.pem"]
        flags += ["-config", f"{material}/config.json", "-db-config", str(config)]
        with cfssl_serve(material, *flags) as theirs:
            async with serving(make_backend(material, db)) as ours:
                yield theirs, ours, db


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "null",
        "{}",
        '{"serial":5}',
        '{"serial":""}',
        '{"serial":"1","reason":5}',
        '{"serial":"1","reason":"nonsense"}',
        '{"serial":"1","authority_key_id":"00","reason":"superseded"}',
        '{"serial":"1","authority_key_id":"00"}',
    ],
)
async def test_both_servers_answer_a_revocation_that_fails_alike(
    material: Path, tmp_path: Path, body: str
) -> None:
    async with both(material, tmp_path) as (theirs, ours, _):
        expected = await ask(theirs, "POST", PREFIX + "revoke", body.encode())
        assert await ask(ours, "POST", PREFIX + "revoke", body.encode()) == expected


async def test_what_cfssl_issues_we_revoke_and_what_we_issue_cfssl_revokes(
    material: Path, tmp_path: Path
) -> None:
    async with both(material, tmp_path) as (theirs, ours, db):
        for issuer, revoker in ((theirs, ours), (ours, theirs)):
            result = await result_of(issuer, "newcert", {"request": {"CN": "x", "hosts": ["x"]}})
            certificate = x509.load_pem_x509_certificate(result["certificate"].encode())
            (row,) = await db.find_certificates(certificate.serial_number)
            assert (row.pem, row.status) == (result["certificate"], CertStatus.GOOD)
            assert row.expiry == certificate.not_valid_after_utc
            request = {"serial": str(row.serial), "authority_key_id": row.aki, "reason": "keyCompromise"}
            assert await result_of(revoker, "revoke", request) == {}
            (row,) = await db.find_certificates(certificate.serial_number)
            assert (row.status, row.reason) == (CertStatus.REVOKED, 1)
