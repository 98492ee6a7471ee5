"""The verb `json`: CFSSL's cfssljson, which splits the JSON of other commands into files.

    member (the first present wins)      file                 mode
    cert, certificate                    BASE.pem             0664 less umask
    key, private_key                     BASE-key.pem         0600
    encrypted_key                        BASE-key.enc         0600
    csr, certificate_request             BASE.csr             0644 less umask
    result.bundle.{bundle,root}          BASE-bundle.pem, BASE-root.pem   0644 less umask
    ocspResponse (base64)                BASE-response.der    0644 less umask, decoded

Differences from cfssljson, on purpose: a key file that existed with a laxer mode ends as 0600; files
are replaced in one step; nothing is written through a symbolic link; a member that is not a string is an
error and not a panic; everything is decoded before the first file is written; if nothing is written, a
message on stderr says so.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocspd import wire
from ocspd.cli.flags import boolean, string
from ocspd.cli.io import read_input, write_stdout
from ocspd.cli.misc import version_text
from ocspd.cli.verb import Verb
from ocspd.errors import OCSPDError
from ocspd.files import check_output, write_atomic

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags

_KEY_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Output:
    """One file to write; `suffix` follows the base name."""

    suffix: str
    content: bytes
    mode: int
    binary: bool = False

    def printed(self) -> bytes:
        """Return the output of -stdout: the content, or base64 of it if it is binary."""
        return base64.b64encode(self.content) if self.binary else self.content


def outputs(members: dict[str, Any]) -> list[Output]:
    """Return the files to write for a JSON object, in cfssljson's order; OCSPDError for a bad member."""
    found = []
    if text := _text(members, "cert", "certificate"):
        found.append(Output(".pem", _utf8(text), 0o664))
    if text := _text(members, "key", "private_key"):
        found.append(Output("-key.pem", _utf8(text), _KEY_MODE))
    if "encrypted_key" in members:
        found.append(Output("-key.enc", _utf8(_text(members, "encrypted_key")), _KEY_MODE, binary=True))
    if text := _text(members, "csr", "certificate_request"):
        found.append(Output(".csr", _utf8(text), 0o644))
    found.extend(_bundle(members))
    if "ocspResponse" in members:
        der = _base64("ocspResponse", _text(members, "ocspResponse"))
        found.append(Output("-response.der", der, 0o644, binary=True))
    return found


def _text(members: dict[str, Any], *names: str) -> str:
    for name in names:
        if name in members:
            value = members[name]
            if not isinstance(value, str):
                raise OCSPDError(f'Failed to parse input: "{name}" is not a string')
            return value
    return ""


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _bundle(members: dict[str, Any]) -> list[Output]:
    result = members.get("result")
    bundle = result.get("bundle") if isinstance(result, dict) else None
    if not isinstance(bundle, dict):
        return []
    chain, root = bundle.get("bundle"), bundle.get("root")
    if not isinstance(chain, str):
        raise OCSPDError('inner bundle parsing failed! "result.bundle.bundle" is not a string')
    if not isinstance(root, str):
        raise OCSPDError('root parsing failed! "result.bundle.root" is not a string')
    return [
        Output("-bundle.pem", _utf8(f"{chain}\n{root}"), 0o644),
        Output("-root.pem", _utf8(root), 0o644),
    ]


_BASE64_TEXT = re.compile(r"[A-Za-z0-9+/\r\n]*")


def _base64(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", "").encode(), validate=True)
    except (binascii.Error, ValueError) as err:
        prefix = _BASE64_TEXT.match(text)
        position = prefix.end() if prefix else 0
        raise OCSPDError(f"Failed to parse {name}: illegal base64 data at input byte {position}") from err


def members_of(data: bytes, *, bare: bool) -> dict[str, Any]:
    """Return the JSON object that holds the members: the input itself, or the result of an API reply.

    OCSPDError when the input is not JSON, or is a reply that reports failure.
    """
    try:
        fields = wire.Fields(wire.loads(data), "map[string]interface {}" if bare else "Response")
        if bare:
            return fields.values()
        result = fields.mapping("result", "interface {}")
        success = fields.boolean("success")
        reasons = [item.string("message") for item in fields.items("errors", "ResponseMessage")]
    except wire.JSONError as err:
        raise OCSPDError(f"Failed to parse input: {err}") from err
    if success:
        return result or {}
    if fields.get("success") is None:
        reasons.append('the input has no "success": use -bare for the output of a command')
    raise OCSPDError("\n\t".join(["Request failed:", *reasons]))


def _write(path: Path, output: Output) -> None:
    mode = output.mode
    if mode != _KEY_MODE:
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:
            mode &= ~_umask()
    write_atomic(path, output.content, mode)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _json(flags: Flags, arguments: list[str]) -> int:
    if flags.boolean("version"):
        write_stdout(version_text())
        return 0
    try:
        data = read_input(flags.string("f"))
    except OCSPDError as err:
        raise OCSPDError(f"Failed to read input: {err}") from err
    members = members_of(data, bare=flags.boolean("bare"))
    base = arguments[0] if arguments else "cert"
    found = outputs(members)
    if not found:
        hint = "omit -bare for an API reply" if "success" in members else "there is no known member"
        sys.stderr.write(f"nothing to write: {hint}\n")
    if flags.boolean("stdout"):
        for output in found:
            write_stdout(output.printed() + b"\n")
        return 0
    paths = [Path(base + output.suffix) for output in found]
    for path in paths:
        check_output(path)  # all of them before the first is written
    for path, output in zip(paths, found, strict=True):
        _write(path, output)
    return 0


VERBS = (
    Verb(
        "json",
        "ocspd json -- split JSON with cert, csr and key members into files\n\n"
        "Usage of json:\n        ocspd json [-bare] [-f FILE] [-stdout] [BASENAME]\n\n"
        "Arguments:\n        BASENAME:   beginning of the file names (default: cert)",
        (
            boolean("bare", "the response from CFSSL is not wrapped in the API standard response"),
            string("f", "JSON input", "-"),
            boolean("stdout", "output the response instead of saving to a file"),
            boolean("version", "print version and exit"),
        ),
        _json,
        cfssl=False,
    ),
)
