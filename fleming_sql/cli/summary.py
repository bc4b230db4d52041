"""The line below a result: how many rows, which calls were made for them, what they cost and how long it took."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fleming_sql import Connection

_CALLS: Final = """
select
    count(*) as calls,
    count(*) filter (where i.cache_hit) as cache_hits,
    count(*) filter (where i.status_code <> 200) as failed,
    sum(u.input_token_count) filter (where not i.cache_hit) as input_tokens,
    sum(u.output_token_count) filter (where not i.cache_hit) as output_tokens,
    sum(u.cost_usd) as cost_usd,
    count(*) filter (where i.status_code = 200 and u.cost_usd is null) as unpriced
from fleming.serving.inference as i
left join fleming.serving.endpoint_usage as u on u.databricks_request_id = i.databricks_request_id
where i.request_time >= $began and u.request_time >= $began
"""


class Stopwatch:
    """Sums up what happened since it was made. Nobody else has the store open, so all calls since are ours."""

    def __init__(self) -> None:
        self._began = datetime.now(UTC).replace(tzinfo=None)
        self._started = time.perf_counter()

    def summary(self, con: Connection, rows: int | None, *, changed: bool = False) -> str:
        """Return the line.

        Args:
            con: A connection with the gateway.
            rows: How many rows there were; None where there is nothing to count.
            changed: Whether these rows were written, not shown.
        """
        took = time.perf_counter() - self._started
        cursor = con.cursor()
        try:
            cursor.execute(_CALLS, {"began": self._began})
            names = [str(column[0]) for column in cursor.description]
            calls = dict(zip(names, cursor.fetchone() or (), strict=True))
        finally:
            cursor.close()
        parts = [*_rows(rows, changed=changed), *_calls(calls), _time(took)]
        return " · ".join(parts)


def dollars(amount: float | None) -> str:
    """Return an amount of US dollars with as many digits as it needs to be told from nothing."""
    if amount is None:
        return "unknown"
    if amount and abs(amount) < 0.01:
        return f"${amount:.6f}".rstrip("0") if abs(amount) >= 0.000001 else "<$0.000001"
    return f"${amount:,.2f}"


def _rows(rows: int | None, *, changed: bool) -> list[str]:
    if rows is None:
        return []
    return [f"{_count(rows, 'row')}{' changed' if changed else ''}"]


def _calls(calls: dict[str, Any]) -> list[str]:
    if not calls["calls"]:
        return []
    told = _count(calls["calls"], "call")
    of_these = [f"{calls[name]:,} {words}" for name, words in _OF_THESE if calls[name]]
    if of_these:
        told += f" ({', '.join(of_these)})"
    tokens = f"{_count(calls['input_tokens'] or 0, 'token')} in, {calls['output_tokens'] or 0:,} out"
    cost = dollars(calls["cost_usd"] or 0.0)
    if calls["unpriced"]:
        cost = f"{cost} and {_count(calls['unpriced'], 'call')} of unknown price"
    return [told, tokens, cost]


_OF_THESE: Final = (("cache_hits", "from the cache"), ("failed", "failed"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
