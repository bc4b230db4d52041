"""Rows of the configuration, as a store or a file has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import duckdb

from fleming_sql.configuration.errors import ConfigFileError
from fleming_sql.configuration.schema import Column, Schema, Table, Value
from fleming_sql.configuration.values import wanted
from fleming_sql.sqltext import quote_identifier


@dataclass(frozen=True, slots=True)
class Row:
    """One row, all of its columns in plain form."""

    values: Mapping[str, Value]
    place: str = ""
    """Where a file has it, such as `fleming.yaml:12`."""
    rowid: int | None = field(default=None, compare=False)
    """Where the store has it, within one transaction."""


Rows = Mapping[str, Sequence[Row]]
"""By table. A table that a file does not speak of is not in it."""


def read_rows(cursor: duckdb.DuckDBPyConnection, schema: Schema) -> dict[str, list[Row]]:
    """Read people's own rows of all tables, in a stable order.

    Args:
        cursor: Its current catalog is the store.
        schema: Of that store.
    """
    return {table.name: _read(cursor, table) for table in schema.tables.values()}


def _read(cursor: duckdb.DuckDBPyConnection, table: Table) -> list[Row]:
    columns = ", ".join(column.plain for column in table.columns.values())
    order = ", ".join(f"{quote_identifier(name)} nulls first" for name in dict.fromkeys((*table.key, *table.columns)))
    found = cursor.execute(
        f"select rowid, {columns} from {quote_identifier(table.name)} where {table.where} order by {order}"  # noqa: S608
    ).fetchall()
    return [Row(dict(zip(table.columns, values, strict=True)), rowid=rowid) for rowid, *values in found]


def spelled(cursor: duckdb.DuckDBPyConnection, schema: Schema, rows: Rows) -> dict[str, list[Row]]:
    """Return the rows of a file with times and intervals spelled as the store spells them.

    Args:
        cursor: Any.
        schema: Of the rows.
        rows: As the file has them.

    Raises:
        ConfigFileError: A text is no time, interval or JSON.
    """
    faults: list[str] = []
    found = {name: list(of_table) for name, of_table in rows.items()}
    for name, of_table in found.items():
        table = schema.tables[name]
        for column in table.columns.values():
            if not column.is_native:
                _spell(cursor, table, column, of_table, faults)
    if faults:
        raise ConfigFileError(faults)
    return found


def _spell(cursor: duckdb.DuckDBPyConnection, table: Table, column: Column, rows: list[Row], faults: list[str]) -> None:
    texts = list({row.values[column.name] for row in rows} - {None, column.default})
    if not texts:
        return
    casts = f"select t, try_cast(t as {column.type})::varchar from (select unnest($1::varchar[]) as t)"  # noqa: S608
    known = dict(cursor.execute(casts, [texts]).fetchall())
    for number, row in enumerate(rows):
        text = row.values[column.name]
        if text not in known:
            continue
        if known[text] is None:
            told = f'table {table.name}, row "{table.label(row.values)}", column {column.name}'
            faults.append(f"{row.place}: {told}: the column takes {wanted(column)}")
        elif column.type != "JSON":
            rows[number] = replace(row, values={**row.values, column.name: known[text]})
