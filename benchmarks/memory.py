"""Whether the process grows with the calls it has made."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from benchmarks.setup import FILLER, gateway, mock, value
from benchmarks.table import Row

STEP = 50_000
STEPS = 4
MIB = 2**20
DUCKDB_LIMIT = "256MB"
FLAT_MIB = 8.0
"""Mean growth per 50,000 calls, from the second step to the last, that counts as flat: 170 bytes a call.

DuckDB's buffer pool is left out: it holds more of a growing log, up to the limit that `memory_limit` sets.
"""


def with_reuse() -> list[Row]:
    """Measure with every answer kept for reuse, up to the bound of the cache."""
    return _measure("true", "answers kept for reuse")


def without_reuse() -> list[Row]:
    """Measure with `cache => false`."""
    return _measure("false", "cache => false")


def _measure(cache: str, label: str) -> list[Row]:
    seen, pool, kept = [], [], []
    with mock() as server, gateway(server, config={"memory_limit": DUCKDB_LIMIT}) as con:
        for step in range(STEPS):
            sql = (
                f"SELECT count(v) FROM (SELECT ai_query('chat', format('{{:07d}}{FILLER}', number), cache => {cache}) "
                f"AS v FROM range({step * STEP}, {(step + 1) * STEP}) AS r(number))"
            )
            assert value(con, sql) == STEP
            seen.append(_rss_mib())
            pool.append(value(con, "SELECT sum(memory_usage_bytes) FROM duckdb_memory()") / MIB)
            kept.append(con._session.gateway._reuse._bytes / MIB)
    steps = " / ".join(f"{(step + 1) * STEP // 1000}k" for step in range(STEPS))
    growth = " / ".join(f"{later - earlier:+,.0f}" for earlier, later in pairwise(seen))
    own = [rss - duckdb for rss, duckdb in zip(seen, pool, strict=True)]
    mean = (own[-1] - own[1]) / (STEPS - 2)
    return [
        Row(f"memory, {label}: RSS after {steps} calls", _shown(seen)),
        Row("the same: growth in each further 50,000 calls", f"{growth} MiB"),
        Row(
            "the same: mean growth after 100k, less DuckDB's buffer pool",
            f"{mean:+.0f} MiB",
            f"flat: < {FLAT_MIB:.0f} MiB",
            mean < FLAT_MIB,
        ),
        Row("the same: of it DuckDB's buffer pool", _shown(pool)),
        Row("the same: of it ReuseCache, by its own estimate", _shown(kept)),
    ]


def _shown(sizes: Sequence[float]) -> str:
    return " / ".join(f"{mib:,.0f}" for mib in sizes) + " MiB"


def _rss_mib() -> float:
    """Return resident memory, without what the allocator holds free, which swings by tens of MiB."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        text = Path("/proc/self/status").read_text("utf-8")
    except OSError:  # macOS tells the peak only, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found
    return int(found[1]) / 1024
