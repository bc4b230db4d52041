"""The tables that people edit, as the catalog of a store has them: columns, types, defaults and keys.

A new table needs its line in `_TABLES`, which says what the catalog cannot; a new column needs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from fleming_sql.configuration.labels import label_of
from fleming_sql.sqltext import quote_identifier

Value = Any
"""A cell in plain form: None, bool, int, float, a list of texts, or text for every other type, JSON included."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """What the catalog cannot say about a table."""

    name: str
    key: tuple[str, ...] = ()
    """What a row is known by; empty is the primary key."""
    name_key: tuple[str, ...] = ()
    """What a row is known by that has a name: where the last of these columns is not NULL."""
    null_key: tuple[str, ...] = ()
    """Columns of which it only counts whether they are NULL."""
    nested_by: tuple[str, str] | None = None
    """The table whose rows hold its rows in a file, and the column that names them."""
    where: str = "true"
    """Which rows are people's own."""
    hidden: frozenset[str] = frozenset()
    """Columns that are not people's to write."""


_TABLES: Final = (
    _Listed("endpoints"),
    _Listed("served_entities", nested_by=("endpoints", "endpoint")),
    _Listed("credentials"),
    _Listed("principals"),
    _Listed("group_members"),
    _Listed("permissions", key=("endpoint", "principal_type", "principal", "privilege")),
    _Listed("rate_limits", key=("endpoint", "key", "principal", "renewal_period"), null_key=("calls", "tokens")),
    _Listed("guardrails", key=("endpoint", "phase", "kind", "rank"), name_key=("endpoint", "phase", "name")),
    _Listed("pii_entities"),
    _Listed(
        "budgets",
        key=("scope", "endpoint", "principal", "context_key", "window", "action"),
        name_key=("name",),
    ),
    _Listed("alerts"),
    _Listed(
        "model_prices",
        key=("provider", "model", "service_tier", "from_input_tokens", "valid_from"),
        where="source = 'user'",
        hidden=frozenset({"source"}),
    ),
    _Listed("entity_prices", key=("endpoint", "served_entity", "valid_from")),
    _Listed("settings"),
)
_NATIVE: Final = frozenset({"VARCHAR", "BOOLEAN", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR[]"})
"""Types whose values Python has as they are; all others are read and written as text."""
_COLUMNS: Final = """
select table_name, column_name, data_type, is_nullable, column_default, coalesce(comment, '')
from duckdb_columns()
where database_name = current_database() and schema_name = 'main'
order by table_name, column_index
"""
_KEYS: Final = """
select table_name, constraint_column_names
from duckdb_constraints()
where database_name = current_database() and schema_name = 'main' and constraint_type = 'PRIMARY KEY'
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One column that people write."""

    name: str
    type: str
    """DuckDB's name of it."""
    nullable: bool
    default: Value
    comment: str
    """What it means, and often what it may be."""

    @property
    def required(self) -> bool:
        """Whether each row has to have it."""
        return not self.nullable and self.default is None

    @property
    def is_native(self) -> bool:
        """Whether Python has its values as they are; those of others are text, spelled as DuckDB spells them."""
        return self.type in _NATIVE

    @property
    def plain(self) -> str:
        """The expression that reads it in plain form."""
        name = quote_identifier(self.name)
        return name if self.is_native else f"{name}::varchar"


@dataclass(frozen=True, slots=True)
class Table:
    """One table that people edit."""

    name: str
    columns: Mapping[str, Column]
    key: tuple[str, ...]
    is_unique: bool
    """Whether the store refuses a second row with the same key."""
    parent: str | None
    """The table whose rows hold its rows in a file."""
    parent_column: str
    """The column that names the row of the parent; empty without one."""
    where: str
    """Condition of the rows that are people's own."""
    _name_key: tuple[str, ...] = ()
    _null_key: tuple[str, ...] = ()

    def key_of(self, row: Mapping[str, Value]) -> tuple[Value, ...]:
        """Return what tells a row apart from others, over all runs."""
        if self._name_key and row[self._name_key[-1]] is not None:
            return ("named", *(row[column] for column in self._name_key))
        return (*(row[column] for column in self.key), *(row[column] is None for column in self._null_key))

    def label(self, row: Mapping[str, Value]) -> str:
        """Return a row's name in messages, as `config_problems.row_key` writes it.

        Example:
            >>> table.label({"endpoint": "chat", "name": "mini"})
            'chat/mini'
        """
        return label_of(self.name, self.key, row).text

    def unlabelled(self, row: Mapping[str, Value]) -> list[str]:
        """Return the columns whose values the row's name does not tell."""
        told = label_of(self.name, self.key, row).columns
        return [name for name in self.columns if name not in told]


@dataclass(frozen=True, slots=True)
class Schema:
    """All tables that people edit, in the order of a file."""

    tables: Mapping[str, Table]

    def children(self, name: str) -> tuple[Table, ...]:
        """Return the tables whose rows a file holds within those of a table."""
        return tuple(table for table in self.tables.values() if table.parent == name)


def read_schema(cursor: duckdb.DuckDBPyConnection) -> Schema:
    """Read the schema from the catalog.

    Args:
        cursor: Its current catalog is the store.
    """
    keys = {table: tuple(columns) for table, columns in cursor.execute(_KEYS).fetchall()}
    columns: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for table, *column in cursor.execute(_COLUMNS).fetchall():
        columns[table].append(tuple(column))
    return Schema(
        {
            listed.name: Table(
                listed.name,
                {column.name: column for column in _columns(cursor, listed, columns[listed.name])},
                listed.key or keys[listed.name],
                is_unique=not listed.key,
                parent=listed.nested_by[0] if listed.nested_by else None,
                parent_column=listed.nested_by[1] if listed.nested_by else "",
                where=listed.where,
                _name_key=listed.name_key,
                _null_key=listed.null_key,
            )
            for listed in _TABLES
        }
    )


def _columns(cursor: duckdb.DuckDBPyConnection, listed: _Listed, rows: list[tuple[Any, ...]]) -> list[Column]:
    rows = [row for row in rows if row[0] not in listed.hidden]
    # The catalog has the defaults as expressions.
    defaults = [_default(kind, default) for _, kind, _, default, _ in rows]
    values = cursor.execute(f"select {', '.join(defaults)}").fetchall()[0]
    return [
        Column(name, kind, nullable, value, comment)
        for (name, kind, nullable, _, comment), value in zip(rows, values, strict=True)
    ]


def _default(kind: str, expression: str | None) -> str:
    value = f"cast({expression or 'null'} as {kind})"
    return value if kind in _NATIVE else f"{value}::varchar"
