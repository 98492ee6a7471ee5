"""The names CFSSL gives to key usages and extended key usages (RFC 5280 §4.2.1.3, §4.2.1.12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY_USAGES: dict[str, int] = {
    "signing": 0,
    "digital signature": 0,
    "content commitment": 1,
    "content committment": 1,  # as CFSSL 1.2.0 spells it
    "key encipherment": 2,
    "data encipherment": 3,
    "key agreement": 4,
    "cert sign": 5,
    "crl sign": 6,
    "encipher only": 7,
    "decipher only": 8,
}
"""Bit numbers of keyUsage by name."""

_KP = "1.3.6.1.5.5.7.3."

EXTENDED_KEY_USAGES: dict[str, str] = {
    "any": "2.5.29.37.0",
    "server auth": _KP + "1",
    "client auth": _KP + "2",
    "code signing": _KP + "3",
    "email protection": _KP + "4",
    "s/mime": _KP + "4",
    "ipsec end system": _KP + "5",
    "ipsec tunnel": _KP + "6",
    "ipsec user": _KP + "7",
    "timestamping": _KP + "8",
    "ocsp signing": _KP + "9",
    "microsoft sgc": "1.3.6.1.4.1.311.10.3.3",
    "netscape sgc": "2.16.840.1.113730.4.1",
}
"""Key purposes by name."""


@dataclass(frozen=True, slots=True)
class Usages:
    """The meaning of a list of names: keyUsage bits, purposes in list order, and the unknown names."""

    key_usage: int
    extended: tuple[str, ...]
    unknown: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.key_usage or self.extended)


def parse_usages(words: Iterable[str]) -> Usages:
    """Look names up, case-sensitively; purposes keep their order and duplicates, as in CFSSL."""
    bits = 0
    extended: list[str] = []
    unknown: list[str] = []
    for word in words:
        if word in KEY_USAGES:
            bits |= 1 << KEY_USAGES[word]
        elif word in EXTENDED_KEY_USAGES:
            extended.append(EXTENDED_KEY_USAGES[word])
        else:
            unknown.append(word)
    return Usages(bits, tuple(extended), tuple(unknown))
