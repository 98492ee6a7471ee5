"""The counters of a worker: their names, in order, of the 64-bit counters in its block of shared memory.

The native request path (`_fastpath`) and the aiohttp path count into the same block;
`responder/metrics.py` sums the blocks of all workers and gives the numbers their Prometheus names.
Nothing here comes from a client: every name is fixed before the first request.

Each request is counted exactly once under `requests_METHOD_OUTCOME`, by the path that writes its reply
(only that one knows the method, and whether a 304 replaced the response); the requests of
one method are adjacent, so the matrix is indexed by `method * len(OUTCOMES) + outcome`.
"""

from __future__ import annotations

METHODS = ("get", "post", "head", "other")
"""Request methods; every other one is `other`, whatever its name."""

OUTCOMES = (
    "good",
    "revoked",
    "unknown",
    "unknown_serial",
    "unknown_issuer",
    "malformed",
    "try_later",
    "internal_error",
    "not_modified",
    "health",
    "not_found",
    "method_not_allowed",
    "too_large",
    "bad_http",
)
"""How a request ended.

The first eight are `_responder.Reply.outcome`; `unknown_serial` and `unknown_issuer` are the two causes of
unauthorized, `health` is the empty 200 to `GET /`, `not_found` a path outside `-path`, `bad_http` a
request whose HTTP could not be read or did not arrive in time.
"""

SLOW_CAUSES = ("method", "target", "version", "header", "chunked", "expect", "framing", "size")
"""Why the fast path left a request to aiohttp.

`target`: absolute form or an unsupported escape; `header`: a field whose meaning it does not
implement (such as If-Match); `framing`: ambiguous or broken framing; `size`: over a limit.
"""

HASHES = ("sha1", "sha256", "sha384", "sha512")
"""CertID hash algorithms in requests (RFC 9919 §3.2.1 recommends logging them)."""

LATENCY_BOUNDS_NS = (250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000, 10_000_000)
"""Upper bounds of the latency buckets, inclusive; one more bucket has no bound.

Latency is the time from reading the bytes to writing the bytes to the socket, on the fast path only.
"""

COUNTERS: tuple[str, ...] = (
    *(f"requests_{method}_{outcome}" for method in METHODS for outcome in OUTCOMES),
    *(f"certid_{name}" for name in HASHES),
    "request_nonce",  # requests with a nonce extension, whatever became of it
    "request_multiple",  # requests for more than one certificate
    *(f"slow_{cause}" for cause in SLOW_CAUSES),
    "received_bytes",  # HTTP requests, heads included
    "sent_bytes",  # HTTP responses, heads included
    # How many fell into each bucket, not summed up.
    *(f"latency_bucket_{bucket}" for bucket in range(len(LATENCY_BOUNDS_NS) + 1)),
    "latency_sum_ns",
    "connections_opened",
    "connections_closed",
    "connections_refused",  # over the cap
    "timeout_header",  # closed: the request did not arrive in time
    "timeout_idle",  # closed: nothing was asked any more
    "timeout_write",  # closed: the client did not read
)
"""Names of the counters; the position is the position in the block, 8 bytes each, native byte order."""

COUNTER_BLOCK_BYTES = (len(COUNTERS) * 8 + 4095) // 4096 * 4096
"""Size of one worker's block: whole pages, so that no two workers write to one cache line."""
