"""What the statements of one cell came to, as the log has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fleming_sql.gateway.records import CANCELLED_STATUS
from fleming_sql.progress.figures import money

_OF_STATEMENTS: Final = """
    with usage as (
        select
            databricks_request_id,
            input_token_count,
            coalesce(input_token_count, 0) + coalesce(output_token_count, 0) as tokens,
            cost_usd
        from fleming.serving.endpoint_usage
        where statement_id in (select unnest($statements))
    )
    select
        count(*) filter (where guardrail is null),
        count(*) filter (where guardrail is null and status_code not in (200, $broken_off)),
        count(*) filter (where guardrail is null and status_code = $broken_off),
        count(*) filter (where guardrail is null and cache_hit),
        coalesce(sum(tokens), 0)::bigint,
        sum(cost_usd),
        count(*) filter (where cost_usd is null),
        count(*) filter (where cost_usd is null and status_code = $broken_off),
        count(*) filter (
            where cost_usd is null and (status_code = 200 or status_code <> $broken_off and input_token_count > 0)
            and input_token_count is not null  -- usage tracking covers it
        )
    from fleming.serving.inference
    left join usage using (databricks_request_id)
    where statement_id in (select unnest($statements))
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """The calls of a cell, those of guardrails left out, and what all of them cost."""

    calls: int = 0
    failed: int = 0
    broken_off: int = 0
    """Calls that an interrupt ended; no failed ones."""
    reused: int = 0
    """Calls that an earlier answer answered; they cost nothing."""
    tokens: int = 0
    cost_usd: float | None = 0.0
    """The sum of what is known; None where that is nothing."""
    unknown: int = 0
    """Calls whose cost is not known."""
    unknown_broken_off: int = 0
    """Of these, broken off: what was sent may be billed."""
    unpriced: int = 0
    """Of these, answered by a model that has no price."""

    @property
    def answered(self) -> int:
        """Calls that a model answered."""
        return self.calls - self.failed - self.broken_off - self.reused

    def words(self) -> str:
        """Return it in one line.

        Example:
            >>> Spending(calls=3, reused=1, tokens=240, cost_usd=0.0012).words()
            '3 calls, 1 reused · 240 tokens · $0.0012'
            >>> Spending(calls=9, broken_off=8, tokens=80, cost_usd=0.0004, unknown=8, unknown_broken_off=8).words()
            '9 calls, 8 broken off, their cost is not known · 80 tokens · at least $0.00040'
        """
        if not self.calls:
            return "no calls"
        calls = [f"{self.calls:,} {'call' if self.calls == 1 else 'calls'}"]
        calls += [f"{self.reused:,} reused"] * bool(self.reused)
        calls += [f"{self.failed:,} failed"] * bool(self.failed)
        calls += [f"{self.broken_off:,} broken off"] * bool(self.broken_off)
        calls += ["their cost is not known"] * bool(self.broken_off and self.unknown_broken_off)
        return " · ".join([", ".join(calls), f"{self.tokens:,} tokens", *self._cost()])

    def _cost(self) -> Sequence[str]:
        if self.cost_usd or not self.unknown:
            return [money(self.cost_usd or 0.0, is_partial=bool(self.unknown))]
        if self.unpriced:
            return ["cost unknown (fleming.config_problems has the price to insert)"]
        is_said = self.broken_off and self.unknown_broken_off == self.unknown
        return [] if is_said else ["cost unknown"]


def read_spending(con: Any, statements: Sequence[str]) -> Spending:
    """Return what statements came to.

    Args:
        con: A connection with a gateway.
        statements: Their ids.
    """
    if not statements:
        return Spending()
    parameters = {"statements": list(statements), "broken_off": CANCELLED_STATUS}
    cursor = con.cursor()  # the connection may be within a transaction that has failed
    try:
        rows = cursor.execute(_OF_STATEMENTS, parameters).fetchall()
    finally:
        cursor.close()
    return Spending(*rows[0])
