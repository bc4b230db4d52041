"""Where the user of this process looks, if anywhere."""

from __future__ import annotations

import os
import sys
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from fleming_sql.progress.jupyter import JupyterDisplay
from fleming_sql.progress.terminal import TerminalDisplay

if TYPE_CHECKING:
    from fleming_sql.progress.watch import Display


class Surroundings:
    """Finds a display for a statement's bar."""

    def __init__(self) -> None:
        self._context: Context | None = None

    def look(self) -> None:
        """Remember the thread that a statement was sent from; called on it."""
        if _kernel() is not None:
            self._context = copy_context()

    def display(self, wanted: bool | None, *, leaves: bool = True) -> Display | None:
        """Return where to draw, None for nowhere.

        Args:
            wanted: True draws in any terminal behind the standard error stream; None only where nothing speaks
                against it.
            leaves: Whether a notebook keeps a line of it.
        """
        if _kernel() is not None:
            return JupyterDisplay(self._context, leaves=leaves)
        if _is_terminal(sys.stderr) and (wanted or _is_watched()):
            return TerminalDisplay(sys.stderr)
        return None


def _kernel() -> Any:
    """Return the Jupyter kernel that this process is, None where it is none."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return getattr(shell, "kernel", None)


def _is_watched() -> bool:
    """Return whether a bar may be drawn unasked.

    A line that is drawn over must not mix with what another program of a pipe writes to the same terminal, so both
    streams have to be the terminal.
    """
    if os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        return False
    return _is_terminal(sys.stdout)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # there is none (pythonw), or it is closed
        return False
