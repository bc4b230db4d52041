"""The way in from DuckDB: connect, attach, and the functions that SQL calls."""

from fleming_sql.connection.connect import Connection, attach, connect, detach
from fleming_sql.connection.statements import Statements

__all__ = ["Connection", "Statements", "attach", "connect", "detach"]
