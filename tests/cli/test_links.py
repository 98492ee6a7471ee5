from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ocspd.cli.main import _VERBS, main
from ocspd.cli.programs import CFSSL_VERBS, PROGRAMS
from tests.binary import OCSPD, ocspd

SCRIPT = Path(sys.executable).with_name("ocspd")


@pytest.fixture
def links(tmp_path: Path) -> Path:
    done = ocspd("links", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" -> ")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / name) for name in PROGRAMS
    ]
    return tmp_path


def start(
    program: Path, *words: str, stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *words], input=stdin, capture_output=True, text=True, check=False, timeout=180, cwd=cwd
    )


def test_the_links_are_the_programs_of_the_issue_and_lead_to_ocspd(links: Path) -> None:
    assert sorted(path.name for path in links.iterdir()) == [
        "cfssl",
        "cfssl-bundle",
        "cfssl-certinfo",
        "cfssl-newkey",
        "cfssl-scan",
        "cfssljson",
        "mkbundle",
        "multirootca",
    ]
    assert {(links / name).resolve() for name in PROGRAMS} == {SCRIPT.resolve()}


def test_as_cfssl_it_has_cfssls_verbs_and_exit_codes(links: Path) -> None:
    cfssl = links / "cfssl"
    made = start(cfssl, "gencert", "-initca", "-", stdin='{"CN":"x"}')
    assert made.returncode == 0
    assert sorted(json.loads(made.stdout)) == ["cert", "csr", "key"]
    for words, code, text in (
        ((), 1, "No command is given.\nUsage:\nAvailable commands:\n"),
        (("help",), 1, "Command help is not defined.\n"),
        (("db", "up"), 1, "Command db is not defined.\n"),
        (("json",), 1, "Command json is not defined.\n"),
        (("-version",), 2, "flag provided but not defined: -version\n"),
        (("-loglevel", "0", "sign"), 2, "flag provided but not defined: -loglevel\n"),
        (("-h",), 0, "Usage:\nAvailable commands:\n"),
        (("sign", "-nonsense"), 2, "flag provided but not defined: -nonsense\n"),
    ):
        done = start(cfssl, *words)
        assert (done.returncode, done.stdout) == (code, ""), words
        assert done.stderr.startswith(text), words
    assert "\tdb\n" not in start(cfssl).stderr
    assert start(cfssl, "version").stdout.startswith("Version: ")


def test_as_cfssljson_it_writes_the_files(links: Path, tmp_path: Path) -> None:
    made = start(links / "cfssl", "genkey", "-", stdin='{"CN":"x"}').stdout
    done = start(links / "cfssljson", "-bare", "leaf", "-", stdin=made, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "leaf.csr").exists()
    assert (tmp_path / "leaf-key.pem").stat().st_mode & 0o777 == 0o600
    assert start(links / "cfssljson", "-nonsense").returncode == 2
    assert start(links / "cfssljson", "-h").returncode == 0


def test_as_cfssl_newkey_it_has_two_flags_and_ends_with_0_after_an_error(links: Path) -> None:
    newkey = links / "cfssl-newkey"
    assert sorted(json.loads(start(newkey, "-", stdin='{"CN":"x"}').stdout)) == ["csr", "key"]
    made = start(newkey, "-initca", "-", stdin='{"CN":"x"}')
    assert sorted(json.loads(made.stdout)) == ["cert", "csr", "key"]
    failed = start(newkey, "nowhere.json")
    assert (failed.returncode, failed.stdout) == (0, "")
    assert "open nowhere.json: no such file" in failed.stderr
    for words in (("-loglevel", "0"), ("-ca", "x")):
        refused = start(newkey, *words, "-", stdin='{"CN":"x"}')
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"flag provided but not defined: {words[0]}\n")
        assert "\n  -initca=false: " in refused.stderr
    assert start(newkey, "-h").returncode == 0


def test_a_link_to_a_link_and_another_directory_in_path_work_too(links: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cfssl").symlink_to("../cfssl")
    assert start(tmp_path / "bin" / "cfssl", "help").returncode == 1
    (tmp_path / "bin" / "renamed").symlink_to("../cfssl")
    assert start(tmp_path / "bin" / "renamed", "help").returncode == 0  # no name of CFSSL's: ocspd


@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if program.verb])
def test_every_program_is_a_verb_or_says_that_it_is_not_there(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["-h"], name=f"/usr/bin/{name}")
    told = capsys.readouterr().err
    if PROGRAMS[name].verb in _VERBS:
        assert (code, "Flags:" in told) == (0, True)
        for flag in PROGRAMS[name].flags:
            assert f"\n  -{flag}=" in told
    else:
        assert (code, told) == (1, f"{name} is not part of this version of ocspd\n")


def test_the_verbs_of_cfssl_are_verbs_here() -> None:
    missing = set(CFSSL_VERBS) - set(_VERBS)
    assert not missing - {"bundle", "certinfo", "crl", "gencrl", "scan"}


def test_other_programs_are_not_replaced_without_force(tmp_path: Path) -> None:
    (tmp_path / "mkbundle").write_text("somebody's")
    done = ocspd("links", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{tmp_path}/mkbundle: exists and is not a link to ocspd; -force replaces it\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mkbundle"]
    assert ocspd("links", "-force", tmp_path).returncode == 0
    assert (tmp_path / "mkbundle").is_symlink()
    assert ocspd("links", tmp_path).returncode == 0  # they are ours now
    assert not list(tmp_path.glob(".*"))


def test_a_wrong_directory_is_named() -> None:
    for words, text in (
        ((), "give the directory for the links: ocspd links DIR\n"),
        (("nowhere",), "nowhere: no such directory; create it first\n"),
        (("/", "/tmp"), "unexpected argument"),
    ):
        done = ocspd("links", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(text)


def test_the_module_started_by_python_is_ocspd() -> None:
    assert OCSPD
    done = subprocess.run(
        [sys.executable, "-m", "ocspd", "help"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0
