from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from ocspd.cli.main import main
from tests.binary import ocspd
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from pathlib import Path

KEY = {"key": {"algo": "ecdsa", "size": 256}}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of good files, and of files that are wrong in one way each."""
    directory = tmp_path_factory.mktemp("bad")
    make_chain().write(directory)
    for name in ("directory", "other"):
        (directory / name).mkdir()
    make_chain(name="Other CA", number=1).write(directory / "other")
    contents = {
        "csr.json": json.dumps({"CN": "x", **KEY}),
        "empty": "",
        "junk": "junk\n",
        "curly.json": "{\n \u201cCN\u201d: \u201cx\u201d\n}",
        "type.json": '{"hosts":"a"}',
        "cut.pem": (directory / "ca.pem").read_text()[:200],
        "cut-key.pem": (directory / "ca-key.pem").read_text()[:100],
        "twice.pem": (directory / "ca.pem").read_text() * 2,
        "db.json": json.dumps({"driver": "sqlite3", "data_source": "none.db"}),
        "mysql.json": json.dumps({"driver": "mysql", "data_source": "x"}),
        "oracle.json": json.dumps({"driver": "oracle", "data_source": "x"}),
        "gone.json": json.dumps({"driver": "postgres", "data_source": "postgres://nobody@127.0.0.1:1/x"}),
        "gone-name.json": json.dumps(
            {"driver": "postgres", "data_source": "postgres://nobody@localhost:1/x"}
        ),
        "csr-out.json": json.dumps({"csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "key": ""}),
    }
    for name, text in contents.items():
        (directory / name).write_text(text)
    return directory


SIGN = "-ca ca.pem -ca-key ca-key.pem"
RESPOND = "-ca ca.pem -responder responder.pem -responder-key responder-key.pem"

CASES = [
    ("gencert -initca missing.json", "open missing.json: no such file or directory (looked in "),
    ("gencert -initca directory", "read directory: is a directory"),
    ("gencert -initca empty", "unexpected end of JSON input"),
    ("gencert -initca junk", "invalid character 'j'"),
    ("gencert -initca curly.json", "typographic quote"),
    ("gencert -initca type.json", "cannot unmarshal string into Go struct field"),
    ("gencert -initca ca.pem", "line 1, column 1): this is PEM, not JSON"),
    ("genkey curly.json", "typographic quote"),
    ("selfsign host curly.json", "typographic quote"),
    ("gencsr -key cut-key.pem csr.json", "cut-key.pem"),
    ("gencert -ca cut.pem -ca-key ca-key.pem csr.json", '"code":1002'),
    ("gencert -ca twice.pem -ca-key ca-key.pem csr.json", '"code":1003'),
    ("gencert -ca ca.pem -ca-key cut-key.pem csr.json", '"code":2002'),
    ("gencert -ca ca.pem -ca-key other/ca-key.pem csr.json", '"code":1000'),
    ("gencert -ca env:OCSPD_NOT_SET -ca-key ca-key.pem csr.json", "OCSPD_NOT_SET is not set"),
    ("gencert -ca C:ca.pem -ca-key ca-key.pem csr.json", "file:C:ca.pem"),
    (f"gencert {SIGN} -config curly.json csr.json", "Failed to load config file: "),
    (f"gencert {SIGN} -db-config db.json csr.json", "ocspd db up -db-config"),
    ("gencert -remote 127.0.0.1:1 csr.json", "127.0.0.1:1"),
    (f"sign {SIGN} junk", '"code":9002'),
    (f"sign {SIGN} csr-out.json", "it is JSON: `ocspd json -bare NAME` splits the output"),
    (f"sign {SIGN} missing.csr", "open missing.csr: no such file"),
    ("info -remote 127.0.0.1:1", "127.0.0.1:1"),
    ("revoke -db-config db.json -serial 1 -aki 2 -reason superseded", "ocspd db up -db-config"),
    ("revoke -db-config db.json -serial x -aki 2 -reason superseded", "serial 'x' is not a number"),
    ("db up -db-config curly.json", "typographic quote"),
    ("db up -db-config oracle.json", "'oracle'"),
    ("db up -db-config mysql.json", "USER:PASSWORD@tcp(HOST:PORT)/DATABASE"),
    ("db status -db-config gone.json", "cannot be reached: connection refused"),
    ("db status -db-config gone-name.json", "cannot be reached: connection refused"),
    (f"ocspsign {RESPOND} -cert missing.pem", "missing.pem"),
    (f"ocspsign {RESPOND} -cert other/leaf.pem", '"code":8100'),
    (
        "ocspsign -ca other/ca.pem -responder responder.pem -responder-key responder-key.pem -cert leaf.pem",
        "issued by",
    ),
    ("ocspsign -ca ca.pem -responder responder.pem -responder-key ca-key.pem -cert leaf.pem", "ca-key.pem"),
    (f"ocsprefresh {RESPOND} -db-config db.json", "ocspd db up -db-config"),
    ("ocspdump -db-config gone.json", "cannot be reached"),
    ("ocspserve -responses missing -port 0 -admin-port 0", "missing"),
    ("ocspserve -responses directory -port 0 -admin-port 0", "directory"),
    ("ocspserve -db-config db.json -port 0 -admin-port 0", "ocspd db up -db-config"),
    ("ocspserve -index missing -port 0 -admin-port 0", "missing"),
    ("ocspserve -responses empty -admin-port 0 -address 203.0.113.1", "cannot listen on 203.0.113.1:8888"),
    ("serve -db-config curly.json", "typographic quote"),
    ("serve -address 203.0.113.1", "cannot listen on 203.0.113.1:8888"),
    ("json -f missing", "open missing: no such file"),
    ("json -f curly.json", "typographic quote"),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_bad_input_is_one_line_that_names_it_and_code_1(
    bad: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    monkeypatch.chdir(bad)
    monkeypatch.delenv("OCSPD_NOT_SET", raising=False)
    before = sorted(path.name for path in bad.iterdir())
    code = main([*line.split(), "-loglevel", "4"])
    logging.getLogger("ocspd").handlers.clear()
    out, err = capfd.readouterr()
    lines = [text for text in err.splitlines() if "[CRITICAL]" not in text]
    assert (code, out, len(lines)) == (1, "", 1), err
    assert message in lines[0]
    assert "This is a bug" not in lines[0]
    assert sorted(path.name for path in bad.iterdir()) == before


@pytest.mark.parametrize("verb", ["serve", "ocspserve"])
@pytest.mark.parametrize("port", ["65536", "99999", "-1"])
def test_a_port_that_cannot_exist_is_refused(verb: str, port: str) -> None:
    result = ocspd(verb, "-port", port)
    assert result.returncode == 2
    assert result.stderr == (
        f'invalid value "{port}" for flag -port: use 1 to 65535, or 0 for a port chosen by the system\n'
    )
