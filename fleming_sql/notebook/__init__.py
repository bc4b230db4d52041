"""IPython: `%load_ext fleming_sql`, `%fleming` and `%%ai_sql`. Nothing here is needed for `con.sql(…)` in a cell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fleming_sql.errors import FlemingError
from fleming_sql.notebook.connections import NoConnection
from fleming_sql.notebook.magics import FlemingMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["FlemingMagics", "load", "unload"]

_ASKS_FOR_HELP: Final = re.compile(r"%%ai_sql\s+(--help|-h)\s*")
_MAGICS = {"line": ("fleming", "ai_sql"), "cell": ("ai_sql",)}


def ask_for_help(lines: list[str]) -> list[str]:
    """Make `%%ai_sql --help` a line of its own: IPython calls no cell magic that has nothing below it."""
    return [lines[0][1:]] if len(lines) == 1 and _ASKS_FOR_HELP.fullmatch(lines[0]) else lines


def load(shell: InteractiveShell) -> None:
    """Give a shell the magics, and the notebook's DuckDB connection a gateway.

    Args:
        shell: IPython's; `%load_ext fleming_sql` passes it.

    Raises:
        CellError: The connection cannot be given a gateway.
    """
    unload(shell)
    magics = FlemingMagics(shell)
    shell.register_magics(magics)
    shell.input_transformers_cleanup.append(ask_for_help)
    try:
        magics.welcome()
    except (NoConnection, FlemingError):
        unload(shell)
        raise


def unload(shell: InteractiveShell) -> None:
    """Take the magics away; connections keep their gateways, since cells may still use them."""
    transformers = shell.input_transformers_cleanup
    transformers[:] = [each for each in transformers if each is not ask_for_help]
    for kind, names in _MAGICS.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
