"""Bundles: a certificate with the chain that makes clients trust it, as CFSSL's bundler builds it.

    ubiquitous   the chain that most platforms trust (`pki.ubiquity`); optimal if nothing is known of any
    optimal      the shortest chain, valid for the longest time, with the strongest algorithms
    force        the certificates as given, if each is signed by the next; no root is looked for

A chain may use the root and intermediate stores, the certificates given, and certificates fetched from the
URLs that certificates name for their issuer (authorityInfoAccess). Fetching is bounded in number, size and
time, and what is fetched only counts if it leads to a trusted root.

Everything here blocks; errors are CodedError with CFSSL's numbers: 1100 self-signed, 1200 to 1220 no chain,
2200 and 2300 the key, 6000 the server of a domain.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.authority.bundling_result import Bundle, assess
from ocspd.authority.fetching import Deadline
from ocspd.errors import Code, CodedError, FetchError, OCSPDError
from ocspd.files import write_atomic
from ocspd.logs import logger
from ocspd.pki import chains, names, ubiquity
from ocspd.pki.certs import certificate_to_pem, load_certificate, load_der
from ocspd.pki.chain_link import Link
from ocspd.pki.chains import Pool
from ocspd.pki.hostnames import check_hostname
from ocspd.pki.keys import check_key_matches, check_public_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.authority.bundling_stores import Stores
    from ocspd.authority.fetching import Outbound
    from ocspd.clock import Clock
    from ocspd.pki.certs import Certificate
    from ocspd.pki.keys import PrivateKey

UBIQUITOUS, OPTIMAL, FORCE = "ubiquitous", "optimal", "force"

MAX_FETCHED = 10
"""Certificates fetched for one bundle, failures included."""
MAX_FETCHED_BYTES = 64 * 1024
MAX_FETCHED_CHAIN = 8
"""Certificates fetched one after the other from the URLs of the previous one."""
FETCH_S = 5.0
"""For one certificate."""
ALL_FETCHES_S = 15.0
"""For all certificates of one bundle."""
DIAL_S = 10.0
"""For the TLS handshake with the server of a domain."""
TLS_PORT = 443

_SELF_SIGNED = "Certificate is self signed"


class Bundler:
    """Builds bundles from stores; safe to use in several threads."""

    def __init__(
        self,
        stores: Stores,
        clock: Clock,
        *,
        outbound: Outbound,
        fetch_issuers: bool = True,
        tls_port: int = TLS_PORT,
    ) -> None:
        """`outbound` makes all connections; with `fetch_issuers` off no issuer is fetched."""
        self._stores = stores
        self._clock = clock
        self._outbound = outbound
        self._fetch_issuers = fetch_issuers
        self._tls_port = tls_port

    def bundle(
        self, certificates: Sequence[Certificate], key: PrivateKey | None, flavor: str = UBIQUITOUS
    ) -> Bundle:
        """Bundle the first of some certificates, or the last if they are in reverse order.

        A flavor that does not exist is `ubiquitous`, as in CFSSL.
        """
        given = [Link(each) for each in certificates]
        if len(given) > 1 and not chains.is_chain(given) and chains.is_chain(given[::-1]):
            given.reverse()
        leaf = given[0]
        logger.info("bundling certificate for %s", names.to_text(leaf.subject))
        check_public_key(leaf.certificate)
        if key is not None:
            check_key_matches(key, leaf.certificate)
        if flavor == FORCE:
            if not chains.is_chain(given):
                raise CodedError(Code.CERT_VERIFY_FAILED, "Unable to verify the certificate chain")
            return assess(given, given, key, now=self._clock.now())
        if chains.is_self_signed(leaf):
            raise CodedError(Code.CERT_SELF_SIGNED, _SELF_SIGNED)
        found = self._find(given)
        platforms = self._stores.platforms
        if flavor == OPTIMAL:
            chain = ubiquity.optimal(found)
        else:
            if not platforms and flavor == UBIQUITOUS:
                logger.warning("No metadata, Ubiquitous falls back to Optimal.")
            chain = ubiquity.ubiquitous(found, platforms)
        logger.info("the anchoring root is %s", names.to_text(chain[-1].subject))
        return assess(given, chain, key, now=self._clock.now(), platforms=platforms)

    def bundle_remote(self, domain: str, ip: str = "", flavor: str = UBIQUITOUS) -> Bundle:
        """Bundle the certificate that the TLS server of a domain sends, or the server at `ip`."""
        try:
            served = self._outbound.served_certificates(
                ip or domain, self._tls_port, Deadline(DIAL_S), server_name=domain
            )
        except FetchError as err:
            raise CodedError(Code.DIAL_FAILED, str(err)) from err
        certificates = [load_der(each) for each in served]
        distrust = self._distrust(certificates, domain)
        check_hostname(certificates[0], domain)
        bundle = self.bundle(certificates, None, flavor)
        if distrust:
            bundle.status.messages.append(
                f"Failed rigid TLS handshake with {ip or domain}:{self._tls_port}: "
                f"tls: failed to verify certificate: {distrust}"
            )
        return bundle

    def _distrust(self, certificates: Sequence[Certificate], domain: str) -> str:
        """Return why a TLS client would not trust a server that sends these certificates; "" if it would."""
        try:
            chains.find_chains(
                Link(certificates[0]), self._stores.roots(), Pool(certificates[1:]), self._clock.now()
            )
            check_hostname(certificates[0], domain)
        except CodedError as err:
            return err.message
        return ""

    def _find(self, given: Sequence[Link]) -> list[list[Link]]:
        """Return the chains of the first of the given certificates."""
        roots, pool, now = self._stores.roots(), self._stores.intermediates, self._clock.now()
        try:
            return chains.find_chains(given[0], roots, pool, now)
        except CodedError as err:
            if err.code is not Code.CERT_UNKNOWN_AUTHORITY:
                raise
            found = _Issuers(self, given).collect(roots, pool.copy())
            if found is None:
                raise
            return chains.find_chains(given[0], roots, found, now)

    def verifies(self, link: Link, roots: Pool, intermediates: Pool) -> bool:
        """Return whether there is a chain."""
        try:
            chains.find_chains(link, roots, intermediates, self._clock.now())
        except CodedError:
            return False
        return True

    def fetch(self, url: str, deadline: Deadline) -> Link | None:
        """Return the certificate at a URL, None when there is none that can be read."""
        if not self._fetch_issuers:
            return None
        try:
            data = self._outbound.fetch(url, deadline.within(FETCH_S), limit=MAX_FETCHED_BYTES)
            return Link(load_certificate(data))
        except OCSPDError as err:
            logger.info("no issuer's certificate from authorityInfoAccess: %s", err)
            return None

    def stash(self, link: Link) -> None:
        """Write an intermediate certificate to the directory for them, where there is one."""
        directory = self._stores.directory
        if not directory:
            return
        name = _file_name(link)
        try:
            write_atomic(Path(directory) / name, certificate_to_pem(link.certificate).encode(), 0o644)
        except OCSPDError as err:
            logger.error("failed to write new intermediate: %s", err)
        else:
            logger.info("stashed new intermediate %s", name)


class _Issuers:
    """The search for issuers that are in no store: among what was given, and by authorityInfoAccess."""

    def __init__(self, bundler: Bundler, given: Sequence[Link]) -> None:
        self._bundler = bundler
        self._leaf = given[0]
        self._path = list(reversed(given))
        """From the certificate nearest to a root to the one to bundle."""
        self._given = len(given)
        self._seen_urls: set[str] = set()
        self._seen = {link.signature for link in given}
        self._deadline: Deadline | None = None

    def collect(self, roots: Pool, pool: Pool) -> Pool | None:
        """Add to `pool` what leads from the certificate to a root; None when nothing does."""
        led_to_root = False
        while self._path:
            led_to_root = self._add_verified(roots, pool) or led_to_root
            issuer = self._next_issuer()
            if issuer is None:
                del self._path[0]
            else:
                self._path.insert(0, issuer)
        return pool if led_to_root else None

    def _add_verified(self, roots: Pool, pool: Pool) -> bool:
        """Add the certificates of the path, from its end at the root; whether all of them have a chain."""
        for position, link in enumerate(self._path):
            if link.signature in pool.signatures or link.signature in roots.signatures:
                continue
            if not self._bundler.verifies(link, roots, pool):
                return False
            if link is self._leaf or (position == 0 and chains.is_self_signed(link)):
                continue
            pool.add(link)
            self._bundler.stash(link)
        return True

    def _next_issuer(self) -> Link | None:
        """Fetch the next certificate that the first one of the path names as its issuer."""
        if len(self._path) - self._given >= MAX_FETCHED_CHAIN:
            return None
        for url in self._path[0].issuer_urls:
            if url in self._seen_urls:
                continue
            if len(self._seen_urls) >= MAX_FETCHED:
                return None
            self._seen_urls.add(url)
            self._deadline = self._deadline or Deadline(ALL_FETCHES_S)
            try:
                self._deadline.remaining()
            except FetchError:
                return None
            found = self._bundler.fetch(url, self._deadline)
            if found is not None and found.signature not in self._seen:
                self._seen.add(found.signature)
                return found
        return None


def _file_name(link: Link) -> str:
    """Return CFSSL's name for a stored certificate, without what has a meaning in a path."""
    name = link.name.common_name.replace(".", "").replace(" ", "")
    name = "".join(char if char.isprintable() and char not in "/\\" else "_" for char in name)[:64]
    serial = link.serial
    digits = serial.to_bytes((serial.bit_length() + 7) // 8, "big").hex() if serial > 0 else ""
    return f"{name}_{link.key_id.hex()[:64]}_{digits[:64]}.crt"
