"""Where a command writes: results to stdout, what is said about them to stderr.

On a terminal, results are tables that fit it. In a pipe they are plain columns, complete and without colours, one line
for each row. With `--json`, stdout holds nothing but JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from fleming_sql.cli.values import json_of, text_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_NARROWEST: Final = 8
"""Characters below which a column cannot be read; a table of narrower ones is shown as one block for each row."""
_NUMBERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER")
_MORE_NUMBERS: Final = ("UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE")


class _Console(Console):
    """A console that leaves a pipe closed by its reader to the command line, where all errors are told."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Output:
    """The two streams of a command.

    Args:
        as_json: Whether stdout is for a program.
        color: Whether colours and styles may be used.
    """

    def __init__(self, *, as_json: bool = False, color: bool = True) -> None:
        self.as_json = as_json
        self.out = _Console(highlight=False, no_color=not color or None)
        """The console of results."""
        self.err = _Console(highlight=False, no_color=not color or None, stderr=True)
        """The console of notes."""

    @property
    def is_terminal(self) -> bool:
        """Whether results go to a terminal."""
        return self.out.is_terminal

    def json(self, value: Any) -> None:
        """Write a value as one line of JSON to stdout. What JSON has no form for is written as text."""
        click.echo(json_of(value))

    def print(self, renderable: RenderableType = "") -> None:
        """Write to stdout. A string is taken as it is, without rich's markup, and never folded."""
        if isinstance(renderable, str):
            click.echo(renderable)
        else:
            self.out.print(renderable)

    def note(self, text: str, style: str = "") -> None:
        """Say something about the result on stderr, in one of rich's styles."""
        self.err.print(Text(text, style), soft_wrap=True)

    def rows(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, numeric: Sequence[str] = (), title: str = ""
    ) -> None:
        """Write a table, or with `--json` a list of objects.

        Args:
            columns: The names of the columns.
            rows: One sequence of values for each row.
            numeric: Names of columns whose values stand on the right.
            title: What the table shows, in words; on terminals only.
        """
        if self.as_json:
            self.json([dict(zip(columns, row, strict=True)) for row in rows])
        else:
            self.print(self.table(columns, rows, numeric=numeric, title=title))

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, numeric: Sequence[str] = (), title: str = ""
    ) -> RenderableType:
        """Return a table to `print`: framed on a terminal, plain columns in a pipe."""
        if not self.is_terminal:
            return plain_table(columns, rows, numeric)
        if len(columns) > 1 and len(columns) * (_NARROWEST + 3) > self.out.width:
            return _blocks(columns, rows)
        table = Table(title=title or None, title_justify="left", header_style="bold", box=ROUNDED)
        for column in columns:
            if column in numeric:
                table.add_column(Text(column), justify="right", no_wrap=True)
            else:
                table.add_column(Text(column), overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        return table

    def relation(self, result: DuckDBPyRelation | DuckDBPyConnection, *, title: str = "") -> None:
        """Write all rows of a DuckDB result with `rows`; for results of known, small size."""
        described = result.description or []
        columns = [str(column[0]) for column in described]
        numeric = numbers_of(columns, [str(column[1]) for column in described])
        self.rows(columns, result.fetchall(), numeric=numeric, title=title)


def numbers_of(columns: Sequence[str], types: Sequence[str]) -> list[str]:
    """Return the names of the columns that hold numbers, by DuckDB's names of their types."""
    return [
        column
        for column, type_name in zip(columns, types, strict=True)
        if type_name in _NUMBERS or type_name in _MORE_NUMBERS or type_name.startswith("DECIMAL(")
    ]


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = ()) -> str:
    """Return rows as columns of text, one line each, for pipes and files."""
    cells = [[_one_line("NULL" if value is None else text_of(value)) for value in row] for row in rows]
    widths = [max([len(column), *(len(row[at]) for row in cells)]) for at, column in enumerate(columns)]
    right = [column in numeric for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(columns), *cells]
    )


def _blocks(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> RenderableType:
    blocks: list[RenderableType] = []
    for number, row in enumerate(rows, 1):
        block = Table.grid(padding=(0, 2))
        block.add_column(justify="right", style="bold", no_wrap=True)
        block.add_column(overflow="fold")
        for column, value in zip(columns, row, strict=True):
            block.add_row(Text(column), _cell(value))
        blocks += [Rule(f"row {number}", align="left"), block]
    return Group(*blocks)


def _cell(value: Any) -> Text:
    return Text("NULL", "dim") if value is None else Text(text_of(value))


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
