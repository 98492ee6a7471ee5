from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocspd._index import Index
from ocspd._responder import COUNTER_BLOCK_BYTES, COUNTERS, Responder
from ocspd.errors import DERError
from tests.native.oracle import MALFORMED, Oracle, certid
from tests.native.pair import Service
from tests.native.strategies import (
    DERS,
    ETAGS,
    SPELLINGS,
    clean_requests,
    conditions,
    odd_requests,
    plain_fields,
    targets,
)
from tests.native.world import ENDLESS, GOOD, NOW_S, OVERDUE, authorities, open_index, stored
from tests.responder.raw_http import get, post

if TYPE_CHECKING:
    from collections.abc import Callable

ORACLE = Oracle(stored(), NOW_S)
CA = authorities()[0]


def make(path: str = "/", **options: int) -> Responder:
    responder = Responder(open_index(), path=path, **options)  # type: ignore[arg-type]
    responder.set_time(NOW_S)
    return responder


@settings(deadline=None, max_examples=400)
@given(
    der=st.sampled_from(DERS),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    version=st.sampled_from(["1.1", "1.0"]),
    fields=plain_fields,
    condition=st.none() | st.sampled_from(ETAGS) | st.sampled_from(["*"]),
    spell=st.sampled_from([SPELLINGS[form] for form in (0, 1, 2, 3, 4, 5, 7, 8, 11)]),
    close=st.booleans(),
)
def test_the_native_path_agrees_with_an_oracle_that_shares_no_code(
    der: bytes,
    method: str,
    version: str,
    *,
    fields: list[str],
    condition: str | None,
    spell: Callable[[str], str],
    close: bool,
) -> None:
    if condition is not None:
        fields = [
            *fields,
            f"If-None-Match: {condition if condition == '*' else chr(34) + condition + chr(34)}",
        ]
    if close:
        fields = [*fields, "Connection: close"]
    if method == "POST":
        data = post(der, *fields, version=version)
    else:
        data = get("/" + spell(base64.b64encode(der).decode()), *fields, version=version, method=method)
    if len(data) > 3_900 and method != "POST":
        return
    expected = ORACLE.respond(data, der=der)
    assert expected is not None
    assert make().respond(data) == expected


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(data=clean_requests() | odd_requests())
def test_what_the_oracle_can_answer_is_answered_like_that_or_left_to_aiohttp(data: bytes) -> None:
    said = make().respond(data)
    if said is None:
        return
    assert re.match(rb"HTTP/1\.[01] (200 OK|304 Not Modified|400 Bad Request)\r\n", said)
    body = data.partition(b"\r\n\r\n")[2]
    der = (
        body
        if data.startswith(b"POST")
        else next((der for der in DERS if base64.b64encode(der) in data), b"")
    )
    if der in DERS and b"Connection" not in data and data.count(b"If-None-Match") < 2:
        expected = ORACLE.respond(data, der=der)
        assert expected is None or b"W/" in data or said == expected


@settings(deadline=None, max_examples=500)
@given(
    der=st.binary(max_size=80)
    | st.sampled_from(DERS).flatmap(lambda der: st.integers(0, len(der)).map(lambda n: der[:n]))
)
def test_no_request_makes_the_responder_fail(der: bytes) -> None:
    reply = make().reply_to(der)
    assert reply.outcome in {"malformed", "good", "unknown_serial", "unknown_issuer", "revoked", "try_later"}
    assert (reply.http_status == 400) == (reply.outcome == "malformed") == (reply.body == MALFORMED)


@pytest.mark.parametrize("der", DERS)
def test_replies_below_http_agree_with_what_is_stored(der: bytes) -> None:
    reply = make().reply_to(der)
    found = {answer.key: answer.der for answer in stored()}.get(certid(der))
    if reply.cacheable:
        assert reply.body == found
    else:
        assert reply.outcome in {"unknown_serial", "unknown_issuer", "try_later"}
        assert (found is not None) == (reply.outcome == "try_later")


def test_every_octet_of_a_request_may_be_missing() -> None:
    whole = post(DERS[0])
    for end in range(len(whole)):
        assert make().respond(whole[:end]) is None
    assert make().respond(whole) is not None
    assert make().respond(whole + b"x") is None


