"""Generated requests, valid and slightly wrong: issued for or refused as Debian's cfssl does, field by field.

A longer run by hand: OCSPD_EXAMPLES=2000 python -m pytest tests/pki/test_csr_differential.py
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocspd.pki.der import oid, tlv
from tests.pki import encodings as e
from tests.pki.chain import make_key
from tests.pki.der import shape
from tests.pki.test_csr_reading import authority, cfssl_signs, we_sign

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["authority"]  # the fixture

EXAMPLES = int(os.environ.get("OCSPD_EXAMPLES", "60"))
TYPES = st.sampled_from([e.COMMON_NAME, e.COUNTRY, e.ORGANIZATION, e.UNIT, "2.5.4.5", "2.5.4.8", "2.5.4.7"])
TEXTS = st.text(st.sampled_from("abz09 *&.-'_@"), max_size=8).map(str.encode)
# T61String beyond ASCII and the types Go leaves out are differences that are listed
TAGS = st.sampled_from([e.UTF8, e.PRINTABLE, e.IA5, e.NUMERIC, e.T61, 2])
ATTRIBUTES = st.builds(e.attribute, TYPES, TEXTS, TAGS)
BMP = st.builds(lambda kind, text: e.attribute(kind, text.decode().encode("utf-16-be"), e.BMP), TYPES, TEXTS)
RDNS = st.lists(ATTRIBUTES | BMP, max_size=2).map(lambda found: e.set_of(*found))
SUBJECTS = st.lists(RDNS, max_size=3).map(lambda found: e.sequence(*found))
NAMES = st.tuples(
    st.sampled_from([0x81, 0x82, 0x82, 0x87, 0xA2, 0x88, 0x16]),
    st.text(st.sampled_from("ab.*_ -@"), max_size=10).map(str.encode)
    | st.binary(min_size=4, max_size=4)
    | st.binary(min_size=4, max_size=4).map(lambda octets: bytes(10) + b"\xff\xff" + octets),
).filter(lambda found: found[0] == 0x87 or all(32 <= octet != 127 for octet in found[1]))
BOOLEANS = st.sampled_from([b"", b"\x01\x01\xff", b"\x01\x01\x00", b"\x01\x01\x01"])
EXTENSIONS = st.one_of(
    st.lists(NAMES, max_size=3).map(lambda found: e.names(*found)),
    st.builds(e.extension, st.sampled_from(["1.2.3", "2.5.29.15"]), st.binary(max_size=4), BOOLEANS),
    st.builds(lambda ca: e.extension(e.BASIC_CONSTRAINTS, e.sequence(ca)), BOOLEANS),
)
WISHES = st.one_of(
    st.lists(EXTENSIONS, max_size=3).map(lambda found: e.requested(*found)),
    st.just(e.sequence(oid(e.EXTENSION_REQUEST), e.set_of())),
    st.just(e.sequence(oid(e.CHALLENGE), e.set_of(tlv(e.UTF8, b"pw")))),
    st.just(tlv(e.UTF8, b"x")),
)
KEYS = st.sampled_from(["ecdsa-256", "ecdsa-384", "ecdsa-224", "rsa-2048"]).map(make_key)
REQUESTS = st.builds(
    e.request,
    SUBJECTS,
    st.lists(WISHES, max_size=2).map(b"".join),
    key=KEYS,
    version=st.sampled_from([b"\0", b"\1", b"\2", b"\xff", b"\0\0"]),
    damage=st.sampled_from([False] * 9 + [True]),
)


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES == 60
)
@given(der=REQUESTS)
def test_a_request_is_decided_as_cfssl_decides_it_and_makes_the_same_certificate(
    authority: Path,
    der: bytes,
) -> None:
    code, text, ours = we_sign(der)
    their_code, theirs = cfssl_signs(authority, der)
    assert code == their_code, text
    if ours is not None and theirs is not None:
        assert shape(ours) == shape(theirs)
