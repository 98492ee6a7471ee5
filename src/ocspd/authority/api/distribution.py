"""CRLs at distribution points: DER over HTTP, for relying parties (RFC 5280 §4.2.1.13, RFC 2585).

    /crl                     the complete CRL of this server's CA, as the walkthrough's certificates name it
    /crl/KEYID.crl           the same under the CA's key identifier in lower-case hex
    /crl/KEYID-delta.crl     the delta CRL to every complete CRL that is in force

A CRL is never served after its nextUpdate, nor may caches keep it longer: then the reply is 503.

Dates in HTTP have whole seconds, and several CRLs may be signed within one. So Last-Modified is the first
second in which only the present one was served, and is not sent before that (RFC 9110 §8.8.2.1): whatever
date a client remembers, that of the field or of its download, If-Modified-Since gets no 304 for an older CRL.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import format_datetime, parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from ocspd.authority.api.call import Document, Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from ocspd.authority.api.call import Call, Run
    from ocspd.authority.crls import CRLPublisher, SignedCRL
    from ocspd.clock import Clock

CONTENT_TYPE = "application/pkix-crl"
_RETRY_S = 5


def distribution_points(publisher: CRLPublisher, clock: Clock) -> dict[str, Endpoint]:
    """Return the endpoints at which the CRLs of a CA are served, by path."""

    async def complete() -> SignedCRL | None:
        return publisher.complete

    name = publisher.signer.name
    whole = Endpoint("GET", _serve(complete, publisher, clock), head=True)
    return {
        "/crl": whole,
        f"/crl/{name}.crl": whole,
        f"/crl/{name}-delta.crl": Endpoint("GET", _serve(publisher.delta, publisher, clock), head=True),
    }


def _serve(find: Callable[[], Awaitable[SignedCRL | None]], publisher: CRLPublisher, clock: Clock) -> Run:
    async def run(call: Call) -> Document:
        crl, now = await find(), clock.now()
        if crl is None:
            return _unavailable("the CRL is not signed yet: try again in a few seconds")
        if now >= crl.next_update:
            return _unavailable(
                "the CRL has expired, and the server cannot read its database: try again later"
            )
        max_age = min(publisher.settings.max_age, crl.next_update - now)
        fields = {
            "ETag": crl.etag,
            "Expires": format_datetime((now + max_age).astimezone(UTC), usegmt=True),
            "Cache-Control": f"max-age={max_age.seconds + 86400 * max_age.days}, public, no-transform, "
            "must-revalidate",
        }
        if now >= crl.modified:
            fields["Last-Modified"] = format_datetime(crl.modified, usegmt=True)
        if _is_current(call.headers, crl, now):
            return Document(status=HTTPStatus.NOT_MODIFIED, headers=fields)
        return Document(body=crl.der, content_type=CONTENT_TYPE, headers=fields)

    return run


def _unavailable(why: str) -> Document:
    return Document(
        body=f"{why}\n".encode(),
        content_type="text/plain; charset=utf-8",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        headers={"Retry-After": str(_RETRY_S), "Cache-Control": "no-store"},
    )


def _is_current(headers: Mapping[str, str], crl: SignedCRL, now: datetime) -> bool:
    """Return whether the client has this CRL (RFC 9110 §13.2.2: If-None-Match comes first).

    A date to come is of a clock that is or was wrong, and says nothing.
    """
    tags = headers.get("If-None-Match")
    if tags is not None:
        return any(tag.strip().removeprefix("W/") in {crl.etag, "*"} for tag in tags.split(","))
    since = _date(headers.get("If-Modified-Since", ""))
    return since is not None and crl.modified <= since <= now


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
