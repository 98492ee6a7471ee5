"""Files as editors and other programs save them: DER for PEM, UTF-16, byte order marks, bare hex."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ocspd.cli.main import main
from tests.pki import encodings as e
from tests.pki.chain import make_chain
from tests.pki.test_csr_reading import own_modulus, weak

if TYPE_CHECKING:
    from pathlib import Path


def sign(folder: Path, data: bytes, *more: str) -> int:
    make_chain().write(folder)
    (folder / "a.csr").write_bytes(data)
    return main(
        ["sign", "-ca", f"{folder}/ca.pem", "-ca-key", f"{folder}/ca-key.pem", *more, f"{folder}/a.csr"]
    )


PEM = e.pem("CERTIFICATE REQUEST", e.request())


@pytest.mark.parametrize(
    "data",
    [
        e.request(),
        b"\xef\xbb\xbf" + PEM.encode(),
        PEM.replace("\n", "\r\n").encode(),
        PEM.replace("\n", "  \n").encode(),
        b"Certificate Request:\n    Data:\n" + PEM.encode() + b"\n\n",
        PEM.replace("CERTIFICATE REQ", "NEW CERTIFICATE REQ").encode(),
    ],
)
def test_a_request_is_read_as_programs_save_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    assert sign(tmp_path, data) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cert"].startswith("-----BEGIN CERTIFICATE-----\n")
    assert "CERTIFICATE REQUEST-----" in found["csr"]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: str) -> None:
    assert sign(tmp_path, PEM.encode(codec)) == 1
    assert "it is in UTF-16: save it as ASCII or UTF-8" in capsys.readouterr().err


def test_a_weak_rsa_key_is_signed_for_behind_a_flag_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = e.request(key=weak(1024))
    assert sign(tmp_path, data) == 1
    assert "1024 bits is too weak" in capsys.readouterr().err
    assert sign(tmp_path, data, "-allow-rsa-1024") == 0
    assert sign(tmp_path, e.request(info=own_modulus(65537, modulus=(1 << 1022) + 1)), "-allow-rsa-1024") == 1
    assert "1023 bits is too weak" in capsys.readouterr().err
