"""The verb `links`: symbolic links to ocspd with the names of CFSSL's programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.cli.flags import boolean
from ocspd.cli.io import write_stdout
from ocspd.cli.programs import PROGRAMS
from ocspd.cli.verb import Verb, no_more_arguments
from ocspd.errors import OCSPDError
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags

_NAME = "ocspd"


def _program() -> Path:
    """Return the path of the program ocspd: the one that runs, or the one beside the interpreter."""
    for path in (Path(sys.argv[0]).absolute(), Path(sys.executable).with_name(_NAME)):
        if path.name == _NAME and os.access(path, os.X_OK) and path.is_file():
            return path
    raise OCSPDError(
        f"the program {_NAME} was not found beside {sys.executable}: install it, then run `{_NAME} links`"
    )


def _links(flags: Flags, arguments: list[str]) -> None:
    if not arguments:
        raise OCSPDError("give the directory for the links: ocspd links DIR")
    no_more_arguments(arguments[1:])
    directory = Path(arguments[0])
    if not directory.is_dir():
        raise OCSPDError(f"{shown(arguments[0])}: no such directory; create it first")
    program = _program()
    target = Path(_NAME) if directory.resolve() == program.parent.resolve() else program
    wanted = [directory / name for name in PROGRAMS]
    if not flags.boolean("force"):
        for link in wanted:
            if os.path.lexists(link) and not _is_ours(link, program):
                raise OCSPDError(f"{link}: exists and is not a link to {_NAME}; -force replaces it")
    for link in wanted:
        _make(link, target)
        write_stdout(f"{link} -> {target}\n")


def _is_ours(link: Path, program: Path) -> bool:
    return link.is_symlink() and link.resolve() == program.resolve()


def _make(link: Path, target: Path) -> None:
    """Make a link, in place of what has its name: at no time is there nothing of that name."""
    new = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        new.symlink_to(target)
        new.replace(link)
    except OSError as err:
        new.unlink(missing_ok=True)
        raise OCSPDError(f"{link}: cannot make a link: {(err.strerror or str(err)).lower()}") from err


VERBS = (
    Verb(
        "links",
        """ocspd links -- make links with the names of CFSSL's programs

Usage of links:
        ocspd links [-force] DIR

Arguments:
        DIR:        directory for the links, such as /usr/local/bin

Under the names """
        + ", ".join(PROGRAMS)
        + """
ocspd behaves as these programs, with their flags and exit codes.""",
        (boolean("force", "replace programs and links that are not ocspd's"),),
        _links,
        cfssl=False,
    ),
)
