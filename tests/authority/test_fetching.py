from __future__ import annotations

import itertools
import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ocspd.authority.fetching import MAX_ADDRESSES, Deadline, Outbound, is_public
from ocspd.errors import FetchError
from tests.authority import tls_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REFUSED = "no public address, and connections to others are refused"
ANYWHERE = Outbound(allow_private=True)


def plenty() -> Deadline:
    return Deadline(120)


@contextmanager
def served(
    handle: Callable[[socket.socket], None], address: str = "127.0.0.1"
) -> Iterator[tuple[int, list[bytes]]]:
    """Serve connections one after the other; yield the port and the heads of the requests."""
    heads: list[bytes] = []
    listener = socket.create_server((address, 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    head = connection.recv(65536)
                    heads.append(head)
                    handle(connection)
                except OSError:
                    pass  # the client has left, as some tests want it

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield listener.getsockname()[1], heads
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def saying(reply: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(reply)


PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "168.63.129.15",
    "168.63.129.17",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.0.1",
    "172.32.0.1",
    "223.255.255.255",
]
PUBLIC += ["2600::1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
]
NOT_PUBLIC += ["169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.0.0.8", "192.0.2.1"]
NOT_PUBLIC += ["198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.1.1.1"]
NOT_PUBLIC += ["240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "fe80::1", "fe80::1%lo", "2600::1%lo"]
NOT_PUBLIC += [
    "fc00::1",
    "fd12::1",
    "fec0::1",
    "ff02::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
]
NOT_PUBLIC += ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a00:1"]
NOT_PUBLIC += ["168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110"]  # Azure's WireServer
NOT_PUBLIC += ["64:ff9b:1::808:808", "4000::1", "100::1", "5f00::1", "localhost", "", "127.1", "0x7f000001"]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_internet_is_recognized(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_every_other_address_is_not_public(address: str) -> None:
    assert not is_public(address)


OURS = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "0x7f.1",
    "2130706433",
    "017700000001",
    "0",
    "0.0.0.0",
    "::1",
    "::",
]
OURS += ["::ffff:127.0.0.1", "::ffff:7f00:1", "169.254.169.254", "10.0.0.1", "64:ff9b::127.0.0.1"]


@pytest.mark.parametrize("host", OURS)
def test_a_host_without_a_public_address_is_refused_before_anything_is_sent(host: str) -> None:
    with pytest.raises(FetchError) as caught:
        Outbound().connect(host, 1, plenty())
    assert str(caught.value) == f"lookup {host}: {REFUSED}"


def test_a_name_that_does_not_exist_looks_like_one_that_is_private() -> None:
    for resolve in (lambda _host, _port: [], lambda _host, port: [(socket.AF_INET, ("10.0.0.1", port))]):
        with pytest.raises(FetchError) as caught:
            Outbound(resolve=resolve).connect("db.internal", 443, plenty())
        assert str(caught.value) == f"lookup db.internal: {REFUSED}"


def test_nothing_arrives_at_a_private_address_unless_it_is_allowed() -> None:
    with served(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")) as (port, heads):
        url = f"http://127.0.0.1:{port}/a"
        with pytest.raises(FetchError, match=REFUSED):
            Outbound().fetch(url, plenty(), limit=10)
        assert heads == []
        assert ANYWHERE.fetch(url, plenty(), limit=10) == b"hi"
        assert len(heads) == 1


def test_a_name_is_looked_up_once_so_that_it_cannot_change_after_it_was_judged() -> None:
    """DNS rebinding: the second lookup would say loopback."""
    answers = iter(["203.0.113.1", "127.0.0.1"])
    asked = []

    def resolve(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
        asked.append(host)
        return [(socket.AF_INET, (next(answers), port))]

    with pytest.raises(FetchError, match=REFUSED):
        Outbound(resolve=resolve).connect("rebinding.example", 443, plenty())
    assert asked == ["rebinding.example"]


def test_only_the_public_addresses_of_a_name_are_tried() -> None:
    def resolve(_host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
        return [(socket.AF_INET, (address, port)) for address in ("10.0.0.1", "1.1.1.1", "127.0.0.1")]

    found = Outbound(resolve=resolve).addresses("mixed.example", 443, plenty())
    assert found == [(socket.AF_INET, ("1.1.1.1", 443))]
    many = [(socket.AF_INET, (f"1.1.1.{n}", 443)) for n in range(100)]
    assert Outbound(resolve=lambda _host, _port: many).addresses("x", 1, plenty()) == many[:MAX_ADDRESSES]


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with served(saying(b"HTTP/1.1 200 OK\r\n\r\nsecond")) as (port, _):
        with socket.create_server(("127.0.0.1", 0)) as unused:
            closed = unused.getsockname()[1]

        def resolve(_host: str, _port: int) -> list[tuple[int, tuple[str, int]]]:
            return [(socket.AF_INET, ("127.0.0.1", closed)), (socket.AF_INET, ("127.0.0.1", port))]

        reached = Outbound(allow_private=True, resolve=resolve)
        assert reached.fetch("http://two.example/", plenty(), limit=10) == b"second"


def test_a_lookup_that_hangs_ends_at_the_deadline() -> None:
    release = threading.Event()

    def resolve(_host: str, _port: int) -> list[tuple[int, tuple[str, int]]]:
        release.wait(60)
        return []

    try:
        with pytest.raises(FetchError, match=r"no reply within 0\.05 s|no reply in time"):
            Outbound(resolve=resolve).connect("slow.example", 443, Deadline(0.05))
    finally:
        release.set()


@pytest.mark.parametrize(
    "host", ["", "a b", "a\r\nb", "a/b", "a@b", "x" * 256, "..", "a\0b", "é" * 64, "x" * 64]
)
def test_what_is_not_a_host_name_is_an_error_and_nothing_else(host: str) -> None:
    with pytest.raises(FetchError):
        ANYWHERE.connect(host, 443, plenty())


@pytest.mark.parametrize("port", [0, -1, 65536, 1 << 40])
def test_what_is_not_a_port_is_an_error(port: int) -> None:
    with pytest.raises(FetchError, match="1 to 65535"):
        ANYWHERE.connect("127.0.0.1", port, plenty())


NOT_FETCHED = [
    "",
    "x",
    "//host/",
    "ftp://127.0.0.1/",
    "file:///etc/passwd",
    "ldap://127.0.0.1/cn=x",
    "gopher://127.0.0.1/",
]
NOT_FETCHED += [
    "http://user:secret@127.0.0.1/",
    "http://:80/",
    "http://[::1/",
    "http://127.0.0.1:99999/",
    "http://",
]


@pytest.mark.parametrize("url", NOT_FETCHED)
def test_only_plain_http_urls_are_fetched(url: str) -> None:
    with pytest.raises(FetchError) as caught:
        ANYWHERE.fetch(url, plenty(), limit=10)
    assert "secret" not in str(caught.value)


def test_the_request_is_one_request_whatever_is_in_the_url() -> None:
    with served(saying(b"HTTP/1.1 200 OK\r\n\r\n")) as (port, heads):
        ANYWHERE.fetch(f"http://127.0.0.1:{port}/a b\r\nX: y\r\n\r\n/é?q=\r\nz", plenty(), limit=10)
    lines = heads[0].split(b"\r\n")
    assert lines[0].startswith(b"GET /a%20b")
    assert lines[0].endswith(b" HTTP/1.1")
    assert lines[1] == f"Host: 127.0.0.1:{port}".encode()
    assert not any(line.startswith((b"X:", b"z")) for line in lines)
    assert heads[0].count(b"\r\n\r\n") == 1


def test_a_redirect_is_not_followed() -> None:
    with served(saying(b"HTTP/1.1 200 OK\r\n\r\nsecret")) as (inner, heads):
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{inner}/\r\nContent-Length: 0\r\n\r\n"
        with (
            served(saying(moved.encode())) as (port, _),
            pytest.raises(FetchError, match="HTTP status 302"),
        ):
            ANYWHERE.fetch(f"http://127.0.0.1:{port}/", plenty(), limit=100)
        assert heads == []


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour", b"four"),
        (b"HTTP/1.0 200 OK\r\n\r\nfour", b"four"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfo\r\n2\r\nur\r\n0\r\n\r\n", b"four"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlarge", "longer than 4 bytes"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000, "longer than 4 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlarge\r\n0\r\n\r\n", "longer than 4"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfo", "ends too early"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP status 404"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "not an HTTP reply|longer than is read"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "not an HTTP reply"),
        (b"SSH-2.0-OpenSSH\r\n", "not an HTTP reply"),
        (b"", "not an HTTP reply"),
    ],
)
def test_a_reply_is_read_up_to_a_limit(reply: bytes, wanted: bytes | str) -> None:
    with served(saying(reply)) as (port, _):
        url = f"http://127.0.0.1:{port}/"
        if isinstance(wanted, bytes):
            assert ANYWHERE.fetch(url, plenty(), limit=4) == wanted
        else:
            with pytest.raises(FetchError, match=wanted):
                ANYWHERE.fetch(url, plenty(), limit=4)


def test_a_reply_that_comes_byte_by_byte_ends_at_the_deadline() -> None:
    ticks = itertools.count()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x")

    with (
        served(drip) as (port, _),
        pytest.raises(FetchError, match=r"no reply within 100 s"),
    ):
        ANYWHERE.fetch(f"http://127.0.0.1:{port}/", Deadline(100, now=lambda: next(ticks)), limit=1 << 40)


def test_a_silent_server_ends_at_the_deadline() -> None:
    stay = threading.Event()

    def wait(_connection: socket.socket) -> None:
        stay.wait(60)

    with served(wait) as (port, _):
        try:
            with pytest.raises(FetchError, match="no reply"):
                ANYWHERE.fetch(f"http://127.0.0.1:{port}/", Deadline(0.2), limit=4)
        finally:
            stay.set()


def test_the_certificates_of_a_tls_server_are_read_without_trusting_it(material: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(material / "server.pem", material / "server-key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        connection, _ = listener.accept()
        with connection, context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        port = listener.getsockname()[1]
        found = ANYWHERE.served_certificates("127.0.0.1", port, plenty(), server_name="anything.example")
    finally:
        thread.join()
        listener.close()
    wanted = ssl.PEM_cert_to_DER_cert((material / "server.pem").read_text())
    assert found == [wanted]


def test_what_is_not_tls_is_an_error_that_says_so() -> None:
    with (
        served(saying(b"220 mail.example ESMTP\r\n")) as (port, _),
        pytest.raises(FetchError, match=f"127.0.0.1:{port}: TLS handshake failed"),
    ):
        ANYWHERE.served_certificates("127.0.0.1", port, plenty())


def test_an_https_server_must_be_trusted(material: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(material / "server.pem", material / "server-key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        connection, _ = listener.accept()
        with connection, pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(connection, server_side=True).recv(1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with pytest.raises(FetchError, match="its certificate is not trusted"):
            ANYWHERE.fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/", plenty(), limit=4)
    finally:
        thread.join()
        listener.close()


def test_a_server_that_prefers_anonymous_suites_sends_its_certificate(tmp_path: Path) -> None:
    root = tls_servers.issue("Root")
    path = tls_servers.write(tmp_path, "good", tls_servers.issue("localhost", root), root)
    suites = "AECDH-AES256-SHA:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:@SECLEVEL=0"
    with tls_servers.openssl_server(path, "-tls1_2", "-serverpref", "-cipher", suites) as port:
        assert len(ANYWHERE.served_certificates("127.0.0.1", port, plenty())) == 2
