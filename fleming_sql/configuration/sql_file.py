"""The configuration as a SQL file: re-runnable statements out; insert, update, delete and merge in.

A file's statements run in a DuckDB instance of their own, which holds a copy of the configuration tables and nothing
else: no files, no network, no model. What they made of the copy is compared with the store.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from fleming_sql.configuration.errors import ConfigFileError
from fleming_sql.configuration.rows import Row, Rows, read_rows
from fleming_sql.configuration.schema import Schema, Table
from fleming_sql.configuration.statements import explain
from fleming_sql.configuration.values import comparable, sql_literal
from fleming_sql.sqltext import quote_identifier

_HEAD: Final = """\
-- The configuration of a fleming-sql gateway. `fleming apply FILE --dry-run` shows what would change; the statements
-- may be run again. A column that is not written has its default. Secrets are not here: credentials say where they are.
"""
_CATALOG: Final = "fleming"
_DEFINITIONS: Final = """
select table_name, sql
from duckdb_tables()
where database_name = current_database() and schema_name = 'main'
"""
_WRITES: Final = (exp.Insert, exp.Update, exp.Delete, exp.Merge)
_ACCEPTED: Final = "a configuration file holds insert, update, delete and merge statements on"


def write_sql(schema: Schema, rows: Rows) -> str:
    """Return the rows as statements that put them in the place of those with the same keys.

    Args:
        schema: Of the rows.
        rows: By table.
    """
    parts = [_statements(table, list(rows[table.name])) for table in schema.tables.values() if rows[table.name]]
    return "\n".join([_HEAD, *parts])


def _statements(table: Table, rows: list[Row]) -> str:
    names = [
        column.name
        for column in table.columns.values()
        if column.name in table.key
        or any(comparable(column, row.values[column.name]) != comparable(column, column.default) for row in rows)
    ]
    values = ",\n".join(f"    ({', '.join(sql_literal(row.values[name]) for name in names)})" for row in rows)
    columns = ", ".join(_column(name) for name in names)
    deletes = "".join(f"{statement};\n" for statement in dict.fromkeys(_deletes(table, rows)))
    return f"{deletes}insert into {_CATALOG}.{table.name} ({columns})\nvalues\n{values};\n"


def _deletes(table: Table, rows: list[Row]) -> Iterator[str]:
    if len(table.key) == 1:
        keys = ", ".join(sql_literal(row.values[table.key[0]]) for row in rows)
        yield f"delete from {_CATALOG}.{table.name} where {_column(table.key[0])} in ({keys})"  # noqa: S608
        return
    own = "" if table.where == "true" else f" and {table.where}"
    by_empty: defaultdict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for row in rows:
        filled = tuple(name for name in table.key if row.values[name] is not None)
        by_empty[filled][f"({', '.join(sql_literal(row.values[name]) for name in filled)})"] = None
    for filled, found in by_empty.items():
        # One statement for each set of empty columns: nothing is equal to NULL.
        conditions = [f"{_column(name)} is null" for name in table.key if name not in filled]
        if filled:
            conditions.append(f"({', '.join(map(_column, filled))}) in ({', '.join(found)})")
        yield f"delete from {_CATALOG}.{table.name} where {' and '.join(conditions)}{own}"  # noqa: S608  own names


def _column(name: str) -> str:
    return quote_identifier(name) if name == "window" else name


def read_sql(
    cursor: duckdb.DuckDBPyConnection, schema: Schema, current: Rows, text: str, source: str
) -> dict[str, list[Row]]:
    """Return what the tables would be after a file's statements; the store itself is not touched.

    Args:
        cursor: Its current catalog is the store.
        schema: Of the store.
        current: Its rows.
        text: The file.
        source: Its name, for messages.

    Raises:
        ConfigFileError: With all that is not accepted, or with the statement that failed.
    """
    statements = _split(text, source)
    faults = [fault for line, statement in statements for fault in _refused(schema, statement, f"{source}:{line}")]
    if faults:
        raise ConfigFileError(faults)
    sandbox = _sandbox(cursor, schema, current)
    try:
        for line, statement in statements:
            try:
                sandbox.execute(statement)
            except duckdb.Error as error:
                table = _target(schema, statement)
                told = "" if table is None else f": table {table.name}"
                raise ConfigFileError([f"{source}:{line}{told}{explain(error, table)}"]) from None
        _refuse_foreign_rows(sandbox, schema, source)
        return read_rows(sandbox, schema)
    finally:
        sandbox.close()


def _split(text: str, source: str) -> list[tuple[int, str]]:
    """Return the statements with the line that each begins on."""
    parser = duckdb.connect()
    try:
        found = [statement.query for statement in parser.extract_statements(text)]
    except duckdb.Error as error:
        raise ConfigFileError([f"{source}: this is not SQL{explain(error, None)}"]) from None
    finally:
        parser.close()
    placed: list[tuple[int, str]] = []
    end = 0
    for query in found:
        begin = max(text.find(query, end), end)
        end = begin + len(query)
        placed.append((_line(text, begin, query), query))
    return placed


def _line(text: str, begin: int, query: str) -> int:
    """Return the line of a statement's first word, past the blank lines and comments before it."""
    line = text.count("\n", 0, begin) + 1
    for skipped in query.split("\n"):
        if skipped.strip() and not skipped.lstrip().startswith("--"):
            break
        line += 1
    return line


