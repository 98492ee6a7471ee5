"""A full pass over a database: `ocspd refresh -once` and `ocspd ocsprefresh` beside CFSSL's `ocsprefresh`.

    python -m bench.fullpass [--certificates 1000000] [--cfssl-certificates 2000] [--repeats 3]

Uses a PostgreSQL database with that many certificates for ocspd, which never reads the PEM, and one with
fewer real ones for CFSSL, which parses and verifies each; compares rates. Times are wall clock, including the
start of the program; runs alternate, and medians are compared. Every run begins with nothing signed, an empty
index or an empty table. CFSSL's rate for replacing what it has signed is reported too. Anonymous memory of
the signer's processes is measured in a separate run, because measuring it costs a twentieth of the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from bench.data import make_authority, serial_of
from bench.revocation import fill, migrated, write_signer
from bench.servers import Server, find, ocspd_program
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from tests.postgres import create_database, running_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.pki.ocsp import OCSPSigner


CFSSL = "cfssl ocsprefresh"
AGAIN = "cfssl ocsprefresh, again"


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def fill_real(
    url: str, signer: OCSPSigner, ca_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, count: int
) -> None:
    """Insert certificates that the CA has really issued."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
    connection = await asyncpg.connect(url)
    for number in range(count):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(signer.issuer.subject)
            .public_key(key)
            .serial_number(serial_of(number))
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.AuthorityKeyIdentifier(bytes.fromhex(signer.aki), None, None), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        await connection.execute(
            "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason,"
            " expiry, revoked_at, pem)"
            " VALUES ($1, $2, '', 'good', 0, now() + interval '30 days', to_timestamp(0), $3)",
            str(serial_of(number)).encode(),
            signer.aki.encode(),
            certificate.public_bytes(serialization.Encoding.PEM),
        )
    await connection.close()


def wall_s(command: Sequence[str | Path], directory: Path) -> float:
    """Run a command and return its wall time."""
    begun = time.monotonic()
    with (directory / "log").open("ab") as log:
        subprocess.run(list(map(str, command)), stdout=log, stderr=log, cwd=directory, check=True)
    return time.monotonic() - begun


def largest_mb(command: Sequence[str | Path], directory: Path) -> float:
    """Run a command and return the most memory that its processes used together."""
    largest = 0.0
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=directory)
        tree = Server("signer", 0, process)
        while process.poll() is None:
            largest = max(largest, sum(map(private_mb, tree.pids())))
            time.sleep(0.1)
    return largest


def private_mb(pid: int) -> float:
    """Return a process's memory that no file backs: pages of a mapped index can be dropped at any time."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    lines = [line.split() for line in text.splitlines() if line.startswith("Anonymous:")]
    return sum(int(fields[1]) for fields in lines) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=1_000_000)
    parser.add_argument("--cfssl-certificates", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cfssl = find("cfssl")
    authority = make_authority("p256")
    signer, ca_key = authority.signer, authority.ca_key
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocspd-bench-")))
        write_signer(directory, signer)
        server = stack.enter_context(running_server())
        url, small = (asyncio.run(create_database(server)) for _ in range(2))
        for each in (url, small):
            asyncio.run(migrated(each))
        asyncio.run(fill(url, signer.aki, options.certificates))
        asyncio.run(fill_real(small, signer, ca_key, options.cfssl_certificates))
        for name, each in (("db.json", url), ("small.json", small)):
            (directory / name).write_text(json.dumps({"driver": "postgres", "data_source": each}))
        keys = ("-ca", "ca.pem", "-responder", "ocsp.pem", "-responder-key", "ocsp-key.pem")
        ours = (ocspd_program(), "refresh", "-once", "-db-config", "db.json", *keys, "-index", "index")
        commands: dict[str, tuple[int, tuple[str | Path, ...]]] = {
            "ocspd refresh, SHA-1": (
                options.certificates,
                (*ours, "-admin-port", "0", "-certid-hash", "sha1"),
            ),
            "ocspd refresh, SHA-1 and SHA-256": (options.certificates, (*ours, "-admin-port", "0")),
        }
        if cfssl:
            commands[CFSSL] = (
                options.cfssl_certificates,
                (cfssl, "ocsprefresh", "-db-config", "small.json", *keys),
            )
            commands[AGAIN] = commands[CFSSL]
        else:
            print("left out: cfssl is not installed (Debian package golang-cfssl)", file=sys.stderr)
        memory = largest_mb(commands["ocspd refresh, SHA-1"][1], directory)
        for _ in range(options.repeats):
            for name, (count, command) in commands.items():
                shutil.rmtree(directory / "index", ignore_errors=True)
                if name == CFSSL:
                    asyncio.run(execute(small, "TRUNCATE ocsp_responses"))
                rates.setdefault(name, []).append(count / wall_s(command, directory))
                print(f"{name}: {rates[name][-1]:.0f} certificates/s", file=sys.stderr)
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    result: dict[str, object] = {"certificates_per_s": medians, "signer_private_mb": round(memory)}
    if cfssl:
        result["ratio"] = {
            f"{name}, to {peer}": round(value / medians[peer], 1)
            for name, value in medians.items()
            if name.startswith("ocspd")
            for peer in (CFSSL, AGAIN)
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
