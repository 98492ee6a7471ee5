from __future__ import annotations

import asyncio
import base64
import datetime as dt
import random
import struct
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache
from mmap import mmap
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ocspd._fastpath import Connections
from ocspd._index import Index, Segment
from ocspd._responder import Responder
from ocspd.clock import ManualClock
from ocspd.index._writer import SegmentWriter
from ocspd.metrics import COUNTER_BLOCK_BYTES, COUNTERS
from ocspd.responder.ocsp import MalformedError, OCSPServer, decode_path
from tests.native.answers import NOW, Authority
from tests.native.pair import serving_connections
from tests.responder.fake_responder import FakeResponder
from tests.responder.raw_http import Peer, RawReply, get, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

GOOD, REVOKED, EXPIRED, ABSENT = 1001, 1002, 1003, 1004
HIGH_BIT = (1 << 159) | 5
MALFORMED = bytes.fromhex("30030a0101")
UNAUTHORIZED = bytes.fromhex("30030a0106")
TRY_LATER = bytes.fromhex("30030a0103")
FULL = ["Content-Type", "Content-Length", "Cache-Control", "Last-Modified", "Expires", "ETag", "Date"]
ERROR = ["Content-Type", "Content-Length", "Cache-Control", "Date"]
EMPTY = ["Content-Length", "Cache-Control", "Date"]
CA = Authority()


def signed_answers() -> dict[int, bytes]:
    return {
        GOOD: CA.answer(GOOD),
        REVOKED: CA.answer(
            REVOKED, revoked_at=NOW - dt.timedelta(hours=1), reason=x509.ReasonFlags.key_compromise
        ),
        EXPIRED: CA.answer(
            EXPIRED, this_update=NOW - dt.timedelta(days=5), next_update=NOW - dt.timedelta(seconds=1)
        ),
        HIGH_BIT: CA.answer(HIGH_BIT),
    }


@dataclass
class Site:
    """A server on a port, its clock, what it answers from and what it counted."""

    port: int
    clock: ManualClock
    answers: dict[int, bytes]
    server: OCSPServer
    counted: Callable[[], dict[str, int]]
    tick: Callable[[int], None]
    drain: Callable[[], None]

    async def ask(self, data: bytes) -> RawReply:
        """Send one request on a connection of its own."""
        peer = await Peer.connect(self.port)
        try:
            return await peer.ask(data)
        finally:
            await peer.close()

    def advance(self, delta: dt.timedelta) -> None:
        self.clock.advance(delta)
        self.tick(int(self.clock.now().timestamp()))

    @property
    def counts(self) -> dict[str, int]:
        """What was counted, without zeros."""
        return {name: count for name, count in self.counted().items() if count}


class Start(Protocol):
    async def __call__(self, *, path: str = "/", answers: dict[int, bytes] | None = None) -> Site: ...


KINDS = ("aiohttp", "aiohttp and native responder", "native")
"""The slow path over a responder in Python, the slow path over the native one, all native."""


@pytest.fixture(params=KINDS)
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Start]:
    kind: str = request.param
    opened: list[OCSPServer] = []
    closing: list[Callable[[], None]] = []
    stack = AsyncExitStack()

    async def start(*, path: str = "/", answers: dict[int, bytes] | None = None) -> Site:
        clock = ManualClock(NOW + dt.timedelta(hours=1))
        answers = signed_answers() if answers is None else answers
        stored = [*answers.values(), CA.answer(GOOD, hash_name="sha256")]
        protocol: Callable[[], asyncio.BaseProtocol]
        connections: Connections | None = None
        drain: Callable[[], None] = lambda: None  # noqa: E731
        if kind == "aiohttp":
            fake = FakeResponder(stored, clock)
            protocol = server = OCSPServer(fake, clock=clock, path=path)
            counted: Callable[[], dict[str, int]] = lambda: fake.counts  # noqa: E731
            tick: Callable[[int], None] = lambda _: None  # noqa: E731
        else:
            block = mmap(-1, COUNTER_BLOCK_BYTES)
            responder = Responder(index_of(tmp_path, stored), path=path, counters=block)
            protocol = server = OCSPServer(responder, clock=clock, path=path)
            tick = responder.set_time
            if kind == "native":
                connections = Connections(responder, slow_factory=server)
                tick, drain = connections.tick, connections.drain
            tick(int(clock.now().timestamp()))
            read = struct.Struct(f"={len(COUNTERS)}Q").unpack_from
            counted = lambda: dict(zip(COUNTERS, read(block), strict=True))  # noqa: E731
        if connections is None:
            listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
            port = listener.sockets[0].getsockname()[1]
            closing.append(listener.close)
        else:
            port = await stack.enter_async_context(serving_connections(connections))
        opened.append(server)
        return Site(port, clock, answers, server, counted, tick, drain)

    yield start
    while Peer.opened:
        await Peer.opened.pop().close()
    for close in closing:
        close()
    await stack.aclose()
    for server in opened:
        await server.shutdown(0.1)


