"""Certificate transparency: precertificate, logs, timestamps, and logs that do not cooperate."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtensionOID

from ocspd.authority import ct_logs
from ocspd.authority.issuing import Authority
from ocspd.clock import ManualClock
from ocspd.errors import CodedError
from ocspd.pki import ca, certs, csr
from ocspd.pki.config_json import parse_config
from ocspd.pki.ct import CTLog, Precertificate
from ocspd.pki.issuer import Issuer, SignRequest
from tests.authority.ct_log import Log, serving, signed_data, spki, without
from tests.binary import OCSPD
from tests.pki.chain import make_key
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ocspd.model import CertificateRow

NOW = datetime(2026, 5, 4, 3, 2, 31, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
PROFILE = {"expiry": "10h", "usages": ["signing", "server auth"]}
LEAF = {"CN": "leaf.example", "hosts": ["leaf.example"]}


class Rows:
    """The database of an authority: it keeps what it is given."""

    connected = True

    def __init__(self) -> None:
        self.stored: list[CertificateRow] = []

    async def get_certificate(self, serial: int, aki: str) -> None:
        del serial, aki

    async def insert_certificates(
        self, rows: Sequence[CertificateRow], answers: Sequence[None]
    ) -> list[None]:
        assert not answers
        self.stored += rows
        return [None] * len(rows)


class World:
    """A CA and logs that accept it, in one process."""

    def __init__(self, *keys: Any) -> None:
        made = ca.init_ca(csr.parse_request(b'{"CN": "root"}'), ManualClock(NOW), make_key("ecdsa-256"))
        self.root = certs.load_certificate(made.cert.encode())
        self.logs = [
            Log(key, [self.root], timestamp=NOW_MS - 5) for key in keys or [make_key("ecdsa-256", 7)]
        ]
        self.rows = Rows()

    def profile(self, *, keys: bool = True, **fields: Any) -> dict[str, Any]:
        """The profile for the logs that are being served, with their keys."""
        known = {"ct_log_keys": {log.url: log.key_text() for log in self.logs}} if keys else {}
        return {**PROFILE, "ct_log_servers": [f"{log.url}/" for log in self.logs], **known, **fields}

    def authority(self, **fields: Any) -> Authority:
        config = parse_config(json.dumps({"signing": {"default": self.profile(**fields)}}).encode())
        clock = ManualClock(NOW)
        issuer = Issuer(self.root, make_key("ecdsa-256"), config, clock)
        return Authority(issuer, self.rows, clock)  # type: ignore[arg-type]  # as much as issuing needs

    async def sign(self, request: SignRequest | None = None, **fields: Any) -> x509.Certificate:
        signed = await self.authority(**fields).sign(request or wanted())
        return x509.load_pem_x509_certificate(signed.cert_pem.encode())

    async def refused(self, **fields: Any) -> str:
        """The reason for which nothing is issued; nothing is stored then."""
        with pytest.raises(CodedError) as caught:
            await self.sign(**fields)
        assert (int(caught.value.code), self.rows.stored) == (10100, [])
        assert self.logs[0].url in caught.value.message
        return caught.value.message


def wanted(fields: dict[str, Any] | None = None, **more: Any) -> SignRequest:
    request = csr.parse_request(json.dumps(fields or LEAF).encode())
    return SignRequest(csr_pem=csr.make_csr(request, make_key("ecdsa-256", 1)), **more)


def check_timestamp(sct: Any, log: Log, tbs: bytes, issuer: x509.Certificate) -> None:
    """Verify one SCT of a certificate as a browser does, with cryptography alone."""
    assert sct.log_id == log.log_id
    assert sct.entry_type is x509.certificate_transparency.LogEntryType.PRE_CERTIFICATE
    assert sct.timestamp.replace(tzinfo=UTC).timestamp() * 1000 == pytest.approx(log.timestamp)
    issuer_key_hash = hashlib.sha256(spki(issuer.public_key())).digest()
    data = signed_data(log.timestamp, issuer_key_hash, tbs, log.extensions)
    if isinstance(log.key, rsa.RSAPrivateKey):
        log.key.public_key().verify(sct.signature, data, padding.PKCS1v15(), hashes.SHA256())
    else:
        log.key.public_key().verify(sct.signature, data, ec.ECDSA(hashes.SHA256()))


async def test_a_certificate_has_the_timestamps_of_all_logs_in_their_order() -> None:
    world = World(make_key("ecdsa-256", 7), make_key("rsa-2048"), make_key("ecdsa-256", 8))
    world.logs[2].extensions = b"\0\1\2"
    async with serving(*world.logs):
        issued = await world.sign()
    extension = issued.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    assert not extension.critical
    assert len(extension.value) == 3
    for sct, log in zip(extension.value, world.logs, strict=True):
        check_timestamp(sct, log, issued.tbs_precertificate_bytes, world.root)
        assert [each.serial_number for each in log.seen] == [issued.serial_number]
        with pytest.raises(x509.ExtensionNotFound):
            log.seen[0].extensions.get_extension_for_oid(ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS)
    with pytest.raises(x509.ExtensionNotFound):
        issued.extensions.get_extension_for_oid(ExtensionOID.PRECERT_POISON)
    issued.verify_directly_issued_by(world.root)
    assert [row.serial for row in world.rows.stored] == [issued.serial_number]
    assert x509.load_pem_x509_certificate(world.rows.stored[0].pem.encode()) == issued


async def test_only_the_poison_and_the_list_tell_precertificate_and_certificate_apart() -> None:
    world = World()
    fields = {**LEAF, "delegation_enabled": True}
    async with serving(*world.logs):
        issued = await world.sign(
            wanted(fields),
            ocsp_url="http://o.example",
            crl_url="http://c.example",
            ocsp_no_check=True,
            policies=[{"ID": "1.2.3.4"}],
        )
    assert issued.tbs_precertificate_bytes == without(
        world.logs[0].seen[0].tbs_certificate_bytes, "1.3.6.1.4.1.11129.2.4.3"
    )
    assert issued.extensions[-1].oid == ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS


async def test_a_log_with_an_unknown_key_is_believed() -> None:
    world = World()
    world.logs[0].change = lambda reply: {**reply, "id": base64.b64encode(bytes(32)).decode()}
    async with serving(*world.logs):
        issued = await world.sign(keys=False)
        world.rows = Rows()
        assert "another log" in await world.refused()
    found = issued.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    assert [sct.log_id for sct in found.value] == [bytes(32)]


def damaged(reply: dict[str, Any]) -> dict[str, Any]:
    signature = bytearray(base64.b64decode(reply["signature"]))
    signature[-1] ^= 1
    return {**reply, "signature": base64.b64encode(bytes(signature)).decode()}


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another signature": (damaged, "does not verify"),
    "another time": (lambda reply: {**reply, "timestamp": reply["timestamp"] - 1}, "does not verify"),
    "extensions that are not signed": (lambda reply: {**reply, "extensions": "AAAA"}, "does not verify"),
    "from the future": (lambda reply: {**reply, "timestamp": NOW_MS + 660_000}, "from the future"),
    "a time beyond 64 bits": (lambda reply: {**reply, "timestamp": 1 << 64}, "no valid timestamp"),
    "a time before the epoch": (lambda reply: {**reply, "timestamp": -1}, "no valid timestamp"),
    "a time that is not a number": (lambda reply: {**reply, "timestamp": True}, "no valid timestamp"),
    "another version": (lambda reply: {**reply, "sct_version": 1}, "not of version 1"),
    "no version": (lambda reply: {**reply, "sct_version": None}, "not of version 1"),
    "a short id": (lambda reply: {**reply, "id": "AAAA"}, "has 3 bytes instead of 32"),
    "an id that is not base64": (lambda reply: {**reply, "id": "???"}, "id is not base64"),
    "no signature": (lambda reply: {**reply, "signature": ""}, "malformed"),
    "a longer signature": (
        lambda reply: {**reply, "signature": base64.b64encode(b"\x04\x03\x00\x05abcd").decode()},
        "malformed",
    ),
    "SHA-1": (
        lambda reply: {**reply, "signature": base64.b64encode(b"\x02\x03\x00\x04abcd").decode()},
        "neither ECDSA nor RSA with SHA-256",
    ),
    "RSA from an EC key": (
        lambda reply: {**reply, "signature": base64.b64encode(b"\x04\x01\x00\x04abcd").decode()},
        "does not verify",
    ),
    "a list": (lambda _: [1], "not the JSON of an SCT"),
    "no JSON": (lambda _: web.Response(text="<html>"), "not the JSON of an SCT"),
    "nothing": (lambda _: web.Response(), "not the JSON of an SCT"),
    "one byte too many": (lambda _: web.Response(text=" " * (64 * 1024 + 1)), "longer than 65536 bytes"),
    "elsewhere": (
        lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        "HTTP status 302",
    ),
    "refused": (lambda _: web.Response(status=400, text="no\nroot\x1b[1m"), "HTTP status 400: 'no root"),
    "an error without a text": (lambda _: web.Response(status=500), "HTTP status 500"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_nothing_is_issued_or_stored_without_a_valid_timestamp(name: str) -> None:
    change, reason = WRONG[name]
    world = World()
    world.logs[0].change = change
    async with serving(*world.logs):
        message = await world.refused()
    assert reason in message
    assert message.isprintable()


async def test_one_log_that_refuses_is_named_whatever_the_others_do() -> None:
    world = World(*(make_key("ecdsa-256", number) for number in (7, 8, 9)))
    world.logs[1].roots = []
    async with serving(*world.logs):
        with pytest.raises(CodedError) as caught:
            await world.sign()
    assert int(caught.value.code) == 10100
    assert f"{world.logs[1].url}: HTTP status 400: the issuer is not accepted here" in caught.value.message
    assert world.rows.stored == []


async def test_the_serial_of_a_precertificate_without_a_certificate_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.logs[0].change = damaged
    async with serving(*world.logs):
        await world.refused()
    assert f"serial number {world.logs[0].seen[0].serial_number} was given to a precertificate" in caplog.text


async def test_logs_that_are_not_there_are_named() -> None:
    world = World()
    async with serving(*world.logs):
        pass
    assert "cannot connect to 127.0.0.1" in await world.refused()


async def test_a_connection_that_is_cut_is_an_error() -> None:
    world = World()

    async def cut() -> web.StreamResponse:
        raise ConnectionResetError

    world.logs[0].replies = [cut]
    async with serving(*world.logs):
        assert "HTTP status 500" in await world.refused()


def precertificate(world: World) -> Precertificate:
    issuer = world.authority(keys=False).issuer
    from ocspd.pki import ct

    draft = issuer.draft(wanted())
    poisoned = issuer.certify(draft, draft.with_extension(ct.poison()))
    return Precertificate.of(poisoned.certificate(), world.root)


class Pauses:
    """A clock for waiting: it records for how long, and does not wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.mark.parametrize("status", [408, 429, 503])
