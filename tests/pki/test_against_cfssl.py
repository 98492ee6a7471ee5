from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from ocspd.clock import SystemClock
from ocspd.pki import ca, certs, config_json, csr, keys, profiles
from ocspd.pki.issuer import Issuer, SignRequest
from tests.pki.der import elements, shape
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

EXPIRY = "26280h"

LOCAL = {"expiry": EXPIRY, "usages": ["signing", "key encipherment", "server auth"]}
PROFILES: dict[str, dict[str, Any]] = {
    "plain": LOCAL,
    "ocsp": {"expiry": "1h", "usages": ["digital signature", "ocsp signing"], "ocsp_no_check": True},
    "intermediate": {
        "expiry": EXPIRY,
        "usages": ["cert sign", "crl sign"],
        "ca_constraint": {"is_ca": True},
    },
    "path-two": {
        "expiry": EXPIRY,
        "usages": ["cert sign"],
        "ca_constraint": {"is_ca": True, "max_path_len": 2, "max_path_len_zero": True},
    },
    "path-zero": {
        "expiry": EXPIRY,
        "usages": ["cert sign"],
        "ca_constraint": {"is_ca": True, "max_path_len_zero": True},
    },
    "urls": {
        **LOCAL,
        "ocsp_url": "http://ocsp.example",
        "crl_url": "http://crl.example/c.crl",
        "issuer_urls": ["http://a.example/ca.crt", "http://b.example/ca.crt"],
        "backdate": "1h",
    },
    "issuer-urls": {**LOCAL, "issuer_urls": ["http://a.example/ca.crt"]},
    "policies": {
        **LOCAL,
        "policies": [
            {
                "ID": "1.2.3.4.5",
                "Qualifiers": [
                    {"Type": "id-qt-cps", "Value": "http://cps.example"},
                    {"Type": "id-qt-unotice", "Value": "Nötice"},
                ],
            },
            {"ID": "2.5.29.32.0"},
        ],
        "ocsp_no_check": True,
    },
    "all-usages": {
        "expiry": "36m",
        "usages": [
            "signing",
            "digital signature",
            "content commitment",  # 1.2.0 knows it under a misspelt name only
            "content committment",
            "key encipherment",
            "key agreement",
            "data encipherment",
            "cert sign",
            "crl sign",
            "encipher only",
            "decipher only",
            "any",
            "server auth",
            "client auth",
            "code signing",
            "email protection",
            "s/mime",
            "ipsec end system",
            "ipsec tunnel",
            "ipsec user",
            "timestamping",
            "ocsp signing",
            "microsoft sgc",
            "netscape sgc",
        ],
    },
    "eku-only": {"expiry": EXPIRY, "usages": ["client auth"]},
    "decipher-only": {"expiry": EXPIRY, "usages": ["decipher only"]},
    "whitelist": {
        **LOCAL,
        "CSRWhitelist": {
            "PublicKey": True,
            "PublicKeyAlgorithm": True,
            "SignatureAlgorithm": True,
            "DNSNames": True,
        },
    },
    "absolute": {
        **LOCAL,
        "not_before": "2049-12-31T23:59:58Z",
        "not_after": "2050-01-02T01:00:00+01:00",
    },
}
CONFIG = {
    "signing": {
        "default": {"expiry": "100h", "usages": ["signing"], "ocsp_url": "http://default.example"},
        "profiles": PROFILES,
    }
}

SUBJECTS: dict[str, dict[str, Any]] = {
    "simple": {"CN": "leaf.example", "hosts": ["leaf.example", "10.1.2.3", "::1", "a@b.example"]},
    "many values": {
        "CN": "a*b",
        "names": [
            {"C": "FR", "ST": "Occitanie", "L": "Toulouse", "O": "bb", "OU": "x_y"},
            {"C": "DE", "O": "a&b", "OU": "ACME operations"},
            {"O": "aa"},
        ],
        "serialnumber": "No 5",
        "hosts": [""],
    },
    "unicode": {"CN": "Zoë", "names": [{"O": "Größe", "C": "France"}]},
    "no common name": {"names": [{"C": "FR"}], "hosts": ["x.example"]},
    "empty": {"CN": "", "hosts": ["only.san.example"]},
    "long": {"CN": "x" * 70, "hosts": ["1.2.3.4", "::ffff:1.2.3.4", "010.0.0.1", "Bob <bob@x.y>", " sp "]},
}


def cfssl(*words: str | Path, stdin: str = "") -> dict[str, str]:
    command = [need("cfssl"), *map(str, words)]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    made: dict[str, str] = json.loads(result.stdout)
    return made


