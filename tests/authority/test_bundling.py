from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12

from ocspd.authority.bundling import MAX_FETCHED, MAX_FETCHED_CHAIN, Bundler
from ocspd.authority.bundling_stores import StoreFiles, Stores, load_stores
from ocspd.authority.fetching import Outbound
from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError, ConfigError
from ocspd.pki import pem
from ocspd.pki.bundle_input import MAX_CERTIFICATES, read_bundle_input
from ocspd.pki.chains import Pool
from ocspd.pki.keys import load_private_key
from tests.authority.api import make_backend, serving
from tests.authority.chains import NOW, YEAR, Made, ec_key, make, rsa_key
from tests.pki.test_keys import HUGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SHA2 = "The bundle contains certificates signed with advanced hash functions such as SHA2"
NO_PLATFORMS = "Unable to measure bundle ubiquity: No platform metadata present."


def pool(*made: Made) -> Pool:
    return Pool(each.certificate for each in made)


def bundler(
    roots: Sequence[Made] = (), intermediates: Sequence[Made] = (), *, fetch: bool = True, **settings: Any
) -> Bundler:
    stores = Stores(pool(*roots), pool(*intermediates))
    outbound = settings.pop("outbound", Outbound(allow_private=True))
    return Bundler(stores, ManualClock(NOW), outbound=outbound, fetch_issuers=fetch, **settings)


def built(made: Bundler, *given: Made, key: Made | None = None, flavor: str = "ubiquitous") -> dict[str, Any]:
    private = None if key is None else load_private_key(key.key_pem.encode())
    return made.bundle([each.certificate for each in given], private, flavor).to_json()


def refused(made: Bundler, *given: Made, key: Made | None = None, flavor: str = "ubiquitous") -> CodedError:
    with pytest.raises(CodedError) as caught:
        built(made, *given, key=key, flavor=flavor)
    return caught.value


def pems(*made: Made) -> str:
    return "".join(each.pem for each in made).strip()


