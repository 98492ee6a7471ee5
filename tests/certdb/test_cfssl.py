from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ocspd.authority.revoking import revoke
from ocspd.certdb import migrate
from ocspd.errors import Code, CodedError
from ocspd.model import CertStatus, OCSPRow
from tests.binary import ocspd
from tests.certdb import raw
from tests.certdb.samples import certificate
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB
    from ocspd.model import CertificateRow

REQUEST = {"CN": "test", "key": {"algo": "ecdsa", "size": 256}, "hosts": ["a.example"]}


class CFSSL:
    """Debian's cfssl with a CA and a database, in a directory."""

    def __init__(self, directory: Path, config: DBConfig) -> None:
        self.directory = directory
        (directory / "db.json").write_text(
            json.dumps({"driver": config.driver, "data_source": config.data_source})
        )
        (directory / "csr.json").write_text(json.dumps(REQUEST))
        (directory / "ca.json").write_text(json.dumps({"CN": "CA", "key": {"algo": "ecdsa", "size": 256}}))
        made = json.loads(self("gencert", "-initca", "ca.json"))
        (directory / "ca.pem").write_text(made["cert"])
        (directory / "ca-key.pem").write_text(made["key"])

    def __call__(self, *words: str) -> str:
        command = [need("cfssl"), *words]
        result = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def issue(self) -> x509.Certificate:
        words = ("gencert", "-ca", "ca.pem", "-ca-key", "ca-key.pem", "-db-config", "db.json", "csr.json")
        return x509.load_pem_x509_certificate(json.loads(self(*words))["cert"].encode())


@pytest.fixture
def cfssl(tmp_path: Path, migrated_db_config: DBConfig) -> CFSSL:
    return CFSSL(tmp_path, migrated_db_config)


def aki_of(issued: x509.Certificate) -> str:
    found = issued.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert found is not None
    return found.hex()


async def only_row(certdb: CertDB, issued: x509.Certificate) -> CertificateRow:
    # by serial: Debian's build leaves the key identifier empty for every certificate
    (row,) = await certdb.find_certificates(issued.serial_number)
    return row


async def test_what_cfssl_issues_and_revokes_is_read_and_noticed(cfssl: CFSSL, certdb: CertDB) -> None:
    feed = certdb.change_feed()
    cursor = await feed.current_cursor()
    await feed.wait(5)
    issued = cfssl.issue()
    row = await only_row(certdb, issued)
    assert (row.status, row.reason, row.revoked_at) == (CertStatus.GOOD, 0, None)
    assert row.expiry == issued.not_valid_after_utc
    assert x509.load_pem_x509_certificate(row.pem.encode()) == issued
    await feed.wait(5)
    (change,), cursor = await feed.read(cursor, 10)
    assert (change.serial, change.aki) == (issued.serial_number, row.aki)
    await feed.close()


async def test_cfssl_finds_and_revokes_what_we_inserted_and_it_is_noticed(
    cfssl: CFSSL, certdb: CertDB
) -> None:
    row = certificate(2**152 + 1, expiry=datetime.now(UTC) + timedelta(days=2, microseconds=7))
    await certdb.insert_certificate(row)
    feed = certdb.change_feed()
    cursor = await feed.current_cursor()
    await feed.wait(5)
    before = datetime.now(UTC).replace(microsecond=0)
    cfssl(*f"revoke -db-config db.json -serial {row.serial} -aki {row.aki} -reason superseded".split())
    await feed.wait(5)
    (change,), cursor = await feed.read(cursor, 10)
    assert (change.serial, change.aki) == (row.serial, row.aki)
    assert change.row is not None
    assert (change.row.status, change.row.reason) == (CertStatus.REVOKED, 4)
    assert change.row.revoked_at is not None
    assert before <= change.row.revoked_at <= datetime.now(UTC)
    found = await certdb.find_statuses([row.serial])
    assert [row.status for row in found] == [CertStatus.REVOKED]
    await feed.close()


async def test_what_cfssl_issued_can_be_revoked_by_serial_alone(cfssl: CFSSL, certdb: CertDB) -> None:
    issued = cfssl.issue()
    await revoke(certdb, serial_text=f"{issued.serial_number:#x}", aki=None, reason="keyCompromise")
    row = await only_row(certdb, issued)
    assert (row.status, row.reason) == (CertStatus.REVOKED, 1)


