"""Processes that do one kind of work for their parent, over a socket.

A message is its length, four bytes, and a pickle: both ends are ours. A process ends when its socket is
closed, and so does not outlive a parent that was killed.
"""

from __future__ import annotations

import multiprocessing
import pickle
import socket
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

from ocspd.errors import ProcessError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess

LENGTH = struct.Struct(">I")
"""What precedes a message: its length in bytes."""


def start(
    work: Callable[[socket.socket, Any], None], task: object, *, name: str, flag: str
) -> tuple[SpawnProcess, socket.socket]:
    """Start a process that calls `work` with its end of a socket and the task; return it and our end.

    `flag` sets how many there are; ProcessError names it when the system does not allow another one.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as err:
        raise _cannot_start(err, flag) from err
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(theirs, task), name=name, daemon=True
    )
    try:
        process.start()
    except OSError as err:
        ours.close()
        raise _cannot_start(err, flag) from err
    finally:
        theirs.close()
    return process, ours


def framed(message: object) -> tuple[bytes, bytes]:
    """Encode a message: its length and its bytes."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)), data


def read(file: BinaryIO) -> Any:
    """Read a message. EOFError when no further one is complete."""
    head = file.read(LENGTH.size)
    size = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
    data = file.read(size)
    if not size or len(data) < size:
        raise EOFError
    return pickle.loads(data)  # noqa: S301  (from our own process)


def _cannot_start(error: OSError, flag: str) -> ProcessError:
    return ProcessError(
        f"cannot start a signing process: {error.strerror}; use fewer {flag}, or raise the limits on "
        "processes and open files"
    )
