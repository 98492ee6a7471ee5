"""CFSSL's API under `/api/v1/cfssl/`: which endpoints exist, and which are enabled.

The endpoints are in `sign` (sign, authsign, info), `keys` (newkey, newcert, init_ca), `status` (revoke,
ocspsign, health), `crl` (crl, gencrl), `certadd`, `bundle`, `certinfo` and `scan` (scan, scaninfo), the web
page in `web`; the use cases are in `authority`. `distribution` has the CRLs as relying parties fetch them.
An endpoint without what it needs (a CA, a database) is disabled, with a log line that gives the reason; it
then replies like an unknown path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.authority.api import openapi
from ocspd.authority.api.bundle import BundleEndpoint
from ocspd.authority.api.call import Endpoint, of_body
from ocspd.authority.api.certadd import CertAddEndpoint
from ocspd.authority.api.certinfo import CertinfoEndpoint
from ocspd.authority.api.crl import CRLEndpoints
from ocspd.authority.api.distribution import distribution_points
from ocspd.authority.api.keys import KeyEndpoints
from ocspd.authority.api.scan import ScanEndpoints, scaninfo
from ocspd.authority.api.sign import SignEndpoints
from ocspd.authority.api.status import StatusEndpoints
from ocspd.authority.api.web import page_endpoints
from ocspd.authority.fetching import Outbound
from ocspd.authority.scanning.target import Trust
from ocspd.logs import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ocspd.authority.api.sign import Signer
    from ocspd.authority.audit.ledger import Ledger
    from ocspd.authority.bundling import Bundler
    from ocspd.authority.crls import CRLPublisher
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.pki.crl_writer import CRLSigner
    from ocspd.pki.ocsp import OCSPSigner


NAMES = (
    "sign",
    "authsign",
    "info",
    "newcert",
    "newkey",
    "init_ca",
    "revoke",
    "ocspsign",
    "crl",
    "gencrl",
    "certadd",
    "bundle",
    "certinfo",
    "scan",
    "scaninfo",
    "health",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What the endpoints work with; None for what is not configured."""

    clock: Clock
    signer: Signer | None = None
    ocsp_signer: OCSPSigner | None = None
    db: CertDB | None = None
    crl_signer: CRLSigner | None = None
    crls: CRLPublisher | None = None
    bundler: Bundler | None = None
    bundles_on_request: bool = False
    """Whether `sign` and `newcert` bundle what they sign: both stores are given, as in CFSSL."""
    outbound: Outbound = field(default_factory=Outbound)
    """What requests may make this server connect to."""
    ledger: Ledger | None = None
    scan_trust: Trust | None = field(default_factory=Trust)
    """What scans verify certificates with; None if its file cannot be read."""


class Disabled(Exception):
    """An endpoint cannot be enabled; the text gives the reason."""


def build_endpoints(backend: Backend, disabled: Iterable[str] = ()) -> dict[str, Endpoint]:
    """Return the enabled endpoints by path, and log one line for each that exists.

    `disabled` holds bare names (`-disable`); names that do not exist are ignored, as in CFSSL.
    """
    off = {name.strip() for name in disabled}
    makers = _Makers(backend)
    endpoints = {}
    for name in NAMES:
        path = wire.API_PREFIX + name
        make: Callable[[], Endpoint] = getattr(makers, name)
        if name in off:
            logger.info("endpoint '%s' is explicitly disabled", path)
            continue
        try:
            endpoints[path] = make()
        except Disabled as reason:
            logger.warning("endpoint '%s' is disabled: %s", path, reason)
        else:
            logger.info("endpoint '%s' is enabled", path)
    if backend.crls is not None and "crl" not in off:
        for path, endpoint in distribution_points(backend.crls, backend.clock).items():
            endpoints[path] = endpoint
            logger.info("endpoint '%s' is enabled", path)
    if openapi.NAME not in off:
        endpoints[openapi.PATH] = openapi.endpoint(endpoints)
    if "/" in off:
        logger.info("endpoint '/' is explicitly disabled")
    else:
        endpoints |= page_endpoints()
        logger.info("endpoint '/' is enabled")
    logger.info("Handler set up complete.")
    return endpoints


