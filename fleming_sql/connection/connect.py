"""Open a DuckDB connection with a gateway, or give one to a connection that exists."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import httpx

from fleming_sql.clock import Clock
from fleming_sql.connection.functions import Slot
from fleming_sql.connection.labels import UsageContext, check_labels
from fleming_sql.connection.macros import drop, make_visible
from fleming_sql.connection.registry import REGISTRY
from fleming_sql.connection.session import Session, default_user
from fleming_sql.connection.tracing import TracedCall, trace_call
from fleming_sql.errors import ArgumentError, StoreError
from fleming_sql.store.catalog import CATALOG, MEMORY, attached_path, check_path, is_store
from fleming_sql.transport import Transport
from fleming_sql.transport.over_httpx import HttpxTransport
from fleming_sql.types import Alert, Caller

CLOSE_S: Final = 5.0
"""How long closing waits for a statement of another thread to end."""


class Connection:
    """A DuckDB connection with a gateway: everything that DuckDB's own does, and `ai_query` works in it.

    Whatever is not defined here is the DuckDB connection's, called directly, so results, relations, replacement
    scans of local variables and errors are DuckDB's.

    Example:
        >>> with connect() as con:
        ...     con.sql("select ai_query('chat', 'Hello')").fetchall()
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, session: Session, caller: Caller, progress: bool | None = None
    ) -> None:
        self._con = con
        self._session = session
        self._caller = caller
        self._progress = progress
        self._id = _connection_id(con)
        session.register(self._id, caller, settles=True)
        session.progress.choose(self._id, progress)
        # Tied to DuckDB's object and not to this one: `con.cursor().execute(…)` drops this one before it executes.
        self._released = weakref.finalize(con, _release, session, self._id)

    @property
    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """The bare DuckDB connection."""
        self._session.unsettle(self._id)
        self._session.settle()
        return self._con

    @property
    def usage_context(self) -> Mapping[str, str]:
        """The labels that calls have beside their own `usageContext`, which wins; settable, for the next statement on.

        A cursor begins with the labels of the connection that it is made from.

        Raises:
            ArgumentError: They are not texts.
        """
        return dict(self._session.labels.of(self._id))

    @usage_context.setter
    def usage_context(self, context: UsageContext) -> None:
        self._session.labels.choose(self._id, check_labels(context))

    def cursor(self) -> Connection:
        """Return another connection to the same database, for another thread; the caller stays the same."""
        self._session.check_usable()
        cursor = self._con.cursor()
        make_visible(cursor, self._session)
        connection = Connection(cursor, self._session, self._caller, self._progress)
        self._session.labels.choose(connection._id, self._session.labels.chosen(self._id))
        self._session.adopt(self._id, connection._id)
        return connection

    duplicate = cursor

    def trace(
        self,
        endpoint: str,
        request: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        usage_context: Mapping[str, str] | None = None,
        cache: bool = True,
    ) -> TracedCall:
        """Make one call as `ai_query` does, and return it with what each step decided; it is logged as any other.

        Args:
            endpoint: Its name.
            request: A text, or an object such as `{"messages": […]}`.
            parameters: As `modelParameters`.
            usage_context: As `usageContext`.
            cache: Whether an earlier answer may be given again.

        Raises:
            ArgumentError: An argument is wrong. A call that fails is no exception: the error is in the result.

        Example:
            >>> for step in con.trace("chat", "Hello").steps:
            ...     print(step.name, step.decision, step.took_ms)
        """
        self._session.check_usable()
        return trace_call(
            self._con, self._session, endpoint, request, parameters=parameters, usage_context=usage_context, cache=cache
        )

    def interrupt(self) -> None:
        """Stop the running statement: nothing more is sent, and calls under way are broken off and logged."""
        self._session.cancel(self._id)
        self._con.interrupt()

    def close(self) -> None:
        """Close the connection; the last one of a database also closes the gateway and its store."""
        self._session.cancel_family(self._id)  # DuckDB closes its cursors too
        self._close_bare()
        self._released()

    def _close_bare(self) -> None:
        """Close DuckDB's connection, which may be busy in another thread; what that has under way is broken off.

        DuckDB 1.5 waits by itself; 2.0 refuses until the statement has come to its end.
        """
        deadline = time.monotonic() + CLOSE_S
        while True:
            try:
                self._con.close()
            except duckdb.ConnectionException:  # 2.0 says so of one that it had called busy just before
                return
            except duckdb.OperationalError:
                if time.monotonic() > deadline:
                    raise
                with suppress(duckdb.ConnectionException):
                    self._con.interrupt()
                time.sleep(0.01)
            else:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if self._released.alive:
            self._session.check_usable()
            self._session.settle()
            self._session.observation.on_use(self._id)
        return getattr(self._con, name)

    def __repr__(self) -> str:
        return f"<fleming_sql.Connection gateway={self._session.path!r} user={self._caller.user!r}>"


