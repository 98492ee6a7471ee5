from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp

from ocspd._der import parse_response
from ocspd.clock import SystemClock
from ocspd.model import CertificateRow
from ocspd.service.presigning import dump_table, refresh_table
from tests.certdb.raw import execute, fetch
from tests.pki.chain import make_chain, pem
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

CHAIN = make_chain()
COUNT = 12_345
DER = Encoding.DER


def many_rows(driver: str, aki: str) -> str:
    """SQL that inserts COUNT certificates with serials from 1, every tenth revoked, as CFSSL writes them."""
    text = "convert_to({}, 'UTF8')" if driver == "postgres" else "{}"
    upto = f"SELECT n + 1 FROM t WHERE n < {COUNT}"
    numbers = (
        f"SELECT generate_series(1, {COUNT}) AS n"
        if driver == "postgres"
        else f"WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL {upto}) SELECT n FROM t"
    )
    word = "CASE WHEN n % 10 = 0 THEN 'revoked' ELSE 'good' END"
    return (
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
        f"expiry, revoked_at, pem) SELECT {text.format('CAST(n AS text)')}, {text.format(repr(aki))}, "
        f"{text.format(repr(''))}, {text.format(word)}, CASE WHEN n % 10 = 0 THEN 1 ELSE 0 END, "
        "'2099-01-01 00:00:00+00:00', '2026-01-02 03:04:05+00:00', "
        f"{text.format(repr('unused'))} FROM ({numbers}) AS numbers"
    )


async def test_a_table_of_many_chunks_is_signed_while_it_is_read(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    signer = CHAIN.signer(certid_hashes=("sha1",))
    await execute(migrated_db_config, many_rows(migrated_db_config.driver, signer.aki))
    for _ in range(2):  # the second time every row is replaced
        report = await refresh_table(certdb, [signer], clock=SystemClock(), processes=2)
        assert (report.certificates, report.signed, report.revoked) == (COUNT, COUNT, COUNT // 10)
        assert not report.foreign
        assert not report.skipped
    lines: list[bytes] = []
    assert await dump_table(certdb, lines.append) == COUNT
    answers = [parse_response(base64.b64decode(line)) for line in b"".join(lines).split()]
    assert {answer.serial for answer in answers} == set(range(1, COUNT + 1))
    assert all(answer.status == (answer.serial % 10 == 0) for answer in answers)
    assert len(await fetch(migrated_db_config, "SELECT serial_number FROM ocsp_responses")) == COUNT


async def test_what_debians_cfssl_issues_is_signed_and_its_own_refresh_agrees(
    tmp_path: Path, certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    cfssl = need("cfssl")
    CHAIN.write(tmp_path)
    for name, key in (("ca-key", CHAIN.ca_key), ("responder-key", CHAIN.responder_key)):
        (tmp_path / f"{name}.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
    (tmp_path / "db.json").write_text(
        json.dumps({"driver": migrated_db_config.driver, "data_source": migrated_db_config.data_source})
    )
    request = {"CN": "test", "key": {"algo": "ecdsa", "size": 256}, "hosts": ["a.example"]}
    (tmp_path / "csr.json").write_text(json.dumps(request))

    def run(*words: str) -> str:
        result = subprocess.run([cfssl, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    issued = json.loads(
        run("gencert", "-ca", "ca.pem", "-ca-key", "ca-key.pem", "-db-config", "db.json", "csr.json")
    )
    serial = x509.load_pem_x509_certificate(issued["cert"].encode()).serial_number
    signer = CHAIN.signer(responder_id="name")
    report = await refresh_table(certdb, [signer], clock=SystemClock())
    assert (report.certificates, report.signed) == (1, 1)
    (ours,) = await stored(certdb)
    assert ours.serial_number == serial
    if migrated_db_config.driver == "postgres":
        return  # there Debian's cfssl breaks its own foreign key: it looks for the AKI it did not store
    words = ("-ca", "ca.pem", "-responder", "responder.pem", "-responder-key", "responder-key.pem")
    run("ocsprefresh", "-db-config", "db.json", *words)
    (theirs,) = [
        answer for answer in await stored(certdb) if answer.public_bytes(DER) != ours.public_bytes(DER)
    ]
    for field in (
        "serial_number",
        "responder_name",
        "certificates",
        "certificate_status",
        "issuer_key_hash",
        "issuer_name_hash",
    ):
        assert getattr(ours, field) == getattr(theirs, field)


async def stored(certdb: CertDB) -> list[ocsp.OCSPResponse]:
    lines: list[bytes] = []
    await dump_table(certdb, lines.append)
    return [ocsp.load_der_ocsp_response(base64.b64decode(line)) for line in b"".join(lines).split()]


async def test_a_row_without_key_identifier_is_found_by_its_signature(certdb: CertDB) -> None:
    signer = CHAIN.signer()
    expiry = datetime.now(UTC) + timedelta(days=5)
    for serial, text in ((5, pem(CHAIN.issue(5)).decode()), (6, "nonsense")):
        await certdb.insert_certificate(CertificateRow(serial=serial, aki="", pem=text, expiry=expiry))
    report = await refresh_table(certdb, [signer], clock=SystemClock())
    assert (report.signed, report.foreign) == (1, {"": 1})
    found = await certdb.get_ocsp(5, "")
    assert found is not None
    assert parse_response(found.body).serial == 5
