"""Every verb that takes a key takes an encrypted one; `file:` and `env:` where CFSSL takes them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, open_certdb
from ocspd.certdb.migrate import up
from ocspd.clock import SystemClock
from tests.binary import ocspd
from tests.pki.chain import make_chain
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = {"CFSSL_CA_PK_PASSWORD": "correct horse"}

LINES = {
    "gencert": "gencert -ca ca.pem -ca-key {ca} csr.json",
    "sign": "sign -ca ca.pem -ca-key {ca} leaf.csr",
    "info": "info -ca ca.pem -ca-key {ca} -config config.json",
    "gencert -initca": "gencert -initca -ca-key {ca} csr.json",
    "gencert -renewca": "gencert -renewca -ca ca.pem -ca-key {ca}",
    "gencsr": "gencsr -key {ca} csr.json",
    "gencsr -cert": "gencsr -key {ca} -cert ca.pem",
    "crl": "crl -db-config db.json -ca ca.pem -ca-key {ca}",
    "gencrl": "gencrl serials ca.pem {ca}",
    "ocspsign": "ocspsign -ca ca.pem -responder responder.pem -responder-key {responder} -cert leaf.pem",
    "ocsprefresh": (
        "ocsprefresh -db-config db.json -ca ca.pem -responder responder.pem -responder-key {responder}"
    ),
}
"""By verb: a command line with the name of a key that it takes."""

PREFIXED = {
    "gencert": "gencert -ca {ca} -ca-key {ca-key} csr.json",
    "sign": "sign -ca {ca} -ca-key {ca-key} leaf.csr",
    "info": "info -ca {ca} -ca-key {ca-key} -config config.json",
    "gencert -initca": "gencert -initca -ca-key {ca-key} csr.json",
    "gencert -renewca": "gencert -renewca -ca {ca} -ca-key {ca-key}",
    "gencsr": "gencsr -key {ca-key} csr.json",
    "gencsr -cert": "gencsr -key {ca-key} -cert {ca}",
    "crl": "crl -db-config db.json -ca {ca} -ca-key {ca-key}",
    "ocspsign": "ocspsign -ca {ca} -responder responder.pem -responder-key responder-key.pem -cert leaf.pem",
    "ocsprefresh": (
        "ocsprefresh -db-config db.json -ca {ca} -responder responder.pem -responder-key responder-key.pem"
    ),
}
"""The same with every file that may be named with a prefix, as in CFSSL."""


PKCS7 = {
    "gencert": "gencert -ca ca.p7 -ca-key ca-key.pem csr.json",
    "sign": "sign -ca ca.p7 -ca-key ca-key.pem leaf.csr",
    "gencert -renewca": "gencert -renewca -ca ca.p7 -ca-key ca-key.pem",
    "gencsr -cert": "gencsr -key ca-key.pem -cert ca.p7",
    "crl": "crl -db-config db.json -ca ca.p7 -ca-key ca-key.pem",
    "gencrl": "gencrl serials ca.p7 ca-key.pem",
    "certinfo": "certinfo -cert leaf.p7",
    "ocspsign": "ocspsign -ca ca.p7 -responder responder.p7 -responder-key responder-key.pem -cert leaf.p7",
}
"""The same with every certificate as PKCS #7 in PEM."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a chain, its keys plain and encrypted in both forms, a request and a database."""
    path = tmp_path_factory.mktemp("keys")
    make_chain().write(path)
    (path / "csr.json").write_text('{"CN": "x", "hosts": ["x.example"]}')
    (path / "config.json").write_text('{"signing": {"default": {"expiry": "1h", "usages": ["signing"]}}}')
    (path / "serials").write_text("17\n")
    (path / "leaf.csr").write_text(json.loads(ocspd("genkey", "csr.json", cwd=path).stdout)["csr"])
    (path / "db.json").write_text(json.dumps({"driver": "sqlite3", "data_source": "certs.db"}))
    for name in ("ca", "responder"):
        for form, words in (("legacy", ["-traditional"]), ("pkcs8", [])):
            command = [need("openssl"), "pkey", "-in", f"{name}-key.pem", "-aes256", *words]
            command += ["-passout", f"pass:{PASSWORD['CFSSL_CA_PK_PASSWORD']}", "-out", f"{name}-{form}.pem"]
            subprocess.run(command, cwd=path, check=True, timeout=60)

    for name in ("ca", "leaf", "responder"):
        command = [need("openssl"), "crl2pkcs7", "-nocrl", "-certfile", f"{name}.pem", "-out", f"{name}.p7"]
        subprocess.run(command, cwd=path, check=True, timeout=60)

    async def make_database() -> None:
        async with await open_certdb(DBConfig("sqlite3", str(path / "certs.db")), SystemClock()) as db:
            await up(db)

    asyncio.run(make_database())
    return path


@pytest.mark.parametrize("form", ["legacy", "pkcs8"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_verb_opens_an_encrypted_key_with_the_password_in_the_environment(
    folder: Path, line: str, form: str
) -> None:
    words = line.format(**{name: f"{name}-{form}.pem" for name in ("ca", "responder")}).split()
    done = ocspd(*words, cwd=folder, env=PASSWORD)
    assert done.returncode == 0, done.stderr
    refused = ocspd(*words, cwd=folder, env={"CFSSL_CA_PK_PASSWORD": ""})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert '"code":2100' in refused.stderr
    assert "CFSSL_CA_PK_PASSWORD" in refused.stderr
    wrong = ocspd(*words, cwd=folder, env={"CFSSL_CA_PK_PASSWORD": "incorrect"})
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "x509: decryption password incorrect" in wrong.stderr
    assert '"code"' not in wrong.stderr


@pytest.mark.parametrize("prefix", ["file:", "env:"])
@pytest.mark.parametrize("line", PREFIXED.values(), ids=PREFIXED)
def test_a_verb_takes_files_and_variables_where_cfssl_does(folder: Path, line: str, prefix: str) -> None:
    names = ("ca", "ca-key")
    variables = {f"OCSPD_TEST_{name.upper()}": (folder / f"{name}.pem").read_text() for name in names}
    given = {
        name: f"file:{name}.pem" if prefix == "file:" else f"env:OCSPD_TEST_{name.upper()}" for name in names
    }
    done = ocspd(*line.format(**given).split(), cwd=folder, env=variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", PKCS7.values(), ids=PKCS7)
def test_a_certificate_may_be_pkcs7_where_cfssl_takes_that(folder: Path, line: str) -> None:
    done = ocspd(*line.split(), cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", PREFIXED.values(), ids=PREFIXED)
def test_a_path_that_begins_like_a_drive_needs_a_prefix(folder: Path, line: str) -> None:
    for name in ("ca", "ca-key"):
        (folder / f"C:{name}.pem").write_bytes((folder / f"{name}.pem").read_bytes())
    names = ("ca", "ca-key")
    done = ocspd(*line.format(**{name: f"C:{name}.pem" for name in names}).split(), cwd=folder)
    assert done.returncode == 1
    assert "unknown prefix 'C'; write file:C:" in done.stderr
    again = ocspd(*line.format(**{name: f"file:C:{name}.pem" for name in names}).split(), cwd=folder)
    assert again.returncode == 0, again.stderr
