"""What one process can measure by itself; run pinned to a CPU by run.py, prints JSON.

python -m bench.micro respond INDEX FILE    native path, HTTP bytes in to HTTP bytes out, ns per call
python -m bench.micro open INDEX FILE       map an index and serve the first request, ms
python -m bench.micro build DIR COUNT       segment from base64 responses, responses per second
"""

from __future__ import annotations

import base64
import json
import shutil
import statistics
import struct
import sys
import time
from pathlib import Path

from bench import data

from ocspd._responder import Responder
from ocspd.index._writer import SegmentWriter
from ocspd.index.directory import IndexDirectory

_PASSES = 15
_CHUNK = 20_000


def read_requests(path: Path) -> list[bytes]:
    """Read a file of `data.write_requests`."""
    content = path.read_bytes()
    found, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        found.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def respond(index: Path, file: Path) -> dict[str, float]:
    """Time `Responder.respond` over all requests; the native path must serve every one."""
    responder = Responder(IndexDirectory(index).open())
    responder.set_time(int(time.time()))
    requests = read_requests(file)
    call = responder.respond
    for request in requests:
        answer = call(request)
        if answer is None or not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(
                f"the native path does not reply to {request[:60]!r}: {answer and answer[:60]!r}"
            )
    passes = []
    for _ in range(_PASSES):
        start = time.perf_counter_ns()
        for request in requests:
            call(request)
        passes.append((time.perf_counter_ns() - start) / len(requests))
    return {"median_ns": statistics.median(passes), "min_ns": min(passes), "max_ns": max(passes)}


def open_index(index: Path, file: Path) -> dict[str, float]:
    """Time opening and the first reply; imports are done, the file is in the page cache."""
    with file.open("rb") as requests:
        request = requests.read(struct.unpack("<I", requests.read(4))[0])
    start = time.perf_counter()
    responder = Responder(IndexDirectory(index).open())
    opened = time.perf_counter()
    responder.set_time(int(time.time()))
    answer = responder.respond(request)
    end = time.perf_counter()
    if answer is None or not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"no reply to the first request: {answer!r}")
    return {"open_ms": (opened - start) * 1e3, "first_answer_ms": (end - start) * 1e3}


def build(directory: Path, count: int) -> dict[str, float]:
    """Time `add_base64` and `finish` alone; making the text is not counted."""
    source = data.AnswerSource(data.make_signer("p256"), real_every=1_000)
    directory.mkdir(parents=True)
    wall = cpu = 0.0
    with SegmentWriter(str(directory / "build.seg"), created_at=int(time.time())) as writer:
        for first in range(0, count, _CHUNK):
            text = b"\n".join(base64.b64encode(source.der(number)) for number in range(first, first + _CHUNK))
            start, start_cpu = time.perf_counter(), time.process_time()
            added, bad = writer.add_base64(text)
            wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - start_cpu
            if bad or added != _CHUNK:
                raise RuntimeError(f"not all responses were accepted: {bad[:3]}")
        start, start_cpu = time.perf_counter(), time.process_time()
        writer.finish()
        wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - start_cpu
    shutil.rmtree(directory)
    return {"per_second": count / wall, "per_cpu_second": count / cpu}


def main() -> None:
    match sys.argv[1:]:
        case ["respond", index, file]:
            figures = respond(Path(index), Path(file))
        case ["open", index, file]:
            figures = open_index(Path(index), Path(file))
        case ["build", directory, count]:
            figures = build(Path(directory), int(count))
        case _:
            sys.exit(__doc__)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
