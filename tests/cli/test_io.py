from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocspd.errors import ConfigError, OCSPDError
from ocspd.inputs import MAX_INPUT_BYTES, read_file, read_key_material
from tests.binary import ocspd


def test_a_missing_file_is_named_with_the_directory_it_was_looked_for_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OCSPDError) as caught:
        read_file("ca.pem")
    assert str(caught.value) == f"open ca.pem: no such file or directory (looked in {tmp_path})"
    with pytest.raises(OCSPDError) as caught:
        read_file("/no/such/ca.pem")
    assert str(caught.value) == "open /no/such/ca.pem: no such file or directory"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a file name is empty"),
        ("directory", "read directory: is a directory; give a file in it"),
        ("file/below", "open file/below: not a directory"),
        ("x" * 300, "file name too long"),
        ("loop", "too many levels of symbolic links"),
        ("nul\0byte", "open 'nul\\x00byte': not a file name"),
        ("line\nbreak", "open 'line\\nbreak': no such file"),
        ("/dev/zero", "larger than 64 MiB"),
    ],
)
def test_a_name_that_cannot_be_read_is_one_line_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OCSPDError) as caught:
        read_file(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_names_the_user_and_what_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Root reads everything, and the tests may run as root.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OCSPDError) as caught:
        read_file("key.pem")
    assert str(caught.value).startswith(f"open key.pem: permission denied for user id {os.geteuid()}")


def test_the_largest_input_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(MAX_INPUT_BYTES)
    assert len(read_file(str(path))) == MAX_INPUT_BYTES


def test_key_material_comes_from_a_path_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "with:colon.pem"
    path.write_bytes(b"key\xff")
    monkeypatch.setenv("OCSPD_TEST_KEY", "key text")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pem").write_bytes(b"plain")
    assert read_key_material(f"file:{path}") == b"key\xff"
    assert read_key_material("plain.pem") == b"plain"
    assert read_key_material("env:OCSPD_TEST_KEY") == b"key text"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("env:OCSPD_NOT_SET", "env:OCSPD_NOT_SET: environment variable OCSPD_NOT_SET is not set"),
        ("C:\\ca.pem", "C:\\ca.pem: unknown prefix 'C'; write file:C:\\ca.pem if this is a path"),
    ],
)
def test_key_material_that_cannot_be_found_tells_the_remedy(spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_key_material(spec)
    assert str(caught.value) == message


def test_a_dash_reads_standard_input(tmp_path: Path) -> None:
    assert ocspd("json", "-bare", "-stdout", "-f", "-", cwd=tmp_path, stdin='{"cert":"A"}').stdout == "A\n"
