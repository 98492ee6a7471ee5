"""Linting before issuing: pkilint's findings at zlint's levels."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from ocspd.clock import ManualClock
from ocspd.errors import CodedError
from ocspd.pki import ca, certs, csr, keys, lint
from ocspd.pki.config_json import parse_config
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.zlint_names import PREFIXES, SOURCES, ZLINT_NAMES
from tests.pki.chain import NOW, make_key

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

CLIENT = {"expiry": "10h", "usages": ["signing", "client auth"]}
SERVER = {
    "expiry": "1000h",
    "usages": ["signing", "server auth"],
    "ocsp_url": "http://ocsp.example.com",
    "issuer_urls": ["http://ca.example.com/ca.crt"],
    "policies": [{"ID": "2.23.140.1.2.1"}],
}
LEAF = {"CN": "www.example.com", "hosts": ["www.example.com"]}
COMMON_NAME = "cabf.serverauth.dv.common_name_attribute_present"
KEY_ID = "cabf.serverauth.subscriber.subject_key_identifier_extension_present"


def sign(
    profile: dict[str, Any], fields: dict[str, Any] | None = None, kind: str = "ecdsa-256"
) -> x509.Certificate:
    clock, key = ManualClock(NOW), make_key(kind)
    root = csr.parse_request(b'{"CN": "root", "names": [{"C": "DE", "O": "Example"}]}')
    certificate = certs.load_certificate(ca.init_ca(root, clock, key).cert.encode())
    config = parse_config(json.dumps({"signing": {"default": profile}}).encode())
    wanted = csr.parse_request(json.dumps(fields or LEAF).encode())
    csr_pem = csr.make_csr(wanted, make_key("ecdsa-256", 1))
    return Issuer(certificate, key, config, clock).sign(SignRequest(csr_pem=csr_pem))


def refused(profile: dict[str, Any], fields: dict[str, Any] | None = None) -> str:
    with pytest.raises(lint.LintError) as caught:
        sign(profile, fields)
    assert str(caught.value).startswith("pre-issuance linting")
    return str(caught.value)


def wrong(**fields: Any) -> str:
    """The reason for which a configuration is refused."""
    with pytest.raises(CodedError) as caught:
        parse_config(json.dumps({"signing": {"default": {**CLIENT, **fields}}}).encode())
    assert int(caught.value.code) == 5200
    return caught.value.message


@pytest.mark.parametrize("level", ["pass", "info", "warn", "error", "fatal"])
def test_a_certificate_without_findings_is_issued_at_every_level(level: str) -> None:
    sign({**CLIENT, "lint_error_level": level}, {"CN": "x", "names": [{"C": "DE"}]})


def test_findings_above_the_level_refuse_and_name_themselves(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    message = refused({**SERVER, "lint_error_level": "info"})
    assert message.startswith("pre-issuance linting found 2 error results: ")
    assert f"{COMMON_NAME} (warn)" in message
    assert f"{KEY_ID} (warn)" in message
    assert caplog.text.count("signed certificate") == 1  # the root: nothing else was signed


def test_findings_up_to_the_level_do_not_count() -> None:
    sign({**SERVER, "lint_error_level": "warn"})
    assert "(error)" in refused({**SERVER, "lint_error_level": "warn", "expiry": "20000h"})
    sign({**SERVER, "lint_error_level": "error", "expiry": "20000h"})


def test_ignored_findings_do_not_count() -> None:
    sign({**SERVER, "lint_error_level": "info", "ignored_lints": [COMMON_NAME, KEY_ID]})
    assert "found 1 error results" in refused(
        {**SERVER, "lint_error_level": "info", "ignored_lints": [COMMON_NAME]}
    )


def test_zlints_names_ignore_the_same_rules() -> None:
    names = [
        "w_subject_common_name_included",
        "w_ext_subject_key_identifier_not_recommended_subscriber",
    ]
    sign({**SERVER, "lint_error_level": "info", "ignored_lints": names})


@pytest.mark.parametrize("source", ["CABF_BR", " CABF_BR ", "cabf"])
def test_an_ignored_source_is_left_out(source: str) -> None:
    profile = {**SERVER, "lint_error_level": "pass", "ignored_lint_sources": [source], "expiry": "20000h"}
    sign(profile)


def test_what_a_certificate_is_for_decides_how_it_is_linted() -> None:
    """As zlint's lints: those for web servers say nothing about clients."""
    sign({**CLIENT, "expiry": "20000h", "lint_error_level": "pass"})
    assert "cabf." in refused({**CLIENT, "usages": ["signing", "any"], "lint_error_level": "warn"})
    mail = {"expiry": "1h", "usages": ["signing", "s/mime"], "lint_error_level": "warn"}
    sign(mail, {"CN": "a@b.example", "hosts": ["a@b.example"]})
    reserved = {**mail, "policies": [{"ID": "2.23.140.1.5.1.1"}]}
    assert "cabf.smime." in refused(reserved, {"CN": "a@b.example", "hosts": ["a@b.example"]})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"ignored_lints": ["pkix.no_such_thing"]}, "'pkix.no_such_thing' is not a finding of pkilint"),
        (
            {"ignored_lints": ["pkix.duplicate_extensions"]},
            "the nearest one is pkix.duplicate_extension",
        ),
        ({"ignored_lints": ["e_no_such_lint"]}, "pkilint has no rule that is zlint's e_no_such_lint"),
        (
            {"ignored_lints": ["e_ext_duplicate_extensions"]},
            "the nearest one is e_ext_duplicate_extension",
        ),
        ({"ignored_lints": [""]}, "is not a finding of pkilint"),
        ({"ignored_lint_sources": ["CABF_RB"]}, "did you mean CABF_BR?"),
        ({"ignored_lint_sources": ["x"]}, "use one of RFC5280, "),
    ],
)
@pytest.mark.parametrize("level", [{}, {"lint_error_level": "error"}])
def test_an_unknown_name_is_refused_with_the_nearest_one(
    fields: dict[str, Any], text: str, level: dict[str, Any]
) -> None:
    assert text in wrong(**fields, **level)


