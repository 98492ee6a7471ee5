"""Make many runs, or one."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time

from tests.simulation.world import Outcome, simulate, without_trace


def _tell(outcome: Outcome) -> None:
    print(*outcome.trace, sep="\n")
    for violation in outcome.violations:
        print(f"seed {outcome.seed}: {violation}")
    if outcome.violations:
        print(f"again: python -m tests.simulation --seed {outcome.seed}")


def main() -> int:
    """Return 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="make this run only, and print its trace")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many runs to make (10000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--processes", type=int, default=None, help="how many at a time (one for each CPU)")
    options = parser.parse_args()
    if options.seed is not None:
        outcome = simulate(options.seed)
        _tell(outcome)
        return bool(outcome.violations)
    gc.freeze()
    begun = time.monotonic()
    failed, steps = [], 0
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for outcome in pool.imap_unordered(without_trace, seeds, chunksize=10):
            steps += outcome.steps
            if outcome.violations:
                failed.append(outcome.seed)
                if len(failed) == 1:
                    _tell(outcome)
                else:
                    print(f"seed {outcome.seed}: {outcome.violations[0]}", flush=True)
    took_s = time.monotonic() - begun
    print(
        f"{options.seeds} runs, {steps} steps on disks, in {took_s:.0f} s ({options.seeds / took_s:.1f} a "
        f"second): {len(failed)} found something"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
