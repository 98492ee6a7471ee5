"""The verb `version`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ocspd import __version__
from ocspd.cli.io import write_stdout
from ocspd.cli.verb import Verb

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags


_IMPLEMENTATIONS = {"cpython": "CPython", "pypy": "PyPy"}


def version_text() -> str:
    """Return CFSSL's two lines: the version and the runtime."""
    name = sys.implementation.name  # the module platform takes longer to import than this verb to run
    return f"Version: {__version__}\nRuntime: {_IMPLEMENTATIONS.get(name, name)} {sys.version.split()[0]}\n"


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
