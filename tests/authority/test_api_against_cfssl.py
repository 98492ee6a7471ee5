"""The same request to Debian's `cfssl serve` and to ours: same status, headers, keys, codes, texts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.authority.api import make_backend, serving
from tests.authority.cfssl import AUTH_KEY, cfssl_serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PREFIX = "/api/v1/cfssl/"


@pytest.fixture(scope="module")
def peer(material: Path) -> Iterator[str]:
    flags = ["-ca", f"{material}/ca.pem", "-ca-key", f"{material}/ca-key.pem"]
    flags += ["-config", f"{material}/config.json"]
    flags += ["-responder", f"{material}/ocsp.pem", "-responder-key", f"{material}/ocsp-key.pem"]
    with cfssl_serve(material, *flags) as url:
        yield url


@pytest.fixture
async def ours(material: Path) -> AsyncIterator[str]:
    async with serving(make_backend(material)) as url:
        yield url


async def ask(url: str, method: str, path: str, body: bytes) -> dict[str, Any]:
    """What of an answer two servers must agree on; values that are made anew are left out."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url + path, data=body, allow_redirects=False) as response,
    ):
        text = await response.text()
        seen: dict[str, Any] = {
            "status": response.status,
            "content-type": response.headers.get("Content-Type"),
            "nosniff": response.headers.get("X-Content-Type-Options"),
            "location": response.headers.get("Location"),
            "newline": text.endswith("\n"),
        }
        try:
            api_response = json.loads(text)
        except ValueError:
            return seen | {"text": text}
        return seen | {
            "keys": list(api_response),
            "success": api_response["success"],
            "errors": api_response["errors"],
            "messages": api_response["messages"],
            "result": shape(api_response["result"]),
        }


