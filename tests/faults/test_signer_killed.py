"""S1: SIGKILL of the real signer at random moments, in the first pass, in merges and while it publishes.

    OCSPD_KILLS=100 pytest tests/faults/test_signer_killed.py

kills more often than the suite has time for.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from tests.binary import OCSPD, ocspd
from tests.faults.signer_binary import WAIT_S, Place

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("OCSPD_KILLS", "8"))
COUNT = 3_000


def test_S1_a_signer_that_is_killed_at_any_moment_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    choice = random.Random(11)
    place = Place(tmp_path)
    place.fill(COUNT, known=50)
    index = place.index
    index.create()
    revoked = 0
    with place.oracle.watching(index):
        for kill in range(KILLS):
            if kill:  # so that it has something to publish, whatever it did before it was killed
                place.revoke(1 + 50 * revoked)
                revoked += 1
            with (tmp_path / "log").open("ab") as log:
                signer = subprocess.Popen(
                    [*OCSPD, *place.words], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
                )
            before = index.manifest()
            deadline = time.monotonic() + WAIT_S
            if kill % 4:  # else while it starts
                while time.monotonic() < deadline and not (
                    index.manifest() != before or any(index.path.glob("*new-*"))
                ):
                    time.sleep(0.002)
            time.sleep(choice.uniform(0, 0.4))
            for _ in range(choice.randrange(4)):
                place.revoke(1 + 50 * revoked)
                revoked += 1
                time.sleep(choice.uniform(0, 0.1))
            os.killpg(signer.pid, signal.SIGKILL)
            signer.wait()
            if index.manifest() is not None:
                index.open()
        last = ocspd(*place.words, "-once", cwd=tmp_path)
        assert last.returncode == 0, last.stderr
    assert place.oracle.violations() == []
    assert place.oracle.unanswered() == []
    assert [path.name for path in index.path.iterdir() if "new-" in path.name] == []
    assert all(place.answer(serial) is not None for serial in range(1, COUNT + 1))
    verified = ocspd("index", "verify", "index", "-ca", "ca.pem", cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
