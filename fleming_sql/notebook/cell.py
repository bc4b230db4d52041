"""Runs the SQL of one cell: bound parameters, progress, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import pyarrow as pa

from fleming_sql.connection import Connection, Statements, attach
from fleming_sql.errors import FlemingError
from fleming_sql.notebook.connections import Con
from fleming_sql.notebook.errors import CellError, explained
from fleming_sql.notebook.result import AiResult
from fleming_sql.notebook.spending import Spending, read_spending


def run_cell(con: Con, text: str, variables: dict[str, Any]) -> AiResult:
    """Run the statements of a cell and return the rows of the last one.

    Args:
        con: Gets a gateway if it has none.
        text: SQL. `$name` stands for the value of the notebook's variable of that name, which is bound and not
            pasted; frames that are named as tables are found.
        variables: The notebook's.

    Raises:
        CellError: A statement failed or was interrupted, in the words of its cause.
    """
    begin = time.perf_counter()
    try:
        if not isinstance(con, Connection):
            attach(con)
        statements = Statements(con)
    except (duckdb.Error, FlemingError) as error:
        raise CellError(explained(error)) from None
    try:
        with statements.without_trace(), _without_duckdbs_bar(con):
            table = _run(con, text, variables)
    except (duckdb.Error, FlemingError, RuntimeError, KeyboardInterrupt) as error:
        raise CellError(_told(error, read_spending(con, statements.new()))) from None
    return AiResult(table, read_spending(con, statements.new()), time.perf_counter() - begin)


def _run(con: Con, text: str, variables: dict[str, Any]) -> pa.Table | None:
    table = None
    for statement in con.extract_statements(text):
        relation = _sql(con, statement, _parameters(statement, variables), variables)
        table = None if relation is None or _is_count(statement, relation) else relation.to_arrow_table()
    return table


def _is_count(statement: Any, relation: Any) -> bool:
    """Return whether a relation only says how many rows a statement changed; DuckDB 1.5 returns none there."""
    return duckdb.ExpectedResultType.CHANGED_ROWS in statement.expected_result_type and relation.columns == ["Count"]


def _sql(con: Con, statement: Any, parameters: dict[str, Any], variables: dict[str, Any]) -> Any:
    """Run a statement where DuckDB sees the notebook's variables: it looks for frames in those of its caller."""
    given = {"_sql": con.sql, "_statement": statement, "_parameters": parameters or None}
    return eval("_sql(_statement, params=_parameters)", variables, given)  # noqa: S307  a constant


def _parameters(statement: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    names = sorted(statement.named_parameters)
    numbered = [name for name in names if name.isdigit()]
    if numbered:
        raise CellError("parameters are the notebook's variables: write $name with the name of one, not ? or $1")
    missing = [name for name in names if name not in variables]
    if missing:
        raise CellError(
            f"the parameter ${missing[0]} has no value: no variable of this notebook is called {missing[0]}"
        )
    return {name: variables[name] for name in names}


def _told(error: BaseException, spending: Spending) -> str:
    text = explained(error)
    if _is_interrupt(error) or text.startswith("[CANCELLED]"):
        text = "interrupted; what was under way is broken off"
    if spending.calls - spending.reused <= 0:
        return text
    again = " Answers that came are used again when the cell runs again." if spending.answered else ""
    return f"{text}\nThe cell came to: {spending.words()}.{again}"


def _is_interrupt(error: BaseException) -> bool:
    """Return whether somebody stopped the cell; DuckDB says so in more than one way."""
    if isinstance(error, KeyboardInterrupt | duckdb.InterruptException):
        return True
    return isinstance(error, RuntimeError) and not isinstance(error, duckdb.Error) and "interrupted" in str(error)


@contextmanager
def _without_duckdbs_bar(con: Con) -> Iterator[None]:
    """Keep DuckDB from drawing a bar of its own below this one; in notebooks it has it switched on."""
    try:
        [(was_on,)] = con.execute("select current_setting('enable_progress_bar')").fetchall()
    except duckdb.TransactionException:  # one that failed, which the cell may end
        was_on = False
    if not was_on:
        yield
        return
    con.execute("set enable_progress_bar = false")
    try:
        yield
    finally:
        with suppress(duckdb.Error):  # closed meanwhile, or within a transaction that failed
            con.execute("set enable_progress_bar = true")
