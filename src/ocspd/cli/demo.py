"""The verb `demo`: the whole workflow on one machine, with the commands a user would type.

Everything is in one directory, which a second run creates again. Servers are child processes that end with
us. Results are checked: anything unexpected is exit code 1, so `demo -once` is also a smoke test.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ocspd.cli.demo_processes import Processes
from ocspd.cli.demo_questions import openssl_words
from ocspd.cli.demo_story import Story, say
from ocspd.cli.flags import boolean, string
from ocspd.cli.verb import Verb
from ocspd.errors import OCSPDError, UsageError
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ocspd.cli.flags import Flags

_MARKER = ".ocspd-demo"


@contextlib.contextmanager
def _own_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory that no other demo uses; the files of an earlier demo are removed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        marker = path / _MARKER
        if not marker.exists() and any(path.iterdir()):
            raise OCSPDError(
                f"{path}: contains files that are not from a demo; choose another with -directory"
            )
        descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as err:
        raise OCSPDError(
            f"{path}: cannot be used for the demo: {err.strerror}; choose another with -directory"
        ) from err
    with contextlib.closing(os.fdopen(descriptor, "w")):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise OCSPDError(f"{path}: another demo is running in it; stop it, or use -directory") from err
        for entry in path.iterdir():
            if entry.name == _MARKER:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield path


def _demo(flags: Flags, arguments: list[str]) -> int:
    if arguments:
        raise UsageError(f"demo takes no arguments, but got {shown(arguments[0])!r}")
    directory = Path(flags.string("directory")).absolute()
    started = time.monotonic()
    with _terminating(), _own_directory(directory), Processes(directory) as processes:
        story = Story(directory, processes)
        say(f"A certificate authority with an OCSP responder, in {directory}")
        story.tell()
        say(f"\nDone in {time.monotonic() - started:.0f} s. Everything is as expected.")
        if not flags.boolean("once"):
            _stay(story, directory, processes)
    return 0


def _stay(story: Story, directory: Path, processes: Processes) -> None:
    program = "ocspd" if shutil.which("ocspd") else str(Path(sys.argv[0]).absolute())
    lines = (
        ["cd", str(directory)],
        ["openssl", *openssl_words("alice", story.responder), "-text"],
        [program, *story.revocation("alice", "superseded")],
        ["sleep", "1"],  # where all lines are pasted at once
        ["openssl", *openssl_words("alice", story.responder)],
        ["curl", "-s", "-d", "{}", f"{story.api}/info"],
        ["curl", "-s", story.metrics],
    )
    say(f"\nThe API listens on {story.api}, the responder on {story.responder}. Try in another terminal:")
    for words in lines:
        say("    " + shlex.join(words))
    with contextlib.suppress(KeyboardInterrupt):
        say("\nPress Ctrl-C to stop.")
        while True:
            processes.check()
            time.sleep(0.5)
    say("\nStopping the servers.")


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Handle SIGTERM and a closed terminal like Ctrl-C, so that the servers are stopped."""

    def interrupt(_signal_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {
        signal_number: signal.signal(signal_number, interrupt)
        for signal_number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)


VERBS = (
    Verb(
        "demo",
        "ocspd demo -- set up a CA with a responder in its own directory and check it with openssl\n\n"
        "Usage of demo:\n        ocspd demo [-once] [-directory DIR]",
        (
            boolean("once", "exit at the end instead of leaving the servers running"),
            string("directory", "directory for all files; an earlier demo in it is removed", "demo"),
        ),
        _demo,
        cfssl=False,
    ),
)
