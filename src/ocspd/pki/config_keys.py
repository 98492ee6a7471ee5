"""Which keys of a signing configuration count: Go's rules, and care for restrictions.

CFSSL ignores unknown keys, so a misspelt restriction is none, and it signs what it should not. Here a key
that resembles a restriction is rejected.
"""

from __future__ import annotations

import difflib
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.errors import Code, CodedError
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

_RESTRICTIONS = frozenset(
    {
        "CSRWhitelist",
        "csr_whitelist",
        "name_whitelist",
        "NameWhitelist",
        "auth_key",
        "prev_auth_key",
        "auth_remote",
        "remote",
        "not_after",
        "lint_error_level",
        "max_path_len",
        "max_path_len_zero",
        # what holds restrictions: without `default` there is the built-in profile, which anyone may use
        "default",
        "profiles",
        "access",
    }
)
"""Keys that keep a certificate from being signed, or limit it: one that is misspelt must not be ignored."""
_SIMILAR = 0.75
"""How similar to a restriction an unknown key is that is rejected (difflib's ratio)."""
GO_DURATIONS = ("Expiry", "Backdate")
"""Fields of Go's own beside `expiry` and `backdate`: in exactly this spelling they are nanoseconds."""
_GO_INTERNAL = ("Provider", "PrevProvider", "RemoteProvider")
"""Fields of Go's that no JSON can fill, so that CFSSL rejects them."""


def unknown_keys(fields: wire.Fields, *known: str) -> list[str]:
    """Return the keys that nothing reads, each with the similar key that was probably meant.

    CodedError 5200 for one that seems to be a restriction.
    """
    plain = {wire.fold(each): each for each in known}
    for key in fields.unknown(*known):
        text = wire.fold(key)[:60].replace("-", "_")
        for near in difflib.get_close_matches(text, plain, 1, _SIMILAR):
            if plain[near] in _RESTRICTIONS:
                raise CodedError(
                    Code.POLICY_INVALID, f"unknown key {shown(key, 60)}: did you mean {plain[near]}?"
                )
    return fields.strangers(*known)


def check_go_internal(profile: wire.Fields) -> None:
    """Reject a profile that fills what no JSON can; CodedError 5200."""
    for key in _GO_INTERNAL:
        if profile.get(key) is not None:
            raise CodedError(
                Code.POLICY_INVALID, f"{key} cannot be set in a configuration: use auth_key or auth_remote"
            )


def nanoseconds(profile: wire.Fields, key: str) -> timedelta:
    """Read one of GO_DURATIONS; CFSSL then replaces Expiry by `expiry`, which it requires."""
    value = profile.values().get(key)
    if value is None:
        return timedelta()
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise CodedError(
            Code.POLICY_INVALID,
            f"{key} is Go's field for nanoseconds: write {key.lower()} for a duration such as 8760h",
        )
    return timedelta(microseconds=value // 1000)


def repeated_keys(objects: Iterable[wire.Fields | None]) -> list[str]:
    """Return a remark for each key that occurs in several cases in one of the objects."""
    found = [keys for fields in objects if fields is not None for keys in fields.repeated()]
    return [f"{keys} are the same key: what comes last counts" for keys in found]
