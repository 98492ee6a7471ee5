from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.binary import OCSPD, ocspd
from tests.e2e.test_ocspserve import SIGNER, fails, issue, revoke, run, unpack, verdict
from tests.index.buckets import bucket, proxy
from tests.ports import free_port
from tests.responder.responder import Running, responder, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.index.buckets import Bucket


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A directory with an SQLite database, a CA, an OCSP signer and two certificates."""
    config = {"driver": "sqlite3", "data_source": str(tmp_path / "certs.db")}
    (tmp_path / "db.json").write_text(json.dumps(config))
    for name in ("ca", "ocsp", "csr"):
        csr = {"CN": f"the {name}", "key": {"algo": "ecdsa", "size": 256}}
        (tmp_path / f"{name}.json").write_text(json.dumps(csr))
    profiles = {"ocsp": {"usages": ["digital signature", "ocsp signing"], "expiry": "8760h"}}
    default = {"usages": ["signing", "server auth"], "expiry": "8760h"}
    (tmp_path / "config.json").write_text(json.dumps({"signing": {"default": default, "profiles": profiles}}))
    run("db", "up", "-db-config", "db.json", cwd=tmp_path)
    unpack(run("gencert", "-initca", "ca.json", cwd=tmp_path), tmp_path / "ca")
    issue(tmp_path, "ocsp", "-profile", "ocsp")
    for name in ("one", "two"):
        issue(tmp_path, name, "-db-config", "db.json")
    return tmp_path


@pytest.fixture
def store() -> Iterator[Bucket]:
    with bucket() as running:
        yield running


@contextmanager
def signer(directory: Path, url: str, environment: dict[str, str]) -> Iterator[Running]:
    """Run `ocspd refresh -publish` until the block ends."""
    port = free_port()
    words = [*OCSPD, "refresh", "-db-config", "db.json", *SIGNER, "-index", "index", "-publish", url]
    words += ["-processes", "1", "-admin-port", str(port)]
    log = directory / "signer.log"
    with (
        log.open("ab") as file,
        subprocess.Popen(words, cwd=directory, stderr=file, env=os.environ | environment) as process,
    ):
        running = Running(process, 0, port, log)
        try:
            until(lambda: "following the database" in running.log)
            yield running
        finally:
            process.terminate()
            assert process.wait(120) == 0


def test_a_responder_cut_off_from_s3_goes_on_and_catches_up(authority: Path, store: Bucket) -> None:
    name = 'ocspd_signer_published_generation{url="s3://responses/an/index"}'
    with (
        signer(authority, store.url, store.environment()) as publishing,
        proxy(store.address) as line,
    ):
        until(lambda: "manifest.json" in store.names())
        words = ("-index", store.url, "-workers", "1", "-index-poll", "100ms", "-index-cache")
        with (
            responder(
                *(authority / "a.log", *words, str(authority / "a")), env=os.environ | store.environment()
            ) as a,
            responder(
                *(authority / "b.log", *words, str(authority / "b")),
                env=os.environ | store.environment(line.address),
            ) as b,
        ):
            for running in (a, b):
                assert verdict(authority, "one", running.port) == "good"
                assert verdict(authority, "two", running.port) == "good"
                assert running.metric("ocspd_index_pull_up") == 1
            line.stop()
            until(lambda: b.metric("ocspd_index_pull_up") == 0)
            revoke(authority, "one")
            issue(authority, "three", "-db-config", "db.json")
            until(lambda: verdict(authority, "one", a.port) == "revoked")
            until(lambda: verdict(authority, "three", a.port) == "good")
            failures = b.metric("ocspd_index_pull_failures_total")
            until(lambda: b.metric("ocspd_index_pull_failures_total") > failures)
            assert verdict(authority, "one", b.port) == "good"  # what it knew
            assert verdict(authority, "two", b.port) == "good"
            assert verdict(authority, "three", b.port) == "unauthorized"
            assert b.admin("/readyz")[0] == 200
            assert b.log.count("[ERROR]") == 1
            assert "still serving the previous generation" in b.log
            line.start()
            until(lambda: verdict(authority, "one", b.port) == "revoked")
            assert verdict(authority, "three", b.port) == "good"
            assert "pulling works again" in b.log
            assert b.log.count("[ERROR]") == 1
            until(lambda: b.metric("ocspd_index_pull_up") == 1)
            newest = publishing.metric(name)
            until(lambda: b.metric("ocspd_index_remote_generation") == newest)
            assert a.stop() == 0
            assert b.stop() == 0


def test_a_signer_whose_store_is_away_goes_on_and_catches_up(authority: Path, store: Bucket) -> None:
    labels = f'{{url="{store.url}"}}'
    with (
        proxy(store.address) as line,
        signer(authority, store.url, store.environment(line.address)) as running,
    ):
        until(lambda: "manifest.json" in store.names())
        line.stop()
        revoke(authority, "one")
        until(lambda: running.metric(f"ocspd_signer_publish_up{labels}") == 0)
        assert running.metric(f"ocspd_signer_publish_failures_total{labels}") >= 1
        with responder(
            *(authority / "log", "-index", str(authority / "index"), "-workers", "1")
        ) as local:  # published where it can be
            until(lambda: verdict(authority, "one", local.port) == "revoked")
        line.start()
        with responder(
            *(authority / "log2", "-index", store.url, "-workers", "1", "-index-poll", "100ms"),
            env=os.environ | store.environment(),
        ) as remote:
            until(lambda: verdict(authority, "one", remote.port) == "revoked")
        until(lambda: running.metric(f"ocspd_signer_publish_up{labels}") == 1)
        assert "publishing works again" in running.log
        moment = running.metric(f"ocspd_signer_published_timestamp_seconds{labels}")
        assert abs(moment - time.time()) < 60


def test_a_responder_starts_from_its_cache_when_the_store_is_away(authority: Path, store: Bucket) -> None:
    words = ["refresh", "-once", "-db-config", "db.json", *SIGNER, "-index", "index", "-publish", store.url]
    result = ocspd(*words, "-admin-port", "0", cwd=authority, env=store.environment())
    assert result.returncode == 0, result.stderr
    flags = ("-index", store.url, "-index-cache", str(authority / "cache"), "-workers", "1")
    environment = os.environ | store.environment()
    with responder(authority / "log", *flags, env=environment) as running:
        assert verdict(authority, "one", running.port) == "good"
        assert running.stop() == 0
    away = os.environ | store.environment(("127.0.0.1", free_port()))
    with responder(authority / "log", *flags, env=away) as running:
        assert verdict(authority, "one", running.port) == "good"
        assert "starting with the previously pulled generation" in running.log


def test_what_cannot_be_published_or_pulled_is_one_line(authority: Path) -> None:
    assert fails("-index", "ftp://host/x") == ("ftp://host/x: use file://, s3://, gs://, az:// or https://")
    assert "nowhere" in fails("-index", "file:///nowhere/at/all")
    words = ["refresh", "-db-config", "db.json", *SIGNER, "-index", "index", "-admin-port", "0", "-publish"]
    for url, message in (("https://example.org/x", "this URL is read-only"), ("s3://", "no bucket given")):
        result = ocspd(*words, url, cwd=authority)
        assert result.returncode == 1
        assert message in result.stderr
        assert len([line for line in result.stderr.splitlines() if "[INFO]" not in line]) == 1
    (authority / "blocked").write_text("")
    result = ocspd(*words, f"file://{authority}/blocked", "-once", cwd=authority)
    assert result.returncode == 1
    assert "blocked" in result.stderr
    assert "Traceback" not in result.stderr
