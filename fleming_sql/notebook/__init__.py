"""IPython: `%load_ext fleming_sql`, `%fleming` and `%%ai_sql`. Nothing here is needed for `con.sql(…)` in a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleming_sql.errors import FlemingError
from fleming_sql.notebook.connections import NoConnection
from fleming_sql.notebook.magics import FlemingMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["FlemingMagics", "load", "unload"]

_MAGICS = {"line": ("fleming", "ai_sql"), "cell": ("ai_sql",)}


def load(shell: InteractiveShell) -> None:
    """Give a shell the magics, and the notebook's DuckDB connection a gateway.

    Args:
        shell: IPython's; `%load_ext fleming_sql` passes it.

    Raises:
        CellError: The connection cannot be given a gateway.
    """
    magics = FlemingMagics(shell)
    shell.register_magics(magics)
    try:
        magics.welcome()
    except (NoConnection, FlemingError):
        unload(shell)
        raise


def unload(shell: InteractiveShell) -> None:
    """Take the magics away; connections keep their gateways, since cells may still use them."""
    for kind, names in _MAGICS.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
