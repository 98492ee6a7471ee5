"""The programs a supervisor starts; their one argument is the descriptor of their channel to it."""

from __future__ import annotations

import re
import socket
import sys
from importlib import import_module

_DESCRIPTOR = re.compile(r"[0-9]{1,9}", re.ASCII)


def run_child(module: str, function: str) -> int:
    """Run a coroutine function on the channel that the command line names; return the exit code.

    The module is imported only then: starting such a program by hand gives one line and exit code 2.
    """
    control = _channel(sys.argv[1:])
    if control is None:
        if sys.stderr is not None:
            sys.stderr.write(
                "this program is a part of ocspd ocspserve, which starts it with a channel: run "
                "ocspd ocspserve\n"
            )
        return 2
    from ocspd.cli.loop import run_uvloop  # noqa: PLC0415

    run_uvloop(getattr(import_module(module), function)(control))
    return 0


def _channel(arguments: list[str]) -> socket.socket | None:
    """Return the socket that the only argument names; None when there is no such stream between processes."""
    if len(arguments) != 1 or not _DESCRIPTOR.fullmatch(arguments[0]):
        return None
    try:
        control = socket.socket(fileno=int(arguments[0]))
    except OSError:
        return None
    if (control.family, control.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        control.detach()
        return None
    return control
