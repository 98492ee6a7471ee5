"""Rows R8, R9, S9, S7 and their kin of the fault list, against the real program."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import resource
import signal
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ocspd.index.directory import IndexDirectory
from ocspd.index.kept import KeptSegments
from tests.responder.responder import CA, Running, answer, now, publish, responder, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def index(tmp_path: Path) -> Path:
    publish(tmp_path / "index", [answer(serial) for serial in range(1, 11)])
    return tmp_path / "index"


@contextmanager
def started(index: Path, *flags: str, **options: Any) -> Iterator[Running]:
    with responder(index.parent / "log", "-index", str(index), *flags, **options) as running:
        if options.get("wait", True):
            until(lambda: all(worker["ready"] for worker in running.health()["workers"]))
        yield running


def generations(running: Running) -> list[int]:
    return [worker["generation"] for worker in running.health()["workers"]]


def limit_descriptors(pid: int, soft: int | None) -> None:
    """Set the soft limit of descriptors of a process; None: as high as it may be."""
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard if soft is None else soft, hard))


def test_R8_a_worker_without_descriptors_catches_up_when_they_return_and_readiness_tells(index: Path) -> None:
    with started(index) as running:
        for pid in running.workers():
            limit_descriptors(pid, 3)  # every descriptor it has is above: none can be opened
        generation = publish(index, [answer(1, revoked=True)], keep=True)
        until(lambda: running.admin("/readyz")[0] == 503)
        until(lambda: running.metric('ocspd_worker_behind{worker="1"}') == 1)
        assert "Too many open files" in running.admin("/readyz")[1]
        assert running.metric("ocspd_ready") == 0
        until(lambda: running.log.count("it keeps the previous index; retrying") == 2)
        for pid in running.workers():
            limit_descriptors(pid, None)
        until(lambda: generations(running) == [generation] * 2)
        until(lambda: running.admin("/readyz") == (200, "ok\n"))
        assert {running.status(1) for _ in range(20)} == {"revoked"}
        assert running.metric('ocspd_worker_behind{worker="1"}') == 0


def test_R8_a_worker_that_closes_connections_for_want_of_descriptors_says_so_once(index: Path) -> None:
    with started(index, "-workers", "1") as running:
        (pid,) = running.workers()
        limit_descriptors(pid, 3)
        until(lambda: running.admin("/readyz")[0] == 503)
        time.sleep(2.5)  # two more looks
        limit_descriptors(pid, None)
        until(lambda: running.admin("/readyz") == (200, "ok\n"))
        assert running.log.count("Too many open files; it closes new connections") == 1
        assert running.log.count("it accepts connections again") == 1
        assert running.status(1) == "good"


def test_R8_a_supervisor_without_descriptors_says_so_and_catches_up(index: Path) -> None:
    with started(index) as running, socket.create_connection(("127.0.0.1", running.admin_port)) as admin:
        admin.settimeout(120)
        request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
        admin.sendall(request)
        assert b" 200 " in admin.recv(65536)
        limit_descriptors(running.process.pid, 3)
        generation = publish(index, [answer(1, revoked=True)], keep=True)
        until(lambda: "Too many open files; still serving generation 1" in running.log)
        admin.sendall(request)
        reply = admin.recv(65536)
        assert b" 503 " in reply
        assert b"there is a newer index that cannot be read" in reply
        limit_descriptors(running.process.pid, None)
        until(lambda: generations(running) == [generation] * 2)
        assert running.admin("/readyz") == (200, "ok\n")


def test_R8_clients_cannot_take_the_descriptors_that_a_generation_needs(index: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with started(index, preexec_fn=few) as running, ExitStack() as clients:
        most = int(running.metric("ocspd_worker_max_connections"))
        assert 8 <= most < 64
        for port in (running.port, running.admin_port):
            for _ in range(150):
                clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=120))
        until(lambda: "connections and closes new ones" in running.log)
        generation = publish(index, [answer(1, revoked=True)], keep=True)
        until(lambda: f"index generation {generation}:" in running.log)
        clients.close()
        until(lambda: running.metric("ocspd_connections_open") <= 1)
        assert generations(running) == [generation] * 2
        assert running.status(1) == "revoked"
        assert running.metric("ocspd_connections_refused_total") > 0
        assert running.log.count("connections and closes new ones") <= 2  # one for each worker
        assert "Too many open files" not in running.log
        assert "Traceback" not in running.log


def test_R8_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(index: Path) -> None:
    def low() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))

    with started(index, preexec_fn=low) as running:
        for pid in (running.process.pid, *running.workers()):
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (2048, 2048)


def test_R8_a_limit_that_leaves_nothing_for_clients_is_refused_with_the_remedy(index: Path) -> None:
    def tiny() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with started(index, preexec_fn=tiny, wait=False) as running:
        assert running.process.wait(120) == 1
    (line,) = [line for line in running.log.splitlines() if "[INFO]" not in line]
    assert line.startswith("the hard limit of 40 open files is too low")
    assert "LimitNOFILE=" in line


def test_R8_a_worker_that_cannot_take_over_a_socket_lives_and_takes_it_later(index: Path) -> None:
    """The other worker has died, and this one has no descriptor to accept on its socket with."""
    with started(index) as running, socket.create_connection(("127.0.0.1", running.port)):
        survivor, victim = sorted(running.workers())
        limit_descriptors(survivor, 3)
        os.kill(victim, signal.SIGKILL)
        until(lambda: sum(worker["restarts"] for worker in running.health()["workers"]) == 1)
        short = ("does not accept on every socket", "closes new connections")
        until(lambda: running.health()["ready"] or any(text in running.log for text in short))
        limit_descriptors(survivor, None)
        until(lambda: running.admin("/readyz") == (200, "ok\n"))
        assert survivor in running.workers()
        assert {running.status(1) for _ in range(20)} == {"good"}


def test_R9_a_supervisor_that_was_stopped_for_long_kills_nobody(index: Path) -> None:
    with started(index) as running:
        workers = running.workers()
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(17)  # longer than a worker may be silent
        assert running.status(1) == "good"
        running.process.send_signal(signal.SIGCONT)
        until(lambda: running.admin("/readyz") == (200, "ok\n"))
        time.sleep(2.5)  # two looks at the workers
        assert running.workers() == workers
        assert "killed" not in running.log


def test_R9_a_whole_group_that_was_frozen_goes_on(index: Path) -> None:
    with started(index) as running, socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(120)
        workers = running.workers()
        everybody = (running.process.pid, *workers)
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(17)
        for pid in reversed(everybody):
            os.kill(pid, signal.SIGCONT)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        time.sleep(2.5)
        assert running.workers() == workers
        assert "killed" not in running.log


def many() -> list[bytes]:
    """Sign what makes a segment that is mapped: a small one is read. The signatures are all the same one."""
    first = 0x4001000000000000
    der = answer(first)
    return [
        der.replace(first.to_bytes(8, "big"), (first + number).to_bytes(8, "big")) for number in range(4000)
    ]


def test_S9_a_segment_truncated_in_place_ends_no_supervisor_and_is_named(tmp_path: Path) -> None:
    index = tmp_path / "index"
    publish(index, [answer(1), *many()])
    with started(index) as running:
        (segment,) = index.glob("*.seg")
        data = segment.read_bytes()
        os.truncate(segment, 4096)
        for _ in range(4):
            with ExitStack() as stack:  # whoever touches a page that is gone
                client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=1))
                request = base64.b64encode(CA.request(1)).decode()
                client.sendall(f"GET /{request} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                with suppress(OSError):
                    client.recv(65536)
        until(lambda: "(SIGBUS)" in running.log)
        assert f"{segment}: 4096 bytes instead of {len(data)}: truncated while it was mapped" in running.log
        until(lambda: running.admin("/readyz")[0] == 503)
        until(lambda: running.status(1) == "try_later")  # nobody waits in a queue
        assert running.process.poll() is None
        segment.with_suffix(".new").write_bytes(data)
        segment.with_suffix(".new").replace(segment)
        until(lambda: running.admin("/readyz") == (200, "ok\n"))
        assert {running.status(1) for _ in range(10)} == {"good"}
        assert "Traceback" not in running.log


def test_S9_a_small_segment_damaged_in_place_costs_no_answer_and_is_named_once(index: Path) -> None:
    with started(index) as running:
        workers = running.workers()
        (segment,) = index.glob("*.seg")
        data = segment.read_bytes()
        os.truncate(segment, 0)
        said = f"{segment}: 0 bytes instead of {len(data)}: truncated while it was mapped"
        until(lambda: said in running.log)
        assert {running.status(1) for _ in range(20)} == {"good"}
        with segment.open("r+b") as file:
            file.write(data)
        until(lambda: f"{index} is readable again" in running.log)
        assert running.workers() == workers
        assert running.log.count(said) == 1
        assert running.admin("/readyz") == (200, "ok\n")


def test_S9_neither_the_supervisor_maps_a_segment_nor_does_a_mapping_hold_a_descriptor(
    tmp_path: Path,
) -> None:
    index = tmp_path / "index"
    publish(index, [answer(1), *many()])
    with started(index) as running:
        publish(index, [answer(1, revoked=True), *many()], keep=True)
        until(lambda: running.status(1) == "revoked")
        until(lambda: generations(running) == [2, 2])
        assert ".seg" not in Path(f"/proc/{running.process.pid}/maps").read_text()
        for pid in running.workers():
            process = Path(f"/proc/{pid}")
            assert (process / "maps").read_text().count(".seg") == 2
            held = [entry.readlink() for entry in (process / "fd").iterdir()]
            assert not [target for target in held if target.suffix == ".seg"]


def test_S7_an_older_generation_in_the_place_of_a_newer_one_is_refused_by_name(index: Path) -> None:
    old = (index / "manifest.json").read_bytes()
    publish(index, [answer(1, revoked=True)], keep=True)
    newest = (index / "manifest.json").read_bytes()
    publish(index.parent / "other", [answer(serial) for serial in range(1, 11)])
    foreign = json.loads((index.parent / "other" / "manifest.json").read_bytes())
    elsewhere = foreign | {"generation": 9, "published_at": json.loads(newest)["published_at"]}
    same = json.loads(newest) | {"generation": 1}  # with the same segments
    same["changes"] = []
    with started(index) as running:
        wrong = [old, *(json.dumps(value).encode() for value in (same, elsewhere))]
        for failures, text in enumerate(wrong, 1):
            put(index / "manifest.json", text)
            until(partial(has_failed, running, failures))
            assert running.metric("ocspd_source_up") == 0
            assert running.status(1) == "revoked"
            assert running.admin("/readyz") == (200, "ok\n")
            put(index / "manifest.json", newest)
            until(lambda: running.metric("ocspd_source_up") == 1)
        assert "is older than generation 2, which is in use" in running.log
        assert running.metric("ocspd_index_generation") == 2


def has_failed(running: Running, times: int) -> bool:
    return running.metric("ocspd_index_load_failures_total") == times


def examiner(running: Running) -> int | None:
    for task in Path(f"/proc/{running.process.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"ocspd.cli.examiner" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    return None


def test_S9_an_examiner_that_is_killed_is_replaced_and_the_next_generation_served(index: Path) -> None:
    with started(index) as running:
        first = examiner(running)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: "the process that checks the index was killed by signal 9" in running.log)
        generation = publish(index, [answer(1, revoked=True)], keep=True)
        until(lambda: generations(running) == [generation] * 2)
        assert examiner(running) not in {None, first}
        assert running.admin("/readyz") == (200, "ok\n")
        assert running.status(1) == "revoked"
        assert "Traceback" not in running.log


def put(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(
    "members",
    [
        {"changes": [[2, 10**400]]},
        {"generation": 10**400},
        {"published_at": 253402300799},
        {"segments": [{"sha256": "a" * 64, "size_bytes": 8192, "entries": 1, "created_at": 1}] * 6500},
    ],
    ids=["changes", "generation", "future", "segments"],
)
def test_S6_a_manifest_with_a_number_beyond_every_bound_is_refused_and_spoils_nothing(
    index: Path, members: dict[str, Any]
) -> None:
    good = (index / "manifest.json").read_bytes()
    with started(index) as running:
        put(index / "manifest.json", json.dumps(json.loads(good) | {"generation": 2} | members).encode())
        until(lambda: running.metric("ocspd_source_up") == 0)
        assert running.status(1) == "good"
        assert running.admin("/readyz") == (200, "ok\n")
        assert running.log.count(str(index / "manifest.json")) == 1
        publish_after(index, good)
        until(lambda: running.status(1) == "revoked")
        assert running.metric("ocspd_source_up") == 1
        assert "Traceback" not in running.log


def publish_after(index: Path, manifest: bytes) -> None:
    put(index / "manifest.json", manifest)
    publish(index, [answer(1, revoked=True)], keep=True)


def test_a_damaged_responses_file_shows_in_a_gauge_until_it_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "responses"
    good = base64.b64encode(answer(1)) + b"\n"
    file.write_bytes(good)
    with responder(tmp_path / "log", "-responses", str(file)) as running:
        assert running.metric("ocspd_source_up") == 1
        for damage in (good[:-100], b"", b"garbage\n"):
            put(file, damage)
            until(lambda: running.metric("ocspd_source_up") == 0)
            time.sleep(1.0)  # the file is looked at again, and nothing has changed
            assert running.metric("ocspd_source_up") == 0
            assert running.status(1) == "good"
            assert running.admin("/readyz")[0] == 200
            put(file, good)
            until(lambda: running.metric("ocspd_source_up") == 1)
        file.unlink()
        until(lambda: running.metric("ocspd_source_up") == 0)


def test_readiness_ends_when_too_many_responses_of_an_issuer_have_expired_and_comes_back(index: Path) -> None:
    start = now() - dt.timedelta(hours=2)

    def expiring(serial: int, seconds: float) -> bytes:
        end = now() + dt.timedelta(seconds=seconds)
        return CA.answer(serial, this_update=start, next_update=end)

    publish(index, [*(expiring(serial, -60) for serial in range(1, 4)), *(answer(n) for n in range(4, 11))])
    with started(index, "-max-expired", "40") as running:
        publish(index, [expiring(4, 4), expiring(5, 4)], keep=True)
        name = f'ocspd_index_expired_ratio{{certid_hash="sha1",issuer="{CA.hashes("sha1")[1].hex()}"}}'
        until(lambda: running.metric(name) == 0.5)
        until(lambda: running.admin("/readyz")[0] == 503)
        assert running.admin("/readyz")[1].startswith("50% of the responses of issuer ")
        publish(index, [answer(1), answer(2)], keep=True)
        until(lambda: running.admin("/readyz") == (200, "ok\n"))
        assert running.metric(name) == 0.3


def test_what_a_generation_does_not_change_is_not_opened_again(index: Path) -> None:
    directory, kept = IndexDirectory(index), KeptSegments()
    for generation in range(2, 6):
        publish(index, [answer(generation, revoked=True)], keep=True)
        manifest = directory.manifest()
        assert manifest is not None
        opened = kept.open(directory, manifest)
        assert (opened.generation, len(opened.segments)) == (generation, generation)
        del opened
        kept.settle(manifest)
    assert kept.opened == 5
