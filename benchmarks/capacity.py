"""Whether a batch finds out by itself how much a provider takes at once, and how much of it then goes unused."""

from __future__ import annotations

import sys
import time
from threading import Thread

from benchmarks.faults import failing, stats
from benchmarks.loops import over, run
from benchmarks.processes import apart
from benchmarks.setup import Mock, Spent, fill, gateway, measured, prompts
from benchmarks.table import Row
from fleming_sql import Connection
from fleming_sql.transport.pooled import PooledTransport

PLACES = (8, 32, 100)
CONCURRENCY = (128, 512)
LATENCY_S = 0.1
WARM_UP_S = 3.0
MEASURED_S = 4.0
KNOWING_S = 3.0
"""How long the client that knows the places is watched: connections opened at the start weigh little then."""


def measure() -> list[Row]:
    """Run one statement for each number of places and each `max_concurrency`."""
    rows = []
    for places in PLACES:
        with failing("--places", str(places), latency_s=LATENCY_S) as server:
            known = apart(_knowing, server.url, places)
        rows.append(Row(f"{places} places, a client that knows: answers", f"{known:,.0f} a second"))
        for concurrency in CONCURRENCY:
            rows += _finding_out(places, concurrency, known)
    return rows


def _knowing(url: str, places: int) -> float:
    """Return the answers a second that a bare loop gets which sends as many at once as there are places."""
    transport, count = PooledTransport(), int(places / LATENCY_S * KNOWING_S)
    spent: Spent = run(lambda: over(transport, url), prompts("knowing", count), places, transport.aclose)
    return count / spent.wall


def _finding_out(places: int, concurrency: int, known: float) -> list[Row]:
    count = int(places / LATENCY_S * (WARM_UP_S + MEASURED_S))
    with (
        failing("--places", str(places), latency_s=LATENCY_S) as server,
        gateway(server, concurrency) as con,
    ):
        fill(con, f"{places} places", count)
        warm = _AfterWarmUp(server)
        with measured() as spent:
            answered = _ask(con)
        end = stats(server)
    if warm.seen is None:
        raise AssertionError(f"the statement was over within {WARM_UP_S} s")
    served = end["served"] - warm.seen["served"]
    refused = end["over_capacity"] - warm.seen["over_capacity"]
    used = served / (spent.wall - WARM_UP_S) / known
    share = refused / max(1, served + refused)
    return [
        Row(f"{places} places, max_concurrency {concurrency}: goodput", f"{used:.0%}", ">= 90 %", used >= 0.9),
        Row("the same: refused, of the requests after the first 3 s", f"{share:.1%}", "< 5 %", share < 0.05),
        Row(
            "the same: refused in all; rows answered",
            f"{end['over_capacity']:,}; {answered:,} of {count:,} in {spent.wall:.1f} s",
        ),
    ]


def _ask(con: Connection) -> int:
    """Return how many rows were answered."""
    answered, error = con.execute(
        "SELECT count(a.result), any_value(a.errorMessage) "
        "FROM (SELECT ai_query('chat', prompt, failOnError => false) AS a FROM prompts)"
    ).fetchall()[0]
    if error:
        print(error, file=sys.stderr)
    return int(answered)


class _AfterWarmUp:
    """Takes the server's counters once the warm-up is over, in a thread, since the statement holds the caller's."""

    def __init__(self, server: Mock) -> None:
        self.seen: dict[str, int] | None = None
        Thread(target=self._look, args=(server,), daemon=True).start()

    def _look(self, server: Mock) -> None:
        time.sleep(WARM_UP_S)
        self.seen = stats(server)
