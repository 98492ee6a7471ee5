"""The program of a worker process, `python -m ocspd.cli.worker DESCRIPTOR`; the supervisor starts it."""

from __future__ import annotations

import socket
import sys

from ocspd.cli.loop import run_uvloop
from ocspd.responder.worker import run_worker

if __name__ == "__main__":
    run_uvloop(run_worker(socket.socket(fileno=int(sys.argv[1]))))
