"""One call with its trace: the same call as of `ai_query` on one row, with what each step decided."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import duckdb

from fleming_sql import jsontext
from fleming_sql.connection.session import Session
from fleming_sql.gateway.batch import RowCall
from fleming_sql.gateway.plan import CallInput, Plan
from fleming_sql.gateway.trace import Trace, TracedStep
from fleming_sql.policies.options import read_usage_context

_TYPES: Final = jsontext.dumps(
    {
        "isList": False,
        "request": "VARCHAR",
        "modelParameters": "JSON",
        "usageContext": "JSON",
        "files": '"NULL"',
        "cache": "BOOLEAN",
    }
)


@dataclass(frozen=True, slots=True)
class TracedCall:
    """How one call went."""

    endpoint: str
    request_id: str
    """As in `fleming.serving.inference`."""
    status: int
    """HTTP status, as logged."""
    answer: Any
    """The result as JSON value; None where there is an error."""
    error: str | None
    """What went wrong and what to change."""
    error_code: str | None
    duration_ms: float
    """From the beginning until the call was in the log."""
    steps: tuple[TracedStep, ...]
    """In the order in which they decided."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def trace_call(
    con: duckdb.DuckDBPyConnection,
    session: Session,
    endpoint: str,
    request: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    usage_context: Mapping[str, str] | None = None,
    cache: bool = True,
) -> TracedCall:
    """Make one call and return it with its trace; an error of the call is a value here.

    Args:
        con: On whose behalf.
        session: Its gateway.
        endpoint: Its name.
        request: A text, or what a STRUCT holds, such as `{"messages": […]}`.
        parameters: As `modelParameters`.
        usage_context: As `usageContext`.
        cache: Whether an earlier answer may be given again.

    Raises:
        ArgumentError: An argument is wrong; nothing was sent or logged.
    """
    trace = Trace(time.monotonic)
    asked_by = con.execute("select current_connection_id(), current_query_id()").fetchall()[0]
    connection_id, query_id = (int(number) for number in asked_by)
    options = jsontext.dumps(
        {
            "returnType": None,
            "failOnError": False,
            "modelParameters": None if parameters is None else dict(parameters),
            "responseFormat": None,
            "cache": cache,
        }
    )
    labels = read_usage_context(jsontext.dumps(dict(usage_context)) if usage_context else None)
    with session.batch(connection_id, query_id) as batch:
        batch.trace_into(trace)
        plan = session.plan(session.snapshot_for(connection_id, query_id), endpoint, options, _TYPES)
        _note_configuration(trace, plan)
        row = RowCall(plan, CallInput(jsontext.dumps(request), usage_context=labels))
        outcome = session.run(batch, [row], connection_id)[0]
    assert outcome is not None  # noqa: S101  the request is not NULL
    record = outcome.record
    trace.note("log", f"written as call {record.databricks_request_id}", request_id=record.databricks_request_id)
    return TracedCall(
        endpoint,
        record.databricks_request_id,
        record.status_code,
        outcome.value,
        None if outcome.error is None else outcome.error.message,
        record.error_code,
        trace.steps[-1].at_ms,
        tuple(trace.steps),
    )


def _note_configuration(trace: Trace, plan: Plan) -> None:
    endpoint = plan.endpoint
    if endpoint is None:
        return  # the call fails by it, in better words
    names = _names([entity.name for entity in endpoint.entities])
    guardrails = len(plan.guards.input) + len(plan.guards.output)
    trace.note(
        "configuration",
        f'"{endpoint.name}" version {endpoint.version}, task {endpoint.task}, served by {names}',
        version=endpoint.version,
        task=endpoint.task,
        entities=[entity.name for entity in endpoint.entities],
        guardrail_stages=guardrails,
        timeout_ms=endpoint.timeout_ms,
        max_retries=endpoint.max_retries,
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "nobody"
