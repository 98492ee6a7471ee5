"""Go's text forms that CFSSL's users see: JSON as encoding/json reads and writes it, and durations.

Reading (encoding/json into a struct): keys match in any case, unknown keys are ignored, null keeps the
default, a wrong type is an error that names the field. Of keys that differ only in case the last one counts,
and objects under them are merged. The same key twice in one object is rejected: Go takes the last one, other
readers the first, and what was checked must be what is used. Every reader here takes time linear in its
input. Writing: compact, `<`, `>`, `&` and the line separators escaped.
"""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any

from ocspd.errors import OCSPDError
from ocspd.files import UTF16_MARKS
from ocspd.shown import shown

API_PREFIX = "/api/v1/cfssl/"
"""Path of every endpoint of CFSSL's API."""
DEFAULT_PORT = 8888
"""The port of serve and of ocspserve, and of a remote without one."""
_MAX_DEPTH_TEXT = "exceeded max depth"
_CURLY_QUOTES = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"


_MAX_HINTS = 20

MAX_OBJECTS = 100_000
"""The most objects and lists in one text: creating and freeing more holds up every other thread."""


class JSONError(OCSPDError):
    """Text that is not the expected JSON; the message says where and why, in Go's words."""


class DurationError(OCSPDError):
    """Text that is not a Go duration."""


class DurationTooLongError(DurationError):
    """Text that would be one, were it not longer than MAX_DURATION."""


def dumps(value: Any) -> str:
    """Write a JSON value as Go's encoder does: compact, UTF-8, HTML-relevant characters escaped.

    Keys keep the order of the dict; CFSSL's map results are alphabetical, so sort those first.
    """
    return _escape(_COMPACT(value))


def dumps_indented(value: Any) -> str:
    """Write a JSON value as Go's MarshalIndent does with two spaces."""
    return _escape(json.dumps(value, indent=2, ensure_ascii=False))


_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _escape(text: str) -> str:
    for char in "<>&\u2028\u2029":
        if char in text:
            text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def loads(data: bytes | str) -> Any:
    """Read one JSON value; JSONError in Go's words, with a hint when the quotes are typographic.

    As in Go, bytes that are not UTF-8 and halves of surrogate pairs become U+FFFD. A number with more
    digits than any field can take is read as infinity, so it has a wrong type wherever it is used.
    More than MAX_OBJECTS brackets and braces are rejected.
    """
    if isinstance(data, bytes):
        if data[:2] in UTF16_MARKS:
            raise JSONError("the text is in UTF-16: save it as UTF-8")
        text = data.decode("utf-8", "replace")
    else:
        text = data
    if text[:1] == "\ufeff":
        raise JSONError("the text begins with a byte order mark: save it as UTF-8 without one")
    if not text.strip(" \t\r\n"):
        raise JSONError("unexpected end of JSON input")
    if text.count("{") + text.count("[") > MAX_OBJECTS:
        raise JSONError(f"more than {MAX_OBJECTS} objects and lists")
    if "\\ud" in text or "\\uD" in text:
        text = _ESCAPE.sub(_whole_characters, text)
    try:
        return _DECODE(text)
    except RecursionError:
        raise JSONError(_MAX_DEPTH_TEXT) from None
    except json.JSONDecodeError as err:
        raise JSONError(_describe(err, text)) from None


_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
_MAX_DIGITS = 1000


def _whole_characters(escape: re.Match[str]) -> str:
    """Replace the escape of half a surrogate pair, which has no UTF-8 form, and keep every other."""
    return escape[0] if escape[1] is None else "\\ufffd"


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; a duplicate key is rejected (see the module's docstring)."""
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JSONError(f"duplicate key {shown(key, 60)!r} in an object")
            seen.add(key)
    return members


def fold(key: str) -> str:
    """Return a key in the form in which Go compares it: two letters beyond ASCII are equal to k and s."""
    return key.lower().replace("\u017f", "s")


_known = lru_cache(512)(fold)
"""For the keys that are looked for, which are always the same."""


def _refuse_constant(name: str) -> Any:
    raise JSONError(f"invalid character {name[0]!r} looking for beginning of value")


_DECODE = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_integer, object_pairs_hook=_object
).decode

_WHERE = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after a value: a comma or the end of the list or object is missing",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
}
"""Go's texts in place of Python's."""


