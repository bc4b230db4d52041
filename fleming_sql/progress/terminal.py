"""The bar in a terminal: one line, taken away before anything else is written there."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.control import Control
from rich.progress_bar import ProgressBar
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from fleming_sql.progress.figures import Figures

_BAR_COLUMNS = 24
_ERASE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


class TerminalDisplay:
    """Draws on the last line of a terminal.

    The cursor stays visible and no stream is replaced, as Rich's own live displays do, so that a process that is
    killed leaves nothing behind but the line.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, force_jupyter=False, highlight=False)

    def draw(self, figures: Figures) -> None:
        """Draw over the line."""
        console = self._console
        words = Text("  ".join(figures.words()), no_wrap=True, overflow="ellipsis")
        line = Table.grid(padding=(0, 1))
        bar_columns = min(_BAR_COLUMNS, console.width // 4)
        line.add_row("ai_query", ProgressBar(max(figures.known, 1), figures.done, width=bar_columns), words)
        width = console.width - 1  # a full last column would move some terminals to the next line
        rendered = console.render_lines(line, console.options.update(width=width, height=1), pad=False)
        console.control(_ERASE)
        with console:
            for segment in rendered[0]:
                console.print(Text(segment.text, style=segment.style or ""), end="")

    def rest(self, figures: Figures) -> None:
        """Take the line away."""
        self._console.control(_ERASE)
