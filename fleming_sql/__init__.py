"""fleming-sql: an AI gateway that lives in DuckDB.

Example:
    >>> import fleming_sql
    >>> con = fleming_sql.connect("warehouse.duckdb")
    >>> con.sql("select ai_query('chat', review) from reviews")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleming_sql.errors import FlemingError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from fleming_sql.connection.connect import Connection, attach, connect, detach

__version__ = "0.1.0"

__all__ = ["Connection", "FlemingError", "__version__", "attach", "connect", "detach"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Do what `%load_ext fleming_sql` asks for: `%%ai_sql`, and a gateway for the notebook's DuckDB connection."""
    from fleming_sql.notebook import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Do what `%unload_ext fleming_sql` asks for: take the magics away."""
    from fleming_sql.notebook import unload

    unload(shell)


def __getattr__(name: str) -> Any:
    # What speaks to DuckDB is imported when it is asked for: it takes half a second, and `fleming --help` needs none.
    if name in ("Connection", "attach", "connect", "detach"):
        from fleming_sql import connection

        return getattr(connection, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
