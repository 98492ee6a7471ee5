"""`python -m ocspd` is the command `ocspd`."""

from __future__ import annotations

import sys

from ocspd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
