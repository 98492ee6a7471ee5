"""Requests that are an object of strings, as CFSSL reads those of `bundle` and `certinfo`.

Unlike in other requests, keys match in their exact case, and a value of another type is an error with the
status 500, in Go's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.authority.api.api_response import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_strings(body: bytes) -> dict[str, str]:
    """Return the members of an object of strings; JSONError when it is anything else."""
    value = wire.loads(body)
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = wire.type_of(value)
        raise wire.JSONError(f"json: cannot unmarshal {kind} into Go value of type map[string]string")
    for member in value.values():
        if not isinstance(member, str | None):
            kind = wire.type_of(member)
            raise wire.JSONError(f"json: cannot unmarshal {kind} into Go value of type string")
    return {key: member or "" for key, member in value.items()}


def require_one_of(fields: Mapping[str, str], *sets: tuple[str, ...]) -> None:
    """Raise BadRequest unless all members of one of some sets are there, with any value."""
    if not any(all(name in fields for name in each) for each in sets):
        raise BadRequest("no valid parameter sets found")
