"""Errors as a notebook shows them: what was wrong, without the frames of this package."""

from __future__ import annotations

import duckdb

from fleming_sql.errors import FlemingError

_FROM_FUNCTION = "Python exception occurred while executing the UDF: "
_TRACE = "\n\nAt:\n"


class CellError(FlemingError):
    """A cell could not be run to its end. IPython prints its text alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"ai_sql: {self}"]


def explained(error: BaseException) -> str:
    """Return what an error says to whoever wrote the cell.

    DuckDB puts words of its own before the text of an error that a function raised, and 1.5 the frames after it.
    """
    text = str(error)
    if not isinstance(error, duckdb.Error) or _FROM_FUNCTION not in text:
        return text
    text = text.split(_FROM_FUNCTION, 1)[1].split(_TRACE, 1)[0].strip()
    kind, _, message = text.partition(": ")
    return message if kind.isidentifier() else text
