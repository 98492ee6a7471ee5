from __future__ import annotations

import asyncio
import contextlib
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from ocspd.client import OCSPClient
from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.model import CertStatus
from ocspd.pki.relying_party import ErrorStatusError, make_request
from tests.pki.chain import NOW, make_chain, pem
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

CHAIN = make_chain()
OTHER = make_chain(name="Other CA", number=1)
LEAF, CA = pem(CHAIN.leaf), pem(CHAIN.ca)
SERIAL = CHAIN.leaf.serial_number


def response(status: CertStatus = CertStatus.GOOD, **fields: Any) -> bytes:
    return CHAIN.signer(certid_hashes=("sha1",)).sign(serial=SERIAL, status=status, **fields)


def client(**options: Any) -> OCSPClient:
    return OCSPClient(clock=ManualClock(NOW), **options)


@asynccontextmanager
async def responder(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def replying(
    body: bytes, seen: list[Any] | None = None, *, status: int = 200, kind: str = "ocsp-response"
) -> Any:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if seen is not None:
            seen.append((request.method, request.raw_path, await request.read()))
        return web.Response(status=status, body=body, content_type=f"application/{kind}")

    return handler


async def test_a_small_request_goes_by_get_with_every_special_character_escaped() -> None:
    seen: list[Any] = []
    async with responder(replying(response(), seen)) as url:
        found = await client().status(LEAF, CA, url=url)
        await client().status(LEAF, CA, url=f"{url}/path/", method="get")
    assert (found.status, found.reason) == (CertStatus.GOOD, "")
    assert {method for method, *_ in seen} == {"GET"}
    for _, path, _ in seen:
        text = path.rpartition("/")[2]
        assert set("+/=") & set(text) == set()
    assert seen[1][1].startswith("/path/")


async def test_a_long_url_and_whoever_asks_for_it_get_post() -> None:
    seen: list[Any] = []
    async with responder(replying(response(CertStatus.REVOKED, reason=1, revoked_at=NOW), seen)) as url:
        found = await client().status(LEAF, CA, url=f"{url}/{'p' * 200}")
        await client().status(LEAF, CA, url=url, method="POST")
    assert (found.status, found.reason) == (CertStatus.REVOKED, "keyCompromise")
    assert found.revoked_at == int(NOW.timestamp())
    assert [(method, body) for method, _, body in seen] == [("POST", make_request(CHAIN.leaf, CHAIN.ca))] * 2


async def test_an_error_status_is_told_apart_from_an_answer() -> None:
    async with responder(replying(bytes.fromhex("30030a0106"))) as url:
        with pytest.raises(ErrorStatusError, match="unauthorized"):
            await client().status(LEAF, CA, url=url)
    async with responder(replying(bytes.fromhex("30030a0101"), status=400)) as url:
        with pytest.raises(ErrorStatusError, match="malformedRequest"):
            await client().status(LEAF, CA, url=url)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (OTHER.signer(certid_hashes=("sha1",)).sign(serial=SERIAL, status=CertStatus.GOOD), "other than"),
        (CHAIN.signer(certid_hashes=("sha1",)).sign(serial=5, status=CertStatus.GOOD), "other than"),
        (response()[:-1] + bytes([response()[-1] ^ 1]), "."),
        (b"garbage", "."),
        (b"", "."),
    ],
)
async def test_what_must_not_be_trusted_is_refused(body: bytes, message: str) -> None:
    async with responder(replying(body)) as url:
        with pytest.raises(OCSPDError, match=message):
            await client().status(LEAF, CA, url=url)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (replying(b"<html>", kind="xhtml+xml"), "HTTP status 200, not with an OCSP response"),
        (replying(b"", status=302, kind="octet-stream"), "HTTP status 302"),
        (replying(b"0" * 200_000), "larger than 100 kB"),
    ],
)
async def test_what_is_no_response_is_named(handler: Any, message: str) -> None:
    async with responder(handler) as url:
        with pytest.raises(CodedError, match=message):
            await client().status(LEAF, CA, url=url)


async def test_a_responder_that_is_away_or_silent_is_7400() -> None:
    with pytest.raises(CodedError, match="cannot connect") as caught:
        await client().status(LEAF, CA, url=f"http://127.0.0.1:{free_port()}")
    assert caught.value.code == Code.CLIENT_HTTP
    silence = asyncio.Event()

    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        await silence.wait()
        return web.Response()

    async with responder(silent) as url:
        with pytest.raises(CodedError, match="did not reply in time"):
            await client(timeout_s=0.2).status(LEAF, CA, url=url)
        silence.set()


@pytest.mark.parametrize(
    ("url", "message"),
    [("", "names no OCSP responder"), ("ftp://x/", "not the URL"), ("http://x y/", "."), ("http://", ".")],
)
async def test_an_unusable_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(OCSPDError, match=message):
        await client().status(LEAF, CA, url=url)
    with pytest.raises(OCSPDError, match="by GET or POST"):
        await client().status(LEAF, CA, url="http://127.0.0.1:1", method="PUT")


@pytest.fixture
def openssl_responder(tmp_path: Path) -> Iterator[str]:
    """`openssl ocsp` with a CA and one revoked certificate, made by openssl too; its URL."""
    openssl = need("openssl")
    made = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    ca = ("-subj", "/CN=CA", "-keyout", "ca-key.pem", "-out", "ca.pem")
    leaf = ("-subj", "/CN=leaf", "-keyout", "k.pem", "-out", "leaf.pem", "-set_serial", "0x1234")
    for names in (ca, (*leaf, "-CA", "ca.pem", "-CAkey", "ca-key.pem")):
        subprocess.run([openssl, *made, *names], cwd=tmp_path, check=True, capture_output=True)
    row = ("R", "491231235959Z", "260101000000Z,superseded", "1234", "unknown", "/CN=leaf")
    (tmp_path / "index.txt").write_text("\t".join(row) + "\n")
    port = free_port()
    words = ("-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca-key.pem")
    with subprocess.Popen(
        [openssl, "ocsp", "-port", str(port), "-nmin", "5", "-ignore_err", *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            # a connection without a request drives it into a loop, so the first request waits
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


async def test_openssls_responder_is_understood(openssl_responder: str, tmp_path: Path) -> None:
    leaf, ca = (tmp_path / "leaf.pem").read_bytes(), (tmp_path / "ca.pem").read_bytes()
    while True:
        with contextlib.suppress(CodedError):  # it has not started yet
            await OCSPClient().status(leaf, ca, url=openssl_responder)
            break
    for method in ("POST", "GET"):
        found = await OCSPClient().status(leaf, ca, url=openssl_responder, method=method)
        assert (found.status, found.reason) == (CertStatus.REVOKED, "superseded")