@contextmanager
def web(files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve files by path; yield the base URL and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


ROOT = make("Root CA")
INTER = make("Inter CA", ROOT)
LEAF = make(
    "leaf.example",
    INTER,
    ca=False,
    hosts=["www.leaf.example", "leaf.example", "192.0.2.1"],
    ocsp=["http://ocsp.example"],
    crls=["http://crl.example"],
)


def test_the_json_is_that_of_cfssl() -> None:
    found = built(bundler([ROOT], [INTER]), LEAF, key=LEAF)
    assert list(found) == sorted(found)
    assert found["bundle"] == pems(LEAF, INTER)
    assert found["crt"] == pems(LEAF)
    assert found["root"] == pems(ROOT)
    assert found["key"] == LEAF.key_pem.strip()
    assert (found["key_type"], found["key_size"]) == ("256-bit ECDSA", 256)
    assert found["issuer"] == "/Country=FR/CommonName=Inter CA"
    assert found["subject"] == "/Country=FR/CommonName=leaf.example"
    assert found["signature"] == "ECDSAWithSHA256"
    assert found["hostnames"] == ["leaf.example", "www.leaf.example"]
    assert found["ocsp"] == ["http://ocsp.example"]
    assert found["ocsp_support"] is found["crl_support"] is True
    assert found["expires"] == found["leaf_expires"] == f"{NOW + 5 * YEAR:%Y-%m-%dT%H:%M:%SZ}"
    status = found["status"]
    assert list(status) == ["rebundled", "expiring_SKIs", "untrusted_root_stores", "messages", "code"]
    assert (status["rebundled"], status["expiring_SKIs"], status["untrusted_root_stores"]) == (True, None, [])
    assert status["code"] == 2
    assert status["messages"][-1] == NO_PLATFORMS


def test_lists_that_nothing_is_in_are_null_where_cfssl_has_null() -> None:
    plain = make("plain", INTER, ca=False)
    found = built(bundler(), plain, INTER, flavor="force")
    assert found["ocsp"] is None
    assert found["ocsp_support"] is found["crl_support"] is False
    assert (found["root"], found["key"]) == ("", "")
    assert found["status"]["untrusted_root_stores"] is None
    assert found["status"]["rebundled"] is False


@pytest.mark.parametrize(
    ("key", "kind", "size"),
    [
        (rsa_key(), "2048-bit RSA", 2048),
        (ec_key(ec.SECP384R1()), "384-bit ECDSA", 384),
        (ec_key(ec.SECP521R1()), "521-bit ECDSA", 521),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519", 32),
    ],
    ids=["rsa", "p384", "p521", "ed25519"],
)
def test_every_kind_of_key_is_described(key: Any, kind: str, size: int) -> None:
    leaf = make("leaf", INTER, ca=False, key=key)
    found = built(bundler([ROOT], [INTER]), leaf, key=leaf)
    assert (found["key_type"], found["key_size"]) == (kind, size)


def test_a_key_must_belong_to_the_certificate() -> None:
    made = bundler([ROOT], [INTER])
    for key in (ROOT, make("x", key=rsa_key())):
        assert refused(made, LEAF, key=key).code is Code.KEY_MISMATCH


def test_what_is_self_signed_is_refused_unless_forced() -> None:
    caught = refused(bundler([ROOT]), ROOT)
    assert (caught.code, caught.message) == (Code.CERT_SELF_SIGNED, "Certificate is self signed")
    assert built(bundler(), ROOT, flavor="force")["bundle"] == pems(ROOT)


def test_force_takes_what_is_a_chain_and_nothing_else() -> None:
    assert built(bundler(), LEAF, INTER, ROOT, flavor="force")["bundle"] == pems(LEAF, INTER, ROOT)
    caught = refused(bundler(), LEAF, ROOT, flavor="force")
    assert (caught.code, caught.message) == (
        Code.CERT_VERIFY_FAILED,
        "Unable to verify the certificate chain",
    )


def test_a_chain_in_reverse_order_is_turned_round() -> None:
    found = built(bundler([ROOT]), ROOT, INTER, LEAF)
    assert found["bundle"] == pems(LEAF, INTER)
    assert built(bundler(), ROOT, INTER, LEAF, flavor="force")["crt"] == pems(LEAF)


def test_intermediates_that_are_given_are_used_if_they_lead_to_a_root() -> None:
    assert built(bundler([ROOT]), LEAF, INTER)["bundle"] == pems(LEAF, INTER)
    assert built(bundler([ROOT]), LEAF, INTER)["status"]["rebundled"] is False
    stranger = make("Inter CA", make("Root CA"), key=INTER.key)
    assert refused(bundler([ROOT]), LEAF, stranger).code is Code.CERT_UNKNOWN_AUTHORITY


def test_the_root_stays_where_a_server_would_otherwise_send_no_issuer_to_staple_for() -> None:
    direct = make("direct", ROOT, ca=False, ocsp=["http://ocsp.example"])
    assert built(bundler([ROOT]), direct)["bundle"] == pems(direct, ROOT)
    without_ocsp = make("direct", ROOT, ca=False)
    assert built(bundler([ROOT]), without_ocsp)["bundle"] == pems(without_ocsp)
    trusted_itself = built(bundler([INTER]), INTER)
    assert trusted_itself["bundle"] == trusted_itself["root"] == pems(INTER)


def test_what_expires_soon_is_told() -> None:
    soon = make("soon", INTER, ca=False, end=NOW + timedelta(days=29))
    status = built(bundler([ROOT], [INTER]), soon)["status"]
    assert status["code"] == 3
    assert len(status["expiring_SKIs"]) == 1
    assert status["messages"][0] == (
        "The bundle is expiring within 30 days.The expiring cert is #1 in the chain."
    )
    later = make("later", INTER, ca=False, end=NOW + timedelta(days=31))
    assert built(bundler([ROOT], [INTER]), later)["status"]["code"] == 2


def test_optimal_is_the_shortest_chain_and_of_equal_ones_the_one_that_lasts() -> None:
    old, root = (make(name, end=NOW + 20 * YEAR) for name in ("Old Root", "Root CA"))
    inter = make("Inter CA", root, end=NOW + 3 * YEAR)
    renewed = make("Inter CA", root, key=inter.key, end=NOW + 9 * YEAR)
    leaf = make("leaf", inter, ca=False, end=NOW + 10 * YEAR)
    cross_root = make("Root CA", old, key=root.key, end=NOW + 20 * YEAR)
    found = built(bundler([root, old], [inter, renewed, cross_root]), leaf, flavor="optimal")
    assert found["bundle"] == pems(leaf, renewed)
    assert found["root"] == pems(root)
    assert found["expires"] == f"{NOW + 9 * YEAR:%Y-%m-%dT%H:%M:%SZ}"


def test_ubiquitous_is_the_chain_that_most_platforms_trust(tmp_path: Path) -> None:
    old = make("Old Root")
    cross_root = make("Root CA", old, key=ROOT.key)
    for name, store in (("old", [old]), ("new", [ROOT]), ("int", [INTER, cross_root]), ("all", [ROOT, old])):
        (tmp_path / f"{name}.pem").write_text("".join(each.pem for each in store))
    platforms = [
        {"name": "Ancient", "weight": 30, "hash_algo": "SHA2", "key_algo": "ECDSA256", "keystore": "old.pem"},
        {"NAME": "Modern", "weight": 20, "hash_algo": "SHA2", "key_algo": "ECDSA256", "keystore": "new.pem"},
        {"name": "Any", "weight": 1, "hash_algo": "SHA2", "key_algo": "ECDSA256"},
        {"name": "Fussy", "weight": 99, "hash_algo": "SHA1", "key_algo": "RSA", "keystore": "new.pem"},
    ]
    (tmp_path / "platforms.json").write_text(json.dumps(platforms))
    files = StoreFiles(
        ca_bundle=f"{tmp_path}/all.pem",
        int_bundle=f"{tmp_path}/int.pem",
        metadata=f"{tmp_path}/platforms.json",
    )
    made = Bundler(load_stores(files), ManualClock(NOW), outbound=Outbound())
    found = built(made, LEAF)
    assert found["bundle"] == pems(LEAF, INTER, cross_root)
    assert found["root"] == pems(old)
    assert found["status"]["untrusted_root_stores"] == ["Modern", "Fussy"]
    assert found["status"]["messages"][-1] == (
        "The bundle may not be trusted by the following platform(s): Modern, Fussy."
    )
    assert built(made, LEAF, flavor="optimal")["bundle"] == pems(LEAF, INTER)
    assert built(made, LEAF, flavor="nonsense")["bundle"] == found["bundle"]


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("{", "failed to parse"),
        ("{}", "a list of platforms"),
        ('[{"name": 1}]', "cannot unmarshal number"),
        ('[{"name": "A", "hash_algo": "MD5", "key_algo": "RSA"}]', "platform 'A': hash_algo must be one of"),
        ('[{"name": "A", "hash_algo": "SHA1", "key_algo": "x"}]', "platform 'A': key_algo must be one of"),
        ('[{"name": "A", "hash_algo": "SHA1", "key_algo": "RSA", "keystore": "no.pem"}]', "no.pem"),
        (None, "failed to load"),
    ],
)
def test_bad_platform_metadata_is_named(tmp_path: Path, metadata: str | None, told: str) -> None:
    path = tmp_path / "platforms.json"
    if metadata is not None:
        path.write_text(metadata)
    with pytest.raises(ConfigError, match="platform metadata failed") as caught:
        load_stores(StoreFiles(metadata=str(path)))
    assert told in str(caught.value)


