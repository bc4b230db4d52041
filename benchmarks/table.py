"""The rows that every benchmark returns, and the one table they end in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was measured, what came out, what was wanted."""

    what: str
    measured: str
    target: str = ""
    ok: bool | None = None
    """Whether the target was met; None where there is none."""

    @property
    def verdict(self) -> str:
        """Return the last column."""
        return "" if self.ok is None else "yes" if self.ok else "no"


def markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table whose columns line up in plain text too."""
    cells = [("What", "Measured", "Target", "Met")]
    cells += [(row.what, row.measured, row.target, row.verdict) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
