"""SQL statements of a command: taken apart, given their parameters, run one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
import duckdb
import orjson

from fleming_sql.cli.problems import CommandFailed, message_of

if TYPE_CHECKING:
    import pyarrow as pa

    from fleming_sql import Connection

_CHUNK: Final = 2048
"""Rows fetched at once: what a vector of DuckDB's holds."""
_ARROW_CHUNK: Final = 65_536
"""Rows of a batch for Parquet, where it is a row group."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The result of a statement, read once, from first to last, as the statement brings it forth."""

    con: Connection
    columns: tuple[str, ...]
    types: tuple[str, ...]
    """DuckDB's names of the columns' types."""

    def chunks(self) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows as they come, some at a time."""
        while chunk := self.con.fetchmany(_CHUNK):
            yield chunk


@dataclass(frozen=True, slots=True)
class Changed:
    """What a statement did that returns no rows."""

    rows: int | None
    """How many rows it wrote or deleted; None where it does no such thing."""


class Statement:
    """One statement, not run yet.

    Args:
        con: Where it runs.
        parsed: DuckDB's own form of it.
        parameters: Values by name; it takes those that it uses.
    """

    def __init__(self, con: Connection, parsed: duckdb.Statement, parameters: Mapping[str, Any]) -> None:
        self._con = con
        self._parsed = parsed
        self._parameters = {name: parameters[name] for name in parsed.named_parameters}

    @property
    def may_return_rows(self) -> bool:
        """Whether there may be a result to show."""
        return duckdb.ExpectedResultType.QUERY_RESULT in self._parsed.expected_result_type

    def run(self) -> Rows | Changed:
        """Run it. A result is brought forth as it is read.

        Raises:
            duckdb.Error: It failed.
        """
        self._con.execute(self._parsed, self._parameters or None)
        description = self._con.description or []
        if not self.may_return_rows:
            return Changed(None)
        columns = _told_apart([str(column[0]) for column in description])
        if columns == ("Count",) and duckdb.ExpectedResultType.CHANGED_ROWS in self._parsed.expected_result_type:
            row = self._con.fetchone()
            return Changed(row[0] if row else None)
        return Rows(self._con, columns, tuple(str(column[1]) for column in description))

    def run_for_arrow(self) -> pa.RecordBatchReader:
        """Run it and return its rows as Arrow batches, brought forth as they are read.

        Raises:
            duckdb.Error: It failed.
            CommandFailed: It returns no rows.
        """
        relation = self._con.sql(self._parsed, params=self._parameters or None)
        if relation is None:
            raise CommandFailed("the statement returns no rows: nothing was written", "NoRows")
        reader: pa.RecordBatchReader = relation.to_arrow_reader(_ARROW_CHUNK)
        return reader


def _told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Number the names that come twice, as DuckDB does in a subquery: objects of JSON have each name once."""
    unique: list[str] = []
    for name in names:
        at = 0
        while (numbered := f"{name}_{at}" if at else name) in unique:
            at += 1
        unique.append(numbered)
    return tuple(unique)


def read_statements(con: Connection, text: str, parameters: Mapping[str, Any]) -> list[Statement]:
    """Take a text apart, and give each statement its parameters. Nothing is run.

    Raises:
        UsageError: There is no statement, or the parameters are not those that the statements have.
        duckdb.Error: The text is no SQL.
    """
    parsed = con.extract_statements(text)
    if not parsed:
        raise click.UsageError("there is no SQL statement to run")
    wanted = {name for statement in parsed for name in statement.named_parameters}
    missing = sorted(wanted - parameters.keys())
    if missing:
        raise click.UsageError(
            f"the parameter ${missing[0]} has no value: give it one with -p {missing[0]}=VALUE",
        )
    needless = sorted(parameters.keys() - wanted)
    if needless:
        names = ", ".join(f"${name}" for name in sorted(wanted)) or "none"
        raise click.UsageError(f"no statement has a parameter ${needless[0]}; parameters are: {names}")
    return [Statement(con, one, parameters) for one in parsed]


@contextlib.contextmanager
def counted(number: int, total: int) -> Iterator[None]:
    """Have an error within this block say which of several statements it is of.

    Raises:
        CommandFailed: A statement failed, and there is more than one.
    """
    try:
        yield
    except duckdb.Error as error:
        if total == 1:
            raise
        before = "" if number == 1 else "; those before it have run"
        raise CommandFailed(
            f"statement {number} of {total} failed{before}: {message_of(error)}", type(error).__name__
        ) from error


def read_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` texts. A value that is JSON is what it says, any other is a text.

    Raises:
        BadParameter: One is not of this form, or is given twice.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().removeprefix("$")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not of the form name=value", param_hint="-p")
        if name in values:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="-p")
        try:
            values[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            values[name] = value
    return values
