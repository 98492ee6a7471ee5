"""Splitting DER natively gives what the reader in Python gives, and reads nothing that is not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocspd.errors import DERError
from ocspd.pki import der_reader
from ocspd.pki._elements import sequence, split, tlv
from ocspd.pki.der_reader import Element


def outcome(content: bytes, *, native: bool) -> list[Element] | str:
    try:
        return split(content, Element) if native else list(der_reader.each(content))
    except DERError as err:
        return str(err)


def check(content: bytes) -> None:
    assert outcome(content, native=True) == outcome(content, native=False)


def encoded(tag: int, size: int, octets: int) -> bytes:
    """Encode an element with its length in so many octets, 0 for the short form."""
    if octets == 0:
        return bytes([tag, size & 0x7F]) + bytes(size)
    return bytes([tag, 0x80 | octets]) + (size & (1 << 8 * octets) - 1).to_bytes(octets, "big") + bytes(size)


heads = st.one_of(
    st.binary(max_size=8),
    st.tuples(
        st.integers(0, 255), st.sampled_from([0, 1, 126, 127, 128, 129, 255, 256, 70_000]), st.integers(0, 6)
    ).map(lambda parts: encoded(*parts)),
)


@given(st.lists(heads, max_size=4), st.integers(0, 6), st.binary(max_size=3))
def test_any_bytes_are_split_as_in_python(parts: list[bytes], cut: int, rest: bytes) -> None:
    whole = b"".join(parts) + rest
    check(whole)
    check(whole[: max(0, len(whole) - cut)])


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("octets", range(7))
def test_an_element_cut_at_every_byte_of_its_head_and_end(size: int, octets: int) -> None:
    whole = encoded(0x30, size, octets)
    for end in {*range(9), len(whole) - 1, len(whole)}:
        check(whole[: max(0, end)])
    check(whole + whole)


def test_the_largest_length_that_can_be_written_exceeds_any_container() -> None:
    assert outcome(b"\x30\x84\xff\xff\xff\xff" + bytes(10), native=True) == "an element exceeds its container"
    assert outcome(b"\x30\x85\x01\x00\x00\x00\x00", native=True) == "length above 4 GiB"


def test_something_else_than_bytes_is_refused() -> None:
    for content in (None, "text", bytearray(b"\x30\x00"), memoryview(b"\x30\x00"), 5):
        with pytest.raises(TypeError):
            split(content, Element)  # type: ignore[arg-type]


def joined(tag: int, parts: list[bytes]) -> bytes:
    """Encode by X.690 §10.1, in Python."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


@given(st.integers(0, 255), st.lists(st.binary(max_size=300), max_size=5))
def test_parts_are_joined_as_in_python(tag: int, parts: list[bytes]) -> None:
    assert tlv(tag, *parts) == joined(tag, parts)
    assert sequence(*parts) == joined(0x30, parts)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65_535, 65_536, 16_777_215, 16_777_216])
def test_lengths_grow_by_an_octet_where_they_must(size: int) -> None:
    whole = tlv(0x04, bytes(size // 2), bytes(size - size // 2))
    assert whole == joined(0x04, [bytes(size)])
    if size < 1 << 20:
        assert split(whole, Element) == [Element(0x04, bytes(size), whole)]


def test_only_bytes_and_octets_are_joined() -> None:
    for part in (None, "text", bytearray(b"x"), memoryview(b"x"), 5):
        with pytest.raises(TypeError):
            tlv(0x04, b"x", part)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            sequence(part)  # type: ignore[arg-type]
    for tag in (-1, 256, 1 << 40):
        with pytest.raises(OverflowError):
            tlv(tag, b"x")
