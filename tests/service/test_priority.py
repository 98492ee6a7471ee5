from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
from pathlib import Path
from ocspd.service.priority import weigh_session_least
weigh_session_least()
print(Path("/proc/self/autogroup").read_text().split()[-1])
"""
HAS_AUTOGROUPS = Path("/proc/self/autogroup").exists()


def weight_of(*, leader: bool) -> int:
    """Return the nice value of a new program's session after it has asked for the least."""
    done = subprocess.run(
        [sys.executable, "-c", ASK], check=True, capture_output=True, text=True, start_new_session=leader
    )
    return int(done.stdout)


def own_weight() -> int:
    return int(Path("/proc/self/autogroup").read_text().split()[-1])


@pytest.mark.skipif(not HAS_AUTOGROUPS, reason="the kernel has no autogroups")
def test_a_service_gets_the_least_weight_and_a_shells_command_leaves_the_shell_alone() -> None:
    before = own_weight()
    assert weight_of(leader=True) == 19
    assert weight_of(leader=False) == before
    assert own_weight() == before