def connect(
    database: str | Path = MEMORY,
    gateway: str | Path | None = None,
    user: str | None = None,
    groups: Iterable[str] = (),
    read_only: bool = False,
    config: Mapping[str, Any] | None = None,
    *,
    usage_context: UsageContext | None = None,
    transport: Transport | httpx.AsyncBaseTransport | None = None,
    clock: Clock | None = None,
    on_alert: Callable[[Alert], None] | None = None,
    progress: bool | None = None,
) -> Connection:
    """Open a DuckDB database with a gateway.

    Args:
        database: A file, or `:memory:`.
        gateway: The gateway's store: a file, or `:memory:`. By default the file beside the database
            (`warehouse.duckdb` has `warehouse.fleming.duckdb`), in memory for a database in memory.
        user: Who asks, in the log. By default `FLEMING_USER`, else the operating system's user.
        groups: The groups of that user.
        read_only: Opens the database, not the store, for reading only.
        config: DuckDB's own settings, as `duckdb.connect` takes them.
        usage_context: Labels that the connection's calls have in the log, below those of each call's own
            `usageContext`; or a function that returns them, which is asked once for each statement, on any thread.
        transport: Sends the requests: one of this package, or any httpx transport; by default a pool of
            kept-alive connections.
        clock: Time and chance, for tests.
        on_alert: Called with each alert that is raised while the gateway is open, on a thread of the gateway's, once it
            is in `fleming.serving.alerts`. What it raises is logged.
        progress: Whether statements with calls show how far they are, once they take longer than a second. None shows
            it in terminals and notebooks, not in pipes, files and CI; True wherever the standard error stream is a
            terminal; False nowhere.

    Raises:
        StoreError: The store cannot be opened.
        duckdb.Error: The database cannot be opened.

    Example:
        >>> con = connect("warehouse.duckdb", user="ada")
    """
    _check_database(database, gateway)
    labels = check_labels(usage_context)
    root = duckdb.connect(str(database), read_only=read_only, config=dict(config or {}))
    caller = _caller(user, groups)
    try:
        session, is_new = _attach(root, gateway, caller, transport, clock)
        if on_alert is not None:
            session.upkeep.alerts.listen(on_alert)
        con = root
        if is_new:
            # Closing a DuckDB connection closes the cursors made from it, the store's among them, so the root is
            # the session's until the last connection is closed, and the caller gets a cursor.
            session.keep(root)
            con = root.cursor()
        make_visible(con, session)
        connection = Connection(con, session, caller, progress)
        session.labels.choose(connection._id, labels)
        return connection
    except BaseException:
        root.close()
        raise


def attach(
    con: duckdb.DuckDBPyConnection | Connection,
    gateway: str | Path | None = None,
    user: str | None = None,
    groups: Iterable[str] = (),
    *,
    usage_context: UsageContext | None = None,
    transport: Transport | httpx.AsyncBaseTransport | None = None,
    clock: Clock | None = None,
    on_alert: Callable[[Alert], None] | None = None,
    progress: bool | None = None,
) -> duckdb.DuckDBPyConnection:
    """Give the DuckDB instance behind `con` a gateway, and return `con`. Doing it again does nothing.

    The gateway keeps the instance open until `detach` or the interpreter's end.

    Args:
        con: Any DuckDB connection, `duckdb.default_connection()` included.
        gateway: As for `connect`.
        user: As for `connect`.
        groups: As for `connect`.
        usage_context: As for `connect`. Given again it is changed, for `con`; other bare connections of the instance
            have the labels that came with its gateway.
        transport: As for `connect`.
        clock: As for `connect`.
        on_alert: As for `connect`.
        progress: As for `connect`; counts for all bare connections of the instance.

    Raises:
        StoreError: The store cannot be opened, or the instance has a gateway with another store.
    """
    if isinstance(con, Connection):
        return con.duckdb
    if not isinstance(con, duckdb.DuckDBPyConnection):
        raise ArgumentError(
            "DATATYPE_MISMATCH",
            f"attach takes a DuckDB connection, not {type(con).__name__}: use fleming_sql.connect for a path",
        )
    caller, labels = _caller(user, groups), check_labels(usage_context)
    session, is_new = _attach(con, gateway, caller, transport, clock)
    if on_alert is not None:
        session.upkeep.alerts.listen(on_alert)
    connection_id = _connection_id(con)
    session.register(connection_id, caller)
    session.labels.choose(connection_id, labels)
    if is_new:
        session.labels.choose_for_others(labels)
    session.progress.choose_for_others(progress)
    session.pin()
    make_visible(con, session)
    return con


def interrupt(con: duckdb.DuckDBPyConnection) -> None:
    """Stop the statements of the instance behind `con` that make calls: those under way are broken off and logged.

    DuckDB's own `con.interrupt()` stops a statement only once its vector of rows has been answered. For a connection
    that is closed or has no gateway it does nothing.
    """
    try:
        cursor = con.cursor()
    except duckdb.ConnectionException:
        return
    try:
        slot = REGISTRY.find(cursor)
        if slot is not None and slot.session is not None:
            slot.session.engine.cancel()
    finally:
        cursor.close()


