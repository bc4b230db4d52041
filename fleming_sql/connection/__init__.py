"""The way in from DuckDB: connect, attach, and the functions that SQL calls."""

from fleming_sql.connection.connect import Connection, attach, connect, detach

__all__ = ["Connection", "attach", "connect", "detach"]