async def test_a_busy_log_is_asked_again(status: int) -> None:
    world, pauses = World(), Pauses()
    world.logs[0].replies = [
        web.Response(status=status, headers={"Retry-After": "7"}),
        web.Response(status=status, headers={"Retry-After": "soon"}),
    ]
    async with serving(*world.logs):
        logs = [CTLog(world.logs[0].url, spki(world.logs[0].key))]
        found = await ct_logs.submit(precertificate(world), logs, ManualClock(NOW), pause=pauses)
    assert [sct.log_id for sct in found] == [world.logs[0].log_id]
    assert pauses.seconds == [7.0, 2.0]


async def test_a_log_that_stays_busy_is_asked_three_times() -> None:
    world, pauses = World(), Pauses()
    world.logs[0].replies = [web.Response(status=503) for _ in range(5)]
    async with serving(*world.logs):
        logs = [CTLog(world.logs[0].url)]
        with pytest.raises(CodedError, match="it is busy: HTTP status 503"):
            await ct_logs.submit(precertificate(world), logs, ManualClock(NOW), pause=pauses)
    assert len(world.logs[0].replies) == 2
    assert pauses.seconds == [1.0, 2.0]


async def test_logs_are_asked_at_the_same_time() -> None:
    """Each reply waits until every log has been asked: one after the other would never end."""
    world = World(make_key("ecdsa-256", 7), make_key("ecdsa-256", 8))
    asked = [asyncio.Event() for _ in world.logs]

    def waiting(number: int) -> Callable[[], Any]:
        async def reply() -> web.StreamResponse:
            asked[number].set()
            await asyncio.gather(*(each.wait() for each in asked))
            return web.Response(status=503, headers={"Retry-After": "0"})

        return reply

    for number, log in enumerate(world.logs):
        log.replies = [waiting(number)]
    async with serving(*world.logs):
        await world.sign()


