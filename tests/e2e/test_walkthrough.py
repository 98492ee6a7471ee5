from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.binary import OCSPD, ocspd
from tests.ports import free_port
from tests.postgres import create_database, drop_database, running_server
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SCRIPT = Path(__file__).with_name("walkthrough.sh")


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture(params=["sqlite3", "postgres", "mysql"])
async def db_config(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite3":
        yield json.dumps({"driver": "sqlite3", "data_source": "certs.db"})
        return
    if request.param == "mysql":
        source = request.getfixturevalue("mysql_source")
        yield json.dumps({"driver": "mysql", "data_source": source})
        return
    server = request.getfixturevalue("postgres_server")
    url = await create_database(server)
    yield json.dumps({"driver": "postgres", "data_source": url})
    await drop_database(server, url)


# A row of CFSSL's table has room for one answer, so what is dumped from it knows SHA-1 CertIDs only.
SHA256 = {"responses": "my-client unauthorized unverified", "database": "my-client good verified"}


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("variant", "linked"),
    [("responses", False), ("database", False), ("responses", True)],
    ids=["responses", "database", "responses-under-cfssls-names"],
)
def test_the_walkthrough_runs_as_it_stands_and_openssl_agrees(
    tmp_path: Path, db_config: str, variant: str, *, linked: bool
) -> None:
    need("openssl")
    need("curl")
    api_port, ocsp_port = str(free_port()), str(free_port())
    links = tmp_path / "bin"
    if linked:
        links.mkdir()
        assert ocspd("links", links).returncode == 0
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=tmp_path,
        env=os.environ
        | {
            "OCSPD": shlex.join(OCSPD),
            "DB_CONFIG": db_config,
            "API_PORT": api_port,
            "OCSP_PORT": ocsp_port,
            "VARIANT": variant,
            "LINKS": str(links) if linked else "",
            "no_proxy": "*",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    logs = "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    hint, *lines = done.stdout.splitlines()
    assert lines == [
        "my-client good verified",
        SHA256[variant],
        "my-revoked revoked verified",
        "my-unknown unauthorized unverified",
        "my-client crl ok",
        "my-revoked crl revoked",
        "my-client revoked verified",
        "my-client crl revoked",
        "keys 600 ",
    ], f"{done.stderr}\n{logs}"
    assert hint.startswith("hint ")
    assert "ocsprefresh" in hint
    assert "Traceback" not in done.stderr + logs