def index_of(directory: Path, answers: Iterable[bytes]) -> Index:
    path = str(directory / "answers.seg")
    with SegmentWriter(path, created_at=0) as writer:
        for answer in answers:
            writer.add(answer)
        writer.finish()
    return Index([Segment(path)])


@pytest.fixture
async def site(start: Start) -> Site:
    return await start()


@pytest.fixture
async def prefixed_site(start: Start) -> Site:
    return await start(path="/ocsp/")


def path_of(serial: int, hash_name: str = "sha1") -> str:
    return "/" + base64.b64encode(CA.request(serial, hash_name)).decode()


@cache
def serial_with(*parts: str) -> int:
    """Find a serial whose request has each of these texts in its base64."""
    numbers = random.Random(6960)
    while True:
        serial = numbers.getrandbits(numbers.choice((47, 55, 63)))
        if all(part in path_of(serial)[1:] for part in parts):
            return serial


def assert_answer(reply: RawReply, der: bytes) -> None:
    assert reply.status_line.endswith(" 200 OK")
    assert [name for name in reply.names if name != "Connection"] == FULL
    assert reply.body == der


def assert_malformed(reply: RawReply) -> None:
    assert reply.status_line.endswith(" 400 Bad Request")
    assert [name for name in reply.names if name != "Connection"] == ERROR
    assert reply["Cache-Control"] == "max-age=0, no-cache"
    assert reply.body == MALFORMED


# HTTP behaviour every client relies on


async def test_H01_http_1_0_get_without_host_is_answered_and_closed(site: Site) -> None:
    peer = await Peer.connect(site.port)
    reply = await peer.ask(get(path_of(GOOD), version="1.0"))
    assert reply.status_line == "HTTP/1.0 200 OK"
    assert "Connection" not in reply
    assert reply["Content-Length"] == str(len(site.answers[GOOD]))
    assert reply.body == site.answers[GOOD]
    assert await peer.ended()


async def test_H01_http_1_0_keep_alive_is_granted_when_asked_for(site: Site) -> None:
    peer = await Peer.connect(site.port)
    for _ in range(2):
        reply = await peer.ask(get(path_of(GOOD), "Connection: keep-alive", version="1.0"))
        assert_answer(reply, site.answers[GOOD])
        assert reply.fields[-1] == ("Connection", "keep-alive")


@pytest.mark.parametrize("serial", [GOOD, REVOKED, EXPIRED, ABSENT])
async def test_H02_content_type_is_exact(site: Site, serial: int) -> None:
    assert (await site.ask(get(path_of(serial))))["Content-Type"] == "application/ocsp-response"


async def test_H03_an_answer_with_certificate_fits_into_nginx_buffers(site: Site) -> None:
    peer = await Peer.connect(site.port)
    await peer.send(get(path_of(GOOD), "Connection: close"))
    assert len(await peer.reader.read()) < 16_384


async def test_H04_a_get_path_of_a_kilobyte_is_answered(site: Site) -> None:
    builder = CA.request_builder(GOOD).add_extension(x509.OCSPNonce(b"n" * 600), critical=False)
    path = "/" + base64.b64encode(builder.build().public_bytes(Encoding.DER)).decode()
    assert len(path) > 900
    assert_answer(await site.ask(get(path)), site.answers[GOOD])


