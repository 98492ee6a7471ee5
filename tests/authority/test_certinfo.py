from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ocspd import wire
from ocspd.authority.certinfo import describe
from ocspd.authority.certinfo_csr import MAX_NUMBER_BITS, Number, describe_request
from ocspd.errors import CodedError, OCSPDError
from ocspd.pki.certs import load_certificate
from tests.authority import corpus
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def cfssl_says(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """What Debian's cfssl prints about the whole corpus, by `cert NAME` and `csr NAME`."""
    folder = tmp_path_factory.mktemp("corpus")
    cfssl = need("cfssl")
    files = {
        f"cert {name}": corpus.armour("CERTIFICATE", data) for name, data in corpus.certificates().items()
    }
    files |= {
        f"csr {name}": corpus.armour("CERTIFICATE REQUEST", data) for name, data in corpus.requests().items()
    }

    def ask(item: tuple[int, str]) -> tuple[str, subprocess.CompletedProcess[str]]:
        number, name = item
        path = folder / f"{number}.pem"
        path.write_bytes(files[name])
        command = [cfssl, "certinfo", f"-{name.partition(' ')[0]}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        return name, done

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(ask, enumerate(files)))


def like_head(text: str) -> str:
    """Write what 1.2.0 prints as CFSSL's HEAD does: key identifiers of two digits, and Ed25519 by name."""

    def padded(found: re.Match[str]) -> str:
        return found[1] + ":".join(octet.zfill(2) for octet in found[2].split(":")) + '"'

    return re.sub(r'("(?:authority|subject)_key_id": ")([0-9A-F:]+)"', padded, text)


@pytest.mark.parametrize("name", corpus.certificates())
def test_a_certificate_is_described_as_by_cfssl(
    cfssl_says: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    theirs = cfssl_says[f"cert {name}"]
    assert theirs.returncode == 0, theirs.stderr
    mine = wire.dumps_indented(describe(load_certificate(corpus.certificates()[name]))) + "\n"
    expected = like_head(theirs.stdout)
    if name == "algorithm: Ed25519":
        expected = expected.replace('"sigalg": "Unknown Signature"', '"sigalg": "Ed25519"')
    assert mine == expected.replace('"sigalg": "MD2WithRSA"', '"sigalg": "Unknown Signature"')


@pytest.mark.parametrize("name", corpus.requests())
def test_a_request_is_written_out_as_by_cfssl(
    cfssl_says: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    theirs = cfssl_says[f"csr {name}"]
    assert theirs.returncode == 0, theirs.stderr
    mine, expected = describe_request(corpus.requests()[name]) + "\n", theirs.stdout
    if mine != expected:  # Debian 12's is made with a Go that knew MD2 and no BOOLEAN
        mine = re.sub(r'"Value": (?:true|false)$', '"Value": null', mine, flags=re.MULTILINE)
        expected = expected.replace('"SignatureAlgorithm": 1,', '"SignatureAlgorithm": 0,')
    assert mine == expected


@pytest.mark.parametrize("name", corpus.refused_keys())
def test_a_request_whose_key_go_cannot_read_is_refused_in_plain_text(tmp_path: Path, name: str) -> None:
    text = corpus.armour("CERTIFICATE REQUEST", corpus.request(key=corpus.refused_keys()[name]))
    (tmp_path / "x.csr").write_bytes(text)
    theirs = subprocess.run(
        [need("cfssl"), "certinfo", "-csr", str(tmp_path / "x.csr")],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert theirs.returncode == 1
    with pytest.raises(OCSPDError) as caught:
        describe_request(text)
    assert not isinstance(caught.value, CodedError)


def test_numbers_of_any_size_are_written_in_decimal() -> None:
    for value in (0, 7, -7, 10**3999, 10**4000, -(10**4001) - 5, (1 << MAX_NUMBER_BITS) - 1):
        whole, digits = abs(value), []
        while whole:
            whole, part = divmod(whole, 10**1000)
            digits.append(str(part).zfill(1000))
        expected = "".join(reversed(digits)).lstrip("0") or "0"
        assert str(Number(value)) == ("-" if value < 0 else "") + expected


def test_a_key_of_absurd_size_is_refused_at_once() -> None:
    data = corpus.request(key=corpus.rsa_info(1 << 8_000_000, 65537))
    with pytest.raises(OCSPDError, match="more than the limit of 65536"):
        describe_request(data)


def test_a_request_may_be_der_or_have_any_label() -> None:
    data = corpus.request()
    assert describe_request(data) == describe_request(corpus.armour("ANYTHING", data))


def test_text_that_is_no_request_is_named() -> None:
    with pytest.raises(CodedError) as caught:
        describe_request(b"hello")
    assert caught.value.code == 9002
    with pytest.raises(OCSPDError, match="CSR parse failed"):
        describe_request(corpus.armour("CERTIFICATE REQUEST", corpus.certificate()))


def test_the_password_in_a_uri_is_not_shown() -> None:
    names = [corpus.general(6, b"https://user:secret@h.example/")]
    text = describe_request(corpus.request(attributes=(corpus.wanted(corpus.san(names)),)))
    shown: dict[str, Any] = json.loads(text)
    assert shown["URIs"][0]["User"] == {}
    assert "secret" not in text.replace(shown["Raw"], "")
