"""The job of the export benchmark: a process that makes calls and exports them until it is told to end, or killed."""

from __future__ import annotations

import sys
import threading

import fleming_sql
from benchmarks.setup import FILLER

EVERY_S = 0.2
ROWS = 250
"""Calls of one statement."""


def run(store: str, lake: str) -> None:
    """Make calls until standard input ends, then close, which exports the rest.

    Prints after each statement how often a commit met one of another process so far.
    """
    con = fleming_sql.connect(gateway=store)
    if not con.execute("SELECT 1 FROM fleming.endpoints").fetchall():
        _configure(con, lake)
    ended = threading.Event()
    threading.Thread(target=_set_at_end, args=(ended,), daemon=True).start()
    number = 0
    while not ended.is_set():
        con.execute(
            f"SELECT ai_query('chat', 'Parcel ' || n || '{FILLER}', cache => false) FROM range(?, ?) AS r(n)",
            [number, number + ROWS],
        ).fetchall()
        number += ROWS
        print(con._session.upkeep.export.conflicts, flush=True)
    con.close()
    print(con._session.upkeep.export.conflicts, flush=True)


def _set_at_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _configure(con: fleming_sql.Connection, lake: str) -> None:
    con.execute(
        "BEGIN; INSERT INTO fleming.endpoints (name) VALUES ('chat'); "
        "INSERT INTO fleming.served_entities (endpoint, name, provider, parameters) "
        """VALUES ('chat', 'demo', 'simulated', '{"template": "{first_words}", "latency_ms": 0}')"""
    )
    settings = {"delta_location": lake, "delta_every_seconds": str(EVERY_S), "delta_compact_hours": "0.001"}
    con.executemany("INSERT INTO fleming.settings VALUES (?, ?)", [list(item) for item in settings.items()])
    con.execute("COMMIT")


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2])