async def test_a_log_that_never_replies_does_not_hold_a_request_for_ever() -> None:
    world = World()
    never = asyncio.Event()

    async def wait() -> web.StreamResponse:
        await never.wait()
        return web.Response()

    world.logs[0].replies = [wait]
    async with serving(*world.logs):
        with pytest.raises(CodedError, match=r"no SCT within 0\.2 s"):
            await ct_logs.submit(
                precertificate(world), [CTLog(world.logs[0].url)], ManualClock(NOW), total_s=0.2
            )
        never.set()


async def test_return_precert_gives_the_precertificate_and_stores_nothing() -> None:
    world = World()
    async with serving(*world.logs):
        with_logs = await world.sign(wanted(return_precert=True))
        without_logs = await world.sign(wanted(return_precert=True), ct_log_servers=[], keys=False)
    for found in (with_logs, without_logs):
        assert found.extensions.get_extension_for_oid(ExtensionOID.PRECERT_POISON).critical
    assert world.rows.stored == []
    assert world.logs[0].seen == []


async def test_an_issuer_alone_does_not_sign_for_a_profile_with_logs() -> None:
    world = World()
    async with serving(*world.logs):
        authority = world.authority()
    with pytest.raises(CodedError) as caught:
        authority.issuer.sign(wanted())
    assert int(caught.value.code) == 10000


