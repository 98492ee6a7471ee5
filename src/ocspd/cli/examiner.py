"""The program of the process that checks index files, `python -m ocspd.cli.examiner DESCRIPTOR`."""

from __future__ import annotations

import sys

from ocspd.cli.child import run_child

if __name__ == "__main__":
    sys.exit(run_child("ocspd.responder.examiner", "run_examiner"))
