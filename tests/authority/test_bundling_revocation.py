"""What the check for revocation keeps in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ocspd.authority.bundling_revocation import RevocationChecker
from ocspd.authority.fetching import Deadline
from ocspd.clock import SystemClock
from ocspd.errors import FetchError, OCSPDError
from tests.authority.chains import crl, make
from tests.authority.test_fetching import ANYWHERE, plenty, served

if TYPE_CHECKING:
    import socket
    from datetime import datetime


@pytest.mark.parametrize(
    ("kept", "fetched"),
    [
        (3, "012"),  # all of them
        (2, "012012"),  # the oldest gives way each time
        (0, "012012"),
    ],
)
def test_crls_are_kept_up_to_a_number_of_bytes_and_then_fetched_again(kept: int, fetched: str) -> None:
    root = make("root")
    body = crl(root, [])

    def reply(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with served(reply) as (port, heads):
        leaves = [make("leaf", root, crls=[f"http://127.0.0.1:{port}/{number}"]) for number in range(3)]
        checker = RevocationChecker(
            [root.certificate], ANYWHERE, SystemClock(), max_kept_bytes=kept * len(body)
        )
        for leaf in (*leaves, *leaves):
            assert checker.is_usable(leaf.certificate, plenty())
    assert "".join(head[5:6].decode() for head in heads) == fetched


def test_what_is_no_crl_does_not_fill_the_memory_either() -> None:
    body = b"x" * 1000

    def reply(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + body)

    with served(reply) as (port, heads):
        root = make("root")
        leaves = [make("leaf", root, crls=[f"http://127.0.0.1:{port}/{number}"]) for number in range(3)]
        checker = RevocationChecker([root.certificate], ANYWHERE, SystemClock(), max_kept_bytes=1000)
        for leaf in (*leaves, leaves[2], leaves[0]):
            with pytest.raises(OCSPDError, match="not a CRL"):
                checker.is_usable(leaf.certificate, plenty())
    assert len(heads) == 4


def test_no_further_crl_is_read_when_the_time_is_over_even_if_it_is_kept() -> None:
    root = make("root")
    body = crl(root, [])
    moments = [0.0]

    class SlowReading(SystemClock):
        """Asked for the time of the check, and once more for each CRL that was read."""

        asked = 0

        def now(self) -> datetime:
            self.asked += 1
            moments[0] += 30
            return super().now()

    def reply(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with served(reply) as (port, _):
        leaf = make("leaf", root, crls=[f"http://127.0.0.1:{port}/"] * 8)
        clock = SlowReading()
        checker = RevocationChecker([root.certificate], ANYWHERE, clock)
        with pytest.raises(FetchError, match="no reply within"):
            checker.is_usable(leaf.certificate, Deadline(45, now=lambda: moments[0]))
    assert clock.asked == 2
