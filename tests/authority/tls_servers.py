"""TLS servers on loopback for scans: OpenSSL's, GnuTLS's, nginx, and some that misbehave."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.authority.cfssl import wait_for_port
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

START_S = 60.0


@dataclass
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: PrivateKey

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def issue(
    common_name: str,
    issuer: Issued | None = None,
    *,
    key: PrivateKey | None = None,
    hosts: tuple[str, ...] = ("localhost",),
    days: int = 365,
    started: timedelta = timedelta(days=100),
    crl: str = "",
) -> Issued:
    """Issue a certificate, a CA if there is no issuer."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC).replace(microsecond=0)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer = issuer or Issued(None, key)  # type: ignore[arg-type]  # only its key is used
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - started)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        names = [x509.DNSName(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if crl:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return Issued(builder.sign(signer.key, hashes.SHA256()), key)


def revocation_list(issuer: Issued, *revoked: Issued) -> bytes:
    """Return a CRL in DER."""
    now = datetime.now(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - timedelta(hours=1))
        .next_update(now + timedelta(days=1))
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def write(folder: Path, name: str, issued: Issued, *chain: Issued) -> Path:
    """Write certificate, chain and key to one file; the chain also to another one, for OpenSSL."""
    path = folder / f"{name}.pem"
    (folder / f"{name}.pem.chain").write_bytes(b"".join(each.pem() for each in chain))
    path.write_bytes(issued.pem() + b"".join(each.pem() for each in chain) + issued.key_pem())
    return path


@contextmanager
def openssl_server(credentials: Path, *flags: str) -> Iterator[int]:
    """Run `openssl s_server` with files that `write` has made, and yield its port."""
    command = [need("openssl"), "s_server", "-accept", "127.0.0.1:0", "-cert", str(credentials)]
    command += ["-cert_chain", f"{credentials}.chain", "-key", str(credentials), "-www", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = 0
            for line in process.stdout:
                if found := re.match(r"ACCEPT .*:(\d+)$", line.strip()):
                    port = int(found[1])
                    break
            assert port, "openssl s_server does not start"
            drain = threading.Thread(target=process.stdout.read, daemon=True)
            drain.start()
            yield port
        finally:
            process.kill()
            process.wait()


@contextmanager
def gnutls_server(folder: Path, credentials: Path, priority: str) -> Iterator[int]:
    """Run `gnutls-serv` and yield its port."""
    port = free_port()
    command = [need("gnutls-serv"), "--quiet", "--http", "-p", str(port), "--priority", priority]
    command += ["--x509certfile", str(credentials), "--x509keyfile", str(credentials)]
    with (
        (folder / "gnutls.log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for_port(port, process)
            yield port
        finally:
            process.kill()


@contextmanager
def nginx(folder: Path, credentials: Path, settings: str) -> Iterator[int]:
    """Run nginx with TLS settings of its server block, and yield its port."""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
            uwsgi_temp_path {folder}; scgi_temp_path {folder};
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {credentials}; ssl_certificate_key {credentials};
                {settings}
                return 204;
            }}
        }}"""
    )
    command = [
        need("nginx"),
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        "-e",
        str(folder / "e.log"),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port, process)
            yield port
        finally:
            process.kill()


@contextmanager
def raw_server(reply: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections and hand each to `reply` in a thread; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(START_S)
            try:
                reply(connection)
            except OSError:
                return

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(connection,), daemon=True)
            thread.start()
            threads.append(thread)

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(START_S)
