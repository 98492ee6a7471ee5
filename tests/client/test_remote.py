from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from cryptography import x509

from ocspd.client.api import APIClient
from ocspd.client.tls import RemoteTLS
from ocspd.client.transport import parse_address, parse_addresses
from ocspd.errors import Code, CodedError, ConfigError
from tests.authority.cfssl import AUTH_KEY, cfssl_serve
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

REQUEST: dict[str, Any] = {"csr": "PEM", "profile": "client", "label": "l"}
GOOD = {"success": True, "result": {"certificate": "CERT\n"}, "errors": [], "messages": []}


class HMACKey:
    """An authenticator written here, so that the protocol is checked and not our own code."""

    def token(self, data: bytes) -> bytes:
        return hmac.new(bytes.fromhex(AUTH_KEY), data, hashlib.sha256).digest()


@asynccontextmanager
async def fake_server(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def answering(status: int, body: str, seen: list[Any] | None = None) -> Any:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if seen is not None:
            seen.append((request.path, await request.json()))
        return web.Response(status=status, text=body)

    return handler


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost", "http://localhost:8888"),
        ("localhost:8888", "http://localhost:8888"),
        ("127.0.0.1:8888", "http://127.0.0.1:8888"),
        ("127.0.0.1", "http://127.0.0.1:8888"),
        ("http://ca.example", "http://ca.example:8888"),
        ("https://ca.example", "https://ca.example:8888"),
        ("https://ca.example:443/", "https://ca.example:443"),
        ("[2001:db8::1]:99", "http://[2001:db8::1]:99"),
        ("[2001:db8::1]", "http://[2001:db8::1]:8888"),
        ("2001:db8::1", "http://[2001:db8::1]:8888"),
        (" ca.example:1 ", "http://ca.example:1"),
    ],
)
def test_an_address_becomes_a_url_with_scheme_and_port(text: str, url: str) -> None:
    assert parse_address(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://x",
        "http://",
        "http://u@x",
        "x:99999",
        "x:0",
        "x:y",
        "http://x/path",
        "http://x?q=1",
        "[::1",
    ],
)
def test_an_unusable_address_is_refused_with_5300(text: str) -> None:
    with pytest.raises(CodedError, match="failed to connect to remote") as caught:
        parse_address(text)
    assert caught.value.code == Code.POLICY_INVALID_REQUEST


def test_a_comma_list_keeps_its_order() -> None:
    assert parse_addresses("b,a:1,") == ("http://b:8888", "http://a:1")


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(CodedError, match="no address"):
        parse_addresses(" , ")


async def test_sign_posts_cfssls_request_and_returns_the_certificate() -> None:
    seen: list[Any] = []
    async with fake_server(answering(200, json.dumps(GOOD), seen)) as address:
        assert await APIClient(address).sign(**REQUEST) == "CERT\n"
    assert seen == [
        (
            "/api/v1/cfssl/sign",
            {"hosts": None, "certificate_request": "PEM", "profile": "client", "label": "l"},
        )
    ]


async def test_hosts_subject_serial_and_crl_url_are_sent_when_given() -> None:
    seen: list[Any] = []
    async with fake_server(answering(200, json.dumps(GOOD), seen)) as address:
        client = APIClient(address)
        await client.sign("P", hosts=["a"], subject={"CN": "x"}, serial=5, crl_url="http://crl.example/")
    assert seen[0][1] == {
        "hosts": ["a"],
        "certificate_request": "P",
        "subject": {"CN": "x"},
        "profile": "",
        "crl_override": "http://crl.example/",
        "label": "",
        "serial": 5,
    }


async def test_an_authenticator_makes_it_authsign_with_an_hmac_over_the_sent_bytes() -> None:
    seen: list[Any] = []
    async with fake_server(answering(200, json.dumps(GOOD), seen)) as address:
        await APIClient(address, auth_key=HMACKey()).sign(**REQUEST)
    path, outer = seen[0]
    assert path == "/api/v1/cfssl/authsign"
    inner = base64.b64decode(outer["request"])
    assert json.loads(inner)["certificate_request"] == "PEM"
    assert base64.b64decode(outer["token"]) == HMACKey().token(inner)
    assert isinstance(outer["timestamp"], int)


