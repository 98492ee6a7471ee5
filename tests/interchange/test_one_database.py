"""One database that Debian's `cfssl serve` and ours use at the same time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from cryptography import x509

from ocspd.client import APIClient
from ocspd.model import CertStatus
from tests.authority.api import make_backend, serving
from tests.authority.cfssl import cfssl_serve

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

EACH = 12


async def test_both_servers_issue_at_once_and_each_revokes_what_the_other_issued(
    inputs: Path, migrated_db_config: DBConfig, certdb: CertDB, tmp_path: Path
) -> None:
    source = {"driver": migrated_db_config.driver, "data_source": migrated_db_config.data_source}
    (tmp_path / "db.json").write_text(json.dumps(source))
    csr = (inputs / "leaf.csr").read_text()
    flags = ("-ca", f"{inputs}/ca.pem", "-ca-key", f"{inputs}/ca-key.pem", "-config", f"{inputs}/config.json")
    feed = certdb.change_feed()
    cursor = await feed.current_cursor()
    async with serving(make_backend(inputs, certdb)) as url:
        with cfssl_serve(tmp_path, *flags, "-db-config", str(tmp_path / "db.json")) as other:
            ours, theirs = APIClient(url), APIClient(other)

            async def issue(client: APIClient) -> list[int]:
                found = [await client.sign(csr) for _ in range(EACH)]
                return [x509.load_pem_x509_certificate(each.encode()).serial_number for each in found]

            by_us, by_them = await asyncio.gather(issue(ours), issue(theirs))
            akis = {serial: (await certdb.find_certificates(serial))[0].aki for serial in (*by_us, *by_them)}

            async def revoke(client: APIClient, serials: list[int]) -> None:
                for serial in serials:
                    await client.revoke(serial, akis[serial], reason="superseded")

            # Debian's version stores no key identifier, and cannot find what has none
            await asyncio.gather(revoke(theirs, by_us[::2]), revoke(ours, by_them[::2]))
    statuses = {serial: (await certdb.find_certificates(serial))[0].status for serial in akis}
    assert {serial for serial, status in statuses.items() if status is CertStatus.REVOKED} == {
        *by_us[::2],
        *by_them[::2],
    }
    noticed: dict[int, CertStatus] = {}
    while changes := (await feed.read(cursor, 1000)):
        found, cursor = changes
        if not found:
            break
        noticed |= {change.serial: change.row.status for change in found if change.row is not None}
    assert noticed == statuses
    await feed.close()