def test_a_missing_intermediate_is_fetched_and_stored(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    with web(files) as (url, asked):
        upper = make("Upper CA", ROOT)
        lower = make("../Lower. CA/x", upper, aia=[f"{url}/upper.pem"])
        leaf = make("leaf", lower, ca=False, aia=[f"{url}/missing", f"{url}/lower.der"])
        files.update({"/lower.der": lower.der, "/upper.pem": upper.pem.encode(), "/bad": b"junk"})
        stores = load_stores(StoreFiles(int_dir=str(tmp_path / "new" / "stash")))
        stores.given_roots = pool(ROOT)
        made = Bundler(stores, ManualClock(NOW), outbound=Outbound(allow_private=True))
        assert built(made, leaf)["bundle"] == pems(leaf, lower, upper)
        assert asked == ["/missing", "/lower.der", "/upper.pem"]
        stored = sorted((tmp_path / "new" / "stash").iterdir())
        assert len(stored) == 2
        assert all(path.name.endswith(".crt") and path.stat().st_mode & 0o777 == 0o644 for path in stored)
        assert {path.name.partition("_")[0] for path in stored} == {"UpperCA", ""}
        assert not (tmp_path / "Lower CA").exists()
        # what was stored is used without the network
        again = load_stores(StoreFiles(int_dir=str(tmp_path / "new" / "stash")))
        again.given_roots = pool(ROOT)
        offline = Bundler(again, ManualClock(NOW), outbound=Outbound(), fetch_issuers=False)
        assert built(offline, leaf)["bundle"] == pems(leaf, lower, upper)


def test_nothing_is_fetched_when_that_is_off_or_the_address_is_private() -> None:
    files: dict[str, bytes] = {}
    with web(files) as (url, asked):
        inter = make("inter", ROOT)
        leaf = make("leaf", inter, ca=False, aia=[f"{url}/inter"])
        files["/inter"] = inter.der
        assert refused(bundler([ROOT], fetch=False), leaf).code is Code.CERT_UNKNOWN_AUTHORITY
        guarded = bundler([ROOT], outbound=Outbound())
        assert refused(guarded, leaf).code is Code.CERT_UNKNOWN_AUTHORITY
        assert asked == []
        assert built(bundler([ROOT]), leaf)["bundle"] == pems(leaf, inter)


def test_what_is_fetched_must_lead_to_a_root() -> None:
    files: dict[str, bytes] = {}
    with web(files) as (url, _):
        forged_root = make("Root CA")
        forged = make("inter", forged_root)
        leaf = make("leaf", forged, ca=False, aia=[f"{url}/inter"])
        files["/inter"] = forged.der
        assert refused(bundler([ROOT]), leaf).code is Code.CERT_UNKNOWN_AUTHORITY
        files["/inter"] = b"x" * 1_000_000
        assert refused(bundler([ROOT]), leaf).code is Code.CERT_UNKNOWN_AUTHORITY


def test_fetching_is_bounded_in_number_and_depth() -> None:
    files: dict[str, bytes] = {}
    with web(files) as (url, asked):
        leaf = make("leaf", INTER, ca=False, aia=[f"{url}/{number}" for number in range(50)])
        assert refused(bundler([ROOT]), leaf).code is Code.CERT_UNKNOWN_AUTHORITY
        assert len(asked) == MAX_FETCHED
        asked.clear()
        # an endless line of issuers, each naming the next
        issuer = make("issuer 0")
        for number in range(1, 30):
            issuer = make(f"issuer {number}", issuer, aia=[f"{url}/chain/{number - 1}"])
            files[f"/chain/{number}"] = issuer.der
        deep = make("leaf", issuer, ca=False, aia=[f"{url}/chain/29"])
        assert refused(bundler([ROOT]), deep).code is Code.CERT_UNKNOWN_AUTHORITY
        assert len(asked) == MAX_FETCHED_CHAIN


def test_an_error_other_than_an_unknown_authority_is_not_helped_by_fetching() -> None:
    with web({}) as (url, asked):
        gone = make("gone", INTER, ca=False, end=NOW - timedelta(days=1), aia=[f"{url}/x"])
        assert refused(bundler([ROOT], [INTER]), gone).code is Code.CERT_EXPIRED
        assert asked == []


@contextmanager
def tls_server(directory: Path, *chain: Made) -> Iterator[int]:
    import ssl

    (directory / "chain.pem").write_text(pems(*chain))
    (directory / "key.pem").write_text(chain[0].key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1)
            except OSError:
                connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_the_certificate_of_a_server_is_bundled(tmp_path: Path) -> None:
    leaf = make("leaf", INTER, ca=False, hosts=["localhost", "www.example"])
    with tls_server(tmp_path, leaf, INTER) as port:
        made = bundler([ROOT], tls_port=port)
        found = made.bundle_remote("localhost").to_json()
        assert found["bundle"] == pems(leaf, INTER)
        assert not any(text.startswith("Failed rigid") for text in found["status"]["messages"])
        assert made.bundle_remote("www.example", "127.0.0.1").to_json()["bundle"] == pems(leaf, INTER)
        with pytest.raises(CodedError) as caught:
            made.bundle_remote("other.example", "127.0.0.1")
        assert (caught.value.code, caught.value.message) == (
            Code.CERT_VERIFY_FAILED,
            "x509: certificate is valid for localhost, www.example, not other.example",
        )
        with pytest.raises(CodedError) as caught:
            bundler([ROOT], tls_port=port, outbound=Outbound()).bundle_remote("localhost")
        assert caught.value.code is Code.DIAL_FAILED


def test_a_server_that_clients_would_not_trust_is_bundled_with_a_message(tmp_path: Path) -> None:
    """It does not send its intermediate, which the store has."""
    leaf = make("leaf", INTER, ca=False, hosts=["localhost"])
    with tls_server(tmp_path, leaf) as port:
        found = bundler([ROOT], [INTER], tls_port=port).bundle_remote("localhost").to_json()
        assert found["bundle"] == pems(leaf, INTER)
        assert found["status"]["messages"][-1] == (
            f"Failed rigid TLS handshake with localhost:{port}: tls: failed to verify certificate: "
            "x509: certificate signed by unknown authority"
        )


def test_a_server_that_is_not_there_is_6000() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(CodedError) as caught:
        bundler([ROOT], tls_port=port).bundle_remote("127.0.0.1")
    assert (caught.value.code, caught.value.message) == (
        Code.DIAL_FAILED,
        f"dial tcp 127.0.0.1:{port}: connect: connection refused",
    )


def p12(*made: Made, password: bytes, named: bool = True) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    key: Any = made[0].key if named else None
    first = made[0].certificate if named else None
    others = [each.certificate for each in (made[1:] if named else made)]
    return pkcs12.serialize_key_and_certificates(b"x", key, first, others, encryption)


def test_every_form_of_input_is_read() -> None:
    both = [LEAF.certificate, INTER.certificate]
    der, pem = (
        pkcs7.serialize_certificates(both, encoding)
        for encoding in (serialization.Encoding.DER, serialization.Encoding.PEM)
    )
    for data in (pems(LEAF, INTER).encode(), LEAF.der + INTER.der, LEAF.der + INTER.der + b"\n", der, pem):
        found, key = read_bundle_input(data, None)
        assert sorted(found, key=str) == sorted(both, key=str)
        assert key is None
    found, key = read_bundle_input(p12(LEAF, ROOT, INTER, password=b"0"), b"0")
    assert found == [LEAF.certificate, INTER.certificate, ROOT.certificate]
    assert key is not None
    found, key = read_bundle_input(p12(LEAF, password=b""), b"")
    assert found == [LEAF.certificate]


@pytest.mark.parametrize(
    ("data", "password", "code"),
    [
        (b"", b"", 1002),
        (b"junk", b"", 1002),
        (b"\x30\x03\x02\x01\x03", b"", 1002),
        (b"\x30\x03\x02\x01\x01", b"", 1003),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"", 1003),
        (p12(LEAF, password=b"right"), b"wrong", 1002),
        (p12(LEAF, password=b"right"), b"", 1002),
        (p12(LEAF, password=b"right"), None, 1002),
        (LEAF.pem.encode() * (MAX_CERTIFICATES + 1), None, 1300),
    ],
    ids=lambda value: str(value)[:20],
)
def test_input_that_cannot_be_read_has_a_code(data: bytes, password: bytes | None, code: int) -> None:
    with pytest.raises(CodedError) as caught:
        read_bundle_input(data, password)
    assert int(caught.value.code) == code


