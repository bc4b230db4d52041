"""What calls have cost before: the log, added up for each budget."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import duckdb

from fleming_sql.types import Budget, Spent

_SPENT: Final = "select budget, subject, spent_usd from __spend_at(?) where spent_usd > 0"


class SpendingLog:
    """Reads what was spent.

    Args:
        cursor: A cursor of its own, whose current catalog is the store.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._lock = threading.Lock()

    def so_far(self, budgets: Sequence[Budget], at: datetime) -> list[Spent]:
        """Return what calls in the log have cost in the windows that a moment is in.

        Args:
            budgets: As the configuration has them.
            at: The moment, with its time zone.
        """
        by_name = {budget.name: budget for budget in budgets}
        with self._lock:
            rows = self._cursor.execute(_SPENT, [at.astimezone(UTC).replace(tzinfo=None)]).fetchall()
        return [Spent(by_name[name], subject, spent) for name, subject, spent in rows if name in by_name]
