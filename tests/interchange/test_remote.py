"""Debian's cfssl as client of our server, and ours as client of Debian's: `-remote` and what goes with it."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from tests.authority.cfssl import AUTH_KEY, cfssl_serve
from tests.e2e.test_serve import flags_of, serve
from tests.interchange.programs import Case, run
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def material(inputs: Path, tmp_path: Path) -> Path:
    """The material in a directory of its own."""
    shutil.copytree(inputs, tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture(scope="module")
def served(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The material of the servers."""
    return Path(shutil.copytree(inputs, tmp_path_factory.mktemp("served") / "m"))


@pytest.fixture(scope="module")
def their_server(served: Path) -> Iterator[str]:
    """Debian's `cfssl serve`: host and port."""
    with cfssl_serve(served, *flags_of(served)) as url:
        yield url.replace("http://127.0.0.1", "localhost")  # Go takes an IP address with a port for no URL


@pytest.fixture(scope="module")
def our_server(served: Path) -> Iterator[str]:
    """`ocspd serve`: host and port."""
    with serve(served, *flags_of(served)) as server:
        yield f"localhost:{server.port}"


def issued(program: Path | str, words: str, directory: Path, stdin: Any = "") -> x509.Certificate:
    outcome, told = run(program, Case(words, stdin), directory)
    assert outcome.code == 0, told
    stdin = stdin if isinstance(stdin, str) else json.dumps(stdin)
    done = subprocess.run(
        [program, *words.split()], input=stdin, capture_output=True, text=True, check=True, cwd=directory
    )
    return x509.load_pem_x509_certificate(json.loads(done.stdout)["cert"].encode())


CLIENT_CASES = [
    "sign -remote SERVER leaf.csr",
    "sign -remote SERVER -profile client leaf.csr",
    "sign -remote SERVER -profile client -hostname b.example,10.0.0.1 leaf.csr",
    "sign -remote SERVER leaf.csr subject.json",
    "sign -remote SERVER -label nothing leaf.csr",
    "sign -remote SERVER -config remote.json leaf.csr",
    "sign -remote SERVER -profile authed leaf.csr",
    "sign -config remote.json leaf.csr",
    "sign -config remote.json -profile authed leaf.csr",
    "sign -config remote.json -profile wrongkey leaf.csr",
    "sign -config remote.json -profile nonexistent leaf.csr",
    "gencert -remote SERVER leaf.json",
    "gencert -remote SERVER -profile client leaf.json",
    "gencert -config remote.json -profile authed leaf.json",
    "info -remote SERVER",
    "info -remote SERVER -profile client",
    "info -remote SERVER -label nothing",
    "info -config remote.json -profile authed",
    "sign -remote DEAD,SERVER leaf.csr",
    "sign -remote SERVER,DEAD leaf.csr",
    "sign -remote DEAD leaf.csr",
    "sign -remote http://SERVER leaf.csr",
    "sign -remote https://SERVER leaf.csr",
    "sign -remote SERVER junk.pem",
]


def write_remote_config(material: Path, server: str) -> None:
    """Write remote.json: profiles at the server, without a key, with the right one, and with a wrong one."""
    value = {
        "signing": {
            "default": {"remote": "ca"},
            "profiles": {
                "authed": {"auth_remote": {"remote": "ca", "auth_key": "k"}},
                "wrongkey": {"auth_remote": {"remote": "ca", "auth_key": "w"}},
            },
        },
        "auth_keys": {
            "k": {"type": "standard", "key": AUTH_KEY},
            "w": {"type": "standard", "key": AUTH_KEY[::-1]},
        },
        "remotes": {"ca": server},
    }
    (material / "remote.json").write_text(json.dumps(value))


@pytest.mark.parametrize("words", CLIENT_CASES)
def test_both_clients_get_the_same_from_our_server(
    words: str, material: Path, our_server: str, ours: Path, theirs: str
) -> None:
    both_clients_agree(words, material, our_server, ours, theirs)


@pytest.mark.parametrize("words", CLIENT_CASES)
def test_both_clients_get_the_same_from_debians_server(
    words: str, material: Path, their_server: str, ours: Path, theirs: str
) -> None:
    both_clients_agree(words, material, their_server, ours, theirs)


def both_clients_agree(words: str, material: Path, server: str, ours: Path, theirs: str) -> None:
    write_remote_config(material, server)
    words = words.replace("SERVER", server).replace("DEAD", f"localhost:{free_port()}")
    expected, told_theirs = run(theirs, Case(words), material)
    found, told_ours = run(ours, Case(words), material)
    assert found == expected, f"theirs: {told_theirs}\nours: {told_ours}"