def api_response(message: str, code: int = 5300) -> str:
    errors = [{"code": code, "message": message}]
    return json.dumps({"success": False, "result": None, "errors": errors, "messages": []})


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (500, "oops\n", Code.CLIENT_HTTP, "oops\n"),
        (302, "", Code.CLIENT_HTTP, "HTTP status 302"),
        (
            400,
            api_response("no such profile"),
            Code.CLIENT_HTTP,
            r"^no such profile \(the server's code 5300\)$",
        ),
        (
            400,
            api_response('{"code":9002,"message":"bad \\"CSR\\""}'),
            Code.CLIENT_HTTP,
            r'^bad "CSR" \(the server\'s code 9002\)$',
        ),
        (400, api_response(""), Code.CLIENT_HTTP, "HTTP status 400"),
        (400, "[" * 100_000, Code.CLIENT_HTTP, r"^\[\["),
        (400, '{"errors":[7],"message":7}', Code.CLIENT_HTTP, "errors"),
        (
            200,
            api_response('{"code":5,"message":"in"}'),
            Code.CLIENT_SERVER_FAILED,
            r"^in \(the server's code 5\)$",
        ),
        (200, "junk", Code.CLIENT_JSON, "invalid character"),
        (200, "[]", Code.CLIENT_JSON, "cannot unmarshal array"),
        (200, '{"success":true,"result":{}}', Code.CLIENT_JSON, "no certificate"),
        (200, '{"success":true,"result":5}', Code.CLIENT_JSON, "not an object"),
        (200, '{"success":true,"result":null}', Code.CLIENT_SERVER_FAILED, "Server request failed"),
        (200, '{"success":false,"errors":[{"code":1,"message":"no"}]}', Code.CLIENT_SERVER_FAILED, "^no "),
        (200, '{"success":false}', Code.CLIENT_SERVER_FAILED, "Server request failed"),
    ],
)
async def test_failures_carry_cfssls_client_codes(status: int, body: str, code: Code, text: str) -> None:
    async with fake_server(answering(status, body)) as address:
        with pytest.raises(CodedError) as caught:
            await APIClient(address).sign(**REQUEST)
    assert caught.value.code == code
    assert re.search(text, caught.value.message)


async def test_nobody_listening_is_7400_naming_the_url() -> None:
    port = free_port()
    with pytest.raises(CodedError) as caught:
        await APIClient(f"127.0.0.1:{port}").sign(**REQUEST)
    assert caught.value.code == Code.CLIENT_HTTP
    assert caught.value.message == (
        f"failed POST to http://127.0.0.1:{port}/api/v1/cfssl/sign: "
        f"cannot connect to 127.0.0.1, port {port}: connection refused"
    )


async def test_a_server_that_never_answers_is_given_up() -> None:
    gate = asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        await gate.wait()
        return web.Response()

    async with fake_server(hang) as address:
        with pytest.raises(CodedError, match="timed out"):
            await APIClient(address, timeout_s=0.2).sign(**REQUEST)
        gate.set()


async def test_the_next_address_is_asked_after_any_error_and_the_last_error_is_reported() -> None:
    seen: list[Any] = []
    no = '{"success":false,"errors":[{"code":1,"message":"policy says no"}]}'
    async with (
        fake_server(answering(200, no, seen)) as first,
        fake_server(answering(200, json.dumps(GOOD), seen)) as second,
    ):
        group = f"127.0.0.1:{free_port()},{first},{second}"
        assert await APIClient(group).sign(**REQUEST) == "CERT\n"
        assert len(seen) == 2
        with pytest.raises(CodedError, match="policy says no"):
            await APIClient(f"127.0.0.1:{free_port()},{first}").sign(**REQUEST)


async def test_loopback_is_asked_without_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with fake_server(answering(200, json.dumps(GOOD))) as address:
        assert await APIClient(address).sign(**REQUEST) == "CERT\n"


