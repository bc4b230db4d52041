"""fleming-sql: an AI gateway that lives in DuckDB.

Example:
    >>> import fleming_sql
    >>> con = fleming_sql.connect("warehouse.duckdb")
    >>> con.sql("select ai_query('chat', review) from reviews")
"""

from fleming_sql.connection import Connection, attach, connect, detach
from fleming_sql.errors import FlemingError

__version__ = "0.1.0"

__all__ = ["Connection", "FlemingError", "__version__", "attach", "connect", "detach"]
