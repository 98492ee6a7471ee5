"""What an operator names: files, and certificates and keys given as path, file: or env:.

Every failure is one line that names the file and what to do about it. cryptography is imported only where
a certificate or key is read.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ocspd.errors import Code, CodedError, ConfigError, OCSPDError
from ocspd.shown import HIDDEN, is_secret, shown
from ocspd.wire import JSONError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocspd.pki.certs import Certificate
    from ocspd.pki.keys import PrivateKey

PASSWORD_VARIABLE = "CFSSL_CA_PK_PASSWORD"  # noqa: S105  (the name of a variable, not a password)

MAX_INPUT_BYTES = 64 * 1024 * 1024
"""The limit for whatever is read whole: a device given by mistake does not fill the memory."""


class UnreadableError(OCSPDError):
    """A file that cannot be read; for some, CFSSL's error has a number (`unreadable_as`)."""


def read_file(path: str) -> bytes:
    """Return the content of a file; UnreadableError naming it and the remedy when it cannot be read."""
    if not path:
        raise UnreadableError("a file name is empty")
    try:
        with Path(path).open("rb") as file:
            return read_whole(file, path)
    except (OSError, ValueError) as err:
        raise UnreadableError(_explain(path, err)) from err


@contextmanager
def unreadable_as(code: Code, what: str = "") -> Iterator[None]:
    """Give the error about a file that cannot be read a number, and `what` before its text."""
    try:
        yield
    except UnreadableError as err:
        raise CodedError(code, f"{what}: {err}" if what else str(err)) from err


def read_whole(file: BinaryIO, name: str) -> bytes:
    """Return all of an open file; OSError, and OCSPDError beyond MAX_INPUT_BYTES."""
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


def tls_key_password() -> bytes:
    """Return the password for OpenSSL, which would prompt for it; ValueError without one."""
    found = key_password()
    if found is None:
        raise ValueError(f"the private key is encrypted: set {PASSWORD_VARIABLE} to its password")
    return found


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Prefix errors about the content of a file with its name."""
    shown = "standard input" if name == "-" else name
    try:
        yield
    except CodedError as err:
        raise CodedError(err.code, f"{shown}: {err.message}") from err
    except JSONError as err:
        raise ConfigError(f"{shown}: {err}") from err


def read_key(spec: str) -> PrivateKey:
    """Load a private key given as path, file: or env:; the password is in CFSSL_CA_PK_PASSWORD."""
    return parse_key(spec, read_key_material(spec))


def parse_key(spec: str, data: bytes) -> PrivateKey:
    """Load a private key that was read from spec."""
    from ocspd.pki.keys import WrongPasswordError, load_private_key  # noqa: PLC0415  (see the top)

    with naming(spec):
        try:
            return load_private_key(data, key_password())
        except WrongPasswordError as err:
            raise ConfigError(f"{spec}: {err} (the password is that in {PASSWORD_VARIABLE})") from err
        except CodedError as err:
            if err.code is Code.KEY_ENCRYPTED:
                remedy = f"{err.message} Set {PASSWORD_VARIABLE} to its password"
                raise CodedError(err.code, remedy) from err
            raise


def read_certificate(spec: str) -> Certificate:
    """Load a certificate given as path, file: or env:."""
    from ocspd.pki.certs import load_certificate  # noqa: PLC0415  (see the top)

    data = read_key_material(spec)
    with naming(spec):
        return load_certificate(data)
