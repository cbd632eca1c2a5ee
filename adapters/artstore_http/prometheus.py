"""`GET /metrics`: the counters of all processes, and gauges of the element."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import artstore
from artstore.errors import ArtstoreError
from artstore.modes import Mode
from artstore_http.call import Call
from artstore_http.elements import run_checks
from artstore_http.message import Response

BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Seconds; the last bucket has no end."""

# Name -> kind and what it says.
METRICS = {
    "artstore_requests_total": ("counter", "Requests, by method, route and status."),
    "artstore_request_seconds": ("histogram", "Seconds from the head of a request to its answer, by route."),
    "artstore_received_bytes_total": ("counter", "Bytes of request bodies."),
    "artstore_sent_bytes_total": ("counter", "Bytes of answers' bodies, as announced."),
    "artstore_files": ("gauge", "Files in the index."),
    "artstore_stored_bytes": ("gauge", "Bytes of those files."),
    "artstore_free_bytes": ("gauge", "Bytes that the store has left."),
    "artstore_capacity_bytes": ("gauge", "Bytes that all files may have together."),
    "artstore_reserved_bytes": ("gauge", "Bytes of the capacity that uploads in progress have reserved."),
    "artstore_check_ok": ("gauge", "1 while the part works, as in /health/ready: space, store, cache, log."),
    "artstore_index_complete": ("gauge", "1 unless index entries are still to be written."),
    "artstore_mode": ("gauge", "1 for the mode of the element."),
    "artstore_info": ("gauge", "1; the version is a label."),
}


def bucket(seconds: float) -> str:
    """The bucket that `seconds` belongs to, as a label."""
    return next((f"{b:g}" for b in BUCKETS if seconds <= b), "+Inf")


def metrics(call: Call) -> Response:
    """GET /metrics"""
    samples = [*_counters(call.metrics.totals()), *_now(call)]
    lines: list[str] = []
    for name, (kind, text) in METRICS.items():
        own = [s for s in samples if s.partition(" ")[0].partition("{")[0].removeprefix(name) in _parts(kind)]
        if own:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *own]
    headers = [
        ("Content-Type", "text/plain; version=0.0.4; charset=utf-8"), ("Cache-Control", "no-store"),
    ]  # fmt: skip
    return Response(200, headers, ("\n".join(lines) + "\n").encode())


def _parts(kind: str) -> set[str]:
    return {"_bucket", "_sum", "_count"} if kind == "histogram" else {""}


def _counters(totals: dict[str, float]) -> Iterator[str]:
    """Yield the counters. Each bucket of a histogram includes those before it."""
    routes = sorted({n.split('"')[1] for n in totals if n.startswith("artstore_request_seconds_sum")})
    for name, value in totals.items():
        if not name.startswith("artstore_request_seconds"):
            yield f"{name} {value:.15g}"
    for route in routes:
        held = 0.0
        for end in [*(f"{b:g}" for b in BUCKETS), "+Inf"]:
            held += totals.get(f'artstore_request_seconds_bucket{{route="{route}",le="{end}"}}', 0.0)
            yield f'artstore_request_seconds_bucket{{route="{route}",le="{end}"}} {held:.15g}'
        yield f'artstore_request_seconds_sum{{route="{route}"}} {totals[_sum(route)]:.15g}'
        yield f'artstore_request_seconds_count{{route="{route}"}} {held:.15g}'


def _sum(route: str) -> str:
    return f'artstore_request_seconds_sum{{route="{route}"}}'


def count(method: str, route: str, status: int, seconds: float) -> list[tuple[str, float]]:
    """Return what one request adds to which counters."""
    return [
        (f'artstore_requests_total{{method="{method}",route="{route}",status="{status}"}}', 1.0),
        (f'artstore_request_seconds_bucket{{route="{route}",le="{bucket(seconds)}"}}', 1.0),
        (_sum(route), seconds),
    ]


def _now(call: Call) -> Iterator[str]:
    """Yield the gauges; those of a part that does not answer are left out."""
    kernel = call.kernel

    def files() -> Iterator[str]:
        # From the cache itself, also while it is incomplete: `artstore_index_complete` beside it tells.
        totals = kernel.parts.cache.totals()
        yield f"artstore_files {totals.files}"
        yield f"artstore_stored_bytes {totals.size}"

    def space() -> Iterator[str]:
        free = kernel.parts.backend.free_bytes()
        if free is not None:
            yield f"artstore_free_bytes {free}"
        if (capacity := kernel.parts.limits.capacity) is not None:
            yield f"artstore_capacity_bytes {int(capacity)}"
            yield f"artstore_reserved_bytes {kernel.space.reserved()}"

    def mode() -> Iterator[str]:
        now = kernel.describe().mode
        yield from (f'artstore_mode{{mode="{m.value}"}} {int(m is now)}' for m in Mode)

    def checks() -> Iterator[str]:
        for name, error in run_checks(kernel.health()).items():
            yield f'artstore_check_ok{{check="{name}"}} {int(error is None)}'

    parts: list[Callable[[], Iterator[str]]] = [files, space, mode, checks]
    for part in parts:
        try:
            yield from part()
        except ArtstoreError:
            continue
    yield f"artstore_index_complete {int(kernel.index.backlog.is_complete())}"
    yield f'artstore_info{{version="{artstore.__version__}"}} 1'
