"""Go's flag grammar, with flags and positional arguments in any order.

Rules, in the order they are applied to a word (package flag of Go; CFSSL's users write to it):

 1. after `--` (swallowed) every word is positional;
 2. a word that does not begin with `-`, and a lone `-`, is positional. Go stops looking for flags there;
    we continue, so that `gencert -initca csr.json -loglevel=0` means what it says;
 3. `-name` and `--name` are equal; a value follows after `=` or as the next word, whatever that begins
    with; a boolean takes `=` only;
 4. `-h` and `-help` ask for help, unless a flag of that name exists;
 5. the last occurrence wins, except for flags that may be repeated.

The texts of errors are Go's, but for the range of a number or duration, which Go's package has not: every
one has one here. Nothing here prints or exits: cli/main.py does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from ocspd.errors import RangeError, UsageError
from ocspd.shown import HIDDEN, is_secret, masked, shown
from ocspd.wire import (
    MAX_DURATION,
    DurationError,
    DurationTooLongError,
    format_duration,
    parse_duration,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ocspd.limits import Range

Value = str | bool | int | timedelta | tuple[str, ...]


class Kind(Enum):
    """The type of a flag's value."""

    STRING = "string"
    BOOLEAN = "bool"
    INTEGER = "int"
    DURATION = "duration"
    STRINGS = "strings"  # may be given several times; all are kept, in order


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: its name without dashes, its default, and the help line's text."""

    name: str
    kind: Kind
    default: Value
    help: str
    limits: Range[int] | Range[timedelta] | None = None
    """The range of an integer or a duration; None for other kinds."""
    cfssl: bool = False
    """Whether CFSSL has this flag, and so its text for a number that does not fit 64 bits."""

    def help_line(self) -> str:
        """Return the line of the usage text: two spaces, `-name=default: help`."""
        return f"  -{self.name}={_show(self.default)}: {self.help}"


def string(name: str, text: str, default: str = "") -> Flag:
    """Declare a flag that holds text."""
    return Flag(name, Kind.STRING, default, text)


def boolean(name: str, text: str, *, default: bool = False) -> Flag:
    """Declare a switch."""
    return Flag(name, Kind.BOOLEAN, default, text)


def integer(name: str, text: str, default: int = 0, *, limits: Range[int]) -> Flag:
    """Declare a flag that holds a whole number; see `ocspd.limits`."""
    return Flag(name, Kind.INTEGER, default, text, limits)


def duration(name: str, text: str, default: timedelta = timedelta(), *, limits: Range[timedelta]) -> Flag:
    """Declare a flag that holds a Go duration such as 96h or 1m30s."""
    return Flag(name, Kind.DURATION, default, text, limits)


def strings(name: str, text: str) -> Flag:
    """Declare a flag that may be repeated; every occurrence adds one text."""
    return Flag(name, Kind.STRINGS, (), text)


class HelpRequested(Exception):
    """The arguments request the usage text."""


class Flags:
    """The values of all flags of one command line; reading a flag that is not declared is a bug."""

    __slots__ = ("_declared", "_given")

    def __init__(self, declared: Iterable[Flag], given: dict[str, Value] | None = None) -> None:
        self._declared = {flag.name: flag for flag in declared}
        self._given = given or {}

    def _value(self, name: str, kind: Kind) -> Value:
        flag = self._declared[name]
        if flag.kind is not kind:
            raise TypeError(f"-{name} is declared as {flag.kind.value}, not {kind.value}")
        return self._given.get(name, flag.default)

    def string(self, name: str) -> str:
        """Return the text of a flag."""
        value = self._value(name, Kind.STRING)
        assert isinstance(value, str)
        return value

    def boolean(self, name: str) -> bool:
        """Return whether a switch is on."""
        value = self._value(name, Kind.BOOLEAN)
        assert isinstance(value, bool)
        return value

    def integer(self, name: str) -> int:
        """Return the number of a flag."""
        value = self._value(name, Kind.INTEGER)
        assert isinstance(value, int)
        return value

    def duration(self, name: str) -> timedelta:
        """Return the duration of a flag."""
        value = self._value(name, Kind.DURATION)
        assert isinstance(value, timedelta)
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """Return every occurrence of a flag, in order, whether or not it may be repeated."""
        if self._declared[name].kind is Kind.STRING:
            text = self.string(name)
            return (text,) if text else ()
        value = self._value(name, Kind.STRINGS)
        assert isinstance(value, tuple)
        return value

    def was_set(self, name: str) -> bool:
        """Return whether the command line has the flag, even with its default value."""
        return self._declared[name].name in self._given


