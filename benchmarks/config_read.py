"""What a statement pays for seeing the configuration as it is now."""

from __future__ import annotations

import time
from statistics import median

from benchmarks.setup import add_endpoint, gateway, mock
from benchmarks.table import Row
from fleming_sql import Connection

READS = 500


def measure() -> list[Row]:
    """Read a small and a large configuration, as every statement's first vector does."""
    with mock() as server, gateway(server) as con:
        rows = []
        known = 1
        for count in (3, 100):
            for number in range(known, count):
                add_endpoint(con, f"endpoint-{number:03d}", server)
            known = count
            began = time.perf_counter()
            con._session.snapshot_for(-count, -1)
            first_ms = (time.perf_counter() - began) * 1000
            ms = _read_ms(con, count)
            rows += [
                Row(
                    f"configuration of {count} endpoints, asked of DuckDB, unchanged", f"{ms:.2f} ms", "< 2 ms", ms < 2
                ),
                Row(f"configuration of {count} endpoints, the read after all were added", f"{first_ms:.1f} ms"),
            ]
    return rows


def _read_ms(con: Connection, count: int) -> float:
    taken = []
    for number in range(READS):
        con._session._config._files_seen = None  # as after any commit to the store, such as that of the log
        began = time.perf_counter()
        con._session.snapshot_for(-count, number)
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)
