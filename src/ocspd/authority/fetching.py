"""Connections to hosts that somebody else names: an API request, a certificate, a command line.

`Outbound` is the only way out for certinfo, scan, bundle and mkbundle. It keeps clients of the API from
reaching, through this server, what only this server can reach (server-side request forgery):

 1. A name is looked up once, every address it has is judged (`is_public`), and the connection is made to one
    of the addresses that were judged. A name that resolves differently a moment later changes nothing.
 2. The address at the other end of the connection is judged once more.
 3. HTTP redirects are not followed, and proxies from the environment are not used.
 4. Everything has a deadline and a limit in bytes, the lookup of the name included.

`allow_private` drops 1 and 2: a person at a command line may connect wherever this machine may.

The functions block; in the API they run in `offload.wait_outside`.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from ocspd.errors import FetchError
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Place = tuple[int, Any]
    """An address family and a socket address of it."""

MAX_ADDRESSES = 8
"""Addresses of one name that are tried."""
MAX_LOOKUPS = 64
"""Lookups of names at once. One that the resolver does not answer goes on after its deadline."""
MAX_HEAD_BYTES = 64 * 1024
"""Of an HTTP reply, in addition to its body."""
MAX_SENT_CERTIFICATES = 64
"""Certificates a TLS server may send."""

_CHUNK = 64 * 1024
_LEGACY_SERVERS = 0x4
"""OP_LEGACY_SERVER_CONNECT, which Python names since 3.12: servers without secure renegotiation."""
_HTTP_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[^\x00-\x20\x7f/?#@\\]{1,255}")
_IP_PUBLIC = ipaddress.ip_network("2000::/3")
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this network; 0.0.0.0 is this machine
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT, and the metadata services of some clouds
            "127.0.0.0/8",
            "168.63.129.16/32",  # of no registry: Azure's platform, which answers its virtual machines only
            "169.254.0.0/16",  # link-local: the metadata services of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",  # relays from 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",  # multicast, reserved, broadcast
            "2001::/23",  # protocol assignments: Teredo, ORCHID
            "2001:db8::/32",
            "2002::/16",  # 6to4, which carries any IPv4 address
            "3fff::/20",
        ),
    )
)
"""IANA's special-purpose registries (RFC 6890), as far as they are inside IPv4 and 2000::/3, and one more."""

_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public Internet.

    An IPv4 address inside an IPv6 address (mapped, or behind NAT64) is judged as that. IPv6 beyond
    2000::/3 is never public: loopback, link-local, unique local, multicast, translation prefixes of one's
    own. These are lists of their own because those of `ipaddress` differ between versions of Python.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id:
            return False
        if found in _MAPPED or found in _NAT64:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        elif found not in _IP_PUBLIC:
            return False
    return not any(found in network for network in _NOT_PUBLIC)


