"""What the statements of one cell came to, as the log has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fleming_sql.progress.figures import money

_OF_STATEMENTS = """
    with usage as (
        select
            databricks_request_id,
            coalesce(input_token_count, 0) + coalesce(output_token_count, 0) as tokens,
            cost_usd
        from fleming.serving.endpoint_usage
        where statement_id in (select unnest($statements))
    )
    select
        count(*) filter (where guardrail is null),
        count(*) filter (where guardrail is null and status_code <> 200),
        count(*) filter (where guardrail is null and cache_hit),
        coalesce(sum(tokens), 0)::bigint,
        sum(cost_usd),
        count(*) filter (where cost_usd is null)
    from fleming.serving.inference
    left join usage using (databricks_request_id)
    where statement_id in (select unnest($statements))
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """The calls of a cell, those of guardrails left out, and what all of them cost."""

    calls: int = 0
    failed: int = 0
    reused: int = 0
    """Calls that an earlier answer answered; they cost nothing."""
    tokens: int = 0
    cost_usd: float | None = 0.0
    """None where none of the prices is known."""
    unpriced: int = 0
    """Calls whose price is not known."""

    def words(self) -> str:
        """Return it in one line.

        Example:
            >>> Spending(calls=3, reused=1, tokens=240, cost_usd=0.0012).words()
            '3 calls, 1 reused · 240 tokens · $0.0012'
        """
        if not self.calls:
            return "no calls"
        calls = [f"{self.calls:,} {'call' if self.calls == 1 else 'calls'}"]
        calls += [f"{self.reused:,} reused"] * bool(self.reused)
        calls += [f"{self.failed:,} failed"] * bool(self.failed)
        return " · ".join([", ".join(calls), f"{self.tokens:,} tokens", self._cost()])

    def _cost(self) -> str:
        if self.cost_usd is None or (self.unpriced and not self.cost_usd):
            return "cost unknown (fleming.config_problems has the price to insert)"
        return money(self.cost_usd, is_partial=bool(self.unpriced))


def read_spending(con: Any, statements: Sequence[str]) -> Spending:
    """Return what statements came to.

    Args:
        con: A connection with a gateway.
        statements: Their ids.
    """
    if not statements:
        return Spending()
    cursor = con.cursor()  # the connection may be within a transaction that has failed
    try:
        rows = cursor.execute(_OF_STATEMENTS, {"statements": list(statements)}).fetchall()
    finally:
        cursor.close()
    return Spending(*rows[0])
