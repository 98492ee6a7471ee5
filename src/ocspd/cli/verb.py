"""What a command of ocspd is: a name, a usage text, its flags, and the function that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ocspd.cli.flags import Flag, Flags
from ocspd.cli.global_flags import GLOBAL_FLAGS

Run = Callable[[Flags, list[str]], Awaitable[int | None] | int | None]
"""Takes the flags and the positional arguments; the exit code is what it returns, None meaning 0."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command.

    `usage` is the text above the list of flags. `flags` is what that list shows, in this order: a string
    names a flag of the global table; a Flag is this verb's own, and replaces a global one of its name
    (another default, repeatable). Every global flag is accepted whether listed or not.
    """

    name: str
    usage: str
    flags: tuple[str | Flag, ...]
    run: Run

    def declared(self) -> tuple[Flag, ...]:
        """Return every flag the verb accepts."""
        own = {flag.name: flag for flag in self.flags if isinstance(flag, Flag)}
        return tuple((GLOBAL_FLAGS | own).values())

    def help(self) -> str:
        """Return the usage text with the list of flags; it ends in a newline."""
        shown = [flag if isinstance(flag, Flag) else GLOBAL_FLAGS[flag] for flag in self.flags]
        if all(flag.name != "loglevel" for flag in shown):
            shown.append(GLOBAL_FLAGS["loglevel"])
        lines = "\n".join(flag.help_line() for flag in shown)
        return f"\t{self.usage.strip()}\n\nFlags:\n{lines}\n"