class Deadline:
    """A moment by which everything has to be done."""

    __slots__ = ("_end", "_now", "_seconds")

    def __init__(self, seconds: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._end = now() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left, more than 0; FetchError when there are none."""
        left = self._end - self._now()
        if left <= 0:
            raise FetchError(f"no reply within {self._seconds:g} s")
        return left

    def within(self, seconds: float) -> Deadline:
        """Return this deadline, or one in `seconds` if that is earlier."""
        return Deadline(min(seconds, self.remaining()), now=self._now)


def look_up(host: str, port: int) -> list[Place]:
    """Return the addresses of a host by the system's resolver, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [
        (family, place) for family, _, _, _, place in found if family in {socket.AF_INET, socket.AF_INET6}
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What may be connected to, and how names are looked up. All errors are FetchError."""

    allow_private: bool = False
    resolve: Callable[[str, int], Sequence[Place]] = look_up

    def addresses(self, host: str, port: int, deadline: Deadline) -> list[Place]:
        """Return the places of a host that may be connected to, at least one."""
        if not _HOST.fullmatch(host) or not 0 < port < 65536:
            raise FetchError(f"{shown(host)}: not a host name or address with a port from 1 to 65535")
        found = self._resolved(host, port, deadline)
        if not self.allow_private:
            found = [(family, place) for family, place in found if is_public(place[0])]
        if not found:
            raise _refused(host)
        return list(found[:MAX_ADDRESSES])

    def _check(self, host: str, address: str) -> None:
        if not self.allow_private and not is_public(address):
            raise _refused(host)

    def _resolved(self, host: str, port: int, deadline: Deadline) -> Sequence[Place]:
        """Look a name up in a thread: the resolver has time limits of its own, some of them long."""
        done: queue.SimpleQueue[Sequence[Place] | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                done.put(self.resolve(host, port))
            except (OSError, ValueError):  # UnicodeError included
                done.put(None)
            finally:
                _lookups.release()

        if not _lookups.acquire(timeout=deadline.remaining()):
            raise FetchError("too many names are being looked up")
        threading.Thread(target=work, name="lookup", daemon=True).start()
        try:
            found = done.get(timeout=deadline.remaining())
        except queue.Empty:
            deadline.remaining()
            raise FetchError(f"lookup {shown(host)}: no reply in time") from None
        if not found:
            raise FetchError(f"lookup {shown(host)}: no such host") if self.allow_private else _refused(host)
        return found

    def connect(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """Return a TCP connection to a host, whose time limit is what is left of the deadline."""
        places = self.addresses(host, port, deadline)
        failure = ""
        for tried, (family, place) in enumerate(places):
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(deadline.remaining() / (len(places) - tried))
                connection.connect(place)
                self._check(host, connection.getpeername()[0])
                connection.settimeout(deadline.remaining())
            except OSError as err:
                connection.close()
                failure = (
                    "i/o timeout" if isinstance(err, TimeoutError) else f"connect: {err.strerror or err}"
                )
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise FetchError(f"dial tcp {shown(host)}:{port}: {failure.lower()}")

    def connect_tls(
        self, host: str, port: int, deadline: Deadline, *, server_name: str = "", context: ssl.SSLContext
    ) -> ssl.SSLSocket:
        """Return a TLS connection to a host; `server_name` is what it is asked for (default: `host`)."""
        connection = self.connect(host, port, deadline)
        try:
            # The time limit of a socket is that of a whole handshake.
            return context.wrap_socket(connection, server_hostname=server_name or host)
        except (OSError, ValueError) as err:
            connection.close()
            raise FetchError(f"{shown(host)}:{port}: {_tls_failure(err)}") from err

    def served_certificates(
        self, host: str, port: int, deadline: Deadline, *, server_name: str = ""
    ) -> list[bytes]:
        """Return the certificates (DER) that a TLS server sends, its own first. Nothing is verified."""
        context = any_server()
        with self.connect_tls(host, port, deadline, server_name=server_name, context=context) as connection:
            found = served_chain(connection)
        if not found:
            raise FetchError(f"{shown(host)}:{port}: the server sent no certificate")
        if len(found) > MAX_SENT_CERTIFICATES:
            raise FetchError(f"{shown(host)}:{port}: the server sent {len(found)} certificates")
        return found

    def fetch(
        self, url: str, deadline: Deadline, *, limit: int, body: bytes = b"", content_type: str = ""
    ) -> bytes:
        """Return the body of an HTTP reply of at most `limit` bytes; with a `body` it is a POST.

        FetchError for any status but 200: redirects are not followed.
        """
        place = _read_url(url)
        if place.scheme == "https":
            context = ssl.create_default_context()
            connection: socket.socket = self.connect_tls(place.host, place.port, deadline, context=context)
        else:
            connection = self.connect(place.host, place.port, deadline)
        with connection:
            try:
                connection.settimeout(deadline.remaining())
                connection.sendall(_request(place, body, content_type))
                reply = http.client.HTTPResponse(
                    _Reader(connection, deadline, limit + MAX_HEAD_BYTES),  # type: ignore[arg-type]  # all it needs
                    method="POST" if body else "GET",
                )
                with reply:
                    return _content(reply, url, limit)
            except TimeoutError:
                deadline.remaining()
                raise FetchError(f"{shown(url)}: no reply in time") from None
            except (OSError, ValueError, http.client.HTTPException) as err:
                raise FetchError(
                    f"{shown(url)}: not an HTTP reply that can be read: {_first_line(err)}"
                ) from err


def _refused(host: str) -> FetchError:
    """Return the error for a host that may not be connected to, the same for one that does not exist.

    Which names there are in a network is nobody else's business.
    """
    return FetchError(f"lookup {shown(host)}: no public address, and connections to others are refused")


def any_server() -> ssl.SSLContext:
    """Return a client context that takes any certificate, and whatever old version OpenSSL still has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.options |= _LEGACY_SERVERS
    context.set_ciphers("ALL:!aNULL:@SECLEVEL=0")  # with an anonymous suite a server sends no certificate
    return context


def served_chain(connection: ssl.SSLSocket) -> list[bytes]:
    """Return the certificates (DER) a server sent in a handshake, its own first."""
    if hasattr(connection, "get_unverified_chain"):  # Python 3.13
        return list(connection.get_unverified_chain())
    import _ssl  # noqa: PLC0415  (before 3.13 there is no other way to the certificates of a server)

    found = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001  (as above)
    return [each.public_bytes(_ssl.ENCODING_DER) for each in found or ()]


def _tls_failure(err: OSError | ValueError) -> str:
    match err:
        case UnicodeError():
            return "not a name that a TLS server can be asked for"
        case TimeoutError():
            return "no TLS handshake in time"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {err.verify_message}"
        case ssl.SSLError():
            return f"TLS handshake failed: {(err.reason or str(err)).replace('_', ' ').lower()}"
        case _:
            return f"TLS handshake failed: {_first_line(err)}"


def _first_line(err: Exception) -> str:
    return shown(" ".join((getattr(err, "strerror", None) or str(err) or type(err).__name__).split()))


class _URL(NamedTuple):
    scheme: str
    host: str
    port: int
    target: str
    """Path and query, as they are sent."""


def _read_url(url: str) -> _URL:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise FetchError(f"{shown(url)}: not a URL") from None
    if parts.scheme not in _HTTP_PORTS or not host or parts.username is not None:
        raise FetchError(f"{shown(url)}: only http:// and https:// URLs without a user are fetched")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    target = f"{path}?{query}" if query else path
    return _URL(parts.scheme, host, _HTTP_PORTS[parts.scheme] if port is None else port, target)


def _request(place: _URL, body: bytes, content_type: str) -> bytes:
    scheme, host, port, target = place
    name = f"[{host}]" if ":" in host else host.encode("idna").decode()
    lines = [
        f"{'POST' if body else 'GET'} {target} HTTP/1.1",
        f"Host: {name}" if port == _HTTP_PORTS[scheme] else f"Host: {name}:{port}",
        "User-Agent: ocspd",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    if body:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _content(reply: http.client.HTTPResponse, url: str, limit: int) -> bytes:
    reply.begin()
    if reply.status != http.HTTPStatus.OK:
        raise FetchError(f"{shown(url)}: HTTP status {reply.status}")
    data = bytearray()
    too_long = (reply.length or 0) > limit
    while not too_long and (chunk := reply.read(min(_CHUNK, limit + 1 - len(data)))):
        data += chunk
        too_long = len(data) > limit
    if too_long:
        raise FetchError(f"{shown(url)}: longer than {limit} bytes")
    if reply.length:
        raise FetchError(f"{shown(url)}: the reply ends too early")
    return bytes(data)


class _Reader(io.RawIOBase):
    """The bytes of a connection up to a deadline and a limit, for http.client."""

    def __init__(self, connection: socket.socket, deadline: Deadline, limit: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._left = limit

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the stream, as a socket does."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there; 0 at the end."""
        self._connection.settimeout(self._deadline.remaining())
        count = self._connection.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise FetchError("the reply is longer than is read")
        return count
