"""Why a request leaves the fast path: each is counted under one cause, and answered as by aiohttp."""

from __future__ import annotations

import asyncio
import base64

import pytest

from ocspd import metrics
from ocspd._index import Index
from ocspd._responder import Responder
from tests.native import wire
from tests.native.pair import Service
from tests.native.strategies import DERS, ETAGS
from tests.native.world import GOOD, NOW_S, authorities, open_index

CA = authorities()[0]
DER = CA.request(GOOD)
TARGET = "/" + base64.b64encode(DER).decode()
TAG = '"' + ETAGS[1] + '"'
PREFIX = "/ocsp"


def get(*fields: str, target: str = TARGET, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join((f"{method} {target} {version}", "Host: t", *fields, "", "")).encode("latin-1")


def post(body: bytes, *fields: str, target: str = "/") -> bytes:
    return get(f"Content-Length: {len(body)}", *fields, method="POST", target=target) + body


COMMON = {
    "get": get(),
    "head": get(method="HEAD"),
    "post": post(DER),
    "any tag": get("If-None-Match: *"),
    "its tag": get("If-None-Match: " + TAG),
    "its weak tag": get("If-None-Match: W/" + TAG),
    "another tag": get('If-None-Match: "AA"'),
    "an empty tag": get('If-None-Match: ""'),
    "a tag longer than ours": get('If-None-Match: "A' + TAG[1:]),
    "a condition without influence": post(DER, "If-None-Match: *"),
    "malformed": get(target="/!"),
    "health": get(target="/"),
}
LEAVING = {
    "PUT": ("method", get(method="PUT")),
    "absolute form": ("target", get(target="http://t" + TARGET)),
    "a fragment": ("target", get(target=TARGET + "#x")),
    "a query with an octet above 127": ("target", get(target=TARGET + "?\xe9")),
    "a target that does not decode, of odd characters": ("target", get(target='/"')),
    "HTTP/1.2": ("version", get(version="HTTP/1.2")),
    "If-Match": ("header", get("If-Match: *")),
    "Host twice": ("header", get("Host: u")),
    "no condition": ("header", get("If-None-Match:")),
    "a bare tag": ("header", get("If-None-Match: " + TAG[1:-1])),
    "half a tag": ("header", get("If-None-Match: " + TAG[:-1])),
    "a lone quote": ("header", get('If-None-Match: "')),
    "a lone W/": ("header", get("If-None-Match: W/")),
    "a weak lone quote": ("header", get('If-None-Match: W/"')),
    "weak in small": ("header", get("If-None-Match: w/" + TAG)),
    "a list": ("header", get(f'If-None-Match: "A", {TAG}')),
    "two stars": ("header", get("If-None-Match: **")),
    "a tag with a space": ("header", get('If-None-Match: "A B"')),
    "a tag above 127": ("header", get('If-None-Match: "\xe9"')),
    "two conditions": ("header", get('If-None-Match: "A"', 'If-None-Match: "B"')),
    "a list, of a POST": ("header", post(DER, f'If-None-Match: "A", {TAG}')),
    "chunks": ("chunked", get("Transfer-Encoding: chunked", method="POST", target="/") + b"0\r\n\r\n"),
    "Expect": ("expect", post(DER, "Expect: 100-continue")),
    "GET with a body": ("framing", get("Content-Length: 1") + b"x"),
    "POST without a length": ("framing", get(method="POST")),
    "a long target": ("size", get(target="/" + "A" * 4096)),
    "a long body": ("size", post(bytes(10_001))),
    # of several causes the first one counts
    "an odd method with an odd condition": ("method", get("If-None-Match: w", method="PUT")),
    "an odd condition before chunks": (
        "chunked",
        get("If-None-Match: w", "Transfer-Encoding: chunked", method="POST", target="/") + b"0\r\n\r\n",
    ),
    "an odd condition with Expect": ("expect", post(DER, "If-None-Match: w", "Expect: 100-continue")),
}


async def causes(data: bytes, path: str = "/") -> dict[str, int]:
    service = Service(path=path)
    await wire.converse(service.connections, [data])
    return {name: value for name, value in service.counts().items() if name.startswith("slow_")}


@pytest.mark.parametrize("name", COMMON)
def test_a_common_request_does_not_leave_the_fast_path(name: str) -> None:
    assert asyncio.run(causes(COMMON[name])) == {}


@pytest.mark.parametrize("name", LEAVING)
def test_a_request_that_leaves_is_counted_under_one_cause(name: str) -> None:
    cause, data = LEAVING[name]
    assert asyncio.run(causes(data)) == {f"slow_{cause}": 1}


def test_every_cause_has_an_example() -> None:
    assert {cause for cause, _ in LEAVING.values()} == set(metrics.SLOW_CAUSES)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_what_is_outside_the_prefix_leaves_as_a_target(method: str) -> None:
    body = DER if method == "POST" else b""
    fields = [f"Content-Length: {len(body)}"] if body else []
    for target in (TARGET, PREFIX + "x" + TARGET, PREFIX[:-1]):
        data = get(*fields, method=method, target=target) + body
        assert asyncio.run(causes(data, PREFIX)) == {"slow_target": 1}
    data = get(*fields, method=method, target=PREFIX + TARGET) + body
    assert asyncio.run(causes(data, PREFIX)) == {}


def test_an_error_has_the_same_body_above_and_below_http() -> None:
    bodies = {}
    for der in (*DERS, b"", b"\x30"):
        responder = Responder(open_index())
        responder.set_time(NOW_S)
        reply, http = responder.reply_to(der), responder.respond(post(der))
        assert http is not None
        assert http.partition(b"\r\n\r\n")[2] == reply.body
        if not reply.cacheable:
            bodies[reply.outcome] = reply.body.hex()
    assert bodies == {
        "unknown_serial": "30030a0106",
        "unknown_issuer": "30030a0106",
        "malformed": "30030a0101",
        "try_later": "30030a0103",
    }


def test_a_responder_that_knows_nothing_yet_says_try_later() -> None:
    assert Responder(Index([], out_of_service=True)).reply_to(DER).body == bytes.fromhex("30030a0103")
