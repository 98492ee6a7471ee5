"""The native request path alone, HTTP bytes in to HTTP bytes out, timed by pyperf.

python -m bench.fastpath [--entries 1000000] [--directory DIR] [options of pyperf: --affinity 0, -o FILE]

Makes a segment of P-256 responses (in --directory if given, where a second run finds it again) and requests 1
024 of them in turn: caches are warm, as for the certificates most in demand at a real responder. pyperf must
be installed; the project does not depend on it. `bench/run.py` measures the same path without it.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyperf  # type: ignore[import-untyped, unused-ignore]
from bench import data

from ocspd._responder import Responder
from ocspd.index.directory import IndexDirectory

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_ASKED = 1024
_KINDS: tuple[tuple[str, Callable[[data.RequestSource], Callable[[int], bytes]]], ...] = (
    ("GET", lambda source: source.get),
    ("POST", lambda source: source.post),
)


def prepare(directory: Path, entries: int) -> None:
    """Make the index and the requests, once."""
    signer = data.make_signer("p256")
    data.build_index(directory, data.AnswerSource(signer, real_every=1_000), entries)
    source = data.RequestSource(signer)
    numbers = [number * max(entries // _ASKED, 1) % entries for number in range(_ASKED)]
    requests = {name: [make(source)(number) for number in numbers] for name, make in _KINDS}
    (directory / "requests.pickle").write_bytes(pickle.dumps(requests))


def time_requests(loops: int, responder: Responder, requests: list[bytes]) -> float:
    """Return the seconds that `loops` passes over the requests take."""
    respond = responder.respond
    rounds = range(loops)
    start = pyperf.perf_counter()
    for _ in rounds:
        for request in requests:
            respond(request)
    return float(pyperf.perf_counter() - start)


def main() -> None:
    def for_workers(command: list[str], args: argparse.Namespace) -> None:
        command.extend(("--directory", args.directory))

    runner = pyperf.Runner(
        program_args=("-m", "bench.fastpath"), add_cmdline_args=for_workers, metadata={"description": "ocspd"}
    )
    runner.argparser.add_argument("--entries", type=int, default=1_000_000)
    runner.argparser.add_argument("--directory")
    args = runner.parse_args()
    with ExitStack() as stack:
        if args.directory is None:
            args.directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocspd-bench-"))
        directory = Path(args.directory)
        if not (directory / "requests.pickle").exists():
            directory.mkdir(parents=True, exist_ok=True)
            prepare(directory, args.entries)
        responder = Responder(IndexDirectory(directory).open())
        responder.set_time(int(time.time()))
        requests: dict[str, list[bytes]] = pickle.loads((directory / "requests.pickle").read_bytes())
        for name, batch in requests.items():
            for request in batch:
                answer = responder.respond(request)
                if answer is None or not answer.startswith(b"HTTP/1.1 200 OK"):
                    raise RuntimeError(f"the native path does not reply to {request[:60]!r}")
            runner.bench_time_func(name, time_requests, responder, batch, inner_loops=len(batch))


if __name__ == "__main__":
    main()
