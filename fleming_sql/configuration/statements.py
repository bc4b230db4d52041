"""What writes rows of the configuration, and what DuckDB has against them in words that name row and column."""

from __future__ import annotations

import re
from typing import Final

import duckdb

from fleming_sql.configuration.diff import Changed, Diff
from fleming_sql.configuration.errors import ConfigFileError
from fleming_sql.configuration.rows import Row
from fleming_sql.configuration.schema import Column, Table
from fleming_sql.configuration.secrets import looks_like_secret
from fleming_sql.sqltext import quote_identifier

_NOT_NULL: Final = re.compile(r"NOT NULL constraint failed: (?:\w+\.)*(\w+)")
_CHECK: Final = re.compile(r"CHECK constraint failed on table \S+ with expression CHECK\((.*)\)", re.DOTALL)
_PREFIX: Final = re.compile(r"^[A-Za-z ]+ Error: ")


def write_changes(cursor: duckdb.DuckDBPyConnection, diff: Diff) -> None:
    """Make the changes, in the transaction that the cursor is in.

    Raises:
        ConfigFileError: The store does not take a row.
    """
    for found in diff.tables:
        for row in found.removed:
            cursor.execute(f"delete from {_name(found.table)} where rowid = ?", [row.rowid])  # noqa: S608
    for found in diff.tables:
        for changed in found.changed:
            _run(cursor, found.table, changed.new, *_update(found.table, changed))
        for row in found.added:
            insert_row(cursor, found.table, row)


def insert_row(cursor: duckdb.DuckDBPyConnection, table: Table, row: Row) -> None:
    """Insert one row.

    Raises:
        ConfigFileError: The store does not take it.
    """
    names = ", ".join(map(quote_identifier, table.columns))
    values = ", ".join(_bound(column) for column in table.columns.values())
    statement = f"insert into {_name(table)} ({names}) values ({values})"  # noqa: S608  own names
    _run(cursor, table, row, statement, [row.values[name] for name in table.columns])


def _update(table: Table, changed: Changed) -> tuple[str, list[object]]:
    cells = ", ".join(f"{quote_identifier(name)} = {_bound(table.columns[name])}" for name in changed.columns)
    statement = f"update {_name(table)} set {cells} where rowid = ?"  # noqa: S608  own names
    return statement, [*(changed.new.values[name] for name in changed.columns), changed.old.rowid]


def _bound(column: Column) -> str:
    return f"cast(? as {column.type})"


def _name(table: Table) -> str:
    return quote_identifier(table.name)


def _run(cursor: duckdb.DuckDBPyConnection, table: Table, row: Row, statement: str, parameters: list[object]) -> None:
    try:
        cursor.execute(statement, parameters)
    except duckdb.Error as error:
        place = f"{row.place}: " if row.place else ""
        told = explain(error, table)
        raise ConfigFileError([f'{place}table {table.name}, row "{table.label(row.values)}"{told}']) from None


def explain(error: duckdb.Error, table: Table | None) -> str:
    """Return what DuckDB has against a row, to stand behind the row's name: column, reason and what is accepted.

    Args:
        error: DuckDB's.
        table: Whose row; None where it is not known.
    """
    text = _PREFIX.sub("", str(error).splitlines()[0])
    missing = _NOT_NULL.search(text)
    if missing is not None:
        return f", column {missing[1]}: it must not be empty{_meaning(table, missing[1])}"
    check = _CHECK.search(text)
    if check is not None and table is not None:
        name = next((name for name in table.columns if re.search(rf"\b{re.escape(name)}\b", check[1])), None)
        column = f", column {name}" if name else ""
        return f"{column}: it is not within {check[1]}{_meaning(table, name)}"
    return f": {'DuckDB does not take it' if looks_like_secret(text) else text}"


def _meaning(table: Table | None, column: str | None) -> str:
    known = table.columns.get(column) if table is not None and column is not None else None
    comment = known.comment if known is not None else ""
    return f" ({comment})" if comment else ""
