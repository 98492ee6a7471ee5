"""What verbs read and write: files, standard input and output, keys given as file: or env:.

Every failure is one line that names the file and the remedy.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from ocspd import wire
from ocspd.errors import ConfigError, OCSPDError
from ocspd.shown import HIDDEN, is_secret, shown

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags
    from ocspd.pki.profiles import SigningConfig

PASSWORD_VARIABLE = "CFSSL_CA_PK_PASSWORD"  # noqa: S105  (the name of a variable, not a password)

MAX_INPUT_BYTES = 64 * 1024 * 1024
"""The limit for whatever is read whole: a device given by mistake does not fill the memory."""


def read_file(path: str) -> bytes:
    """Return the content of a file; OCSPDError naming it and the remedy when it cannot be read."""
    if not path:
        raise OCSPDError("a file name is empty")
    try:
        with Path(path).open("rb") as file:
            return _read(file, path)
    except (OSError, ValueError) as err:
        raise OCSPDError(_explain(path, err)) from err


def _read(file: BinaryIO, name: str) -> bytes:
    data = file.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise OCSPDError(f"{name}: larger than {MAX_INPUT_BYTES >> 20} MiB; is this the right file?")
    return data


def _explain(path: str, err: OSError | ValueError) -> str:
    name = shown(path, 4096)
    match err:
        case FileNotFoundError():
            where = "" if Path(path).is_absolute() else f" (looked in {Path.cwd()})"
            return f"open {name}: no such file or directory{where}"
        case IsADirectoryError():
            return f"read {name}: is a directory; give a file in it"
        case PermissionError():
            return f"open {name}: permission denied for user id {os.geteuid()}; check owner and mode"
        case OSError(errno=errno.EISDIR | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ELOOP):
            return f"open {name}: {(err.strerror or '').lower()}"
        case OSError():
            return f"read {name}: {err.strerror or err}"
        case _:
            return f"open {name}: not a file name: {err}"


def read_input(name: str) -> bytes:
    """Return the content of a file, or of standard input for `-`."""
    return read_stdin() if name == "-" else read_file(name)


def read_stdin() -> bytes:
    """Return all of standard input."""
    if sys.stdin is None:
        raise OCSPDError("standard input is closed; give a file instead of -")
    try:
        return _read(sys.stdin.buffer, "standard input")
    except OSError as err:
        raise OCSPDError(f"standard input: cannot read: {err.strerror}") from err


def read_key_material(spec: str) -> bytes:
    """Return the bytes of a key or certificate given as `file:PATH`, `env:VARIABLE` or a plain path.

    A path with a colon requires `file:`. ConfigError for another prefix or a variable that is not set.
    """
    prefix, colon, rest = spec.partition(":")
    if not colon:
        return read_file(spec)
    if prefix == "file":
        return read_file(rest)
    if prefix == "env":
        value = os.environb.get(os.fsencode(rest))
        if value is None:
            raise ConfigError(f"env:{shown(rest)}: environment variable {shown(rest)} is not set")
        return value
    if is_secret(spec):
        raise ConfigError(f"{HIDDEN}: give a file name, file:PATH or env:VARIABLE, not the key itself")
    name = shown(spec)
    raise ConfigError(f"{name}: unknown prefix {shown(prefix)!r}; write file:{name} if this is a path")


def key_password() -> bytes | None:
    """Return the password of encrypted private keys, from CFSSL_CA_PK_PASSWORD, or None."""
    return os.environb.get(PASSWORD_VARIABLE.encode()) or None


def load_config(flags: Flags) -> SigningConfig | None:
    """Return the signing configuration that -config names, None without -config.

    cli/main.py loads it once before a verb runs, so a verb meets no new errors here.
    """
    path = flags.string("config")
    if not path:
        return None
    from ocspd.pki.config_json import parse_config  # noqa: PLC0415  (cryptography, only when needed)

    try:
        return parse_config(read_file(path))
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