H05_FORMS: dict[str, Callable[[str], str]] = {
    "raw": lambda text: text,
    "escaped_upper": lambda text: quote(text, safe=""),
    "escaped_lower": lambda text: quote(text, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
    "every_octet_escaped": lambda text: "".join(f"%{ord(char):02X}" for char in text),
    "no_padding": lambda text: text.rstrip("="),
    "escaped_no_padding": lambda text: quote(text.rstrip("="), safe=""),
    "too_much_padding": lambda text: text + "==",
    "one_extra_slash": lambda text: "/" + text,
    "many_extra_slashes": lambda text: "///" + text,
    "escaped_extra_slash": lambda text: "%2F" + text,
    "url_safe_alphabet": lambda text: text.replace("+", "-").replace("/", "_"),
    "space_as_plus": lambda text: text.replace("+", "%20"),
    "double_escaped": lambda text: quote(quote(text, safe=""), safe=""),
    "line_breaks": lambda text: "%0D%0A".join(text[i : i + 64] for i in range(0, len(text), 64)),
    "query": lambda text: text + "?cache=no&a=%zz",
}


@pytest.mark.parametrize("form", H05_FORMS)
async def test_H05_get_takes_every_spelling_of_the_base64(start: Start, form: str) -> None:
    serial = serial_with("+", "/", "=")
    answers = {serial: CA.answer(serial)}
    site = await start(answers=answers)
    text = path_of(serial)[1:]
    assert_answer(await site.ask(get("/" + H05_FORMS[form](text))), answers[serial])


async def test_H05_two_slashes_inside_the_base64_are_never_collapsed(start: Start) -> None:
    serial = serial_with("//")
    answers = {serial: CA.answer(serial)}
    site = await start(answers=answers)
    assert_answer(await site.ask(get(path_of(serial))), answers[serial])


@pytest.mark.parametrize(
    "path",
    ["/%", "/%4", "/%zz", "/MEIw!", "/MEI\tw", "/a", "/MEI=wQDA", "/..", "/MEIw#x", "/\xff", "/%25%34"],
)
async def test_H05_what_is_no_base64_is_malformed(site: Site, path: str) -> None:
    reply = await site.ask(get(path))
    assert reply.status == 400
    assert reply.body == MALFORMED
    assert reply["Cache-Control"] == "max-age=0, no-cache"


def test_H05_decoding_is_strict_after_its_tolerances() -> None:
    assert decode_path("") == decode_path("///") == decode_path("%2F") == b""
    assert decode_path("MAMBAf8") == bytes.fromhex("30030101ff")
    for path in ("MAMBAf8*", "MA==BAf8", "MAMBAf8%00", "MAMBA", "%2525254D"):
        with pytest.raises(MalformedError):
            decode_path(path)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Content-Type: application/ocsp-request",),
        ("Content-Type: application/ocsp-request; charset=UTF-8",),
        ("Content-Type: text/plain",),
        ("Content-Type: ",),
    ],
)
async def test_H06_post_takes_any_content_type_or_none(site: Site, fields: tuple[str, ...]) -> None:
    assert_answer(await site.ask(post(CA.request(GOOD), *fields)), site.answers[GOOD])


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_H06_chunked_bodies_are_taken(site: Site, size: int) -> None:
    body = CA.request(GOOD)
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    reply = await site.ask(get("/", "Transfer-Encoding: chunked", method="POST") + data)
    assert_answer(reply, site.answers[GOOD])


async def test_H06_expect_100_continue_is_answered_before_the_body(site: Site) -> None:
    peer = await Peer.connect(site.port)
    body = CA.request(GOOD)
    whole = post(body, "Expect: 100-continue")
    await peer.send(whole[: -len(body)])
    interim = await peer.read()
    assert (interim.status_line, interim.fields) == ("HTTP/1.1 100 Continue", ())
    await peer.send(body)
    assert_answer(await peer.read(), site.answers[GOOD])


async def test_H06_an_unknown_expectation_fails(site: Site) -> None:
    peer = await Peer.connect(site.port)
    reply = await peer.ask(post(CA.request(GOOD), "Expect: a-miracle"))
    assert reply.status_line == "HTTP/1.1 417 Expectation Failed"
    assert reply.names == [*EMPTY, "Connection"]


