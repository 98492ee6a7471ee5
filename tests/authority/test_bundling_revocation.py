"""What the check for revocation keeps in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ocspd.authority.bundling_revocation import RevocationChecker
from ocspd.clock import SystemClock
from ocspd.errors import OCSPDError
from tests.authority.chains import crl, make
from tests.authority.test_fetching import ANYWHERE, plenty, served

if TYPE_CHECKING:
    import socket


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
