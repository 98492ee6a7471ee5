"""What passes between HTTP and an endpoint: a call, and the reply to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocspd.authority.api.api_response import Success


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: the address as the log has it, and the certificate it identified itself with, if any."""

    address: str = "-"
    peer_certificate: Mapping[str, Any] = field(default_factory=dict)
    """As `ssl.SSLSocket.getpeercert` describes it; empty without mutual TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to an endpoint, with its whole body."""

    body: bytes = b""
    path: str = ""
    """Decoded, as it was matched."""
    query: str = ""
    """Raw, without the question mark."""
    head: bool = False
    """Whether only the head of the reply will be sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Field names in any case (RFC 9110 §5.1)."""
    caller: Caller = field(default_factory=Caller)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A reply that is not CFSSL's JSON: a CRL, a page."""

    body: bytes = b""
    content_type: str = ""
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Run = Callable[[Call], Awaitable["Success | Document"]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path: the only method it has, and what it does with a call.

    `head` also allows HEAD, beside GET. CFSSL's own endpoints do not have it.
    """

    method: str
    run: Run
    head: bool = False

    @property
    def allowed(self) -> str:
        """The methods, as the header field Allow lists them."""
        return f"{self.method}, HEAD" if self.head else self.method

    def has(self, method: str) -> bool:
        """Whether there is such a method here."""
        return method == self.method or (self.head and method == "HEAD")


def of_body(work: Callable[[bytes], Awaitable[Success]]) -> Run:
    """Return what an endpoint does whose reply depends on the body alone."""

    async def run(call: Call) -> Success | Document:
        return await work(call.body)

    return run
