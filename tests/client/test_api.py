"""The client of the API, against ocspd's own server and Debian's CFSSL."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.client import APIClient
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError
from tests.authority.api import make_backend, serving
from tests.authority.cfssl import AUTH_KEY, cfssl_serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REQUEST = {"CN": "x.example", "hosts": ["x.example"], "key": {"algo": "ecdsa", "size": 256}}


@pytest.fixture(params=["ocspd", "cfssl"])
async def address(request: pytest.FixtureRequest, material: Path, tmp_path: Path) -> AsyncIterator[str]:
    """A server of the API with a database."""
    path = tmp_path / "certs.db"
    async with await open_certdb(DBConfig("sqlite3", str(path)), SystemClock()) as db:
        await migrate.up(db)
        if request.param == "ocspd":
            async with serving(make_backend(material, db)) as url:
                yield url
            return
    (tmp_path / "db.json").write_text(json.dumps({"driver": "sqlite3", "data_source": str(path)}))
    with cfssl_serve(
        tmp_path,
        *("-ca", f"{material}/ca.pem", "-ca-key", f"{material}/ca-key.pem"),
        *("-responder", f"{material}/ocsp.pem", "-responder-key", f"{material}/ocsp-key.pem"),
        *("-config", f"{material}/config.json", "-db-config", f"{tmp_path}/db.json"),
    ) as url:
        yield url


async def test_every_call_works_with_either_server(
    address: str, material: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    api = APIClient(address)
    ca = x509.load_pem_x509_certificate((material / "ca.pem").read_bytes())
    info = await api.info(profile="client")
    assert x509.load_pem_x509_certificate(info.certificate.encode()) == ca
    assert (info.usages, info.expiry) == (("signing", "client auth"), "1h")

    csr = (material / "leaf.csr").read_text()
    signed = x509.load_pem_x509_certificate((await api.sign(csr, hosts=["y.example"])).encode())
    signed.verify_directly_issued_by(ca)
    names = signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["y.example"]
    subject = {"CN": "z", "names": [{"O": "Z"}]}
    other = x509.load_pem_x509_certificate((await api.sign(csr, subject=subject)).encode())
    assert other.subject.rfc4514_string() in {"CN=z,O=Z", "O=Z,CN=z"}

    made = await api.new_certificate(REQUEST, profile="client")
    certificate = x509.load_pem_x509_certificate(made.certificate.encode())
    assert "BEGIN EC PRIVATE KEY" in made.private_key
    assert "BEGIN CERTIFICATE REQUEST" in made.certificate_request
    assert "BEGIN CERTIFICATE REQUEST" in (await api.new_key(REQUEST)).certificate_request
    assert "BEGIN CERTIFICATE" in (await api.init_ca({"CN": "Root"})).certificate

    about = await api.certificate_info(certificate=made.certificate)
    assert int(about["serial_number"]) == certificate.serial_number
    der = await api.sign_ocsp(made.certificate, status="revoked", reason=1, revoked_at="2026-01-02")
    response = ocsp.load_der_ocsp_response(der)
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_reason is x509.ReasonFlags.key_compromise

    with sqlite3.connect(tmp_path / "certs.db") as rows:
        query = "SELECT authority_key_identifier FROM certificates WHERE serial_number = ?"
        ((aki,),) = rows.execute(query, (str(certificate.serial_number),)).fetchall()
        await api.revoke(certificate.serial_number, aki, reason="keyCompromise")
        query = "SELECT status, reason FROM certificates WHERE serial_number = ?"
        assert rows.execute(query, (str(certificate.serial_number),)).fetchall() == [("revoked", 1)]
    rows.close()
    if request.node.callspec.id == "ocspd":  # CFSSL has it since 1.4, Debian's is older
        assert await api.healthy() is True


async def test_a_key_makes_it_an_authenticated_request(address: str, material: Path) -> None:
    csr = (material / "leaf.csr").read_text()
    with pytest.raises(CodedError, match="authentication required"):
        await APIClient(address).sign(csr, profile="authed")
    assert "BEGIN CERTIFICATE" in await APIClient(address, auth_key=AUTH_KEY).sign(csr, profile="authed")
    with pytest.raises(CodedError, match="invalid token"):
        await APIClient(address, auth_key="00" * 16).sign(csr, profile="authed")


async def test_a_refusal_has_the_servers_words(address: str) -> None:
    with pytest.raises(CodedError, match=r"CSR Decode failed \(the server's code 9002\)") as caught:
        await APIClient(address).sign("nothing")
    assert caught.value.code == Code.CLIENT_HTTP
