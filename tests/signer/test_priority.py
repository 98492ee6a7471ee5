from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.signer.priority import weigh_session_least
from tests import sessions

if TYPE_CHECKING:
    import pytest

ASK = """
from ocspd.signer.priority import weigh_session_least
from tests.sessions import weight
weigh_session_least()
print(weight())
"""


ROOT = Path(__file__).parent.parent.parent


def weight_of(*, leader: bool) -> str:
    """Return the weight of a new program's session after it has asked for the least."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        check=True,
        capture_output=True,
        text=True,
        start_new_session=leader,
        cwd=ROOT,
    )
    return done.stdout.strip()


def test_a_service_gets_the_least_weight_and_a_shells_command_leaves_the_shell_alone() -> None:
    before = sessions.weight()
    assert weight_of(leader=True) in {"19", "None"}  # None where the kernel has no autogroups
    assert weight_of(leader=False) == str(before)
    assert sessions.weight() == before


def test_what_the_kernel_puts_off_is_to_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without privileges, one process every 0.1 s may do this: sched_autogroup in the kernel says EAGAIN."""
    answers: list[OSError] = [BlockingIOError(errno.EAGAIN, "later"), FileNotFoundError(errno.ENOENT, "none")]

    def write_text(path: Path, text: str, encoding: str) -> int:
        raise answers.pop(0)

    monkeypatch.setattr(os, "getsid", lambda _: os.getpid())
    monkeypatch.setattr(Path, "write_text", write_text)
    assert [weigh_session_least(), weigh_session_least()] == [False, True]