def detach(con: duckdb.DuckDBPyConnection | Connection) -> None:
    """Take the gateway away from the instance behind `con`: log written, thread ended, store closed.

    Doing it again, or for a connection that has none, does nothing. If `con` is the one that the gateway was attached
    through and was closed before, what is left of the gateway ends.
    """
    bare = con.duckdb if isinstance(con, Connection) else con
    with REGISTRY.lock:
        for session in REGISTRY.sessions():
            if session.was_left_by(bare):
                session.close()
    try:
        cursor = bare.cursor()
    except duckdb.ConnectionException:  # closed, and its gateway with it
        return
    try:
        with REGISTRY.lock:
            slot = REGISTRY.find(cursor)
            if slot is not None and slot.session is not None:
                drop(bare, cursor)
                slot.session.close()
    finally:
        cursor.close()


def _attach(
    con: duckdb.DuckDBPyConnection,
    gateway: str | Path | None,
    caller: Caller,
    transport: Transport | httpx.AsyncBaseTransport | None,
    clock: Clock | None,
) -> tuple[Session, bool]:
    """Return the session of the instance behind `con`, and whether it was made for this call."""
    cursor = con.cursor()
    try:
        with REGISTRY.lock:
            slot = REGISTRY.find(cursor)
            if slot is not None and slot.session is not None and slot.session.alive():
                return _same_store(slot.session, gateway), False
            slot = slot or REGISTRY.make(cursor)
            _let_go(slot, cursor)
            path = _store_path(cursor, gateway)
            if is_store(cursor):
                raise StoreError(
                    "this database is itself a gateway store: connect to your own database and name the store with "
                    "gateway=, or read it with duckdb.connect"
                )
            slot.session = Session(con, path, caller, _transport(transport), clock, on_closed=slot.forget)
            return slot.session, True
    finally:
        cursor.close()


def _let_go(slot: Slot, cursor: duckdb.DuckDBPyConnection) -> None:
    """Make the name `fleming` free, if it is a store's that was left behind when its connection was closed."""
    left = slot.session
    slot.session = None
    if left is not None:
        left.close()
        if attached_path(cursor) is not None:
            cursor.execute(f"detach {CATALOG}")
    taken = attached_path(cursor)
    if taken is not None:
        raise StoreError(
            f'this connection already has a database called "{CATALOG}" ({taken or "in memory"}), the name that the '
            "gateway store needs: rename the file, or attach it under another name (attach '…' as other_name)"
        )


def _transport(given: Transport | httpx.AsyncBaseTransport | None) -> Transport | None:
    return HttpxTransport(given) if isinstance(given, httpx.AsyncBaseTransport) else given


def _same_store(session: Session, gateway: str | Path | None) -> Session:
    if gateway is not None and _normal(str(gateway)) != _normal(session.path):
        raise StoreError(
            f"this DuckDB instance already has the gateway store {session.path}, so {gateway} cannot be attached "
            "beside it: detach the first (fleming_sql.detach), or use a connection to another database"
        )
    return session


def _store_path(cursor: duckdb.DuckDBPyConnection, gateway: str | Path | None) -> str:
    if gateway is not None:
        check_path(str(gateway))
        return str(gateway)
    rows = cursor.execute(
        "select path from duckdb_databases() where database_name = current_database() and path is not null"
    ).fetchall()
    if not rows:
        return MEMORY
    database = Path(rows[0][0])
    return str(database.with_name(f"{database.stem}.{CATALOG}.duckdb"))


def _check_database(database: str | Path, gateway: str | Path | None) -> None:
    if gateway is None:
        return
    check_path(str(gateway))
    if str(gateway) != MEMORY and _normal(str(database)) == _normal(str(gateway)):
        raise StoreError(
            f"the database and the gateway store are the same file, {database}: the store is a file of its own, "
            "so that the log outlives your transactions; name another with gateway="
        )


def _normal(path: str) -> str:
    return path if path == MEMORY else str(Path(path).resolve())


def _caller(user: str | None, groups: Iterable[str]) -> Caller:
    if isinstance(groups, str):
        raise ArgumentError("DATATYPE_MISMATCH", f"groups takes a list of names, not one text: write ['{groups}']")
    if user == "":
        raise ArgumentError("DATATYPE_MISMATCH", "user is an empty text: name who asks, or leave it out")
    name = default_user() if user is None else user
    return Caller(name.encode("utf-8", "replace").decode(), tuple(groups))


def _connection_id(con: duckdb.DuckDBPyConnection) -> int:
    return int(con.execute("select current_connection_id()").fetchall()[0][0])


def _release(session: Session, connection_id: int) -> None:
    if session.foreign:
        return  # in a forked process, where everything belongs to the parent
    if session.forget(connection_id):
        session.close()