def load(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


@pytest.fixture(scope="module", params=["ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-3072"])
def authority(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA that Debian's cfssl made, and the configuration."""
    algo, size = request.param.split("-")
    directory = tmp_path_factory.mktemp("ca")
    wanted = {
        "CN": "Differential CA",
        "key": {"algo": algo, "size": int(size)},
        "names": [{"C": "FR", "O": "ACME"}, {"O": "a&b"}],
        "hosts": ["10.0.0.1", "ca.example"],
    }
    made = cfssl("gencert", "-initca", "-", stdin=json.dumps(wanted))
    (directory / "ca.pem").write_text(made["cert"])
    (directory / "ca-key.pem").write_text(made["key"])
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


def ours(authority: Path, request: SignRequest) -> x509.Certificate:
    issuer = Issuer(
        certs.load_certificate((authority / "ca.pem").read_bytes()),
        keys.load_private_key((authority / "ca-key.pem").read_bytes()),
        config_json.parse_config((authority / "config.json").read_bytes()),
        SystemClock(),
    )
    return issuer.sign(request)


def theirs(
    authority: Path, csr_pem: str, *flags: str | Path, subject: Path | None = None
) -> x509.Certificate:
    (authority / "leaf.csr").write_text(csr_pem)
    words: list[str | Path] = ["-ca", authority / "ca.pem", "-ca-key", authority / "ca-key.pem"]
    words += ["-config", authority / "config.json", *flags, authority / "leaf.csr"]
    return load(cfssl("sign", *words, *([subject] if subject else []))["cert"])


def make_request(fields: dict[str, Any]) -> str:
    request = csr.parse_request(json.dumps(fields).encode())
    return csr.make_csr(request, csr.new_key(request)[0])


@pytest.mark.parametrize("profile", [*PROFILES, "", "no such profile"])
def test_every_profile_gives_the_certificate_that_cfssl_gives(authority: Path, profile: str) -> None:
    csr_pem = make_request(SUBJECTS["simple"])
    mine = ours(authority, SignRequest(csr_pem=csr_pem, profile=profile))
    other = theirs(authority, csr_pem, "-profile", profile)
    assert shape(mine) == shape(other)
    assert abs(mine.not_valid_before_utc - other.not_valid_before_utc) <= timedelta(minutes=1)
    mine.verify_directly_issued_by(load((authority / "ca.pem").read_text()))


@pytest.fixture(scope="module")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one")
    made = cfssl("gencert", "-initca", "-", stdin=json.dumps({"CN": "One CA"}))
    (directory / "ca.pem").write_text(made["cert"])
    (directory / "ca-key.pem").write_text(made["key"])
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("profile", ["urls", "intermediate", "whitelist"])
def test_every_kind_of_subject_is_encoded_as_cfssl_encodes_it(
    one_authority: Path, subject: str, profile: str
) -> None:
    csr_pem = make_request(SUBJECTS[subject])
    mine = ours(one_authority, SignRequest(csr_pem=csr_pem, profile=profile))
    assert shape(mine) == shape(theirs(one_authority, csr_pem, "-profile", profile))


@pytest.mark.parametrize("hosts", ["a.example,10.0.0.9", " a, b ", "x@y.example,::1,*.w.example", ","])
def test_hostname_replaces_the_names_as_in_cfssl(one_authority: Path, hosts: str) -> None:
    csr_pem = make_request(SUBJECTS["simple"])
    mine = ours(one_authority, SignRequest(csr_pem=csr_pem, hosts=hosts.split(",")))
    assert shape(mine) == shape(theirs(one_authority, csr_pem, "-hostname", hosts))


@pytest.mark.parametrize(
    "subject",
    [
        {"CN": "other"},
        {"names": [{"O": "New"}, {"O": "Newer", "C": "DE"}]},
        {"CN": "o", "SerialNumber": "77", "names": [{"OU": "u", "ST": "s", "L": "l", "C": "c", "O": "o"}]},
        {},
    ],
)
def test_a_subject_file_overrides_as_in_cfssl(
    one_authority: Path, tmp_path: Path, subject: dict[str, Any]
) -> None:
    (tmp_path / "subject.json").write_text(json.dumps(subject))
    csr_pem = make_request(SUBJECTS["many values"])
    request = SignRequest(csr_pem=csr_pem, subject=csr.parse_subject(json.dumps(subject).encode()))
    other = theirs(one_authority, csr_pem, subject=tmp_path / "subject.json")
    assert shape(ours(one_authority, request)) == shape(other)


@pytest.mark.parametrize("algorithm", ["rsa:2048", "ec"])
def test_a_request_that_openssl_made_is_signed_as_cfssl_signs_it(
    one_authority: Path, tmp_path: Path, algorithm: str
) -> None:
    options = ["-pkeyopt", "ec_paramgen_curve:prime256v1"] if algorithm == "ec" else []
    names = "/C=FR/O=Ünïcode/O=second/CN=first/CN=last/street=1 Way/postalCode=31000/serialNumber=9"
    words = ["req", "-new", "-newkey", algorithm, *options, "-nodes", "-utf8", "-subj", names]
    words += ["-keyout", str(tmp_path / "k.pem"), "-out", str(tmp_path / "r.csr")]
    words += ["-addext", "subjectAltName=DNS:a.example,IP:10.0.0.1,email:x@y.example,DNS:b.example"]
    words += ["-addext", "keyUsage=critical,keyCertSign", "-addext", "1.2.3.4=ASN1:UTF8String:hello"]
    subprocess.run([need("openssl"), *words], check=True, capture_output=True)
    csr_pem = (tmp_path / "r.csr").read_text()
    mine = ours(one_authority, SignRequest(csr_pem=csr_pem, profile="urls"))
    other = theirs(one_authority, csr_pem, "-profile", "urls")
    assert shape(mine) == shape(other)


CA_REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"CN": "root"},
    "hosts": {"CN": "root", "hosts": ["10.0.0.1", "ca.example"], "names": [{"C": "FR", "O": "A"}]},
    "no common name": {"names": [{"O": "just an organisation"}]},
    "expiry": {"CN": "root", "ca": {"expiry": "100h"}},
    "path length": {"CN": "root", "ca": {"expiry": "100h", "pathlen": 3}},
    "path length and zero": {"CN": "root", "ca": {"pathlen": 1, "pathlenzero": True}},
    "no path": {"CN": "root", "ca": {"pathlenzero": True}},
    "rsa": {"CN": "root", "key": {"algo": "rsa", "size": 2048}},
    "p384": {"CN": "root", "key": {"algo": "ecdsa", "size": 384}},
}


