"""The verb `version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ocspd.cli.io import write_stdout
from ocspd.cli.verb import Verb

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags


def version_text() -> str:
    """Return CFSSL's two lines: the version, and what runs it."""
    try:
        number = version("ocspd")
    except PackageNotFoundError:  # run from a tree that was never installed
        number = "dev"
    return f"Version: {number}\nRuntime: {platform.python_implementation()} {platform.python_version()}\n"


def _version(_flags: Flags, _arguments: list[str]) -> int:
    write_stdout(version_text())
    return 0


VERBS = (
    Verb(
        "version",
        "ocspd version -- print out the version\n\nUsage of version:\n        ocspd version",
        (),
        _version,
    ),
)
