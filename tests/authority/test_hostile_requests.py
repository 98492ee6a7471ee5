"""Requests that are made to hold up the API: each gets an answer, and other clients do not notice.

What others notice is how long the event loop is busy in one piece. That is measured in the CPU time of its
thread, which a busy machine does not change.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509

from tests.authority import corpus
from tests.authority.api import make_backend, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PREFIX = "/api/v1/cfssl/"
LONGEST_S = 0.1
PEM = "-----BEGIN CERTIFICATE REQUEST-----\n"
END = "-----END CERTIFICATE REQUEST-----\n"
SIZE = 900_000


@pytest.fixture
async def ours(material: Path) -> AsyncIterator[str]:
    async with serving(make_backend(material)) as url:
        yield url


async def answer(url: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(url + PREFIX + path, data=body) as response:
        return response.status, await response.json(content_type=None)


async def longest_step(task: asyncio.Task[Any]) -> float:
    """The longest CPU time the loop's thread spends between two turns, until the task is done."""
    longest = 0.0
    before = time.thread_time()
    while not task.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
    return longest


def sign(csr: str, **others: Any) -> bytes:
    return json.dumps({"certificate_request": csr, **others}).encode()


def certinfo(certificate: bytes) -> tuple[str, bytes]:
    return "certinfo", json.dumps(
        {"certificate": corpus.armour("CERTIFICATE", certificate).decode()}
    ).encode()


def giant_oid() -> str:
    """A PEM block of an element whose object identifier has one number of a million bits."""
    octets = b"\x81" * 130_000 + b"\x01"
    length = len(octets).to_bytes(3, "big")
    return PEM + base64.b64encode(b"\x06\x83" + length + octets).decode() + "\n" + END