async def test_H06_a_body_of_10_000_octets_is_read_and_one_more_is_refused(site: Site) -> None:
    assert_malformed(await site.ask(post(bytes(10_000))))
    peer = await Peer.connect(site.port)
    await peer.send(post(bytes(10_001))[:200])  # the length is enough to refuse
    reply = await peer.read()
    assert reply.status_line == "HTTP/1.1 413 Content Too Large"
    assert reply.names == [*EMPTY, "Connection"]
    assert reply["Connection"] == "close"


async def test_H06_a_chunked_body_over_the_limit_is_refused(site: Site) -> None:
    peer = await Peer.connect(site.port)
    await peer.send(get("/", "Transfer-Encoding: chunked", method="POST"))
    for _ in range(11):
        await peer.send(b"3e8\r\n" + bytes(1000) + b"\r\n")
    assert (await peer.read()).status == 413


async def test_H06_a_body_that_does_not_arrive_ends_in_408(start: Start) -> None:
    site = await start()
    site.server.body_timeout_s = 0.05
    peer = await Peer.connect(site.port)
    await peer.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"5\r\nab")
    reply = await peer.read()
    assert reply.status_line == "HTTP/1.1 408 Request Timeout"
    assert reply["Connection"] == "close"


@pytest.mark.parametrize("serial", [GOOD, ABSENT, EXPIRED])
async def test_H07_head_is_get_without_the_body(site: Site, serial: int) -> None:
    peer = await Peer.connect(site.port)
    by_head = await peer.ask(get(path_of(serial), method="HEAD"))
    by_get = await peer.ask(get(path_of(serial)))
    assert (by_head.status_line, by_head.fields) == (by_get.status_line, by_get.fields)
    assert by_get.body


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
async def test_H07_other_methods_are_refused_with_allow(site: Site, method: str) -> None:
    reply = await site.ask(get(path_of(GOOD), method=method))
    assert reply.status_line == "HTTP/1.1 405 Method Not Allowed"
    assert reply["Allow"] == "GET, HEAD, POST"
    assert reply.names == ["Content-Length", "Allow", "Cache-Control", "Date"]
    assert reply.body == b""
    assert site.counts["requests_other_method_not_allowed"] == 1


async def test_H07_options_asterisk_is_refused_likewise(site: Site) -> None:
    assert (await site.ask(get("*", method="OPTIONS"))).status == 405


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "//", "/?probe=1"])
async def test_H07_the_path_itself_is_a_health_check(site: Site, method: str, path: str) -> None:
    reply = await site.ask(get(path, method=method))
    assert reply.status_line == "HTTP/1.1 200 OK"
    assert reply.names == EMPTY
    assert reply["Content-Length"] == "0"
    assert site.counts[f"requests_{method.lower()}_health"] == 1


async def condition(site: Site, field: str, *, serial: int = GOOD, method: str = "GET") -> RawReply:
    return await site.ask(get(path_of(serial), field, method=method))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', '"a,b" ,W/"{}","z"', "*", " * "])
async def test_H08_if_none_match_in_every_form_gives_304(site: Site, form: str, method: str) -> None:
    full = await site.ask(get(path_of(GOOD)))
    reply = await condition(site, "If-None-Match: " + form.format(full["ETag"].strip('"')), method=method)
    assert reply.status_line == "HTTP/1.1 304 Not Modified"
    assert reply.names == ["Cache-Control", "Last-Modified", "Expires", "ETag", "Date"]
    assert reply.fields == full.fields[2:]
    assert site.counts[f"requests_{method.lower()}_not_modified"] == 1


@pytest.mark.parametrize("value", ['"other"', "", "unquoted", '"', 'W/"x"'])
async def test_H08_another_entity_tag_gives_the_answer(site: Site, value: str) -> None:
    assert_answer(await condition(site, f"If-None-Match: {value}"), site.answers[GOOD])


async def test_H08_an_entity_tag_without_quotes_is_none(site: Site) -> None:
    tag = (await site.ask(get(path_of(GOOD))))["ETag"].strip('"')
    assert_answer(await condition(site, f"If-None-Match: {tag}"), site.answers[GOOD])


