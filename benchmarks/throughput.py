"""Rows per second and CPU per row, beside a bare loop and two SDKs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from benchmarks.loops import Send, over, over_litellm, over_openai, run
from benchmarks.processes import apart
from benchmarks.setup import COUNT, Mock, Spent, fill, gateway, measured, mock, prompts, value
from benchmarks.table import Row
from fleming_sql import Connection
from fleming_sql.transport.pooled import PooledTransport

ROWS = 20_000
SDK_ROWS = 2_000
CONCURRENCY = 512
RUNS = 3
ABSENT = "not installed"


def measure() -> list[Row]:
    """Run the gateway and the bare loop in turns, then each SDK once."""
    ours: list[Spent] = []
    bare: list[Spent] = []
    with mock() as server, gateway(server, CONCURRENCY) as con:
        for number in range(RUNS):
            ours.append(_ours(con, f"run {number}"))
            bare.append(apart(_bare, server.url, f"bare {number}"))
        sdks = [_sdk("openai SDK", server, over_openai), _sdk("litellm", server, over_litellm)]
        assert server.stats()["requests"] == 2 * RUNS * ROWS + sum(row.measured != ABSENT for row in sdks) * SDK_ROWS
    best, best_bare = (min(runs, key=lambda spent: spent.wall) for runs in (ours, bare))
    rate, ms = ROWS / best.wall, best.cpu / ROWS * 1000
    share = best_bare.wall / best.wall
    title = f"{ROWS:,} rows, {CONCURRENCY} at a time"
    each = " / ".join(f"{ROWS / spent.wall:,.0f}" for spent in ours)
    return [
        Row(f"{title}, best of {RUNS}", f"{rate:,.0f} rows/s", "> 3,000 rows/s", rate > 3000),
        Row("the same: CPU per row", f"{ms:.3f} ms", "< 0.25 ms", ms < 0.25),
        Row("the same: each run", f"{each} rows/s"),
        Row(f"bare loop on the gateway's transport, best of {RUNS}", _shown(best_bare, ROWS)),
        Row("ai_query against the bare loop", f"{share:.2f}", ">= 0.5", share >= 0.5),
        *sdks,
    ]


def _ours(con: Connection, label: str) -> Spent:
    fill(con, label, ROWS)
    with measured() as spent:
        assert value(con, COUNT) == ROWS
    return spent


def _bare(url: str, label: str) -> Spent:
    transport = PooledTransport()
    return run(lambda: over(transport, url), prompts(label, ROWS), CONCURRENCY, transport.aclose)


def _sdk(name: str, server: Mock, make: Callable[[str], Send]) -> Row:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing litellm goes to the internet
    title = f"{name}, {SDK_ROWS:,} rows, {CONCURRENCY} at a time"
    spent = apart(_run_sdk, make, name, server.url)
    return Row(title, _shown(spent, SDK_ROWS) if spent else ABSENT)


def _run_sdk(make: Callable[[str], Send], name: str, url: str) -> Spent | None:
    try:
        make(url)
    except ImportError:
        return None
    logging.getLogger("asyncio").disabled = True  # litellm leaves sessions open, a screenful of them
    return run(lambda: make(url), prompts(name, SDK_ROWS), CONCURRENCY)


def _shown(spent: Spent, rows: int) -> str:
    return f"{rows / spent.wall:,.0f} rows/s, {spent.cpu / rows * 1000:.3f} ms CPU per row"
