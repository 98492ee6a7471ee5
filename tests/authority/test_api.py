from __future__ import annotations

import base64
import json
import logging
import shutil
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ocsp

from ocspd.authority.api.endpoints import Backend
from ocspd.certdb import DBConfig, open_certdb
from ocspd.certdb.migrate import up
from ocspd.clock import SystemClock
from ocspd.model import CertStatus
from tests.authority.api import make_backend, serving
from tests.authority.cfssl import AUTH_KEY, run
from tests.authority.test_api_against_cfssl import signed
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB

PREFIX = "/api/v1/cfssl/"


@pytest.fixture
async def ours(material: Path) -> AsyncIterator[str]:
    async with serving(make_backend(material)) as url:
        yield url


async def post(url: str, endpoint: str, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, str) else json.dumps(body)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}{PREFIX}{endpoint}", data=data) as answer,
    ):
        return answer.status, json.loads(await answer.text())


async def result_of(url: str, endpoint: str, body: Any) -> dict[str, Any]:
    status, api_response = await post(url, endpoint, body)
    assert status == 200, api_response
    result: dict[str, Any] = api_response["result"]
    return result


async def error_of(url: str, endpoint: str, body: Any) -> tuple[int, int, str]:
    status, api_response = await post(url, endpoint, body)
    assert api_response["success"] is False
    return status, api_response["errors"][0]["code"], api_response["errors"][0]["message"]


@asynccontextmanager
async def with_database(material: Path, tmp_path: Path) -> AsyncIterator[tuple[str, CertDB]]:
    async with await open_certdb(DBConfig("sqlite3", str(tmp_path / "certs.db")), SystemClock()) as db:
        await up(db)
        async with serving(make_backend(material, db)) as url:
            yield url, db


# -- which endpoints are on ----------------------------------------------------------------------


async def test_with_nothing_configured_only_what_needs_nothing_is_on() -> None:
    statuses = {}
    async with serving(Backend(clock=SystemClock())) as url, aiohttp.ClientSession() as session:
        names = ("sign", "authsign", "newcert", "info", "ocspsign", "revoke", "init_ca", "newkey", "health")
        for name in names:
            async with session.get(f"{url}{PREFIX}{name}") as answer:
                statuses[name] = answer.status
    off = dict.fromkeys(("sign", "authsign", "newcert", "info", "ocspsign", "revoke"), 404)
    assert statuses == off | {"init_ca": 405, "newkey": 405, "health": 200}


