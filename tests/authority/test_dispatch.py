from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import pytest

from ocspd.authority.api.api_response import Success
from ocspd.authority.api.call import Call, Document, Endpoint, of_body
from ocspd.authority.api.dispatch import Dispatcher, clean_path, common_name
from ocspd.authority.tls import ServerTLS
from ocspd.client.tls import RemoteTLS
from ocspd.errors import Code, CodedError, ConfigError, OCSPDError
from ocspd.ops.server import HEAD_S, HTTPServer
from tests.authority.cfssl import run
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def echo(body: bytes) -> Success:
    return Success(body.decode())


async def page(call: Call) -> Document:
    text = f"{call.path}|{call.query}|{call.headers.get('x-one')}|{call.caller.address.rpartition(':')[0]}"
    return Document(body=text.encode(), content_type="text/html; charset=utf-8", headers={"ETag": '"1"'})


async def unchanged(call: Call) -> Document:
    return Document(status=HTTPStatus.NOT_MODIFIED, headers={"ETag": '"1"'})


async def fail(body: bytes) -> Success:
    raise CodedError(Code.CSR_DECODE_FAILED, "CSR Decode failed")


async def crash(body: bytes) -> Success:
    raise KeyError("inside")


ENDPOINTS = {
    "/api/echo": Endpoint("POST", of_body(echo)),
    "/api/fail": Endpoint("POST", of_body(fail)),
    "/api/crash": Endpoint("POST", of_body(crash)),
    "/pages/*": Endpoint("GET", page, head=True),
    "/pages/unchanged": Endpoint("GET", unchanged),
}


@asynccontextmanager
async def running(
    dispatcher: Dispatcher, context: ssl.SSLContext | None = None, head_s: float = HEAD_S
) -> AsyncIterator[int]:
    http = HTTPServer(dispatcher, ssl_context=context, drain_s=2.0, head_s=head_s)
    await http.start("127.0.0.1", 0)
    try:
        yield http.port
    finally:
        await http.stop()


async def raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def ask(port: int, line: str, body: bytes = b"") -> tuple[bytes, bytes]:
    head = f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await raw(port, head.encode() + body)
    first, _, content = answer.partition(b"\r\n\r\n")
    return first, content


async def test_an_endpoint_answers_its_method_on_its_exact_path() -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        head, body = await ask(port, "POST /api/echo?x=1", b"hi")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert json.loads(body)["result"] == "hi"
        head, body = await ask(port, "GET /api/echo")
        assert head.startswith(b"HTTP/1.1 405 ")
        assert json.loads(body)["errors"] == [{"code": 405, "message": 'Method is not allowed:"GET"'}]
        for target in ("/api/echo/", "/api", "/", "/api/ECHO", "/api/nothing"):
            head, body = await ask(port, f"POST {target}", b"hi")
            assert head.startswith(b"HTTP/1.1 404 "), target
            assert body == b"404 page not found\n"


async def test_head_of_a_wrong_method_has_no_body() -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        head, body = await ask(port, "HEAD /api/echo")
        assert head.startswith(b"HTTP/1.1 405 ")
        assert body == b""


async def test_a_document_is_sent_as_it_is_and_knows_the_call() -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        head, body = await ask(port, "GET /pages/a%20b?x=%201")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b"/pages/a b|x=%201|None|127.0.0.1"
        fields = head.lower().split(b"\r\n")
        assert b"content-type: text/html; charset=utf-8" in fields
        assert b'etag: "1"' in fields
        with_body = next(field for field in fields if field.startswith(b"content-length"))
        head, body = await ask(port, "HEAD /pages/a%20b?x=%201")
        assert (head[:13], body) == (b"HTTP/1.1 200 ", b"")
        assert with_body in head.lower().split(b"\r\n")
        head, body = await ask(port, "GET /pages/unchanged")
        assert (head[:13], body) == (b"HTTP/1.1 304 ", b"")
        for target in ("/pages", "/pages/", "/pages/a/b", "/other/a"):
            head, _ = await ask(port, f"GET {target}")
            assert head.startswith(b"HTTP/1.1 404 "), target
        head, body = await ask(port, "POST /pages/a")
        assert b"\r\nAllow: GET, HEAD\r\n" in head
        assert head.startswith(b"HTTP/1.1 405 ")


LARGE = bytes(range(256)) * 40_000


async def large(call: Call) -> Document:
    return Document(body=LARGE, content_type="application/pkix-crl")


