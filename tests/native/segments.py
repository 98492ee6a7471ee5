"""Segments taken apart by an independent reader of the layout in `_opening.pyx`, and damaged on purpose."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any, cast

HEADER = struct.Struct("<8sIIQqQQQQQQQQQQQQII")
TEMPLATE_SIZE = 184
ISSUER_SIZE = 136


@dataclass(frozen=True, kw_only=True)
class Header:
    magic: bytes
    version: int
    header_crc: int
    file_size: int
    created_at: int
    entries: int
    seed: int
    records_offset: int
    records_size: int
    slots_offset: int
    slot_pages: int
    issuers_offset: int
    issuer_count: int
    templates_offset: int
    template_count: int
    blobs_offset: int
    blobs_size: int
    tables_crc: int
    reserved: int


def read_header(data: bytes) -> Header:
    return Header(**dict(zip(Header.__annotations__, HEADER.unpack_from(data), strict=True)))


def with_header(data: bytes, **changes: int) -> bytes:
    """Change header fields; checksums are not corrected."""
    header = replace(read_header(data), **cast("dict[str, Any]", changes))
    return HEADER.pack(*(getattr(header, name) for name in Header.__annotations__)) + data[HEADER.size :]


def sealed(data: bytes) -> bytes:
    """Correct both checksums, as an attacker would."""
    header = read_header(data)
    tables = data[header.issuers_offset : header.blobs_offset + header.blobs_size]
    data = with_header(data, tables_crc=zlib.crc32(tables), header_crc=0)
    return with_header(data, header_crc=zlib.crc32(data[:4096]))


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]
