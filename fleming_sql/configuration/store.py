"""The configuration of one store, written to a file and made what a file says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import duckdb

from fleming_sql.configuration.diff import Diff, compare
from fleming_sql.configuration.errors import ConfigFileError
from fleming_sql.configuration.problems import Problem, read_problems
from fleming_sql.configuration.rows import Row, read_rows, spelled
from fleming_sql.configuration.schema import Schema, Table, read_schema
from fleming_sql.configuration.secrets import find_secret
from fleming_sql.configuration.sql_file import read_sql, write_sql
from fleming_sql.configuration.statements import write_changes
from fleming_sql.configuration.values import to_file
from fleming_sql.configuration.yaml_file import read_yaml, write_yaml
from fleming_sql.store.catalog import CATALOG

FileFormat = Literal["yaml", "sql"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying a file would do. Nothing is done yet."""

    diff: Diff
    problems: tuple[Problem, ...]
    """What would be wrong that was not wrong before."""
    warnings: tuple[Problem, ...]
    """Prices that would not be known, where they were or were not needed before."""
    before: dict[str, list[Row]]
    """The rows that it was made for."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        added, changed, removed = self.diff.count()
        return {
            "added": added,
            "changed": changed,
            "removed": removed,
            "tables": self.diff.as_json(),
            "opened_to_all": list(self.diff.opened),
            "problems": [problem.as_json() for problem in self.problems],
            "warnings": [problem.as_json() for problem in self.warnings],
        }


class ConfigStore:
    """Reads and writes the configuration of a gateway.

    Args:
        con: A DuckDB connection with a gateway attached; a cursor of it is used.

    Example:
        >>> config = ConfigStore(con.duckdb)
        >>> plan = config.plan(Path("gateway.yaml").read_text(), "gateway.yaml", "yaml")
        >>> config.apply(plan)
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._cursor = con.cursor()
        self._cursor.execute(f"use {CATALOG}.main")
        self.schema: Schema = read_schema(self._cursor)

    def export(self, form: FileFormat, *, endpoint: str | None = None) -> str:
        """Return the configuration as a file: people's own rows, less what is at its default.

        Args:
            form: `yaml` or `sql`.
            endpoint: The only one whose rows are written; None for all there is.

        Raises:
            ConfigFileError: A row holds what looks like a secret, which is not to be in a file.
        """
        rows = self._rows(endpoint)
        faults = [fault for table in self.schema.tables.values() for fault in _secrets(table, rows[table.name])]
        if faults:
            raise ConfigFileError(faults)
        return write_yaml(self.schema, rows) if form == "yaml" else write_sql(self.schema, rows)

    def rows_of(self, endpoint: str) -> dict[str, list[dict[str, Any]]]:
        """Return the rows that are about an endpoint, in full, as JSON values by table; tables without one left out."""
        columns = {table.name: table.columns for table in self.schema.tables.values()}
        return {
            name: [{key: to_file(columns[name][key], value) for key, value in row.values.items()} for row in rows]
            for name, rows in self._rows(endpoint).items()
            if rows
        }

    def _rows(self, endpoint: str | None) -> dict[str, list[Row]]:
        rows = read_rows(self._cursor, self.schema)
        if endpoint is None:
            return rows
        named = {name: "name" if name == "endpoints" else "endpoint" for name in rows}
        return {
            name: [row for row in of_table if row.values.get(named[name]) == endpoint]
            for name, of_table in rows.items()
        }

    def plan(self, text: str, source: str, form: FileFormat, *, prune: bool = False) -> Plan:
        """Return what applying a file would do. It is tried in a transaction that is taken back.

        Args:
            text: The file.
            source: Its name, for messages.
            form: `yaml` or `sql`.
            prune: Whether rows are removed that the file does not have, of the tables that are in it. A SQL file
                removes rows by itself.

        Raises:
            ConfigFileError: It cannot be applied, with all that is known to be wrong.
        """
        with self._transaction(commits=False):
            before = read_rows(self._cursor, self.schema)
            if form == "yaml":
                wanted = spelled(self._cursor, self.schema, read_yaml(self.schema, text, source))
                diff = compare(self.schema, before, wanted, prune=prune)
            else:
                wanted = read_sql(self._cursor, self.schema, before, text, source)
                diff = compare(self.schema, before, wanted, prune=True)
                self._refuse_secrets(diff, source)
            known = (
                {(p.table_name, p.row_key, p.problem) for p in read_problems(self._cursor)} if diff.tables else set()
            )
            write_changes(self._cursor, diff)
            found = read_problems(self._cursor) if diff.tables else []
        places = {(name, self.schema.tables[name].label(r.values)): r.place for name in wanted for r in wanted[name]}
        new = [
            replace(p, file_place=places.get((p.table_name, p.row_key)) or None)
            for p in found
            if (p.table_name, p.row_key, p.problem) not in known
        ]
        return Plan(
            diff,
            tuple(p for p in new if not p.is_warning),
            tuple(p for p in new if p.is_warning),
            before,
        )

    def apply(self, plan: Plan, *, force: bool = False) -> None:
        """Do what a plan says, in one transaction.

        Args:
            plan: Of this store.
            force: Whether to do it though new problems come of it.

        Raises:
            ConfigFileError: New problems come of it, or the configuration is another by now. Nothing was applied.
        """
        if plan.problems and not force:
            raise ConfigFileError([f"{p.place}: {p.problem}: {p.remedy}" for p in plan.problems])
        with self._transaction(commits=True):
            if read_rows(self._cursor, self.schema) != plan.before:
                raise ConfigFileError(["the configuration was changed meanwhile: look at the difference again"])
            write_changes(self._cursor, plan.diff)

    def problems(self) -> list[Problem]:
        """Return what is wrong with the configuration as it stands."""
        return read_problems(self._cursor)

    def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()

    def _refuse_secrets(self, diff: Diff, source: str) -> None:
        faults: list[str] = []
        for found in diff.tables:
            rows = [*found.added, *(changed.new for changed in found.changed)]
            faults += [f"{source}: {fault}" for fault in _secrets(found.table, rows)]
        if faults:
            raise ConfigFileError(faults)

    @contextmanager
    def _transaction(self, *, commits: bool) -> Iterator[None]:
        self._cursor.execute("begin")
        try:
            yield
            if commits:
                self._cursor.execute("commit")
        except duckdb.TransactionException as error:
            raise ConfigFileError([f"another connection writes to the configuration, try again ({error})"]) from None
        finally:
            # After a commit there is no transaction; after an error there may be none either.
            self._rollback()

    def _rollback(self) -> None:
        try:
            self._cursor.execute("rollback")
        except duckdb.TransactionException:
            return


def _secrets(table: Table, rows: list[Row]) -> list[str]:
    return [
        f'table {table.name}, row "{table.label(row.values)}", column {column.name}: {found}; insert where it is '
        "found into credentials, name that credential or write {{secrets/scope/key}}, and replace a key that was here"
        for row in rows
        for column in table.columns.values()
        if (found := find_secret(table.name, column, dict(row.values))) is not None
    ]