async def test_disabled_endpoints_answer_as_unknown_paths_do(
    material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ocspd"):
        async with (
            serving(make_backend(material), ["sign", " health", "nonsense"]) as url,
            aiohttp.ClientSession() as session,
        ):
            for name, status in (("sign", 404), ("health", 404), ("info", 405)):
                async with session.get(f"{url}{PREFIX}{name}") as answer:
                    assert answer.status == status
    assert "endpoint '/api/v1/cfssl/sign' is explicitly disabled" in caplog.messages
    assert "endpoint '/api/v1/cfssl/info' is enabled" in caplog.messages
    revoke = "endpoint '/api/v1/cfssl/revoke' is disabled: cert db not configured (missing -db-config)"
    assert revoke in caplog.messages


async def test_health_has_cfssls_exact_body(ours: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{ours}{PREFIX}health") as answer:
        body = await answer.read()
        assert answer.headers["Content-Type"] == "application/json"
    assert body == b'{"success":true,"result":{"healthy":true},"errors":[],"messages":[]}\n'


# -- signing and the database --------------------------------------------------------------------


async def test_a_signed_certificate_is_issued_by_the_ca_and_stored(material: Path, tmp_path: Path) -> None:
    csr = (material / "leaf.csr").read_text()
    async with with_database(material, tmp_path) as (url, db):
        body = {"certificate_request": csr, "profile": "client", "label": "primary"}
        pem = (await result_of(url, "sign", body))["certificate"]
        certificate = x509.load_pem_x509_certificate(pem.encode())
        (row,) = await db.find_certificates(certificate.serial_number)
    ca = x509.load_pem_x509_certificate((material / "ca.pem").read_bytes())
    certificate.verify_directly_issued_by(ca)
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    assert pem.endswith("-----END CERTIFICATE-----\n")
    assert (row.pem, row.aki, row.ca_label, row.status) == (pem, identifier, "primary", CertStatus.GOOD)
    assert row.expiry == certificate.not_valid_after_utc
    assert row.sans is not None
    assert "leaf.example" in row.sans


async def test_newcert_stores_too_and_its_parts_belong_together(material: Path, tmp_path: Path) -> None:
    async with with_database(material, tmp_path) as (url, db):
        result = await result_of(url, "newcert", {"request": {"CN": "x", "hosts": ["x.example"]}})
        certificate = x509.load_pem_x509_certificate(result["certificate"].encode())
        assert len(await db.find_certificates(certificate.serial_number)) == 1
    assert list(result) == ["certificate", "certificate_request", "private_key", "sums"]
    request = x509.load_pem_x509_csr(result["certificate_request"].encode())
    assert request.public_key() == certificate.public_key()
    key = load_pem_private_key(result["private_key"].encode(), None)
    assert key.public_key() == certificate.public_key()
    digest = certificate.fingerprint(hashes.SHA256()).hex().upper()
    assert result["sums"]["certificate"]["sha-256"] == digest
    assert list(result["sums"]["certificate_request"]) == ["md5", "sha-1", "sha-256"]


async def test_hostname_replaces_hosts_and_an_empty_list_clears_the_names(ours: str, material: Path) -> None:
    csr = (material / "leaf.csr").read_text()

    async def names(**more: Any) -> list[str]:
        result = await result_of(ours, "sign", {"certificate_request": csr, **more})
        certificate = x509.load_pem_x509_certificate(result["certificate"].encode())
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return []
        return found.get_values_for_type(x509.DNSName)

    assert await names() == ["leaf.example"]
    assert await names(hosts=None) == ["leaf.example"]
    assert await names(hosts=["a.example"]) == ["a.example"]
    assert await names(hosts=["a.example"], hostname="b.example,c.example") == ["b.example", "c.example"]
    assert await names(hosts=[]) == []


async def test_subject_fields_override_and_missing_ones_come_from_the_csr(ours: str, material: Path) -> None:
    csr = (material / "leaf.csr").read_text()
    subject = {"CN": "other", "names": [{"O": "Org", "C": "DE"}]}
    result = await result_of(ours, "sign", {"certificate_request": csr, "subject": subject})
    name = x509.load_pem_x509_certificate(result["certificate"].encode()).subject
    assert name.rfc4514_string() == "CN=other,O=Org,C=DE"
    result = await result_of(ours, "sign", {"certificate_request": csr, "subject": {"names": [{"O": "Org"}]}})
    name = x509.load_pem_x509_certificate(result["certificate"].encode()).subject
    assert name.rfc4514_string() == "CN=leaf.example,O=Org"


async def test_a_bundle_is_answered_with_a_message_that_there_is_no_bundler(
    ours: str, material: Path
) -> None:
    body = {"certificate_request": (material / "leaf.csr").read_text(), "bundle": True}
    status, api_response = await post(ours, "sign", body)
    assert status == 200
    assert [message["code"] for message in api_response["messages"]] == [5300]


async def test_newcert_does_not_sign_for_a_profile_that_demands_a_token(ours: str) -> None:
    body = {"request": {"CN": "x", "hosts": ["x"]}, "profile": "authed"}
    assert await error_of(ours, "newcert", body) == (400, 400, "authentication required")


async def test_the_previous_key_is_accepted_while_keys_are_rotated(material: Path, tmp_path: Path) -> None:
    config = json.loads((material / "config.json").read_text())
    config["auth_keys"]["old"] = {"type": "standard", "key": AUTH_KEY[::-1]}
    config["signing"]["profiles"]["authed"]["prev_auth_key"] = "old"
    for name in ("ca.pem", "ca-key.pem", "ocsp.pem", "ocsp-key.pem"):
        (tmp_path / name).write_bytes((material / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    request = json.dumps({"certificate_request": (material / "leaf.csr").read_text(), "profile": "authed"})
    async with serving(make_backend(tmp_path)) as url:
        for key in (AUTH_KEY, AUTH_KEY[::-1]):
            assert "certificate" in await result_of(url, "authsign", signed(request, key))
        error = await error_of(url, "authsign", signed(request, "00" * 16))
    assert error == (400, 400, "invalid token")


async def test_a_bad_duration_of_init_ca_is_the_clients_error(ours: str) -> None:
    # CFSSL answers 500 with code 0, as if the fault were its own.
    status, code, text = await error_of(ours, "init_ca", {"CN": "x", "ca": {"expiry": "x"}})
    assert (status, code) == (400, 5200)
    assert 'invalid duration "x"' in text


# -- revoke and ocspsign -------------------------------------------------------------------------


async def test_revoke_marks_the_row_and_a_miss_is_11200(material: Path, tmp_path: Path) -> None:
    async with with_database(material, tmp_path) as (url, db):
        result = await result_of(url, "newcert", {"request": {"CN": "x", "hosts": ["x"]}})
        serial = x509.load_pem_x509_certificate(result["certificate"].encode()).serial_number
        (row,) = await db.find_certificates(serial)
        body = {"serial": str(serial), "authority_key_id": row.aki, "reason": "superseded"}
        assert await result_of(url, "revoke", body) == {}
        (row,) = await db.find_certificates(serial)
        assert (row.status, row.reason) == (CertStatus.REVOKED, 4)
        assert row.revoked_at is not None
        assert await result_of(url, "revoke", body | {"reason": "keyCompromise"}) == {}
        assert await db.find_certificates(serial) == [row], "the first revocation stays"
        assert (await error_of(url, "revoke", body | {"reason": "removeFromCRL"}))[1] == 8200
        miss = {"serial": str(serial + 1), "authority_key_id": row.aki, "reason": ""}
        assert (await error_of(url, "revoke", miss))[:2] == (400, 11200)


async def test_revoke_takes_key_identifiers_with_colons_in_capitals(material: Path, tmp_path: Path) -> None:
    async with with_database(material, tmp_path) as (url, db):
        result = await result_of(url, "newcert", {"request": {"CN": "x", "hosts": ["x"]}})
        serial = x509.load_pem_x509_certificate(result["certificate"].encode()).serial_number
        (row,) = await db.find_certificates(serial)
        aki = ":".join(row.aki[at : at + 2] for at in range(0, len(row.aki), 2)).upper()
        body = {"serial": str(serial), "authority_key_id": aki, "reason": "0"}
        assert await result_of(url, "revoke", body) == {}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("x", "Unable to parse revocation request"),
        ('{"serial":5}', "Unable to parse revocation request"),
        ("{}", "serial number is required but not provided"),
        ('{"serial":"1","reason":"nonsense"}', "Invalid reason code"),
        ('{"serial":"1","reason":"7"}', "Invalid reason code"),
    ],
)
async def test_revocation_requests_are_checked_in_cfssls_order(
    material: Path, tmp_path: Path, body: str, text: str
) -> None:
    async with with_database(material, tmp_path) as (url, _):
        assert await error_of(url, "revoke", body) == (400, 400, text)


async def test_an_unmigrated_database_is_11000_and_nothing_is_signed(
    material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        await open_certdb(DBConfig("sqlite3", str(tmp_path / "empty.db")), SystemClock()) as db,
        serving(make_backend(material, db)) as url,
    ):
        body = {"certificate_request": (material / "leaf.csr").read_text()}
        status, code, text = await error_of(url, "sign", body)
    assert (status, code) == (400, 11000)
    assert str(tmp_path) not in text
    assert str(tmp_path) in caplog.text
    assert "signed certificate" not in caplog.text


async def test_a_chosen_serial_that_is_taken_is_refused_before_signing(
    material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = json.loads((material / "config.json").read_text())
    config["signing"]["profiles"]["client"]["ClientProvidesSerialNumbers"] = True
    directory = tmp_path / "own"
    shutil.copytree(material, directory)
    (directory / "config.json").write_text(json.dumps(config))
    async with with_database(directory, tmp_path) as (url, _):
        csr = (material / "leaf.csr").read_text()
        body = {"certificate_request": csr, "profile": "client", "serial": 4711}
        assert (await post(url, "sign", body))[0] == 200
        taken = "serial 4711 is already used by another certificate"
        assert await error_of(url, "sign", body) == (400, 1300, taken)
    assert caplog.text.count("signed certificate") == 1


@pytest.mark.parametrize("name", ["SHA1", "SHA256", "SHA384", "SHA512"])
async def test_ocspsign_signs_what_was_asked_for(ours: str, material: Path, name: str) -> None:
    pem = (material / "client.pem").read_text()
    body = {
        "certificate": pem,
        "status": "revoked",
        "reason": 1,
        "revoked_at": "2024-02-29",
        "issuer_hash": name,
    }
    der = base64.b64decode((await result_of(ours, "ocspsign", body))["ocspResponse"])
    response = ocsp.load_der_ocsp_response(der)
    assert response.serial_number == x509.load_pem_x509_certificate(pem.encode()).serial_number
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_reason is x509.ReasonFlags.key_compromise
    assert response.revocation_time_utc == datetime(2024, 2, 29, tzinfo=UTC)
    assert response.hash_algorithm.name == name.lower()


async def test_openssl_accepts_what_ocspsign_answers(ours: str, material: Path, tmp_path: Path) -> None:
    body = {"certificate": (material / "client.pem").read_text()}
    response = tmp_path / "response.der"
    response.write_bytes(base64.b64decode((await result_of(ours, "ocspsign", body))["ocspResponse"]))
    command = [need("openssl"), "ocsp", "-respin", str(response), "-CAfile", f"{material}/ca.pem"]
    command += ["-issuer", f"{material}/ca.pem", "-cert", f"{material}/client.pem", "-no_nonce"]
    verdict = run(*command)
    assert "Response verify OK" in verdict.stderr + verdict.stdout
    assert f"{material}/client.pem: good" in verdict.stdout


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"issuer_hash": "sha1"}, (400, 400, "Unsupported hash algorithm in request")),
        ({"issuer_hash": "MD5"}, (500, 0, "unsupported issuer hash algorithm")),
        ({"status": "revoked", "reason": 99}, (400, 8200, "Invalid revocation reason 99")),
        ({"status": "good", "reason": 99, "revoked_at": "x"}, None),
    ],
)
async def test_ocspsign_checks_what_it_is_told(
    ours: str, material: Path, more: dict[str, Any], error: tuple[int, int, str] | None
) -> None:
    body = {"certificate": (material / "client.pem").read_text()} | more
    if error is None:
        assert "ocspResponse" in await result_of(ours, "ocspsign", body)
    else:
        assert await error_of(ours, "ocspsign", body) == error
