from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from ocspd.cli.main import _VERBS, find_verb, main
from ocspd.cli.verb import Verb
from ocspd.errors import Code, CodedError, OCSPDError, UsageError
from tests.binary import OCSPD, ocspd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocspd.cli.flags import Flags


def test_without_a_command_the_list_of_commands_is_shown_and_the_code_is_1() -> None:
    result = ocspd()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("No command is given.\n")
    assert all(f"\t{name}" in result.stderr for name in _VERBS)


def test_an_unknown_command_is_named_and_the_code_is_1() -> None:
    result = ocspd("frobnicate", "-h")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Command frobnicate is not defined.\n")


@pytest.mark.parametrize("words", [["version"], ["-version"], ["--version"]])
def test_version_has_two_lines(words: list[str]) -> None:
    result = ocspd(*words)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Version: ")
    assert lines[1] == f"Runtime: CPython {sys.version.split()[0]}"
    assert len(lines) == 2


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["help"]])
def test_help_without_a_command_is_the_list_with_code_0(words: list[str]) -> None:
    result = ocspd(*words)
    assert (result.returncode, result.stdout) == (0, "")
    assert "Available commands:" in result.stderr


@pytest.mark.parametrize("words", [["json", "-h"], ["json", "-bare", "--help"], ["help", "json"]])
def test_help_of_a_command_goes_to_stderr_with_code_0(words: list[str]) -> None:
    result = ocspd(*words)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("\tocspd json -- ")
    assert "\n  -bare=false: " in result.stderr
    assert "\n  -loglevel=1: Log level (0 = DEBUG, 5 = FATAL)\n" in result.stderr


def test_flags_before_the_command_are_refused_with_code_2() -> None:
    result = ocspd("-loglevel", "0", "version")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("flag provided but not defined: -loglevel\n")


def test_a_wrong_flag_gets_one_line_then_the_usage_with_code_2() -> None:
    result = ocspd("version", "-loglevel=high")
    assert (result.returncode, result.stdout) == (2, "")
    first, usage = result.stderr.split("\n", 1)
    assert first == 'invalid value "high" for flag -loglevel: parse error'
    assert usage.startswith("\tocspd version -- ")


def test_every_command_accepts_every_flag_of_the_global_table() -> None:
    assert ocspd("version", "-db-config", "x", "-initca", "-expiry=1h").returncode == 0


@pytest.mark.parametrize("name", sorted(_VERBS))
def test_every_listed_command_exists_and_its_help_can_be_shown(name: str) -> None:
    verb = find_verb(name)
    assert verb is not None
    assert verb.help().startswith(f"\tocspd {name}")
    assert verb.declared()


def test_the_list_of_commands_is_complete() -> None:
    modules = {module for module, _ in _VERBS.values()}
    defined = {
        verb.name for module in modules for verb in importlib.import_module(f"ocspd.cli.{module}").VERBS
    }
    assert defined == set(_VERBS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory"),
        ("{", "unexpected end of JSON input"),
        ("\u201csigning\u201d", "typographic quote"),
    ],
)
def test_a_config_file_that_cannot_be_loaded_stops_every_command(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    result = ocspd("version", "-config", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Failed to load config file: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


BUFFERING = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


def with_a_full_disk(*words: str, stream: str, unbuffered: str, cwd: Path) -> tuple[Any, ...]:
    streams: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with open("/dev/full", "wb") as full:  # noqa: PTH123  (a device, not a path to handle)
        streams[stream] = full.fileno()
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([*OCSPD, *words], check=False, env=environment, cwd=cwd, **streams)  # type: ignore[call-overload]
    return done.returncode, done.stdout, done.stderr


@BUFFERING
@pytest.mark.parametrize("words", [("version",), ("print-defaults", "csr"), ("demo", "-once")])
def test_a_full_disk_behind_standard_output_is_reported_once(
    words: tuple[str, ...], unbuffered: str, tmp_path: Path
) -> None:
    code, _, errors = with_a_full_disk(*words, stream="stdout", unbuffered=unbuffered, cwd=tmp_path)
    assert (code, errors) == (1, b"standard output: cannot write: No space left on device\n")


@BUFFERING
@pytest.mark.parametrize(("words", "code"), [(("nothing",), 1), (("version", "-nothing"), 2)])
def test_a_full_disk_behind_standard_error_does_not_change_the_exit_code(
    words: tuple[str, ...], code: int, unbuffered: str, tmp_path: Path
) -> None:
    done = with_a_full_disk(*words, stream="stderr", unbuffered=unbuffered, cwd=tmp_path)
    assert done == (code, b"", None)


def test_a_reader_that_went_away_ends_the_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*OCSPD, "version"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_standard_streams_are_no_reason_for_a_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&-', "sh", *OCSPD, "json"], stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    silent = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *OCSPD, "version"], check=False)
    assert silent.returncode == 1


def test_ctrl_c_ends_with_130_and_without_a_traceback() -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*OCSPD, "json"], stdin=reader, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    os.close(reader)
    deadline = time.monotonic() + 120
    # The process reads from the pipe once it sleeps in read(2).
    while time.monotonic() < deadline and process.poll() is None:
        with open(f"/proc/{process.pid}/wchan") as file:  # noqa: PTH123  (procfs)
            if "pipe" in file.read():
                break
        time.sleep(0.02)
    else:
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    os.close(writer)
    assert (process.returncode, errors) == (130, b"")


def run_as_verb(run: Callable[[], int | None], *words: str) -> int:
    """Run main() with a verb `version` that does what `run` does."""
    verb = Verb("version", "ocspd version -- test", (), lambda _flags, _words: run())
    return main(["version", *words], find=lambda _name: verb)


def fail(error: BaseException) -> Callable[[], int | None]:
    def run() -> int | None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OCSPDError("ca.pem: broken"), 1, "ca.pem: broken\n"),
        (CodedError(Code.KEY_MISMATCH, "a<b"), 1, '{"code":2300,"message":"a\\u003cb"}\n'),
        (ExceptionGroup("tasks", [OCSPDError("inner")]), 1, "inner\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_raised_on_purpose_is_its_text_and_its_code(
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    assert run_as_verb(fail(error)) == code
    assert capsys.readouterr().err == text


def test_a_usage_error_of_a_verb_shows_the_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_as_verb(fail(UsageError("need a name"))) == 2
    assert capsys.readouterr().err.startswith("need a name\n\tocspd version -- test\n")


def test_a_bug_is_called_a_bug_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_as_verb(fail(ZeroDivisionError("x\ny"))) == 1
    text = capsys.readouterr().err
    assert text.startswith("version: unexpected ZeroDivisionError: x y. This is a bug in ocspd")
    assert text.count("\n") == 1


def test_a_bug_shows_its_traceback_at_loglevel_0(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_as_verb(fail(ZeroDivisionError("x")), "-loglevel=0") == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_verb_may_be_a_coroutine() -> None:
    async def run(_flags: Flags, words: list[str]) -> int:
        return len(words)

    verb = Verb("version", "ocspd version -- t", (), run)
    assert main(["version", "a", "b"], find=lambda _name: verb) == 2


def test_starting_a_small_verb_imports_neither_the_web_server_nor_cryptography() -> None:
    program = "import sys; from ocspd.cli.main import main; main(['version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = ("aiohttp", "cryptography", "asyncio", "uvloop", "asyncpg", "rich", "obstore", "sqlite3")
    assert [name for name in heavy if f"'{name}'" in done.stdout] == []