REQUESTS = {
    "BEGIN without END": ("sign", sign("-----BEGIN A-----\n" * (SIZE // 20))),
    "BEGIN with one END": ("sign", sign(PEM * (SIZE // 40) + END)),
    "PEM headers": ("sign", sign(PEM + "a: b\n" * (200_000 // 5) + "\nAAAA\n" + END)),
    "giant OID": ("sign", sign(giant_oid())),
    "quoted host": ("newcert", json.dumps({"request": {"hosts": ['"' + "a" * SIZE + '"@b']}}).encode()),
    "open quote in a host": ("newkey", json.dumps({"hosts": ['"' + '\\"' * (SIZE // 5)]}).encode()),
    "comments in a host": ("newkey", json.dumps({"hosts": ["a@b" + "()" * (SIZE // 2)]}).encode()),
    "many hosts": ("sign", sign(PEM + END, hosts=["a.example.com"] * (SIZE // 20))),
    "duration": ("init_ca", json.dumps({"CN": "a", "ca": {"expiry": "1" * 40_000}}).encode()),
    "duration of many terms": ("init_ca", json.dumps({"CN": "a", "ca": {"expiry": "0h" * 40_000}}).encode()),
    "deep JSON": ("sign", b"[" * 10_000),
    "deep objects": ("info", b'{"a":' * 10_000),
    "long number": ("sign", b'{"certificate_request":"x","serial":' + b"9" * SIZE + b"}"),
    "many numbers": ("newkey", b'{"x":[' + b"9" * 900 + b",9" * (SIZE // 2) + b"]}"),
    "escapes": ("sign", b'{"certificate_request":"' + b"\\ud800" * (SIZE // 6) + b'"}'),
    "many objects": ("sign", b'{"a":[' + b"{}," * (SIZE // 3) + b"{}]}"),
    "many lines": ("info", b"\n" * SIZE + b"x"),
    "many names": ("newcert", json.dumps({"request": {"names": [{"O": "x"}] * 40_000}}).encode()),
    "many parts of a subject": ("newkey", json.dumps({"names": [{"OU": "x" * 20}] * 25_000}).encode()),
    "long name": ("newcert", json.dumps({"request": {"CN": "x" * SIZE, "hosts": ["a"]}}).encode()),
    "many extensions": (
        "newkey",
        json.dumps({"extensions": [{"Id": [1, 2, 3], "Value": "AAAA"}] * 18_000}).encode(),
    ),
    "many keys": ("sign", json.dumps({f"k{number}": number for number in range(SIZE // 16)}).encode()),
    "OID of a CSR": ("newkey", json.dumps({"names": [{"OID": {"1." * (SIZE // 2): "a"}}]}).encode()),
    "many names of a certificate": certinfo(corpus.certificate(subject=corpus.name(*[corpus.ODD] * 20_000))),
    "many alternative names": certinfo(corpus.certificate(extensions=(corpus.san([corpus.DNS] * 60_000),))),
    "many addresses": certinfo(corpus.certificate(extensions=(corpus.san([corpus.IPV6] * 35_000),))),
    "base64": ("authsign", json.dumps({"token": "A" * (SIZE // 2), "request": "A" * (SIZE // 2)}).encode()),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_A5_one_request_does_not_hold_up_the_others(ours: str, name: str) -> None:
    path, body = REQUESTS[name]
    assert len(body) < 1 << 20
    task = asyncio.create_task(answer(ours, path, body))
    longest = await longest_step(task)
    status, api_response = await task
    assert status in {200, 400}, api_response
    assert longest < LONGEST_S


@pytest.mark.parametrize("path", ["sign", "authsign", "info", "newcert", "newkey", "init_ca", "ocspsign"])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000,
        b'{"profile":NaN}',
        b'{"profile":Infinity}',
        b'{"profile":-Infinity}',
        b'{"profile":"\xff',
        b'\xef\xbb\xbf{"profile":"client"}',
        '{"profile":"client"}'.encode("utf-16"),
        b'{"profile":"client","profile":"authed"}',
        b'{"profile":"client","pro\\u0066ile":"authed"}',
        b'{"label":"a","label":null}',
        b'{"serial":' + b"9" * 5000,
        b"{} {}",
        b"\x00",
    ],
)
async def test_A1_a_body_that_is_no_json_is_400_in_words_of_ours(ours: str, path: str, body: bytes) -> None:
    status, api_response = await answer(ours, path, body)
    assert (status, api_response["success"], api_response["errors"][0]["code"]) == (400, False, 400)
    text = api_response["errors"][0]["message"]
    assert not any(
        word in text for word in ("Expecting", "sys.", "int_max", "codec", "utf-8-sig", "Traceback")
    )


async def test_A1_a_body_of_100_MB_is_refused_before_it_is_read(ours: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * (1 << 20)

    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(f"{ours}{PREFIX}sign", data=pieces()) as response:
                assert response.status == 413
        except aiohttp.ClientOSError:
            pass  # the server closed while the client was still sending
        async with session.get(f"{ours}{PREFIX}health") as response:
            assert response.status == 200


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb", "\\ud83dx"])
async def test_A1_half_a_surrogate_pair_is_replaced_as_in_go(ours: str, text: str) -> None:
    subject = f'"CN":"{text}","names":[{{"O":"{text}"}}]'
    body = f'{{"request":{{{subject},"hosts":["h"]}},"profile":"client"}}'
    status, api_response = await answer(ours, "newcert", body.encode())
    assert (status, api_response["errors"]) == (200, [])


async def test_A7_a_key_given_twice_chooses_no_other_profile(ours: str, material: Path) -> None:
    csr = json.dumps((material / "leaf.csr").read_text())
    for second in ("profile", "pro\\u0066ile"):
        for values in (("client", "ocsp"), ("ocsp", "client"), ("client", "client")):
            body = f'{{"certificate_request":{csr},"profile":"{values[0]}","{second}":"{values[1]}"}}'
            status, api_response = await answer(ours, "sign", body.encode())
            assert status == 400, api_response


@pytest.mark.parametrize("second", ["Profile", "PROFILE", "PRO\\u0046ILE"])
async def test_A7_of_one_key_in_two_cases_the_last_is_checked_and_signed_with(
    ours: str, material: Path, second: str
) -> None:
    csr = json.dumps((material / "leaf.csr").read_text())

    async def asked(first: str, last: str) -> tuple[int, dict[str, Any]]:
        body = f'{{"certificate_request":{csr},"profile":"{first}","{second}":"{last}"}}'
        return await answer(ours, "sign", body.encode())

    for first, last, hours in (("client", "ocsp", 720), ("ocsp", "client", 1), ("authed", "client", 1)):
        status, api_response = await asked(first, last)
        assert status == 200, api_response
        made = x509.load_pem_x509_certificate(api_response["result"]["certificate"].encode())
        assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(hours=hours)
    status, api_response = await asked("client", "authed")
    assert (status, api_response["errors"][0]["message"]) == (400, "authentication required")