async def test_warnings_about_a_certificate_appear_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    async with serving(*world.logs):
        await world.sign(wanted(profile="no-such"), expiry="100000h")
    assert caplog.text.count("there is no profile") == 1
    assert caplog.text.count("its issuer only until") == 1
    assert caplog.text.count("signed certificate with serial number") == 3  # the root's, and two as in CFSSL


async def test_a_request_cannot_bring_timestamps_or_a_poison_of_its_own() -> None:
    world = World()
    null = base64.b64encode(b"\x05\x00").decode()
    own = [
        {"Id": [1, 3, 6, 1, 4, 1, 11129, 2, 4, last], "Critical": last == 3, "Value": null} for last in (2, 3)
    ]
    allowed = ["1.3.6.1.4.1.11129.2.4.2", "1.3.6.1.4.1.11129.2.4.3"]
    async with serving(*world.logs):
        issued = await world.sign(
            wanted({**LEAF, "extensions": own}), copy_extensions=True, allowed_extensions=allowed
        )
    found = issued.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    assert len(found.value) == 1


# -- through the program -----------------------------------------------------------------------------


async def program(folder: Path, *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *OCSPD, *words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A CA, a CSR and a database."""
    (tmp_path / "ca.json").write_text('{"CN": "root", "key": {"algo": "ecdsa", "size": 256}}')
    (tmp_path / "leaf.json").write_text(json.dumps(LEAF))
    (tmp_path / "db.json").write_text('{"driver": "sqlite3", "data_source": "certs.db"}')
    for words, name in ((("gencert", "-initca", "ca.json"), "ca"), (("genkey", "leaf.json"), "leaf")):
        code, out, err = await program(tmp_path, *words)
        assert code == 0, err
        for key, text in json.loads(out).items():
            ending = {"cert": ".pem", "key": "-key.pem", "csr": ".csr"}[key]
            (tmp_path / f"{name}{ending}").write_text(text)
    code, _, err = await program(tmp_path, "db", "up", "-db-config", "db.json")
    assert code == 0, err
    return tmp_path


def stored(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "certs.db") as db:
        found = [row[0] for row in db.execute("SELECT pem FROM certificates")]
    db.close()
    return found


def openssl(folder: Path, *words: str) -> str:
    done = subprocess.run([need("openssl"), *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_openssl_shows_the_timestamps_that_sign_obtained(folder: Path) -> None:
    root = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    log = Log(make_key("ecdsa-256", 7), [root], timestamp=int(time.time() * 1000))
    async with serving(log):
        profile = {**PROFILE, "ct_log_servers": [log.url], "ct_log_keys": {log.url: log.key_text()}}
        (folder / "config.json").write_text(json.dumps({"signing": {"default": profile}}))
        words = ("-ca", "ca.pem", "-ca-key", "ca-key.pem", "-config", "config.json", "-db-config", "db.json")
        code, out, err = await program(folder, "sign", *words, "leaf.csr")
        assert code == 0, err
        pem = json.loads(out)["cert"]
        assert stored(folder) == [pem]
        log.change = damaged
        code, out, err = await program(folder, "sign", *words, "leaf.csr")
        assert (code, out) == (1, "")
        assert '{"code":10100,"message":"Certificate transparency precertificate submission failed: ' in err
        assert stored(folder) == [pem]
    (folder / "leaf.pem").write_text(pem)
    shown = openssl(folder, "x509", "-noout", "-text", "-in", "leaf.pem")
    assert "CT Precertificate SCTs" in shown
    assert f"Log ID    : {log.log_id[:16].hex(':').upper()}" in shown
    assert "ecdsa-with-SHA256" in shown
    issued = x509.load_pem_x509_certificate(pem.encode())
    found = issued.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    check_timestamp(found.value[0], log, issued.tbs_precertificate_bytes, root)
    assert openssl(folder, "verify", "-x509_strict", "-CAfile", "ca.pem", "leaf.pem") == "leaf.pem: OK\n"