async def test_what_cfssl_issued_can_be_revoked_by_the_identifiers_in_the_certificate(
    cfssl: CFSSL, certdb: CertDB
) -> None:
    issued = cfssl.issue()
    with pytest.raises(CodedError) as caught:
        await revoke(certdb, serial_text=str(issued.serial_number), aki="00" + aki_of(issued)[2:])
    assert caught.value.code is Code.STORE_NOT_FOUND
    assert (await only_row(certdb, issued)).status is CertStatus.GOOD
    await revoke(certdb, serial_text=str(issued.serial_number), aki=aki_of(issued).upper(), reason="4")
    row = await only_row(certdb, issued)
    assert (row.status, row.reason) == (CertStatus.REVOKED, 4)


async def test_a_certificate_file_names_what_to_revoke(cfssl: CFSSL, certdb: CertDB) -> None:
    issued = cfssl.issue()
    (cfssl.directory / "leaf.pem").write_bytes(issued.public_bytes(Encoding.PEM))
    result = ocspd("revoke", "-db-config", "db.json", "-cert", "leaf.pem", cwd=cfssl.directory)
    assert (result.returncode, result.stderr) == (0, "")
    assert (await only_row(certdb, issued)).status is CertStatus.REVOKED
    both = ocspd("revoke", "-db-config", "db.json", "-cert", "leaf.pem", "-serial", "1", cwd=cfssl.directory)
    assert both.returncode == 2
    no_certificate = ocspd("revoke", "-db-config", "db.json", "-cert", "db.json", cwd=cfssl.directory)
    assert no_certificate.returncode == 1
    assert json.loads(no_certificate.stderr)["code"] == Code.CERT_DECODE_FAILED


async def test_cfssl_reads_every_column_we_write(cfssl: CFSSL, certdb: CertDB) -> None:
    row = certificate(1, expiry=datetime.now(UTC) + timedelta(days=2, microseconds=7), revoked_at=None)
    await certdb.insert_certificate(row)
    body = b"0\x82\x00\xff\xfe'\x00" * 40
    await certdb.upsert_ocsp([OCSPRow(serial=1, aki=row.aki, body=body, expiry=row.expiry)])
    lines = cfssl("ocspdump", "-db-config", "db.json").split()
    assert [base64.b64decode(line) for line in lines] == [body]


async def test_cfssl_refreshes_responses_for_our_certificates_and_we_read_them(
    cfssl: CFSSL, certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    issued = cfssl.issue()
    stored = await only_row(certdb, issued)
    # the same certificate again, this time written by us
    await raw.execute(migrated_db_config, "DELETE FROM certificates")
    stored = replace(stored, aki=aki_of(issued))
    await certdb.insert_certificate(stored)
    refresh = ("ocsprefresh", "-db-config", "db.json", "-ca", "ca.pem", "-responder", "ca.pem")
    cfssl(*refresh, "-responder-key", "ca-key.pem")
    status = await certdb.find_statuses([issued.serial_number])
    (response,) = await certdb.find_ocsp(status)
    assert response is not None
    assert ocsp.load_der_ocsp_response(response).serial_number == issued.serial_number
    cfssl(*refresh, "-responder-key", "ca-key.pem")  # replaces it
    dumped = cfssl("ocspdump", "-db-config", "db.json").split()
    assert await certdb.find_ocsp(status) == [base64.b64decode(line) for line in dumped]


async def test_cfssl_goes_on_issuing_while_the_database_is_migrated(cfssl: CFSSL, certdb: CertDB) -> None:
    async def issue() -> list[int]:
        return [(await asyncio.to_thread(cfssl.issue)).serial_number for _ in range(4)]

    work = asyncio.gather(issue(), issue())
    steps = 0
    while steps < 2 or not work.done():
        undone: list[str] = []
        while not undone or not undone[0].startswith("004"):
            undone.insert(0, await migrate.down(certdb) or "")
        assert await migrate.up(certdb) == undone
        steps += 1
        await asyncio.sleep(0.05)
    for serial in chain.from_iterable(await work):
        assert len(await certdb.find_certificates(serial)) == 1
    # and what it issues is noted again
    feed = certdb.change_feed()
    cursor = await feed.current_cursor()
    serial = cfssl.issue().serial_number
    changes, _ = await feed.read(cursor, 10)
    await feed.close()
    assert [change.serial for change in changes] == [serial]