async def test_a_large_document_arrives_whole_and_head_has_its_length() -> None:
    async with running(Dispatcher({"/large": Endpoint("GET", large, head=True)})) as port:
        url = f"http://127.0.0.1:{port}/large"
        async with aiohttp.ClientSession() as session:
            for _ in range(2):  # on one connection
                async with session.get(url) as answer:
                    assert (answer.status, answer.headers["Server"]) == (200, "ocspd")
                    assert answer.headers["Content-Length"] == str(len(LARGE))
                    assert await answer.read() == LARGE
                async with session.head(url) as answer:
                    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(LARGE)))


async def test_a_client_that_does_not_take_a_large_document_is_cut_off() -> None:
    async with running(Dispatcher({"/large": Endpoint("GET", large)}, send_s=-1e6)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(LARGE))
        writer.close()


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("/", "/"),
        ("", "/"),
        ("//api//x", "/api/x"),
        ("/a/./b/../c/", "/a/c/"),
        ("/../..", "/"),
        ("/a/..", "/"),
        ("/a/b/", "/a/b/"),
    ],
)
def test_paths_are_cleaned_as_gos_mux_cleans_them(path: str, cleaned: str) -> None:
    assert clean_path(path) == cleaned


async def test_an_unclean_path_is_redirected_within_the_server() -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        head, body = await ask(port, "GET //api//echo?a=b")
        assert head.startswith(b"HTTP/1.1 301 ")
        assert b"Location: /api/echo?a=b" in head
        assert body == b'<a href="/api/echo?a=b">Moved Permanently</a>.\n\n'
        head, _ = await ask(port, "GET //evil.example/%0d%0aSet-Cookie:x")
        assert b"Location: /evil.example/%0D%0ASet-Cookie:x" in head
        head, body = await ask(port, "GET //%22%3E%3Cscript%3E")
        assert b"<script>" not in body


async def test_the_log_line_ends_in_cfssls_number(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ocspd"):
        async with running(Dispatcher(ENDPOINTS)) as port:
            for path in ("echo", "fail", "crash"):
                await ask(port, f"POST /api/{path}", b"x")
    lines = [re.sub(r"^127\.0\.0\.1:\d+", "PEER", record.message) for record in caplog.records]
    assert lines == [
        'PEER - "POST /api/echo" 200',
        'PEER - "POST /api/fail" 400',
        "request failed: KeyError: 'inside'",
        'PEER - "POST /api/crash" 500',
    ]


async def test_a_crash_is_500_without_details() -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        head, body = await ask(port, "POST /api/crash", b"x")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"inside" not in body
    assert json.loads(body)["errors"][0]["code"] == 0


async def test_a_too_long_body_is_refused_with_413_and_the_limit() -> None:
    async with running(Dispatcher(ENDPOINTS, max_body_bytes=10)) as port:
        assert (await ask(port, "POST /api/echo", b"x" * 10))[0].startswith(b"HTTP/1.1 200")
        head, body = await ask(port, "POST /api/echo", b"x" * 11)
        assert head.startswith(b"HTTP/1.1 413 ")
        assert "longer than 10 bytes" in json.loads(body)["errors"][0]["message"]
        chunked = b"POST /api/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await raw(port, chunked + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_compressed_body_is_not_unpacked() -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        head = b"POST /api/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: gzip\r\n"
        answer = await raw(port, head + b"Content-Length: 2\r\n\r\nhi")
    assert b'"result":"hi"' in answer


async def test_a_body_that_does_not_arrive_is_408() -> None:
    async with running(Dispatcher(ENDPOINTS, body_s=0.05)) as port:
        answer = await raw(port, b"POST /api/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_connection_without_a_request_is_closed() -> None:
    async with running(Dispatcher(ENDPOINTS), head_s=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/echo HT")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()


async def test_requests_beyond_the_limit_are_told_to_come_back() -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    async def wait(body: bytes) -> Success:
        entered.set()
        await gate.wait()
        return Success({})

    async with running(Dispatcher({"/": Endpoint("POST", of_body(wait))}, max_requests=1)) as port:
        first = asyncio.create_task(ask(port, "POST /"))
        await entered.wait()
        head, _ = await ask(port, "POST /")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in head
        gate.set()
        assert (await first)[0].startswith(b"HTTP/1.1 200 ")


async def test_garbage_gets_an_answer_and_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"G /x HTTP/9.9\r\n\r\n"):
            assert b" 400 Bad Request\r\n" in await raw(port, garbage)
    assert capfd.readouterr().err == ""


async def test_stopping_lets_the_request_in_flight_finish() -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    async def wait(body: bytes) -> Success:
        entered.set()
        await gate.wait()
        return Success("done")

    http = HTTPServer(Dispatcher({"/": Endpoint("POST", of_body(wait))}), drain_s=5.0)
    await http.start("127.0.0.1", 0)
    port = http.port
    request = asyncio.create_task(ask(port, "POST /"))
    await entered.wait()
    stopping = asyncio.create_task(http.stop())
    await asyncio.sleep(0.05)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    gate.set()
    assert b'"result":"done"' in (await request)[1]
    await stopping


async def test_a_taken_port_is_one_line_with_the_remedy() -> None:
    async with running(Dispatcher(ENDPOINTS)) as port:
        with pytest.raises(
            OCSPDError, match=rf"cannot listen on 127\.0\.0\.1:{port}: address already in use"
        ):
            await HTTPServer(Dispatcher({})).start("127.0.0.1", port)


@pytest.mark.parametrize("port", [70000, -1])
async def test_an_impossible_port_is_one_line(port: int) -> None:
    with pytest.raises(OCSPDError, match="cannot listen on"):
        await HTTPServer(Dispatcher({})).start("127.0.0.1", port)


# -- TLS -----------------------------------------------------------------------------------------


def tls(material: Path, **more: str) -> ServerTLS:
    return ServerTLS(certificate_file=f"{material}/server.pem", key_file=f"{material}/server-key.pem", **more)


def client_context(material: Path, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(material / "ca.pem"))
    if name:
        context.load_cert_chain(material / f"{name}.pem", material / f"{name}-key.pem")
    return context


async def status_over_tls(port: int, context: ssl.SSLContext) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"https://127.0.0.1:{port}/api/echo", data=b"hi", ssl=context) as response,
    ):
        return response.status, await response.text()


