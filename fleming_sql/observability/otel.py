"""OpenTelemetry spans and metrics of calls. The only module that imports OpenTelemetry.

A call is told when it has ended, from its record: one span for it, and below that one for each request that it made.
That happens beside the event loop, so that an exporter that is slow or fails holds up no call.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import datetime
from threading import get_ident
from typing import Final, NamedTuple

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from fleming_sql.observability.conventions import (
    DURATION_BUCKETS,
    TOKEN_BUCKETS,
    Attributes,
    answer_attributes,
    content_attributes,
    entity_attributes,
    request_attributes,
    server_of,
)
from fleming_sql.providers import ProviderRegistry
from fleming_sql.types import Answer, AnsweredRequest, Attempt, CallFacts, CallRecord, Endpoint, ServedEntity

_LOGGER: Final = logging.getLogger("fleming_sql")
_SCOPE: Final = "fleming_sql"
_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURES: Final = frozenset({"true", "1", "span_only", "span_and_event"})
_STATEMENTS_KEPT: Final = 1024
_ENTITIES_KEPT: Final = 4096
_NOWHERE: Final = Context()
"""In no span, whatever the thread that tells is in."""


def is_configured() -> bool:
    """Return whether spans or metrics would go anywhere: the API's own providers drop them."""
    return _is_real(trace.get_tracer_provider()) or _is_real(metrics.get_meter_provider())


def _is_real(provider: object) -> bool:
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


class _Call(NamedTuple):
    """A call to an endpoint that there is."""

    record: CallRecord
    facts: CallFacts
    endpoint: Endpoint


class Observer:
    """Tells OpenTelemetry what calls did.

    Args:
        providers: Tell where requests go.
    """

    def __init__(self, providers: ProviderRegistry) -> None:
        self._providers = providers
        self._tracer = trace.get_tracer(_SCOPE)
        meter = metrics.get_meter(_SCOPE)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._durations = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Duration of a request to a model",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._call_durations = meter.create_histogram(
            "fleming.call.duration",
            "s",
            "Duration of a call, retries and fallbacks included, queues not; calls that made no request too",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._entities: dict[str, Attributes] = {}
        self._ended: deque[tuple[CallRecord, CallFacts]] = deque()
        self._of_connections: dict[int, Context] = {}
        self._binding: tuple[int, Context] | None = None
        self._bound_by_several = False
        self._of_statements: OrderedDict[str, Context] = OrderedDict()

    def on_use(self, connection_id: int) -> None:
        """Take down the span in which a connection is used; called on its user's thread."""
        self._of_connections[connection_id] = context.get_current()

    def on_bind(self) -> None:
        """Take down the span in which a statement is bound; called on its user's thread."""
        if self._binding is not None and self._binding[0] != get_ident():
            self._bound_by_several = True
        self._binding = get_ident(), context.get_current()

    def on_close(self, connection_id: int) -> None:
        """Forget a connection."""
        self._of_connections.pop(connection_id, None)

    def on_rows(self, statement_id: str, connection_id: int) -> None:
        """Find out in which span a statement runs; called on whichever thread DuckDB computes its rows.

        A connection that DuckDB made by itself tells nothing of its use, so its statements have the span of the
        thread that binds statements, as long as that is one.
        """
        if statement_id in self._of_statements:
            return
        found = context.get_current()
        if not trace.get_current_span(found).get_span_context().is_valid:
            bound = self._binding[1] if self._binding and not self._bound_by_several else found
            found = self._of_connections.get(connection_id, bound)
        self._of_statements[statement_id] = found
        if len(self._of_statements) > _STATEMENTS_KEPT:
            self._of_statements.popitem(last=False)

    def on_call(self, record: CallRecord, facts: CallFacts) -> None:
        """Remember a call that has ended, until the next `flush`."""
        self._ended.append((record, facts))

    def flush(self) -> None:
        """Tell of the calls that have ended. It raises nothing: no call is to fail because of what watches it."""
        while self._ended:
            try:
                record, facts = self._ended.popleft()
            except IndexError:  # another thread took it
                return
            try:
                self._tell(record, facts)
            except Exception as error:  # whatever a processor or an exporter of the user's raises
                _LOGGER.debug("OpenTelemetry failed for call %s", record.databricks_request_id, exc_info=error)

    def _tell(self, record: CallRecord, facts: CallFacts) -> None:
        began = _ns(record.request_time)
        duration_ms = record.queue_ms + record.execution_duration_ms
        parent = self._of_statements.get(record.statement_id or "", _NOWHERE)
        span = self._tracer.start_span(f"ai_query {record.endpoint_name}", parent, start_time=began)
        if span.is_recording():
            span.set_attributes(_call_attributes(record))
            _set_error(span, record.error_code, record.error_message, shown=_captures(facts.endpoint))
        if facts.endpoint is not None:
            self._tell_requests(span, _Call(record, facts, facts.endpoint))
        span.end(began + round(duration_ms * 1e6))
        measured: Attributes = {"fleming.endpoint": record.endpoint_name, "fleming.cache_hit": record.cache_hit}
        if record.error_code is not None:
            measured["error.type"] = record.error_code
        self._call_durations.record(record.execution_duration_ms / 1000, measured)

    def _tell_requests(self, span: Span, call: _Call) -> None:
        above = trace.set_span_in_context(span)
        entities = {entity.id: entity for entity in call.endpoint.entities}
        answers = {answered.attempt_id: answered.answer for answered in call.facts.answers}
        for attempt in call.record.attempts:
            entity = entities.get(attempt.served_entity_id)
            if entity is not None:
                self._tell_request(above, call, entity, attempt, answers.get(attempt.attempt_id))
        for answered in call.facts.answers:
            self._count(answered, call.endpoint)

    def _tell_request(
        self, above: Context, call: _Call, entity: ServedEntity, attempt: Attempt, answer: Answer | None
    ) -> None:
        began = _ns(attempt.started_at)
        to_whom = self._of_entity(entity, call.endpoint)
        name = f"{to_whom['gen_ai.operation.name']} {entity.model}"
        span = self._tracer.start_span(name, above, SpanKind.CLIENT, to_whom, start_time=began)
        if span.is_recording():
            span.set_attributes(request_attributes(entity, call.facts.parameters))
            span.set_attributes(_attempt_attributes(attempt))
            _set_error(span, attempt.error_code, attempt.error_message, shown=_captures(call.endpoint))
            if answer is not None:
                span.set_attributes(answer_attributes(answer))
                if answer is call.facts.answers[-1].answer:  # the body that the record has
                    span.set_attributes(_contents(call, answer))
        span.end(began + round(attempt.duration_ms * 1e6))
        measured = _with_model(to_whom, answer)
        if attempt.error_code is not None:
            measured["error.type"] = attempt.error_code
        self._durations.record(attempt.duration_ms / 1000, measured)

    def _count(self, answered: AnsweredRequest, endpoint: Endpoint) -> None:
        """Count tokens; the conventions ask to leave out what the provider did not tell."""
        measured = _with_model(self._of_entity(answered.entity, endpoint), answered.answer)
        usage = answered.answer.usage
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, {**measured, "gen_ai.token.type": kind})

    def _of_entity(self, entity: ServedEntity, endpoint: Endpoint) -> Attributes:
        known = self._entities.get(entity.id)
        if known is None:
            if len(self._entities) >= _ENTITIES_KEPT:
                self._entities.clear()
            server = server_of(self._providers, entity, endpoint)
            known = self._entities[entity.id] = entity_attributes(entity, endpoint, server)
        return known


