"""The chain survives what happens to files and processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ocspd.authority.audit import chain, reading
from ocspd.authority.audit.writer import open_key
from ocspd.errors import CodedError, OCSPDError
from tests.authority.audit.logs import checked, entries, entry, events, opened, serials, texts, written
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_an_entry_carries_its_number_and_the_digest_of_the_line_before(log: Path) -> None:
    file = opened(log)
    assert file.append([entry(1), entry(2)]) == [1, 2]
    assert file.append([entry(3)]) == [3]
    first, second, third = log.read_bytes().splitlines()
    assert json.loads(first)["prev"] == "0" * 64
    assert json.loads(second)["prev"] == chain.digest(first)
    assert json.loads(third) == {
        "n": 3,
        "prev": chain.digest(second),
        "time": "2026-11-26T12:00:03.000000Z",
        "event": "issue",
        "serial": "3",
        "aki": "ab12",
    }


def test_files_are_for_their_owner_only(log: Path) -> None:
    written(log, 3)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in log.parent.iterdir()}
    assert modes == {
        "audit.log": 0o600,
        "audit.log.key": 0o600,
        "audit.log.lock": 0o600,
        "audit.log.pub": 0o644,
        "audit.log.checkpoint": 0o644,
    }


def test_every_nth_entry_is_a_checkpoint_in_groups_of_any_size(log: Path) -> None:
    file = opened(log, every=10)
    numbers = []
    for size in (1, 9, 1, 25, 0, 4):
        numbers += file.append([entry(number) for number in range(size)])
    assert numbers == [number for number in range(1, 45) if number % 10]
    assert [each.number for each in entries(log) if each.event == "checkpoint"] == [10, 20, 30, 40]
    assert texts(checked(log)) == []


def test_the_last_entry_is_sealed_once(log: Path) -> None:
    file = opened(log)
    file.append([entry(1)], seal=True)
    file.append([], seal=True)
    assert file.is_sealed
    assert events(log) == ["issue", "checkpoint"]


def test_a_restart_continues_the_chain(log: Path) -> None:
    for start in (0, 20, 40):
        file = opened(log)
        file.append([entry(start + number) for number in range(5)])
        file.close()
    assert serials(log) == [*range(5), *range(20, 25), *range(40, 45)]
    assert texts(checked(log)) == []


@pytest.mark.parametrize(
    "torn",
    [b'{"n":6,"prev":"12', b"\0" * 700, b'{"n":6}\n', b"{", b"\0" * 300 + b"\n" + b'{"n":7', b"\xff\xfe"],
    ids=["half", "zeros", "cut inside", "one byte", "zeros and half", "bytes"],
)
def test_a_torn_last_line_is_named_and_kept_and_the_chain_goes_on(
    log: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    written(log, 4)
    with log.open("ab") as file:
        file.write(torn)
    assert checked(log).problems
    with caplog.at_level(logging.WARNING, "ocspd"):
        opened(log).append([entry(9)])
    kept = log.with_name("audit.log.torn-6")
    assert kept.read_bytes() == torn
    assert f"its {len(torn)} bytes were moved to {kept}" in caplog.text
    assert events(log)[-2:] == ["torn", "issue"]
    report = checked(log)
    assert texts(report) == []
    assert "audit.log.torn-6" in report.notes[0].text


def test_a_first_line_that_is_torn_is_kept_too(log: Path) -> None:
    log.write_bytes(b'{"n":1,"prev":"0000')
    opened(log).append([entry(1)])
    assert log.with_name("audit.log.torn-1").read_bytes() == b'{"n":1,"prev":"0000'
    assert events(log) == ["torn", "issue"]


def test_two_torn_lines_at_the_same_place_are_both_kept(log: Path) -> None:
    lines = written(log, 4)
    for torn in (b'{"n":6,"a', b'{"n":6,"b'):
        log.write_bytes(b"".join(lines) + torn)
        opened(log).append([entry(9)])
    kept = sorted(path.read_bytes() for path in log.parent.glob("audit.log.torn-6*"))
    assert kept == [b'{"n":6,"a', b'{"n":6,"b']


@pytest.mark.parametrize("content", [b"127.0.0.1 - - GET /\n", b"x" * (5 << 20), b'{"level":"info"}\n' * 3])
def test_another_file_is_not_taken_for_a_log(log: Path, content: bytes) -> None:
    log.write_bytes(content)
    with pytest.raises(OCSPDError, match="is not an audit log"):
        opened(log).append([entry(1)])
    assert log.read_bytes() == content


def test_a_symbolic_link_and_a_device_are_refused(log: Path) -> None:
    log.symlink_to("elsewhere")
    with pytest.raises(OCSPDError, match="not a regular file"):
        opened(log).append([entry(1)])
    log.unlink()
    os.mkfifo(log)
    with pytest.raises(OCSPDError, match="not a regular file"):
        opened(log).append([entry(1)])


# -- rotation ----------------------------------------------------------------------------------------


def test_rotation_by_size_keeps_the_chain(log: Path) -> None:
    file = opened(log, rotate_bytes=2000)
    for number in range(60):
        file.append([entry(number)])
    assert len(list(log.parent.glob("audit.log.0*"))) > 3
    assert serials(log) == list(range(60))
    report = checked(log)
    assert texts(report) == []
    assert report.files > 4


@pytest.mark.parametrize("create", [False, True], ids=["nocreate", "create"])
def test_a_rename_from_outside_keeps_the_chain(log: Path, *, create: bool) -> None:
    file, other = opened(log), opened(log)
    for number in range(6):
        (file, other)[number % 2].append([entry(number)])
        if number % 2:
            log.rename(log.with_name(f"audit.log.{number}"))
            if create:
                log.touch(0o600)
    file.append([entry(6)], seal=True)
    assert serials(log) == list(range(7))
    assert texts(checked(log)) == []


def test_a_copy_that_is_then_truncated_keeps_the_chain(log: Path) -> None:
    """Logrotate's copytruncate, the numbers of which continue in the same file."""
    file, other = opened(log), opened(log)
    file.append([entry(0), entry(1)])
    other.append([entry(2)])
    log.with_name("audit.log.1").write_bytes(log.read_bytes())
    os.truncate(log, 0)
    other.append([entry(3)])
    file.append([entry(4)], seal=True)
    assert serials(log) == list(range(5))
    assert texts(checked(log)) == []