def _refused(schema: Schema, statement: str, place: str) -> list[str]:
    accepted = f"{_ACCEPTED} {', '.join(schema.tables)}"
    try:
        parsed = _parse(statement)
    except SqlglotError:
        return [f"{place}: the statement cannot be checked: write it plainer; {accepted}"]
    if not isinstance(parsed, _WRITES):
        return [f"{place}: {_kind(parsed)} is not accepted: {accepted}"]
    known = {*schema.tables, *(cte.alias_or_name for cte in parsed.find_all(exp.CTE))}
    return [
        f"{place}: {_named(table)} is no table of the configuration: {accepted}"
        for table in parsed.find_all(exp.Table)
        if not _is_known(table, known)
    ]


def _parse(statement: str) -> exp.Expr | None:
    logger = logging.getLogger("sqlglot")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it says on stderr what it does not know, which is refused here anyway
    try:
        found = sqlglot.parse(statement, read="duckdb")
    finally:
        logger.setLevel(level)
    parsed = [part for part in found if part is not None and not isinstance(part, exp.Semicolon)]
    return parsed[0] if len(parsed) == 1 else None


def _target(schema: Schema, statement: str) -> Table | None:
    """Return the table that a statement writes to."""
    parsed = _parse(statement)
    found = parsed.find(exp.Table) if parsed is not None else None
    return schema.tables.get(found.name.lower()) if found is not None else None


def _kind(parsed: exp.Expr | None) -> str:
    if parsed is None:
        return "this"
    return str(parsed.this).lower() if isinstance(parsed, exp.Command) else type(parsed).__name__.lower()


def _is_known(table: exp.Table, known: set[str]) -> bool:
    if not isinstance(table.this, exp.Identifier) or table.name.lower() not in known:
        return False
    path = tuple(part.lower() for part in (table.catalog, table.db) if part)
    return path in ((), ("main",), (_CATALOG,), (_CATALOG, "main"))


def _named(table: exp.Table) -> str:
    return f'"{table.name}"' if table.name else "a table function"


def _sandbox(cursor: duckdb.DuckDBPyConnection, schema: Schema, current: Rows) -> duckdb.DuckDBPyConnection:
    definitions = dict(cursor.execute(_DEFINITIONS).fetchall())
    sandbox = duckdb.connect(config={"threads": 1, "python_enable_replacements": False})
    sandbox.execute(f"attach ':memory:' as {_CATALOG}; use {_CATALOG}")
    sandbox.execute("set enable_external_access = false")
    sandbox.execute("set lock_configuration = true")
    for table in schema.tables.values():
        sandbox.execute(definitions[table.name])
        _fill(sandbox, table, current[table.name])
    return sandbox


def _fill(sandbox: duckdb.DuckDBPyConnection, table: Table, rows: Sequence[Row]) -> None:
    """Copy the rows of a table in one statement, column by column."""
    if not rows:
        return
    columns = ", ".join(map(quote_identifier, table.columns))
    values = ", ".join(f"unnest(cast(? as {column.type}[]))" for column in table.columns.values())
    sandbox.execute(
        f"insert into {quote_identifier(table.name)} ({columns}) select {values}",
        [[row.values[name] for row in rows] for name in table.columns],
    )


def _refuse_foreign_rows(sandbox: duckdb.DuckDBPyConnection, schema: Schema, source: str) -> None:
    """Refuse rows that would pass for those of the price list."""
    for table in schema.tables.values():
        name = quote_identifier(table.name)
        rows = sandbox.execute(f"select 1 from {name} where not ({table.where}) limit 1").fetchall()  # noqa: S608
        if rows:
            told = f"{source}: table {table.name}: rows that are not {table.where} come from the package alone"
            raise ConfigFileError([told])
