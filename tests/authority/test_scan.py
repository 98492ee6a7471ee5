from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ocspd.authority.fetching import Outbound
from ocspd.authority.scanning.families import FAMILIES, Choice, describe_families, run_scan
from ocspd.authority.scanning.hello import MAX_REPLY_BYTES
from ocspd.authority.scanning.suites import SUITES, TLS13_SUITES, short_name
from ocspd.authority.scanning.target import Trust, read_trust
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError, OCSPDError
from tests.authority import tls_servers
from tests.authority.tls_servers import Issued, issue
from tests.binary import ocspd
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LONG = timedelta(minutes=2)


@pytest.fixture(scope="module")
def root() -> Issued:
    return issue("Root")


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory, root: Issued) -> Path:
    """A certificate for localhost with its chain and key, in one file."""
    return tls_servers.write(tmp_path_factory.mktemp("good"), "good", issue("localhost", root), root)


@pytest.fixture(scope="module")
def rsa_credentials(tmp_path_factory: pytest.TempPathFactory, root: Issued) -> Path:
    key = rsa.generate_private_key(65537, 2048)
    return tls_servers.write(tmp_path_factory.mktemp("rsa"), "rsa", issue("localhost", root, key=key), root)


def to_loopback(_host: str, port: int) -> Sequence[tuple[int, Any]]:
    return [(socket.AF_INET, ("127.0.0.1", port))]


def scan(
    port: int,
    scanner: str = "",
    *,
    host: str = "localhost",
    trust: Trust | None = None,
    timeout: timedelta = LONG,
    outbound: Outbound | None = None,
    address: str = "",
) -> dict[str, dict[str, Any]]:
    """Return what the scanners say, by their names alone."""
    found = run_scan(
        f"{host}:{port}",
        Choice(scanner=f"^(?:{scanner})$" if scanner else ""),
        timeout,
        address=address,
        outbound=outbound or Outbound(allow_private=True, resolve=to_loopback),
        trust=trust or Trust(),
        clock=SystemClock(),
    )
    return {name: result for family in found.values() for name, result in family.items()}


def roots(*issued: Issued) -> Trust:
    return Trust(roots=[each.certificate.public_bytes(Encoding.DER) for each in issued])


# -- what there is --------------------------------------------------------------------------------


def test_families_and_scanners_are_listed_as_by_cfssl() -> None:
    theirs = subprocess.run([need("cfssl"), "scan", "-list"], capture_output=True, check=True, timeout=120)
    listed = json.loads(theirs.stdout.replace(b"prefered", b"preferred"))
    mine = describe_families()
    assert {name: set(family["scanners"]) for name, family in mine.items()} == {
        "Broad": {"IntermediateCAs"},
        "Connectivity": {"CloudFlareStatus", "DNSLookup", "TCPDial", "TLSDial"},
        "PKI": {"ChainExpiration", "ChainValidation", "MultipleCerts"},
        "TLSHandshake": {"CertsByCiphers", "CertsBySigAlgs", "CipherSuite", "ECCurves", "SigAlgs"},
        "TLSSession": {"SessionResume"},
    }
    for name, family in mine.items():
        assert family["description"] == listed[name]["description"]
        for each, one in family["scanners"].items():
            if each in listed[name]["scanners"]:
                assert one == listed[name]["scanners"][each]
    assert ocspd("scan", "-list").stdout == json.dumps(mine, indent=2) + "\n\n"


