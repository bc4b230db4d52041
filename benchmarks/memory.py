"""Whether the process grows with the calls it has made."""

from __future__ import annotations

import re
import resource
from itertools import pairwise
from pathlib import Path

from benchmarks.setup import FILLER, gateway, mock, value
from benchmarks.table import Row

STEP = 50_000
STEPS = 4
DUCKDB_LIMIT = "256MB"
FLAT_MIB = 8.0
"""Growth per 50,000 calls that counts as flat: 170 bytes a call, less than one body."""


def with_reuse() -> list[Row]:
    """Measure with every answer kept for reuse, up to the bound of the cache."""
    return _measure("true", "answers kept for reuse")


def without_reuse() -> list[Row]:
    """Measure with `cache => false`."""
    return _measure("false", "cache => false")


def _measure(cache: str, label: str) -> list[Row]:
    seen = []
    with mock() as server, gateway(server, config={"memory_limit": DUCKDB_LIMIT}) as con:
        for step in range(STEPS):
            sql = (
                f"SELECT count(v) FROM (SELECT ai_query('chat', format('{{:07d}}{FILLER}', number), cache => {cache}) "
                f"AS v FROM range({step * STEP}, {(step + 1) * STEP}) AS r(number))"
            )
            assert value(con, sql) == STEP
            seen.append(_rss_mib())
    at = " / ".join(f"{mib:,.0f}" for mib in seen)
    steps = " / ".join(f"{(step + 1) * STEP // 1000}k" for step in range(STEPS))
    growth = [later - earlier for earlier, later in pairwise(seen)]
    return [
        Row(f"memory, {label}: RSS after {steps} calls", f"{at} MiB"),
        Row(
            f"memory, {label}: growth in each further {STEP:,} calls",
            " / ".join(f"{mib:+,.0f}" for mib in growth) + " MiB",
            f"flat: the last < {FLAT_MIB:.0f} MiB",
            growth[-1] < FLAT_MIB,
        ),
    ]


def _rss_mib() -> float:
    try:
        text = Path("/proc/self/status").read_text("utf-8")
    except OSError:  # macOS tells the peak only, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found
    return int(found[1]) / 1024
