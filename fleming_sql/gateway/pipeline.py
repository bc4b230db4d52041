"""The call pipeline: check, reuse, route, attempt, read, log; the same steps for every way of calling.

    plan (unknown, switched off, broken row?) -> request -> reuse -> place -> route -> attempts -> check -> log

A call always ends in one record, whatever happened. Nothing here knows of SQL, vectors or threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.errors import CallError
from fleming_sql.gateway.batching import EmbeddingBatcher
from fleming_sql.gateway.gate import FairGate
from fleming_sql.gateway.plan import CallInput, Plan, Statement
from fleming_sql.gateway.records import CallInProgress
from fleming_sql.gateway.reuse import Reusable, ReuseCache
from fleming_sql.gateway.upstream import Cancelled, Exchange, ExchangeFailed, Target, Upstream
from fleming_sql.policies.answers import AnswerMismatch
from fleming_sql.policies.failures import to_call_error
from fleming_sql.policies.parameters import is_reusable
from fleming_sql.policies.requests import BadRequest, Prompt, read_request
from fleming_sql.policies.retries import next_delay
from fleming_sql.policies.routing import choose
from fleming_sql.providers import ProviderRegistry
from fleming_sql.transport import Transport
from fleming_sql.types import EMBEDDINGS, CallRecord, Endpoint, ModelRequest, ServedEntity


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    record: CallRecord
    """As it was logged."""
    value: Any = None
    """The result, a JSON value; None where there is an error."""
    error: CallError | None = None
    reusable: Reusable | None = None
    """The answer, where the rows that asked for the same may have it."""


class Gateway:
    """Makes calls.

    Args:
        log: Takes one record per call.
        providers: The wire formats.
        transport: The way to the network.
        clock: Time, ids and chance.

    Example:
        >>> outcome = await gateway.call(plan, CallInput('"Hello"'), statement)
        >>> outcome.value
        'Hello! How can I help?'
    """

    def __init__(
        self,
        log: Callable[[CallRecord], None],
        providers: ProviderRegistry,
        transport: Transport,
        clock: Clock,
    ) -> None:
        self._log = log
        self._clock = clock
        self._transport = transport
        self._upstream = Upstream(providers, transport, clock)
        self._reuse = ReuseCache(clock.monotonic)
        self._batcher = EmbeddingBatcher()
        self._gates: dict[str, FairGate] = {}

    async def aclose(self) -> None:
        """Close the connections to providers."""
        await self._transport.aclose()

    async def call(self, plan: Plan, asked: CallInput, statement: Statement) -> Outcome:
        """Make one call and log it.

        Args:
            plan: The endpoint and the options.
            asked: The row.
            statement: On whose behalf, and for which statement.

        Returns:
            The result or the error; errors are values here, so that one row's does not end the others.

        Raises:
            asyncio.CancelledError: The task was cancelled; if a request had gone out, that is logged.
        """
        progress = CallInProgress(plan, asked, statement, self._clock)
        try:
            outcome = await self._call(plan, asked, progress)
        except CallError as error:
            outcome = Outcome(progress.failed(error), error=error)
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled, Cancelled):
                progress.broken_off(cancelled)
            if progress.sent:
                self._log(progress.cancelled(between_attempts=not isinstance(cancelled, Cancelled)))
            raise
        self._log(outcome.record)
        return outcome

    def repeat(self, plan: Plan, asked: CallInput, statement: Statement, outcome: Outcome) -> None:
        """Log a row that shares the outcome of an identical row of its batch."""
        progress = CallInProgress(plan, asked, statement, self._clock)
        self._log(progress.repeated(outcome.record, outcome.reusable))

    async def _call(self, plan: Plan, asked: CallInput, progress: CallInProgress) -> Outcome:
        refusal = plan.refuse(progress.request_id)
        if refusal:
            raise refusal
        endpoint = plan.endpoint
        assert endpoint is not None  # noqa: S101  a plan without an endpoint refuses
        prompt = self._read(plan, endpoint, asked, progress)

        async def make() -> Reusable:
            return await self._answer(plan, endpoint, prompt, progress)

        # A request given as a STRUCT may bring a temperature of its own.
        reusable = plan.reusable and is_reusable(endpoint.task, prompt.request.parameters)
        if reusable:
            ttl_s = float(endpoint.cache_ttl_seconds or 0)
            made, reused = await self._reuse.get_or_call(progress.key, ttl_s, make)
        else:
            made, reused = await make(), False
        value = self._value(plan, prompt, made, reused, progress)
        record = progress.reused(made) if reused else progress.answered(made)
        return Outcome(record, value, reusable=made if reusable else None)

    def _read(self, plan: Plan, endpoint: Endpoint, asked: CallInput, progress: CallInProgress) -> Prompt:
        try:
            prompt = read_request(
                endpoint.task, asked.request, asked.file, plan.parameters, plan.options.response_format
            )
        except BadRequest as error:
            condition = "AI_FUNCTION_UNSUPPORTED_REQUEST"
            told = (
                f'[{condition}] endpoint "{endpoint.name}": {error} (request id {progress.request_id}, HTTP status 400)'
            )
            raise CallError(condition, told, status=400, code="BAD_REQUEST") from None
        progress.input_characters = prompt.characters
        return prompt

    def _value(self, plan: Plan, prompt: Prompt, made: Reusable, reused: bool, progress: CallInProgress) -> Any:
        """Return what SQL gets. The answer fits the format already; a cast to the caller's type may still fail."""
        if progress.checked is not None:
            return progress.checked.value  # as it was checked when it came
        content = made.answer.content
        if prompt.request.task == EMBEDDINGS and not prompt.is_list:
            content = content[0]
        try:
            return plan.checker.check(content).value
        except AnswerMismatch as mismatch:
            progress.keep(made, reused=reused)
            raise self._mismatched(plan, mismatch, progress) from None

    def _mismatched(self, plan: Plan, mismatch: AnswerMismatch, progress: CallInProgress) -> CallError:
        advice = (
            "check responseFormat, or use a model that keeps to a schema"
            if mismatch.retryable
            else "check returnType against what the model answers"
        )
        told = (
            f'[{mismatch.condition}] endpoint "{plan.endpoint_name}": {mismatch.reason}; {advice} '
            f"(request id {progress.request_id}, HTTP status 422)"
        )
        return CallError(mismatch.condition, told, status=422, code="INVALID_RESPONSE")

    async def _answer(self, plan: Plan, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress) -> Reusable:
        """Send until there is an answer in the asked-for format, within one deadline and one budget of attempts."""
        entity = choose(endpoint.entities, self._clock.random())
        progress.entity = entity
        request = self._for_entity(entity, prompt.request)
        target = Target(endpoint, entity, plan.snapshot.credentials)
        reason, mismatches = "first", 0
        while True:
            exchange = await self._attempt(target, request, reason, progress)
            made = Reusable(
                exchange.answer, progress.request_id, entity.id, exchange.request_body, exchange.response_body
            )
            if plan.options.response_format is None:
                return made
            try:
                progress.checked = plan.checker.check(exchange.answer.content)
            except AnswerMismatch as mismatch:
                mismatches += 1
                if not mismatch.retryable or mismatches > 1:
                    progress.keep(made)
                    raise self._mismatched(plan, mismatch, progress) from None
                progress.spent(exchange.answer)
                request = _with_correction(request, exchange.answer.content, mismatch)
                reason = "schema_mismatch"
            else:
                return made

    def _for_entity(self, entity: ServedEntity, request: ModelRequest) -> ModelRequest:
        own = self._upstream.provider(entity).own_parameters
        beneath = {key: value for key, value in entity.parameters.items() if key not in own}
        return replace(request, parameters={**beneath, **request.parameters}) if beneath else request

    async def _attempt(self, target: Target, request: ModelRequest, reason: str, progress: CallInProgress) -> Exchange:
        """Send one request, again after failures that may pass."""
        while True:
            try:
                exchange = await self._send(target, request, reason, progress)
            except ExchangeFailed as error:
                progress.failed_with(error)
                delay = next_delay(
                    retryable=error.failure.retryable,
                    retry_after_s=error.failure.retry_after_s,
                    attempts_made=progress.failures,
                    max_retries=target.endpoint.max_retries,
                    remaining_s=progress.remaining_s,
                    chance=self._clock.random(),
                )
                told = to_call_error(error.failure, target.entity, progress.request_id, progress.failures)
                if delay is None:
                    raise told from None
                progress.last_error = told
                await progress.idle(self._clock.sleep(delay))
                reason = "retry"
            else:
                progress.tried(exchange)
                return exchange

    async def _send(self, target: Target, request: ModelRequest, reason: str, progress: CallInProgress) -> Exchange:
        flow = progress.flow

        async def send(request: ModelRequest) -> Exchange:
            gate = self._gate(target.endpoint)
            await progress.queued(gate.enter(flow))
            try:
                progress.permit()
                return await self._upstream.send(target, request, progress.start_clock(), reason)
            finally:
                progress.rest()
                gate.leave()

        if request.task != EMBEDDINGS:
            return await send(request)
        max_inputs = self._upstream.provider(target.entity).max_inputs(target.entity)
        if max_inputs <= len(request.inputs):
            return await send(request)
        progress.permit()
        progress.start_clock()  # this call's own, whichever call's request carries its inputs
        key = (flow, target.entity.id, jsontext.dumpb(request.parameters))
        try:
            return await self._batcher.call(key, request, max_inputs, send)
        finally:
            progress.rest()

    def _gate(self, endpoint: Endpoint) -> FairGate:
        gate = self._gates.get(endpoint.name)
        if gate is None:
            gate = self._gates[endpoint.name] = FairGate(endpoint.max_concurrency)
        gate.limit = endpoint.max_concurrency
        return gate


def _with_correction(request: ModelRequest, answer: Any, mismatch: AnswerMismatch) -> ModelRequest:
    """Ask again, with the answer that did not fit and the reason why."""
    text = answer if isinstance(answer, str) else jsontext.dumps(answer)
    return replace(
        request,
        messages=(
            *request.messages,
            {"role": "assistant", "content": text or "(empty)"},
            {
                "role": "user",
                "content": f"That answer does not fit: {mismatch.reason}. Answer again, with the JSON alone.",
            },
        ),
    )
