"""The family TLSHandshake: what a server accepts of what a ClientHello offers.

Suites and groups are found by elimination: everything is offered, what the server chooses is taken off the
list, until it rejects the rest. So they come out in the server's order of preference where it has one.
TLS 1.3 is included, which CFSSL does not scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocspd.authority.certinfo import signature_of
from ocspd.authority.scanning.hello import Offer, Refused, Reply, say_hello
from ocspd.authority.scanning.suites import (
    CURVES,
    GROUPS,
    SIGNATURES,
    SSL30,
    SUITES,
    TLS12,
    TLS13,
    TLS13_SUITES,
    VERSIONS,
    is_elliptic,
    is_signed,
    short_name,
)
from ocspd.authority.scanning.target import Found, Grade
from ocspd.errors import CodedError, FetchError
from ocspd.pki import certs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ocspd.authority.scanning.target import Target

MAX_HELLOS = 2000
"""Connections of one scanner: more than a server that has every suite and curve there is would need."""

_ONLY_TLS13 = "the server speaks only TLS 1.3, where its signature is encrypted"


class _Speaker:
    """Says hello to one target, a bounded number of times."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._left = MAX_HELLOS

    def hello(
        self,
        version: int,
        suites: Sequence[int],
        *,
        groups: Sequence[int] | None = None,
        signatures: Sequence[int] = tuple(SIGNATURES),
        whole: bool = False,
    ) -> Reply:
        """Return what the server chooses; Refused, and FetchError when it cannot be scanned."""
        self._left -= 1
        if self._left < 0:
            raise FetchError(f"more than {MAX_HELLOS} connections")
        if groups is None:
            groups = tuple(GROUPS) if version == TLS13 else CURVES
        connection, deadline = self._target.connect()
        with connection:
            return say_hello(
                connection,
                Offer(
                    version=version,
                    suites=suites,
                    groups=groups,
                    signatures=signatures,
                    hostname=self._target.server_name,
                ),
                deadline,
                whole=whole,
            )

    def eliminate(self, choose: Callable[[list[int]], int | None], offered: Sequence[int]) -> Iterator[int]:
        """Yield what the server chooses of a list, then of the rest of it, until it rejects that."""
        left = list(offered)
        while left:
            try:
                chosen = choose(left)
            except Refused:
                return
            if chosen not in left:  # None included: a suite without a group
                return
            left.remove(chosen)
            yield chosen

    def suites(self, version: int) -> Iterator[int]:
        """Yield the suites a server accepts with a version."""
        offered = tuple(TLS13_SUITES if version == TLS13 else SUITES)
        return self.eliminate(lambda left: self.hello(version, left).suite, offered)

    def groups(self, version: int, suites: Sequence[int]) -> list[int]:
        """Return the groups a server accepts with a version and any of the suites."""
        return list(
            self.eliminate(
                lambda left: self.hello(version, suites, groups=left, whole=True).group,
                tuple(GROUPS) if version == TLS13 else CURVES,
            )
        )


def cipher_suite(target: Target) -> Found:
    """List the accepted suites, each with its versions, and with its curves where it has any."""
    speaker = _Speaker(target)
    found: dict[int, list[Any]] = {}
    grade = Grade.GOOD
    for version, name in VERSIONS.items():
        for suite in speaker.suites(version):
            if version == SSL30:
                grade = Grade.WARNING
            curves = []
            if version == TLS13 or is_elliptic(suite):
                curves = [GROUPS[group] for group in speaker.groups(version, [suite])]
            found.setdefault(suite, []).append({name: curves} if curves else name)
    if not found:
        return Found(Grade.BAD, error="couldn't negotiate any cipher suites")
    return Found(grade, [{short_name(suite): versions} for suite, versions in found.items()])


def ec_curves(target: Target) -> Found:
    """List the accepted curves with TLS 1.2, or with TLS 1.3 for a server that has nothing else."""
    speaker = _Speaker(target)
    found = speaker.groups(TLS12, [suite for suite in SUITES if is_elliptic(suite)])
    if not found:
        found = speaker.groups(TLS13, tuple(TLS13_SUITES))
    return Found(Grade.GOOD, [GROUPS[group] for group in found] or [])


def sig_algs(target: Target) -> Found:
    """List the signature algorithms with which the server signs its key exchange."""
    found = _by_signature(target)
    if isinstance(found, Found):
        return found
    output = [{"signature": SIGNATURES[each][0], "hash": SIGNATURES[each][1]} for each in found]
    return Found(Grade.GOOD, output)


def certs_by_sig_algs(target: Target) -> Found:
    """Report how the certificate is signed that the server has for each signature algorithm."""
    found = _by_signature(target)
    if isinstance(found, Found):
        return found
    signed = {"{{{},{}}}".format(*SIGNATURES[each]): _signature(reply) for each, reply in found.items()}
    return Found(Grade.GOOD, dict(sorted(signed.items())))


def certs_by_ciphers(target: Target) -> Found:
    """Report how the certificate is signed that the server has for each cipher suite, with TLS 1.2."""
    speaker = _Speaker(target)
    found = {}

    def choose(left: list[int]) -> int:
        reply = speaker.hello(TLS12, left, whole=True)
        if reply.certificates:
            found[SUITES[reply.suite]] = _signature(reply)
        return reply.suite

    for _ in speaker.eliminate(choose, tuple(SUITES)):
        pass
    if found:
        return Found(Grade.GOOD, dict(sorted(found.items())))
    return _nothing(speaker, "no cipher supported")


def _by_signature(target: Target) -> dict[int, Reply] | Found:
    speaker = _Speaker(target)
    suites = [suite for suite in SUITES if is_signed(suite)]
    found = {}
    for scheme in SIGNATURES:
        try:
            found[scheme] = speaker.hello(TLS12, suites, signatures=(scheme,), whole=True)
        except Refused:
            continue
    return found or _nothing(speaker, "no SigAlgs supported")


def _nothing(speaker: _Speaker, text: str) -> Found:
    """Explain why there is no output: with TLS 1.3 alone there cannot be one."""
    try:
        speaker.hello(TLS13, tuple(TLS13_SUITES))
    except Refused:
        return Found(Grade.BAD, error=text)
    return Found(Grade.SKIPPED, error=_ONLY_TLS13)


def _signature(reply: Reply) -> str:
    if not reply.certificates:
        raise FetchError("no certs returned")
    try:
        return signature_of(certs.load_certificate(reply.certificates[0]))
    except CodedError as err:
        raise FetchError(err.message) from err