class _Makers:
    """One method for each endpoint; it raises Disabled when something the endpoint needs is missing."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._bundler = backend.bundler if backend.bundles_on_request else None
        self._keys = KeyEndpoints(backend.signer, backend.clock, self._bundler)

    def _signing(self) -> SignEndpoints:
        if self._backend.signer is None:
            raise Disabled("signer not initialized")
        return SignEndpoints(self._backend.signer, self._bundler)

    def sign(self) -> Endpoint:
        endpoints = self._signing()
        if not endpoints.has_open_profile():
            raise Disabled("every profile has an auth_key: use authsign")
        return Endpoint("POST", endpoints.sign)

    def authsign(self) -> Endpoint:
        endpoints = self._signing()
        if not endpoints.has_authenticated_profile():
            raise Disabled("no profile has an auth_key")
        return Endpoint("POST", endpoints.authsign)

    def info(self) -> Endpoint:
        return Endpoint("POST", of_body(self._signing().info))

    def newcert(self) -> Endpoint:
        self._signing()
        return Endpoint("POST", self._keys.newcert)

    def newkey(self) -> Endpoint:
        return Endpoint("POST", of_body(self._keys.newkey))

    def init_ca(self) -> Endpoint:
        return Endpoint("POST", of_body(self._keys.init_ca))

    def revoke(self) -> Endpoint:
        if self._backend.db is None:
            raise Disabled("cert db not configured (missing -db-config)")
        endpoints = StatusEndpoints(self._backend.clock, db=self._backend.db, ledger=self._backend.ledger)
        return Endpoint("POST", of_body(endpoints.revoke))

    def ocspsign(self) -> Endpoint:
        signer = self._backend.ocsp_signer
        if signer is None:
            raise Disabled("OCSP signer not initialized")
        return Endpoint("POST", of_body(StatusEndpoints(self._backend.clock, ocsp_signer=signer).ocspsign))

    def crl(self) -> Endpoint:
        signer, db = self._backend.crl_signer, self._backend.db
        if db is None:
            raise Disabled("cert db not configured (missing -db-config)")
        if signer is None:
            raise Disabled("no CA certificate and key to sign CRLs with")
        return Endpoint("GET", CRLEndpoints(self._backend.clock, signer=signer, db=db).crl)

    def gencrl(self) -> Endpoint:
        self._signing()
        return Endpoint("POST", of_body(CRLEndpoints(self._backend.clock).gencrl))

    def certadd(self) -> Endpoint:
        return Endpoint("POST", of_body(CertAddEndpoint(self._backend.db, self._backend.ledger).certadd))

    def bundle(self) -> Endpoint:
        if self._backend.bundler is None:
            raise Disabled("bundler not initialized")
        return Endpoint("POST", of_body(BundleEndpoint(self._backend.bundler).bundle))

    def certinfo(self) -> Endpoint:
        endpoint = CertinfoEndpoint(self._backend.db, self._backend.outbound)
        return Endpoint("POST", of_body(endpoint.certinfo))

    def scan(self) -> Endpoint:
        trust = self._backend.scan_trust
        if trust is None:
            raise Disabled("the root certificates are not usable (-ca-bundle)")
        return Endpoint("GET", ScanEndpoints(self._backend.outbound, trust, self._backend.clock).scan)

    def scaninfo(self) -> Endpoint:
        return Endpoint("GET", of_body(scaninfo))

    def health(self) -> Endpoint:
        endpoints = StatusEndpoints(self._backend.clock, db=self._backend.db, ledger=self._backend.ledger)
        return Endpoint("GET", of_body(endpoints.health))