@pytest.mark.parametrize("serial", [ABSENT, EXPIRED])
async def test_H08_an_error_is_never_304(site: Site, serial: int) -> None:
    assert (await condition(site, "If-None-Match: *", serial=serial)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "since",
    [
        "Sun, 01 Mar 2026 12:00:00 GMT",  # thisUpdate
        "Sun, 01 Mar 2026 12:00:01 GMT",
        "Sunday, 01-Mar-26 12:00:00 GMT",
        "Sun Mar  1 12:00:00 2026",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Sun, 01 Mar 2026 11:59:59 GMT",
        "yesterday",
        "",
    ],
)
async def test_H08_if_modified_since_alone_gets_the_whole_answer(site: Site, since: str, method: str) -> None:
    whole = await site.ask(get(path_of(GOOD), method=method))
    assert await condition(site, f"If-Modified-Since: {since}", method=method) == whole
    assert whole.status == 200


async def test_H08_a_client_that_validates_by_date_learns_of_a_revocation_within_one_this_update(
    start: Start,
) -> None:
    good = await start(answers={GOOD: CA.answer(GOOD)})
    since = (await good.ask(get(path_of(GOOD))))["Last-Modified"]
    revoked = CA.answer(GOOD, revoked_at=NOW - dt.timedelta(hours=1))
    site = await start(answers={GOOD: revoked})
    reply = await condition(site, f"If-Modified-Since: {since}")
    assert reply["Last-Modified"] == since
    assert_answer(reply, revoked)


async def test_H08_if_none_match_goes_before_if_modified_since(site: Site) -> None:
    reply = await site.ask(
        get(path_of(GOOD), 'If-None-Match: "other"', "If-Modified-Since: Sun, 01 Mar 2026 13:00:00 GMT")
    )
    assert_answer(reply, site.answers[GOOD])


async def test_H08_conditions_do_not_count_on_post(site: Site) -> None:
    assert_answer(await site.ask(post(CA.request(GOOD), "If-None-Match: *")), site.answers[GOOD])


async def test_H09_pipelined_requests_are_answered_in_order(site: Site) -> None:
    peer = await Peer.connect(site.port)
    await peer.send(
        get(path_of(GOOD)) + post(CA.request(REVOKED)) + get("/") + get(path_of(ABSENT)) + get(path_of(GOOD))
    )
    replies = [await peer.read() for _ in range(5)]
    expected = [site.answers[GOOD], site.answers[REVOKED], b"", UNAUTHORIZED, site.answers[GOOD]]
    assert [reply.body for reply in replies] == expected
    assert all("Connection" not in reply for reply in replies)
    assert await peer.still_open()


async def test_H09_a_request_split_at_every_octet_is_answered(site: Site) -> None:
    peer = await Peer.connect(site.port)
    for octet in get(path_of(GOOD)):
        await peer.send(bytes((octet,)))
        await asyncio.sleep(0)
    assert_answer(await peer.read(), site.answers[GOOD])


async def test_H09_a_connection_in_use_stays_open_however_its_requests_are_split(site: Site) -> None:
    peer = await Peer.connect(site.port)
    request = post(CA.request(GOOD))
    for second in range(200):  # longer than every time limit
        cut = second % len(request)
        await peer.send(request[:cut])
        await asyncio.sleep(0.001)
        assert_answer(await peer.ask(request[cut:]), site.answers[GOOD])
        site.advance(dt.timedelta(seconds=1))


async def test_H09_connection_close_is_honoured(site: Site) -> None:
    peer = await Peer.connect(site.port)
    reply = await peer.ask(get(path_of(GOOD), "Connection: close"))
    assert reply.fields[-1] == ("Connection", "close")
    assert reply.names == [*FULL, "Connection"]
    assert await peer.ended()


@pytest.mark.parametrize(("serial", "body"), [(ABSENT, UNAUTHORIZED), (EXPIRED, TRY_LATER)])
async def test_H10_errors_are_200_and_not_cached(site: Site, serial: int, body: bytes) -> None:
    for data in (get(path_of(serial)), post(CA.request(serial))):
        reply = await site.ask(data)
        assert (reply.status_line, reply.names) == ("HTTP/1.1 200 OK", ERROR)
        assert reply["Cache-Control"] == "max-age=0, no-cache"
        assert reply.body == body


