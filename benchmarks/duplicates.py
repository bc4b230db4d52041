"""Many rows, few questions: what is sent, and what is logged."""

from __future__ import annotations

from benchmarks.setup import gateway, measured, mock, value
from benchmarks.table import Row

ROWS = 400_000
DISTINCT = 5


def measure() -> list[Row]:
    """Ask the same five questions over and over."""
    with mock() as server, gateway(server) as con:
        con.execute(
            f"CREATE TABLE prompts AS SELECT 'Is this a complaint? Text ' || number % {DISTINCT} AS prompt "
            f"FROM range({ROWS}) AS r(number)"
        )
        with measured() as spent:
            assert value(con, "SELECT count(ai_query('chat', prompt)) FROM prompts") == ROWS
        sent = server.stats()["requests"]
        logged = value(con, "SELECT count(*) FROM fleming.serving.inference")
    return [
        Row(
            f"{ROWS:,} rows, {DISTINCT} distinct prompts: calls sent",
            f"{sent:,}",
            f"{DISTINCT}",
            sent == DISTINCT,
        ),
        Row("the same: rows in serving.inference", f"{logged:,}", f"{ROWS:,}", logged == ROWS),
        Row("the same: wall time", f"{spent.wall:.1f} s, {ROWS / spent.wall:,.0f} rows/s"),
    ]
