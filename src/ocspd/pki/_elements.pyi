from typing import TypeVar

_T = TypeVar("_T", bound=tuple[int, bytes, bytes])

def split(content: bytes, kind: type[_T]) -> list[_T]:
    """Return the elements that make up a content, each as `kind`; DERError as `der_reader.span`."""

def tlv(tag: int, /, *parts: bytes) -> bytes:
    """Encode one element whose content is the parts in order."""

def sequence(*parts: bytes) -> bytes:
    """Encode a SEQUENCE (or SEQUENCE OF) of encoded elements."""
