from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from ocspd.authority.api.api_response import BadRequest, HTTPStatusError
from ocspd.authority.api.call import Call
from ocspd.authority.api.endpoints import Backend
from ocspd.authority.api.scan import MAX_SCANS, ScanEndpoints
from ocspd.authority.fetching import Outbound, look_up
from ocspd.authority.scanning.families import describe_families
from ocspd.authority.scanning.target import Trust
from ocspd.clock import SystemClock
from tests.authority import tls_servers
from tests.authority.api import serving
from tests.authority.cfssl import cfssl_serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ocspd.authority.fetching import Deadline

PREFIX = "/api/v1/cfssl/"


async def get(url: str, endpoint: str, **query: str) -> tuple[int, dict[str, Any]]:
    target = f"{url}{PREFIX}{endpoint}?{urlencode(query)}"
    async with aiohttp.ClientSession() as session, session.get(target) as reply:
        return reply.status, json.loads(await reply.text())


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cfssl_serve(tmp_path_factory.mktemp("peer")) as url:
        yield url


async def test_scaninfo_lists_families_and_scanners(peer: str) -> None:
    async with serving(Backend(clock=SystemClock())) as ours:
        status, mine = await get(ours, "scaninfo")
    _, theirs = await get(peer, "scaninfo")
    assert status == 200
    assert mine["result"] == describe_families()
    assert {**mine, "result": 0} == {**theirs, "result": 0}
    assert set(mine["result"]) == set(theirs["result"])


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({}, "no host given"),
        ({"host": ""}, "no host given"),
        ({"host": "h.example", "family": "("}, "not an RE2 expression"),
        ({"host": "h.example", "scanner": "["}, "not an RE2 expression"),
    ],
)
async def test_a_bad_query_is_refused_as_by_cfssl(peer: str, query: dict[str, str], text: str) -> None:
    async with serving(Backend(clock=SystemClock())) as ours:
        status, mine = await get(ours, "scan", **query)
    their_status, theirs = await get(peer, "scan", **query)
    assert (status, their_status) == (400, 400)
    assert mine["errors"][0]["code"] == theirs["errors"][0]["code"] == 400
    assert text in mine["errors"][0]["message"]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("999ms", "invalid timeout given"),
        ("5m1s", "invalid timeout given"),
        ("-1s", "invalid timeout given"),
        ("0", "invalid timeout given"),
        ("1", 'time: missing unit in duration "1"'),
        ("soon", 'time: invalid duration "soon"'),
    ],
)
async def test_a_bad_timeout_is_refused(asked: str, text: str) -> None:
    async with serving(Backend(clock=SystemClock())) as ours:
        status, mine = await get(ours, "scan", host="h.example", timeout=asked)
    assert (status, mine["errors"]) == (400, [{"code": 400, "message": text}])


async def test_a_server_is_scanned_when_private_addresses_are_allowed(tmp_path: Path) -> None:
    root = tls_servers.issue("Root")
    path = tls_servers.write(tmp_path, "good", tls_servers.issue("localhost", root), root)
    backend = Backend(
        clock=SystemClock(),
        outbound=Outbound(allow_private=True),
        scan_trust=Trust(roots=[root.certificate.public_bytes(Encoding.DER)]),
    )
    with tls_servers.openssl_server(path) as port:
        async with serving(backend) as url:
            query = {"host": f"localhost:{port}", "ip": "127.0.0.1", "timeout": "2m"}
            status, reply = await get(url, "scan", **query, scanner="TLSDial|ChainValidation|MultipleCerts")
    good = {"grade": "Good"}
    assert status == 200
    assert reply["result"] == {
        "Connectivity": {"TLSDial": good},
        "PKI": {"ChainValidation": good, "MultipleCerts": good},
    }


def no_resolver(host: str, port: int) -> Sequence[tuple[int, Any]]:
    """Resolve what needs no name server, and everything else to a private address."""
    if host in {"localhost", "127.0.0.1", "::1", "169.254.169.254", "0x7f.1"}:
        return look_up(host, port)
    return [(socket.AF_INET, ("10.0.0.1", port))]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:1", "[::1]:1", "169.254.169.254", "0x7f.1:1"])