def shape(value: Any) -> Any:
    """Keep the keys, their order and the kinds of values; 1.2.0 lacks the SHA-256 sums."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items() if key != "sha-256"]
    return type(value).__name__


def signed(request: str, key: str = AUTH_KEY) -> str:
    token = hmac.new(bytes.fromhex(key), request.encode(), hashlib.sha256).digest()
    return json.dumps(
        {
            "token": base64.b64encode(token).decode(),
            "request": base64.b64encode(request.encode()).decode(),
        }
    )


REQUESTS: list[tuple[str, str, str]] = [
    (method, endpoint, "")
    for endpoint in ("sign", "authsign", "info", "newcert", "newkey", "init_ca", "ocspsign")
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "POST")
]
REQUESTS += [("POST", "sign", body) for body in ("{}", "null", "{", "x", "[]", '"x"', "{} {}", "\xff")]
REQUESTS += [
    ("POST", "sign", '{"certificate_request":5}'),
    ("POST", "sign", '{"certificate_request":"junk"}'),
    ("POST", "sign", '{"certificate_request":"junk","profile":"authed"}'),
    ("POST", "sign", '{"certificate_request":"junk","profile":"nonexistent"}'),
    ("POST", "sign", '{"profile":"authed"}'),
    ("POST", "sign", '{"certificate_request":CSR}'),
    ("POST", "sign", '{"CERTIFICATE_request":CSR,"unknown":{"a":[1]}}'),
    ("POST", "sign", '{"certificate_request":CSR,"profile":"nonexistent"}'),
    ("POST", "sign", '{"certificate_request":CSR,"profile":"authed"}'),
    ("POST", "sign", '{"certificate_request":CSR,"hosts":[1]}'),
    ("POST", "sign", '{"certificate_request":CSR,"hosts":["a.example"],"subject":{"CN":"n"}}'),
    ("POST", "sign", '{"certificate_request":CSR,"hosts":[]}'),
    ("POST", "sign", '{"certificate_request":CSR,"hostname":"a,b"}'),
    ("POST", "sign", '{"certificate_request":CSR,"serial":"5"}'),
    ("POST", "sign", '{"certificate_request":CSR,"subject":5}'),
    ("POST", "sign", '{"certificate_request":CSR,"subject":{"names":5}}'),
    ("POST", "sign", '{"certificate_request":CSR,"bundle":false}'),
    ("POST", "authsign", "{}"),
    ("POST", "authsign", '{"token":"!!","request":"e30="}'),
    ("POST", "authsign", '{"token":"","request":"e30="}'),
    ("POST", "authsign", '{"token":"","request":"eHg="}'),
    ("POST", "authsign", '{"request":5}'),
    ("POST", "authsign", '{"request":"e30"}'),
    ("POST", "authsign", '{"request":"e3 0="}'),
    ("POST", "authsign", '{"request":"eyJwcm9maWxlIjoiYXV0aGVkIn0="}'),
    ("POST", "authsign", '{"timestamp":"x"}'),
    ("POST", "authsign", signed('{"profile":"authed"}')),
    ("POST", "authsign", "SIGNED"),
    ("POST", "authsign", "SIGNED BY ANOTHER"),
    ("POST", "info", "{}"),
    ("POST", "info", '{"profile":"client"}'),
    ("POST", "info", '{"profile":"nonexistent","label":"x"}'),
    ("POST", "info", '{"label":5}'),
    ("POST", "newkey", "{}"),
    ("POST", "newkey", '{"CN":"x","hosts":["x.example"],"key":{"algo":"ecdsa","size":384}}'),
    ("POST", "newkey", '{"CN":"x","key":{"algo":"rsa","size":2048}}'),
    ("POST", "newkey", '{"CN":5}'),
    ("POST", "newkey", '{"ca":{}}'),
    ("POST", "newkey", '{"key":{"algo":"rsa","size":1024}}'),
    ("POST", "newkey", '{"key":{"algo":"ecdsa","size":1}}'),
    ("POST", "newkey", '{"key":{"algo":"foo","size":1024}}'),
    ("POST", "newcert", '{"request":null}'),
    ("POST", "newcert", "{}"),
    ("POST", "newcert", '{"request":5}'),
    ("POST", "newcert", '{"request":{}}'),
    ("POST", "newcert", '{"request":{"CN":"x"},"profile":"client"}'),
    ("POST", "newcert", '{"request":{"CN":"x","hosts":["x.example"]}}'),
    ("POST", "newcert", '{"request":{"ca":{}}}'),
    ("POST", "newcert", '{"request":{"key":{"algo":"rsa","size":1024}}}'),
    ("POST", "init_ca", "{}"),
    ("POST", "init_ca", '{"CN":"x"}'),
    ("POST", "init_ca", '{"names":[{}]}'),
    ("POST", "init_ca", '{"names":[{"C":"FR"}]}'),
    ("POST", "init_ca", '{"CN":"x","key":{"algo":"rsa","size":1024}}'),
    ("POST", "init_ca", '{"CN":"x","ca":{"expiry":"10h","pathlen":1}}'),
    ("POST", "ocspsign", "{}"),
    ("POST", "ocspsign", "x"),
    ("POST", "ocspsign", '{"certificate":"junk"}'),
    ("POST", "ocspsign", '{"certificate":CERT}'),
    ("POST", "ocspsign", '{"certificate":CERT,"status":"unknown"}'),
    ("POST", "ocspsign", '{"certificate":CERT,"status":"typo"}'),
    ("POST", "ocspsign", '{"certificate":CERT,"status":"revoked","reason":1,"revoked_at":"now"}'),
    ("POST", "ocspsign", '{"certificate":CERT,"status":"revoked","revoked_at":"2020-01-01"}'),
    ("POST", "ocspsign", '{"certificate":CERT,"status":"revoked","revoked_at":"2020-1-1"}'),
    ("POST", "ocspsign", '{"certificate":CERT,"status":"revoked","revoked_at":"2020-01-01T00:00:00Z"}'),
    ("POST", "ocspsign", '{"certificate":CERT,"status":"revoked","reason":"1"}'),
    ("POST", "ocspsign", '{"certificate":FOREIGN}'),
    ("POST", "sign/", "{}"),
    ("GET", "nonexistent", ""),
    ("POST", "revoke", "{}"),
    ("GET", "../cfssl//info", ""),
    ("POST", "/info", "{}"),
]


def fill(body: str, material: Path) -> bytes:
    csr = (material / "leaf.csr").read_text()
    authed = json.dumps({"certificate_request": csr, "profile": "authed"})
    if body == "SIGNED":
        return signed(authed).encode()
    if body == "SIGNED BY ANOTHER":
        return signed(authed, AUTH_KEY[::-1]).encode()
    words = {
        "CSR": csr,
        "CERT": (material / "client.pem").read_text(),
        "FOREIGN": (material / "foreign.pem").read_text(),
    }
    for word, text in words.items():
        body = body.replace(f":{word}", f":{json.dumps(text)}")
    return body.encode("latin-1")


@pytest.mark.parametrize("request_", REQUESTS, ids=" ".join)
async def test_both_servers_agree(
    peer: str, ours: str, material: Path, request_: tuple[str, str, str]
) -> None:
    method, path, body = request_
    data = fill(body, material)
    expected = await ask(peer, method, PREFIX + path, data)
    found = await ask(ours, method, PREFIX + path, data)
    for mine, theirs in zip(found.get("errors", []), expected.get("errors", []), strict=True):
        if mine["message"].startswith(f"{theirs['message']}: "):  # ours goes on to say what is wrong
            mine["message"] = theirs["message"]
    assert found == expected


@pytest.mark.parametrize("endpoint", ["info", "newkey", "newcert", "init_ca", "authsign"])
@pytest.mark.parametrize("body", ["{", "x", '{"a":}', "{} {}", "[]"])
async def test_broken_json_has_the_same_status_and_code(
    peer: str, ours: str, endpoint: str, body: str
) -> None:
    expected = await ask(peer, "POST", PREFIX + endpoint, body.encode())
    found = await ask(ours, "POST", PREFIX + endpoint, body.encode())
    for answer in (expected, found):
        for error in answer["errors"]:  # our texts also say where in the document
            error["message"] = "JSON"
    assert found == expected
