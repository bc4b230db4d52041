"""Where a command writes: results to stdout, what is said about them to stderr.

On a terminal, results are tables that fit it. In a pipe they are plain columns, complete and without colours, one line
for each row. With `--json`, stdout holds nothing but JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from rich.box import ROUNDED
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, OverflowMethod, RenderableType
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fleming_sql.cli.values import json_of, text_of, visible

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_NARROWEST: Final = 8
"""Characters below which a column of text cannot be read, unless nothing in it is longer."""
_FRAME: Final = 3
"""Characters of the frame and the blanks beside each column."""
_NUMBERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER")
_MORE_NUMBERS: Final = ("UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE")


class _Console(Console):
    """A console whose texts do nothing to the terminal but appear there.

    It leaves a pipe closed by its reader to the command line, where all errors are told.
    """

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Return what is written, with control characters in texts written out; rich's own are marked as such."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment(visible(part.text), part.style)


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
            click.echo(visible(renderable))
        else:
            self.out.print(renderable)

    def note(self, text: str, style: str = "") -> None:
        """Say something about the result on stderr, in one of rich's styles."""
        self.err.print(Text(visible(text), style), soft_wrap=True)

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
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        numeric: Sequence[str] = (),
        title: str = "",
        one_line: Sequence[str] = (),
    ) -> RenderableType:
        """Return a table to `print`: framed on a terminal, plain columns in a pipe.

        Where a terminal is too narrow for the names of the columns, it is one block for each row.

        Args:
            columns: As for `rows`.
            rows: As for `rows`.
            numeric: As for `rows`.
            title: As for `rows`.
            one_line: Names of columns whose values are cut, not folded, where they do not fit.
        """
        if not self.is_terminal:
            return plain_table(columns, rows, numeric)
        names = [visible(column) for column in columns]
        cells = [[_cell(value) for value in row] for row in rows]
        is_number = [column in numeric for column in columns]
        is_cut = [column in one_line for column in columns]
        widths = _widths(names, cells, is_number, is_cut, self.out.width - _FRAME * len(columns) - 1)
        if widths is None:
            return _blocks(names, cells)
        table = Table(title=title or None, title_justify="left", header_style="bold", box=ROUNDED)
        for name, width, number, cut in zip(names, widths, is_number, is_cut, strict=True):
            justify: JustifyMethod = "right" if number else "left"
            overflow: OverflowMethod = "ellipsis" if cut else "fold"
            table.add_column(Text(name), justify=justify, overflow=overflow, width=width, no_wrap=cut)
        for row in cells:
            table.add_row(*row)
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
    head = [_one_line(column) for column in columns]
    widths = [max(len(row[at]) for row in [head, *cells]) for at in range(len(head))]
    right = [column in numeric for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [head, *cells]
    )


def _widths(
    names: Sequence[str],
    rows: Sequence[Sequence[Text]],
    is_number: Sequence[bool],
    is_cut: Sequence[bool],
    room: int,
) -> list[int] | None:
    """Return widths that fit; None where a name, or a number, would have to be broken.

    Columns that may be cut give way first, then the widest.
    """
    widths = [min(room, max([cell_len(name), *(_width(row[at]) for row in rows)])) for at, name in enumerate(names)]
    if len(names) == 1:
        return widths
    least = [
        width if whole else max(cell_len(name), min(_NARROWEST, width))
        for name, width, whole in zip(names, widths, is_number, strict=True)
    ]
    if sum(least) > room:
        return None
    while sum(widths) > room:
        yielding = (at for at in range(len(widths)) if widths[at] > least[at])
        widest = max(yielding, key=lambda at: (is_cut[at], widths[at]))
        widths[widest] -= 1
    return widths


def _width(cell: Text) -> int:
    return max(map(cell_len, cell.plain.splitlines()), default=0)


def _blocks(columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> RenderableType:
    blocks: list[RenderableType] = []
    for number, row in enumerate(rows, 1):
        block = Table.grid(padding=(0, 2))
        block.add_column(justify="right", style="bold", no_wrap=True)
        block.add_column(overflow="fold")
        for column, value in zip(columns, row, strict=True):
            block.add_row(Text(visible(column)), _cell(value))
        blocks += [Rule(f"row {number}", align="left"), block]
    return Group(*blocks)


def _cell(value: Any) -> Text:
    return Text("NULL", "dim") if value is None else Text(visible(text_of(value)))


def _one_line(text: str) -> str:
    return visible(text.replace("\r", "\\r").replace("\n", "\\n"))