def _captures(endpoint: Endpoint | None) -> bool:
    """Return whether what was said may be told: both OpenTelemetry's switch and the endpoint have to say so."""
    return endpoint is not None and endpoint.payload_logging and os.environ.get(_CAPTURE, "").lower() in _CAPTURES


def _contents(call: _Call, answer: Answer) -> Attributes:
    body = call.record.request if _captures(call.endpoint) else None
    return content_attributes(body, answer) if body is not None else {}


def _with_model(to_whom: Attributes, answer: Answer | None) -> Attributes:
    model = answer.model if answer is not None else None
    return {**to_whom, "gen_ai.response.model": model} if model is not None else dict(to_whom)


def _call_attributes(record: CallRecord) -> Mapping[str, str | int | float | bool]:
    known: dict[str, str | int | float | bool | None] = {
        "fleming.endpoint": record.endpoint_name,
        "fleming.request_id": record.databricks_request_id,
        "fleming.statement_id": record.statement_id,
        "fleming.status_code": record.status_code,
        "fleming.cache_hit": record.cache_hit,
        "fleming.reused_request_id": record.reused_request_id,
        "fleming.queue_ms": record.queue_ms,
        "fleming.limit_wait_ms": record.limit_wait_ms,
        "fleming.overhead_us": record.overhead_us,
    }
    return {key: value for key, value in known.items() if value is not None}


def _attempt_attributes(attempt: Attempt) -> Attributes:
    attributes: Attributes = {
        "fleming.served_entity": attempt.served_entity_name,
        "fleming.attempt.reason": attempt.reason,
    }
    if attempt.status_code:
        attributes["http.response.status_code"] = attempt.status_code
    return attributes


def _set_error(span: Span, code: str | None, message: str | None, *, shown: bool) -> None:
    """Mark a span as failed. A message may quote the request, so it is told where contents are."""
    if code is not None:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR, message if shown and message else code))


def _ns(time: datetime) -> int:
    return round(time.timestamp() * 1e6) * 1000
