"""The programs of workers and the examiner, started by hand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ocspd.cli import child

PROGRAMS = ("worker", "examiner")


def by_hand(*command: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        pass_fds=pass_fds,
    )


def assert_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "this program is a part of ocspd ocspserve, which starts it with a channel: run ocspd ocspserve\n"
    )


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "words", [(), ("0",), ("99",), ("-1",), ("x",), ("",), ("1" * 40,), ("3", "4"), ("\u0663",)]
)
def test_without_its_channel_a_child_ends_with_one_line(program: str, words: tuple[str, ...]) -> None:
    assert_one_line(by_hand("-m", f"ocspd.cli.{program}", *words))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_file_of_a_child_can_be_run_too(program: str) -> None:
    assert_one_line(by_hand(str(Path(child.__file__).with_name(f"{program}.py"))))


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_another_kind_of_socket_is_no_channel(program: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        number = other.fileno()
        assert_one_line(by_hand("-m", f"ocspd.cli.{program}", str(number), pass_fds=(number,)))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_pipe_is_no_channel(program: str) -> None:
    reader, writer = os.pipe()
    try:
        assert_one_line(by_hand("-m", f"ocspd.cli.{program}", str(reader), pass_fds=(reader,)))
    finally:
        os.close(reader)
        os.close(writer)
