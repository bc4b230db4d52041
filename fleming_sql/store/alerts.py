"""The rows of `alerts` as the snapshot holds them, what their queries return, and the alerts that were raised."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final, get_args

import duckdb

from fleming_sql.errors import ConfigError
from fleming_sql.store.call_rows import LAST_SEQ, naive
from fleming_sql.store.cursors import LateCursor
from fleming_sql.types import Alert, AlertRule, Comparison

ASK_S: Final = 30.0
"""How long a query may take."""
_SHOWN: Final = 300
"""Characters of DuckDB's words that are repeated."""
_RULES: Final = (
    "select name, query, comparison, threshold, epoch(every), webhook from alerts where enabled order by name"
)
_HOLDING: Final = "select name from serving.alerts where kind = 'query' and ended_at is null"
_RAISE: Final = "insert into serving.alerts values (?, ?, ?, ?, ?, ?, ?, ?, ?, null, null)"
_END: Final = "update serving.alerts set ended_at = ? where kind = 'query' and name = ? and ended_at is null"
_SET_STATUS: Final = "update serving.alerts set webhook_status = ? where alert_id = ?"
_BUDGET_KNOWN: Final = """
select count(*) > 0
from serving.alerts
where kind = 'budget' and name = ? and subject is not distinct from ? and window_start = ?
"""


def read_alerts(rows: Callable[[str], list[tuple[Any, ...]]]) -> tuple[AlertRule, ...]:
    """Read the enabled rows of `alerts`, less those that config_problems complains of.

    Args:
        rows: Runs a query.
    """
    rules = (AlertRule(*row) for row in rows(_RULES))
    return tuple(
        rule
        for rule in rules
        if rule.comparison in get_args(Comparison) and math.isfinite(rule.threshold) and rule.every_s > 0
    )


class AlertStore:
    """Asks the queries of alerts and keeps what was raised, in one store.

    Args:
        open_cursor: Opens a cursor of its own, whose current catalog is the store, when it is needed.
    """

    def __init__(self, open_cursor: Callable[[], duckdb.DuckDBPyConnection]) -> None:
        # A name in a query is a table of the store, never a Python variable of this package.
        self._cursor = LateCursor(open_cursor, "set session python_enable_replacements = false")

    def interrupt(self) -> None:
        """Break off the statement under way, from another thread."""
        self._cursor.interrupt()

    def last_seq(self) -> int:
        """Return the `log_seq` of the newest call, 0 without any."""
        return int(self._cursor.rows(LAST_SEQ)[0][0])

    def ask(self, query: str) -> float | None:
        """Return the number that an alert's query returns, None for no row, NULL and NaN.

        It sees the tables of the store without a prefix and can write nothing.

        Raises:
            ConfigError: It is not one SELECT, fails, takes longer than `ASK_S`, or returns no number.
        """
        cursor = self._cursor.get()
        try:
            statements = cursor.extract_statements(query)
        except duckdb.Error as error:
            raise ConfigError(_first_line(error)) from None
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigError("the query is not one SELECT")
        with suppress(duckdb.Error):  # an interrupt may have kept the last one open
            cursor.execute("rollback")
        cursor.execute("begin transaction read only")
        try:
            with _limited(cursor):
                row = cursor.execute(statements[0]).fetchone()
        except duckdb.InterruptException:
            raise ConfigError(f"the query did not end within {ASK_S:g} s") from None
        except duckdb.Error as error:
            raise ConfigError(_first_line(error)) from None
        finally:
            with suppress(duckdb.Error):  # an error has ended it
                cursor.execute("rollback")
        return _number(row[0] if row else None)

    def holding(self) -> set[str]:
        """Return the names of the queries whose alert has not ended."""
        return {name for (name,) in self._cursor.rows(_HOLDING)}

    def is_known(self, alert: Alert) -> bool:
        """Return whether an alert of the same budget, subject and window was raised before."""
        return bool(self._cursor.rows(_BUDGET_KNOWN, [alert.name, alert.subject, naive(alert.window_start)])[0][0])

    def add(self, alert: Alert) -> None:
        """Write an alert that was raised."""
        times = (naive(alert.alert_time), naive(alert.window_start))
        self._cursor.rows(
            _RAISE,
            [
                alert.alert_id,
                times[0],
                alert.kind,
                alert.name,
                alert.subject,
                times[1],
                alert.value,
                alert.threshold,
                alert.message,
            ],
        )

    def end(self, name: str, at: datetime) -> None:
        """Write that the alert of a query has ended."""
        self._cursor.rows(_END, [naive(at), name])

    def set_webhook_status(self, alert_id: str, status: str) -> None:
        """Write what came of telling the webhook of an alert."""
        self._cursor.rows(_SET_STATUS, [status, alert_id])


@contextmanager
def _limited(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    timer = threading.Timer(ASK_S, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _first_line(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0][:_SHOWN]


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"the query returns a {type(value).__name__}, not a number") from None
    return None if math.isnan(number) else number
