from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from ocspd.authority.audit.ledger import Ledger
from ocspd.authority.audit.log import AuditLog
from ocspd.authority.signers import PolicySigner
from ocspd.client.tls import RemoteTLS
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError, ConfigError
from ocspd.pki.config_json import parse_config
from ocspd.pki.issuer import SignRequest
from ocspd.pki.profiles import SigningConfig, default_config
from tests.authority.api import make_backend, serving
from tests.authority.audit.logs import entries, opened
from tests.authority.cfssl import AUTH_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def remote(material: Path) -> AsyncIterator[str]:
    async with serving(make_backend(material)) as url:
        yield url


def config_with(remote: str, **profiles: dict[str, Any]) -> SigningConfig:
    return parse_config(
        json.dumps(
            {
                "signing": {
                    "default": {"expiry": "1h", "usages": ["client auth"]},
                    "profiles": profiles,
                },
                "remotes": {"there": remote},
                "auth_keys": {
                    "k": {"type": "standard", "key": AUTH_KEY},
                    "wrong": {"type": "standard", "key": AUTH_KEY[::-1]},
                },
            }
        ).encode()
    )


def signer(config: SigningConfig) -> PolicySigner:
    return PolicySigner(config, None, tls=RemoteTLS(), clock=SystemClock())


def request(material: Path, profile: str) -> SignRequest:
    return SignRequest(csr_pem=(material / "leaf.csr").read_text(), profile=profile)


async def test_what_another_server_signs_is_logged_before_it_is_handed_on(
    remote: str, material: Path, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    config = config_with(remote, client={"remote": "there"})
    async with AuditLog(opened(log), SystemClock()) as audit:
        ledger = Ledger(audit)
        tls = RemoteTLS()
        there = PolicySigner(config, None, tls=tls, clock=SystemClock(), ledger=ledger)
        pem = await there.sign(request(material, "client"))
        await ledger.forwarded(request(material, "client"), "junk")
    certificate = x509.load_pem_x509_certificate(pem.encode())
    known, unknown = (each.fields for each in entries(log) if each.event == "remote")
    assert (known["serial"], known["result"]) == (str(certificate.serial_number), "ok")
    assert known["sans"] == ["192.0.2.1", "leaf.example"]
    assert known["profile"] == unknown["profile"] == "client"
    assert unknown["result"] == "unreadable"


async def test_a_remote_profile_is_signed_for_there(remote: str, material: Path) -> None:
    pem = await signer(config_with(remote, client={"remote": "there"})).sign(request(material, "client"))
    certificate = x509.load_pem_x509_certificate(pem.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((material / "ca.pem").read_bytes()))


async def test_an_auth_remote_profile_presents_its_token(remote: str, material: Path) -> None:
    good = config_with(remote, authed={"auth_remote": {"remote": "there", "auth_key": "k"}})
    assert "BEGIN CERTIFICATE" in await signer(good).sign(request(material, "authed"))
    bad = config_with(remote, authed={"auth_remote": {"remote": "there", "auth_key": "wrong"}})
    with pytest.raises(CodedError, match="invalid token") as caught:
        await signer(bad).sign(request(material, "authed"))
    assert caught.value.code == Code.CLIENT_HTTP


async def test_info_of_a_remote_profile_comes_from_there(remote: str) -> None:
    both = config_with(remote, client={"remote": "there"})
    assert (await signer(both).info(label="", profile="client"))["expiry"] == "1h"


async def test_the_flag_remote_sends_every_profile_away(remote: str, material: Path) -> None:
    everything = signer(default_config().with_remote(remote))
    assert "BEGIN CERTIFICATE" in await everything.sign(request(material, "client"))


async def test_a_local_profile_without_a_ca_is_refused(remote: str, material: Path) -> None:
    both = signer(config_with(remote, client={"remote": "there"}))
    with pytest.raises(CodedError, match="this server has no CA key"):
        await both.sign(request(material, ""))


async def test_an_unknown_profile_is_5400_when_some_are_remote(remote: str, material: Path) -> None:
    both = signer(config_with(remote, client={"remote": "there"}))
    with pytest.raises(CodedError) as caught:
        await both.sign(request(material, "nonexistent"))
    assert caught.value.code == Code.POLICY_UNKNOWN_PROFILE


def test_an_unusable_remote_is_told_at_once() -> None:
    with pytest.raises(CodedError, match="failed to connect to remote"):
        signer(default_config().with_remote("ftp://x"))
    with pytest.raises(ConfigError, match=r"/nonexistent\.pem"):
        PolicySigner(
            default_config().with_remote("https://x"),
            None,
            tls=RemoteTLS(ca_file="/nonexistent.pem"),
            clock=SystemClock(),
        )
