"""What one call takes longer through the gateway than straight to the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks.loops import Send, over
from benchmarks.setup import gateway, mock, prompts
from benchmarks.table import Row
from fleming_sql import Connection
from fleming_sql.connection.session import Session
from fleming_sql.gateway.plan import CallInput, Statement, make_plan
from fleming_sql.jsontext import dumps
from fleming_sql.transport.pooled import PooledTransport
from fleming_sql.types import Caller, CallOptions

WARM_UP = 200
CALLS = 2_000
BLOCK = 20

Timed = Callable[[Sequence[str]], list[float]]


def measure() -> list[Row]:
    """Make the calls three ways, in turns of a few each, so that noise meets all of them."""
    with mock() as server, gateway(server) as con:
        session = con._session
        ways: dict[str, Timed] = {
            "direct": lambda asked: session.engine.call(_timed(over(transport, server.url), asked)),
            "gateway": lambda asked: session.engine.call(_timed(call, asked)),
            "statement": lambda asked: _statements(con, asked),
        }
        transport, call = PooledTransport(), _through_gateway(session)
        times: dict[str, list[float]] = {name: [] for name in ways}
        names = list(ways)
        for start in range(0, WARM_UP + CALLS, BLOCK):
            for name in names:
                # The first call after another way's finds the caches cold, so it is made and not counted.
                times[name] += ways[name](prompts(f"{name} {start}", BLOCK + 1))[1:]
                session._log.flush()  # untimed: what the gateway's calls leave is not the statements' to write
            names = names[1:] + names[:1]
        assert server.stats()["requests"] == len(ways) * (BLOCK + 1) * (WARM_UP + CALLS) // BLOCK
        session.engine.call(transport.aclose())
    half, late = ({name: _quantile(taken[WARM_UP:], q) for name, taken in times.items()} for q in (0.5, 0.99))

    def added(name: str) -> tuple[float, float]:
        return half[name] - half["direct"], late[name] - late["direct"]

    (call_50, call_99), (statement_50, statement_99) = added("gateway"), added("statement")
    return [
        *(Row(f"one call, {name}: p50 / p99", f"{half[name]:.2f} / {late[name]:.2f} ms") for name in ways),
        Row("added by the gateway, p50", f"{call_50:.2f} ms", "< 0.35 ms", call_50 < 0.35),
        Row("added by the gateway, p99", f"{call_99:.2f} ms", "< 0.94 ms", call_99 < 0.94),
        Row("added by a whole SQL statement, p50", f"{statement_50:.2f} ms", "< 4 ms", statement_50 < 4),
        Row("added by a whole SQL statement, p99", f"{statement_99:.2f} ms"),
    ]


def _through_gateway(session: Session) -> Send:
    plan = make_plan(session.snapshot_for(-1, -1), "chat", CallOptions())
    statement = Statement("benchmark", Caller("benchmark"), lambda: None, lambda: None)

    async def call(prompt: str) -> None:
        outcome = await session.gateway.call(plan, CallInput(dumps(prompt)), statement)
        assert outcome.error is None and not outcome.record.cache_hit

    return call


async def _timed(call: Send, asked: Sequence[str]) -> list[float]:
    taken = []
    for prompt in asked:
        began = time.perf_counter()
        await call(prompt)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def _statements(con: Connection, asked: Sequence[str]) -> list[float]:
    taken = []
    for prompt in asked:
        began = time.perf_counter()
        con.execute("SELECT ai_query('chat', ?)", [prompt]).fetchall()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def _quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[int(q * len(values))]
