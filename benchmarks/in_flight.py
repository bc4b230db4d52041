"""How many requests one SQL statement has under way at once."""

from __future__ import annotations

import resource

import httpx

from benchmarks.loops import run_over
from benchmarks.setup import COUNT, fill, gateway, measured, mock, prompts, value
from benchmarks.table import Row
from fleming_sql.transport import Transport
from fleming_sql.transport.over_httpx import HttpxTransport
from fleming_sql.transport.pooled import PooledTransport

ROWS = 4_096
CONCURRENCY = 1_000
FILES_NEEDED = CONCURRENCY + 100
POOL_REQUESTS = 2_000


def measure() -> list[Row]:
    """Run the statement against slow answers, then two transports by themselves."""
    what = f"{ROWS:,} rows, answers after 1 s (median), {CONCURRENCY:,} at a time: peak in flight"
    target = f">= {CONCURRENCY:,}"
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < FILES_NEEDED:
        told = f"not measured: {files} open files allowed, {FILES_NEEDED:,} needed (ulimit -n)"
        return [Row(what, told, target, False)]
    with mock(latency_ms=1000, sigma=0.6) as server, gateway(server, CONCURRENCY) as con:
        fill(con, "slow", ROWS)
        with measured() as spent:
            assert value(con, COUNT) == ROWS
        peak = server.stats()["peak_in_flight"]
    return [
        Row(what, f"{peak:,}", target, peak >= CONCURRENCY),
        Row("the same: wall time", f"{spent.wall:.1f} s"),
        _transport("the gateway's transport", PooledTransport()),
        _transport(
            "httpx's own pool",
            HttpxTransport(httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))),
        ),
    ]


def _transport(name: str, transport: Transport) -> Row:
    with mock(latency_ms=1000, sigma=0.6) as server:
        asked = prompts(name, POOL_REQUESTS)
        spent = run_over(transport, server.url, asked, CONCURRENCY)
    what = f"{name} by itself, {CONCURRENCY:,} in flight: CPU per request"
    return Row(what, f"{spent.cpu / POOL_REQUESTS * 1000:.2f} ms")
