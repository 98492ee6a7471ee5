from __future__ import annotations

import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ocspd.metrics import COUNTERS
from tests.ports import free_port
from tests.responder.responder import CA, Running, answer, publish, responder, until
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("admin")
    publish(directory / "index", [answer(1), answer(2, revoked=True), answer(3, hash_name="sha256")])
    with responder(directory / "log", "-index", str(directory / "index")) as running:
        yield running


def scrape(running: Running) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return every sample: name to labels to value."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(running.admin("/metrics")[1]):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_promtool_finds_nothing_to_object_to(running: Running) -> None:
    text = running.admin("/metrics")[1]
    result = subprocess.run(
        [need("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert not result.stderr


def test_every_metric_has_the_prefix_and_no_label_from_a_client(running: Running) -> None:
    for name, samples in scrape(running).items():
        assert name.startswith("ocspd_")
        for labels in samples:
            assert {key for key, _ in labels} <= {
                *("method", "outcome", "hash", "cause", "phase", "worker", "issuer", "certid_hash"),
                *("le", "version", "python", "duty"),
            }


def test_requests_are_summed_over_the_workers_by_method_and_outcome(running: Running) -> None:
    before = scrape(running)["ocspd_requests_total"]
    for _ in range(20):
        running.ask(1)
    running.ask(2)
    running.ask(99)
    after = scrape(running)["ocspd_requests_total"]
    grown = {labels: after[labels] - before[labels] for labels in after if after[labels] != before[labels]}
    assert grown == {
        (("method", "post"), ("outcome", "good")): 20,
        (("method", "post"), ("outcome", "revoked")): 1,
        (("method", "post"), ("outcome", "unknown_serial")): 1,
    }


def test_the_latency_histogram_is_cumulative_and_samples_the_fast_path(running: Running) -> None:
    total = "ocspd_fast_path_latency_seconds_sum"
    earlier = scrape(running)
    before = earlier["ocspd_fast_path_latency_seconds_count"][()]
    begun = time.monotonic()
    for _ in range(64):
        running.ask(1)
    metrics = scrape(running)
    elapsed_s = time.monotonic() - begun
    buckets = list(metrics["ocspd_fast_path_latency_seconds_bucket"].values())
    assert buckets == sorted(buckets)
    assert buckets[-1] == metrics["ocspd_fast_path_latency_seconds_count"][()]
    assert 2 <= buckets[-1] - before <= 64
    assert 0 < metrics[total][()] - earlier[total][()] <= elapsed_s


def test_the_slow_path_is_counted_by_cause(running: Running) -> None:
    name = 'ocspd_slow_path_requests_total{cause="method"}'
    before = running.metric(name)
    request = urllib.request.Request(f"http://127.0.0.1:{running.port}/", method="OPTIONS")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=120)
    caught.value.close()
    assert caught.value.headers["Allow"] == "GET, HEAD, POST"
    assert running.metric(name) == before + 1
    assert running.metric('ocspd_requests_total{method="other",outcome="method_not_allowed"}') >= 1


def test_the_index_is_described(running: Running) -> None:
    metrics = scrape(running)
    assert metrics["ocspd_index_entries"][()] == 3
    assert metrics["ocspd_index_generation"][()] == 1
    issuers = {dict(labels)["issuer"] for labels in metrics["ocspd_index_first_expiry_timestamp_seconds"]}
    assert issuers == {CA.hashes(name)[1].hex() for name in ("sha1", "sha256")}
    assert metrics["ocspd_build_info"]
    assert metrics["ocspd_ready"][()] == 1


def test_every_counter_of_a_worker_is_exported(running: Running) -> None:
    text = running.admin("/metrics")[1]
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    requests = [line for line in samples if line.startswith("ocspd_requests_total")]
    assert len(requests) == sum(name.startswith("requests_") for name in COUNTERS)
    for name in ("nonce", "multiple"):
        assert f"ocspd_requests_{name}_total" in text


def test_health_ready_live_and_what_there_is_not(running: Running) -> None:
    assert running.admin("/livez") == (200, "ok\n")
    assert running.admin("/readyz") == (200, "ok\n")
    assert running.health()["index"]["entries"] == 3
    assert running.admin("/other")[0] == 404
    request = urllib.request.Request(f"http://127.0.0.1:{running.admin_port}/metrics", b"x")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=120)
    caught.value.close()
    assert caught.value.code == 405


def test_it_is_not_ready_when_every_answer_has_expired(tmp_path: Path) -> None:
    publish(tmp_path / "index", [CA.answer(1)])  # of a fixed time in the past
    with responder(tmp_path / "log", "-index", str(tmp_path / "index"), wait=False) as running:
        until(lambda: "Now listening" in running.log)
        assert running.admin("/readyz") == (503, "every response has expired\n")
        assert running.status(1) == "try_later"


def test_an_admin_port_that_was_asked_for_and_is_taken_ends_it(running: Running, tmp_path: Path) -> None:
    publish(tmp_path / "index", [answer(1)])
    flags = ("-index", str(tmp_path / "index"), "-admin-port", str(running.admin_port))
    with responder(tmp_path / "log", *flags, wait=False) as second:
        assert second.process.wait(120) == 1
        (line,) = [line for line in second.log.splitlines() if "[INFO]" not in line]
    assert line.startswith(
        f"admin listener: cannot listen on 127.0.0.1:{running.admin_port}: address already"
    )


def test_admin_port_0_means_none(tmp_path: Path) -> None:
    publish(tmp_path / "index", [answer(1)])
    flags = ("-index", str(tmp_path / "index"), "-admin-port", "0", "-port", str(free_port()))
    with responder(tmp_path / "log", *flags, wait=False) as running:
        until(lambda: "Now listening" in running.log)
        assert "admin" not in running.log