def parse(words: Sequence[str], declared: Iterable[Flag]) -> tuple[Flags, list[str]]:
    """Split the words of a command line into flags and positional arguments.

    UsageError in Go's words for anything that cannot be understood, RangeError for a value out of its flag's
    range; HelpRequested for `-h`.
    """
    flags = {flag.name: flag for flag in declared}
    given: dict[str, Value] = {}
    positional: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            positional.extend(rest)
            break
        if len(word) < 2 or word[0] != "-":
            positional.append(word)
            continue
        body = word[2:] if word.startswith("--") else word[1:]
        if body[0] in "-=":
            raise UsageError(f"bad flag syntax: {shown(word)}")
        name, equals, text = body.partition("=")
        flag = flags.get(name)
        if flag is None:
            if name in {"h", "help"}:
                raise HelpRequested
            raise UsageError(f"flag provided but not defined: -{shown(name)}")
        if flag.kind is Kind.BOOLEAN:
            given[name] = _boolean(name, text) if equals else True
            continue
        if not equals:
            following = next(rest, None)
            if following is None:
                raise UsageError(f"flag needs an argument: -{name}")
            text = following
        given[name] = _convert(flag, text, given.get(name))
    return Flags(flags.values(), given), positional


def _convert(flag: Flag, text: str, previous: Value | None) -> Value:
    match flag.kind:
        case Kind.STRING:
            return text
        case Kind.STRINGS:
            return (*previous, text) if isinstance(previous, tuple) else (text,)
        case Kind.INTEGER:
            return _within(flag, text, _integer(flag, text))
        case _:
            try:
                value = parse_duration(text)
            except DurationError as err:
                if isinstance(err, DurationTooLongError) and not flag.cfssl:
                    value = MAX_DURATION
                else:
                    raise _invalid(flag.name, text, "parse error") from None
            return _within(flag, text, value)


_SHOWN_DIGITS = 60


def _within(flag: Flag, text: str, value: int | timedelta) -> Value:
    limits: Range[Any] | None = flag.limits
    assert limits is not None, f"-{flag.name} has no range"
    if value not in limits:
        secret = flag.kind is Kind.INTEGER and is_secret(text)  # a key may be a number in hexadecimal digits
        given = text if len(text) <= _SHOWN_DIGITS else f"{text[:_SHOWN_DIGITS]}..."
        given = HIDDEN if secret else quote(given)
        raise RangeError(f"invalid value {given} for flag -{flag.name}: use {limits}")
    return value


_BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)


def _boolean(name: str, text: str) -> bool:
    try:
        return _BOOLEANS[text]
    except KeyError:
        raise UsageError(f"invalid boolean value {quote(shown(text))} for -{name}: parse error") from None


# Go's integer literals: an underscore only between digits or after the prefix; a leading 0 is octal.
_LITERALS = (
    (re.compile(r"0[xX](?:_?[0-9a-fA-F])+"), 16),
    (re.compile(r"0[bB](?:_?[01])+"), 2),
    (re.compile(r"0[oO](?:_?[0-7])+"), 8),
    (re.compile(r"0(?:_?[0-7])*"), 8),
    (re.compile(r"[1-9](?:_?[0-9])*"), 10),
)


_MAX_DIGITS = 80
"""More are outside of every range, and reading them would meet Python's own limit of digits."""


def _integer(flag: Flag, text: str) -> int:
    body = text[1:] if text[:1] in {"+", "-"} else text
    form, base = next(((form, base) for form, base in _LITERALS if form.fullmatch(body)), (None, 0))
    if form is None:
        raise _invalid(flag.name, text, "parse error")
    digits = (body[2:] if body[1:2].isalpha() else body).replace("_", "").lstrip("0") or "0"
    value = int(digits[:_MAX_DIGITS], base) * (-1 if text[0] == "-" else 1)
    if flag.cfssl and not -(1 << 63) <= value < 1 << 63:
        raise _invalid(flag.name, text, "value out of range")
    return value


def _invalid(name: str, text: str, reason: str) -> UsageError:
    value = HIDDEN if is_secret(text) else quote(masked(text))
    return UsageError(f"invalid value {value} for flag -{name}: {reason}")


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r"} | {
    "\t": "\\t",
    "\v": "\\v",
}


def quote(text: str) -> str:
    """Quote text as Go's %q does."""
    return '"' + "".join(_quote_char(char) for char in text) + '"'


def _quote_char(char: str) -> str:
    code = ord(char)
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _show(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case timedelta():
            return format_duration(value)
        case "" | ():
            return '""'
        case _:
            return str(value)
