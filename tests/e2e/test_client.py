"""The examples of docs/client.md, as they stand, against running servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from ocspd.client import APIClient
from tests.authority.cfssl import AUTH_KEY, make_material, run, wait_for_port
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

OCSPD = (sys.executable, "-m", "ocspd.cli.main")
PAGE = Path(__file__).parent.parent.parent / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@contextmanager
def running(folder: Path, verb: str, *flags: str) -> Iterator[str]:
    """Run a server in a folder; yields its port."""
    port = free_port()
    with (
        (folder / f"{verb}.log").open("wb") as log,
        subprocess.Popen(
            [*OCSPD, verb, "-port", str(port), *flags], stdout=log, stderr=log, cwd=folder
        ) as process,
    ):
        try:
            wait_for_port(port, process)
            yield str(port)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """A folder with key material, and the ports of the API and the responder on one database."""
    folder = make_material(tmp_path_factory.mktemp("client"))
    (folder / "db.json").write_text(json.dumps({"driver": "sqlite3", "data_source": "certs.db"}))
    (folder / "auth.key").write_text(AUTH_KEY)
    subprocess.run([*OCSPD, "db", "up", "-db-config", "db.json"], cwd=folder, check=True, capture_output=True)
    database = ("-db-config", "db.json", "-ca", "ca.pem")
    responder = ("-responder", "ocsp.pem", "-responder-key", "ocsp-key.pem")
    with (
        running(folder, "serve", *database, "-ca-key", "ca-key.pem", "-config", "config.json") as api,
        running(folder, "ocspserve", *database, *responder, "-admin-port", "0", "-workers", "1") as ocsp,
    ):
        yield folder, api, ocsp


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (0, r"(unauthorized\n)*good \nrevoked superseded\n"),
        (1, r"-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----\n\n"),
        (2, r"7400 CSR Decode failed \(the server's code 9002\)\n"),
    ],
)
def test_an_example_of_the_page_prints_what_it_says(
    ports: tuple[Path, str, str], number: int, printed: str
) -> None:
    folder, api, ocsp = ports
    assert len(EXAMPLES) == 3
    program = EXAMPLES[number].replace("127.0.0.1:8888", f"127.0.0.1:{api}").replace("8889", ocsp)
    done = run(sys.executable, "-c", f"import os; os.chdir({os.fspath(folder)!r})\n{program}", check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(printed, done.stdout)


async def test_a_crl_is_der_and_lists_what_was_revoked(ports: tuple[Path, str, str]) -> None:
    client = APIClient(f"127.0.0.1:{ports[1]}")
    made = await client.new_certificate({"CN": "x", "hosts": ["x.example"]})
    about = await client.certificate_info(certificate=made.certificate)
    await client.revoke(int(about["serial_number"]), about["authority_key_id"], reason="superseded")
    crl = x509.load_der_x509_crl(await client.crl(expiry=timedelta(hours=3)))
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - crl.last_update_utc == timedelta(hours=3)
    assert crl.get_revoked_certificate_by_serial_number(int(about["serial_number"])) is not None
