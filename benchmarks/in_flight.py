"""How many requests one SQL statement has under way at once."""

from __future__ import annotations

from benchmarks.setup import COUNT, files_missing, fill, gateway, measured, mock, value
from benchmarks.table import Row

ROWS = 4_096
CONCURRENCY = 1_000


def measure() -> list[Row]:
    """Run one statement against slow answers."""
    what = f"{ROWS:,} rows, answers after 1 s (median), {CONCURRENCY:,} at a time: peak in flight"
    target = f">= {CONCURRENCY:,}"
    missing = files_missing(CONCURRENCY)
    if missing:
        return [Row(what, missing, target, False)]
    with mock(latency_ms=1000, sigma=0.6) as server, gateway(server, CONCURRENCY) as con:
        fill(con, "slow", ROWS)
        with measured() as spent:
            assert value(con, COUNT) == ROWS
        stats = server.stats()
    assert stats["requests"] == ROWS
    peak = stats["peak_in_flight"]
    return [
        Row(what, f"{peak:,}", target, peak >= CONCURRENCY),
        Row("the same: wall time", f"{spent.wall:.1f} s"),
    ]
