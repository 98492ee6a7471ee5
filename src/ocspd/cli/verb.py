"""A command of ocspd: its name, usage text, flags, and function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass

from ocspd.cli.flags import Flag, Flags, parse, quote
from ocspd.cli.global_flags import GLOBAL_FLAGS
from ocspd.errors import OCSPDError, UsageError
from ocspd.shown import shown

Run = Callable[[Flags, list[str]], Awaitable[int | None] | int | None]
"""Takes the flags and the positional arguments; returns the exit code, None meaning 0."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command.

    `usage` is the text above the list of flags. `flags` is what that list shows, in this order: a string
    names a flag of the global table; a Flag is this verb's own, and replaces a global one of its name
    (another default, repeatable). A verb of CFSSL accepts every global flag whether listed or not.
    """

    name: str
    usage: str
    flags: tuple[str | Flag, ...]
    run: Run
    cfssl: bool = True
    """Whether CFSSL has this verb: if not, no script relies on flags without effect."""
    actions: tuple[Verb, ...] = ()
    """The actions the first argument chooses from, each with its own flags and help."""

    def declared(self) -> tuple[Flag, ...]:
        """Return every flag the verb accepts."""
        own = {flag.name: flag for flag in self._shown()}
        return tuple((GLOBAL_FLAGS | own if self.cfssl else own).values())

    def help(self, only: Container[str] | None = None) -> str:
        """Return the usage text with the list of flags, or of those in `only`; it ends in a newline."""
        flags = self._shown() if only is None else [flag for flag in self.declared() if flag.name in only]
        lines = "\n".join(flag.help_line() for flag in flags)
        return f"\t{self.usage.strip()}\n\nFlags:\n{lines}\n"

    def action(self, words: list[str]) -> Verb:
        """Return the action that a command line chooses, with or without flags before it.

        The verb itself if it has no actions, or help is requested first. UsageError when none is chosen.
        """
        if not self.actions:
            return self
        known = {each.name.removeprefix(f"{self.name} "): each for each in self.actions}
        if words and words[0] in known:
            return known[words[0]]
        every = [flag for each in (self, *self.actions) for flag in each.declared()]
        _, arguments = parse(words, every)
        if not arguments:
            raise UsageError(f"{self.name} requires one of {', '.join(known)}")
        if arguments[0] not in known:
            raise UsageError(
                f"{self.name} has no {quote(shown(arguments[0], 100))}: use one of {', '.join(known)}"
            )
        return known[arguments[0]]

    def _shown(self) -> list[Flag]:
        shown = [flag if isinstance(flag, Flag) else GLOBAL_FLAGS[flag] for flag in self.flags]
        if all(flag.name != "loglevel" for flag in shown):
            shown.append(GLOBAL_FLAGS["loglevel"])
        return shown


def no_more_arguments(arguments: list[str]) -> None:
    """Reject positional arguments that would be ignored."""
    if arguments:
        raise OCSPDError(f"unexpected argument {shown(arguments[0])!r}: did a flag lose its dash?")


def no_action(_flags: Flags, _arguments: list[str]) -> None:
    """Stand in as the `run` of a verb that only has actions."""
    raise AssertionError("an action is chosen before anything runs")
