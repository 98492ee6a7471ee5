from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.binary import ocspd
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

CERT, KEY, CSR = (f"-----BEGIN {name}-----\nAA==\n-----END {name}-----\n" for name in ("A", "B", "C"))
DER = base64.b64encode(bytes(range(256))).decode()


def api_response(result: Any, **more: Any) -> dict[str, Any]:
    return {"success": True, "result": result, "errors": [], "messages": []} | more


def files(directory: Path) -> dict[str, tuple[bytes, str]]:
    return {
        path.name: (path.read_bytes(), oct(stat.S_IMODE(path.stat().st_mode)))
        for path in sorted(directory.iterdir())
    }


def both(
    tmp_path: Path, words: list[str], stdin: str, before: dict[str, int] | None = None, umask: int = 0o022
) -> list[tuple[int, str, str, dict[str, tuple[bytes, str]]]]:
    """Run Debian's cfssljson and ours in directories of their own; return what each did."""
    done = []
    for name in ("theirs", "ours"):
        directory = tmp_path / name
        directory.mkdir()
        for file, mode in (before or {}).items():
            (directory / file).write_text("before")
            (directory / file).chmod(mode)
        if name == "theirs":
            result = subprocess.run(
                [need("cfssljson"), *words],
                cwd=directory,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                umask=umask,
            )
        else:
            result = ocspd("json", *words, cwd=directory, stdin=stdin, umask=umask)
        done.append((result.returncode, result.stdout, result.stderr, files(directory)))
    return done


EQUAL: list[tuple[list[str], Any]] = [
    (["-bare"], {"cert": CERT, "key": KEY, "csr": CSR}),
    (["-bare", "ca", "-"], {"cert": CERT, "key": KEY, "csr": CSR}),
    (["-bare", "a", "b", "c"], {"cert": CERT}),
    (["--bare=true", "ca"], {"certificate": CERT, "private_key": KEY, "certificate_request": CSR}),
    (["-bare"], {"cert": CERT, "certificate": "other", "key": KEY, "private_key": "other"}),
    (["-bare"], {"cert": "", "certificate": CERT, "key": "", "csr": CSR}),
    (["-bare"], {"CERT": CERT, "csr": CSR}),
    (["-bare"], {"encrypted_key": DER, "cert": CERT}),
    (["-bare"], {"encrypted_key": "", "cert": CERT}),
    (["-bare"], {"ocspResponse": DER}),
    (["-bare"], {"ocspResponse": DER[:64] + "\n" + DER[64:] + "\r\n"}),
    (["-bare"], {"ocspResponse": ""}),
    (["-bare"], {"result": {"bundle": 3}, "cert": CERT}),
    (["-bare"], {"result": [], "cert": CERT}),
    (["-bare", "-stdout"], {"cert": CERT, "key": KEY, "csr": CSR, "ocspResponse": DER, "encrypted_key": DER}),
    (["-bare"], {"cert": "é<>&\u2028\U0001f600\0"}),
    (["-bare", "-f", "-"], {"cert": CERT}),
    ([], api_response({"certificate": CERT, "private_key": KEY, "certificate_request": CSR})),
    (["base"], api_response({"ocspResponse": DER})),
    (["-stdout"], {"SUCCESS": True, "Result": {"cert": CERT}}),
]


@pytest.mark.parametrize(("words", "value"), EQUAL)
def test_files_modes_and_output_are_those_of_cfssljson(tmp_path: Path, words: list[str], value: Any) -> None:
    theirs, ours = both(tmp_path, words, json.dumps(value))
    assert ours == theirs
    assert theirs[0] == 0


# Debian's 1.2.0 looks for the bundle elsewhere; this is the rule of later versions.
def test_a_bundle_inside_a_result_becomes_two_files(tmp_path: Path) -> None:
    value = json.dumps({"result": {"bundle": {"bundle": CERT, "root": CSR, "crt": "x"}}})
    assert ocspd("json", "-bare", "x", cwd=tmp_path, stdin=value).returncode == 0
    assert files(tmp_path) == {
        "x-bundle.pem": (f"{CERT}\n{CSR}".encode(), "0o644"),
        "x-root.pem": (CSR.encode(), "0o644"),
    }


@pytest.mark.parametrize(
    ("bundle", "message"),
    [({"root": "x"}, "inner bundle parsing failed!"), ({"bundle": "x", "root": 1}, "root parsing failed!")],
)
def test_a_bundle_that_lacks_a_part_is_refused(tmp_path: Path, bundle: object, message: str) -> None:
    value = json.dumps({"cert": CERT, "result": {"bundle": bundle}})
    result = ocspd("json", "-bare", cwd=tmp_path, stdin=value)
    assert (result.returncode, files(tmp_path)) == (1, {})
    assert result.stderr.startswith(message)


@pytest.mark.parametrize("umask", [0, 0o002, 0o027, 0o077])
def test_the_umask_applies_to_certificates_and_requests(tmp_path: Path, umask: int) -> None:
    value = json.dumps({"cert": CERT, "key": KEY, "csr": CSR})
    theirs, ours = both(tmp_path, ["-bare"], value, umask=umask)
    assert ours == theirs


