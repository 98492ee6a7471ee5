"""Both programs, and a directory with the same files for each."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.authority.cfssl import make_material
from tests.authority.cfssl import run as run_program
from tests.binary import ocspd
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our program under the name cfssl."""
    directory = tmp_path_factory.mktemp("links")
    assert ocspd("links", directory).returncode == 0
    return directory / "cfssl"


@pytest.fixture(scope="session")
def theirs() -> str:
    """Debian's program."""
    return need("cfssl")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that cases name."""
    directory = make_material(tmp_path_factory.mktemp("inputs"))
    write = {
        "leaf.json": {"CN": "leaf.example", "hosts": ["leaf.example", "192.0.2.1"], "names": [{"O": "a&b"}]},
        "ca.json": {"CN": "CA", "ca": {"expiry": "100h", "pathlen": 1}},
        "badca.json": {"CN": "CA", "ca": {"expiry": "soon"}},
        "bare.json": {"CN": "leaf", "names": [{"O": "x"}]},
        "caps.json": {"cn": "first", "CN": "second", "HOSTS": ["a.example"]},
        "unknown.json": {"CN": "x", "expire": "1h"},
        "subject.json": {"CN": "other", "names": [{"C": "FR"}]},
        "wrongtype.json": {"CN": 5},
        "noname.json": {"hosts": ["x.example"]},
        "db.json": {"driver": "sqlite3", "data_source": "certs.db"},
        "baddb.json": {"driver": "sqlite3"},
        "oracle.json": {"driver": "oracle", "data_source": "x"},
        "noexpiry.json": {"signing": {"profiles": {"x": {"usages": ["signing"]}}}},
        "badwhitelist.json": {
            "signing": {
                "default": {"expiry": "1h", "usages": ["client auth"], "CSRWhitelist": {"Subject": True}}
            }
        },
        "whitelist.json": {
            "signing": {
                "default": {"expiry": "1h", "usages": ["client auth"]},
                "profiles": {
                    "www": {"expiry": "1h", "usages": ["client auth"], "name_whitelist": "^www[.]"},
                    "go": {"expiry": "1h", "usages": ["client auth"], "NAME_WHITELIST": "^www[.]"},
                },
            }
        },
    }
    for name, value in write.items():
        (directory / name).write_text(json.dumps(value))
    (directory / "twice.json").write_text('{"CN":"first","cn":"second","hosts":["b"],"Hosts":["a"]}')
    (directory / "curly.json").write_text("{\u201cCN\u201d: \u201cx\u201d}")
    (directory / "empty.json").write_text("")
    (directory / "junk.pem").write_text("junk\n")
    (directory / "serials").write_text("5\n\n17\n")
    openssl = need("openssl")
    run_program(
        *(openssl, "ecparam", "-name", "secp256k1", "-genkey", "-noout"),
        *("-out", str(directory / "k1-key.pem")),
    )
    run_program(
        *(openssl, "ec", "-in", str(directory / "ca-key.pem"), "-aes128", "-passout", "pass:right"),
        *("-out", str(directory / "locked-key.pem")),
    )
    return directory


@pytest.fixture
def places(inputs: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A directory for Debian's program and one for ours, with the same files."""
    made = tmp_path / "theirs", tmp_path / "ours"
    for place in made:
        shutil.copytree(inputs, place)
    return made
