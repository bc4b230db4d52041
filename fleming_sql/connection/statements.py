"""Which statements a connection sent, so that what they came to can be read from the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from fleming_sql.connection.connect import Connection
from fleming_sql.connection.registry import REGISTRY
from fleming_sql.connection.session import Session
from fleming_sql.errors import GatewayClosed


class Statements:
    """The statements with calls that a connection sends from now on.

    Args:
        con: A connection that has a gateway.

    Raises:
        GatewayClosed: It has none.

    Example:
        >>> statements = Statements(con)
        >>> con.execute("select ai_query('chat', 'Hello')")
        >>> statements.new()
        ['1f2e3d4c-2-17']
    """

    def __init__(self, con: duckdb.DuckDBPyConnection | Connection) -> None:
        if isinstance(con, Connection):  # knows its number, also within a transaction that failed
            self._session, self._connection_id = con._session, con._id
        else:
            self._session = _session_of(con)
            [(self._connection_id,)] = con.execute("select current_connection_id()").fetchall()
        self._before = frozenset(self._session.statements_of(self._connection_id))

    def new(self) -> Sequence[str]:
        """Return their ids, as `statement_id` in the log."""
        sent = self._session.statements_of(self._connection_id)
        return [statement for statement in sent if statement not in self._before]

    @contextmanager
    def without_trace(self) -> Iterator[None]:
        """Have their progress bars taken away at their end in a notebook too, for who shows the figures there."""
        with self._session.progress.without_trace(self._connection_id):
            yield


def _session_of(con: duckdb.DuckDBPyConnection) -> Session:
    cursor = con.cursor()
    try:
        slot = REGISTRY.find(cursor)
    finally:
        cursor.close()
    if slot is None:
        raise GatewayClosed("[GATEWAY_CLOSED] the connection has no gateway: call fleming_sql.attach(con)")
    return slot.current()
