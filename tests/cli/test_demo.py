from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from ocspd.cli.demo_processes import Processes, fetch, free_port
from ocspd.errors import OCSPDError
from tests.binary import OCSPD, ocspd
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator


def verdicts(text: str) -> dict[str, str]:
    return dict(re.findall(r"^ +(alice|bob|carol|mallory) +(\w+)  ", text, re.MULTILINE))


EXPECTED = {"alice": "good", "bob": "revoked", "carol": "good", "mallory": "unauthorized"}


def processes_in(directory: Path) -> list[int]:
    """Return the processes whose working directory is this one."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == directory.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def gone(directory: Path) -> bool:
    deadline = time.monotonic() + 120
    while processes_in(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.timeout(200)
def test_the_demo_tells_its_story_twice_in_one_directory_and_leaves_no_process(tmp_path: Path) -> None:
    need("openssl")
    directory = tmp_path / "demo"
    for _ in range(2):
        result = ocspd("demo", "--once", "-directory", directory, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stderr == ""
        assert verdicts(result.stdout) == EXPECTED
        assert "openssl ocsp: revoked (superseded" in result.stdout
        assert gone(directory)
    assert {oct(path.stat().st_mode & 0o777) for path in directory.glob("*-key.pem")} == {"0o600"}


@pytest.mark.timeout(200)
def test_without_openssl_the_built_in_check_asks(tmp_path: Path) -> None:
    result = ocspd("demo", "-once", cwd=tmp_path, env={"PATH": str(tmp_path)})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "openssl is not installed here" in result.stdout
    assert "built-in check: revoked (superseded" in result.stdout
    assert verdicts(result.stdout) == EXPECTED


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A demo that has told its story and waits for Ctrl-C."""
    process = subprocess.Popen(
        [*OCSPD, "demo", "-directory", str(tmp_path / "demo")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Press Ctrl-C to stop"):
                break
        else:
            pytest.fail("".join(lines) + process.stderr.read())
        (tmp_path / "said").write_text("".join(lines))
        yield process, tmp_path / "demo"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_demo_is_ended_its_servers_end_with_it(
    staying: tuple[subprocess.Popen[str], Path], number: int
) -> None:
    process, directory = staying
    assert len(processes_in(directory)) >= 2
    process.send_signal(number)
    code = process.wait(120)
    assert code == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    assert gone(directory)


@pytest.mark.timeout(200)
def test_the_commands_to_copy_work_and_a_second_demo_keeps_out(
    staying: tuple[subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    _, directory = staying
    second = ocspd("demo", "-once", "-directory", directory)
    assert second.returncode == 1
    assert second.stderr == f"{directory}: another demo is running in it; stop it, or use -directory\n"
    said = (tmp_path / "said").read_text()
    commands = said[said.index("Try in another terminal:") :].partition("\n\n")[0].splitlines()[1:]
    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alice.pem: good" in done.stdout
    assert "alice.pem: revoked" in done.stdout
    assert '"success":true' in done.stdout
    assert "# TYPE ocspd_" in done.stdout


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = ocspd("demo", "-once", "-directory", tmp_path)
    assert result.returncode == 1
    assert (
        result.stderr
        == f"{tmp_path}: contains files that are not from a demo; choose another with -directory\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("below", ["file/demo", "file"])
def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    result = ocspd("demo", "-once", "-directory", tmp_path / below)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{tmp_path / below}: cannot be used for the demo: ")
    assert result.stderr.count("\n") == 1


def test_a_port_in_use_is_avoided() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = free_port(port)
        assert other != port
        assert free_port(other) == other


def test_two_demos_never_choose_the_same_port(tmp_path: Path) -> None:
    with Processes(tmp_path) as one:
        chosen = one.port(free_port(0))
        with Processes(tmp_path) as other:
            assert other.port(chosen) != chosen


def test_somebody_elses_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as foreign, Processes(tmp_path) as processes:
        Thread(target=foreign.serve_forever, daemon=True).start()
        port = foreign.server_port
        with pytest.raises(OCSPDError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            processes.server(["serve", "-port", str(port)], f"http://127.0.0.1:{port}/")
        foreign.shutdown()


def test_a_verb_that_fails_is_shown_with_its_complaint(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(OCSPDError) as caught:
        processes.verb(["json"], b"{}")
    assert str(caught.value).startswith("ocspd json\nexited with 1: Request failed:")


def test_a_server_that_does_not_stay_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(OCSPDError) as caught:
        processes.server(["json"], "http://127.0.0.1:9/")
    assert (
        str(caught.value) == "ocspd json exited with 1: Failed to parse input: unexpected end of JSON input"
    )
    assert gone(tmp_path)


def test_nobody_listening_is_an_error_that_names_the_url() -> None:
    with pytest.raises(OCSPDError, match=r"^http://127\.0\.0\.1:9/: no reply: "):
        fetch("http://127.0.0.1:9/")
