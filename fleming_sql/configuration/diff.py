"""What would change: the rows of a file against those of a store, column by column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleming_sql.configuration.rows import Row, Rows
from fleming_sql.configuration.schema import Schema, Table
from fleming_sql.configuration.values import comparable, to_file


@dataclass(frozen=True, slots=True)
class Changed:
    """A row that is in both, with other values."""

    old: Row
    new: Row
    columns: tuple[str, ...]
    """Those that differ."""


@dataclass(frozen=True, slots=True)
class TableDiff:
    """What would change in one table."""

    table: Table
    added: tuple[Row, ...] = ()
    changed: tuple[Changed, ...] = ()
    removed: tuple[Row, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing would."""
        return not (self.added or self.changed or self.removed)

    def given(self, row: Row) -> dict[str, Any]:
        """Return the columns of a row that differ from their defaults, as a file writes them."""
        return {
            column.name: to_file(column, row.values[column.name])
            for column in self.table.columns.values()
            if comparable(column, row.values[column.name]) != comparable(column, column.default)
        }


@dataclass(frozen=True, slots=True)
class Diff:
    """What would change in all tables; those without a change are not in it."""

    tables: tuple[TableDiff, ...]
    opened: tuple[str, ...] = ()
    """Endpoints that lose their last permission and so would be open to all."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing would."""
        return not self.tables

    def count(self) -> tuple[int, int, int]:
        """Return how many rows would be added, changed and removed."""
        return (
            sum(len(table.added) for table in self.tables),
            sum(len(table.changed) for table in self.tables),
            sum(len(table.removed) for table in self.tables),
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, by table."""
        return {found.table.name: _json_of(found) for found in self.tables}


def _json_of(found: TableDiff) -> dict[str, Any]:
    table = found.table
    return {
        "added": [{"row": table.label(row.values), "values": found.given(row)} for row in found.added],
        "changed": [
            {
                "row": table.label(changed.new.values),
                "columns": {
                    name: {
                        "old": to_file(table.columns[name], changed.old.values[name]),
                        "new": to_file(table.columns[name], changed.new.values[name]),
                    }
                    for name in changed.columns
                },
            }
            for changed in found.changed
        ],
        "removed": [{"row": table.label(row.values), "values": found.given(row)} for row in found.removed],
    }


def compare(schema: Schema, current: Rows, wanted: Rows, *, prune: bool) -> Diff:
    """Return what would have to change for `current` to be as `wanted`.

    Args:
        schema: Of both.
        current: What the store has.
        wanted: What a file has. A table that is not in it stays as it is.
        prune: Whether rows that are not in the file are removed. Those that a file holds within a row of another
            table go with that row.
    """
    found: dict[str, TableDiff] = {}
    for table in schema.tables.values():
        one = _compare(table, current[table.name], wanted.get(table.name, ()))
        if not prune or table.name not in wanted:
            gone = found[table.parent].removed if table.parent in found else ()
            names = {row.values[_only_key(schema, table)] for row in gone}
            removed = tuple(row for row in one.removed if row.values[table.parent_column] in names) if names else ()
            one = TableDiff(table, one.added, one.changed, removed)
        found[table.name] = one
    return Diff(tuple(one for one in found.values() if not one.is_empty), _opened(current, found))


def _opened(current: Rows, found: Mapping[str, TableDiff]) -> tuple[str, ...]:
    """Return the endpoints that stay and had permissions, of which none is left."""
    permissions, gone = found["permissions"], found["endpoints"].removed
    removed = {row.rowid for row in permissions.removed} | {one.old.rowid for one in permissions.changed}
    left = [row for row in current["permissions"] if row.rowid not in removed]
    left += [*permissions.added, *(one.new for one in permissions.changed)]
    closed = {row.values["endpoint"] for row in current["permissions"]}
    return tuple(sorted(closed - {row.values["endpoint"] for row in left} - {row.values["name"] for row in gone}))


def _only_key(schema: Schema, table: Table) -> str:
    """Return the column of the parent that the rows of a table name it by."""
    assert table.parent is not None  # noqa: S101  only rows of a parent go with it
    return schema.tables[table.parent].key[0]


def _compare(table: Table, current: Sequence[Row], wanted: Sequence[Row]) -> TableDiff:
    """Pair equal rows first, then those with the same key; tables without a unique key may have rows twice."""
    left: defaultdict[object, list[Row]] = defaultdict(list)
    for row in current:
        left[_all_of(table, row)].append(row)
    unequal = [row for row in wanted if not _taken(left, _all_of(table, row))]
    by_key: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for rows in left.values():
        for row in rows:
            by_key[table.key_of(row.values)].append(row)
    added: list[Row] = []
    changed: list[Changed] = []
    for row in unequal:
        same_key = by_key[table.key_of(row.values)]
        if same_key:
            changed.append(_changed(table, same_key, row))
        else:
            added.append(row)
    removed = {id(row) for rows in by_key.values() for row in rows}
    return TableDiff(table, tuple(added), tuple(changed), tuple(row for row in current if id(row) in removed))


def _taken(left: Mapping[object, list[Row]], key: object) -> bool:
    if not left.get(key):
        return False
    left[key].pop(0)
    return True


def _changed(table: Table, candidates: list[Row], new: Row) -> Changed:
    """Pair a row with the one of its key that it differs least from."""
    differing = [(_differing(table, old, new), number) for number, old in enumerate(candidates)]
    columns, number = min(differing, key=lambda found: len(found[0]))
    return Changed(candidates.pop(number), new, columns)


def _differing(table: Table, old: Row, new: Row) -> tuple[str, ...]:
    return tuple(
        column.name
        for column in table.columns.values()
        if comparable(column, old.values[column.name]) != comparable(column, new.values[column.name])
    )


def _all_of(table: Table, row: Row) -> object:
    return tuple(_cells(table, row))


def _cells(table: Table, row: Row) -> Iterable[object]:
    # Python has True equal to 1, and 1 to 1.0: within one column all values are of one type.
    return (comparable(column, row.values[column.name]) for column in table.columns.values())