async def test_private_addresses_are_not_scanned(host: str) -> None:
    backend = Backend(clock=SystemClock(), outbound=Outbound(resolve=no_resolver))
    async with serving(backend) as url:
        status, reply = await get(url, "scan", host=host, scanner="TCPDial|TLSDial|CipherSuite|DNSLookup")
        _, by_ip = await get(url, "scan", host="public.example", ip="127.0.0.1", scanner="TCPDial")
    assert status == 200
    for family in (*reply["result"].values(), *by_ip["result"].values()):
        for result in family.values():
            assert result["grade"] == "Bad"
            assert "no public address" in result["error"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["host", "ip", "family", "scanner", "timeout", "x"]),
        st.one_of(
            st.text(max_size=20), st.sampled_from(["localhost:1", "TCPDial", "1s", "127.0.0.1", "[::1]"])
        ),
    ),
    st.text(alphabet="%&=;+#?a\x00\xff", max_size=10),
)
def test_no_query_is_more_than_a_bad_request(fields: dict[str, str], more: str) -> None:
    outbound = Outbound(resolve=lambda _host, port: [(socket.AF_INET, ("10.0.0.1", port))])
    endpoints = ScanEndpoints(outbound, Trust(), SystemClock())
    query = f"{urlencode(fields, errors='surrogatepass')}&{more}"
    with contextlib.suppress(BadRequest):
        found = asyncio.run(endpoints.scan(Call(query=query))).result
        assert all(
            "grade" in result and "internal" not in result.get("error", "")
            for family in found.values()
            for result in family.values()
        )


async def test_a_range_is_not_scanned_for_a_client() -> None:
    async with serving(Backend(clock=SystemClock())) as url:
        status, reply = await get(url, "scan", host="192.0.2.0/24")
    assert status == 400
    assert "from the command line only" in reply["errors"][0]["message"]


async def test_only_so_many_scans_run_at_once() -> None:
    connected = threading.Semaphore(0)
    done = threading.Event()

    def silent(_: object) -> None:
        connected.release()
        done.wait(60)

    with tls_servers.raw_server(silent) as port:
        backend = Backend(clock=SystemClock(), outbound=Outbound(allow_private=True))
        async with serving(backend) as url:
            query = {"host": f"127.0.0.1:{port}", "scanner": "CipherSuite", "timeout": "1m"}
            running = [asyncio.create_task(get(url, "scan", **query)) for _ in range(MAX_SCANS)]
            for _ in range(MAX_SCANS):
                await asyncio.to_thread(connected.acquire)
            status, reply = await get(url, "scan", **query)
            assert (status, reply["errors"][0]["code"]) == (503, 503)
            done.set()
            assert {status for status, _ in await asyncio.gather(*running)} == {200}
            assert (await get(url, "scan", **{**query, "scanner": "none"}))[0] == 200


async def test_a_scan_counts_until_its_last_scanner_has_ended() -> None:
    end = threading.Event()

    class Slow(Outbound):
        """Makes a scanner work beyond its scan's timeout, as a CRL of a million entries does."""

        def addresses(self, host: str, port: int, deadline: Deadline) -> list[Any]:
            end.wait(60)
            return super().addresses(host, port, deadline)

    endpoints = ScanEndpoints(Slow(allow_private=True), Trust(), SystemClock())
    call = Call(query=urlencode({"host": "127.0.0.1", "scanner": "DNSLookup", "timeout": "1s"}))
    try:
        replies = await asyncio.gather(*[endpoints.scan(call) for _ in range(MAX_SCANS)])
        assert [reply.result for reply in replies] == [{}] * MAX_SCANS
        with pytest.raises(HTTPStatusError, match="too many concurrent scans"):
            await endpoints.scan(call)
    finally:
        end.set()
    nothing = Call(query=urlencode({"host": "localhost", "scanner": "none"}))
    for _ in range(2000):
        with contextlib.suppress(HTTPStatusError):
            assert (await endpoints.scan(nothing)).result == {}
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("a scan that has ended is still counted")


async def test_a_scan_that_cannot_begin_does_not_count() -> None:
    endpoints = ScanEndpoints(Outbound(), Trust(), SystemClock())
    for _ in range(2 * MAX_SCANS):
        with pytest.raises(BadRequest, match="no host"):
            await endpoints.scan(Call(query=urlencode({"host": ":443"})))
