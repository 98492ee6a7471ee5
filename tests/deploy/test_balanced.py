from __future__ import annotations

import base64
import re
import subprocess
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING

import pytest

from tests.deploy.balanced import DEPLOY, haproxy, nginx, two_responders
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.deploy.balanced import Responder

    Balancer = Callable[[Path, Responder, Responder], AbstractContextManager[int]]


@pytest.fixture
def responders(tmp_path: Path) -> Iterator[tuple[Responder, Responder]]:
    with two_responders(tmp_path) as both:
        yield both


def ask(directory: Path, port: int) -> str:
    """Return openssl's verdict on the certificate, or all it says when it fails."""
    done = subprocess.run(
        [
            *(need("openssl"), "ocsp", "-issuer", "ca.pem", "-cert", "leaf.pem", "-CAfile", "ca.pem"),
            *("-no_nonce", "-timeout", "10", "-url", f"http://127.0.0.1:{port}"),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=120,
    )
    output = done.stdout + done.stderr
    if done.returncode:
        return output
    return " ".join(line for line in output.splitlines() if "leaf.pem" in line or "verify" in line)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("balancer", [haproxy, nginx])
def test_no_client_notices_that_one_of_two_responders_restarts(
    balancer: Balancer, responders: tuple[Responder, Responder], tmp_path: Path
) -> None:
    a, b = responders
    verdicts: list[str] = []
    enough = threading.Event()

    def keep_asking(port: int) -> None:
        while not enough.is_set():
            verdicts.append(ask(tmp_path, port))

    with balancer(tmp_path, a, b) as port:
        asker = threading.Thread(target=keep_asking, args=(port,))
        asker.start()
        try:
            for responder in (a, b):
                assert responder.stop() == 0
                responder.start()
                # Its count starts from zero: the next may stop when the balancer sends clients here again.
                wait_until(responder.answers_again)
        finally:
            enough.set()
            asker.join()
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert set(verdicts) == {"leaf.pem: good Response verify OK"}, logs


@pytest.mark.parametrize("balancer", [haproxy, nginx])
def test_base64_in_the_path_reaches_the_responder_unchanged(
    balancer: Balancer, responders: tuple[Responder, Responder], tmp_path: Path
) -> None:
    a, b = responders
    subprocess.run(
        [
            need("openssl"),
            "ocsp",
            "-issuer",
            "ca.pem",
            "-cert",
            "leaf.pem",
            "-no_nonce",
            "-reqout",
            "req.der",
        ],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    curl = need("curl")
    text = base64.b64encode((tmp_path / "req.der").read_bytes()).decode()
    with balancer(tmp_path, a, b) as port:
        # `/` and `+` raw, percent-encoded, and behind a double slash: what clients and their libraries send.
        for path in (text, urllib.parse.quote(text, safe=""), f"/{text}"):
            done = subprocess.run(
                [
                    curl,
                    "-sS",
                    "--fail",
                    "--path-as-is",
                    f"http://127.0.0.1:{port}/{path}",
                    "-o",
                    "answer.der",
                ],
                check=False,
                capture_output=True,
                text=True,
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stderr
            verdict = subprocess.run(
                [
                    *(need("openssl"), "ocsp", "-respin", "answer.der", "-issuer", "ca.pem"),
                    *("-cert", "leaf.pem", "-CAfile", "ca.pem", "-no_nonce"),
                ],
                check=True,
                capture_output=True,
                text=True,
                cwd=tmp_path,
            )
            assert "leaf.pem: good" in verdict.stdout


def test_every_metric_of_the_alert_rules_is_exported(
    responders: tuple[Responder, Responder], tmp_path: Path
) -> None:
    a, _ = responders
    assert "good" in ask(tmp_path, a.port)
    metrics = a.metrics()
    rules = (DEPLOY / "prometheus" / "ocspd.rules.yml").read_text()
    # of signers, of authorities (e2e/test_authority_admin), and of responders that pull their index
    elsewhere = "signer_|authority_|index_pull_"
    named = set(re.findall(rf"\bocspd_(?!{elsewhere})\w+", rules))
    exported = set(re.findall(r"^(ocspd_\w+)", metrics, re.MULTILINE))
    assert len(named) > 5
    assert named <= exported


def test_promtool_finds_nothing_to_object_to_in_the_metrics(responders: tuple[Responder, Responder]) -> None:
    done = subprocess.run(
        [need("promtool"), "check", "metrics"],
        input=responders[0].metrics(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