async def test_tls_serves_with_the_given_pair(material: Path) -> None:
    async with running(Dispatcher(ENDPOINTS), tls(material).context()) as port:
        assert (await status_over_tls(port, client_context(material)))[0] == 200


async def test_mutual_tls_demands_a_certificate_of_the_ca(material: Path) -> None:
    context = tls(material, client_ca_file=f"{material}/ca.pem").context()
    async with running(Dispatcher(ENDPOINTS), context) as port:
        assert (await status_over_tls(port, client_context(material, "client")))[0] == 200
        with pytest.raises((aiohttp.ClientError, OSError)):
            await status_over_tls(port, client_context(material))


async def test_another_client_ca_takes_effect_on_the_same_port_and_the_old_one_ends(material: Path) -> None:
    first, second = (
        tls(material, client_ca_file=f"{material}/{ca}.pem").context() for ca in ("ca", "foreign")
    )
    assert first is not None
    assert second is not None
    server = HTTPServer(Dispatcher(ENDPOINTS), ssl_context=first)
    await server.start("127.0.0.1", 0)
    try:
        port = server.port
        assert (await status_over_tls(port, client_context(material, "client")))[0] == 200
        await server.use_tls(second)
        assert server.port == port
        with pytest.raises((aiohttp.ClientError, OSError)):
            await status_over_tls(port, client_context(material, "client"))
        await server.use_tls(first)
        assert (await status_over_tls(port, client_context(material, "client")))[0] == 200
    finally:
        await server.stop()


@pytest.mark.parametrize(("pattern", "status"), [("client", 200), ("^client$", 403), ("^The cl", 200)])
async def test_mutual_tls_cn_is_searched_in_the_common_name(
    material: Path, pattern: str, status: int
) -> None:
    settings = tls(material, client_ca_file=f"{material}/ca.pem", client_cn=pattern)
    dispatcher = Dispatcher(ENDPOINTS, client_cn=settings.pattern())
    async with running(dispatcher, settings.context()) as port:
        found, body = await status_over_tls(port, client_context(material, "client"))
    assert found == status
    assert (body == "Invalid CN\n") == (status == 403)


