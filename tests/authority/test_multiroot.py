from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import signal
import subprocess
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ocspd.app import build_multiroot
from ocspd.authority.api.dispatch import Dispatcher
from ocspd.authority.tls import ServerTLS
from ocspd.certdb import DBConfig, open_certdb
from ocspd.certdb.migrate import up
from ocspd.client.api import APIClient
from ocspd.clock import SystemClock
from ocspd.config import MultiRootConfig
from ocspd.errors import CodedError, ConfigError
from ocspd.ops.server import HTTPServer
from ocspd.pki.auth import AuthKey
from ocspd.pki.csr import make_csr, new_key, parse_request
from tests.authority.cfssl import run, wait_for_port
from tests.binary import OCSPD, ocspd
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PREFIX = "/api/v1/cfssl/"
KEYS = {"a": "0123456789ABCDEF0123456789ABCDEF", "b": "FEDCBA9876543210FEDCBA9876543210"}
ZERO = "0001-01-01T00:00:00Z"


def signing(key: str) -> dict[str, Any]:
    """A signing configuration as for multirootca: everything that can be used needs the key."""
    return {
        "signing": {
            "default": {"expiry": "1h", "usages": ["client auth"], "auth_key": "k"},
            "profiles": {
                "server": {
                    "expiry": "2h",
                    "usages": ["server auth"],
                    "auth_key": "k",
                    "allowed_extensions": ["1.2.3.4"],
                },
                "open": {"expiry": "1h", "usages": ["server auth"]},
            },
        },
        "auth_keys": {"k": {"type": "standard", "key": key}},
    }


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A roots file with the CAs a and b, which have different keys for clients."""
    text = ""
    for label, key in KEYS.items():
        made = ocspd("gencert", "-initca", "-", stdin=json.dumps({"CN": f"root {label}"}))
        fields = json.loads(made.stdout)
        (tmp_path / f"{label}.pem").write_text(fields["cert"])
        (tmp_path / f"{label}-key.pem").write_text(fields["key"])
        (tmp_path / f"{label}.json").write_text(json.dumps(signing(key)))
        text += f"[ {label} ]\nprivate = file://{tmp_path}/{label}-key.pem\n"
        text += f"certificate = {tmp_path}/{label}.pem\nconfig = {tmp_path}/{label}.json\n"
    (tmp_path / "roots.conf").write_text(text)
    return tmp_path / "roots.conf"


@asynccontextmanager
async def serving(roots: Path, default_label: str = "") -> AsyncIterator[str]:
    """Serve the CAs in this process and yield the base URL."""
    config = MultiRootConfig(
        roots=str(roots), default_label=default_label, allow_rsa_1024=False, tls=ServerTLS()
    )
    async with build_multiroot(config, SystemClock()) as service:
        dispatcher = Dispatcher(await service._endpoints())
        server = HTTPServer(dispatcher, drain_s=2.0, refuse_method=dispatcher.refuse_method)
        await server.start("127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            await server.stop()


def add(roots: Path, text: str) -> None:
    """Add to the last section, which is that of b."""
    roots.write_text(roots.read_text() + text)


def a_csr(**fields: Any) -> str:
    request = parse_request(json.dumps({"CN": "leaf", "hosts": ["leaf.example"], **fields}).encode())
    return make_csr(request, new_key(request)[0])


def authenticated(request: dict[str, Any] | str, key: str) -> str:
    """The body of authsign for a request, or for its exact text."""
    text = request if isinstance(request, str) else json.dumps(request)
    token = hmac.new(bytes.fromhex(key), text.encode(), hashlib.sha256).digest()
    return json.dumps(
        {"token": base64.b64encode(token).decode(), "request": base64.b64encode(text.encode()).decode()}
    )


async def post(url: str, endpoint: str, body: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}{PREFIX}{endpoint}", data=body) as reply,
    ):
        return reply.status, json.loads(await reply.text())


async def signed(url: str, request: dict[str, Any], key: str) -> x509.Certificate:
    status, reply = await post(url, "authsign", authenticated(request, key))
    assert status == 200, reply
    assert list(reply["result"]) == ["certificate"]
    return x509.load_pem_x509_certificate(reply["result"]["certificate"].encode())


async def refused(url: str, body: str) -> tuple[int, int, str]:
    status, reply = await post(url, "authsign", body)
    assert (reply["success"], reply["result"], reply["messages"]) == (False, None, [])
    (error,) = reply["errors"]
    return status, error["code"], error["message"]


async def scrape(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as reply:
        assert reply.status == 200
        return await reply.text()


def issuer(label: str) -> str:
    return f"CN=root {label}"


async def test_the_label_chooses_the_root_and_without_one_the_default_label_does(roots: Path) -> None:
    csr = a_csr()
    async with serving(roots, "b") as url:
        for label, expected in (("a", "a"), ("b", "b"), ("", "b")):
            request = {"certificate_request": csr, "label": label, "profile": "server"}
            made = await signed(url, request, KEYS[expected])
            assert made.issuer.rfc4514_string() == issuer(expected)


async def test_what_kubernetes_cfssl_issuer_sends_is_signed(roots: Path) -> None:
    # The form of CFSSL's own library: every member is there, most of them empty.
    request = {
        "hosts": None,
        "certificate_request": a_csr(),
        "profile": "server",
        "crl_override": "",
        "label": "a",
        "NotBefore": ZERO,
        "NotAfter": ZERO,
        "ReturnPrecert": False,
        "metadata": None,
        "bundle": False,
    }
    async with serving(roots) as url:
        made = await signed(url, request, KEYS["a"])
        status, reply = await post(url, "info", json.dumps({"label": "a", "profile": "server"}))
    assert made.not_valid_after_utc - made.not_valid_before_utc == timedelta(hours=2)
    assert status == 200
    assert reply["result"]["certificate"] == (roots.parent / "a.pem").read_text().strip()
    assert (reply["result"]["usages"], reply["result"]["expiry"]) == (["server auth"], "2h")


@pytest.mark.parametrize("profile", ["", "server"])
async def test_a_key_of_one_root_does_not_work_for_another(roots: Path, profile: str) -> None:
    request = {"certificate_request": a_csr(), "label": "b", "profile": profile}
    async with serving(roots, "a") as url:
        assert await refused(url, authenticated(request, KEYS["a"])) == (400, 1, "invalid token")
        assert (await signed(url, request, KEYS["b"])).issuer.rfc4514_string() == issuer("b")


async def test_two_labels_in_one_request_do_not_confuse_whose_key_counts(roots: Path) -> None:
    csr = json.dumps(a_csr())
    text = f'{{"certificate_request":{csr},"label":"a","Label":"b"}}'
    async with serving(roots) as url:
        assert await refused(url, authenticated(text, KEYS["a"])) == (400, 1, "invalid token")
        status, reply = await post(url, "authsign", authenticated(text, KEYS["b"]))
    made = x509.load_pem_x509_certificate(reply["result"]["certificate"].encode())
    assert (status, made.issuer.rfc4514_string()) == (200, issuer("b"))


async def test_a_key_that_two_roots_share_is_reported(roots: Path, caplog: pytest.LogCaptureFixture) -> None:
    (roots.parent / "b.json").write_text(json.dumps(signing(KEYS["a"])))
    with caplog.at_level(logging.WARNING, "ocspd"):
        async with serving(roots):
            pass
    assert "a, b have an auth key in common" in caplog.text


@pytest.mark.parametrize(
    ("request_", "key", "expected"),
    [
        ({"label": "c"}, "a", (400, 1, "bad request")),
        ({}, "a", (400, 1, "bad request")),  # there is no default label
        ({"label": "a", "profile": "nope"}, "a", (400, 1, "invalid profile")),
        ({"label": "a", "profile": "open"}, "a", (401, 1, "authorisation required")),
        ({"label": "a"}, "b", (400, 1, "invalid token")),
        ({"label": "a", "certificate_request": ""}, "a", (400, 1, "invalid request")),
        ({"label": "a", "certificate_request": "junk"}, "a", (400, 1, "bad request")),
        ({"label": "a", "extensions": [{"id": "1.2.3.4", "value": "0500"}]}, "a", (400, 1, "bad request")),
    ],
)
async def test_refusals_have_multirootcas_status_code_and_text(
    roots: Path, request_: dict[str, Any], key: str, expected: tuple[int, int, str]
) -> None:
    async with serving(roots) as url:
        body = authenticated({"certificate_request": a_csr(), **request_}, KEYS[key])
        assert await refused(url, body) == expected


@pytest.mark.parametrize(
    "body",
    [
        "{",
        '{"request":"!"}',
        authenticated("[]", KEYS["a"]),
        authenticated({"label": 5}, KEYS["a"]),
        authenticated({"extensions": [{"id": "x"}]}, KEYS["a"]),
        authenticated({"extensions": [{"id": "1.2", "value": "x"}]}, KEYS["a"]),
        authenticated({"NotBefore": "soon"}, KEYS["a"]),
        authenticated({"ReturnPrecert": 1}, KEYS["a"]),
    ],
)
async def test_what_cannot_be_read_is_400_with_code_1(roots: Path, body: str) -> None:
    async with serving(roots) as url:
        assert (await refused(url, body))[:2] == (400, 1)


@pytest.mark.parametrize("text", ["soon", "2026-11-27", "2026-11-27T00:00:00", "2026-W48-5T00:00:00"])
@pytest.mark.parametrize("field", ["NotBefore", "NotAfter"])
async def test_a_time_without_an_offset_is_refused(roots: Path, field: str, text: str) -> None:
    async with serving(roots) as url:
        body = authenticated({"certificate_request": a_csr(), field: text}, KEYS["a"])
        wanted = f"json: {field} is not a time such as 2006-01-02T15:04:05Z"
        assert await refused(url, body) == (400, 1, wanted)


async def test_return_precert_gets_the_precertificate(roots: Path) -> None:
    request = {"certificate_request": a_csr(), "label": "a", "profile": "server", "ReturnPrecert": True}
    async with serving(roots) as url:
        made = await signed(url, request, KEYS["a"])
    assert made.extensions.get_extension_for_class(x509.PrecertPoison).critical


async def test_the_whole_request_of_cfssls_library_is_honoured(roots: Path, tmp_path: Path) -> None:
    database = DBConfig("sqlite3", str(tmp_path / "certs.db"))
    async with await open_certdb(database, SystemClock()) as db:
        await up(db)
    (tmp_path / "db.json").write_text(json.dumps({"driver": "sqlite3", "data_source": database.data_source}))
    add(roots, f"dbconfig = {tmp_path}/db.json\n")
    request = {
        "certificate_request": a_csr(),
        "hosts": ["other.example"],
        "hostname": "ignored.example",  # multirootca does not have it
        "subject": {"CN": "named"},
        "profile": "server",
        "crl_override": "http://crl.example/b.crl",
        "extensions": [{"id": "1.2.3.4", "critical": False, "value": "0500"}],
        "NotBefore": "2030-01-02T03:04:05Z",
        "NotAfter": "2031-01-02T03:04:05+01:00",
        "metadata": {"owner": "me"},
    }
    async with serving(roots, "b") as url:
        made = await signed(url, request, KEYS["b"])
    assert made.subject.rfc4514_string() == "CN=named"
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["other.example"]
    assert str(made.not_valid_before_utc) == "2030-01-02 03:04:05+00:00"
    assert str(made.not_valid_after_utc) == "2031-01-02 02:04:05+00:00"
    assert b"http://crl.example/b.crl" in made.public_bytes(Encoding.DER)
    assert made.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.2.3.4"))
    async with await open_certdb(database, SystemClock()) as db:
        (row,) = await db.find_certificates(made.serial_number)
    assert (row.ca_label, row.metadata) == ("b", {"owner": "me"})


async def test_only_the_nets_of_a_root_may_use_it_and_info_is_for_everybody(roots: Path) -> None:
    add(roots, "nets = 192.0.2.0/24\n")
    request = {"certificate_request": a_csr(), "label": "b"}
    async with serving(roots) as url:
        assert await refused(url, authenticated(request, KEYS["b"])) == (403, 1, "not authorised")
        await signed(url, {**request, "label": "a"}, KEYS["a"])
        assert (await post(url, "info", '{"label":"b"}'))[0] == 200


async def test_info_of_an_unknown_label_is_cfssls_bad_label(roots: Path) -> None:
    async with serving(roots) as url:
        status, reply = await post(url, "info", '{"label":"x"}')
        assert (status, reply["errors"]) == (400, [{"code": 400, "message": "bad label"}])
        assert (await post(url, "info", "{"))[0] == 400


async def test_what_multirootca_does_not_have_is_404(roots: Path) -> None:
    async with serving(roots) as url, aiohttp.ClientSession() as session:
        for endpoint in ("sign", "revoke", "newcert", "health"):
            async with session.post(f"{url}{PREFIX}{endpoint}", data="{}") as reply:
                assert reply.status == 404
        async with session.get(f"{url}{PREFIX}authsign") as reply:
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")


async def test_the_metrics_have_multirootcas_names_and_promtool_reads_them(roots: Path) -> None:
    request = {"certificate_request": a_csr(), "label": "a"}
    async with serving(roots) as url:
        await signed(url, request, KEYS["a"])
        await refused(url, authenticated(request, KEYS["b"]))
        await refused(url, authenticated({**request, "certificate_request": "x"}, KEYS["a"]))
        await refused(url, authenticated({**request, "label": "made up"}, KEYS["a"]))
        text = await scrape(url)
    assert 'requests_total{operation="sign",signer="a"} 3.0' in text
    assert 'requests_errored_total{operation="sign",signer="a"} 1.0' in text
    assert 'bad_inputs_total{operation="sign"} 3.0' in text
    assert "made up" not in text
    check = ("promtool", "check", "metrics")
    checked = await asyncio.to_thread(run, need(check[0]), *check[1:], stdin=text, check=False)
    assert checked.returncode == 0, checked.stderr + checked.stdout


async def test_our_client_and_debians_find_their_root_by_label(roots: Path, tmp_path: Path) -> None:
    remote = {
        "signing": {
            "default": {"expiry": "1h", "auth_remote": {"remote": "ca", "auth_key": "k"}},
        },
        "auth_keys": {"k": {"type": "standard", "key": KEYS["b"]}},
    }
    (tmp_path / "leaf.csr").write_text(a_csr())
    async with serving(roots) as url:
        remote["remotes"] = {"ca": url}
        (tmp_path / "client.json").write_text(json.dumps(remote))
        words = ["sign", "-config", str(tmp_path / "client.json"), "-label", "b", str(tmp_path / "leaf.csr")]
        for program in ((need("cfssl"),), OCSPD):
            done = await asyncio.to_thread(run, *program, *words, check=False)
            assert done.returncode == 0, done.stderr
            made = x509.load_pem_x509_certificate(json.loads(done.stdout)["cert"].encode())
            assert made.issuer.rfc4514_string() == issuer("b")
        client = APIClient(url, auth_key=AuthKey(bytes.fromhex(KEYS["a"])))
        with pytest.raises(CodedError, match="invalid token"):
            await client.sign(a_csr(), label="b")


@pytest.mark.parametrize(
    ("replaced", "text"),
    [
        ("b.pem", r"roots.conf: \[b\]: .*b.pem"),
        ("b-key.pem", r"roots.conf: \[b\]: .*b-key.pem"),
        ("b.json", r"roots.conf: \[b\]: .*b.json"),
    ],
)
async def test_a_root_that_cannot_be_used_is_named_with_its_file(
    roots: Path, replaced: str, text: str
) -> None:
    (roots.parent / replaced).write_text("broken")
    with pytest.raises(ConfigError, match=text):
        async with serving(roots):
            pass


# -- the program -------------------------------------------------------------------------------------


@contextmanager
def multirootca(roots: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    port, log = free_port(), roots.parent / "multirootca.log"
    command = [*OCSPD, "multirootca", "-a", f"127.0.0.1:{port}", "-roots", str(roots), *flags]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr, env=os.environ) as process:
        try:
            wait_for_port(port, process)
            yield process, f"127.0.0.1:{port}", log
        finally:
            process.kill()


async def test_the_program_serves_reloads_on_sighup_and_ends_with_0_on_sigterm(roots: Path) -> None:
    other = KEYS["a"][::-1]
    request = {"certificate_request": a_csr(), "label": "a"}
    with multirootca(roots, "-l", "a") as (process, address, log):
        await signed(f"http://{address}", request, KEYS["a"])
        (roots.parent / "a.json").write_text(json.dumps(signing(other)))
        process.send_signal(signal.SIGHUP)
        for _ in range(2000):
            if "reloaded every CA" in log.read_text():
                break
            await asyncio.sleep(0.02)
        await signed(f"http://{address}", request, other)
        assert (await refused(f"http://{address}", authenticated(request, KEYS["a"])))[2] == "invalid token"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    text = log.read_text()
    assert "[INFO] loaded signer a\n" in text
    assert f"[INFO] Now listening on {address}" in text
    assert "label=a, profile=, serialno=" in text
    assert KEYS["a"] not in text


def test_the_program_says_what_is_missing() -> None:
    for words, text in (
        ((), "no root file specified"),
        (("-roots", "nowhere.conf"), "open nowhere.conf: no such file"),
        (("-roots", "x", "-a", "here"), "-a 'here': write host:port"),
        (("-roots", "x", "-a", ":99999"), "write host:port"),
        (("-roots", "x", "-tls-cert", "y"), "-tls-cert and -tls-key"),
    ):
        done = ocspd("multirootca", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert ocspd("multirootca", "-ca", "x").returncode == 2