def request_shape(pem: str) -> tuple[str, ...]:
    """Version, subject, attributes and signature algorithm of a request: all but key and signature."""
    request = x509.load_pem_x509_csr(pem.encode())
    version, subject, _key, attributes = elements(elements(request.tbs_certrequest_bytes)[0][1])
    return (
        version[2].hex(),
        subject[2].hex(),
        attributes[2].hex(),
        request.signature_algorithm_oid.dotted_string,
    )


@pytest.mark.parametrize("name", CA_REQUESTS)
def test_initca_makes_the_ca_that_cfssl_makes(name: str) -> None:
    text = json.dumps(CA_REQUESTS[name])
    other = cfssl("gencert", "-initca", "-", stdin=text)
    mine = ca.init_ca(csr.parse_request(text.encode()), SystemClock())
    left, right = shape(load(mine.cert)), shape(load(other["cert"]))
    own_ids = {"551d0e"}  # the subject key identifier is of another key
    assert [item for item in left.extensions if item[0] not in own_ids] == [
        item for item in right.extensions if item[0] not in own_ids
    ]
    assert [item[:2] for item in left.extensions] == [item[:2] for item in right.extensions]
    assert (left.subject, left.issuer, left.algorithm) == (right.subject, right.issuer, right.algorithm)
    assert left.lifetime == right.lifetime
    assert request_shape(mine.csr) == request_shape(other["csr"])
    assert mine.key.splitlines()[0] == other["key"].splitlines()[0]


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("key", [{"algo": "ecdsa", "size": 521}, {"algo": "rsa", "size": 2048}])
def test_genkey_makes_the_request_that_cfssl_makes(name: str, key: dict[str, Any]) -> None:
    fields = {**SUBJECTS[name], "key": key}
    other = cfssl("genkey", "-", stdin=json.dumps(fields))
    request = csr.parse_request(json.dumps(fields).encode())
    made, key_pem = csr.new_key(request)
    assert request_shape(csr.make_csr(request, made)) == request_shape(other["csr"])
    assert key_pem.splitlines()[0] == other["key"].splitlines()[0]


def test_a_key_and_certificate_of_ours_sign_in_cfssl(tmp_path: Path) -> None:
    made = ca.init_ca(csr.parse_request(b'{"CN":"ours","names":[{"O":"b"},{"O":"a&b"}]}'), SystemClock())
    (tmp_path / "ca.pem").write_text(made.cert)
    (tmp_path / "ca-key.pem").write_text(made.key)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    csr_pem = make_request(SUBJECTS["simple"])
    other = theirs(tmp_path, csr_pem, "-profile", "urls")
    assert shape(other) == shape(ours(tmp_path, SignRequest(csr_pem=csr_pem, profile="urls")))


def test_selfsign_has_the_shape_of_cfssl_with_the_names_it_lacks() -> None:
    fields = {"CN": "self", "names": [{"O": "x"}]}
    other = load(cfssl("selfsign", "ignored", "-", stdin=json.dumps(fields))["cert"])
    request = csr.parse_request(json.dumps(fields).encode())
    key, _ = csr.new_key(request)
    profile = profiles.Profile(usages=profiles.DEFAULT_USAGES)
    mine = load(ca.self_sign(request, key, profile, SystemClock())[0])
    left, right = shape(mine), shape(other)
    assert [item[:2] for item in left.extensions] == [item[:2] for item in right.extensions]
    assert (left.subject, left.issuer, left.lifetime) == (right.subject, right.issuer, right.lifetime)
    assert mine.not_valid_before_utc - datetime.now(UTC) < timedelta(minutes=-4)
    assert mine.serial_number < 1 << 63
