"""SQL statements of a command: taken apart, given their parameters, run one after the other."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
import duckdb
import orjson

from fleming_sql.cli.problems import CommandFailed, call_details, message_of

if TYPE_CHECKING:
    import pyarrow as pa

    from fleming_sql import Connection

_CHUNK: Final = 2048
"""Rows fetched at once: what a vector of DuckDB's holds."""
_NOT_PYTHONS: Final = re.compile(
    r"""("(?:[^"]|"")*"|'(?:[^']|'')*')|(?:TIMESTAMP\ WITH\ TIME\ ZONE|TIMESTAMP(?:_\w+)?|DATE|INTERVAL)(?=[\[,)]|$)""",
    re.VERBOSE,
)
"""Types whose values Python's hold only in part: no infinity, no nanoseconds, no months. Names within types stay."""
_WHOLE: Final = re.compile(r"-?[0-9]+")
_TOO_LARGE: Final = 2**127
"""The first number that is too large for a HUGEINT."""
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

    def run(self, *, as_it_comes: bool = False) -> Rows | Changed:
        """Run it. A result is brought forth as it is read.

        Args:
            as_it_comes: Whether DuckDB keeps as little as it can of what is not read yet; else it works a megabyte
                ahead, which of short answers are thousands.

        Raises:
            duckdb.Error: It failed.
        """
        names, types = self._columns()
        if as_it_comes:
            with contextlib.suppress(duckdb.Error):  # within a transaction that failed nothing can be set
                self._con.execute("set streaming_buffer_size = '1KB'")
        self._con.execute(self._exact(types), self._parameters or None)
        description = self._con.description or []
        if not self.may_return_rows:
            return Changed(None)
        columns = _told_apart(names or [str(column[0]) for column in description])
        if columns == ("Count",) and duckdb.ExpectedResultType.CHANGED_ROWS in self._parsed.expected_result_type:
            row = self._con.fetchone()
            return Changed(row[0] if row else None)
        return Rows(self._con, columns, types or tuple(str(column[1]) for column in description))

    def _columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names and types of a query's columns before it runs; nothing for other statements."""
        if self._parsed.type != duckdb.StatementType.SELECT:
            return (), ()
        if self._parameters:  # DuckDB 1.5 runs a relation with parameters at once: its calls would be made twice
            try:
                columns = self._con.execute(f"describe {self._parsed.query}", self._parameters).fetchall()
            except duckdb.ParserException:  # such as `show`, which cannot be described
                return (), ()
            return tuple(column[0] for column in columns), tuple(column[1] for column in columns)
        relation = self._con.sql(self._parsed)
        return ((), ()) if relation is None else (tuple(relation.columns), tuple(map(str, relation.types)))

    def _exact(self, types: Sequence[str]) -> duckdb.Statement:
        """Return the statement with the values that Python has no exact form for as DuckDB's text."""
        texts = [_NOT_PYTHONS.sub(lambda found: found[1] or "VARCHAR", one) for one in types]
        if texts == list(types):
            return self._parsed
        columns = ", ".join(
            f"#{at}" if text == one else f"cast(#{at} as {text})"
            for at, (one, text) in enumerate(zip(types, texts, strict=True), 1)
        )
        query = self._parsed.query.strip().rstrip(";")
        try:
            # The line ends before the bracket, since the query may end with a comment.
            wrapped = self._con.extract_statements(f"select {columns} from ({query}\n)")  # noqa: S608
        except duckdb.ParserException:  # such as `show`, which is no subquery
            return self._parsed
        exact: duckdb.Statement = wrapped[0]
        return exact

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


def leaves(text: str) -> bool:
    """Return whether a line is one of the words that leave a shell; in SQL they are nothing."""
    return text.strip().rstrip(";").strip().lower() in ("exit", "quit")


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
            f"statement {number} of {total} failed{before}: {message_of(error)}",
            type(error).__name__,
            call_details(error),
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
        values[name] = _value(name, value)
    return values


def _value(name: str, text: str) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if not isinstance(value, float) or not _WHOLE.fullmatch(text.strip()):
        return value
    # A whole number beyond 64 bits, of which a float has the first 15 digits.
    if len(text.strip()) > len(str(_TOO_LARGE)) + 1 or not -_TOO_LARGE < int(text) < _TOO_LARGE:
        raise click.BadParameter(
            f"the number {name!r} is too large for a HUGEINT, which ends at {_TOO_LARGE - 1}: give it as a text, "
            f"-p '{name}=\"…\"'",
            param_hint="-p",
        )
    return int(text)
