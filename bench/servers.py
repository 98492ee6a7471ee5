"""The servers compared, each a process tree pinned to the given CPUs, with the CPU time it has used."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TICKS = os.sysconf("SC_CLK_TCK")
_START_TIMEOUT_S = 120
_OCSPD = Path(sys.executable).with_name("ocspd")


def find(program: str) -> str | None:
    """Return a program's path, sbin directories included."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        """Return the process and all its descendants."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents[int(entry.name)] = int(_stat(int(entry.name))[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu_s(self) -> float:
        """Return the CPU time used so far, user and system, all threads and processes; resolution 10 ms."""
        return sum(self.cpu_by_process().values())

    def cpu_by_process(self) -> dict[int, float]:
        """Return the same for each process."""
        found = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = _stat(pid)
                found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        return found

    def private_bytes(self) -> int:
        """Return the private memory of the largest process that is not the parent (a worker)."""
        pids = self.pids()
        return max(private_bytes(pid) for pid in (pids[1:] or pids))


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (the name before it may contain anything)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def private_bytes(pid: int) -> int:
    """Return the private memory of a process; 0 when it has gone."""
    with contextlib.suppress(OSError):
        # not Private_Clean: pages of the index file that only one worker maps are the page cache's
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))
    return 0


@contextlib.contextmanager
def running(  # noqa: PLR0913  (one value for each thing varied)
    name: str, argv: Sequence[str | Path], port: int, *, cpus: str, log: IO[bytes], hello: bytes = b""
) -> Iterator[Server]:
    """Run a server on CPUs (taskset's list) until the block ends; RuntimeError if it does not start.

    `hello` is a request for a server that a connection without one drives into a loop (`openssl ocsp` 3.0).
    """
    process = subprocess.Popen(
        ["taskset", "-c", cpus, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start: {_last_line(Path(log.name))}")
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=10) as client,
            ):
                client.sendall(hello)
                if not hello or client.recv(1):
                    break
            time.sleep(0.05)
        yield Server(name, port, process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line), "it wrote nothing")


def ocspd_program() -> Path:
    """Return the installed `ocspd`; RuntimeError where it is not beside this Python."""
    if not _OCSPD.exists():
        raise RuntimeError(f"{_OCSPD} is missing: run make setup")
    return _OCSPD


def ocspd_command(index: Path, port: int, *, workers: int, admin_port: int | None = None) -> list[str | Path]:
    """Return the command of our responder on an index directory."""
    return [
        *([_OCSPD] if _OCSPD.exists() else [sys.executable, "-m", "ocspd.cli.main"]),
        *("ocspserve", "-index", index, "-address", "127.0.0.1", "-port", str(port)),
        *("-workers", str(workers), "-admin-address", "127.0.0.1"),
        *("-admin-port", str(admin_port or free_port())),
        *("-loglevel", "3"),
    ]


def cfssl_command(program: str, responses: Path, port: int) -> list[str | Path]:
    """Return the command of CFSSL's responder on a dump."""
    return [
        program,
        *("ocspserve", "-responses", responses, "-address", "127.0.0.1", "-port", str(port)),
        *("-loglevel", "5"),
    ]


def openssl_command(program: str, directory: Path, port: int) -> list[str | Path]:
    """Return the command of `openssl ocsp` as a responder over the files `data` wrote to a directory.

    With -multi it wants a process group of its own, which the leader of a session cannot make: a shell
    stands before it. Its parent process does not end before its children do.
    """
    shell = 'trap "kill -TERM -\\$child" TERM; "$@" & child=$!; wait $child'
    files = {"-index": "index.txt", "-CA": "ca.pem", "-rsigner": "ocsp.pem", "-rkey": "ocsp-key.pem"}
    return [
        *("sh", "-c", shell, "sh"),
        *(program, "ocsp", "-port", str(port), "-multi", "2", "-ndays", "4", "-ignore_err"),
        *(part for flag, name in files.items() for part in (flag, directory / name)),
    ]


def nginx_command(  # noqa: PLR0913  (one value for each thing varied)
    program: str, directory: Path, port: int, *, head_octets: int, body_octets: int, deferred: bool = False
) -> list[str | Path]:
    """Write a configuration that replies to everything with a constant of this size; return the command.

    `deferred`: connections are taken when their first bytes are there (TCP_DEFER_ACCEPT), as ours are.

    The head is filled up with a header of our own to `head_octets`, so both servers write the same number.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # What nginx writes by itself: status line, Server, Date, Content-Type, Content-Length, Connection.
    own = len(
        "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
        "Content-Type: application/ocsp-response\r\nConnection: keep-alive\r\n\r\n"
    ) + len(f"Content-Length: {body_octets}\r\n")
    filler = "x" * max(1, head_octets - own - len("X-Fill: \r\n"))
    config = directory / "nginx.conf"
    temporary = "\n  ".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(f"""\
daemon off;
pid {directory}/nginx.pid;
error_log stderr crit;
worker_processes 1;
events {{ worker_connections 16384; }}
http {{
  {temporary}
  access_log off;
  server_tokens off;
  keepalive_requests 1000000000;
  default_type application/ocsp-response;
  server {{
    listen 127.0.0.1:{port} backlog=4096{" deferred" if deferred else ""};
    location / {{
      add_header X-Fill {filler};
      return 200 {"b" * body_octets};
    }}
  }}
}}
""")
    return [program, "-e", "stderr", "-p", directory, "-c", config]
