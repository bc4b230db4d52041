"""The Python functions behind `ai_query`, the live views and the checks of rows that SQL cannot make.

Two are of `ai_query`: one types the result while a statement is bound, one makes the calls for the rows.

They are registered once per DuckDB instance and can never be taken back safely, so they go through a `Slot`: what
is attached may change, the functions stay. DuckDB keeps only a bare pointer to them once the connection that
registered them is gone, so whoever makes a slot keeps it for the life of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import duckdb
import pyarrow as pa
from duckdb.func import ARROW, SPECIAL

from fleming_sql import jsontext
from fleming_sql.connection.config_checks import ConfigChecks
from fleming_sql.connection.labels import Labels
from fleming_sql.connection.session import Session
from fleming_sql.errors import ArgumentError, GatewayClosed, StoreError
from fleming_sql.gateway.batch import Batch, RowCall
from fleming_sql.gateway.pipeline import Outcome
from fleming_sql.gateway.plan import CallInput, Plan
from fleming_sql.policies.options import (
    read_options,
    read_usage_context,
    result_type,
    structure,
)
from fleming_sql.store.exports import lake_query

if TYPE_CHECKING:
    Column: TypeAlias = pa.Array[Any]
else:
    Column = pa.Array  # DuckDB evaluates annotations, and at run time an Array takes no parameter

INSTANCE_FUNCTION: Final = "__fleming_instance"
_TYPE_FUNCTION: Final = "__fleming_type"
_CALL_FUNCTION: Final = "__fleming_call"
_LIVE_FUNCTION: Final = "__fleming_live"
_CLEAR_FUNCTION: Final = "__fleming_cache_clear"
_LAKE_FUNCTION: Final = "__fleming_lake"
_CONFIG_CHECK: Final = "__fleming_config_check"


@dataclass(slots=True)
class Slot:
    """What a DuckDB instance has attached at the moment."""

    id: str
    on_bind: Callable[[], None]
    """Called on the thread that binds a statement, before its rows are read."""
    session: Session | None = None

    def forget(self) -> None:
        """Let go of the session: a slot lives for ever, and what a closed session holds should not."""
        self.session = None

    def current(self) -> Session:
        """Return the session.

        Raises:
            GatewayClosed: There is none, or it is closed or of another process.
        """
        if self.session is None:
            raise GatewayClosed(
                "[GATEWAY_CLOSED] no gateway is attached to this connection any more: call fleming_sql.attach(con)"
            )
        self.session.check_usable()
        return self.session


def register(cursor: duckdb.DuckDBPyConnection, slot: Slot) -> tuple[Callable[..., Any], ...]:
    """Register the functions of a slot with a cursor's DuckDB instance and return them; keep them for ever."""
    functions = AiQueryFunctions(slot)
    kept = (
        lambda: slot.id,
        functions.type_of,
        functions.call,
        functions.live,
        functions.clear,
        functions.lake,
        ConfigChecks().check,
    )
    cursor.create_function(INSTANCE_FUNCTION, kept[0], [], "VARCHAR", side_effects=True)
    cursor.create_function(
        _TYPE_FUNCTION,
        kept[1],
        ["VARCHAR", "VARCHAR", "BOOLEAN"],
        "VARCHAR",
        null_handling=SPECIAL,
        side_effects=False,  # must be foldable while binding; it sends nothing
    )
    cursor.create_function(
        _CALL_FUNCTION,
        kept[2],
        ["VARCHAR", "VARCHAR", "VARCHAR", "VARCHAR", "VARCHAR", "BLOB", "BIGINT", "BIGINT"],
        "VARCHAR",
        type=ARROW,
        null_handling=SPECIAL,
        side_effects=True,  # else DuckDB calls the model while binding, for EXPLAIN too
    )
    cursor.create_function(_LIVE_FUNCTION, kept[3], ["VARCHAR"], "VARCHAR", side_effects=True)
    cursor.create_function(_CLEAR_FUNCTION, kept[4], ["VARCHAR"], "BIGINT", null_handling=SPECIAL, side_effects=True)
    cursor.create_function(_LAKE_FUNCTION, kept[5], ["VARCHAR"], "VARCHAR", side_effects=False)  # called at each bind
    cursor.create_function(
        _CONFIG_CHECK, kept[6], ["VARCHAR", "VARCHAR", "VARCHAR"], "VARCHAR", null_handling=SPECIAL, side_effects=False
    )
    return kept


