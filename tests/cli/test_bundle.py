"""`ocspd bundle` and `ocspd mkbundle`, beside Debian's cfssl."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.authority.cfssl import run
from tests.authority.chains import NOW, YEAR, crl, make, rsa_key
from tests.binary import ocspd
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STORES = ("-ca-bundle", "roots.pem", "-int-bundle", "ints.pem")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    root, old = make("Root CA"), make("Old Root", end=NOW + 30 * YEAR)
    inter = make("Inter CA", root)
    hosts = ["leaf.example", "www.leaf.example", "192.0.2.1"]
    places: Any = {"ocsp": ["http://127.0.0.1:1/ocsp"], "crls": ["http://127.0.0.1:1/crl"]}
    rsa_root = make("RSA Root", key=rsa_key(4096))
    rsa_inter = make("RSA Inter", rsa_root, key=rsa_key())
    made = {
        "root": root,
        "old": old,
        "inter": inter,
        "cross": make("Inter CA", old, key=inter.key),
        "leaf": make("leaf.example", inter, ca=False, hosts=hosts, **places),
        "soon": make("soon.example", inter, ca=False, end=NOW + timedelta(days=5)),
        "gone": make("gone.example", inter, ca=False, end=NOW - timedelta(days=5)),
        "direct": make("direct.example", root, ca=False, **places),
        "rsa-root": rsa_root,
        "rsa-inter": rsa_inter,
        "rsa-leaf": make("rsa.example", rsa_inter, ca=False, key=rsa_key()),
    }
    for name, each in made.items():
        (path / f"{name}.pem").write_text(each.pem)
        (path / f"{name}.der").write_bytes(each.der)
        (path / f"{name}-key.pem").write_text(each.key_pem)
    stores = {
        "roots": ("root", "old", "rsa-root"),
        "ints": ("inter", "cross", "rsa-inter"),
        "full": ("leaf", "inter"),
        "reversed": ("root", "inter", "leaf"),
        "broken": ("leaf", "root"),
        "empty": (),
    }
    for name, members in stores.items():
        (path / f"{name}.pem").write_text("".join(made[member].pem for member in members))
    (path / "junk.pem").write_text("junk")
    platforms = [
        {"name": "A", "weight": 10, "hash_algo": "SHA2", "key_algo": "ECDSA256", "keystore": "old.pem"},
        {"name": "B", "weight": 5, "hash_algo": "SHA1", "key_algo": "RSA", "keystore": "root.pem"},
        {"name": "C", "weight": 1, "hash_algo": "SHA2", "key_algo": "RSA"},
    ]
    (path / "platforms.json").write_text(json.dumps(platforms))
    leaf = made["leaf"]
    encryption = serialization.BestAvailableEncryption(b"secret")
    key: Any = leaf.key
    (path / "leaf.p12").write_bytes(
        pkcs12.serialize_key_and_certificates(b"x", key, leaf.certificate, [inter.certificate], encryption)
    )
    (path / "encrypted-key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return path


CASES = (
    ("-cert", "leaf.pem", *STORES),
    ("-cert", "leaf.pem", *STORES, "-flavor", "optimal"),
    ("-cert", "leaf.pem", "-key", "leaf-key.pem", *STORES),
    ("-cert", "leaf.pem", "-key", "root-key.pem", *STORES),
    ("-cert", "leaf.pem", "-key", "rsa-leaf-key.pem", *STORES),
    ("-cert", "leaf.pem", "-key", "junk.pem", *STORES),
    ("-cert", "rsa-leaf.pem", "-key", "rsa-leaf-key.pem", *STORES),
    ("-cert", "leaf.der", *STORES),
    ("-cert", "full.pem", "-ca-bundle", "root.pem"),
    ("-cert", "full.pem", "-ca-bundle", "root.pem", "-int-bundle", "empty.pem"),
    ("-cert", "reversed.pem", "-ca-bundle", "root.pem"),
    ("-cert", "reversed.pem", "-flavor", "force"),
    ("-cert", "broken.pem", "-flavor", "force"),
    ("-cert", "root.pem", "-flavor", "force"),
    ("-cert", "root.pem", *STORES),
    ("-cert", "inter.pem", *STORES),
    ("-cert", "soon.pem", *STORES),
    ("-cert", "gone.pem", *STORES),
    ("-cert", "direct.pem", *STORES),
    ("-cert", "leaf.pem", "-ca-bundle", "roots.pem"),
    ("-cert", "leaf.pem", "-ca-bundle", "rsa-root.pem", "-int-bundle", "ints.pem"),
    ("-cert", "leaf.pem", "-ca-bundle", "empty.pem", "-int-bundle", "ints.pem"),
    ("-cert", "leaf.pem", "-ca-bundle", "junk.pem", "-int-bundle", "ints.pem"),
    ("-cert", "leaf.pem", "-ca-bundle", "roots.pem", "-int-bundle", "junk.pem"),
    ("-cert", "leaf.pem", "-ca-bundle", "missing.pem"),
    ("-cert", "leaf.pem", "-ca-bundle", "roots.pem", "-int-bundle", "missing.pem"),
    ("-cert", "missing.pem", *STORES),
    ("-cert", "leaf.pem", "-key", "missing.pem", *STORES),
    ("-cert", "junk.pem", *STORES),
    ("-cert", "empty.pem", *STORES),
    ("-cert", "leaf.pem", *STORES, "-metadata", "platforms.json"),
    ("-cert", "leaf.pem", *STORES, "-metadata", "platforms.json", "-flavor", "optimal"),
    ("-cert", "leaf.pem", *STORES, "-metadata", "platforms.json", "-flavor", "nonsense"),
    ("-cert", "-", *STORES),
    ("-cert", "-", "-key", "leaf-key.pem", *STORES),
    STORES,
)


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_bundles_are_those_of_cfssl(
    folder: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    stdin = (folder / "leaf.pem").read_text()
    theirs = run(need("cfssl"), "bundle", *words, stdin=stdin, check=False)
    ours = ocspd("bundle", *words, stdin=stdin, env={"CFSSL_CA_PK_PASSWORD": ""})
    assert ours.returncode == theirs.returncode
    if theirs.returncode:
        assert ours.stdout == theirs.stdout == ""
        told, wanted = (each.stderr.splitlines()[-1] for each in (ours, theirs))
        if not wanted.startswith("{"):
            assert told == wanted
            return
        error, expected = json.loads(told), json.loads(wanted)
        assert error["code"] == expected["code"]
        if expected["code"] in {1100, 1200, 1220}:
            assert error["message"] == expected["message"]
        return
    found, expected = json.loads(ours.stdout), json.loads(theirs.stdout)
    assert not ours.stdout.endswith("\n")
    assert list(found) == sorted(found)
    if "leaf_expires" not in expected:  # 1.2.0
        del found["leaf_expires"]
    for each in (found, expected):
        each["hostnames"].sort()
    assert found == expected


def test_pkcs12_needs_its_password(folder: Path) -> None:
    found = ocspd("bundle", "-cert", "leaf.p12", *STORES, "-password", "secret", cwd=folder)
    assert found.returncode == 0
    bundle = json.loads(found.stdout)
    assert bundle["key"] == (folder / "leaf-key.pem").read_text().strip()
    assert bundle["crt"] == (folder / "leaf.pem").read_text().strip()
    for words in ((), ("-password", "wrong"), ("-password", "")):
        refused = ocspd("bundle", "-cert", "leaf.p12", *STORES, *words, cwd=folder)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert json.loads(refused.stderr.splitlines()[-1])["code"] == 1002
    assert "-password" in refused.stderr


def test_an_encrypted_key_is_opened_with_the_password_of_the_environment(folder: Path) -> None:
    words = ("bundle", "-cert", "leaf.pem", "-key", "encrypted-key.pem", *STORES)
    found = ocspd(*words, cwd=folder, env={"CFSSL_CA_PK_PASSWORD": "secret"})
    assert json.loads(found.stdout)["key"] == (folder / "leaf-key.pem").read_text().strip()
    assert ocspd(*words, cwd=folder, env={"CFSSL_CA_PK_PASSWORD": "wrong"}).returncode == 1


def test_standard_input_may_have_both_certificate_and_key(folder: Path) -> None:
    both = (folder / "leaf.pem").read_text() + (folder / "leaf-key.pem").read_text()
    found = ocspd("bundle", "-cert", "-", "-key", "-", *STORES, cwd=folder, stdin=both)
    assert json.loads(found.stdout)["key"] == (folder / "leaf-key.pem").read_text().strip()


@contextmanager
def web(files: Mapping[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_missing_intermediate_is_fetched_unless_that_is_off(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    with web(files) as url:
        root = make("Root CA")
        inter = make("Inter. CA", root)
        leaf = make("leaf", inter, ca=False, aia=[f"{url}/inter"])
        files["/inter"] = inter.der
        (tmp_path / "root.pem").write_text(root.pem)
        (tmp_path / "leaf.pem").write_text(leaf.pem)
        words = ("bundle", "-cert", "leaf.pem", "-ca-bundle", "root.pem", "-int-dir", "stash")
        off = ocspd(*words, "-no-aia", cwd=tmp_path)
        assert json.loads(off.stderr.splitlines()[-1])["code"] == 1220
        found = ocspd(*words, cwd=tmp_path)
        assert json.loads(found.stdout)["bundle"] == f"{leaf.pem}{inter.pem}".strip()
    (stored,) = (tmp_path / "stash").iterdir()
    serial = inter.certificate.serial_number
    assert stored.name.startswith("InterCA_")
    assert stored.name.endswith(f"_{serial.to_bytes((serial.bit_length() + 7) // 8, 'big').hex()}.crt")
    assert stored.read_text() == inter.pem
    assert ocspd(*words, "-no-aia", cwd=tmp_path).returncode == 0


def test_bad_platform_metadata_is_an_error(folder: Path) -> None:
    refused = ocspd("bundle", "-cert", "leaf.pem", *STORES, "-metadata", "junk.pem", cwd=folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "platform metadata failed to parse: junk.pem" in refused.stderr


# -- mkbundle ----------------------------------------------------------------------------------------


def test_mkbundle_gathers_what_is_valid_and_not_revoked(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    store = tmp_path / "store" / "deep"
    store.mkdir(parents=True)
    with web(files) as url:
        root = make("Root", crls=[f"{url}/root.crl"])
        made = {
            "root": root,
            "good": make("good", root, crls=[f"{url}/root.crl"]),
            "revoked": make("revoked", root, crls=["ldap://x/y", f"{url}/root.crl"]),
            "unreachable": make("unreachable", root, crls=[f"{url}/missing.crl"]),
            "forged": make("forged", root, crls=[f"{url}/forged.crl"]),
            "stale": make("stale", root, crls=[f"{url}/stale.crl"]),
            "expired": make("expired", root, end=NOW - timedelta(days=1)),
            "future": make("future", root, begin=NOW + timedelta(days=1)),
            "plain": make("plain", root),
        }
        revoked = [made["revoked"].certificate.serial_number]
        files["/root.crl"] = crl(root, revoked)
        files["/forged.crl"] = crl(root, [], signed_by=made["plain"].key)
        files["/stale.crl"] = crl(root, [], end=NOW - timedelta(days=1))
        for name, each in made.items():
            (store / f"{name}.pem").write_text(f"text\n{each.pem}{each.key_pem}")
        (store / "junk.txt").write_text("junk")
        (store / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        (store / "again.pem").symlink_to(store / "good.pem")
        done = ocspd("mkbundle", "-f", "out.pem", "store", str(store / "good.pem"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    wanted = "".join(made[name].pem for name in ("good", "plain", "root"))
    assert (tmp_path / "out.pem").read_text() == wanted
    assert "Wrote 3 certificates." in done.stderr
    assert "broken.pem: Invalid certificate" in done.stderr
    assert "junk.txt: no PEM data found" in done.stderr
    assert done.stderr.count("Failed to verify certificate.") == 3


def test_mkbundle_asks_ocsp_servers(tmp_path: Path) -> None:
    """By the responder that CFSSL's own tests have none of: `openssl ocsp` is too slow to start here."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509 import ocsp

    statuses: dict[int, ocsp.OCSPCertStatus] = {}
    root = make("Root")
    issued: dict[int, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            serial = ocsp.load_der_ocsp_request(data).serial_number
            status = statuses[serial]
            is_revoked = status is ocsp.OCSPCertStatus.REVOKED
            builder = (
                ocsp.OCSPResponseBuilder()
                .add_response(
                    cert=issued[serial],
                    issuer=root.certificate,
                    algorithm=hashes.SHA1(),
                    cert_status=status,
                    this_update=NOW - timedelta(hours=1),
                    next_update=NOW + timedelta(days=1),
                    revocation_time=NOW - timedelta(days=1) if is_revoked else None,
                    revocation_reason=None,
                )
                .responder_id(ocsp.OCSPResponderEncoding.HASH, root.certificate)
            )
            key: Any = root.key
            body = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        made = {name: make(name, root, ocsp=[url]) for name in ("good", "revoked", "unknown")}
        for name, each in made.items():
            statuses[each.certificate.serial_number] = ocsp.OCSPCertStatus[name.upper()]
            issued[each.certificate.serial_number] = each.certificate
            (tmp_path / f"{name}.pem").write_text(each.pem)
        stranger = make("stranger", make("Nobody"), ocsp=[url])
        (tmp_path / "stranger.pem").write_text(stranger.pem)
        (tmp_path / "root.pem").write_text(root.pem)
        done = ocspd("mkbundle", "-nw", "2", ".", cwd=tmp_path)
        server.shutdown()
        thread.join()
    assert done.returncode == 0
    assert (tmp_path / "cert-bundle.crt").read_text() == made["good"].pem + root.pem
    assert "certificate of its issuer is not known" in done.stderr


def test_mkbundle_needs_paths_and_says_which_it_cannot_read(tmp_path: Path) -> None:
    nothing = ocspd("mkbundle", cwd=tmp_path)
    assert nothing.returncode == 1
    assert "no paths are given" in nothing.stderr
    (tmp_path / "root.pem").write_text(make("Root").pem)
    missing = ocspd("mkbundle", "-f", "out.pem", "missing.pem", "root.pem", cwd=tmp_path)
    assert missing.returncode == 1
    assert "missing.pem: no such file" in missing.stderr
    assert (tmp_path / "out.pem").read_text() == (tmp_path / "root.pem").read_text()
    shown = ocspd("mkbundle", "-f", "/dev/stdout", "root.pem", cwd=tmp_path)
    assert shown.stdout == (tmp_path / "root.pem").read_text()
