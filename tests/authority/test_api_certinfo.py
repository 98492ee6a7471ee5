"""`certinfo` of Debian's `cfssl serve` and of ours: same status, headers, keys, codes and texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ocspd.authority.api.endpoints import Backend
from ocspd.clock import SystemClock
from tests.authority import corpus
from tests.authority.api import serving
from tests.authority.cfssl import cfssl_serve
from tests.authority.test_api import error_of, result_of, with_database
from tests.authority.test_api_against_cfssl import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/api/v1/cfssl/certinfo"
PEM = corpus.armour("CERTIFICATE", corpus.certificate(extensions=(corpus.SKI, corpus.AKI))).decode()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cfssl_serve(tmp_path_factory.mktemp("peer")) as url:
        yield url


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("POST", {"certificate": PEM}),
        ("POST", {"certificate": PEM, "domain": "x", "serial": "1"}),
        ("POST", {"certificate": ""}),
        ("POST", {"certificate": None}),
        ("POST", {"certificate": "junk"}),
        ("POST", {"certificate": PEM.replace("M", "N", 1)}),
        ("POST", {"Certificate": PEM}),
        ("POST", {"certificate": 5}),
        ("POST", {"certificate": PEM, "other": ["x"]}),
        ("POST", {"certificate": PEM, "other": {"x": 1}}),
        ("POST", {"certificate": PEM, "other": True}),
        ("POST", {}),
        ("POST", None),
        ("POST", []),
        ("POST", "x"),
        ("POST", 5),
        ("POST", {"serial": "1"}),
        ("POST", {"authority_key_id": "00"}),
        ("GET", {"certificate": PEM}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_both_servers_reply_alike(peer: str, method: str, body: Any) -> None:
    data = json.dumps(body).encode()
    async with serving(Backend(clock=SystemClock())) as ours:
        mine = await ask(ours, method, PATH, data)
    theirs = await ask(peer, method, PATH, data)
    for error in mine.get("errors", []):
        # the text of an error may go on after CFSSL's words
        start = theirs["errors"][0]["message"]
        if error["message"].startswith(start):
            error["message"] = start
    assert mine == theirs


@pytest.mark.parametrize("body", [b"", b"{", b"x", b'{"certificate":"x"} {}'])
async def test_text_that_is_not_json_is_500_with_code_0_as_in_cfssl(peer: str, body: bytes) -> None:
    async with serving(Backend(clock=SystemClock())) as ours:
        mine = await ask(ours, "POST", PATH, body)
    theirs = await ask(peer, "POST", PATH, body)
    assert mine["status"] == theirs["status"] == 500
    assert mine["errors"][0]["code"] == theirs["errors"][0]["code"] == 0


async def test_a_stored_certificate_is_found(material: Path, tmp_path: Path) -> None:
    async with with_database(material, tmp_path) as (url, _):
        csr = (material / "leaf.csr").read_text()
        signed = await result_of(url, "sign", {"certificate_request": csr})
        shown = await result_of(url, "certinfo", {"certificate": signed["certificate"]})
        assert shown["pem"] == signed["certificate"]
        asked = {"serial": shown["serial_number"], "authority_key_id": shown["authority_key_id"]}
        assert await result_of(url, "certinfo", asked) == shown
        missing = {**asked, "serial": "12345"}
        assert await error_of(url, "certinfo", missing) == (500, 0, "no certificate found")


async def test_without_a_database_nothing_is_looked_up() -> None:
    async with serving(Backend(clock=SystemClock())) as url:
        asked = {"serial": "1", "authority_key_id": "00"}
        expected = (500, 0, "cannot lookup certificate from serial without db access")
        assert await error_of(url, "certinfo", asked) == expected


@pytest.mark.parametrize("domain", ["127.0.0.1:1", "localhost:1", "[::1]:1", "169.254.169.254", "10.0.0.1"])
async def test_private_hosts_are_not_asked(domain: str) -> None:
    async with serving(Backend(clock=SystemClock())) as url:
        status, code, text = await error_of(url, "certinfo", {"domain": domain})
    assert (status, code) == (500, 0)
    assert "no public address" in text