def test_a_start_without_the_current_file_continues_after_the_newest_rotated_one(log: Path) -> None:
    for number in range(3):
        file = opened(log)
        file.append([entry(number)])
        file.close()
        log.rename(log.with_name(f"audit.log.{9 - number}"))
    with log.with_name("audit.log.7").open("ab") as rotated:
        rotated.write(b'{"n":4,')
    opened(log).append([entry(3)], seal=True)
    assert serials(log) == [0, 1, 2, 3]
    assert texts(checked(log)) == []


# -- what somebody removed ---------------------------------------------------------------------------


def test_a_start_with_a_log_that_was_cut_off_says_so_in_the_log(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = written(log, 25)
    log.write_bytes(b"".join(lines[:12]))
    with caplog.at_level(logging.ERROR, "ocspd"):
        opened(log).append([entry(99)], seal=True)
    assert "entries are missing: there was an entry 28" in caplog.text
    assert events(log)[12] == "gap"
    assert texts(checked(log)) == ["13: entries 13 to 28 are missing before this line"]


def test_a_start_without_any_file_of_the_log_says_so_in_the_log(log: Path) -> None:
    written(log, 25)
    log.unlink()
    opened(log).append([entry(99)], seal=True)
    assert entries(log)[0].number == 29
    assert texts(checked(log))[0].startswith("1: entries 1 to 28 are missing before this line")


def test_a_log_cut_off_while_it_is_open_says_so_in_the_log(log: Path) -> None:
    file = opened(log, every=100)
    file.append([entry(number) for number in range(8)])
    os.truncate(log, len(b"".join(log.read_bytes().splitlines(keepends=True)[:3])))
    file.append([entry(8)], seal=True)
    assert events(log)[3] == "gap"
    assert texts(checked(log)) == ["4: entries 4 to 8 are missing before this line"]


def test_a_checkpoint_of_another_key_beside_the_log_changes_nothing(log: Path) -> None:
    """Somebody who may write there cannot make the numbers jump."""
    written(log, 4)
    other = log.with_name("other")
    written(other, 500)
    reading.beside(log, reading.CHECKPOINT).write_bytes(other.with_name("other.checkpoint").read_bytes())
    opened(log).append([entry(5)], seal=True)
    assert events(log)[-2:] == ["issue", "checkpoint"]
    assert entries(log)[-1].number == 7


# -- keys --------------------------------------------------------------------------------------------


def test_the_key_is_made_once(log: Path) -> None:
    name = reading.beside(log, reading.KEY)
    first, second = open_key(name), open_key(name)
    assert first.check.name == second.check.name
    assert log.with_name("audit.log.pub").read_bytes() == first.check.pem()


def test_several_processes_that_start_at_once_have_one_key(log: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ocspd.authority.audit.writer import open_key\n"
        "sys.stdin.read(); print(open_key(Path(sys.argv[1])).check.name)"
    )
    command = [sys.executable, "-c", program, str(reading.beside(log, reading.KEY))]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()  # now
    names = set()
    for process in started:
        assert process.stdout is not None
        names.add(process.stdout.read().strip())
        process.stdout.close()
        assert process.wait(240) == 0
    assert len(names) == 1


def generated(algorithm: str) -> bytes:
    command = [need("openssl"), "genpkey", "-algorithm", algorithm]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_a_given_key_has_its_public_half_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "seal.pem"
    path.write_bytes(generated("ed25519"))
    assert (tmp_path / "seal.pem.pub").exists() is False
    check = open_key(path).check
    assert (tmp_path / "seal.pem.pub").read_bytes() == check.pem()


@pytest.mark.parametrize("algorithm", ["RSA", "X25519"])
def test_a_key_of_another_algorithm_is_refused_by_name(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "audit.key"
    path.write_bytes(generated(algorithm))
    with pytest.raises(CodedError, match=r"audit\.key: "):
        open_key(path)


# -- several processes -------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.authority.audit.logs import entry, opened
path, begin, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
file = opened(path, every=10, rotate_bytes=20_000)
number = begin
while number < begin + count:
    file.append([entry(number), entry(number + 1), entry(number + 2)])
    number += 3
    print(number, flush=True)
"""


def writer(log: Path, begin: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(log), str(begin), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_write_one_chain(log: Path) -> None:
    processes = [writer(log, begin * 1000, 150) for begin in range(4)]
    for process in processes:
        process.communicate(timeout=240)
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(serials(log)) == [begin * 1000 + number for begin in range(4) for number in range(150)]
    report = checked(log)
    assert texts(report) == []
    assert report.files > 1


def test_a_lock_file_that_is_removed_is_made_again_by_everybody(log: Path) -> None:
    file, other = opened(log), opened(log)
    for number in range(4):
        (file, other)[number % 2].append([entry(number)], seal=True)
        reading.beside(log, reading.LOCK).unlink()
    assert serials(log) == [0, 1, 2, 3]
    assert texts(checked(log)) == []
    file.append([entry(4)])
    assert reading.beside(log, reading.LOCK).exists()


def test_killed_processes_lose_nothing_that_was_confirmed(log: Path) -> None:
    confirmed: list[int] = []
    for turn in range(3):
        begin = 10_000 * turn
        with writer(log, begin, 9_000) as process:
            assert process.stdout is not None
            last = begin
            for line in process.stdout:
                last = int(line)
                if last >= begin + 30:
                    break
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split()
        confirmed += range(begin, int(rest[-1]) if rest else last)
    opened(log).append([entry(1_000_000)], seal=True)
    assert set(confirmed) <= set(serials(log))
    assert texts(checked(log)) == []
