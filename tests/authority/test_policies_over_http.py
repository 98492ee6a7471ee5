"""Certificate logs and linting, as a client of the HTTP API sees them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509

from ocspd.authority.issuing import Authority
from ocspd.authority.signers import PolicySigner
from ocspd.client.tls import RemoteTLS
from ocspd.clock import SystemClock
from ocspd.pki.certs import load_certificate
from ocspd.pki.config_json import parse_config
from ocspd.pki.issuer import Issuer
from ocspd.pki.keys import load_private_key
from tests.authority import api
from tests.authority.ct_log import Log, serving
from tests.pki.chain import make_key

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.authority.api.endpoints import Backend

PROFILE = {"expiry": "1h", "usages": ["signing", "server auth"]}


def backend(material: Path, **profiles: Any) -> Backend:
    """The API over the CA of `material`, with these profiles."""
    clock = SystemClock()
    signing = {"default": PROFILE, "profiles": profiles}
    config = parse_config(json.dumps({"signing": signing}).encode())
    ca = load_certificate((material / "ca.pem").read_bytes())
    issuer = Issuer(ca, load_private_key((material / "ca-key.pem").read_bytes()), config, clock)
    signer = PolicySigner(config, Authority(issuer, None, clock), tls=RemoteTLS(), clock=clock)
    return replace(api.make_backend(material), signer=signer)


async def post(url: str, endpoint: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/cfssl/{endpoint}", data=json.dumps(body)) as reply,
    ):
        return reply.status, json.loads(await reply.text())


@pytest.fixture
def csr(material: Path) -> str:
    return (material / "leaf.csr").read_text()


async def test_a_failing_log_is_400_with_cfssls_number_and_the_reason(material: Path, csr: str) -> None:
    root = x509.load_pem_x509_certificate((material / "ca.pem").read_bytes())
    log = Log(make_key("ecdsa-256", 7), [root], timestamp=int(time.time() * 1000))
    async with serving(log):
        logged = {**PROFILE, "ct_log_servers": [log.url], "ct_log_keys": {log.url: log.key_text()}}
        async with api.serving(backend(material, logged=logged)) as url:
            status, found = await post(url, "sign", {"certificate_request": csr, "profile": "logged"})
            assert (status, found["success"]) == (200, True)
            issued = x509.load_pem_x509_certificate(found["result"]["certificate"].encode())
            issued.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
            status, found = await post(url, "newcert", {"request": {"hosts": ["a.b"]}, "profile": "logged"})
            assert (status, len(log.seen)) == (200, 2)
            log.roots = []
            status, found = await post(url, "sign", {"certificate_request": csr, "profile": "logged"})
    (error,) = found["errors"]
    assert (status, found["result"], error["code"]) == (400, None, 10100)
    assert error["message"].endswith(f"{log.url}: HTTP status 400: the issuer is not accepted here")


async def test_findings_are_500_with_cfssls_text_and_nothing_internal(material: Path, csr: str) -> None:
    """CFSSL has no number for them, and so 500 with 0."""
    strict: dict[str, Any] = {**PROFILE, "lint_error_level": "error", "expiry": "20000h"}
    strict["policies"] = [{"ID": "2.23.140.1.2.1"}]
    lenient = {**strict, "lint_error_level": "fatal"}
    async with api.serving(backend(material, strict=strict, lenient=lenient)) as url:
        status, found = await post(url, "sign", {"certificate_request": csr, "profile": "lenient"})
        assert (status, found["success"]) == (200, True)
        refused = {**strict, "lint_error_level": "warn"}
    async with api.serving(backend(material, strict=refused)) as url:
        status, found = await post(url, "sign", {"certificate_request": csr, "profile": "strict"})
    (error,) = found["errors"]
    assert (status, error["code"]) == (500, 0)
    assert error["message"].startswith("pre-issuance linting found ")
    assert "certificate_validity_period_exceeds_" in error["message"]


async def test_sign_drops_return_precert_as_cfssls_server_does(material: Path, csr: str) -> None:
    async with api.serving(backend(material)) as url:
        status, found = await post(url, "sign", {"certificate_request": csr, "ReturnPrecert": True})
    assert status == 200
    issued = x509.load_pem_x509_certificate(found["result"]["certificate"].encode())
    with pytest.raises(x509.ExtensionNotFound):
        issued.extensions.get_extension_for_class(x509.PrecertPoison)