def test_stores_that_cannot_be_read_have_the_codes_of_cfssl(tmp_path: Path) -> None:
    junk, missing, empty = (tmp_path / name for name in ("junk.pem", "missing.pem", "empty.pem"))
    junk.write_text("junk")
    empty.write_text("")
    for name, unreadable, malformed in (("ca_bundle", 4001, 4003), ("int_bundle", 3001, 3003)):
        for path, code in ((missing, unreadable), (junk, malformed)):
            with pytest.raises(CodedError) as caught:
                load_stores(StoreFiles(**{name: str(path)}))
            assert int(caught.value.code) == code
            assert path.name in caught.value.message
        load_stores(StoreFiles(**{name: str(empty)}))
    assert list(load_stores(StoreFiles(ca_bundle=str(empty))).roots()) == []


def test_the_roots_of_the_system_are_used_where_no_store_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roots.pem").write_text(f"junk\n{ROOT.pem}-----BEGIN X-----\nAAAA\n-----END X-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    stores = load_stores(StoreFiles())
    made = Bundler(stores, ManualClock(NOW), outbound=Outbound())
    assert built(made, LEAF, INTER)["root"] == pems(ROOT)


# -- the API -----------------------------------------------------------------------------------------


async def post(url: str, endpoint: str, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/cfssl/{endpoint}", data=data) as reply,
    ):
        return reply.status, await reply.json(content_type=None)


