"""Evaluates SQL policies in a DuckDB instance of their own, which reaches no file, no network and no setting.

An expression is prepared once. The statement reads its events from a stream that yields whatever is to be looked at
next, so a query costs neither binding nor planning: a quarter of a millisecond for one event.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import duckdb
import pyarrow as pa

from fleming_sql.sqltext import quote_identifier
from fleming_sql.types import PolicyEvent, SqlMacro

_LOCKED_DOWN: Final[Mapping[str, str | bool | int | float | list[str]]] = MappingProxyType(
    {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "allow_unsigned_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": "512MB",
        "threads": "1",
        "temp_directory": "",
        "lock_configuration": "true",
    }
)
_KEPT: Final = 64
"""Policies that stay prepared."""
_FIELDS: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("type", "target", "actor", "message", "arguments", "role", "path")),
        ("groups", pa.list_(pa.string())),
    ]
)
_EVENTS: Final = """
select struct_pack(
    type := type,
    target := target,
    actor := actor,
    message := message,
    arguments := arguments,
    role := role,
    path := path,
    context := struct_pack(
        actor := struct_pack(
            run_as := actor,
            groups := groups,
            context := struct_pack(
                is_on_behalf_of := false,
                client_id := null::varchar,
                actor_resource := null::varchar,
                is_actor_authenticated := false
            )
        ),
        message := message,
        tool := struct_pack(name := null::varchar, arguments := arguments)
    )
) as event
from policy_events
"""
_FATAL: Final = (duckdb.FatalException, duckdb.InternalException)
"""After these an instance takes no query any more."""


class ExpressionFailed(Exception):
    """An expression cannot be evaluated, on one event or on any. Its text has no word of an event in it."""


class BrokenOff(Exception):
    """The query was interrupted."""


class PolicySandbox:
    """A locked-down DuckDB instance in memory. One thread at a time evaluates; any may check and interrupt.

    DuckDB counts the memory of tables and sorts, not that of values, so the memory limit does not stop an expression
    from making huge ones: functions that do are refused when a policy is read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instance: duckdb.DuckDBPyConnection | None = None
        self._prepared: OrderedDict[tuple[str, tuple[SqlMacro, ...]], _Prepared] = OrderedDict()
        self._events = _Events()
        self._running: duckdb.DuckDBPyConnection | None = None
        self._is_interrupted = False

    def evaluate(
        self, expression: str, macros: Sequence[SqlMacro], events: Sequence[PolicyEvent]
    ) -> list[str | Exception | None]:
        """Return what an expression says to each of some events, as JSON text.

        Args:
            expression: A SQL expression over `event`.
            macros: Those that it uses, each after the ones that it uses itself.
            events: In one query, as long as none of them fails.

        Returns:
            For each event JSON, None where it is NULL, or an `ExpressionFailed`.

        Raises:
            BrokenOff: The query was interrupted.
        """
        self._is_interrupted = False
        try:
            return self._isolate(self._find(expression, tuple(macros)), events)
        except _FATAL as error:
            self.close()
            return [ExpressionFailed(_kind(error))] * len(events)
        except duckdb.InterruptException:
            raise BrokenOff from None
        except duckdb.Error as error:
            return [_unbound(error)] * len(events)
        except ExpressionFailed as error:
            return [error] * len(events)
        finally:
            self._events.table = _table(())

    def check(self, expression: str, macros: Sequence[SqlMacro]) -> str:
        """Return the type of an expression as DuckDB writes it, such as `VARCHAR`.

        Raises:
            ExpressionFailed: DuckDB does not take it: it lacks a function, or a field that it reads.
        """
        try:
            prepared = _Prepared(self._cursor(), expression, macros, _Events())
            try:
                return prepared.type()
            finally:
                prepared.close()
        except duckdb.Error as error:
            raise _unbound(error) from None

    def interrupt(self) -> None:
        """Break off the query that runs. One that has not begun yet is not, so call it until the query has ended."""
        self._is_interrupted = True
        running = self._running
        if running is not None:
            running.interrupt()

    def close(self) -> None:
        """Let go of the instance; the next query makes another."""
        with self._lock:
            self._prepared.clear()
            if self._instance is not None:
                self._instance.close()
                self._instance = None

    def _isolate(self, policy: _Prepared, events: Sequence[PolicyEvent]) -> list[str | Exception | None]:
        """Evaluate an expression so that an event on which it fails takes no other with it."""
        try:
            return [*self._run(policy, "plain", events)]
        except UnicodeEncodeError:
            failure = ExpressionFailed("the text is not valid Unicode")
        except (duckdb.InterruptException, *_FATAL):
            raise
        except duckdb.Error as error:
            failure = ExpressionFailed(_kind(error))
        if len(events) == 1:
            return [failure]
        results = self._isolate_at_once(policy, events, failure)
        if results is None:
            half = len(events) // 2
            results = self._isolate(policy, events[:half]) + self._isolate(policy, events[half:])
        return results

    def _isolate_at_once(
        self, policy: _Prepared, events: Sequence[PolicyEvent], failure: ExpressionFailed
    ) -> list[str | Exception | None] | None:
        """Let DuckDB go on after a failure; None where it cannot: it has no TRY for functions such as random."""
        try:
            policy.prepare_tolerant()
            rows = self._run(policy, "tolerant", events)
        except (duckdb.InterruptException, *_FATAL):
            raise
        except (duckdb.Error, UnicodeEncodeError):
            return None
        return [failure if row is None else None if row == "[null]" else row[1:-1] for row in rows]

    def _run(self, policy: _Prepared, statement: str, events: Sequence[PolicyEvent]) -> list[str | None]:
        if self._is_interrupted:
            raise duckdb.InterruptException
        self._events.table = _table(events)
        self._running = policy.cursor
        try:
            rows = policy.cursor.execute(f"execute {statement}").fetchall()
        finally:
            self._running = None
        if len(rows) != len(events):
            raise ExpressionFailed("it returned several rows, or one for all events")
        return [None if row[0] == "null" else row[0] for row in rows]

    def _find(self, expression: str, macros: tuple[SqlMacro, ...]) -> _Prepared:
        key = expression, macros
        with self._lock:
            found = self._prepared.get(key)
            if found is not None:
                self._prepared.move_to_end(key)
                return found
        made = _Prepared(self._cursor(), expression, macros, self._events)
        with self._lock:
            self._prepared[key] = made
            if len(self._prepared) > _KEPT:
                self._prepared.popitem(last=False)[1].close()
        return made

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._instance is None:
                self._instance = duckdb.connect(":memory:", config=dict(_LOCKED_DOWN))
            return self._instance.cursor()


