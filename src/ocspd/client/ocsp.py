"""Asking an OCSP responder, and believing only what a relying party may (RFC 6960, RFC 9919)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import aiohttp
import yarl

from ocspd.client.transport import cause_of
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.pki.certs import load_certificate
from ocspd.pki.chain_link import Link
from ocspd.pki.relying_party import check_response, make_request
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.clock import Clock
    from ocspd.pki.relying_party import CheckedStatus

MAX_GET_BYTES = 255
"""A longer URL is not sent by GET (RFC 9919 §3.2)."""
MAX_RESPONSE_BYTES = 100_000
"""Many times what a response with a few certificates has."""
SKEW_S = 300
"""How far ahead a responder's clock may be, as `openssl ocsp` has it. Expired is expired."""


class OCSPClient:
    """Asks responders about certificates; any number of tasks may use one client."""

    def __init__(self, *, timeout_s: float = 10.0, clock: Clock | None = None) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock or SystemClock()

    async def status(
        self, certificate: bytes, issuer: bytes, *, url: str = "", method: str = ""
    ) -> CheckedStatus:
        """Return the status of a certificate; both certificates are PEM or DER.

        Without a `url` the certificate's own is asked (authorityInfoAccess). GET is used for a request that
        fits into 255 bytes of URL, as caches want it, otherwise POST; `method` chooses one of them.

        CodedError 7400 when there is no reply. OCSPDError when the response must not be trusted, with the
        reason (`pki.relying_party` has the conditions), or `ErrorStatusError` when it is an unsigned error
        status such as unauthorized, which proves nothing. CodedError 1xxx for an unreadable certificate.
        """
        leaf, parent = load_certificate(certificate), load_certificate(issuer)
        target = url or next(iter(Link(leaf).ocsp_urls), "")
        if not target:
            raise OCSPDError("the certificate names no OCSP responder: give its URL")
        if urlsplit(target).scheme not in {"http", "https"}:
            raise OCSPDError(f"{shown(target)}: not the URL of an OCSP responder")
        response = await self._exchange(target, make_request(leaf, parent), method)
        now = self._clock.now()
        return check_response(response, certificate=leaf, issuer=parent, now=now, skew_s=SKEW_S)

    async def _exchange(self, url: str, request: bytes, method: str) -> bytes:
        get_url = f"{url.removesuffix('/')}/{quote(base64.b64encode(request).decode(), safe='')}"
        wanted = method.upper() or ("GET" if len(get_url) <= MAX_GET_BYTES else "POST")
        if wanted not in {"GET", "POST"}:
            raise OCSPDError(f"an OCSP request goes by GET or POST, not by {shown(method)}")
        connector = aiohttp.TCPConnector(force_close=True)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.request(
                    wanted,
                    _exact(get_url if wanted == "GET" else url),
                    data=None if wanted == "GET" else request,
                    headers={} if wanted == "GET" else {"Content-Type": "application/ocsp-request"},
                    allow_redirects=False,
                ) as reply,
            ):
                if reply.content_type != "application/ocsp-response":
                    raise CodedError(
                        Code.CLIENT_HTTP,
                        f"{shown(url)} replied with HTTP status {reply.status}, not with an OCSP response",
                    )
                return await _limited(reply, url)
        except TimeoutError:
            raise CodedError(Code.CLIENT_HTTP, f"{shown(url)} did not reply in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as err:
            raise CodedError(
                Code.CLIENT_HTTP, f"failed {wanted} to {shown(url)}: {cause_of(err, url)}"
            ) from err


def _exact(url: str) -> yarl.URL:
    """Keep the URL as it is written: `%2F` in base64 must not become `/`."""
    return yarl.URL(url, encoded=True)


async def _limited(reply: aiohttp.ClientResponse, url: str) -> bytes:
    body = bytearray()
    async for chunk in reply.content.iter_any():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise CodedError(Code.CLIENT_IO, f"the response of {shown(url)} is larger than 100 kB")
    return bytes(body)
