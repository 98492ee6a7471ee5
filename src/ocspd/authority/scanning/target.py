"""What is scanned: a host and port, how it is connected to, and until when."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from ocspd.authority.fetching import any_server, served_chain
from ocspd.authority.hosts import DIAL_S, is_address
from ocspd.errors import CodedError, ConfigError, FetchError
from ocspd.inputs import read_file
from ocspd.pki import certs, pem
from ocspd.shown import shown

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ocspd.authority.fetching import Deadline, Outbound
    from ocspd.clock import Clock
    from ocspd.pki.certs import Certificate


class Grade(Enum):
    """CFSSL's opinion on what a scanner found."""

    BAD = "Bad"
    WARNING = "Warning"
    GOOD = "Good"
    SKIPPED = "Skipped"


class Found(NamedTuple):
    """What a scanner found out; `error` is a text for people, "" without one."""

    grade: Grade
    output: Any = None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return CFSSL's object: output and error only if there are any."""
        output = {} if self.output is None else {"output": self.output}
        return {"grade": self.grade.value, **output, **({"error": self.error} if self.error else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The roots that certificates are verified with: DER; None for those of this system."""

    roots: Sequence[bytes] | None = None


def read_trust(name: str) -> Trust:
    """Return the roots of a PEM file, those of the system for ""; OCSPDError naming the file without any."""
    if not name:
        return Trust()
    blocks = [block for block in pem.blocks(read_file(name)) if block.label == "CERTIFICATE"]
    readable = [block.content for block in blocks if _is_readable(block.text)]
    if not readable:
        raise ConfigError(f"{name}: failed to load cert pool: it has no certificate in PEM")
    return Trust(roots=readable)


def _is_readable(text: bytes) -> bool:
    try:
        certs.load_certificate(text)
    except CodedError:
        return False
    return True


def verifying(trust: Trust) -> ssl.SSLContext:
    """Return a client context like `any_server` that verifies certificate and name as Go does."""
    context = any_server()
    context.check_hostname = True
    context.hostname_checks_common_name = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if trust.roots is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    for root in trust.roots or ():
        try:
            context.load_verify_locations(cadata=root)
        except ssl.SSLError:  # OpenSSL does not read everything that Go does
            continue
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host to scan; `address`, if given, is connected to instead of what its name resolves to."""

    host: str
    port: int
    address: str
    outbound: Outbound
    deadline: Deadline
    trust: Trust
    clock: Clock

    @property
    def where(self) -> str:
        """What is connected to: a name or an address."""
        return self.address or self.host

    @property
    def server_name(self) -> str:
        """The name to ask the server for (SNI, RFC 6066 §3), "" for an IP address or what cannot be sent."""
        name = self.host.removesuffix(".")
        try:
            return "" if is_address(name) else name.encode("idna").decode()
        except UnicodeError:
            return ""

    def addresses(self, host: str) -> list[str]:
        """Return the addresses of a host that may be connected to."""
        places = self.outbound.addresses(host, self.port, self.deadline.within(DIAL_S))
        return list(dict.fromkeys(place[0] for _, place in places))

    def connect(self, where: str = "") -> tuple[socket.socket, Deadline]:
        """Return a TCP connection to the host, or one of its addresses, and the deadline for using it."""
        deadline = self.deadline.within(DIAL_S)
        return self.outbound.connect(where or self.where, self.port, deadline), deadline

    def connect_tls(
        self, context: ssl.SSLContext, *, where: str = "", session: ssl.SSLSession | None = None
    ) -> ssl.SSLSocket:
        """Return a TLS connection; FetchError when it fails, NotTrusted for the certificate."""
        name = self.server_name or self.host
        if not self.server_name and not is_address(name):
            raise FetchError(f"{shown(name)}: not a name that a TLS server can be asked for")
        connection, deadline = self.connect(where)
        try:
            connection.settimeout(deadline.remaining())  # of the whole handshake
            return context.wrap_socket(connection, server_hostname=name, session=session)
        except ssl.SSLCertVerificationError as err:
            connection.close()
            raise NotTrusted(err.verify_code, err.verify_message) from err
        except (OSError, ValueError) as err:
            connection.close()
            raise FetchError(f"{shown(self.host)}:{self.port}: {_failure(err)}") from err
        except BaseException:
            connection.close()
            raise


class NotTrusted(FetchError):
    """A certificate that OpenSSL does not accept, by its X509_V_ERR number and text."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


def read_chain(target: Target, where: str = "") -> list[Certificate]:
    """Return the certificates a server sends, its own first; FetchError when there are none."""
    with target.connect_tls(any_server(), where=where) as connection:
        found = served_chain(connection)
    if not found:
        raise FetchError(f"{shown(target.host)}:{target.port} returned empty certificate chain")
    return [certs.load_certificate(each) for each in found]


def _failure(err: OSError | ValueError) -> str:
    match err:
        case TimeoutError():
            return "no TLS handshake in time"
        case ssl.SSLError():
            return f"TLS handshake failed: {(err.reason or 'not TLS').replace('_', ' ').lower()}"
        case _:
            text = getattr(err, "strerror", None) or str(err) or type(err).__name__
            return f"TLS handshake failed: {' '.join(text.split())[:200]}"