def crl_urls(certificate: x509.Certificate) -> list[str]:
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    return [name.value for point in points for name in point.full_name or ()]


def test_the_crl_url_of_gencert_reaches_the_certificate_through_a_remote(
    material: Path, our_server: str, ours: Path
) -> None:
    write_remote_config(material, our_server)
    url = "http://crl.example/x.crl"
    for words in (
        f"gencert -remote {our_server} -crl {url} leaf.json",
        f"gencert -config remote.json -profile authed -crl {url} leaf.json",
        f"gencert -ca ca.pem -ca-key ca-key.pem -crl {url} leaf.json",
    ):
        assert crl_urls(issued(ours, words, material)) == [url]


# -- TLS ---------------------------------------------------------------------------------------------


def tls_flags(material: Path) -> list[str]:
    return [
        *("-tls-cert", f"{material}/server.pem", "-tls-key", f"{material}/server-key.pem"),
        *("-mutual-tls-ca", f"{material}/ca.pem"),
    ]


TRUST = "-tls-remote-ca ca.pem"
PAIR = "-mutual-tls-client-cert client.pem -mutual-tls-client-key client-key.pem"


def test_both_clients_reach_our_server_over_mutual_tls(material: Path, ours: Path, theirs: str) -> None:
    with serve(material, *flags_of(material), *tls_flags(material)) as server:
        for program in (theirs, ours):
            words = f"sign -remote https://localhost:{server.port} {TRUST} {PAIR} leaf.csr"
            assert issued(program, words, material).subject.rfc4514_string() == "CN=leaf.example"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_without_certificate_is_told_so_by_a_tls_alert(
    material: Path, ours: Path, theirs: str, version: str
) -> None:
    alert = {"1.2": "handshake failure", "1.3": "certificate required"}[version]
    with serve(material, *flags_of(material), *tls_flags(material), "-min-tls-version", version) as server:
        option = "-tls1_3" if version == "1.3" else "-tls1_2"
        asked = subprocess.run(
            [need("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", option, "-ign_eof"],
            input="GET / HTTP/1.0\r\n\r\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert f"alert {alert}" in asked.stderr
        words = f"sign -remote https://localhost:{server.port} {TRUST} leaf.csr"
        found, told = run(ours, Case(words), material)
        assert (found.code, found.error) == (1, "7400")
        wanted = alert if version == "1.3" else "certificate required"  # the client takes the newest version
        assert f"remote error: tls: {wanted} (set -mutual-tls-client-cert" in told
        found, told = run(theirs, Case(words), material)
        assert (found.code, found.error) == (1, "7400")
        assert "remote error: tls:" in told
        # a connection is still served after that
        assert issued(ours, f"{words[: -len('leaf.csr')]}{PAIR} leaf.csr", material)


def go_on(connection: ssl.SSLSocket) -> None:
    """Send until that fails."""
    for _ in range(10_000):
        connection.sendall(b"x" * 65536)


def test_a_client_that_goes_on_after_the_alert_is_cut_off(material: Path) -> None:
    context = ssl.create_default_context(cafile=str(material / "ca.pem"))
    with (
        serve(material, *flags_of(material), *tls_flags(material)) as server,
        socket.create_connection(("127.0.0.1", server.port), 60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        with pytest.raises(OSError, match=r"(?i)certificate.required|reset|broken pipe|eof"):
            go_on(wrapped)
        assert server.process.poll() is None


# -- HTTP --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["FOO", "get", "X-ray", "PROPFIND", "DELETE"])
def test_a_method_that_no_endpoint_has_is_405_whatever_its_name(
    material: Path, our_server: str, their_server: str, method: str
) -> None:
    replies = []
    for address in (their_server, our_server):
        for path in ("/api/v1/cfssl/info", "/api/v1/cfssl/nothing"):
            host, _, port = address.partition(":")
            with socket.create_connection((host, int(port)), 60) as connection:
                request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                connection.sendall(request.encode())
                with connection.makefile("rb") as stream:
                    head, _, body = stream.read().partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:])
            assert fields.get("server", "ocspd") == "ocspd"
            replies.append((lines[0], fields["content-type"], fields.get("x-content-type-options"), body))
    assert replies[2:] == replies[:2]
    assert replies[0][0] == "HTTP/1.1 405 Method Not Allowed"
    assert replies[1][0] == "HTTP/1.1 404 Not Found"