def test_every_zlint_name_leads_to_findings_of_the_installed_pkilint() -> None:
    known = lint.known_codes()
    missing = {name: set(codes) - known for name, codes in ZLINT_NAMES.items()}
    assert {name: codes for name, codes in missing.items() if codes} == {}


def test_every_finding_belongs_to_a_source_of_zlint_or_of_none() -> None:
    assert {code.partition(".")[0] for code in lint.known_codes()} <= {*PREFIXES, "base"}
    policy = lint.LintPolicy(level=3, ignored_sources=frozenset(SOURCES))
    counted = {code for code in lint.known_codes() if not policy.ignores(code)}
    assert {code.partition(".")[0] for code in counted} <= {"adbe", "base", "googl", "iso", "itu", "msft"}


def test_linting_writes_no_tracebacks(tmp_path: Path) -> None:
    """pkilint logs what its validators raise: certificates come from clients."""
    program = """
import logging, sys
from ocspd.pki import lint
lint._silence()
import pkilint.validation
logging.getLogger("pkilint.validation").error("a traceback")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_certificate_too_large_to_lint_is_refused() -> None:
    hosts = [f"{number:05}.{'x' * 50}.example.com" for number in range(1000)]
    message = refused({**CLIENT, "lint_error_level": "fatal"}, {"CN": "x", "hosts": hosts})
    assert "more than can be linted (65536)" in message


@pytest.mark.parametrize("kind", ["rsa-2048", "ecdsa-384", "ed25519", "ml-dsa-44"])
def test_the_throw_away_key_signs_with_the_algorithm_of_the_ca(kind: str) -> None:
    key = make_key(kind)
    other = keys.generate_like(key)
    assert other != key
    assert keys.public_key_info(other) != keys.public_key_info(key)
    assert keys.signature_algorithm(other) == keys.signature_algorithm(key)
    assert isinstance(
        other,
        rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | mldsa.MLDSA44PrivateKey,
    )


@pytest.mark.parametrize("name", ["pkix.certificate_skid_end_entity_missing"])
def test_without_pkilint_a_profile_that_lints_names_the_remedy(name: str, tmp_path: Path) -> None:
    """In an interpreter that cannot find it, as after `pip install ocspd`."""
    program = """
import json, sys
from importlib.machinery import PathFinder
class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "pkilint" else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [finder if finder is not PathFinder else Hidden for finder in sys.meta_path]
from ocspd.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    for fields in ({"lint_error_level": "error"}, {"ignored_lints": [name]}):
        (tmp_path / "config.json").write_text(json.dumps({"signing": {"default": {**CLIENT, **fields}}}))
        done = subprocess.run(
            [sys.executable, "-c", program, "info", "-config", "config.json"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "pip install 'ocspd[lint]'" in done.stderr
        assert "Traceback" not in done.stderr
