"""Requests as clients, proxies and attackers write them (hypothesis)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import load_der_ocsp_response
from hypothesis import strategies as st

from tests.native.world import (
    ABSENT,
    BIG,
    ENDLESS,
    EXPIRED,
    GOOD,
    OVERDUE,
    REASONLESS,
    REVOKED,
    SHA256_ONLY,
    authorities,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SERIALS = (GOOD, REVOKED, REASONLESS, EXPIRED, ENDLESS, SHA256_ONLY, OVERDUE, BIG, ABSENT, 0)
HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")


def _ders() -> list[bytes]:
    first, second = authorities()
    ders = [first.request(serial) for serial in SERIALS] + [second.request(serial) for serial in SERIALS]
    ders += [first.request(GOOD, name) for name in HASH_NAMES]
    ders.append(first.request(SHA256_ONLY, "sha512"))
    nonce = first.request_builder(GOOD).add_extension(x509.OCSPNonce(b"n" * 16), critical=False)
    ders.append(nonce.build().public_bytes(Encoding.DER))
    long = first.request_builder(GOOD).add_extension(x509.OCSPNonce(b"n" * 900), critical=False)
    ders.append(long.build().public_bytes(Encoding.DER))
    return ders


DERS = _ders()
ETAGS = [load_der_ocsp_response(answer.der).signature[-16:].hex().upper() for answer in stored()]

mutated_ders = st.builds(
    lambda der, place, octet, cut: (der[: place % len(der)] + bytes((octet,)) + der[place % len(der) + 1 :])[
        : None if cut is None else cut % len(der)
    ],
    st.sampled_from(DERS),
    st.integers(0, 200),
    st.integers(0, 255),
    st.none() | st.integers(0, 200),
)
ders = st.one_of(st.sampled_from(DERS), st.sampled_from(DERS), mutated_ders, st.binary(max_size=40))


SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: quote(text, safe=""),
    lambda text: quote(text, safe="/"),
    lambda text: text.rstrip("="),
    lambda text: text.replace("+", "-").replace("/", "_"),
    lambda text: text.replace("+", "%20"),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: "".join(f"%{ord(char):02x}" for char in text),
    lambda text: "//" + text + "==",
    lambda text: text + "?cache=no",
    lambda text: "%0D%0A".join(text[i : i + 64] for i in range(0, len(text), 64)),
    lambda text: "%2f" + text,
    lambda text: text[:-1] + "%",
)


def _spell(der: bytes, form: int) -> str:
    return "/" + SPELLINGS[form](base64.b64encode(der).decode())


targets = st.one_of(
    st.builds(_spell, ders, st.integers(0, len(SPELLINGS) - 1)),
    st.builds(_spell, st.sampled_from(DERS), st.integers(0, len(SPELLINGS) - 1)),
    st.sampled_from(
        [
            "/",
            "//",
            "/?",
            "/%2F",
            "/%",
            "*",
            "/..",
            "/%252525",
            "http://a/",
            "http://a/MEIw",
            "/a",
            "/a b",
            "/\xff",
            "/|",
        ]
    ),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=30).map(lambda text: "/" + text),
    st.builds(
        lambda der, text: "/" + base64.b64encode(der).decode() + "?" + text,
        st.sampled_from(DERS),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=8),
    ),
)

plain_fields = st.lists(
    st.sampled_from(
        [
            "User-Agent: ocsp/1.0",
            "Accept: */*",
            "accept-encoding: gzip, deflate",
            "X-Forwarded-For: 192.0.2.7",
            "Cookie: a=b",
            "Cache-Control: no-cache",
            "Pragma: no-cache",
            "X-Empty:",
            "X-Bytes: \xe4\xff",
            "X-Spaces:   x   ",
            "Content-Type: application/ocsp-request",
            "Via: 1.1 proxy",
        ]
    ),
    max_size=4,
    unique=True,
)
conditions = st.one_of(
    st.sampled_from(ETAGS).map(lambda tag: f'If-None-Match: "{tag}"'),
    st.sampled_from(ETAGS).map(lambda tag: f'If-None-Match: W/"{tag}"'),
    st.sampled_from(ETAGS).map(lambda tag: f'If-None-Match: "x", "{tag}"'),
    st.sampled_from(
        [
            "If-None-Match: *",
            'If-None-Match: ""',
            "If-None-Match:",
            "If-None-Match: x",
            'If-None-Match: W/""',
            'If-None-Match: "a,b"',
            "If-Modified-Since: Sun, 01 Mar 2026 12:00:00 GMT",
            "If-Modified-Since: Sun, 01 Mar 2026 11:59:59 GMT",
        ]
    ),
)
odd_fields = st.sampled_from(
    [
        "Connection: close",
        "Connection: keep-alive",
        "Connection: Keep-Alive, TE",
        "Connection: close, x",
        "Proxy-Connection: close",
        "Proxy-Connection: keep-alive",
        "Expect: 100-continue",
        "Expect: nothing",
        "Upgrade: h2c",
        "Content-Encoding: gzip",
        "Range: bytes=0-1",
        "TE: trailers",
        "Trailer: X",
        "X-Tab: a\tb",
        "Max-Forwards: 1",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Host: b",
        "Sec-WebSocket-Version: 13",
        "Content-Length: 0",
        "Content-Length: 7",
        "Content-Length: +7",
        "Content-Length: 7, 7",
        "Content-Length:",
        "Content-Length: 0000000007",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding : chunked",
        " Folded: x",
        "\tFolded: x",
        "No colon",
        ": empty name",
        "Bad\x00Name: x",
        "X-Nul: a\x00b",
        "X-CR: a\rb",
        "X-LF: a\nb",
        "X-Del: \x7f",
        "Bad(Name): x",
    ]
)


@st.composite
def clean_requests(draw: st.DrawFn) -> bytes:
    """Requests whose end nobody can doubt, most of them of the common shapes."""
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    method = draw(st.sampled_from(["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"]))
    fields = [*(["Host: ocsp.example"] if version == "1.1" else []), *draw(plain_fields)]
    if draw(st.integers(0, 3)) == 0:
        fields.append(draw(conditions))
    if version == "1.0" and draw(st.booleans()):
        fields.append("Connection: keep-alive")
    body = b""
    if method == "POST" or (method == "PUT" and draw(st.booleans())):
        body = draw(ders)
        if version == "1.1" and draw(st.integers(0, 4)) == 0:
            size = draw(st.integers(1, 90))
            fields.append("Transfer-Encoding: chunked")
            chunks = [body[i : i + size] for i in range(0, len(body), size)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        else:
            fields.append(f"Content-Length: {len(body)}")
        target = draw(st.sampled_from(["/", "/ocsp", "/a?b"]))
    else:
        target = draw(targets.filter(lambda text: text.isascii() and " " not in text and text.isprintable()))
    lines = [f"{method} {target} HTTP/{version}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@st.composite
def odd_requests(draw: st.DrawFn) -> bytes:
    """Anything that looks like a request, with whatever may be wrong about it."""
    version = draw(st.sampled_from(["1.1"] * 6 + ["1.0", "1.0", "1.2", "2.0", "0.9", "1.1 "]))
    method = draw(
        st.sampled_from(
            ["GET"] * 4 + ["POST"] * 4 + ["HEAD", "CONNECT", "OPTIONS", "PRI", "get", "M-SEARCH", "G(T", ""]
        )
    )
    fields = [*(["Host: ocsp.example"] if draw(st.integers(0, 9)) else []), *draw(plain_fields)]
    fields += draw(st.lists(st.one_of(odd_fields, conditions), max_size=2))
    body = b""
    if method == "POST" and draw(st.booleans()):
        body = draw(ders)
        fields.append(f"Content-Length: {len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))}")
    elif draw(st.integers(0, 5)) == 0:
        body = draw(
            st.sampled_from(
                [b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n", b"zz\r\n"]
            )
        )
        fields.append("Transfer-Encoding: chunked")
    fields = draw(st.permutations(fields))
    ending = draw(st.sampled_from(["\r\n"] * 9 + ["\n"]))
    data = ending.join([f"{method} {draw(targets)} HTTP/{version}", *fields, "", ""]).encode("latin-1") + body
    if draw(st.integers(0, 4)) == 0 and data:
        place = draw(st.integers(0, len(data) - 1))
        data = data[:place] + draw(st.binary(max_size=2)) + data[place + draw(st.integers(0, 2)) :]
    return draw(st.sampled_from([b"", b"", b"", b"", b"\r\n", b"\n"])) + data


places: st.SearchStrategy[list[int]] = st.one_of(
    st.just([]), st.lists(st.integers(0, 4000), max_size=8), st.just(list(range(4000)))
)
