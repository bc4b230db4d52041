"""What `%%ai_sql` shows and hands on: the rows, fetched once, and a footer with what they came to."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from fleming_sql.notebook.spending import Spending

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

_ROWS_SHOWN = 40
_LONGEST = 200
"""Characters of one value; a table of answers is to be looked over, the rest is in the result."""
_WIDEST = 80
"""Characters of one value in plain text."""
_CELL = "text-align: left; vertical-align: top; white-space: pre-wrap"


class AiResult:
    """The rows of a cell's last statement. Showing or converting them runs nothing again.

    Args:
        table: The rows; None where the statement returns none.
        spending: What the cell came to.
        seconds: How long it took.

    Example:
        >>> result = AiResult(pa.table({"topic": ["refund"]}), Spending(), 0.5)
        >>> result.arrow().num_rows
        1
    """

    def __init__(self, table: pa.Table | None, spending: Spending, seconds: float) -> None:
        self._table = table
        self.spending = spending
        self.seconds = seconds

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table, one without columns where the statement returned none."""
        return pa.table({}) if self._table is None else self._table

    def df(self) -> pd.DataFrame:
        """Return the rows as a pandas frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return self.arrow().to_pandas()

    def pl(self) -> pl.DataFrame:
        """Return the rows as a Polars frame.

        Raises:
            ImportError: Polars is not installed.
        """
        import polars

        return polars.DataFrame(self.arrow())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        stream: object = self.arrow().__arrow_c_stream__(requested_schema)  # type: ignore[no-untyped-call]
        return stream

    def __len__(self) -> int:
        return int(self.arrow().num_rows)

    @property
    def footer(self) -> str:
        """Rows, calls, tokens, cost and time in one line."""
        rows = [] if self._table is None else [f"{len(self):,} {'row' if len(self) == 1 else 'rows'}"]
        return " · ".join([*rows, self.spending.words(), f"{self.seconds:,.1f} s"])

    def __repr__(self) -> str:
        if self._table is None:
            return self.footer
        with duckdb.connect() as con:
            return f"{con.from_arrow(_clipped(self._table.slice(0, _ROWS_SHOWN)))}{self._shown}{self.footer}"

    def _repr_html_(self) -> str:
        return "".join(self._html())

    def _html(self) -> Iterator[str]:
        if self._table is not None:
            names = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in self._table.column_names)
            yield f"<table><thead><tr>{names}</tr></thead><tbody>"
            for row in _texts(self._table.slice(0, _ROWS_SHOWN)):
                yield f"<tr>{''.join(map(_cell, row))}</tr>"
            yield "</tbody></table>"
        yield f'<div style="font-size: 90%; opacity: 0.8">{self._shown}{escape(self.footer)}</div>'

    @property
    def _shown(self) -> str:
        return f"first {_ROWS_SHOWN} of " if len(self) > _ROWS_SHOWN else ""


def _clipped(table: pa.Table) -> pa.Table:
    """Return a table whose texts are short enough to stand side by side."""
    for position, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [_cut(text, _WIDEST) for text in table.column(position).to_pylist()]
            table = table.set_column(position, field.name, pa.array(texts, field.type))
    return table


def _texts(table: pa.Table) -> list[tuple[str | None, ...]]:
    """Return rows as DuckDB writes them: Python has no infinite times, and other words for intervals."""
    with duckdb.connect() as con:
        texts = ", ".join(f"cast(#{number} as varchar)" for number in range(1, table.num_columns + 1))
        return con.from_arrow(table).project(texts).fetchall()


def _cut(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else f"{text[: longest - 1]}…"


def _cell(value: str | None) -> str:
    if value is None:
        return f'<td style="{_CELL}"><i style="opacity: 0.6">NULL</i></td>'
    return f'<td style="{_CELL}">{escape(_cut(value, _LONGEST) or "")}</td>'