def test_max_age_never_passes_next_update_nor_the_cap_and_is_spread() -> None:
    ages = set()
    for der in DERS:
        for offset in (0, 30, 59, 3_599, 3_600, 40 * 3600, 95 * 3600):
            responder = make()
            responder.set_time(NOW_S + offset)
            reply = responder.reply_to(der)
            if reply.cacheable and reply.next_update < 1 << 62:
                assert 0 < reply.max_age_s <= reply.next_update - NOW_S - offset
                ages.add(reply.max_age_s)
            capped = make(max_age_cap_s=20)
            capped.set_time(NOW_S + offset)
            assert capped.reply_to(der).max_age_s <= 20
    assert len(ages) > 20
    assert make().reply_to(CA.request(ENDLESS)).max_age_s == 0
    assert make().reply_to(CA.request(OVERDUE)).max_age_s == 60


def test_an_answer_is_served_until_its_next_update_and_not_a_second_longer() -> None:
    responder = make()
    responder.set_time(NOW_S + 96 * 3600 - 1)
    assert responder.reply_to(CA.request(GOOD)).outcome == "good"
    responder.set_time(NOW_S + 96 * 3600)
    assert responder.reply_to(CA.request(GOOD)).outcome == "try_later"


def test_a_new_index_counts_from_the_next_request() -> None:
    responder = make()
    assert responder.reply_to(CA.request(GOOD)).outcome == "good"
    responder.index = Index([])
    assert responder.reply_to(CA.request(GOOD)).outcome == "unknown_issuer"


@pytest.mark.parametrize("path", ["/ocsp", "/ocsp/", "ocsp", "/a/b"])
def test_a_path_is_a_prefix_of_whole_segments(path: str) -> None:
    prefix = "/" + path.strip("/")
    text = base64.b64encode(DERS[0]).decode()
    responder = make(path)
    expected = make().respond(get("/" + text))
    assert responder.respond(get(f"{prefix}/{text}")) == expected
    assert responder.respond(get(f"/{prefix}//{text}")) == expected
    assert responder.respond(get(prefix)) == make().respond(get("/"))
    assert responder.respond(post(DERS[0], path=prefix)) == make().respond(post(DERS[0]))
    for other in ("/" + text, prefix + text, "/", prefix[:-1] + "/" + text):
        assert responder.respond(get(other)) is None
        assert responder.respond(post(DERS[0], path=other)) is None


async def test_each_request_is_counted_once_with_its_hash() -> None:
    service = Service()
    for der in DERS:
        service.responder.respond(post(der))
    counts = service.counts()
    assert sum(value for name, value in counts.items() if name.startswith("requests_")) == len(DERS)
    assert sum(value for name, value in counts.items() if name.startswith("certid_")) == len(DERS)
    assert counts["request_nonce"] == 2
    service.responder.count("slow_method", 3)
    assert service.counts()["slow_method"] == 3
    with pytest.raises(KeyError):
        service.responder.count("nothing")


def test_counters_must_fit() -> None:
    assert len(COUNTERS) * 8 <= COUNTER_BLOCK_BYTES
    with pytest.raises(ValueError, match="counters need"):
        Responder(Index([]), counters=memoryview(bytearray(8)))
    with pytest.raises(BufferError):
        Responder(Index([]), counters=memoryview(bytes(COUNTER_BLOCK_BYTES)))


def test_times_without_an_http_date_are_refused() -> None:
    responder = make()
    with pytest.raises(ValueError, match="no HTTP date"):
        responder.set_time(1 << 60)
    assert responder.reply_to(CA.request(GOOD)).outcome == "good"


@settings(deadline=None, max_examples=300)
@given(target=targets, fields=st.lists(conditions, max_size=2))
def test_a_target_is_decoded_alike_for_get_and_head(target: str, fields: list[str]) -> None:
    by_get = make().respond(get(target, *fields))
    by_head = make().respond(get(target, *fields, method="HEAD"))
    assert by_get is None or by_head is None or by_get.startswith(by_head)


def test_the_oracle_itself_knows_every_stored_key() -> None:
    for answer in stored():
        name, _, _, serial = answer.key
        for authority in authorities():
            if answer.key[1:3] == authority.hashes(name):
                assert certid(authority.request(serial, name)) == answer.key
    with pytest.raises((DERError, IndexError, ValueError)):
        certid(b"\x30")
