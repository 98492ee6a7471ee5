from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ocspd.cli.main import main
from ocspd.config import load_signer_config
from ocspd.errors import ConfigError
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus
from ocspd.signer import indexing
from tests.pki.chain import key_pem
from tests.signer.revocation import CHAIN, OTHER, crl, der, revoked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ISSUER = '[[issuer]]\nca = "ca.pem"\nresponder = "responder.pem"\nresponder_key = "responder-key.pem"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CHAIN.write(tmp_path)
    (tmp_path / "serials").write_text("1\n2\n")
    (tmp_path / "ca.crl").write_bytes(der(crl([revoked(1)])))
    return tmp_path


def replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


def arguments(folder: Path) -> list[str]:
    named = {"-ca": "ca.pem", "-responder": "responder.pem", "-responder-key": "responder-key.pem"}
    named |= {"-crl": "ca.crl", "-serials": "serials", "-index": "index"}
    return ["refresh", *(word for flag, name in named.items() for word in (flag, str(folder / name)))]


def status(folder: Path, serial: int) -> CertStatus | None:
    found = indexing.lookup(IndexDirectory(folder / "index").open(), CHAIN.ca, serial)
    return CertStatus(found["sha256"].status) if found else None


@contextmanager
def running(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "ocspd", *words], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"{text} was never logged")


def test_refresh_signs_what_files_say(folder: Path) -> None:
    assert main([*arguments(folder), "-once", "-admin-port", "0"]) == 0
    assert [status(folder, serial) for serial in (1, 2, 3)] == [CertStatus.REVOKED, CertStatus.GOOD, None]


def test_refresh_reads_files_again_when_they_change_and_keeps_its_answers_when_they_are_bad(
    folder: Path,
) -> None:
    with running([*arguments(folder), "-admin-port", "0"]) as process:
        wait_for(process, "following the files")
        replace(folder / "ca.crl", der(crl([revoked(1)], key=OTHER.ca_key)))
        assert "still serving the published index" in wait_for(process, "its signature is not that of")
        replace(folder / "ca.crl", der(crl([revoked(1), revoked(2)], number=2)))
        wait_for(process, "works again")
        deadline = time.monotonic() + 120
        while status(folder, 2) != CertStatus.REVOKED:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def test_a_configuration_file_and_flags_are_not_mixed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ocspd.toml").write_text(f'index = "index"\ncrl = ["ca.crl"]\n{ISSUER}')
    for flag in ("-index=1", "-responder-key=1", "-interval=1h", "-admin-port=1", "-crl=1"):
        assert main(["refresh", str(folder / "ocspd.toml"), flag]) == 1
        assert (
            f"{flag.partition('=')[0]} cannot be combined with a configuration file; set it in "
            f"{folder / 'ocspd.toml'}" in capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[isuer]]\nca = "ca.pem"\n', r"unknown key 'isuer'; use one of index, .*\[\[issuer\]\]"),
        ('[issuer]\nca = "ca.pem"\n', r"write \[\[issuer\]\] with double brackets"),
        ("", r"at least one \[\[issuer\]\] is required"),
    ],
)
def test_a_misspelt_table_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "ocspd.toml").write_text(f'index = "index"\n{text}')
    with pytest.raises(ConfigError, match=message):
        load_signer_config(folder / "ocspd.toml")


def test_SIGTERM_in_the_middle_of_a_pass_leaves_no_unfinished_file(folder: Path) -> None:
    (folder / "serials").write_text("".join(f"{number}\n" for number in range(1_000_000)))
    with running([*arguments(folder), "-admin-port", "0"]) as process:
        deadline = time.monotonic() + 120
        while not any((folder / "index").glob(".new-*.seg*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert not (folder / "index" / "manifest.json").exists(), "the pass was over too soon"
    assert not any((folder / "index").glob(".new-*"))


def test_SIGHUP_has_refresh_look_at_certificates_and_keys(folder: Path) -> None:
    with running([*arguments(folder), "-admin-port", "0"]) as process:
        wait_for(process, "following the files")
        process.send_signal(signal.SIGHUP)
        replace(folder / "responder-key.pem", key_pem(OTHER.responder_key))
        process.send_signal(signal.SIGHUP)
        assert "still using the previous signers" in wait_for(process, "responder-key.pem")
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def test_refresh_refuses_files_it_cannot_use_before_it_starts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ca.crl").write_bytes(b"nothing")
    assert main([*arguments(folder), "-admin-port", "0"]) == 1
    assert "ca.crl: not a CRL" in capsys.readouterr().err


def test_the_configuration_file_names_files_beside_itself(folder: Path) -> None:
    path = folder / "ocspd.toml"
    path.write_text(
        f'index = "index"\ncrl = ["ca.crl"]\n{ISSUER}serials = ["serials"]\nindex_txt = ["index.txt"]\n'
    )
    config = load_signer_config(path)
    assert config.crl == (str(folder / "ca.crl"),)
    assert config.issuer[0].serials == (str(folder / "serials"),)
    assert config.issuer[0].index_txt == (str(folder / "index.txt"),)
    assert config.from_files


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ("", "needs db_config, or files"),
        ('db_config = "db.json"\ncrl = ["a.crl"]\n', "has both db_config and files"),
        ('crl = ["a.crl"]\ntable = true\n', "table = true requires db_config"),
    ],
)
def test_a_configuration_has_one_source_of_status(folder: Path, top: str, message: str) -> None:
    path = folder / "ocspd.toml"
    path.write_text(f'index = "index"\n{top}{ISSUER}')
    with pytest.raises(ConfigError, match=message):
        load_signer_config(path)


@pytest.mark.parametrize("words", [("ocspd.toml",), ("-config", "ocspd.toml")])
def test_the_configuration_file_is_an_argument_or_a_flag(
    folder: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    lines = 'index = "index"\nadmin_port = 0\ncrl = ["ca.crl"]\n\n' + ISSUER + 'serials = ["serials"]\n'
    (folder / "ocspd.toml").write_text(lines)
    assert main(["refresh", "-once", *words]) == 0
    assert status(folder, 1) is CertStatus.REVOKED


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-config", "signing.json"], "signing.json"),
        (["-config", "a.toml", "b.toml"], "refresh takes one configuration file, but also got 'a.toml'"),
        (
            ["-config", "a.toml", "-index", "x"],
            "-index cannot be combined with a configuration file; set it in a.toml",
        ),
        (["-profile", "x"], "flag provided but not defined: -profile"),
        (["-ca-key", "x"], "flag provided but not defined: -ca-key"),
    ],
)
def test_a_flag_that_refresh_would_ignore_is_refused(
    folder: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "signing.json").write_text('{"signing": {"default": {"expiry": "1h"}}}')
    words = [str(folder / word) if word == "signing.json" else word for word in words]
    assert main(["refresh", *words]) != 0
    assert text in capsys.readouterr().err