async def test_H10_a_bug_below_is_internal_error_500(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(NOW)
    broken = FakeResponder([], clock)
    broken.reply_to = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    server = OCSPServer(broken, clock=clock)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    async with await Peer.connect(listener.sockets[0].getsockname()[1]) as peer:
        reply = await peer.ask(get(path_of(GOOD)))
        assert reply.status_line == "HTTP/1.1 500 Internal Server Error"
        assert reply.names == [*ERROR, "Connection"]
        assert reply.body == bytes.fromhex("30030a0102")
        assert "a request could not be answered" in caplog.text
    listener.close()
    await server.shutdown(0.1)


async def test_H11_several_certificates_get_the_answer_to_the_first(site: Site) -> None:
    requests = CA.request(GOOD)[6:] + CA.request(HIGH_BIT)[6:]
    body = requests
    for _ in range(3):  # requestList, tbsRequest, OCSPRequest
        assert 127 < len(body) < 256
        body = b"0\x81" + bytes((len(body),)) + body
    assert_answer(await site.ask(post(body)), site.answers[GOOD])


async def test_H12_serials_compare_as_integers(site: Site) -> None:
    assert_answer(await site.ask(get(path_of(HIGH_BIT))), site.answers[HIGH_BIT])  # 21 octets, leading 00
    padded = CA.request(GOOD).replace(b"\x02\x02\x03\xe9", b"\x02\x02\xfc\x17")  # -1001
    assert (await site.ask(post(padded))).body == UNAUTHORIZED
    zero = CA.request(GOOD).replace(b"\x02\x02\x03\xe9", b"\x02\x02\x00\x80")
    assert (await site.ask(post(zero))).body == UNAUTHORIZED


async def test_H13_hash_algorithm_with_and_without_null_match(site: Site) -> None:
    with_null = CA.request(GOOD)
    assert b"\x05\x00" in with_null
    without = shorten(with_null, b"\x05\x00")
    assert_answer(await site.ask(post(with_null)), site.answers[GOOD])
    assert_answer(await site.ask(post(without)), site.answers[GOOD])


def shorten(der: bytes, part: bytes) -> bytes:
    """Take a part out of a request and set right the one-octet lengths around it."""
    position = der.index(part)
    result = bytearray(der[:position] + der[position + len(part) :])
    for level in (1, 3, 5, 7, 9, 11):
        result[level] -= len(part)
    return bytes(result)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        b"\x30\x80\x00\x00",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x88" + b"\xff" * 8,
        b"\xff" * 100,
        CA.request(GOOD) + b"\x00",
        CA.request(GOOD)[:-1],
        b"GET / HTTP/1.1",
    ],
)
async def test_H14_what_is_no_request_is_malformed_and_never_5xx(site: Site, body: bytes) -> None:
    assert_malformed(await site.ask(post(body)))


async def test_H15_last_modified_is_this_update_exactly(site: Site) -> None:
    reply = await site.ask(get(path_of(GOOD)))
    assert reply["Last-Modified"] == "Sun, 01 Mar 2026 12:00:00 GMT"


async def test_H16_forwarding_fields_of_strangers_change_nothing(site: Site) -> None:
    plain = await site.ask(get(path_of(GOOD)))
    fields = ("X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4", "X-Forwarded-Host: evil")
    assert await site.ask(get(path_of(GOOD), *fields)) == plain


async def test_H17_date_follows_the_clock(site: Site) -> None:
    peer = await Peer.connect(site.port)
    first = await peer.ask(get(path_of(GOOD)))
    assert first["Date"] == "Sun, 01 Mar 2026 13:00:00 GMT"
    site.advance(dt.timedelta(seconds=61))
    second = await peer.ask(get(path_of(GOOD)))
    assert second["Date"] == "Sun, 01 Mar 2026 13:01:01 GMT"


# RFC 6960


async def test_C01_the_answer_is_a_basic_response_on_the_question(site: Site) -> None:
    response = ocsp.load_der_ocsp_response((await site.ask(get(path_of(GOOD)))).body)
    assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert response.serial_number == GOOD


@pytest.mark.parametrize("serial", [GOOD, REVOKED])
async def test_C02_every_definitive_answer_is_signed(site: Site, serial: int) -> None:
    response = ocsp.load_der_ocsp_response((await site.ask(get(path_of(serial)))).body)
    key = CA.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(SHA256()))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post(b"\x00"), ocsp.OCSPResponseStatus.MALFORMED_REQUEST),
        (get(path_of(EXPIRED)), ocsp.OCSPResponseStatus.TRY_LATER),
        (get(path_of(ABSENT)), ocsp.OCSPResponseStatus.UNAUTHORIZED),
    ],
)
async def test_C04_errors_carry_no_response_bytes(
    site: Site, data: bytes, status: ocsp.OCSPResponseStatus
) -> None:
    reply = await site.ask(data)
    assert ocsp.load_der_ocsp_response(reply.body).response_status is status
    assert len(reply.body) == 5


