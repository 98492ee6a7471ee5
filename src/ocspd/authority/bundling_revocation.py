"""Whether certificates are revoked, as `mkbundle` asks: by the CRLs and OCSP servers that they name.

 1. A certificate outside of its validity counts as revoked.
 2. Each CRL of cRLDistributionPoints is fetched, except from LDAP. It must be in force and signed by the
    issuer.
 3. Then one OCSP server is asked; anything but "good" counts as revoked.
 4. What cannot be fetched or verified is an error, not "good".

The issuer is the certificate itself if it signed itself, one of the others given, or fetched from the URLs
in authorityInfoAccess. A CRL whose issuer is not found is used unverified, as in CFSSL.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ocspd.authority.fetching import Deadline
from ocspd.errors import FetchError, OCSPDError
from ocspd.logs import logger
from ocspd.model import CertStatus
from ocspd.pki.certs import load_certificate
from ocspd.pki.chain_link import Link
from ocspd.pki.chains import Pool, check_signature
from ocspd.pki.crl import Listed, load_crls
from ocspd.pki.relying_party import check_response, make_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocspd.authority.fetching import Outbound
    from ocspd.clock import Clock
    from ocspd.pki.certs import Certificate

MAX_CRL_BYTES = 32 * 1024 * 1024
MAX_KEPT_BYTES = 2 * MAX_CRL_BYTES
"""CRLs that are kept for the certificates to come: a scanned server chooses how many its chain names."""
MAX_ISSUER_BYTES = 64 * 1024
MAX_OCSP_BYTES = 64 * 1024
MAX_URLS = 8
"""CRLs, OCSP servers and issuers' URLs of one certificate that are used."""
CHECK_S = 60.0
"""For one certificate."""


class RevocationChecker:
    """Checks certificates, in several threads if need be; a CRL is fetched once while it is kept."""

    def __init__(
        self,
        known: Iterable[Certificate],
        outbound: Outbound,
        clock: Clock,
        *,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        """`known` are certificates that may be issuers."""
        self._known = Pool(known)
        self._outbound = outbound
        self._clock = clock
        self._max_kept_bytes = max_kept_bytes
        self._crls: dict[str, bytes] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def is_usable(self, certificate: Certificate, until: Deadline | None = None) -> bool:
        """Return whether a certificate is valid now and not revoked; OCSPDError if that is not known."""
        link, now = Link(certificate), self._clock.now()
        if not link.not_before < now < link.not_after:
            logger.info("certificate is not valid now: %s to %s", link.not_before, link.not_after)
            return False
        deadline = Deadline(CHECK_S) if until is None else until.within(CHECK_S)
        urls = [url for url in link.crl_urls if not url.lower().startswith("ldap:")][:MAX_URLS]
        if not urls and not link.ocsp_urls:
            return True
        issuer = self._issuer(link, deadline)
        if any(self._is_listed(link, issuer, url, deadline) for url in urls):
            logger.info("certificate is revoked via CRL")
            return False
        if link.ocsp_urls and not self._is_good(link, issuer, deadline):
            logger.info("certificate is revoked via OCSP")
            return False
        return True

    def _issuer(self, link: Link, deadline: Deadline) -> Link | None:
        for candidate in (link, *self._known.issuers_of(link)):
            if _is_issuer(candidate, link):
                return candidate
        for url in link.issuer_urls[:MAX_URLS]:
            try:
                data = self._outbound.fetch(url, deadline, limit=MAX_ISSUER_BYTES)
                found = Link(load_certificate(data))
            except OCSPDError as err:
                logger.info("no issuer's certificate: %s", err)
                continue
            if _is_issuer(found, link):
                return found
        return None

    def _is_listed(self, link: Link, issuer: Link | None, url: str, deadline: Deadline) -> bool:
        listed = False
        for crl in load_crls(self._crl(url, deadline), url):
            if issuer is None:
                logger.warning("%s: not verified: the certificate of its issuer is not known", url)
            else:
                crl.heading([issuer.certificate]).check_time(self._clock.now(), allow_expired=False)
            for entry in crl.entries():
                if entry.serial == link.serial:
                    listed = entry.listed is Listed.REVOKED
        return listed

    def _crl(self, url: str, deadline: Deadline) -> bytes:
        deadline.remaining()  # also for what is kept: a large CRL takes seconds to read
        with self._lock:
            lock = self._locks.setdefault(url, threading.Lock())
        with lock:  # whoever comes second waits for what the first one fetches
            data = self._crls.get(url)
            if data is None:
                data = self._outbound.fetch(url, deadline, limit=MAX_CRL_BYTES)
                self._keep(url, data)
            return data

    def _keep(self, url: str, data: bytes) -> None:
        """Keep a CRL; those that came first give way to it."""
        with self._lock:
            self._crls[url] = data
            size = sum(map(len, self._crls.values()))
            while size > self._max_kept_bytes:
                size -= len(self._crls.pop(next(iter(self._crls))))

    def _is_good(self, link: Link, issuer: Link | None, deadline: Deadline) -> bool:
        """Return whether the first OCSP server that replies says good."""
        if issuer is None:
            raise FetchError("the certificate of its issuer is not known, so OCSP cannot be used")
        request = make_request(link.certificate, issuer.certificate)
        failure: OCSPDError | None = None
        for url in link.ocsp_urls[:MAX_URLS]:
            try:
                response = self._outbound.fetch(
                    url, deadline, limit=MAX_OCSP_BYTES, body=request, content_type="application/ocsp-request"
                )
                checked = check_response(
                    response,
                    certificate=link.certificate,
                    issuer=issuer.certificate,
                    now=self._clock.now(),
                )
            except OCSPDError as err:
                failure = err
                continue
            return checked.status is CertStatus.GOOD
        assert failure is not None
        raise failure


def _is_issuer(candidate: Link, link: Link) -> bool:
    if candidate.subject != link.issuer:
        return False
    try:
        check_signature(link, candidate)
    except OCSPDError:
        return False
    return True
