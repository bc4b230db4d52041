"""The bar in a Jupyter cell: one output that is drawn over, with plain HTML and no widgets.

Rich's and tqdm's own displays need ipywidgets in the kernel and in the browser; what they draw is empty in a notebook
that is opened later, or elsewhere. An output with an id is part of Jupyter's protocol, so it works in all of them.
"""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import Any

from fleming_sql.progress.figures import Figures


class JupyterDisplay:
    """Draws in the output of the cell that runs.

    Args:
        context: The context of the thread that the cell runs on, by which the kernel knows the cell.
        leaves: Whether a line that says what came of it stays, part of the notebook as other outputs are. If not, the
            cell's output is cleared as soon as there is another one.
    """

    def __init__(self, context: Context | None = None, *, leaves: bool = True) -> None:
        self._context = context or copy_context()
        self._leaves = leaves
        self._handle: Any = None

    def draw(self, figures: Figures) -> None:
        """Draw over the output, or make one."""
        self._context.copy().run(self._show, _Drawn(figures, is_running=True))

    def rest(self, figures: Figures) -> None:
        """Leave a line, or nothing."""
        if self._leaves:
            self._context.copy().run(self._show, _Drawn(figures, is_running=False))
        else:
            self._context.copy().run(self._clear)

    def _show(self, drawn: _Drawn) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(drawn, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(drawn)

    def _clear(self) -> None:
        from IPython.display import clear_output

        clear_output(wait=True)  # type: ignore[no-untyped-call]
        self._handle = None


class _Drawn:
    """One state of the bar, as text and as HTML."""

    def __init__(self, figures: Figures, *, is_running: bool) -> None:
        self._figures = figures
        self._is_running = is_running

    def _words(self) -> str:
        return " · ".join(["ai_query", *self._figures.words()])

    def __repr__(self) -> str:
        return self._words()

    def _repr_html_(self) -> str:
        bar = ""
        if self._is_running:
            bar = f'<progress value="{self._figures.done}" max="{max(self._figures.known, 1)}"></progress> '
        return f'<div style="font-size: 90%; opacity: 0.8">{bar}{self._words()}</div>'
