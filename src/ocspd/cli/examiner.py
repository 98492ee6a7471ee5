"""The program of the process that looks into index files, `python -m ocspd.cli.examiner DESCRIPTOR`."""

from __future__ import annotations

import socket
import sys

from ocspd.cli.loop import run_uvloop
from ocspd.responder.examiner import run_examiner

if __name__ == "__main__":
    run_uvloop(run_examiner(socket.socket(fileno=int(sys.argv[1]))))
