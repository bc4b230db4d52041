"""`fleming sql`: runs statements and writes the result of the last one."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from fleming_sql.cli import formats
from fleming_sql.cli.interrupts import run_interruptible
from fleming_sql.cli.options import MEMORY, Common, common_options, examples
from fleming_sql.cli.output import Output, numbers_of, plain_table
from fleming_sql.cli.problems import CommandFailed
from fleming_sql.cli.statements import Changed, Rows, Statement, counted, read_parameters, read_statements
from fleming_sql.cli.summary import Stopwatch

if TYPE_CHECKING:
    from fleming_sql import Connection

MAX_ROWS: Final = 40
"""Rows that a table on a terminal shows unless told otherwise."""


@click.command(
    "sql",
    epilog=examples(
        "fleming sql \"select ai_query('chat', 'Hello')\"",
        "fleming sql --database shop.duckdb -f classify.sql -o topics.parquet",
        "fleming sql -p 'word=late delivery' \"from reviews where review like '%' || $word || '%'\"",
        "cat report.sql | fleming sql --format markdown > report.md",
    ),
)
@click.argument("statement", required=False)
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Read the statements from a file.",
)
@click.option(
    "-p",
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Bind a value to $NAME; JSON, else text. Repeatable.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(formats.FORMATS),
    help="Default: by the ending of -o; a table on a terminal, CSV in a pipe.",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to a file, which appears when it is complete.",
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=0),
    default=MAX_ROWS,
    show_default=True,
    help="Rows shown on a terminal; 0 for all.",
)
@click.option("--summary/--no-summary", default=True, help="Tell on stderr of rows, calls, cost and time.")
@common_options
def sql(
    common: Common,
    statement: str | None,
    file: str | None,
    parameters: tuple[str, ...],
    kind: str | None,
    target: Path | None,
    max_rows: int,
    summary: bool,
) -> None:
    """Run SQL statements, with ai_query in them.

    Statements come from the argument, from a file (-f) or from stdin, with semicolons between them. The result of the
    last one is written; the first that fails ends the run. --database is the file whose tables they see.

    A result is written as it comes, so large ones need no memory, except as tables. Ctrl-C stops the calls: what was
    answered until then is in the log and is not paid for again.
    """
    text = _text(statement, file)
    values = read_parameters(parameters)
    kind = _format(common, kind, target)
    with common.connect(may_create=common.database not in (None, MEMORY)) as con:
        statements = read_statements(con, text, values)
        if target is not None and not statements[-1].may_return_rows:
            raise click.UsageError(f"the last statement returns no rows, so there is nothing to write to {target}")
        stopwatch = Stopwatch()
        destination = _Destination(common.output, kind, target, max_rows)
        count = run_interruptible(con, lambda: _run(con, statements, destination), is_wanted=destination.is_wanted)
        if summary:
            common.output.note(stopwatch.summary(con, count), "dim")


class _Destination:
    """Where the result of a statement goes, and in which form."""

    def __init__(self, output: Output, kind: str, target: Path | None, max_rows: int) -> None:
        self._output = output
        self._kind = kind
        self._target = target
        self._max_rows = max_rows
        self._writes_to_stdout = False

    def is_wanted(self) -> bool:
        """Return whether the result that is being written has a reader: calls for nobody are not to be paid for."""
        return not self._writes_to_stdout or formats.stdout_is_read()

    def write(self, statement: Statement) -> int | None:
        """Run a statement and write its result; return its number of rows, None if it has no such thing."""
        self._writes_to_stdout = self._target is None and statement.may_return_rows
        if self._kind == "table" and self._target is None:
            return self._show(statement)
        if self._target is None:
            with formats.stdout_bytes() as out:
                return self._write(statement, out)
        with formats.written_whole(self._target) as out:
            return self._write(statement, out)

    def _write(self, statement: Statement, out: IO[bytes]) -> int | None:
        if self._kind == "parquet":
            return formats.write_parquet(statement, out)
        result = statement.run(as_it_comes=self._writes_to_stdout)
        if isinstance(result, Changed):
            if self._target is not None:
                raise CommandFailed(f"the statement has run, but returned no rows to write to {self._target}", "NoRows")
            return result.rows
        if self._kind != "table":
            return formats.write_text(self._kind, result, out)
        rows = list(itertools.chain.from_iterable(result.chunks()))
        out.write((plain_table(result.columns, rows, numbers_of(result.columns, result.types)) + "\n").encode())
        return len(rows)

    def _show(self, statement: Statement) -> int | None:
        result = statement.run()
        if isinstance(result, Changed):
            return result.rows
        return show(self._output, result, self._max_rows)


def show(output: Output, result: Rows, max_rows: int) -> int:
    """Write a result as a table, its first rows only on a terminal; return how many rows it has.

    All rows are read, since the calls in them are wanted whether they are shown or not.
    """
    limit = max_rows if max_rows and output.is_terminal else sys.maxsize
    shown: list[tuple[object, ...]] = []
    count = 0
    for chunk in result.chunks():
        shown += chunk[: max(0, limit - len(shown))]
        count += len(chunk)
    output.print(output.table(result.columns, shown, numeric=numbers_of(result.columns, result.types)))
    if count > len(shown):
        output.note(f"{count - len(shown):,} more rows are not shown: --max-rows 0 shows all, -o FILE keeps them")
    return count


def _run(con: Connection, statements: list[Statement], destination: _Destination) -> int | None:
    total = len(statements)
    for number, statement in enumerate(statements[:-1], 1):
        with counted(number, total):
            result = statement.run()
            if isinstance(result, Rows):
                for _ in result.chunks():  # a statement runs as its result is read
                    pass
    with counted(total, total):
        return destination.write(statements[-1])


def _text(statement: str | None, file: str | None) -> str:
    if statement is not None and file is not None:
        raise click.UsageError("give the statements as an argument or as a file, not both")
    if file is not None and file != "-":
        return _decoded(Path(file).read_bytes(), file)
    if statement is not None and statement != "-":
        return statement
    if sys.stdin is None or (file is None and statement is None and sys.stdin.isatty()):
        raise click.UsageError("give a statement, a file with -f, or statements on stdin; `fleming shell` is a prompt")
    return _decoded(sys.stdin.buffer.read(), "stdin")


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from None


def _format(common: Common, kind: str | None, target: Path | None) -> str:
    if common.as_json and kind not in (None, "json"):
        raise click.UsageError(f"--json and --format {kind} contradict each other: give one of them")
    if common.as_json and kind is None and target is not None and formats.kind_of(target) not in (None, "json"):
        raise click.UsageError(
            f"--json and the ending of {target} contradict each other: name a .json file, or leave --json out"
        )
    if kind is None:
        if common.as_json:
            return "json"
        if target is not None:
            return formats.format_of(target)
        return "table" if common.output.is_terminal else "csv"
    if kind == "parquet" and target is None and common.output.is_terminal:
        raise click.UsageError("Parquet is nothing for a terminal: name a file with -o, or send it into a pipe")
    return kind
