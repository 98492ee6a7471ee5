"""The program of a worker process, `python -m ocspd.cli.worker DESCRIPTOR`; the supervisor starts it."""

from __future__ import annotations

import sys

from ocspd.cli.child import run_child

if __name__ == "__main__":
    sys.exit(run_child("ocspd.responder.worker", "run_worker"))