async def test_C08_an_answer_without_next_update_has_no_expires(start: Start) -> None:
    answers = {GOOD: CA.answer(GOOD, next_update=None)}
    site = await start(answers=answers)
    reply = await site.ask(get(path_of(GOOD)))
    assert reply.names == [name for name in FULL if name != "Expires"]
    assert reply["Cache-Control"] == "max-age=0, public, no-transform, must-revalidate"


async def test_C11_the_certid_is_the_one_asked(site: Site) -> None:
    for hash_name, algorithm in (("sha1", SHA1), ("sha256", SHA256)):
        reply = await site.ask(get(path_of(GOOD, hash_name)))
        response = ocsp.load_der_ocsp_response(reply.body)
        assert isinstance(response.hash_algorithm, algorithm)
        assert (response.issuer_name_hash, response.issuer_key_hash) == CA.hashes(hash_name)
    assert (await site.ask(get(path_of(GOOD, "sha384")))).body == UNAUTHORIZED


async def test_C13_responder_id_by_key_comes_through_unchanged(site: Site) -> None:
    response = ocsp.load_der_ocsp_response((await site.ask(get(path_of(GOOD)))).body)
    key = CA.certificate.public_key()
    assert response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest


async def test_C18_unknown_extensions_are_ignored(site: Site) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    body = CA.request_builder(GOOD).add_extension(unknown, critical=False).build().public_bytes(Encoding.DER)
    assert_answer(await site.ask(post(body)), site.answers[GOOD])


async def test_C27_get_and_post_give_the_same_answer(site: Site) -> None:
    by_get = await site.ask(get(path_of(GOOD)))
    by_post = await site.ask(post(CA.request(GOOD), "Content-Type: application/ocsp-request"))
    assert by_get == by_post


@pytest.mark.parametrize("serial", [GOOD, REVOKED, EXPIRED, ABSENT])
async def test_C28_content_length_is_there(site: Site, serial: int) -> None:
    reply = await site.ask(post(CA.request(serial)))
    assert reply["Content-Length"] == str(len(reply.body))


async def test_C34_a_nonce_is_answered_without_one(site: Site) -> None:
    builder = CA.request_builder(GOOD).add_extension(x509.OCSPNonce(b"0123456789abcdef"), critical=False)
    reply = await site.ask(post(builder.build().public_bytes(Encoding.DER)))
    assert_answer(reply, site.answers[GOOD])


# RFC 9919


async def test_C46_unauthorized_for_an_unknown_serial_and_an_unknown_issuer(site: Site) -> None:
    stranger = Authority(kind="p384", name="another authority")
    assert (await site.ask(post(CA.request(ABSENT)))).body == UNAUTHORIZED
    assert (await site.ask(post(stranger.request(GOOD)))).body == UNAUTHORIZED
    assert site.counts["requests_post_unknown_serial"] == 1
    assert site.counts["requests_post_unknown_issuer"] == 1


async def test_C48_a_get_within_255_octets_and_a_longer_post_are_both_served(site: Site) -> None:
    assert len("http://ocsp.example" + path_of(GOOD)) <= 255
    assert (await site.ask(get(path_of(GOOD)))).status == 200
    assert (await site.ask(post(CA.request(GOOD)))).status == 200


async def test_C49_the_header_set_is_that_of_rfc_9919(site: Site) -> None:
    reply = await site.ask(get(path_of(GOOD)))
    response = ocsp.load_der_ocsp_response(reply.body)
    assert reply.status_line == "HTTP/1.1 200 OK"
    assert reply.fields == (
        ("Content-Type", "application/ocsp-response"),
        ("Content-Length", str(len(reply.body))),
        ("Cache-Control", f"max-age={max_age(reply)}, public, no-transform, must-revalidate"),
        ("Last-Modified", "Sun, 01 Mar 2026 12:00:00 GMT"),
        ("Expires", "Thu, 05 Mar 2026 12:00:00 GMT"),
        ("ETag", f'"{response.signature[-16:].hex().upper()}"'),
        ("Date", "Sun, 01 Mar 2026 13:00:00 GMT"),
    )


