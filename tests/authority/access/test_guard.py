"""Who may do what, over HTTP: the endpoints of the API behind a policy."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ocspd.authority.access.actor import current
from ocspd.authority.access.guard import Guard
from ocspd.authority.access.policy import changes, parse_access
from ocspd.authority.access.protection import Protection, is_loopback, remind
from ocspd.authority.access.rates import RateLimit
from ocspd.authority.access.tokens import new_token
from ocspd.authority.api.call import Call, Caller, Endpoint
from ocspd.authority.api.dispatch import Dispatcher
from ocspd.authority.api.endpoints import build_endpoints
from ocspd.authority.audit.log import AuditLog
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from ocspd.errors import OCSPDError
from ocspd.ops.server import HTTPServer
from ocspd.pki.auth import AuthKey
from ocspd.pki.config_json import parse_config
from tests.authority.api import make_backend
from tests.authority.audit.logs import entries, opened
from tests.authority.cfssl import AUTH_KEY, CONFIG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.authority.access.policy import Policy
    from ocspd.authority.api.api_response import Success
    from ocspd.authority.api.call import Document

PREFIX = "/api/v1/cfssl/"
ISSUER, ISSUER_HASH = new_token()
REVOKER, REVOKER_HASH = new_token()
ADMIN, ADMIN_HASH = new_token()
AUDITOR, AUDITOR_HASH = new_token()
HMAC = AuthKey(bytes.fromhex("00112233445566778899aabbccddeeff"))

ACCESS: dict[str, Any] = {
    "clients": {
        "issuer": {"token": ISSUER_HASH, "issue": ["client"]},
        "revoker": {"token": REVOKER_HASH, "revoke": True},
        "admin": {"token": ADMIN_HASH, "administer": True},
        "auditor": {"token": AUDITOR_HASH, "read": True},
        "legacy": {"auth_key": "h", "issue": ["default"], "revoke": True},
        "web": {"certificate": {"CN": "The client"}, "issue": ["client"]},
    }
}
SETTINGS = CONFIG | {
    "auth_keys": CONFIG["auth_keys"] | {"h": {"type": "standard", "key": HMAC.key.hex()}},
    "access": ACCESS,
}


def policy_of(access: dict[str, Any] = ACCESS) -> Policy:
    data = json.dumps(SETTINGS | {"access": access}).encode()
    signing = parse_config(data)
    policy = parse_access(data, signing.auth_keys, signing.profiles)
    assert policy is not None
    return policy


class API:
    """The API on a port, and how to call it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, csr: str) -> None:
        self.url, self._session, self.csr = url, session, csr

    async def call(
        self, name: str, body: Any = None, *, token: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        fields = dict(headers or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        method = "GET" if name == "health" else "POST"
        data = None if method == "GET" else json.dumps({} if body is None else body).encode()
        async with self._session.request(
            method, f"{self.url}{PREFIX}{name}", data=data, headers=fields
        ) as reply:
            text = await reply.text()
            self.headers = reply.headers
            return reply.status, json.loads(text) if text.startswith("{") else {"text": text}

    async def status(self, name: str, body: Any = None, *, token: str = "") -> int:
        return (await self.call(name, body, token=token))[0]


def copy_material(material: Path, folder: Path) -> None:
    for path in material.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps(SETTINGS))


@asynccontextmanager
async def api(
    material: Path,
    folder: Path,
    *,
    policy: Policy | None,
    rate: RateLimit | None = None,
    audit: AuditLog | None = None,
) -> AsyncIterator[API]:
    copy_material(material, folder)
    async with await open_certdb(DBConfig("sqlite3", str(folder / "certs.db")), SystemClock()) as db:
        await migrate.up(db)
        endpoints = build_endpoints(make_backend(folder, db))
        server = HTTPServer(Dispatcher(Guard(policy, rate=rate, audit=audit).protect(endpoints)), drain_s=2.0)
        await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session:
                csr = (material / "leaf.csr").read_text()
                yield API(f"http://127.0.0.1:{server.port}", session, csr)
        finally:
            await server.stop()


def wrapped(body: dict[str, Any], key: AuthKey) -> dict[str, str]:
    inner = json.dumps(body).encode()
    return {
        "token": base64.b64encode(key.token(inner)).decode(),
        "request": base64.b64encode(inner).decode(),
    }


async def test_every_endpoint_that_changes_something_demands_a_client(material: Path, tmp_path: Path) -> None:
    async with api(material, tmp_path, policy=policy_of()) as client:
        for name in ("sign", "newcert", "revoke", "newkey", "init_ca", "ocspsign"):
            for body in ({}, {"certificate_request": client.csr}, {"request": {"CN": "x"}}, {"serial": "1"}):
                status, reply = await client.call(name, body)
                assert (status, name) in {(401, name), (400, name)}
                assert not reply["success"]
                assert set(reply) == {"success", "result", "errors", "messages"}
        status, reply = await client.call("sign", {"certificate_request": client.csr})
        assert (status, reply["errors"][0]) == (401, {"code": 401, "message": "authentication required"})
        assert client.headers["WWW-Authenticate"] == 'Bearer realm="ocspd"'
        assert await client.status("health") == 200
        assert await client.status("info") == 200


async def test_a_token_gives_the_rights_of_its_client_and_no_others(material: Path, tmp_path: Path) -> None:
    async with api(material, tmp_path, policy=policy_of()) as client:
        sign = {"certificate_request": client.csr, "profile": "client"}
        new = {"request": {"CN": "x", "hosts": ["x"]}, "profile": "client"}
        revoke = {"serial": "1", "authority_key_id": "aa", "reason": "superseded"}
        requests = {"sign": sign, "newcert": new, "revoke": revoke, "newkey": {"CN": "x"}}
        table = {
            ISSUER: {"sign": 200, "newcert": 200, "revoke": 403, "newkey": 403},
            REVOKER: {"sign": 403, "newcert": 403, "revoke": 400, "newkey": 403},
            ADMIN: {"sign": 403, "newcert": 403, "revoke": 403, "newkey": 200},
            AUDITOR: {"sign": 403, "newcert": 403, "revoke": 403, "newkey": 403},
            new_token()[0]: {"sign": 401, "newcert": 401, "revoke": 401, "newkey": 401},
        }
        for token, expected in table.items():
            found = {name: await client.status(name, body, token=token) for name, body in requests.items()}
            assert found == expected
        _, reply = await client.call("revoke", revoke, token=ISSUER)
        assert reply["errors"][0] == {"code": 403, "message": "client issuer may not call revoke"}
        _, reply = await client.call("revoke", revoke, token=REVOKER)
        assert reply["errors"][0]["code"] == 11200


@pytest.mark.parametrize("profile", ["", "default", "ocsp", "no-such-profile"])
@pytest.mark.parametrize("endpoint", ["sign", "newcert"])
async def test_a_client_issues_only_with_its_profiles(
    material: Path, tmp_path: Path, endpoint: str, profile: str
) -> None:
    async with api(material, tmp_path, policy=policy_of()) as client:
        body = {"certificate_request": client.csr, "request": {"CN": "x"}, "profile": profile}
        status, reply = await client.call(endpoint, body, token=ISSUER)
        assert status == 403
        name = profile if profile == "ocsp" else "default"
        assert reply["errors"][0]["message"] == f"client issuer may not issue with the profile {name}"


async def test_a_token_does_not_replace_the_key_of_a_profile(material: Path, tmp_path: Path) -> None:
    access = {"clients": {"all": {"token": ISSUER_HASH, "issue": ["*"]}}}
    async with api(material, tmp_path, policy=policy_of(access)) as client:
        body = {"certificate_request": client.csr, "request": {"CN": "x"}, "profile": "authed"}
        for endpoint in ("sign", "newcert"):
            status, reply = await client.call(endpoint, body, token=ISSUER)
            assert (status, reply["errors"][0]["message"]) == (400, "authentication required")


async def test_an_hmac_is_accepted_by_every_endpoint_and_gives_its_clients_rights(
    material: Path, tmp_path: Path
) -> None:
    async with api(material, tmp_path, policy=policy_of()) as client:
        sign = {"certificate_request": client.csr}
        assert await client.status("sign", wrapped(sign, HMAC)) == 200
        assert await client.status("sign", wrapped(sign | {"profile": "client"}, HMAC)) == 403
        assert await client.status("newcert", wrapped({"request": {"CN": "x"}}, HMAC)) == 200
        assert await client.status("newkey", wrapped({"CN": "x"}, HMAC)) == 403
        revoke = {"serial": "1", "authority_key_id": "aa", "reason": "superseded"}
        _, reply = await client.call("revoke", wrapped(revoke, HMAC))
        assert reply["errors"][0]["code"] == 11200
        changed = wrapped(revoke, HMAC)
        changed["request"] = base64.b64encode(json.dumps(revoke | {"serial": "2"}).encode()).decode()
        for bad in (
            changed,
            wrapped(revoke, AuthKey(b"another key")),
            wrapped(sign, HMAC) | {"token": "AA=="},
        ):
            assert await client.status("revoke", bad) == 401


async def test_authsign_goes_on_working_for_who_has_the_key_of_a_profile(
    material: Path, tmp_path: Path
) -> None:
    key = AuthKey(bytes.fromhex(AUTH_KEY))
    body = {"certificate_request": (material / "leaf.csr").read_text(), "profile": "authed"}
    async with api(material, tmp_path, policy=policy_of()) as client:
        assert await client.status("authsign", wrapped(body, key)) == 200
        status, reply = await client.call("authsign", wrapped(body, HMAC))
        assert (status, reply["errors"][0]["message"]) == (400, "invalid token")
        assert (
            await client.status("newcert", wrapped({"request": {"CN": "x"}, "profile": "authed"}, key)) == 200
        )
        assert await client.status("newcert", wrapped({"request": {"CN": "x"}}, key)) == 401
        assert await client.status("revoke", wrapped({"serial": "1"}, key)) == 401


async def test_a_key_that_a_client_has_gives_its_rights_only(material: Path, tmp_path: Path) -> None:
    key = AuthKey(bytes.fromhex(AUTH_KEY))
    body = {"certificate_request": (material / "leaf.csr").read_text(), "profile": "authed"}
    new = {"request": {"CN": "x"}, "profile": "authed"}
    for issue, status in ((["authed"], 200), (["client"], 403), ([], 403)):
        access = {"clients": {"k": {"auth_key": "k", "issue": issue}}}
        async with api(material, tmp_path, policy=policy_of(access)) as client:
            assert await client.status("authsign", wrapped(body, key)) == status
            assert await client.status("newcert", wrapped(new, key)) == status


async def test_newcert_honours_the_key_of_a_profile_without_any_policy(
    material: Path, tmp_path: Path
) -> None:
    key = AuthKey(bytes.fromhex(AUTH_KEY))
    new = {"request": {"CN": "x"}, "profile": "authed"}
    async with api(material, tmp_path, policy=None) as client:
        assert await client.status("newcert", wrapped(new, key)) == 200
        for body, text in ((new, "authentication required"), (wrapped(new, HMAC), "invalid token")):
            status, reply = await client.call("newcert", body)
            assert (status, reply["errors"][0]["message"]) == (400, text)


@pytest.mark.parametrize(
    "field",
    ["Basic dXNlcjpwdw==", "Bearer", "Bearer ", f"bearer {new_token()[0]}", "Negotiate x", f"{ISSUER}"],
)
async def test_an_authorization_that_is_not_understood_is_401(
    material: Path, tmp_path: Path, field: str
) -> None:
    async with api(material, tmp_path, policy=policy_of()) as client:
        body = {"certificate_request": client.csr, "profile": "client"}
        status, _ = await client.call("sign", body, headers={"Authorization": field})
        assert status == 401
        status, _ = await client.call("sign", body, headers={"authorization": f"BEARER {ISSUER}"})
        assert status == 200


async def test_an_endpoint_can_be_opened_and_one_that_is_open_closed(material: Path, tmp_path: Path) -> None:
    access = ACCESS | {"open": ["newkey"], "closed": ["info", "health"]}
    async with api(material, tmp_path, policy=policy_of(access)) as client:
        assert await client.status("newkey", {"CN": "x"}) == 200
        assert await client.status("info") == 401
        assert await client.status("health") == 401
        assert await client.status("info", token=ISSUER) == 403
        assert await client.status("info", token=AUDITOR) == 200


def caller(subject: tuple[Any, ...], **more: Any) -> Caller:
    return Caller(address="192.0.2.7:1234", peer_certificate={"subject": subject, **more})


async def test_a_client_certificate_is_recognized_by_its_rule() -> None:
    seen: list[str] = []

    async def run(_call: Call) -> Success | Document:
        actor = current()
        seen.append(f"{actor.client.name if actor.client else ''} {actor.subject}")
        raise OCSPDError("done")

    guarded = Guard(policy_of()).protect({f"{PREFIX}sign": Endpoint("POST", run)})[f"{PREFIX}sign"]
    good = caller(((("organizationName", "ACME"),), (("commonName", "The client"),)))
    with pytest.raises(OCSPDError, match="done"):
        await guarded.run(Call(caller=good))
    assert seen == ["web O=ACME,CN=The client"]
    for name in ("The client 2", "the client", ""):
        with pytest.raises(OCSPDError, match="authentication required"):
            await guarded.run(Call(caller=caller(((("commonName", name),),))))
    wrong = {"Authorization": f"Bearer {new_token()[0]}"}
    with pytest.raises(OCSPDError, match="invalid token"):  # whatever else identifies it
        await guarded.run(Call(caller=good, headers=wrong))
    assert len(seen) == 1
    assert current().client is None


async def test_too_many_requests_of_a_client_are_429(material: Path, tmp_path: Path) -> None:
    now = [0.0]
    rate = RateLimit(1, lambda: now[0])
    async with api(material, tmp_path, policy=policy_of(), rate=rate) as client:
        found = [await client.status("revoke", {}, token=new_token()[0]) for _ in range(7)]
        assert found == [401] * 5 + [429] * 2  # guesses count for the address
        status, reply = await client.call("health")
        assert (status, reply["errors"][0]) == (429, {"code": 429, "message": "too many requests"})
        assert client.headers["Retry-After"] == "1"
        assert await client.status("revoke", {}, token=REVOKER) == 400  # a client has its own
        now[0] += 1
        assert await client.status("health") == 200


async def test_what_an_authenticated_client_is_refused_is_logged(material: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "audit.log"
    log.parent.mkdir()
    async with (
        AuditLog(opened(log), SystemClock()) as audit,
        api(material, tmp_path, policy=policy_of(), audit=audit) as client,
    ):
        await client.status("revoke", {"serial": "1"}, token=ISSUER)
        await client.status("revoke", {"serial": "1", "authority_key_id": "a"}, token=REVOKER)
        await client.status("sign", {"certificate_request": "x", "profile": "client"}, token=ISSUER)
        await client.status("sign", {}, token=new_token()[0])
        await client.status("info", [], token=ISSUER)
        await client.status("newkey", {"CN": "x"}, token=ADMIN)
    found = [
        {
            name: entry.fields[name]
            for name in ("client", "endpoint", "result", "code")
            if name in entry.fields
        }
        for entry in entries(log)
        if entry.event not in {"start", "stop", "checkpoint"}
    ]
    assert [tuple(each.values()) for each in found] == [
        ("issuer", "revoke", "refused", 403),
        ("revoker", "revoke", "refused", 11200),
        ("issuer", "sign", "refused", 9002),
        ("admin", "newkey", "ok"),
    ]
    text = log.read_text()
    assert all(token not in text for token in (ISSUER, REVOKER, ADMIN))
    assert "PRIVATE KEY" not in text


async def test_with_a_log_that_cannot_be_written_nothing_is_changed_and_reading_works(
    material: Path, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "audit.log"
    log.parent.mkdir()
    async with (
        AuditLog(opened(log), SystemClock()) as audit,
        api(material, tmp_path, policy=None, audit=audit) as client,
    ):
        log.parent.rename(tmp_path / "away")
        status, reply = await client.call("newkey", {"CN": "x"})
        assert status == 503
        assert reply["errors"][0] == {
            "code": 12000,
            "message": "the audit log cannot be written, see the server's log",
        }
        assert await client.status("sign", {"certificate_request": client.csr}) == 503
        assert await client.status("info") == 200
        (tmp_path / "away").rename(log.parent)
        assert await client.status("sign", {"certificate_request": client.csr}) == 200


async def test_no_token_and_no_key_is_in_a_line_of_the_log(
    material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with api(material, tmp_path, policy=policy_of()) as client:
            guess = new_token()[0]
            for token in (ISSUER, guess):
                await client.status("sign", {"certificate_request": client.csr}, token=token)
            await client.status("revoke", wrapped({"serial": "1"}, AuthKey(b"another key")))
    for secret in (ISSUER, guess, HMAC.key.hex(), AUTH_KEY):
        assert secret not in caplog.text


# -- what is open ------------------------------------------------------------------------------------


def protected(policy: Policy | None, *names: str, clients: str = "everybody") -> Protection:
    async def run(_call: Call) -> Success | Document:
        raise AssertionError("nobody calls")

    protection = Protection(lambda: policy, clients=clients)
    protection.renewed()({f"{PREFIX}{name}": Endpoint("POST", run) for name in names})
    return protection


ALL = ("sign", "authsign", "info", "newcert", "revoke", "health", "init_ca")


def test_without_a_policy_the_warning_names_what_is_open() -> None:
    protection = protected(None, *ALL)
    assert protection.open_endpoints == ("sign", "newcert", "revoke", "init_ca")
    warning = protection.warning("10.0.0.1", 8888)
    assert (
        "open without authentication to everybody to 10.0.0.1:8888: sign, newcert, revoke, init_ca" in warning
    )
    assert protected(None, "authsign", "info").warning("10.0.0.1", 8888) == ""


def test_with_a_policy_nothing_is_open_but_what_it_opens() -> None:
    assert protected(policy_of(), *ALL).open_endpoints == ()
    access = ACCESS | {"open": ["newkey", "sign"]}
    assert protected(policy_of(access), *ALL).open_endpoints == ("sign",)


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1", 1), ("0.0.0.0", 3), ("", 3)])
async def test_what_is_open_is_said_again_if_other_machines_can_connect(
    address: str, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ocspd"):
        reminding = asyncio.create_task(remind(protected(None, *ALL), address, 8888, 0.001))
        while len(caplog.records) < said:  # noqa: ASYNC110  (no event)
            await asyncio.sleep(0.001)
        if said == 1:
            await reminding
        reminding.cancel()
        await asyncio.gather(reminding, return_exceptions=True)
    assert all("open without authentication" in record.message for record in caplog.records)
    assert len(caplog.records) == said or said == 3


async def test_nothing_is_said_while_nothing_is_open(caplog: pytest.LogCaptureFixture) -> None:
    await remind(protected(policy_of(), *ALL), "127.0.0.1", 8888)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("ca.example", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(address: str, *, loopback: bool) -> None:
    assert is_loopback(address) == loopback


def test_reading_is_not_changing() -> None:
    assert [name for name in ALL if not changes(name)] == ["info", "health"]
