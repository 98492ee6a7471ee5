"""Our API over the key material of a directory, in this process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ocspd.authority.api.dispatch import Dispatcher
from ocspd.authority.api.endpoints import Backend, build_endpoints
from ocspd.authority.issuing import Authority
from ocspd.authority.signers import PolicySigner
from ocspd.client.tls import RemoteTLS
from ocspd.clock import SystemClock
from ocspd.ops.server import HTTPServer
from ocspd.pki.certs import load_certificate
from ocspd.pki.config_json import parse_config
from ocspd.pki.crl_writer import CRLSigner
from ocspd.pki.issuer import Issuer
from ocspd.pki.keys import load_private_key
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from ocspd.certdb.base import CertDB


def make_backend(material: Path, db: CertDB | None = None) -> Backend:
    """Return what the API stands on, from the files of `material`."""
    clock = SystemClock()
    ca = load_certificate((material / "ca.pem").read_bytes())
    config = parse_config((material / "config.json").read_bytes())
    issuer_key = load_private_key((material / "ca-key.pem").read_bytes())
    issuer = Issuer(ca, issuer_key, config, clock)
    responder = OCSPSigner(
        ca,
        load_certificate((material / "ocsp.pem").read_bytes()),
        load_private_key((material / "ocsp-key.pem").read_bytes()),
        SigningPolicy(),
        clock,
    )
    return Backend(
        clock=clock,
        signer=PolicySigner(config, Authority(issuer, db, clock), tls=RemoteTLS(), clock=clock),
        ocsp_signer=responder,
        db=db,
        crl_signer=CRLSigner(ca, issuer_key),
    )


@asynccontextmanager
async def serving(backend: Backend, disabled: Iterable[str] = ()) -> AsyncIterator[str]:
    """Serve the API and yield its base URL."""
    server = HTTPServer(Dispatcher(build_endpoints(backend, disabled)), drain_s=2.0)
    await server.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop()