def api_backend(material: Path, made: Bundler | None, *, on_request: bool = False) -> Any:
    from dataclasses import replace

    return replace(make_backend(material), bundler=made, bundles_on_request=on_request)


async def test_the_endpoint_bundles(material: Path) -> None:
    async with serving(api_backend(material, bundler([ROOT], [INTER]))) as url:
        status, reply = await post(url, "bundle", {"certificate": LEAF.pem, "private_key": LEAF.key_pem})
        assert status == 200
        assert reply["result"]["bundle"] == pems(LEAF, INTER)
        assert reply["result"]["key"] == LEAF.key_pem.strip()
        for checks in (
            {"domain": "leaf.example"},
            {"ip": "192.0.2.1"},
            {"flavor": ""},
            {"flavor": "optimal"},
        ):
            status, reply = await post(url, "bundle", {"certificate": LEAF.pem, **checks})
            assert (status, reply["success"]) == (200, True)
        status, reply = await post(url, "bundle", {"certificate": LEAF.pem, "flavor": "force"})
        assert reply["result"]["bundle"] == pems(LEAF)


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ({}, 400, 400, "no valid parameter sets found"),
        (b"null", 400, 400, "no valid parameter sets found"),
        ({"Certificate": "x"}, 400, 400, "no valid parameter sets found"),
        (b"", 500, 0, "unexpected end of JSON input"),
        (b"[]", 500, 0, "json: cannot unmarshal array into Go value of type map[string]string"),
        ({"certificate": 1}, 500, 0, "json: cannot unmarshal number into Go value of type string"),
        ({"certificate": "x", "y": []}, 500, 0, "json: cannot unmarshal array into Go value of type string"),
        ({"certificate": "junk"}, 400, 1002, "Failed to decode certificate"),
        ({"certificate": None}, 400, 1002, "Failed to decode certificate"),
        ({"certificate": LEAF.pem, "private_key": "junk"}, 400, 2002, "Failed to decode private key"),
        ({"certificate": LEAF.pem, "private_key": ROOT.key_pem}, 400, 2300, "Private key does not match"),
        pytest.param(
            {"certificate": LEAF.pem, "private_key": pem.encode("RSA PRIVATE KEY", HUGE)},
            *(400, 2003, "Failed to parse private key: it is an RSA key of more than 8192 bits"),
            id="a key that takes minutes to check",
        ),
        ({"certificate": LEAF.pem, "domain": "x.example"}, 400, 1200, "x509: certificate is valid for"),
        ({"certificate": LEAF.pem, "ip": "192.0.2.9"}, 400, 1200, "x509: certificate is valid for 192.0.2.1"),
        (
            {"certificate": make("x", make("y"), ca=False).pem},
            400,
            1220,
            "x509: certificate signed by unknown",
        ),
        ({"certificate": ROOT.pem}, 400, 1100, "Certificate is self signed"),
        ({"domain": "localhost"}, 400, 6000, "lookup localhost: no public address"),
        ({"domain": ""}, 400, 6000, ""),
        ({"domain": "a:443"}, 400, 6000, ""),
    ],
    ids=str,
)
async def test_the_endpoint_refuses_as_cfssl_does(
    material: Path, body: Any, status: int, code: int, text: str
) -> None:
    made = bundler([ROOT], [INTER], outbound=Outbound())
    async with serving(api_backend(material, made)) as url:
        found, reply = await post(url, "bundle", body)
    assert (found, reply["errors"][0]["code"]) == (status, code)
    assert reply["errors"][0]["message"].startswith(text)


