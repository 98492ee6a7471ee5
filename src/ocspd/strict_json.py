"""JSON that our programs wrote and others may have changed: read strictly, with every number bounded.

Rejected is what has no meaning in JSON (NaN, Infinity, duplicate keys, text that is not UTF-8) and what
Python would accept but other code fail on later: integers of thousands of digits, floats beyond the largest
one, nesting deeper than the interpreter allows, `true` in place of a number.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_MAX_DIGITS = 20
MAX_TIME_S = 253_402_300_799
"""The last second of the year 9999."""
MAX_COUNT = 1 << 53
"""The limit for generations and other counts: what a double, and so Prometheus, holds exactly."""


def read(data: bytes, limit: int) -> Any:
    """Return the value of a JSON text of at most `limit` bytes; ValueError with the reason otherwise."""
    if len(data) > limit:
        raise ValueError(f"longer than {limit} bytes")
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_members,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON from line {err.lineno}, column {err.colno} on") from None


def member(value: Any, name: str) -> Any:
    """Return a member of an object; ValueError when it is not an object or has no such member."""
    if not isinstance(value, dict):
        raise ValueError(f"not an object with the member {name}")  # noqa: TRY004  (one kind of error)
    if name not in value:
        raise ValueError(f"{name} is missing")
    return value[name]


def natural(value: Any, name: str, largest: int = MAX_COUNT) -> int:
    """Return an integer from 0 to `largest`; ValueError naming the member otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise ValueError(f"{name} is not a whole number from 0 to {largest}")
    return value


def moment(value: Any, name: str) -> float:
    """Return seconds since the epoch, up to the year 9999; ValueError naming the member otherwise."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_TIME_S:
        raise ValueError(f"{name} is not a time in seconds up to the year 9999")
    return float(value)


def array(value: Any, name: str, longest: int) -> list[Any]:
    """Return an array of at most `longest` elements; ValueError naming the member otherwise."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is not an array")  # noqa: TRY004  (one kind of error)
    if len(value) > longest:
        raise ValueError(f"{name} has {len(value)} elements, more than {longest}")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key in an object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value