async def test_the_proxy_of_the_environment_is_used_for_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with fake_server(answering(200, json.dumps(GOOD))) as address:
        monkeypatch.setenv("http_proxy", f"http://{address}")
        assert await APIClient("ca.invalid").sign(**REQUEST) == "CERT\n"


async def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with fake_server(answering(407, "")) as address:
        monkeypatch.setenv("https_proxy", f"http://user:opensesame@{address}")
        with pytest.raises(CodedError) as caught:
            await APIClient("https://ca.invalid").sign(**REQUEST)
    assert caught.value.message.endswith(
        "the proxy that https_proxy names refuses to connect: HTTP status 407"
    )
    assert "opensesame" not in caught.value.message


async def test_a_too_long_answer_is_cut_off() -> None:
    async with fake_server(answering(200, "x" * (17 << 20))) as address:
        with pytest.raises(CodedError, match="larger than 16 MiB") as caught:
            await APIClient(address).sign(**REQUEST)
    assert caught.value.code == Code.CLIENT_IO


async def test_tls_with_client_certificate(material: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(material / "ca.pem"))
    context.load_cert_chain(material / "server.pem", material / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    ca = str(material / "ca.pem")
    async with fake_server(answering(200, json.dumps(GOOD)), context) as address:
        pair = RemoteTLS(
            ca_file=ca,
            certificate_file=str(material / "client.pem"),
            key_file=str(material / "client-key.pem"),
        )
        assert await APIClient(f"https://{address}", tls=pair).sign(**REQUEST) == "CERT\n"
        with pytest.raises(CodedError) as caught:
            await APIClient(f"https://{address}", tls=RemoteTLS(ca_file=ca)).sign(**REQUEST)
        assert caught.value.code == Code.CLIENT_HTTP
        with pytest.raises(
            CodedError,
            match=r"not trusted: self-signed certificate in certificate chain \(set -tls-remote-ca",
        ):
            await APIClient(f"https://{address}").sign(**REQUEST)


async def test_plain_http_to_a_tls_port_says_so(material: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(material / "server.pem", material / "server-key.pem")
    async with fake_server(answering(200, "{}"), context) as address:
        with pytest.raises(CodedError, match="does the server speak https"):
            await APIClient(address).sign(**REQUEST)


@pytest.mark.parametrize(
    "tls",
    [
        RemoteTLS(ca_file="/nonexistent/ca.pem"),
        RemoteTLS(ca_file="{material}/ca-key.pem"),
        RemoteTLS(certificate_file="{material}/ca.pem", key_file="{material}/leaf-key.pem"),
    ],
)
def test_unusable_tls_files_are_named(material: Path, tls: RemoteTLS) -> None:
    real = RemoteTLS(
        ca_file=tls.ca_file.format(material=material),
        certificate_file=tls.certificate_file.format(material=material),
        key_file=tls.key_file.format(material=material),
    )
    with pytest.raises(ConfigError, match=r"\.pem"):
        APIClient("https://x", tls=real)


def test_a_client_certificate_without_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="given together"):
        RemoteTLS(certificate_file="a").context()


async def test_debians_cfssl_serve_signs_for_us(material: Path) -> None:
    flags = ("-ca", f"{material}/ca.pem", "-ca-key", f"{material}/ca-key.pem")
    csr = (material / "leaf.csr").read_text()
    with cfssl_serve(material, *flags, "-config", f"{material}/config.json") as url:
        signer = APIClient(url)
        certificate = x509.load_pem_x509_certificate((await signer.sign(csr, profile="client")).encode())
        with pytest.raises(CodedError, match="authentication required") as caught:
            await signer.sign(csr, profile="authed")
        authed = APIClient(url, auth_key=HMACKey())
        assert "CERTIFICATE" in await authed.sign(csr, profile="authed")
        info = await signer.info(profile="client")
    ca = x509.load_pem_x509_certificate((material / "ca.pem").read_bytes())
    certificate.verify_directly_issued_by(ca)
    assert caught.value.code == Code.CLIENT_HTTP
    assert x509.load_pem_x509_certificate(info.certificate.encode()) == ca
    assert (info.usages, info.expiry) == (("signing", "client auth"), "1h")
