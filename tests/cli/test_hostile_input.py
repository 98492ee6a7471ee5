"""Garbage, truncated and mutated files given to every verb that reads files: one framed line, no Python."""

from __future__ import annotations

import base64
import builtins
import json
import random
import re
from typing import TYPE_CHECKING

import pytest

from ocspd.cli.main import main
from tests.pki import encodings as e
from tests.pki.chain import make_chain
from tests.signer.revocation import crl, der, revoked

if TYPE_CHECKING:
    from pathlib import Path

RESPOND = "-ca ca.pem -responder responder.pem -responder-key responder-key.pem"
COMMANDS = {
    "gencert -initca X": "request.json",
    "genkey X": "request.json",
    "selfsign host X": "request.json",
    "gencert -renewca -ca X -ca-key ca-key.pem": "ca.pem",
    "gencert -renewca -ca ca.pem -ca-key X": "ca-key.pem",
    "sign -ca ca.pem -ca-key ca-key.pem X": "leaf.csr",
    "sign -ca X -ca-key ca-key.pem leaf.csr": "ca.pem",
    "sign -ca ca.pem -ca-key X leaf.csr": "ca-key.pem",
    "sign -ca ca.pem -ca-key ca-key.pem -config X leaf.csr": "config.json",
    "info -ca X -ca-key ca-key.pem -config config.json": "ca.pem",
    f"ocspsign {RESPOND} -cert X": "leaf.pem",
    "ocspsign -ca X -responder responder.pem -responder-key responder-key.pem -cert leaf.pem": "ca.pem",
    "ocspsign -ca ca.pem -responder X -responder-key responder-key.pem -cert leaf.pem": "responder.pem",
    "revoke -db-config X -serial 1": "db.json",
    f"index build {RESPOND} -crl X -serials serials -processes 1 -o out": "list.crl",
    f"index build {RESPOND} -index-txt X -processes 1 -o out2": "index.txt",
    f"index build {RESPOND} -serials X -processes 1 -o out3": "serials",
    "index build -responses X -ca ca.pem -o out4": "responses",
    "index lookup index 5 -ca X": "ca.pem",
    "revoke -db-config db.json -cert X": "leaf.pem",
    "gencsr -key ca-key.pem -cert X": "ca.pem",
    "gencsr -cert ca.pem -key X": "ca-key.pem",
    "selfsign host -config X request.json": "config.json",
    "sign -ca ca.pem -ca-key ca-key.pem leaf.csr X": "subject.json",
    "json -f X": "request.json",
}
PYTHON = re.compile(
    r"Traceback|bug in ocspd|\.py\b|ParseError|Warning:|set_int_max|out of range|codec can't|<class|"
    r"object at 0x|\b(" + "|".join(name for name in dir(builtins) if name.endswith("Error")) + r")\b"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    make_chain().write(folder)
    (folder / "leaf.csr").write_text(
        e.pem("CERTIFICATE REQUEST", e.request(attributes=e.requested(e.names(e.dns("a.b")))))
    )
    (folder / "list.crl").write_bytes(der(crl([revoked(5)])))
    request = {"CN": "x", "hosts": ["a.b"], "names": [{"C": "FR", "OID": {"1.2.3": "v"}}]}
    (folder / "subject.json").write_text(json.dumps({"CN": "x", "names": [{"O": "y"}]}))
    (folder / "serials").write_text("5\n6\n0x07\n")
    (folder / "index.txt").write_text("R\t360101000000Z\t260101000000Z,keyCompromise\t05\tunknown\t/CN=x\n")
    (folder / "responses").write_text("MAMKAQY=\n")
    (folder / "request.json").write_text(json.dumps(request))
    policy = {"signing": {"default": {"expiry": "24h", "usages": ["server auth"]}}}
    (folder / "config.json").write_text(json.dumps(policy))
    (folder / "db.json").write_text(json.dumps({"driver": "sqlite3", "data_source": "none.db"}))
    return folder


def mutants(good: bytes, seed: str) -> list[bytes]:
    """Return garbage, and the good file in damaged forms, the same ones for the same seed."""
    chance = random.Random(seed)
    found = [
        b"",
        b"\0",
        b"\xff\xfe",
        b"0",
        b"\x30\x80",
        b"\x30\x84\xff\xff\xff\xff",
        b"[" * 5000,
        b"9" * 5000,
    ]
    found += [good[: len(good) // 2], good[:-1], good + good, good.decode("latin-1").encode("utf-16")]
    for _ in range(8):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        found.append(bytes(data))
    if good.startswith(b"-----BEGIN"):
        head, *body, tail = good.decode().splitlines()
        inner = bytearray(base64.b64decode("".join(body)))
        for position in chance.sample(range(len(inner)), 16):
            damaged = inner.copy()
            damaged[position] ^= 1 << chance.randrange(8)
            found.append(f"{head}\n{base64.encodebytes(damaged).decode()}{tail}\n".encode())
    return found


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("default")
def test_A1_no_input_brings_python_to_light(
    files: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    for data in mutants((files / COMMANDS[command]).read_bytes(), command):
        (files / "X").write_bytes(data)
        code = main(command.split())
        out, err = capsys.readouterr()
        assert code in {0, 1, 2}, (data, err)
        assert not PYTHON.search(err), (data[:300], err)
        assert not PYTHON.search(out), (data[:300], out)
