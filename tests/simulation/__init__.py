"""A whole signer, its database, store and readers in one event loop that decides about every effect.

    python -m tests.simulation --seeds 10000         seeds 0 to 9999, on every CPU
    python -m tests.simulation --seed 4711           one of them again, with its trace

The same seed makes the same run: time is the loop's (`loop`) and takes none, threads are calls at moments
that the seed chooses, and disk (`machine`), database (`database`), store (`store`) and signing processes
(`processes`) fail when the seed says so (`world`). `judge` knows what the rows said, looks at everything
that is published or served, and says what must never happen.
"""