def max_age(reply: RawReply) -> int:
    return int(reply["Cache-Control"].split(",")[0].removeprefix("max-age="))


async def test_C50_max_age_ends_before_next_update(site: Site) -> None:
    peer = await Peer.connect(site.port)
    for _ in range(5):
        reply = await peer.ask(get(path_of(GOOD)))
        left = NOW + dt.timedelta(hours=96) - site.clock.now()
        assert 0 < max_age(reply) <= left.total_seconds()
        site.advance(dt.timedelta(hours=19))


async def test_C51_only_answers_without_authority_are_no_cache(site: Site) -> None:
    assert "no-cache" not in (await site.ask(get(path_of(REVOKED))))["Cache-Control"]
    assert "no-cache" in (await site.ask(get(path_of(ABSENT))))["Cache-Control"]


# the path flag


async def test_the_path_prefix_is_taken_off(prefixed_site: Site) -> None:
    site = prefixed_site
    for start_of_path in ("/ocsp", "/ocsp/", "http://ocsp.example/ocsp"):
        assert_answer(await site.ask(get(start_of_path + path_of(GOOD))), site.answers[GOOD])
    assert_answer(await site.ask(post(CA.request(GOOD), path="/ocsp")), site.answers[GOOD])
    assert_answer(await site.ask(post(CA.request(GOOD), path="/ocsp/more")), site.answers[GOOD])
    assert (await site.ask(get("/ocsp"))).status == 200


@pytest.mark.parametrize("path", ["/", "/ocspx", "/other/ocsp", path_of(GOOD)])
async def test_a_path_beside_the_prefix_is_404(prefixed_site: Site, path: str) -> None:
    reply = await prefixed_site.ask(get(path))
    assert reply.status_line == "HTTP/1.1 404 Not Found"
    assert reply.names == EMPTY


async def test_the_absolute_form_of_a_target_is_understood(site: Site) -> None:
    reply = await site.ask(get("http://ocsp.example:80" + path_of(GOOD)))
    assert_answer(reply, site.answers[GOOD])


# broken HTTP: a defined answer or a closed connection


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX y: 1\r\n\r\n",
        b"GET /" + b"A" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"A" * 20_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5x\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n12345",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_400_and_the_end(
    site: Site, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await Peer.connect(site.port)
    reply = await peer.ask(data)
    assert reply.status == 400
    assert reply.body in {MALFORMED, b""}
    assert await peer.ended()
    assert not caplog.records


async def test_a_client_that_leaves_in_the_middle_disturbs_nobody(site: Site) -> None:
    for cut in (1, 40, 100):
        peer = await Peer.connect(site.port)
        await peer.send(post(CA.request(GOOD))[:cut])
        peer.writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # RST
        await peer.close()
    assert_answer(await site.ask(get(path_of(GOOD))), site.answers[GOOD])


async def test_draining_ends_every_connection_after_its_answer(site: Site) -> None:
    peer = await Peer.connect(site.port)
    assert "Connection" not in await peer.ask(get(path_of(GOOD)))
    request = get(path_of(GOOD))
    await peer.send(request[:50])
    await asyncio.sleep(0.05)
    site.server.draining = True
    site.drain()
    reply = await peer.ask(request[50:])
    assert reply.body == site.answers[GOOD]
    assert reply.fields[-1] == ("Connection", "close")
    assert await peer.ended()


async def test_every_request_is_counted_once_with_its_bytes(site: Site) -> None:
    peer = await Peer.connect(site.port)
    await peer.ask(get(path_of(GOOD)))
    await peer.ask(post(CA.request(REVOKED)))
    await peer.ask(get(path_of(GOOD), method="HEAD"))
    requests = {name: n for name, n in site.counts.items() if name.startswith("requests_")}
    assert requests == {"requests_get_good": 1, "requests_post_revoked": 1, "requests_head_good": 1}
    assert site.counts["sent_bytes"] > sum(len(site.answers[n]) for n in (GOOD, REVOKED))