@pytest.mark.parametrize(
    ("expression", "name", "admitted"),
    [
        ("^admin$", "admin", True),
        ("^admin$", "admin\n", False),
        ("^admin$", "admin\r\n", False),
        ("^admin$", "x\nadmin", False),
        ("^admin$", "\u0430dmin", False),
        ("^admin$", "admin\0", False),
        ("(?i)^admin$", "\uff21dmin", False),
        (r"\Aadmin\z", "admin", True),
        (r"\Aadmin\z", "admin\n", False),
        (r"^node-\d+$", "node-17", True),
        (r"^node-\d+$", "node-\u0661\u0667", False),
        (r"^\w+$", "\u0430", False),
        (r"^a\sb$", "a\u00a0b", False),
        (r"^a.b$", "a\nb", False),
        (r"^\pL+$", "\u0430", True),
        ("^(a+)+$", "a" * 5000 + "b", False),
        ("^x$", "\udc80", False),
    ],
)
def test_A6_the_expression_of_mutual_tls_cn_is_read_as_in_cfssl(
    expression: str, name: str, *, admitted: bool
) -> None:
    pattern = ServerTLS(client_cn=expression).pattern()
    assert pattern is not None
    assert pattern.is_in(name) == admitted


def test_the_last_common_name_counts_and_none_is_no_certificate() -> None:
    subject = ((("commonName", "a"),), (("organizationName", "o"),), (("commonName", "b"),))
    assert common_name({"subject": subject}) == "b"
    assert common_name({"subject": ()}) == ""
    assert common_name({}) is None
    assert common_name(None) is None


@pytest.mark.parametrize(("version", "ok"), [("1.2", True), ("1.3", False)])
async def test_min_tls_version_refuses_older_clients(material: Path, version: str, *, ok: bool) -> None:
    openssl = need("openssl")
    async with running(Dispatcher({}), tls(material, min_version=version).context()) as port:
        process = await asyncio.create_subprocess_exec(
            openssl,
            "s_client",
            "-connect",
            f"127.0.0.1:{port}",
            "-tls1_2",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
    assert (b"Cipher is (NONE)" not in output and b"Cipher    : 0000" not in output) == ok


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"certificate_file": "a"}, "given together"),
        ({"client_ca_file": "a"}, "require -tls-cert"),
        ({"client_cn": "a"}, "require -tls-cert"),
        ({"certificate_file": "a", "key_file": "b", "client_cn": "c"}, "requires -mutual-tls-ca"),
        ({"certificate_file": "a.pem", "key_file": "b.pem"}, "a.pem, b.pem: not a usable"),
        ({"certificate_file": "a", "key_file": "b", "min_version": "0.9"}, "use one of 1.0, 1.1"),
    ],
)
def test_unusable_tls_settings_are_refused(settings: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ServerTLS(**settings).context()


def test_a_key_of_another_certificate_is_refused(material: Path) -> None:
    settings = ServerTLS(certificate_file=f"{material}/ca.pem", key_file=f"{material}/leaf-key.pem")
    with pytest.raises(ConfigError, match=r"leaf-key\.pem: not a usable TLS certificate and key"):
        settings.context()


def test_an_encrypted_key_is_refused_without_asking_on_the_terminal(material: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    source = f"{material}/server-key.pem"
    run(need("openssl"), "pkcs8", "-topk8", "-in", source, "-out", str(key), "-passout", "pass:x")
    with pytest.raises(ConfigError, match="the private key is encrypted"):
        ServerTLS(certificate_file=f"{material}/server.pem", key_file=str(key)).context()


def test_an_encrypted_tls_key_opens_with_the_password_in_the_environment(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    source = f"{material}/server-key.pem"
    run(need("openssl"), "pkcs8", "-topk8", "-in", source, "-out", str(key), "-passout", "pass:x")
    settings = ServerTLS(certificate_file=f"{material}/server.pem", key_file=str(key))
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "x")
    assert settings.context() is not None
    client = RemoteTLS(certificate_file=f"{material}/server.pem", key_file=str(key))
    assert client.context() is not None
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "y")
    for each in (settings, client):
        with pytest.raises(ConfigError, match=r"key\.pem: not a usable"):
            each.context()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_old_versions_can_be_asked_for(material: Path, version: str) -> None:
    assert tls(material, min_version=version).context() is not None


def test_a_missing_client_ca_and_a_bad_expression_are_named(material: Path) -> None:
    with pytest.raises(ConfigError, match=r"/nonexistent\.pem: not usable"):
        tls(material, client_ca_file="/nonexistent.pem").context()
    with pytest.raises(ConfigError, match=r"-mutual-tls-cn '\('"):
        tls(material, client_ca_file="x", client_cn="(").pattern()


def test_no_tls_flags_mean_no_tls() -> None:
    assert ServerTLS().context() is None
    assert ServerTLS().pattern() is None
