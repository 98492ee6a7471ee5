"""Certificates issued in other processes."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from ocspd.authority.issuing import Authority, Shared
from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError, OCSPDError, ProcessError
from ocspd.pki import config_json
from ocspd.pki.certs import load_certificate
from ocspd.pki.der import children as children_of
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.issuer_spec import IssuerSpec
from ocspd.pki.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

NOW = datetime(2026, 5, 4, 3, 2, 31, tzinfo=UTC)


def make_issuer(material: Path) -> Issuer:
    return Issuer(
        load_certificate((material / "ca.pem").read_bytes()),
        load_private_key((material / "ca-key.pem").read_bytes()),
        config_json.parse_config((material / "config.json").read_bytes()),
        ManualClock(NOW),
    )


@asynccontextmanager
async def running(material: Path) -> AsyncIterator[tuple[Shared, Authority]]:
    shared = Shared(None, ManualClock(NOW), workers=2)
    try:
        yield shared, Authority(make_issuer(material), None, ManualClock(NOW), shared=shared)
    finally:
        await shared.close()


def children() -> list[int]:
    """The processes that issue for this one."""
    found = []
    for pid in Path(f"/proc/{os.getpid()}/task").iterdir():
        found += [int(child) for child in (pid / "children").read_text().split()]
    return [pid for pid in found if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (nobody tells)
        await asyncio.sleep(0.01)


async def test_other_processes_issue_what_this_one_would(material: Path) -> None:
    csr_pem = (material / "leaf.csr").read_text()
    plain = make_issuer(material).issue(SignRequest(csr_pem=csr_pem, profile="client"))
    async with running(material) as (_, authority):
        requests = [
            SignRequest(csr_pem=csr_pem, profile="client", label="one", hosts=["a.example", "192.0.2.7"]),
            *[SignRequest(csr_pem=csr_pem, profile="client")] * 40,
            SignRequest(csr_pem="nonsense"),
        ]
        results = await asyncio.gather(*map(authority.sign, requests), return_exceptions=True)
    *signed, error = results
    assert isinstance(error, CodedError)
    assert error.code is Code.CSR_DECODE_FAILED
    rows = [each.row for each in signed if not isinstance(each, BaseException)]
    assert len({row.serial for row in rows}) == 41
    assert (rows[0].ca_label, rows[0].sans) == ("one", ["a.example"])
    for row in rows[1:]:
        assert (row.aki, row.expiry, row.not_before) == (plain.aki, plain.not_after, plain.not_before)
        assert (row.sans, row.common_name, row.issued_at) == (list(plain.dns), plain.common_name, NOW)
        found = x509.load_pem_x509_certificate(row.pem.encode())
        found.verify_directly_issued_by(x509.load_pem_x509_certificate((material / "ca.pem").read_bytes()))
        assert found.serial_number == row.serial
        tbs = x509.load_der_x509_certificate(plain.der).tbs_certificate_bytes
        assert children_of(found.tbs_certificate_bytes)[2:] == children_of(tbs)[2:]  # but for the serial


async def test_a_reload_brings_another_issuer(material: Path) -> None:
    csr_pem = (material / "leaf.csr").read_text()
    async with running(material) as (shared, authority):
        await authority.sign(SignRequest(csr_pem=csr_pem))
        for _ in range(6):  # more than a process keeps
            again = Authority(make_issuer(material), None, ManualClock(NOW), shared=shared)
            for _ in range(4):
                assert (await again.sign(SignRequest(csr_pem=csr_pem))).serial
        assert (await authority.sign(SignRequest(csr_pem=csr_pem))).serial


async def test_a_process_that_ends_is_an_error_for_its_requests_and_is_replaced(
    material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    csr_pem = (material / "leaf.csr").read_text()
    async with running(material) as (_, authority):
        await authority.sign(SignRequest(csr_pem=csr_pem))
        pids = children()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [asyncio.create_task(authority.sign(SignRequest(csr_pem=csr_pem))) for _ in range(6)]
        for _ in range(10):
            await asyncio.sleep(0)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {ProcessError}
        await until(lambda: caplog.text.count("starting another") == 2)
        while True:
            try:
                await authority.sign(SignRequest(csr_pem=csr_pem))
            except OCSPDError:
                await asyncio.sleep(0.05)
            else:
                break
        assert not set(children()) & set(pids)
    assert children() == []


async def test_requests_that_cannot_be_sent_do_not_move_the_replies_of_others(material: Path) -> None:
    csr_pem = (material / "leaf.csr").read_text()
    unsendable = SignRequest(csr_pem=csr_pem, metadata={"function": lambda: None})
    async with running(material) as (_, authority):
        for _ in range(4):
            with pytest.raises((pickle.PicklingError, AttributeError)):
                await authority.sign(unsendable)
        for name in ("a.example", "b.example"):
            signed = await authority.sign(SignRequest(csr_pem=csr_pem, hosts=[name]))
            assert signed.row.sans == [name]


async def test_reloads_that_fail_take_nothing_from_the_authority_in_use(
    material: Path, caplog: pytest.LogCaptureFixture
) -> None:
    csr_pem = (material / "leaf.csr").read_text()
    async with running(material) as (shared, authority):
        await authority.sign(SignRequest(csr_pem=csr_pem))
        for _ in range(3):  # reloads that made an authority and then failed for another reason
            Authority(make_issuer(material), None, ManualClock(NOW), shared=shared)
        assert authority in shared.authorities
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: caplog.text.count("starting another") == 2)
        while True:
            try:
                await authority.sign(SignRequest(csr_pem=csr_pem))
            except ProcessError:
                await asyncio.sleep(0.05)
            else:
                break


async def test_processes_let_their_parent_decide_when_to_end(material: Path) -> None:
    async with running(material) as (_, authority):
        await authority.sign(SignRequest(csr_pem=(material / "leaf.csr").read_text()))
        pids = children()
        assert len(pids) == 2
        for pid in pids:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        for _ in range(4):
            assert (await authority.sign(SignRequest(csr_pem=(material / "leaf.csr").read_text()))).serial
        assert children() == pids
    assert children() == []


def test_the_keys_of_clients_stay_in_this_process(material: Path) -> None:
    spec = IssuerSpec.of(make_issuer(material))
    assert spec is not None
    assert spec.config.profiles["authed"].auth_key is None
    assert not spec.config.auth_keys
    assert "private key" in repr(spec)
    assert len(repr(spec)) < 60


async def test_a_key_that_cannot_leave_this_process_signs_here(material: Path) -> None:
    class Token:
        """A key in a token: it signs, and nothing else."""

        def __init__(self, key: object) -> None:
            self._key = key

    issuer = make_issuer(material)
    issuer.key = Token(issuer.key)  # type: ignore[assignment]
    assert IssuerSpec.of(issuer) is None
    shared = Shared(None, ManualClock(NOW), workers=2)
    Authority(issuer, None, ManualClock(NOW), shared=shared)
    assert shared.processes is not None
    assert not shared.processes.wanted
