"""Measure the responder against nginx and CFSSL on this machine; see README.md for the method.

python -m bench.run [--quick] [--large] [--repeats N] [--seconds S] [--results DIR] [--keep]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import data, load, report, servers
from tests.ports import free_port

from ocspd._der import parse_response
from ocspd.index.directory import IndexDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.servers import Server

HERE = Path(__file__).parent
ASKED = 50_000
"""How many different certificates are requested: spread evenly over the index, responses really signed."""
HOT = 1_000
"""Certificates requested again and again: the cost of the native path with warm caches."""
TENFOLD = 10
MANY = 4_000
"""Connections kept alive behind a load balancer with large pools."""
OPENSSL = "openssl ocsp"
_BIND_ADDRESS_NO_PORT = 24  # ip(7); without it the kernel looks for a port that nobody uses for anything
IDLE = 50_000
"""Connections that send nothing."""
WARM_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, how often and how long."""

    entries: int
    large_entries: int
    tenfold: bool
    repeats: int
    seconds: int
    server_cpu: str = "0"
    load_cpu: str = "1"


class Bench:
    """One run of everything, in a scratch directory."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self.settings = settings
        self.scratch = scratch
        self.log = (scratch / "servers.log").open("wb")
        self.results = report.Results(
            machine=machine(),
            settings={
                "entries of the index": settings.entries,
                "certificates asked for": min(ASKED, settings.entries),
                "repetitions": settings.repeats,
                "seconds a run": settings.seconds,
            },
        )
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", flush=True)

    def leave_out(self, reason: str) -> None:
        self.say(f"left out: {reason}")
        self.results.left_out.append(reason)

    def tool(self, program: str, package: str, what: str) -> str | None:
        """Find a program; report what is left out without it."""
        path = servers.find(program)
        if path is None:
            self.leave_out(f"{what}: {program} is not installed (Debian package {package})")
        return path

    # -- data ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make responses, index and requests."""
        count = self.settings.entries
        asked = range(0, count, max(1, count // ASKED))
        self.say(f"making an index of {count:,} responses (P-256, delegated signer)")
        authority = data.make_authority("p256")
        authority.write(self.scratch)
        data.write_index_txt(self.scratch / "index.txt", iter(asked))
        signer = authority.signer
        source = data.AnswerSource(signer, real_every=asked.step)
        # For the larger indexes: real signatures would only cost time.
        self.made_up = data.AnswerSource(signer, real_every=1_000)
        self.requests = data.RequestSource(signer)
        self.index = self.scratch / "index"
        data.build_index(self.index, source, count)
        self.dump = self.scratch / "answers.txt"
        with self.dump.open("wb") as file:
            for number in asked:
                file.write(base64.b64encode(source.der(number)) + b"\n")
        # The order is shuffled by a stride, so that neighbours in time are no neighbours in the file.
        order = [asked[number * 7919 % len(asked)] for number in range(len(asked))]
        self.files = {
            name: self.scratch / f"{name}.requests" for name in ("get", "post", "get_close", "post_close")
        }
        for name, path in self.files.items():
            make = self.requests.get if name.startswith("get") else self.requests.post
            made = map(make, order)
            data.write_requests(path, map(data.closing, made) if name.endswith("close") else made)
        self.first = order[0]
        self.size_figure("p256", self.index)

    def size_figure(self, kind: str, index: Path) -> None:
        opened = IndexDirectory(index).open()
        size = sum(segment.size_bytes for segment in opened.segments)
        self.results.figures[f"index_{kind}_bytes_per_entry"] = size / opened.entries

    # -- one process --------------------------------------------------------------------------------------

    def micro(self, *words: str | Path) -> dict[str, float]:
        done = subprocess.run(
            [
                "taskset",
                "-c",
                self.settings.server_cpu,
                sys.executable,
                "-m",
                "bench.micro",
                *map(str, words),
            ],
            check=True,
            stdout=subprocess.PIPE,
            cwd=HERE.parent,
        )
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def measure_alone(self) -> None:
        """Time the native path, opening and building, without any network."""
        figures = self.results.figures
        for name in ("get", "post"):
            self.say(f"native path alone, {name.upper()}")
            passes = self.micro("respond", self.index, self.files[name])
            figures[f"respond_{name}_ns"] = passes["median_ns"]
            figures[f"respond_{name}_min_ns"] = passes["min_ns"]
            hot = self.scratch / f"{name}.hot"
            make = self.requests.get if name == "get" else self.requests.post
            data.write_requests(hot, map(make, range(0, self.settings.entries, self.settings.entries // HOT)))
            figures[f"respond_{name}_hot_ns"] = self.micro("respond", self.index, hot)["median_ns"]
        self.open_figure("1m", self.index)
        self.say("building from base64 responses")
        built = self.micro("build", self.scratch / "build", str(self.settings.entries))
        figures["build_per_second"] = built["per_second"]
        figures["build_per_cpu_second"] = built["per_cpu_second"]
        self.say("index of RSA-2048 responses")
        rsa = self.scratch / "rsa"
        # One signature of a thousand is real: RSA signs slowly, and the size does not depend on it.
        source = data.AnswerSource(data.make_signer("rsa2048"), real_every=1_000)
        data.build_index(rsa, source, min(100_000, self.settings.entries))
        self.size_figure("rsa2048", rsa)
        shutil.rmtree(rsa)
        if self.settings.tenfold:
            self.say(f"opening an index of {TENFOLD * self.settings.entries:,} responses")
            large = self.scratch / "tenfold"
            data.build_index(large, self.made_up, TENFOLD * self.settings.entries)
            self.open_figure("10m", large)
            shutil.rmtree(large)
        else:
            self.leave_out("opening an index ten times as large (--quick)")

    def open_figure(self, name: str, index: Path) -> None:
        opened = [self.micro("open", index, self.files["get"]) for _ in range(5)]
        for figure in ("open_ms", "first_answer_ms"):
            values = sorted(run[figure] for run in opened)
            self.results.figures[figure.replace("_ms", f"_{name}_ms")] = values[len(values) // 2]

    # -- servers ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def serving(
        self, name: str, argv: list[str | Path], port: int, cpus: str, hello: bytes = b""
    ) -> Iterator[Server]:
        self.say(f"starting {name}")
        with servers.running(name, argv, port, cpus=cpus, log=self.log, hello=hello) as server:
            yield server

    def ocspd(self, index: Path, *, workers: int = 1) -> contextlib.AbstractContextManager[Server]:
        port = free_port()
        command = servers.ocspd_command(index, port, workers=workers)
        if workers == 1:
            return self.serving("ocspd", command, port, self.settings.server_cpu)
        both = f"{self.settings.server_cpu},{self.settings.load_cpu}"
        return self.serving(f"ocspd, {workers} workers", command, port, both)

    def check(self, server: Server, request: bytes) -> tuple[int, int]:
        """Check that a server replies about the certificate requested; return the bytes of head and body."""
        head, body = load.ask(server.port, request)
        if parse_response(body).serial != data.serial_of(self.first):
            raise RuntimeError(f"{server.name} replies about another certificate")
        return len(head), len(body)

    def measure_servers(self) -> None:
        """Run all servers at once, idle but one, and load them in turn."""
        wrk = self.tool("wrk", "wrk", "everything over the network")
        if wrk is None:
            return
        nginx = self.tool("nginx", "nginx-light", "nginx")
        openssl = self.tool("openssl", "openssl", OPENSSL)
        cfssl = self.tool("cfssl", "golang-cfssl", "CFSSL ocspserve")
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(self.ocspd(self.index))
            head, body = self.check(ours, self.requests.get(self.first))
            running = {"ocspd": ours}
            self.results.figures |= {"answer_head_octets": head, "answer_body_octets": body}
            for name in ("nginx", "nginx, deferred"):
                if nginx is None:
                    break
                port = free_port()
                command = servers.nginx_command(
                    nginx,
                    self.scratch / name.replace(", ", "-"),
                    port,
                    head_octets=head,
                    body_octets=body,
                    deferred=name != "nginx",
                )
                server = stack.enter_context(self.serving(name, command, port, self.settings.server_cpu))
                running[name] = server
                theirs = sum(map(len, load.ask(port, self.requests.get(self.first))))
                if theirs != head + body:
                    raise RuntimeError(f"nginx replies with {theirs} bytes instead of {head + body}")
            if openssl:
                port = free_port()
                command = servers.openssl_command(openssl, self.scratch, port)
                hello = data.closing(self.requests.get(self.first))
                server = stack.enter_context(
                    self.serving(OPENSSL, command, port, self.settings.server_cpu, hello)
                )
                running[OPENSSL] = server
            if cfssl:
                port = free_port()
                command = servers.cfssl_command(cfssl, self.dump, port)
                server = stack.enter_context(self.serving("cfssl", command, port, self.settings.server_cpu))
                running["cfssl"] = server
                self.check(server, self.requests.post(self.first))
            self.repeat(running, wrk)
            self.half_rate(running)
            self.results.figures["worker_private_mb"] = ours.private_bytes() / 1e6
        self.idle_connections()
        self.two_workers(wrk)

    def repeat(self, running: dict[str, Server], wrk: str) -> None:
        """Interleave: every repetition runs every scenario on every server once."""
        scenarios = {
            "GET": ("get", ("ocspd", "nginx")),  # Debian's CFSSL does not serve GET
            "POST": ("post", ("ocspd", "nginx", "cfssl")),
            "GET, new connection": ("get_close", ("ocspd", "nginx", "nginx, deferred", OPENSSL)),
            "POST, new connection": (
                "post_close",
                ("ocspd", "nginx", "nginx, deferred", OPENSSL, "cfssl"),
            ),
        }
        for number in range(self.settings.repeats):
            for scenario, (file, names) in scenarios.items():
                for name in names:
                    if name in running:
                        self.say(f"{number + 1}/{self.settings.repeats}  {scenario}: {name}")
                        self.keep(self.saturate(running[name], scenario, self.files[file], wrk))
            for name in ("ocspd", "nginx"):
                if name in running:
                    scenario = f"GET, {MANY:,} connections"
                    self.say(f"{number + 1}/{self.settings.repeats}  {scenario}: {name}")
                    many = self.saturate(running[name], scenario, self.files["get"], wrk, connections=MANY)
                    self.keep(many)

    def idle_connections(self) -> None:
        """Hold very many connections that send nothing, and measure what they cost a worker."""
        hard = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], IDLE + 1_000)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # more than root has allowed this user
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        count = min(IDLE, hard - 1_000)
        with self.ocspd(self.index) as server:
            self.say(f"{count:,} idle connections")
            request = self.requests.get(self.first)
            self.check(server, request)
            before = -1
            while before != (before := server.private_bytes()):  # it has not finished starting
                time.sleep(1)
            opened = []
            for number in range(count):
                # one address of loopback has too few ports
                opened.append(socket.socket())
                opened[-1].setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                opened[-1].bind((f"127.0.1.{number // 20_000 + 1}", 0))
                opened[-1].connect(("127.0.0.1", server.port))
                opened[-1].sendall(request)
                opened[-1].recv(65_536)
            self.results.figures["idle_connections"] = count
            self.results.figures["idle_connection_bytes"] = (server.private_bytes() - before) / count
            # where fewer descriptors are allowed (ulimit -Hn), the figure is scaled
            self.results.figures["idle_mb"] = (server.private_bytes() - before) / count * IDLE / 1e6
            for connection in opened:
                connection.close()

    def saturate(self, server: Server, scenario: str, file: Path, wrk: str, **options: Any) -> load.Run:
        cpus = options.pop("cpus", self.settings.load_cpu)
        if server.name == OPENSSL:
            load.one_by_one(server, scenario, file, cpus=cpus, seconds=WARM_S)
            return load.one_by_one(server, scenario, file, cpus=cpus, seconds=self.settings.seconds)
        warm_s = WARM_S * max(1, options.get("connections", 0) // 1_000)  # connecting takes its time, too
        load.saturate(server, scenario, file, wrk=wrk, cpus=cpus, seconds=warm_s, **options)
        return load.saturate(
            server, scenario, file, wrk=wrk, cpus=cpus, seconds=self.settings.seconds, **options
        )

    def keep(self, run: load.Run) -> None:
        if run.errors:
            self.say(f"  {run.errors} errors")
        self.results.runs.append(run)

    def half_rate(self, running: dict[str, Server]) -> None:
        """Measure latency with an open loop at half of what each server does at most."""
        try:
            openloop = load.compile_openloop(self.scratch)
        except (OSError, RuntimeError) as err:
            self.leave_out(f"latency at half of the saturating rate: {err}")
            return
        for _ in range(self.settings.repeats):
            for name, scenario, file in (
                ("ocspd", "GET", "get"),
                ("nginx", "GET", "get"),
                ("cfssl", "POST", "post"),
            ):
                rate = self.results.median(name, scenario, "per_second")
                if name in running and rate:
                    self.say(f"{scenario}, half rate: {name} at {rate / 2:,.0f}/s")
                    self.keep(
                        load.at_rate(
                            running[name],
                            f"{scenario}, half rate",
                            self.files[file],
                            openloop=openloop,
                            cpus=self.settings.load_cpu,
                            seconds=self.settings.seconds,
                            rate=rate / 2,
                        )
                    )

    def two_workers(self, wrk: str) -> None:
        """Run two workers and the load generator on the same two CPUs."""
        both = f"{self.settings.server_cpu},{self.settings.load_cpu}"
        imbalances = []
        with self.ocspd(self.index, workers=2) as server:
            for _ in range(self.settings.repeats):
                self.say("GET: ocspd, 2 workers")
                before = server.cpu_by_process()
                self.keep(self.saturate(server, "GET", self.files["get"], wrk, cpus=both, threads=2))
                used = sorted(
                    seconds - before.get(pid, 0) for pid, seconds in server.cpu_by_process().items()
                )[-2:]
                imbalances.append((used[1] - used[0]) / sum(used) * 2)
            self.results.figures["two_workers_imbalance"] = statistics.median(imbalances)

    # -- a hundred million --------------------------------------------------------------------------------

    def large(self) -> None:
        """Build, open and serve a very large index: a hot set, then certificates at random."""
        count = self.settings.large_entries
        need = count * 250  # the index, and what the writer spills while it makes it
        free = shutil.disk_usage(self.scratch).free
        if free < need:
            self.leave_out(f"{count:,} entries: {need / 1e9:.0f} GB of disk needed, {free / 1e9:.0f} GB free")
            return
        wrk = self.tool("wrk", "wrk", f"serving {count:,} entries")
        index = self.scratch / "large"
        start = time.monotonic()
        data.build_index(
            index, self.made_up, count, progress=lambda done: self.say(f"{done:,} of {count:,} responses")
        )
        figures = self.results.figures
        figures["large_build_s"] = time.monotonic() - start
        self.size_figure("large", index)
        self.open_figure("large", index)
        if wrk is None:
            return
        scattered = self.scratch / "scattered.requests"
        numbers = ((number * 2_654_435_761) % count for number in range(8 * ASKED))
        data.write_requests(scattered, map(self.requests.get, numbers))
        with self.ocspd(index) as started:
            server = replace(started, name="ocspd, large index")
            for _ in range(self.settings.repeats):
                self.say("GET, hot set")
                self.keep(self.saturate(server, "GET", self.files["get"], wrk))
                self.say("GET, certificates at random")
                self.keep(self.saturate(server, "GET, at random", scattered, wrk))
            figures["large_worker_private_mb"] = server.private_bytes() / 1e6


def machine() -> dict[str, str]:
    """Describe the machine and what runs on it."""
    model = "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = {}
    for program, word in (("nginx", "-v"), ("wrk", "-v"), ("cfssl", "version")):
        path = servers.find(program)
        if path:
            done = subprocess.run([path, word], check=False, capture_output=True, text=True)
            versions[program] = (done.stdout + done.stderr).strip().splitlines()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "CPU": f"{model}, {os.cpu_count()} CPUs",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **versions,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description="Measure the responder on this machine."
    )
    parser.add_argument("--quick", action="store_true", help="100 000 entries, one short repetition: a trial")
    parser.add_argument(
        "--large", action="store_true", help="also 100 million entries (25 GB of disk, an hour)"
    )
    parser.add_argument("--large-entries", type=int, default=100_000_000, metavar="N")
    parser.add_argument("--entries", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=int, default=4, metavar="S", help="of each run")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--keep", action="store_true", help="keep the scratch directory")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two CPUs are needed: one for the server, one for the load")
    cpus = sorted(os.sched_getaffinity(0))
    quick = arguments.quick
    settings = Settings(
        entries=100_000 if quick else arguments.entries,
        large_entries=arguments.large_entries,
        tenfold=not quick,
        repeats=1 if quick else arguments.repeats,
        seconds=1 if quick else arguments.seconds,
        server_cpu=str(cpus[0]),
        load_cpu=str(cpus[1]),
    )
    results = arguments.results.resolve()
    (results / "tmp").mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="run-", dir=results / "tmp"))
    scratch.chmod(0o755)  # nginx's worker is another user when this one is root
    bench = Bench(settings, scratch)
    try:
        bench.prepare()
        bench.measure_alone()
        bench.measure_servers()
        if arguments.large:
            bench.large()
        else:
            bench.leave_out(f"{arguments.large_entries:,} entries (make bench-large)")
    except (RuntimeError, subprocess.SubprocessError) as err:
        print(f"bench: {err}", file=sys.stderr)
        return 1
    finally:
        bench.log.close()
        if arguments.keep:
            print(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    report.write(bench.results, results)
    print(report.markdown(bench.results))
    print(f"written: {results}/results.json, results.md and charts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