class _Events:
    """The events of the next query, as a stream that DuckDB opens with each of them."""

    def __init__(self) -> None:
        self.table: Any = _table(())

    def __arrow_c_schema__(self) -> Any:
        return _FIELDS.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


class _Prepared:
    """An expression, prepared on a cursor of its own: macros of the kind TEMP are seen by the cursor that made them.

    Args:
        cursor: Closed with it.
        expression: The expression.
        macros: Those that it uses.
        events: Where it finds its events.
    """

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, expression: str, macros: Sequence[SqlMacro], events: _Events
    ) -> None:
        self.cursor = cursor
        self._expression = expression
        self._is_tolerant = False
        try:
            cursor.register("policy_events", events)
            for macro in macros:
                parameters = ", ".join(map(quote_identifier, macro.parameters))
                cursor.execute(
                    f"create or replace temp macro {quote_identifier(macro.name)}({parameters}) as ({macro.definition})"
                )
            cursor.execute(f"prepare plain as select to_json(({expression})) from ({_EVENTS})")  # noqa: S608  checked
        except duckdb.Error:
            cursor.close()
            raise

    def type(self) -> str:
        """Return the type of the expression."""
        [row] = self.cursor.execute(f"describe select ({self._expression}) from ({_EVENTS})").fetchall()  # noqa: S608  checked
        return str(row[1])

    def prepare_tolerant(self) -> None:
        """Prepare the form that goes on after a failure, and tells a NULL from one: it puts results into lists."""
        if not self._is_tolerant:
            self.cursor.execute(
                f"prepare tolerant as select try(to_json([({self._expression})])) from ({_EVENTS})"  # noqa: S608  checked
            )
            self._is_tolerant = True

    def close(self) -> None:
        self.cursor.close()


def _table(events: Sequence[PolicyEvent]) -> pa.Table:
    columns = zip(*events, strict=True) if events else ((),) * len(_FIELDS)
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, _FIELDS.types, strict=True)], schema=_FIELDS
    )


def _kind(error: duckdb.Error) -> str:
    """Return what kind of error it is; its text quotes the event."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Exception")).lower() + " error"


def _unbound(error: duckdb.Error) -> ExpressionFailed:
    """Return why an expression cannot be prepared: there is no event yet that the text could quote."""
    return ExpressionFailed(str(error).split("\n", 1)[0][:200])