def test_files_that_exist_keep_their_mode_except_keys_which_end_private(tmp_path: Path) -> None:
    before = {"x.pem": 0o600, "x-key.pem": 0o644, "x-key.enc": 0o666, "x.csr": 0o640}
    value = json.dumps({"cert": CERT, "key": KEY, "csr": CSR, "encrypted_key": DER})
    theirs, ours = both(tmp_path, ["-bare", "x"], value, before)
    assert {name: content for name, (content, _) in ours[3].items()} == {
        name: content for name, (content, _) in theirs[3].items()
    }
    assert {name: mode for name, (_, mode) in ours[3].items()} == {
        "x.pem": "0o600",
        "x-key.pem": "0o600",
        "x-key.enc": "0o600",
        "x.csr": "0o640",
    }


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], '{"success":false,"errors":[{"code":1,"message":"first"},{"code":2,"message":"second"}]}'),
        ([], '{"success":false}'),
        ([], ""),
        (["-bare"], ""),
        (["-bare"], "{"),
        (["-bare"], '{"cert":"A"'),
        (["-bare"], '{"encrypted_key":"x","ocspResponse":"!!"}'),
        (["-bare"], '{"ocspResponse":"aGVs bG8="}'),
    ],
)
def test_failures_have_the_text_and_code_of_cfssljson(tmp_path: Path, words: list[str], text: str) -> None:
    theirs, ours = both(tmp_path, words, text)
    assert ours == theirs
    assert theirs[0] == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-bare"], "[]"),
        (["-bare"], '{"cert":"A"} trailing'),
        ([], '{"success":true,"result":3}'),
        ([], '{"success":"yes"}'),
        ([], '{"success":true,"result":{"ocspResponse":"A"}}'),
        (["-bare", "no/such/directory/x"], '{"cert":"A"}'),
        (["-f", "missing"], ""),
        (["-f", "/"], ""),
    ],
)
def test_what_cfssljson_refuses_is_refused_in_one_line_that_begins_alike(
    tmp_path: Path, words: list[str], text: str
) -> None:
    theirs, ours = both(tmp_path, words, text)
    assert (ours[0], ours[1], ours[3]) == (theirs[0], theirs[1], theirs[3]) == (1, "", {})
    assert ours[2].count("\n") == 1
    if "no/such/directory/x" not in words:
        assert ours[2][:16] == theirs[2][:16]


@pytest.mark.parametrize("value", [1, None, ["x"], {"a": 1}, True])
@pytest.mark.parametrize("name", ["cert", "key", "private_key", "csr", "encrypted_key", "ocspResponse"])
def test_a_member_that_is_no_string_is_an_error_where_cfssljson_panics(
    tmp_path: Path, name: str, value: object
) -> None:
    result = ocspd("json", "-bare", cwd=tmp_path, stdin=json.dumps({"cert": CERT, name: value}))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f'Failed to parse input: "{name}" is not a string\n'
    assert files(tmp_path) == {}


def test_a_bad_member_leaves_no_file_behind(tmp_path: Path) -> None:
    result = ocspd("json", "-bare", cwd=tmp_path, stdin=json.dumps({"cert": CERT, "ocspResponse": "!"}))
    assert result.returncode == 1
    assert files(tmp_path) == {}


def test_a_file_that_cannot_be_replaced_is_named_and_nothing_temporary_stays(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").mkdir()
    result = ocspd("json", "-bare", cwd=tmp_path, stdin=json.dumps({"cert": CERT}))
    assert result.returncode == 1
    assert "cert.pem: cannot write: " in result.stderr
    assert os.listdir(tmp_path) == ["cert.pem"]  # noqa: PTH208  (names only)


@pytest.mark.parametrize("target", ["real.pem", "missing.pem"])
@pytest.mark.parametrize("link", ["cert.pem", "cert-key.pem", "cert.csr"])
def test_nothing_is_written_when_one_of_the_files_is_a_symbolic_link(
    tmp_path: Path, link: str, target: str
) -> None:
    (tmp_path / "real.pem").write_text("kept")
    (tmp_path / link).symlink_to(target)
    result = ocspd("json", "-bare", cwd=tmp_path, stdin=json.dumps({"cert": "C", "key": "K", "csr": "R"}))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"{link}: is a symbolic link to {target}: remove it, or name the file it points to\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([link, "real.pem"])
    assert (tmp_path / "real.pem").read_text() == "kept"


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cert.pem")
    result = ocspd("json", "-bare", cwd=tmp_path, stdin=json.dumps({"cert": "C"}))
    assert (result.returncode, result.stderr) == (1, "cert.pem: is not a regular file: choose another\n")


@pytest.mark.parametrize(
    ("words", "value", "hint"),
    [
        ([], {"cert": CERT}, "use -bare for the output of a command"),
        (["-bare"], api_response({"certificate": CERT}), "omit -bare for an API reply"),
        (["-bare"], {"status": 1}, "there is no known member"),
    ],
)
def test_the_wrong_mode_is_told(tmp_path: Path, words: list[str], value: object, hint: str) -> None:
    result = ocspd("json", *words, cwd=tmp_path, stdin=json.dumps(value))
    assert hint in result.stderr
    assert files(tmp_path) == {}


def test_typographic_quotes_are_called_by_their_name(tmp_path: Path) -> None:
    result = ocspd("json", "-bare", cwd=tmp_path, stdin='{\n \u201ccert\u201d: "A"}')
    assert result.returncode == 1
    assert result.stderr.startswith("Failed to parse input: typographic quote")
    assert "line 2" in result.stderr


def test_version_is_printed_by_its_flag() -> None:
    assert ocspd("json", "-version").stdout == ocspd("version").stdout
