"""One gateway attached to one DuckDB instance: store, log, engine and pipeline put together."""

from __future__ import annotations

import ctypes
import getpass
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import duckdb

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.connection.config_checks import described
from fleming_sql.connection.labels import ConnectionLabels, Labels
from fleming_sql.connection.metering import Meter
from fleming_sql.connection.observation import Observation
from fleming_sql.connection.recall import Recall, RecallForGuardrails
from fleming_sql.connection.upkeep import Upkeep
from fleming_sql.engine import Engine
from fleming_sql.errors import ArgumentError, CallCancelled, StoreError
from fleming_sql.gateway.batch import Batch, RowCall, Tally
from fleming_sql.gateway.limiter import Earlier
from fleming_sql.gateway.pipeline import Gateway, Outcome
from fleming_sql.gateway.plan import Plan, make_plan, unknown_endpoint
from fleming_sql.gateway.policy_batches import PolicyEvaluator
from fleming_sql.gateway.reports import Reporter
from fleming_sql.policies.options import check_argument_types, read_options
from fleming_sql.progress import Bar, Watch
from fleming_sql.providers import ProviderRegistry
from fleming_sql.store.answers import StoredAnswers
from fleming_sql.store.catalog import CATALOG, MEMORY, detach_store, open_store
from fleming_sql.store.config import ConfigReader
from fleming_sql.store.journal import Journal, journal_folder
from fleming_sql.store.policy_sandbox import PolicySandbox
from fleming_sql.store.spending import SpendingLog
from fleming_sql.store.telemetry import BATCH, CallLog
from fleming_sql.transport import Transport
from fleming_sql.transport.pooled import PooledTransport
from fleming_sql.types import Caller, Snapshot, Spent, Task

_STATEMENTS_KEPT: Final = 1024
_PLANS_KEPT: Final = 512
_RECALLED_S: Final = 3600.0
"""How far back earlier processes' calls count: the longest period of a rate limit."""


