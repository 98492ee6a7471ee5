"""What verbs read and write besides the files they are given: standard input and output, -config.

Every failure is one line that names the file and the remedy.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from ocspd import wire
from ocspd.errors import Code, ConfigError, OCSPDError
from ocspd.inputs import read_file, read_whole, unreadable_as

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags
    from ocspd.pki.profiles import SigningConfig


def read_input(name: str) -> bytes:
    """Return the content of a file, or of standard input for `-`."""
    return read_stdin() if name == "-" else read_file(name)


def read_stdin() -> bytes:
    """Return all of standard input."""
    if sys.stdin is None:
        raise OCSPDError("standard input is closed; give a file instead of -")
    try:
        return read_whole(sys.stdin.buffer, "standard input")
    except OSError as err:
        raise OCSPDError(f"standard input: cannot read: {err.strerror}") from err


def load_config(flags: Flags) -> SigningConfig | None:
    """Return the signing configuration that -config names, None without -config.

    cli/main.py loads it once before a verb runs, so a verb meets no new errors here.
    """
    path = flags.string("config")
    if not path:
        return None
    from ocspd.pki.config_json import parse_config  # noqa: PLC0415  (cryptography, only when needed)

    try:
        with unreadable_as(Code.POLICY_INVALID, "could not read configuration file"):
            data = read_file(path)
        return parse_config(data)
    except OCSPDError as err:
        raise ConfigError(f"Failed to load config file: {err}") from err


def write_stdout(data: bytes | str) -> None:
    """Write to standard output at once; OCSPDError when that fails, except if the reader has closed it.

    BrokenPipeError passes through: cli/main.py exits silently on it. After any other failure nothing more
    is written: the rest of the buffer would fail again and be reported twice.
    """
    if sys.stdout is None:
        raise OCSPDError("standard output is closed; redirect it to a file or a pipe")
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        discard(sys.stdout)
        raise OCSPDError(f"standard output: cannot write: {err.strerror}") from err


def discard(stream: TextIO | None) -> None:
    """Redirect a standard stream to nowhere, so that no later flush, even the interpreter's, fails again."""
    if stream is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def print_json(value: Any) -> None:
    """Write a JSON value as CFSSL does: compact, keys in the given order, one newline."""
    write_stdout(wire.dumps(value) + "\n")
