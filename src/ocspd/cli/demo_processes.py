"""The processes of a demo: commands run to their end, servers until the demo ends; none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Self

from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

_STOP_S = 8.0
_VERB_S = 60.0
_START_S = 30.0
_PR_SET_PDEATHSIG = 1


class Processes:
    """Runs ocspd in one directory; a context manager that ends every server it started."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._claims: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Start without any server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every server: SIGTERM, and SIGKILL for one that does not end in time."""
        self.stop()

    def verb(self, words: Sequence[str], stdin: bytes = b"") -> bytes:
        """Run a command to its end and return its standard output; OCSPDError with its message otherwise."""
        done = subprocess.run(  # noqa: S603  (our own program and words)
            _command(words),
            cwd=self._directory,
            input=stdin,
            capture_output=True,
            timeout=_VERB_S,
            check=False,
        )
        if done.returncode != 0:
            complaint = done.stderr.decode("utf-8", "replace").strip()
            raise OCSPDError(f"ocspd {' '.join(words)}\nexited with {done.returncode}: {complaint}")
        return done.stdout

    def port(self, preferred: int) -> int:
        """Return `preferred` if nothing listens there and no other demo has chosen it, otherwise a free port.

        A server starts to listen seconds after its port was chosen. Until the demo ends, an abstract socket
        (Linux) reserves the port among demos.
        """
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0ocspd-demo-{preferred}")
        except OSError:
            claim.close()
            return free_port(0)
        self._claims.append(claim)
        return free_port(preferred)

    def server(self, words: Sequence[str], ready_url: str) -> None:
        """Start a server, with its output in VERB.log; wait until it listens and `ready_url` responds.

        The address alone is not enough: another program may have taken the port and respond there.
        """
        name = words[0]
        file = self._directory / f"{name}.log"
        with file.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  (our own program and words)
                _command(words),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is ours; we end the servers in order
                preexec_fn=_end_with_parent(),  # noqa: PLW1509  (no thread has been started before)
            )
        self._servers[name] = process
        deadline = time.monotonic() + _START_S
        while not (b"Now listening on" in file.read_bytes() and _answers(ready_url)):
            self.check()
            if time.monotonic() > deadline:
                raise OCSPDError(
                    f"ocspd {name} did not respond at {ready_url} within {_START_S:.0f} s: {self._tail(name)}"
                )
            time.sleep(0.05)

    def check(self) -> None:
        """Raise OCSPDError with the end of its log when a server has ended by itself."""
        for name, process in self._servers.items():
            if process.poll() is not None:
                raise OCSPDError(f"ocspd {name} exited with {process.returncode}: {self._tail(name)}")

    def _tail(self, name: str) -> str:
        text = (self._directory / f"{name}.log").read_text("utf-8", "replace").strip()
        return "\n".join(text.splitlines()[-5:]) or "its log is empty"

    def stop(self) -> None:
        """Stop every server, the last started first."""
        running = [process for process in reversed(self._servers.values()) if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its own session: workers go with it
                process.wait()
        self._servers.clear()
        for claim in self._claims:
            claim.close()
        self._claims.clear()


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "ocspd", *words]


def _end_with_parent() -> Callable[[], None]:
    """Return a function that makes a child receive SIGTERM if we are killed (Linux)."""
    import ctypes  # noqa: PLC0415  (some builds of libffi keep a file open from here on)

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return lambda: None

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return end_with_parent


def fetch(url: str, *, body: bytes | None = None, content_type: str = "application/json") -> bytes:
    """Return the reply of a URL of the demo, even one with an error status; OCSPDError without a reply."""
    headers = {} if body is None else {"Content-Type": content_type}
    # http on the loopback interface only; the URLs are made by the demo.
    request = urllib.request.Request(url, body, headers)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as reply:
            data: bytes = reply.read()
    except urllib.error.HTTPError as err:
        with err:
            data = err.read()
    except OSError as err:
        raise OCSPDError(f"{url}: no reply: {err}") from err
    return data


def _answers(url: str) -> bool:
    try:
        fetch(url)
    except OCSPDError:
        return False
    return True


def free_port(preferred: int) -> int:
    """Return `preferred` if nothing listens there on the loopback interface, otherwise a free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise OCSPDError("cannot bind any port on 127.0.0.1; is the loopback interface up?")