def default_user() -> str:
    """Return who is asking where nobody says so: `FLEMING_USER`, else the operating system's user."""
    try:
        return os.environ.get("FLEMING_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid:{os.getuid()}" if hasattr(os, "getuid") else "unknown"


@dataclass(frozen=True, slots=True)
class _Running:
    """A statement that has sent rows."""

    snapshot: Snapshot
    labels: Labels
    """What its connection adds to each call's own labels."""
    tally: Tally
    bar: Bar | None
    """Shows the user how far it is."""


class Session:
    """A gateway at work for one DuckDB instance.

    Args:
        con: A connection of the instance. Its cursors serve the store, so the session ends when it is closed.
        path: The store's file, or `:memory:`.
        caller: On whose behalf calls are made where a connection has no caller of its own.
        transport: The way to the network; by default a pool of kept-alive connections.
        clock: Time and chance.
        on_closed: Called once, when the session has let go of everything.

    Raises:
        StoreError: The store cannot be opened; nothing stays attached.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        path: str,
        caller: Caller,
        transport: Transport | None = None,
        clock: Clock | None = None,
        *,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._id = uuid4().hex[:8]  # DuckDB counts connections and queries from 1 in every process
        self.path = path
        self.caller = caller
        self._on_closed = on_closed
        providers = ProviderRegistry()
        self._con = con
        self._store_cursors: list[duckdb.DuckDBPyConnection] = []
        self._store = con.cursor()
        open_store(self._store, path, described(providers))
        self._config = ConfigReader(self._store, caller.user, None if path == MEMORY else path)
        try:
            self._log = CallLog(self._cursor(), None if path == MEMORY else Journal(journal_folder(path)))
        except StoreError:
            self._close_cursors()
            detach_store(self._store)
            raise
        self._answers = StoredAnswers(self._cursor())
        self._spending = SpendingLog(self._cursor())
        self._engine = Engine(self._tick)
        self._clock = clock or Clock()
        self._opened_at = self._clock.now()
        self._recalling = threading.Lock()
        self._recalled: set[str] = set()
        self.gateway = Gateway(
            self._log.add,
            providers,
            transport or PooledTransport(),
            self._clock,
            PolicyEvaluator(PolicySandbox),
            lambda event: self.upkeep.alerts.used_up(event),
        )
        self.observation = Observation(self.gateway, providers)
        """Tells OpenTelemetry of the calls, where the process has it configured."""
        self.labels = ConnectionLabels()
        """Which labels the calls of each connection have."""
        self.progress = Watch()
        """Shows how far statements are."""
        self._recall = Recall(self._answers, self.gateway, self._clock)
        self.gateway.recall = RecallForGuardrails(self._recall).find
        self._reporter = Reporter(self.gateway.delivery, self.gateway.limiter, self._batches, self._clock)
        self.upkeep = Upkeep(
            self._cursor, self._config, lambda: bool(self._engine.works()), self._clock, in_memory=path == MEMORY
        )
        """Does what is done beside the calls."""
        self._lock = threading.Lock()
        self._callers: dict[int, Caller] = {}
        self._settling: set[int] = set()
        self._cursors: dict[int, list[int]] = {}
        self._met: set[Caller] = set()
        self._pinned = False
        self.visible: dict[str, list[str]] = {}
        """Databases of the instance that have the SQL functions, and what each connection to them needs besides."""
        self._kept: list[duckdb.DuckDBPyConnection] = []
        self._plans: OrderedDict[tuple[int, str, str, str], Plan] = OrderedDict()
        self._statements: OrderedDict[tuple[int, int], _Running] = OrderedDict()

    @property
    def engine(self) -> Engine:
        """The thread that calls run on."""
        return self._engine

    @property
    def closed(self) -> bool:
        """Whether the gateway takes no more calls."""
        return self._engine.closed

    def check_usable(self) -> None:
        """Refuse calls after close and in forked processes.

        Raises:
            GatewayClosed: With what to do instead.
        """
        self._engine.check_usable()

    def register(self, connection_id: int, caller: Caller, *, settles: bool = False) -> None:
        """Make `caller` the one who asks on a connection.

        Args:
            connection_id: DuckDB's number of it.
            caller: Who asks.
            settles: Whether the connection calls `settle` before each statement.
        """
        self._callers[connection_id] = caller
        if settles:
            self._settling.add(connection_id)
        self._met.add(caller)

    def unsettle(self, connection_id: int) -> None:
        """Have a connection's records in the table at once: it is used in ways that do not call `settle`."""
        self._settling.discard(connection_id)

    def _caller_of(self, connection_id: int) -> Caller:
        """Return who asks on a connection.

        One that DuckDB made by itself, `con.cursor()` of a bare connection, belongs to whom the gateway knows, as long
        as that is one; with several it is nobody's in particular, hence the process's own user's.
        """
        known = self._callers.get(connection_id)
        if known is not None:
            return known
        return self.caller if self._met <= {self.caller} else Caller(default_user())

    def adopt(self, connection_id: int, cursor_id: int) -> None:
        """Remember that a connection was made from another one, and is closed with it."""
        self._cursors.setdefault(connection_id, []).append(cursor_id)

    def cancel_family(self, connection_id: int) -> None:
        """Break off what a connection and those made from it have under way."""
        self.cancel(connection_id)
        for cursor_id in self._cursors.pop(connection_id, ()):
            self.cancel_family(cursor_id)

    def keep(self, con: duckdb.DuckDBPyConnection) -> None:
        """Hold a connection open for as long as the session lasts."""
        self._kept.append(con)

    def alive(self) -> bool:
        """Return whether calls can be made: not closed, and neither is the connection it was attached through."""
        if self._engine.closed:
            return False
        return self._log.is_open()

    def was_left_by(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Return whether `con` is the connection that this was attached through, and has been closed."""
        return con is self._con and not self.alive()

    def pin(self) -> None:
        """Keep the gateway open however many connections close, until it is detached."""
        self._pinned = True

    def forget(self, connection_id: int) -> bool:
        """Drop a connection, break off what it has under way; return whether the gateway has no use any more."""
        self._callers.pop(connection_id, None)
        self._settling.discard(connection_id)
        self.observation.on_close(connection_id)
        self.progress.forget(connection_id)
        self.labels.forget(connection_id)
        self.cancel(connection_id)
        return not self._callers and not self._pinned

    def task(self, endpoint: str) -> Task | None:
        """Return the task of an endpoint, None if it does not exist."""
        return self._config.task(endpoint)

    def snapshot_for(self, connection_id: int, query_id: int) -> Snapshot:
        """Return the configuration that a statement sees: as committed when its first rows came."""
        return self._running(connection_id, query_id).snapshot

    def labels_for(self, connection_id: int, query_id: int) -> Labels:
        """Return the labels that a statement's calls have where they say nothing else."""
        return self._running(connection_id, query_id).labels

    def _running(self, connection_id: int, query_id: int) -> _Running:
        key = (connection_id, query_id)
        with self._lock:
            known = self._statements.get(key)
            if known is not None:
                self._statements.move_to_end(key)  # it runs: those that no vector came from for long are dropped
            else:
                snapshot, tally = self._config.snapshot(), Tally(self._clock.now())
                bar = self.progress.bar(connection_id, Meter(tally, snapshot).read)
                known = self._statements[key] = _Running(snapshot, self.labels.of(connection_id), tally, bar)
                self._log.configure(known.snapshot.settings)
                self.upkeep.look(known.snapshot)
                if len(self._statements) > _STATEMENTS_KEPT:
                    self._statements.popitem(last=False)
            return known

    def plan(self, snapshot: Snapshot, endpoint: str, options: str, types: str) -> Plan:
        """Return what the rows of a statement with these arguments have in common.

        Raises:
            ArgumentError: An argument is wrong.
        """
        key = (id(snapshot), endpoint, options, types)
        with self._lock:
            known = self._plans.get(key)
        if known is None or known.snapshot is not snapshot:
            self._prepare_budgets()
            guards = self.gateway.guards.make(snapshot, endpoint)
            for name in (endpoint, *guards.endpoints):
                self._prepare_limits(snapshot, name)
            named = jsontext.loads(types)
            check_argument_types(named)
            known = make_plan(snapshot, endpoint, read_options(options), is_list=named["isList"], guards=guards)
            with self._lock:
                self._plans[key] = known
                if len(self._plans) > _PLANS_KEPT:
                    self._plans.popitem(last=False)
        return known

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor on the store, closed with the session."""
        cursor = self._con.cursor()
        cursor.execute(f"use {CATALOG}.main")
        self._store_cursors.append(cursor)
        return cursor

    def _close_cursors(self) -> None:
        for cursor in self._store_cursors:
            cursor.close()

    def _prepare_budgets(self) -> None:
        """See to it that calls are held to the newest budgets, and that what was spent before counts for them."""
        with self._recalling:
            snapshot, ledger = self._config.snapshot(), self.gateway.ledger
            if ledger.is_as_of(snapshot):
                return
            spent: Sequence[Spent] = ()
            if not all(ledger.knows(budget) for budget in snapshot.budgets):
                self._log.flush()
                spent = self._spending.so_far(snapshot.budgets, self._clock.now())
            self._engine.call(ledger.cover(snapshot, spent))

    def _prepare_limits(self, snapshot: Snapshot, endpoint: str) -> None:
        """Before the first call that rate limits meet: count what earlier processes sent, load what counts tokens."""
        limits = snapshot.rate_limits.get(endpoint)
        if not limits or endpoint not in snapshot.endpoints:
            return
        if any(limit.metric == "tokens" for limit in limits):
            for entity in snapshot.endpoints[endpoint].entities:
                self.gateway.counter.load(entity.model)  # here, since the event loop must not wait for it
        with self._recalling:
            if endpoint not in self._recalled:
                earlier = [
                    Earlier(age_s, user, snapshot.groups_of.get(user, frozenset()), calls, tokens)
                    for age_s, user, calls, tokens in self._log.admitted(endpoint, self._opened_at, _RECALLED_S)
                ]
                self._engine.call(self.gateway.limiter.recall(endpoint, earlier))
                self._recalled.add(endpoint)

    @contextmanager
    def batch(self, connection_id: int, query_id: int) -> Iterator[Batch]:
        """Make the batch of one vector, which an interrupt of its connection cancels from now on."""
        self._log.check()
        caller = self._caller_of(connection_id)
        running = self._running(connection_id, query_id)
        batch = Batch(self.gateway, self._statement_id(connection_id, query_id), caller, running.tally)
        self.observation.on_rows(batch.statement.id, connection_id)
        with self._engine.owned(batch, connection_id), running.bar or nullcontext():
            yield batch

    def _statement_id(self, connection_id: int, query_id: int) -> str:
        return f"{self._id}-{connection_id}-{query_id}"

    def statements_of(self, connection_id: int) -> Sequence[str]:
        """Return the ids of a connection's latest statements that made calls, as the log has them."""
        with self._lock:
            keys = [key for key in self._statements if key[0] == connection_id]
        return [self._statement_id(*key) for key in keys]

    def run(self, batch: Batch, rows: Sequence[RowCall | None], connection_id: int) -> list[Outcome | None]:
        """Make the calls of one vector and return their outcomes once all are logged."""
        # More vectors will follow a full one: its records go into the table while those are on their way.
        soon = self._flush_soon if len(rows) >= BATCH and connection_id in self._settling else None
        try:
            batch.fill(self._recall.look_up(rows, batch.statement.caller))
            return self._engine.run(batch)
        except KeyboardInterrupt:
            # Whatever leaves a function reaches the user as an error of DuckDB's with this text in it.
            raise CallCancelled("[CANCELLED] KeyboardInterrupt: calls under way were broken off and logged") from None
        finally:
            self.observation.flush()
            self._log.release(soon)

    def _tick(self) -> None:
        self.observation.flush()
        self._log.flush()

    def _flush_soon(self) -> None:
        self._engine.soon(self._log.flush)

    def settle(self) -> None:
        """See to it that all calls that have ended can be read."""
        self._log.settle()

    def clear_answers(self, endpoint: str | None) -> int:
        """Give no answer again that was made before now; return how many the log held.

        Args:
            endpoint: Whose; None for all.

        Raises:
            ArgumentError: There is no such endpoint.
        """
        known = self._config.snapshot().endpoints
        if endpoint is not None and endpoint not in known:
            raise ArgumentError("RESOURCE_DOES_NOT_EXIST", unknown_endpoint(endpoint, known))
        count = self._answers.clear(endpoint)
        self._engine.call(self.gateway.forget_answers(endpoint))  # after: what is looked up from now on is new
        return count

    def report(self, view: str) -> Sequence[Mapping[str, Any]]:
        """Return the rows of a live view, as of now."""
        if view == "maintenance":
            return self.upkeep.report()
        return self._engine.call(self._reporter.report(view))

    def _batches(self) -> Iterable[Batch]:
        return [work for work in self._engine.works() if isinstance(work, Batch)]

    def cancel(self, connection_id: int) -> None:
        """Break off what a connection has under way."""
        self._engine.cancel(connection_id)

    @property
    def foreign(self) -> bool:
        """Whether this is a forked process, and the session is its parent's."""
        return self._engine.foreign

    def abandon(self) -> None:
        """Keep DuckDB's objects from being destroyed in a forked process.

        Closing the database there would write a checkpoint into the parent's files and remove its write-ahead log.
        """
        for con in (self._store, *self._store_cursors, *self._kept):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(con))

    def close(self) -> None:
        """Break off all calls, write the log, end the thread and let go of the store."""
        if self._engine.closed or self.foreign:
            return
        self._engine.close(self.gateway.aclose)
        self.upkeep.worker.close()
        self.progress.close()
        self.observation.flush()
        try:
            self._log.close()
            self.upkeep.finish()
        finally:
            self._close_cursors()
            detach_store(self._store)
            self._store.close()
            for con in self._kept:
                con.close()
            self._on_closed()