class AiQueryFunctions:
    """The functions of one slot."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def type_of(self, endpoint: str | None, options: str, is_list: bool) -> str:
        """Return the structure that `from_json` gives the result of a call.

        Args:
            endpoint: Name, a constant of the statement.
            options: The constant arguments as JSON.
            is_list: Whether the request is a list of texts.

        Raises:
            ArgumentError: An argument is wrong; shown when the statement is prepared, before any row is read.
        """
        session = self._slot.current()
        self._slot.on_bind()
        session.observation.on_bind()
        session.progress.on_bind()
        checked = read_options(options)
        task = None if checked.return_type is not None else session.task(endpoint or "")
        kind = result_type(task, checked, is_list=is_list)
        return structure(kind, checked.fail_on_error)

    def live(self, view: str) -> str:
        """Return the rows of a live view of `serving` as JSON text."""
        return jsontext.dumps(self._slot.current().report(view))

    def clear(self, endpoint: str | None) -> int:
        """Give no answer of an endpoint again that was made before now; NULL clears those of all."""
        return self._slot.current().clear_answers(endpoint)

    def lake(self, table: str) -> str:
        """Return the statement that a view of the schema `lake` consists of, as the table is exported now."""
        session = self._slot.session
        if session is None:  # the store is being opened, and its views are made
            return lake_query(table, (), ())
        return session.upkeep.lake(table)

    def call(
        self,
        endpoint: Column,
        request: Column,
        options: Column,
        types: Column,
        usage_context: Column,
        files: Column,
        connection_id: Column,
        query_id: Column,
    ) -> Column:
        """Call the model for each row of a vector and return the results as JSON text, once they are logged."""
        session = self._slot.current()
        connection, query = connection_id[0].as_py(), query_id[0].as_py()
        with session.batch(connection, query) as batch:
            plan_of = cache(partial(session.plan, session.snapshot_for(connection, query)))
            columns = map(_values, (endpoint, options, types, request, usage_context, files))
            labels = session.labels_for(connection, query)
            rows = [_row(plan_of, labels, *values) for values in zip(*columns, strict=True)]
            outcomes = _run(session, batch, rows, connection)
        return pa.array([_to_json(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)], pa.string())


def _run(session: Session, batch: Batch, rows: list[RowCall | None], connection_id: int) -> Sequence[Outcome | None]:
    try:
        return session.run(batch, rows, connection_id)
    except StoreError as error:
        raise error.with_traceback(None) from None  # DuckDB 1.5 prints it into the message


def _row(
    plan_of: Callable[[str, str, str], Plan],
    labels: Labels,
    endpoint: str | None,
    options: str,
    types: str,
    request: str | None,
    usage_context: str | None,
    file: bytes | None,
) -> RowCall | None:
    if request is None or request == "null":
        return None
    if endpoint is None:
        raise ArgumentError("AI_FUNCTION_UNSUPPORTED_REQUEST", "the argument endpoint is NULL: name an endpoint")
    plan = plan_of(endpoint, options, types)
    own = read_usage_context(usage_context)
    return RowCall(plan, CallInput(request, file, {**labels, **own} if labels else own))


def _values(column: Column) -> Iterable[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _to_json(row: RowCall | None, outcome: Outcome | None) -> str | None:
    if row is None or outcome is None:
        return None
    if row.plan.options.fail_on_error:
        if outcome.error is not None:
            raise outcome.error.with_traceback(None)  # DuckDB 1.5 prints it into the message
        return None if outcome.value is None else jsontext.dumps(outcome.value)
    message = outcome.error.message if outcome.error is not None else None
    return jsontext.dumps({"result": outcome.value, "errorMessage": message})
