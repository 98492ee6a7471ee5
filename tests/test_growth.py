"""Every reader of input takes time linear in it: twice the input, twice the time and a bit.

Measured in CPU time of this process, the least of a few runs, so a busy machine does not matter. A reader
that is quick at `ENOUGH` bytes however the input looks needs no ratio: what is quadratic is not quick there.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import pkgutil
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import ocspd
from ocspd import limits
from ocspd.authority import revoking_entries
from ocspd.authority.multiroot_config import parse_roots
from ocspd.cli import flags, json_tool
from ocspd.errors import OCSPDError
from ocspd.index import manifest
from ocspd.pki import bundle_input, der
from tests.authority import corpus

if TYPE_CHECKING:
    from collections.abc import Callable

ENOUGH = 1 << 19
"""Half of the largest body the API takes: what is far from linear shows, and the test stays short."""
QUICK_S = 0.05


def repeated(piece: str, before: str = "", after: str = "") -> Callable[[int], str]:
    return lambda size: before + piece * (size // len(piece)) + after


def octets(piece: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: before + piece * (size // len(piece)) + after


def element(tag: int, piece: bytes) -> Callable[[int], bytes]:
    return lambda size: der.tlv(tag, piece * (size // len(piece)))


def listed(piece: str) -> Callable[[int], list[str]]:
    return lambda size: [piece] * (size // len(piece))


def one_host(make: Callable[[int], str], size: int) -> list[str]:
    return [make(size)]


def nested(tag: int) -> Callable[[int], bytes]:
    """Elements in one another, deeper with the size, and a long one at the end."""

    def make(size: int) -> bytes:
        value = b"\x05\x00"
        for _ in range(min(size // 8, 2000)):
            value = der.tlv(tag, value)
        return der.tlv(tag, value, der.tlv(0x04, bytes(size)))

    return make


ATTRIBUTE = der.sequence(der.oid("2.5.4.3"), der.tlv(0x0C, b"a"))
RDN = der.tlv(0x31, ATTRIBUTE)
EXTENSION = der.sequence(der.oid("1.2.3.4"), der.tlv(der.OCTET_STRING, b"\x05\x00"))

PEM_TEXTS = (
    octets(b"-----BEGIN A-----\n"),
    octets(b"-----BEGIN "),
    octets(b"-----END A-----\n"),
    octets(b"-----BEGIN A-----\n", after=b"-----END A-----\n"),
    octets(b"-----BEGIN A-----\n", after=b"-----END B-----\n" * 1000),
    octets(b"-----BEGIN A-----\n-----END B-----\n"),
    octets(b"-----BEGIN A-----\nAAAA\n-----END A-----\n"),
    octets(b"a: b\n", before=b"-----BEGIN A-----\n", after=b"\nAAAA\n-----END A-----\n"),
    octets(b"a" * 1000 + b": b\n", before=b"-----BEGIN A-----\n", after=b"\nAAAA\n-----END A-----\n"),
    octets(b" ", before=b"-----BEGIN A-----\na:", after=b"\n-----END A-----\n"),
    octets(b"-", before=b"-----BEGIN ", after=b"\n-----END A-----\n"),
    octets(
        b"AAAA\n",
        before=b"-----BEGIN CERTIFICATE REQUEST-----\n",
        after=b"-----END CERTIFICATE REQUEST-----\n",
    ),
)
JSON_TEXTS = (
    octets(b"["),
    octets(b'{"a":'),
    octets(b"[],", before=b"[", after=b"[]]"),
    octets(b"9"),
    octets(b"9" * 5000 + b",", before=b"[", after=b"1]"),
    octets(b"9", before=b"1."),
    octets(b"9", before=b"1e"),
    octets(b'\\"', before=b'"'),
    octets(b"\\ud800", before=b'"', after=b'"'),
    octets(b"\\ud83d\\ude00", before=b'"', after=b'"'),
    octets(b"\\"),
    octets(b"\\", before=b'"\\ud800', after=b'"'),
    octets(b'"a":1,', before=b"{", after=b'"b":1}'),
    octets(b"\n", after="“".encode()),
    octets(b"\xff", before=b'"', after=b'"'),
    lambda size: ("{" + ",".join(f'"k{n}":{n}' for n in range(size // 12)) + "}").encode(),
)
SOME_PEM, SOME_JSON = PEM_TEXTS[::4], JSON_TEXTS[1::5]
"""For readers that leave the text to `pem.blocks` or `wire.loads`."""
HOSTS = (
    repeated("a"),
    repeated("a", before='"', after='"@b'),
    repeated('\\"', before='"'),
    repeated('"a" ', after="<a@b>"),
    repeated("a ", after="<a@b>"),
    repeated("()", before="a@b"),
    repeated("(", before="a@b"),
    repeated("%41", before="http://h/"),
    repeated("%c3", before="http://"),
    repeated("a@", before="http://"),
    repeated("a:", before="http://"),
    repeated(":", before="http://["),
    repeated("a.", before="a:"),
    repeated(" "),
    repeated("1.", after="1"),
    repeated("1:", after="1"),
)
ADDRESSES = (
    repeated("a,"),
    repeated("[::1],"),
    repeated("["),
    repeated("a:"),
    repeated("@", before="http://"),
)
DURATIONS: tuple[Callable[[int], str], ...] = (
    repeated("1"),
    repeated("1", after="h"),
    repeated("1."),
    repeated("1h"),
    repeated("1", before="0.", after="h"),
)
DURATIONS += (repeated("0", after="h"), repeated("h"), repeated("0h1", after="m"))
SOURCES = (
    repeated("a=b "),
    repeated("a", before="a="),
    repeated("\\a", before="a='", after="'"),
    repeated("a "),
    repeated("h,", before="postgres://"),
    repeated("@", before="postgres://"),
    repeated("a=b&", before="postgres://h/d?"),
    repeated("%41", before="postgres://h/"),
)
PARSERS: dict[str, tuple[Callable[[int], Any], ...]] = {
    "certdb.dbconf.parse_db_config": SOME_JSON,
    "certdb.dsn.parse_data_source": SOURCES,
    "certdb.mysql_dsn.parse_mysql_source": (
        *SOURCES,
        repeated("a=b&", before="u:p@tcp(h)/d?"),
        repeated("%41", before="u:p@tcp(h)/d?a="),
        repeated("@", after="/d"),
        repeated("(", before="u@tcp", after=")/d"),
    ),
    "certdb.rows.read_serial": (octets(b"9"), octets(b" ")),
    "cli.flags.parse_word": (repeated("1"), repeated("_1", before="0x"), repeated("1h")),
    "cli.flags.quote": (repeated("\n"), repeated("\udc80")),
    "cli.json_tool.members": SOME_JSON,
    "index.manifest.parse": SOME_JSON,
    "model.normalize_aki": (repeated("a:"),),
    "model.parse_reason": (repeated("1"), repeated(" ")),
    "model.parse_serial": (repeated("9"), repeated("a:"), repeated("a", before="0x"), repeated(" ")),
    "model.parse_status": (repeated("a"),),
    "pki.auth.parse_auth_key": (repeated("aa"), repeated("a "), repeated("env:")),
    "authority.api.string_map.read_strings": SOME_JSON,
    "pki.bundle_input.read_bundle_input": (
        *SOME_PEM,
        octets(b"\x30\x00"),
        octets(b"\x30\x03\x02\x01\x03"),
        element(0x30, b"\x02\x01\x03"),
        nested(0x30),
    ),
    "pki.cert_reader.read_certificate": (element(0x30, EXTENSION), nested(0x30)),
    "pki.certs.load_certificate": SOME_PEM,
    "pki.certs.load_certificates": SOME_PEM,
    "pki.certs.load_der": (element(0x30, EXTENSION), nested(0x30)),
    "pki.config_json.parse_config": (
        *SOME_JSON,
        octets(b"1", before=b'{"signing":{"default":{"expiry":"', after=b'h"}}}'),
        octets(
            b"1.", before=b'{"signing":{"default":{"expiry":"1h","allowed_extensions":["', after=b'1"]}}}'
        ),
        octets(b"1", before=b'{"signing":{"default":{"expiry":"1h","not_before":"', after=b'"}}}'),
        octets(
            b'"signing",', before=b'{"signing":{"default":{"expiry":"1h","usages":[', after=b'"signing"]}}}'
        ),
    ),
    "pki.csr.parse_request": (
        *SOME_JSON,
        octets(b"1,", before=b'{"extensions":[{"Id":[', after=b"1]}]}"),
        octets(b'{"C":"FR"},', before=b'{"names":[', after=b'{"C":"FR"}]}'),
        octets(b'{"OID":{"1.2":"a"}},', before=b'{"names":[', after=b"{}]}"),
    ),
    "pki.csr.parse_subject": SOME_JSON,
    "pki.csr_reader.load_csr": (*SOME_PEM, PEM_TEXTS[-1]),
    "pki.der_reader.elements": (octets(b"\x05\x00"), octets(b"\x30\x80")),
    "pki.der_reader.object_identifier": (octets(b"\x81", after=b"\x01"), octets(b"\x01"), octets(b"\x80")),
    "pki.ct.parse_log_key": (repeated("A"), repeated(" "), repeated("-----BEGIN ")),
    "pki.ct.read_sct": SOME_JSON,
    "pki.extensions.parse_basic_constraints": (
        element(0x30, b"\x01\x01\xff"),
        element(0x30, b"\x02\x01\x01"),
    ),
    "pki.extensions.parse_extension": (element(0x30, EXTENSION), element(0x30, b"\x05\x00"), nested(0x30)),
    "pki.extensions.parse_extensions": (element(0x30, EXTENSION), nested(0x30), element(0x30, b"\x30\x00")),
    "pki.go_hosts.email_address": HOSTS,
    "pki.go_hosts.request_uri": HOSTS,
    "pki.keys.load_private_key": SOME_PEM,
    "pki.names.attributes": (element(0x30, RDN), nested(0x30)),
    "pki.names.is_oid": (repeated("1."), repeated("1", before="1.")),
    "pki.names.parse": (element(0x30, RDN), element(0x30, b"\x31\x00"), nested(0x30)),
    "pki.der.children": (element(0x30, b"\x05\x00"), nested(0x30)),
    "pki.pem.blocks": PEM_TEXTS,
    "pki.sans.classify": tuple(partial(one_host, make) for make in HOSTS),
    "pki.sans.ip_address": (repeated("1."), repeated("1:"), repeated("9"), repeated("%")),
    "pki.sans.parse": (element(0x30, b"\x82\x01a"), element(0x30, b"\x87\x04aaaa"), nested(0x30)),
    "pki.usages.parse_usages": (listed("signing"), listed("any"), listed("x")),
    "authority.api.dispatch.clean_path": (repeated("/a"), repeated("/.."), repeated("/a/.."), repeated("/")),
    "authority.api.dispatch.split_target": (
        repeated("/a"),
        repeated("/%41"),
        repeated("%"),
        repeated("#", before="a:"),
    ),
    "client.transport.parse_address": ADDRESSES,
    "client.transport.parse_addresses": ADDRESSES,
    "authority.certinfo_csr.describe_request": (
        *SOME_PEM,
        PEM_TEXTS[-1],
        partial(corpus.sized, lambda many: corpus.request(subject=der.sequence(RDN * many))),
        partial(corpus.sized, lambda many: corpus.request(attributes=(corpus.wanted(*[EXTENSION] * many),))),
        partial(corpus.sized, lambda many: corpus.request(attributes=(corpus.attribute("1.2.3"),) * many)),
        partial(corpus.sized, lambda many: corpus.request(key=corpus.rsa_info(1 << (80 * many), 3))),
    ),
    "authority.crl_once.parse_seconds": (repeated("9"), repeated("0"), repeated(" "), repeated("_1")),
    "authority.hosts.split_host": ADDRESSES,
    "authority.api.sign.read_authenticated": (*SOME_JSON, octets(b"ab", before=b'{"token":"', after=b'"}')),
    "authority.api.sign.read_info": SOME_JSON,
    "authority.revoking_entries.read_entries": (
        *SOME_PEM,
        octets(b"1\n"),
        octets(b"a "),
        octets(b","),
        octets(b"1", before=b"7,"),
        octets(b"a:", before=b"7 "),
        octets(b"-----BEGIN A-----\n"),
    ),
    "authority.multiroot_config.parse_roots_of": (
        octets(b"[a]\n"),
        octets(b"k=v\n"),
        octets(b"#\n"),
        octets(b" ", before=b"[a]\nprivate =", after=b"x"),
        octets(b"10.0.0.0/8,", before=b"[a]\nprivate=file:k\ncertificate=c\nconfig=c\nnets=", after=b"::/0"),
    ),
    "wire.loads": JSON_TEXTS,
    "wire.parse_duration": DURATIONS,
}
"""By name: inputs of about a given size, each of another shape."""

ELSEWHERE = {
    "authority.access.policy.attributes": "a certificate that OpenSSL has read",
    "authority.access.policy.parse_access": "wire.loads",
    "authority.access.tokens.parse_hash": "71 characters, see its regular expression",
    "authority.audit.chain.parse": "a line of 64 KiB at most",
    "authority.scanning.target.read_trust": "pki.pem.blocks, and pki.certs.load_certificate for each",
    "authority.scanning.target.read_chain": "what OpenSSL takes of a server, at most 100 KB",
    "authority.bundling_stores.load_platforms": "wire.loads and pki.certs.load_certificates",
    "certdb.migrate.load_migrations": "files of this package",
    "certdb.migrate.parse_migration": "files of this package",
    "certdb.mysql_values.parse_time": "see certdb.rows.parse_time",
    "certdb.rows.parse_binary_time": "eight bytes",
    "certdb.rows.parse_time": "a column of 64 bytes at most, see its regular expression",
    "authority.multiroot_config.parse_roots": "see parse_roots_of",
    "cli.flags.parse": "its words, see parse_word",
    "cli.io.read_input": "reads a file whole, at most 64 MiB",
    "cli.issue_input.read_request": "pki.csr.parse_request",
    "inputs.parse_key": "pki.keys.load_private_key",
    "inputs.read_certificate": "pki.certs.load_certificate",
    "inputs.read_file": "reads a file whole, at most 64 MiB",
    "inputs.read_key": "pki.keys.load_private_key",
    "inputs.read_key_material": "reads a file whole, at most 64 MiB",
    "inputs.read_whole": "reads a file whole, at most 64 MiB",
    "index.manifest.parse_manifest": "see parse",
    "model.parse_date": "ten characters",
    "pki.crl.load_crls": "lists of 2 GiB are read in pieces, tests/signer/test_importing.py",
    "signer.index_txt.parse_row": "lines are bounded, see check_size",
    "signer.index_txt.parse_serial_line": "lines are bounded, see check_size",
    "pki.ct.parse_logs": "the logs of a profile, at most 16",
    "pki.lint.parse_policy": "names in a profile",
    "pki.public_keys.read_public_key": "a few elements of a request that is read already",
    "strict_json.read": "JSON of our own, of at most 1 MiB",
    "authority.offload.read_input": "applies another reader",
    "signer.serial_buckets.split_key": "fixed size",
    "responder.ocsp.decode_path": "bounded by the head of 8 KB",
}
"""Why a function that reads has no entry above."""

_READS = re.compile(r"(?:parse|load|read|split|decode|blocks|attributes|elements|object_id|classify)")
_INPUT = {"str", "bytes", "bytes | str", "bytes | str | None", "Iterable[str]", "Sequence[str]", "memoryview"}


def readers() -> set[str]:
    """The public functions of the package that read text or bytes, by the look of them."""
    found = set()
    for module in pkgutil.walk_packages(ocspd.__path__, "ocspd."):
        if module.name.endswith("__main__") or module.ispkg:
            continue
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            if not (inspect.isfunction(value) and value.__module__ == module.name and _READS.match(name)):
                continue
            parameters = inspect.signature(value).parameters.values()
            if any(str(parameter.annotation) in _INPUT for parameter in list(parameters)[:2]):
                found.add(f"{module.name.removeprefix('ocspd.')}.{name}")
    return found


def function(name: str) -> Callable[[Any], Any]:
    """The reader of that name as a function of its input alone."""
    match name:
        case "cli.flags.parse_word":
            declared = [
                flags.integer("n", "", limits=limits.PORT),
                flags.duration("d", "", limits=limits.DRAIN),
                flags.boolean("b", ""),
            ]

            def words(text: str) -> None:
                for flag in declared:
                    refused(partial(flags.parse, [f"-{flag.name}={text}"], declared))

            return words
        case "cli.json_tool.members":
            return lambda data: json_tool.members_of(data, bare=True)
        case "pki.bundle_input.read_bundle_input":
            return lambda data: bundle_input.read_bundle_input(data, None)
        case "authority.revoking_entries.read_entries":
            return lambda data: list(revoking_entries.read_entries(data, "", name="list"))
        case "authority.multiroot_config.parse_roots_of":
            return lambda data: parse_roots(data, "roots.conf")
        case "index.manifest.parse":
            return lambda data: manifest.parse_manifest(data, "manifest")
    module, _, attribute = name.rpartition(".")
    found: Callable[[Any], Any] = getattr(importlib.import_module(f"ocspd.{module}"), attribute)
    return found


def refused(call: Callable[[], Any]) -> None:
    with contextlib.suppress(OCSPDError):
        call()


def cost(read: Callable[[Any], Any], value: Any, runs: int = 3) -> float:
    """The least CPU time of a few runs, in seconds. Anything but an error of ours is a failure."""
    least = float("inf")
    gc.disable()  # its passes grow with the number of objects, whoever made them
    try:
        for _ in range(runs):
            start = time.process_time()
            refused(lambda: read(value))
            least = min(least, time.process_time() - start)
            if least < QUICK_S:
                break
    finally:
        gc.enable()
    return least


def test_every_reader_is_in_the_list() -> None:
    known = PARSERS.keys() | ELSEWHERE.keys()
    assert readers() - known == set(), "a new reader: give it inputs in PARSERS, or a reason in ELSEWHERE"


@pytest.mark.parametrize(
    ("name", "shape"), [(name, number) for name, shapes in PARSERS.items() for number in range(len(shapes))]
)
def test_A5_reading_takes_time_linear_in_the_input(name: str, shape: int) -> None:
    read, make = function(name), PARSERS[name][shape]
    assert cost(read, make(ENOUGH // 16), runs=1) < 2.0  # what is far from linear ends here
    whole = cost(read, make(ENOUGH))
    if whole > QUICK_S:
        # Linear is 4 and quadratic 16: what others do to the caches of this machine makes no factor of two.
        quarter = cost(read, make(ENOUGH // 4))
        assert whole < 8 * max(quarter, QUICK_S / 4), (
            f"{ENOUGH} bytes: {whole:.3f} s, a quarter {quarter:.3f} s"
        )
