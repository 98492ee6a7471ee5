from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.simulation.defects import DEFECTS, INCIDENTS
from tests.simulation.incidents import (
    deleted_during_passes,
    restored_and_killed,
    restored_while_the_disk_is_full,
)
from tests.simulation.world import simulate, without_trace

if TYPE_CHECKING:
    from tests.simulation.trouble import Trouble

SEEDS = 200
DETECTED_WITHIN = 60


def test_whatever_goes_wrong_nothing_is_good_after_its_revocation_lost_unreadable_or_older() -> None:
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        outcomes = pool.map(without_trace, range(SEEDS), chunksize=5)
    for outcome in outcomes:
        assert not outcome.violations, "\n".join(
            [
                *outcome.trace,
                *outcome.violations,
                f"again: python -m tests.simulation --seed {outcome.seed}",
            ]
        )
    assert sum(outcome.steps for outcome in outcomes) > 100 * SEEDS  # they did something


def test_the_same_seed_makes_the_same_run() -> None:
    traces = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "5"],
            env=os.environ | {"PYTHONHASHSEED": number},
            capture_output=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert b"published: generation 2" in traces[0]


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defective_part_is_found(name: str) -> None:
    run = partial(simulate, parts=DEFECTS[name])
    assert any(run(seed).violations for seed in range(DETECTED_WITHIN))


@pytest.mark.parametrize("name", INCIDENTS)
def test_a_defective_part_is_found_where_it_is_looked_for(name: str) -> None:
    parts, incident = INCIDENTS[name]
    assert any(simulate(seed, parts, incident).violations for seed in range(10))


@pytest.mark.parametrize(
    "incident", [restored_and_killed, restored_while_the_disk_is_full, deleted_during_passes]
)
def test_no_response_stays_wrong_after_an_incident(incident: Trouble) -> None:
    for seed in range(10):
        outcome = simulate(seed, trouble=incident)
        assert not outcome.violations, "\n".join([*outcome.trace, *outcome.violations])