async def test_what_is_signed_is_bundled_on_request(material: Path) -> None:
    from ocspd.pki.certs import load_certificate

    ca = load_certificate((material / "ca.pem").read_bytes())
    made = Bundler(Stores(Pool([ca]), Pool()), ManualClock(NOW), outbound=Outbound())
    csr = (material / "leaf.csr").read_text()
    new = {"request": {"CN": "new", "hosts": ["new.example"]}, "bundle": True}
    async with serving(api_backend(material, made, on_request=True)) as url:
        _, reply = await post(url, "sign", {"certificate_request": csr, "bundle": True})
        assert list(reply["result"]) == ["bundle", "certificate"]
        assert reply["result"]["bundle"]["crt"] == reply["result"]["certificate"].strip()
        assert reply["messages"] == []
        _, reply = await post(url, "sign", {"certificate_request": csr})
        assert list(reply["result"]) == ["certificate"]
        _, reply = await post(url, "newcert", new)
        assert list(reply["result"])[:2] == ["bundle", "certificate"]
        assert reply["result"]["bundle"]["root"] == (material / "ca.pem").read_text().strip()
    async with serving(api_backend(material, made)) as url:
        for endpoint, body in (("sign", {"certificate_request": csr, "bundle": True}), ("newcert", new)):
            status, reply = await post(url, endpoint, body)
            assert (status, [each["code"] for each in reply["messages"]]) == (200, [5300])


async def test_without_a_bundler_there_is_no_such_endpoint(material: Path) -> None:
    async with (
        serving(api_backend(material, None)) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/cfssl/bundle", data=b"{}") as reply,
    ):
        assert reply.status == 404