def _describe(err: json.JSONDecodeError, text: str) -> str:
    if err.pos < len(text) and text[err.pos] in _CURLY_QUOTES:
        return (
            f"typographic quote {text[err.pos]!r} in JSON at line {err.lineno}, column {err.colno}: "
            'replace it with a straight quote (")'
        )
    curly = min((at for char in _CURLY_QUOTES[:3] if (at := text.find(char)) >= 0), default=-1)
    if curly >= 0:
        line = text.count("\n", 0, curly) + 1
        return (
            f"invalid JSON at line {err.lineno}, column {err.colno}; line {line} has "
            'typographic quotes, which JSON does not allow: replace them with straight ones (")'
        )
    if err.pos >= len(text.rstrip()) or err.msg.startswith("Unterminated string"):
        return "unexpected end of JSON input"
    if err.msg.startswith("Extra data"):
        return f"invalid character {text[err.pos]!r} after top-level value (line {err.lineno})"
    where = next((words for begin, words in _WHERE.items() if err.msg.startswith(begin)), "in JSON")
    remark = ": this is PEM, not JSON" if text.startswith("-----BEGIN ") else ""
    return f"invalid character {text[err.pos]!r} {where} (line {err.lineno}, column {err.colno}){remark}"


def type_of(value: Any) -> str:
    """Return what Go's errors call the type of a JSON value."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


class Fields:
    """A JSON object read the way Go reads it into a struct.

    `struct` names the Go struct in error texts (`Go struct field STRUCT.key of type …`).
    """

    def __init__(self, value: Any, struct: str, *later: dict[str, Any]) -> None:
        """Read a value, which must be an object or null; the members of `later` ones count after its own."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise JSONError(f"json: cannot unmarshal {type_of(value)} into Go value of type {struct}")
        self._objects: tuple[dict[str, Any], ...] = (value, *later)
        self._folded: dict[str, list[tuple[str, Any]]] = {}
        for each in self._objects:
            for key, item in each.items():
                self._folded.setdefault(fold(key), []).append((key, item))
        self.struct = struct

    def get(self, key: str) -> Any:
        """Return the raw value of key, the last of several; None when absent or null."""
        found = self._every(key)
        return found[-1] if found else None

    def _every(self, key: str) -> list[Any]:
        """Return the values of key in any case that are not null, which in Go changes nothing."""
        found = self._folded.get(_known(key))
        return [] if found is None else [value for _, value in found if value is not None]

    def has(self, key: str) -> bool:
        """Return whether key is there, be it null."""
        return _known(key) in self._folded

    def values(self) -> dict[str, Any]:
        """Return all members by their exact keys."""
        first, *others = self._objects
        return {key: item for each in self._objects for key, item in each.items()} if others else first

    def without(self, *keys: str) -> Fields:
        """Return the same without the members that have exactly these keys."""
        first, *others = (
            {key: item for key, item in each.items() if key not in keys} for each in self._objects
        )
        return Fields(first, self.struct, *others)

    def unknown(self, *known: str) -> list[str]:
        """Return the keys that match none of `known`, for a warning."""
        folded = {fold(key) for key in known}
        return [key for key in self.values() if fold(key) not in folded]

    def repeated(self) -> list[str]:
        """Return for each key that occurs in several cases how it was written, for a warning."""
        spelled = (dict.fromkeys(key for key, _ in found) for found in self._folded.values())
        return [" and ".join(shown(key, 60) for key in keys) for keys in spelled if len(keys) > 1]

    def strangers(self, *known: str) -> list[str]:
        """Return the same keys fit for a message, each with the similar key that was probably meant.

        The search for those takes time: it ends after _MAX_HINTS keys.
        """
        import difflib  # noqa: PLC0415  (seldom needed)

        found = []
        folded = {fold(key): key for key in known}
        for number, key in enumerate(self.unknown(*known)):
            near = difflib.get_close_matches(fold(key[:60]), folded, 1) if number < _MAX_HINTS else ()
            found.append(f"{shown(key)} (did you mean {folded[near[0]]}?)" if near else shown(key))
        return found

    def _typed(self, key: str, kind: type | tuple[type, ...], go_type: str) -> Any:
        found = self._every(key)
        for value in found:
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise JSONError(
                    f"json: cannot unmarshal {type_of(value)} into Go struct field "
                    f"{self.struct}.{key} of type {go_type}"
                )
        return found[-1] if found else None

    def string(self, key: str, default: str = "") -> str:
        """Return a string field."""
        value: str | None = self._typed(key, str, "string")
        return default if value is None else value

    def integer(self, key: str, default: int = 0) -> int:
        """Return an integer field, which has 64 bits."""
        value: int | None = self._typed(key, int, "int")
        if value is not None and not -(1 << 63) <= value < 1 << 63:
            raise JSONError(
                f"json: cannot unmarshal number {value} into Go struct field {self.struct}.{key} of type int"
            )
        return default if value is None else value

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return a boolean field."""
        value: bool | None = self._typed(key, bool, "bool")
        return default if value is None else value

    def strings(self, key: str) -> list[str] | None:
        """Return a list of strings; None when absent or null (Go's nil slice)."""
        values: list[Any] | None = self._typed(key, list, "[]string")
        if values is None:
            return None
        for value in values:
            if value is not None and not isinstance(value, str):
                raise JSONError(
                    f"json: cannot unmarshal {type_of(value)} into Go struct field "
                    f"{self.struct}.{key} of type string"
                )
        return ["" if value is None else value for value in values]  # null leaves Go's zero value

    def items(self, key: str, struct: str) -> list[Fields]:
        """Return a list of objects; empty when absent or null."""
        values: list[Any] | None = self._typed(key, list, f"[]{struct}")
        return [Fields(value, struct) for value in values or []]

    def child(self, key: str, struct: str) -> Fields | None:
        """Return an object field; None when absent or null."""
        if self._typed(key, dict, struct) is None:
            return None
        first, *others = self._every(key)
        return Fields(first, struct, *others)

    def mapping(self, key: str, struct: str) -> dict[str, Any] | None:
        """Return a free-form map field by its exact keys; None when absent or null."""
        if self._typed(key, dict, f"map[string]{struct}") is None:
            return None
        return {name: value for each in self._every(key) for name, value in each.items()}


_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")
MAX_DURATION = timedelta(microseconds=((1 << 63) - 1) // 1000)
"""Go's longest duration: 292 years."""
_MAX_NS_DIGITS = 19  # as many as 1 << 63 has


def parse_duration(text: str) -> timedelta:
    """Read a Go duration such as `96h` or `1h30m`; DurationError in Go's words otherwise.

    Resolution is one microsecond (timedelta); Go's is one nanosecond.
    """
    bad = DurationError(f'time: invalid duration "{shown(text, 64)}"')
    too_long = DurationTooLongError(*bad.args)
    body = text[1:] if text[:1] in {"+", "-"} else text
    if body == "0":
        return timedelta()
    total = 0
    position = 0
    while position < len(body):
        term = _TERM.match(body, position)
        if term is None:
            if _NUMBER.fullmatch(body, position):
                raise DurationError(f'time: missing unit in duration "{shown(text, 64)}"')
            raise bad
        whole, fraction = term[1].lstrip("0"), (term[2] or "")[:_MAX_NS_DIGITS]
        if not (term[1] or term[2]):
            raise bad
        if len(whole) > _MAX_NS_DIGITS:
            raise too_long
        unit = _UNIT_NS[term[3]]
        total += int(whole or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        if total >= 1 << 63:
            raise too_long
        position = term.end()
    if position == 0:
        raise bad
    value = timedelta(microseconds=total // 1000)
    return -value if text.startswith("-") else value


def format_duration(value: timedelta) -> str:
    """Write a duration as Go's Duration.String does: `96h0m0s`, `1m30s`, `1.5s`, `0s`."""
    micros = value // timedelta(microseconds=1)
    if micros == 0:
        return "0s"
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    if micros < 1_000:
        return f"{sign}{micros}\u00b5s"
    if micros < 1_000_000:
        return f"{sign}{_trim(micros, 1_000)}ms"
    minutes, rest = divmod(micros, 60_000_000)
    seconds = f"{_trim(rest, 1_000_000)}s"
    if minutes == 0:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}h{minutes}m{seconds}" if hours else f"{sign}{minutes}m{seconds}"


def _trim(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    if part == 0:
        return str(whole)
    return f"{whole}.{part:0{len(str(unit)) - 1}d}".rstrip("0")