def test_cipher_suites_have_the_names_of_openssl_and_of_the_registry() -> None:
    listing = subprocess.run(
        [need("openssl"), "ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    for line in listing.splitlines():
        code, registered, name = line.replace(" - ", " ").split()[:3]
        number = int("".join(each.removeprefix("0x") for each in code.split(",")), 16)
        assert (SUITES | TLS13_SUITES)[number] == registered
        assert short_name(number) in {name, registered}
    assert short_name(0x0003) == "EXP-RC4-MD5"
    assert short_name(0x0016) == "EDH-RSA-DES-CBC3-SHA"
    assert short_name(0x00C5) == "TLS_DH_anon_WITH_CAMELLIA_256_CBC_SHA256"
    assert short_name(0xC022) == "SRP-DSS-AES-256-CBC-SHA"
    assert short_name(0xC032) == "ECDH-RSA-AES256-GCM-SHA384"
    assert short_name(0xC03B) == "TLS_ECDHE_PSK_WITH_NULL_SHA384"
    assert short_name(0xC063) == "TLS_ECDH_RSA_WITH_ARIA_256_GCM_SHA384"
    assert short_name(0xC09B) == "TLS_ECDHE_PSK_WITH_CAMELLIA_256_CBC_SHA384"
    assert short_name(0xC0AF) == "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8"


# -- healthy servers ------------------------------------------------------------------------------


def test_a_healthy_server_is_good_in_every_respect(credentials: Path, root: Issued) -> None:
    with tls_servers.openssl_server(credentials) as port:
        found = scan(port, trust=roots(root), outbound=Outbound(allow_private=True, resolve=to_loopback))
    grades = {name: result["grade"] for name, result in found.items()}
    assert grades.pop("CloudFlareStatus") == "Skipped"  # no list without the Internet
    assert grades.pop("IntermediateCAs") == "Skipped"
    assert set(grades.values()) == {"Good"}, found
    assert set(grades) | {"CloudFlareStatus", "IntermediateCAs"} == {
        each for family in FAMILIES.values() for each in family.scanners
    }
    assert found["DNSLookup"]["output"] == ["127.0.0.1"]
    assert found["SessionResume"]["output"] == {"127.0.0.1": True}
    assert set(found["TLSDial"]) == {"grade"}


def test_suites_are_in_the_order_of_the_server_and_show_versions_and_curves(
    tmp_path: Path, rsa_credentials: Path
) -> None:
    settings = """ssl_protocols TLSv1.2; ssl_prefer_server_ciphers on; ssl_ecdh_curve secp384r1:prime256v1;
    ssl_ciphers AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305;"""
    with tls_servers.nginx(tmp_path, rsa_credentials, settings) as port:
        found = scan(port, "CipherSuite|ECCurves|CertsByCiphers|SigAlgs|CertsBySigAlgs")
    curves = ["secp384r1", "secp256r1"]
    assert found["CipherSuite"]["output"] == [
        {"AES256-GCM-SHA384": ["TLS 1.2"]},
        {"ECDHE-RSA-AES128-GCM-SHA256": [{"TLS 1.2": curves}]},
        {"ECDHE-RSA-CHACHA20-POLY1305": [{"TLS 1.2": curves}]},
    ]
    assert found["ECCurves"] == {"grade": "Good", "output": curves}
    assert found["CertsByCiphers"]["output"] == dict.fromkeys(
        [
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_RSA_WITH_AES_256_GCM_SHA384",
        ],
        "ECDSAWithSHA256",
    )
    signatures = [(each["signature"], each["hash"]) for each in found["SigAlgs"]["output"]]
    assert ("RSA", "SHA256") in signatures
    assert ("RSA-PSS", "SHA256") in signatures
    assert not [each for each in signatures if each[0] == "ECDSA"]
    assert found["CertsBySigAlgs"]["output"]["{RSA,SHA256}"] == "ECDSAWithSHA256"


def test_two_certificates_are_told_apart(tmp_path: Path, credentials: Path) -> None:
    """The one that the root with an RSA key signed has an RSA key itself."""
    rsa_root = issue("RSA Root", key=rsa.generate_private_key(65537, 2048))
    leaf = issue("localhost", rsa_root, key=rsa.generate_private_key(65537, 2048))
    other = tls_servers.write(tmp_path, "rsa", leaf, rsa_root)
    settings = f"ssl_certificate {other}; ssl_certificate_key {other}; ssl_protocols TLSv1.2;"
    with tls_servers.nginx(tmp_path, credentials, settings) as port:
        found = scan(port, "CertsByCiphers|CertsBySigAlgs")
    by_cipher = found["CertsByCiphers"]["output"]
    assert {name: signed for name, signed in by_cipher.items() if "_ECDSA_" in name}
    for name, signed in by_cipher.items():
        assert signed == ("ECDSAWithSHA256" if "_ECDSA_" in name else "SHA256WithRSA"), name
    by_signature = found["CertsBySigAlgs"]["output"]
    assert by_signature["{ECDSA,SHA256}"] == "ECDSAWithSHA256"
    assert by_signature["{RSA,SHA256}"] == by_signature["{RSA-PSS,SHA256}"] == "SHA256WithRSA"


def test_suites_agree_with_cfssl(tmp_path: Path, rsa_credentials: Path) -> None:
    """Debian's CFSSL knows neither TLS 1.3 nor the final numbers of ChaCha20."""
    settings = """ssl_protocols TLSv1.2; ssl_prefer_server_ciphers on; ssl_ecdh_curve secp384r1:prime256v1;
    ssl_ciphers AES128-SHA:AES256-GCM-SHA384:ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES128-GCM-SHA256;"""
    with tls_servers.nginx(tmp_path, rsa_credentials, settings) as port:
        mine = scan(port, "CipherSuite|ChainExpiration|SessionResume|DNSLookup|TCPDial", host="127.0.0.1")
        command = [need("cfssl"), "scan", "-family", "Connectivity|TLS|PKI", f"127.0.0.1:{port}"]
        command[2:2] = ["-scanner", "^(CipherSuite|ChainExpiration|SessionResume|DNSLookup|TCPDial)$"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    theirs = json.loads(
        done.stdout.partition("...\n")[2].partition("===\n")[2] or done.stdout.partition("\n")[2]
    )
    flat = {name: result for family in theirs.values() for name, result in family.items()}
    assert mine == flat


def test_tls_1_3_is_scanned(credentials: Path) -> None:
    with tls_servers.openssl_server(credentials, "-tls1_3", "-groups", "X25519:P-256") as port:
        found = scan(port, "CipherSuite|ECCurves|SigAlgs|CertsByCiphers|SessionResume")
    suites = {name: versions for each in found["CipherSuite"]["output"] for name, versions in each.items()}
    assert set(suites) == {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}
    ((version, curves),) = suites["TLS_AES_128_GCM_SHA256"][0].items()
    assert (version, set(curves)) == ("TLS 1.3", {"x25519", "secp256r1"})
    assert set(found["ECCurves"]["output"]) == {"x25519", "secp256r1"}  # OpenSSL 3.5 prefers another one
    assert found["SessionResume"] == {"grade": "Good", "output": {"127.0.0.1": True}}
    for name in ("SigAlgs", "CertsByCiphers"):
        assert found[name]["grade"] == "Skipped"
        assert "TLS 1.3" in found[name]["error"]


def test_old_versions_are_found(rsa_credentials: Path) -> None:
    flags = ("-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0")
    with tls_servers.openssl_server(rsa_credentials, *flags) as port:
        found = scan(port, "CipherSuite|TLSDial")
    assert found["CipherSuite"] == {"grade": "Good", "output": [{"AES128-SHA": ["TLS 1.0"]}]}
    assert found["TLSDial"]["grade"] == "Warning"  # it can be connected to, but is not trusted


def test_gnutls_is_scanned_too(tmp_path: Path, credentials: Path, root: Issued) -> None:
    priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-GROUP-ALL:+GROUP-SECP256R1:+GROUP-X25519"
    with tls_servers.gnutls_server(tmp_path, credentials, priority) as port:
        found = scan(port, "TLSDial|CipherSuite|ECCurves|ChainValidation", trust=roots(root))
    assert {result["grade"] for result in found.values()} == {"Good"}, found
    assert set(found["ECCurves"]["output"]) == {"secp256r1", "x25519"}


def test_a_server_that_resumes_no_session_is_bad(tmp_path: Path, credentials: Path) -> None:
    settings = "ssl_session_cache off; ssl_session_tickets off;"
    with tls_servers.nginx(tmp_path, credentials, settings) as port:
        found = scan(port, "SessionResume")
    assert found["SessionResume"] == {"grade": "Bad", "output": {"127.0.0.1": False}}


# -- certificates ---------------------------------------------------------------------------------


def served(tmp_path: Path, *chain: Issued, **options: Any) -> dict[str, dict[str, Any]]:
    path = tls_servers.write(tmp_path, "served", chain[0], *chain[1:])
    with tls_servers.openssl_server(path) as port:
        return scan(port, "TLSDial|ChainExpiration|ChainValidation|MultipleCerts", **options)


def test_an_expired_certificate_is_bad(tmp_path: Path, root: Issued) -> None:
    found = served(tmp_path, issue("localhost", root, days=-1), root, trust=roots(root))
    assert found["ChainExpiration"]["grade"] == "Bad"
    assert found["TLSDial"]["grade"] == "Warning"
    assert found["TLSDial"]["error"].startswith("x509: certificate has expired or is not yet valid")
    assert found["ChainValidation"] == {"grade": "Bad", "error": "localhost has expired or is not yet valid"}


def test_a_certificate_that_soon_expires_is_a_warning(tmp_path: Path, root: Issued) -> None:
    leaf = issue("localhost", root, days=29)
    found = served(tmp_path, leaf, root, trust=roots(root))
    expiry = leaf.certificate.not_valid_after_utc
    assert found["ChainExpiration"] == {"grade": "Warning", "output": f"{expiry:%Y-%m-%dT%H:%M:%SZ}"}
    assert found["ChainValidation"] == {"grade": "Good"}


def test_the_wrong_host_and_an_unknown_ca_are_told_apart(tmp_path: Path, root: Issued) -> None:
    leaf = issue("localhost", root)
    wrong = served(tmp_path, leaf, root, trust=roots(root), host="other.example")
    assert wrong["TLSDial"] == {
        "grade": "Warning",
        "error": "x509: certificate is not valid for other.example",
    }
    unknown = served(tmp_path, leaf, root, trust=roots(issue("Another")))
    assert unknown["TLSDial"]["error"].startswith("x509: certificate signed by unknown authority")


def test_a_chain_that_is_none_is_bad(tmp_path: Path, root: Issued) -> None:
    leaf = issue("localhost", root)
    other = issue("Other")
    found = served(tmp_path, leaf, other)
    assert found["ChainValidation"]["error"] == "localhost AuthorityKeyId differs from Other SubjectKeyId"
    assert served(tmp_path, leaf, leaf)["ChainValidation"]["error"] == "localhost is not a CA"


def test_a_certificate_on_the_crl_it_names_is_bad(tmp_path: Path, root: Issued) -> None:
    with tls_servers.raw_server(lambda connection: reply_with(connection, crl)) as crl_port:
        url = f"http://localhost:{crl_port}/root.crl"
        revoked, good = (issue("localhost", root, crl=url) for _ in range(2))
        crl = tls_servers.revocation_list(root, revoked)
        assert served(tmp_path, revoked, root)["ChainValidation"] == {
            "grade": "Bad",
            "error": "localhost is revoked",
        }
        assert served(tmp_path, good, root)["ChainValidation"] == {"grade": "Good"}
    unknown = served(tmp_path, good, root)["ChainValidation"]
    assert unknown == {"grade": "Warning", "output": ["couldn't check if localhost is revoked"]}


def reply_with(connection: socket.socket, body: bytes) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def test_a_certificate_valid_for_too_long_is_a_warning(tmp_path: Path, root: Issued) -> None:
    found = served(tmp_path, issue("localhost", root, days=2000), root)
    assert found["ChainValidation"] == {
        "grade": "Warning",
        "output": ["Certificate for localhost is valid for too long"],
    }


# -- servers that misbehave -----------------------------------------------------------------------


def test_a_server_of_ssl_3_with_rc4_is_seen_though_openssl_has_neither() -> None:
    def reply(connection: socket.socket) -> None:
        hello = connection.recv(65536)
        version = struct.unpack(">H", hello[9:11])[0]
        suites_at = 11 + 32 + 1 + hello[43] + 2
        size = struct.unpack(">H", hello[suites_at - 2 : suites_at])[0]
        if version != 0x0300 or b"\x00\x05" not in hello[suites_at : suites_at + size]:
            connection.sendall(b"\x15\x03\x00\x00\x02\x02\x28")
            return
        body = b"\x03\x00" + bytes(32) + b"\0" + b"\x00\x05" + b"\0"
        message = b"\x02" + len(body).to_bytes(3, "big") + body
        connection.sendall(b"\x16\x03\x00" + len(message).to_bytes(2, "big") + message)

    with tls_servers.raw_server(reply) as port:
        found = scan(port, "CipherSuite")
    assert found["CipherSuite"] == {"grade": "Warning", "output": [{"RC4-SHA": ["SSL 3.0"]}]}


def test_a_server_that_never_replies_ends_with_the_scan(root: Issued) -> None:
    done = threading.Event()

    def silent(_: socket.socket) -> None:
        done.wait(60)

    with tls_servers.raw_server(silent) as port:
        start = time.monotonic()
        found = scan(port, timeout=timedelta(seconds=2), trust=roots(root))
        took = time.monotonic() - start
        done.set()
    assert took < 55  # the server would hold on for 60
    assert found["TCPDial"] == {"grade": "Good"}
    assert all(result["grade"] in {"Bad", "Skipped", "Good"} for result in found.values())
    assert found.get("CipherSuite", {"grade": "Bad"})["grade"] == "Bad"


def test_a_server_that_sends_garbage_for_ever_is_left() -> None:
    sent = []

    def garbage(connection: socket.socket) -> None:
        total = 0
        try:
            while total < 100 * MAX_REPLY_BYTES:
                total += connection.send(b"\x16\x03\x03\x40\x00" + b"\x02\xff\xff\xff" + bytes(16380))
        finally:
            sent.append(total)

    with tls_servers.raw_server(garbage) as port:
        found = scan(port, "CipherSuite|ECCurves|SigAlgs|TLSDial|ChainExpiration|SessionResume")
    assert {result["grade"] for result in found.values()} == {"Bad"}
    assert all(result["error"] for result in found.values())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x03\x00\x2c\x02\x00\x00\x28\x03\x03" + bytes(32) + b"\x00\x12\x34\x00\x00\x00",
        b"\x16\x03\x03\xff\xff",
        b"\x17\x03\x03\x00\x01\x00",
        b"\x16\x03\x03\x00\x05\x0b\x00\x00\x01\x00",
        b"",
    ],
    ids=[
        "http",
        "ssh",
        "empty hello",
        "unoffered suite",
        "long record",
        "data",
        "certificate first",
        "closed",
    ],
)
def test_a_reply_that_is_not_tls_is_one_bad_grade(answer: bytes) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with tls_servers.raw_server(reply) as port:
        found = scan(port, "CipherSuite|CertsBySigAlgs|TLSDial|MultipleCerts")
    for result in found.values():
        assert result["grade"] == "Bad"
        assert "internal" not in result["error"]


def test_a_closed_port_is_bad_in_all_that_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = scan(port, "TCPDial|TLSDial|CipherSuite|ChainExpiration|SessionResume|MultipleCerts")
    assert {result["grade"] for result in found.values()} == {"Bad"}
    assert all("connection refused" in result["error"] for result in found.values())


# -- what may be scanned --------------------------------------------------------------------------


def test_private_addresses_are_not_connected_to_unless_told_to() -> None:
    connections: list[socket.socket] = []
    with tls_servers.raw_server(connections.append) as port:
        outbound = Outbound(resolve=to_loopback)
        for host, address in (("public.example", ""), ("127.0.0.1", ""), ("public.example", "127.0.0.1")):
            found = scan(port, host=host, address=address, outbound=outbound, timeout=timedelta(seconds=30))
            for name, result in found.items():
                if name not in {"IntermediateCAs", "CloudFlareStatus"}:
                    assert "no public address" in result["error"], name
    assert connections == []


@pytest.mark.parametrize("host", ["..", "a..b", ".example", f"{'a' * 64}.example", "h\udc80"])
def test_a_name_that_cannot_be_sent_is_named(credentials: Path, host: str) -> None:
    with tls_servers.openssl_server(credentials) as port:
        found = scan(port, "TLSDial|ChainExpiration|CipherSuite", host=host)
    assert found["CipherSuite"]["grade"] == "Good"  # the server is asked for no name
    for name in ("TLSDial", "ChainExpiration"):
        assert found[name]["grade"] == "Bad"
        assert "not a name that a TLS server can be asked for" in found[name]["error"]


def test_a_name_is_sent_as_dns_has_it(tmp_path: Path, root: Issued) -> None:
    """Beyond ASCII in its IDNA form; the dot of a complete name is left out, as by Go."""
    leaf = issue("leaf", root, hosts=("xn--bcher-kva.example",))
    path = tls_servers.write(tmp_path, "leaf", leaf, root)
    flags = ("-servername", "xn--bcher-kva.example", "-servername_fatal")
    with tls_servers.openssl_server(path, *flags, "-cert2", str(path), "-key2", str(path)) as port:
        for host in ("bücher.example", "xn--bcher-kva.example."):
            found = scan(port, "TLSDial|CipherSuite", host=host, trust=roots(root))
            assert {result["grade"] for result in found.values()} == {"Good"}, found
        assert scan(port, "CipherSuite", host="other.example")["CipherSuite"]["grade"] == "Bad"


class Cloudflare(Outbound):
    """The way out to a Cloudflare that has the network 127.0.0.0/8."""

    def fetch(self, url: str, *_arguments: object, **_options: object) -> bytes:
        return b"127.0.0.0/8\n" if "v4" in url else b"2001:db8::/32\n2001:db9::/32\n"


def test_hosts_of_cloudflare_are_recognized() -> None:
    inside = scan(443, "CloudFlareStatus", outbound=Cloudflare(allow_private=True, resolve=to_loopback))
    assert inside["CloudFlareStatus"] == {"grade": "Good", "output": {"127.0.0.1": True}}

    def elsewhere(_host: str, port: int) -> Sequence[tuple[int, Any]]:
        return [(socket.AF_INET, ("192.0.2.1", port)), (socket.AF_INET6, ("2001:db8::1", port, 0, 0))]

    outside = scan(443, "CloudFlareStatus", outbound=Cloudflare(allow_private=True, resolve=elsewhere))
    assert outside["CloudFlareStatus"] == {
        "grade": "Bad",
        "output": {"192.0.2.1": False, "2001:db8::1": True},
    }


@pytest.mark.parametrize("host", [":443", "host:0", "host:65536", "host:x", "[::1", "[::1]443"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(OCSPDError):
        run_scan(
            host, Choice(), LONG, outbound=Outbound(allow_private=True), trust=Trust(), clock=SystemClock()
        )


def test_a_range_is_scanned_for_intermediate_cas(credentials: Path) -> None:
    with tls_servers.openssl_server(credentials) as port:
        found = scan(port, "IntermediateCAs", host="127.0.0.0/30", outbound=Outbound(allow_private=True))
    assert found["IntermediateCAs"] == {"grade": "Good", "output": ["CN=Root"]}
    too_large = scan(443, "IntermediateCAs", host="10.0.0.0/8", outbound=Outbound(allow_private=True))
    assert too_large["IntermediateCAs"]["grade"] == "Bad"


def test_a_file_without_roots_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    for data in (b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"roots\.pem: failed to load cert pool"):
            read_trust(str(path))


# -- the command line -----------------------------------------------------------------------------


def test_the_verb_prints_as_cfssl_does(tmp_path: Path, credentials: Path, root: Issued) -> None:
    (tmp_path / "root.pem").write_bytes(root.pem())
    with tls_servers.openssl_server(credentials) as port:
        (tmp_path / "hosts.csv").write_text(f'1,"a, b",localhost:{port}\n\n2,,127.0.0.1:{port}\n')
        words = ["scan", "-family", "Conn", "-scanner", "TLSDial", "-ca-bundle", "root.pem"]
        done = ocspd(*words, "-csv", "hosts.csv", "-num-workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    good = '{\n  "Connectivity": {\n    "TLSDial": {\n      "grade": "Good"\n    }\n  }\n}\n\n'
    first, second = (f"{host}:{port}" for host in ("localhost", "127.0.0.1"))
    start = f"Scanning {first}...\n=== {first} ===\n{good}Scanning {second}...\n=== {second} ===\n"
    assert done.stdout.startswith(start)
    warned = json.loads(done.stdout.removeprefix(start))["Connectivity"]["TLSDial"]
    assert warned == {"grade": "Warning", "error": "x509: certificate is not valid for 127.0.0.1"}


def test_the_verb_ends_with_its_timeout() -> None:
    done = threading.Event()

    def silent(_: socket.socket) -> None:
        done.wait(120)

    with tls_servers.raw_server(silent) as port:
        words = ["scan", "-timeout", "2s", "-scanner", "TCPDial|CipherSuite|TLSDial", f"127.0.0.1:{port}"]
        finished = ocspd(*words)
        done.set()
    assert finished.returncode == 0
    found = json.loads(finished.stdout.partition("===\n")[2])
    assert found["Connectivity"]["TCPDial"] == {"grade": "Good"}
    late = [found["Connectivity"].get("TLSDial"), found.get("TLSHandshake", {}).get("CipherSuite")]
    assert all(each is None or each["grade"] == "Bad" for each in late)
    assert None not in late or "Scan timed out after 2s" in finished.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-family", "(", "localhost:1"], "not an RE2 expression"),
        (["-scanner", "a{", "-ca-bundle", "nowhere.pem", "localhost:1"], "nowhere.pem: no such file"),
        ([], "no host given"),
        (["-csv", "nowhere.csv"], "open nowhere.csv: no such file"),
        (["-ca-bundle", "empty.pem", "localhost:1"], "failed to load cert pool"),
    ],
)
def test_bad_input_ends_before_anything_is_scanned(tmp_path: Path, words: list[str], text: str) -> None:
    (tmp_path / "empty.pem").touch()
    done = ocspd("scan", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr


def test_only_so_many_hosts_are_scanned(tmp_path: Path) -> None:
    (tmp_path / "hosts.csv").write_text("localhost:1\nlocalhost:2\n")
    words = ["scan", "-scanner", "^none$", "-max-hosts", "2"]
    done = ocspd(*words, "-csv", "hosts.csv", "one.example", cwd=tmp_path)
    assert done.stdout.count("Scanning ") == 2
    assert "Only scanning 1 of the 2 hosts" in done.stderr
    done = ocspd(*words, "a.example", "b.example", "c.example", cwd=tmp_path)
    assert done.stdout.count("Scanning ") == 2
    assert "Only scanning max-hosts=2 out of 3 args given" in done.stderr
