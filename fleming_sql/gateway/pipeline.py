"""The call pipeline: the same steps for every way of calling.

    permission -> plan (unknown, off, broken row?) -> request -> reuse -> budgets -> rate limits -> delivery -> check
    -> log

A call always ends in one record, whatever happened. Nothing here knows of SQL, vectors or threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.errors import CallError
from fleming_sql.gateway.budgets import BudgetRefused, Estimate, Ledger
from fleming_sql.gateway.delivery import Delivery
from fleming_sql.gateway.limiter import Admission, LimitReached, RateLimiter
from fleming_sql.gateway.plan import CallInput, Plan, Statement
from fleming_sql.gateway.records import CallInProgress
from fleming_sql.gateway.reuse import Reusable, ReuseCache
from fleming_sql.gateway.upstream import Cancelled, Upstream
from fleming_sql.policies.answers import AnswerMismatch
from fleming_sql.policies.fallbacks import Tries
from fleming_sql.policies.parameters import is_reusable
from fleming_sql.policies.requests import BadRequest, Prompt, read_request
from fleming_sql.policies.tokens import Tokens, UsualAnswer, estimate_tokens, longest_answer, longest_prompt
from fleming_sql.providers import ProviderRegistry
from fleming_sql.tokenizer import TokenCounter
from fleming_sql.transport import Transport
from fleming_sql.types import EMBEDDINGS, CallFacts, CallRecord, Endpoint, ModelRequest, StoredAnswer, UsedUp

_LOGGER: Final = logging.getLogger("fleming_sql")


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
        on_used_up: Callable[[UsedUp], None] = lambda _: None,
    ) -> None:
        self._log = log
        self.observe: Callable[[CallRecord, CallFacts], None] | None = None
        """Told of each call that has ended, after the log."""
        self._providers = providers
        self._clock = clock
        self._transport = transport
        self._reuse = ReuseCache(clock.monotonic)
        self.counter = TokenCounter()
        self._cleared_at: dict[str | None, datetime] = {}
        self._usual_answers: dict[str, UsualAnswer] = {}
        self.ledger = Ledger(clock, on_used_up)
        self.limiter = RateLimiter(clock)
        self.delivery = Delivery(Upstream(providers, transport, clock), clock)

    async def aclose(self) -> None:
        """Close the connections to providers."""
        await self._transport.aclose()

    async def call(
        self, plan: Plan, asked: CallInput, statement: Statement, stored: StoredAnswer | None = None
    ) -> Outcome:
        """Make one call and log it.

        Args:
            plan: The endpoint and the options.
            asked: The row.
            statement: On whose behalf, and for which statement.
            stored: An earlier answer to the same request, which is given again if it may be.

        Returns:
            The result or the error; errors are values here, so that one row's does not end the others.

        Raises:
            asyncio.CancelledError: The task was cancelled; if a request had gone out, that is logged.
        """
        progress = CallInProgress(plan, asked, statement, self._clock)
        try:
            outcome = await self._call(plan, asked, progress, stored)
        except CallError as error:
            outcome = Outcome(progress.failed(error), error=error)
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled, Cancelled):
                progress.broken_off(cancelled)
            if progress.sent:
                self._end(progress, progress.cancelled(between_attempts=not isinstance(cancelled, Cancelled)))
            else:
                self._give_back(progress)
            raise
        except Exception as error:
            _LOGGER.debug("call %s failed inside the gateway", progress.request_id, exc_info=error)
            unexpected = _unexpected(plan, error, progress.request_id)
            outcome = Outcome(progress.failed(unexpected), error=unexpected)
        self._end(progress, outcome.record)
        return outcome

    def repeat(self, plan: Plan, asked: CallInput, statement: Statement, outcome: Outcome) -> None:
        """Log a row that shares the outcome of an identical row of its batch."""
        progress = CallInProgress(plan, asked, statement, self._clock)
        self._end(progress, progress.repeated(outcome.record, outcome.reusable))

    def _end(self, progress: CallInProgress, record: CallRecord) -> None:
        if progress.reservation is not None:
            self.ledger.settle(progress.reservation, record, progress.facts())
        self._log(record)
        if self.observe is not None:
            self.observe(record, progress.facts())

    def knows(self, key: bytes) -> bool:
        """Return whether the answer to a request is in memory. Any thread may ask."""
        return self._reuse.knows(key)

    @property
    def is_memory_short(self) -> bool:
        """Whether an answer in memory may have to make room soon."""
        return self._reuse.is_short

    async def forget_answers(self, endpoint: str | None) -> None:
        """Give no answer of an endpoint again that was made before now; None for all endpoints."""
        self._cleared_at[endpoint] = self._clock.now()
        self._reuse.clear()

    async def _call(
        self, plan: Plan, asked: CallInput, progress: CallInProgress, stored: StoredAnswer | None
    ) -> Outcome:
        refusal = plan.refuse(progress.caller, progress.request_id)
        if refusal:
            raise refusal
        endpoint = plan.endpoint
        assert endpoint is not None  # noqa: S101  a plan without an endpoint refuses
        prompt = self._read(plan, endpoint, asked, progress)
        # A request given as a STRUCT may bring a temperature of its own.
        reusable = plan.reusable and is_reusable(endpoint.task, prompt.request.parameters)
        if reusable:
            made, reused = await self._reused_or_made(plan, endpoint, prompt, progress, stored)
        else:
            made, reused = await self._make(plan, endpoint, prompt, progress), False
        value = self._value(plan, prompt, made, reused, progress)
        record = progress.reused(made) if reused else progress.answered(made)
        return Outcome(record, value, reusable=made if reusable else None)

    async def _reused_or_made(
        self,
        plan: Plan,
        endpoint: Endpoint,
        prompt: Prompt,
        progress: CallInProgress,
        stored: StoredAnswer | None,
    ) -> tuple[Reusable, bool]:
        """Return an answer and whether it is another call's."""
        reuse, ttl_s = self._reuse, float(endpoint.cache_ttl_seconds or 0)
        while True:
            found = await reuse.find(progress.key) or self._revived(endpoint, prompt, progress.key, stored)
            if found is not None:
                return found, True
            admission = await self._admit(endpoint, prompt, progress)
            if progress.key in reuse:  # another call asked for the same while this one waited
                if admission is not None:
                    admission.settle(0, sent=False)
                self._give_back(progress)
                continue
            make = partial(self._make_admitted, plan, endpoint, prompt, progress, admission)
            return await reuse.lead(progress.key, ttl_s, make), False

    def _revived(self, endpoint: Endpoint, prompt: Prompt, key: bytes, stored: StoredAnswer | None) -> Reusable | None:
        """Return an answer from the log as it was when it came, None where it cannot be read any more."""
        entity = next((e for e in endpoint.entities if stored and e.id == stored.served_entity_id), None)
        if stored is None or entity is None or self._is_cleared(endpoint, stored):
            return None
        try:
            answer = self._providers.get(entity.provider).decode(prompt.request, jsontext.loads(stored.response_body))
        except Exception as error:
            _LOGGER.debug("the answer of call %s cannot be given again", stored.request_id, exc_info=error)
            return None
        made = Reusable(answer, stored.request_id, entity.id, stored.request_body, stored.response_body)
        age_s = (self._clock.now() - stored.request_time).total_seconds()
        self._reuse.keep(key, float(endpoint.cache_ttl_seconds or 0) - max(0.0, age_s), made)
        return made

    def _is_cleared(self, endpoint: Endpoint, stored: StoredAnswer) -> bool:
        """Return whether the answer was looked up before, but is not to be given again since."""
        times = [self._cleared_at[name] for name in (endpoint.name, None) if name in self._cleared_at]
        return any(stored.request_time <= time for time in times)

    async def _make(self, plan: Plan, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress) -> Reusable:
        admission = await self._admit(endpoint, prompt, progress)
        return await self._make_admitted(plan, endpoint, prompt, progress, admission)

    async def _make_admitted(
        self, plan: Plan, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress, admission: Admission | None
    ) -> Reusable:
        """Make the call and settle what was reserved for it with what it came to."""
        made: Reusable | None = None
        try:
            made = await self._answer(plan, endpoint, prompt, progress)
            return made
        finally:
            if admission is not None:
                admission.settle(progress.used_tokens(made), sent=progress.sent)

    def _give_back(self, progress: CallInProgress) -> None:
        """Take nothing from the budgets for a call that sends nothing."""
        if progress.reservation is not None:
            self.ledger.release(progress.reservation)
            progress.reservation = None

    async def _reserve(self, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress) -> None:
        """Wait until the budgets that the call counts for have room for it.

        Raises:
            CallError: One of them is used up.
        """
        asked = endpoint.name, progress.caller, progress.usage_context
        if self.ledger.is_empty:
            progress.reservation = self.ledger.begin(*asked, partial(self._estimate, endpoint, prompt))
            return
        try:
            progress.reservation = await progress.limited(self.ledger.admit(*asked, self._estimate(endpoint, prompt)))
        except BudgetRefused as refused:
            raise _over_budget(endpoint, refused, progress.request_id) from None

    def _estimate(self, endpoint: Endpoint, prompt: Prompt) -> Estimate:
        """Return what a call may cost."""
        expected = self._expected(endpoint, prompt, exact=False)
        tokens = replace(expected, prompt=max(expected.prompt, longest_prompt(prompt.request)))
        hedges = endpoint.hedge_after_ms is not None or endpoint.hedge_percentile is not None
        # An answer that does not fit the asked-for format is paid, and asked for once more.
        answers = 1 + hedges + (prompt.request.response_format is not None)
        if endpoint.retry_on_timeout:  # each attempt may be billed
            answers += max(endpoint.max_retries, len(endpoint.entities) - 1)
        parameters = (prompt.request.parameters, *(entity.parameters for entity in endpoint.entities))
        any_tier = any("service_tier" in named for named in parameters)
        return self.ledger.estimate(endpoint, tokens, answers, any_tier=any_tier)

    async def _admit(self, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress) -> Admission | None:
        """Wait for the budgets and the rate limits that the caller meets; None where there are no limits.

        Raises:
            CallError: A budget is used up, or a limit has no room and the call may not wait.
        """
        # Not before reuse: an answer that was given before costs nothing, so it is within every budget.
        await self._reserve(endpoint, prompt, progress)
        needed = progress.access.requirements
        if not needed and endpoint.routing != "least_cost":
            return None
        counts_tokens = any(bound.limit.metric == "tokens" for requirement in needed for bound in requirement)
        progress.tokens = self._expected(endpoint, prompt, exact=counts_tokens)
        if not needed:
            return None
        admitting = self.limiter.admit(needed, progress.tokens, progress.flow, paced=progress.paced)
        try:
            progress.admission = await progress.limited(admitting)
            return progress.admission
        except LimitReached as reached:
            raise _limited(endpoint, reached, progress.request_id) from None

    def _expected(self, endpoint: Endpoint, prompt: Prompt, *, exact: bool) -> Tokens:
        """Return what a call may come to."""
        model = endpoint.entities[0].model
        asked = self.counter.count(prompt.request, model) if exact else estimate_tokens(prompt.characters)
        if endpoint.task == EMBEDDINGS:
            return Tokens(asked, 0, is_bounded=True)
        longest = longest_answer({**endpoint.entities[0].parameters, **prompt.request.parameters})
        if longest is not None:
            return Tokens(asked, longest, is_bounded=True)
        return Tokens(asked, self._usual_answer(endpoint).tokens, is_bounded=False)

    def _usual_answer(self, endpoint: Endpoint) -> UsualAnswer:
        return self._usual_answers.setdefault(endpoint.name, UsualAnswer())

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
        progress.parameters = prompt.request.parameters
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
        request, tries, mismatches = prompt.request, Tries(endpoint), 0
        while True:
            exchange = await self.delivery.deliver(plan.snapshot, endpoint, request, progress, tries)
            if exchange.answer.usage.output_tokens is not None:
                self._usual_answer(endpoint).add(exchange.answer.usage.output_tokens)
            made = Reusable(
                exchange.answer, progress.request_id, exchange.entity.id, exchange.request_body, exchange.response_body
            )
            if plan.options.response_format is None:
                return made
            try:
                progress.checked = plan.checker.check(exchange.answer.content)
            except AnswerMismatch as mismatch:
                mismatches += 1
                if not mismatch.retryable or mismatches > 1 or not tries.unusable():
                    progress.keep(made)
                    raise self._mismatched(plan, mismatch, progress) from None
                progress.spent(exchange.answer)
                request = _with_correction(request, exchange.answer.content, mismatch)
            else:
                return made


def _unexpected(plan: Plan, error: Exception, request_id: str) -> CallError:
    told = (
        f'[INTERNAL_ERROR] endpoint "{plan.endpoint_name}": the gateway failed with {type(error).__name__}; please '
        f'report it with what the logger "fleming_sql" says at DEBUG (request id {request_id}, HTTP status 500)'
    )
    return CallError("INTERNAL_ERROR", told, status=500, code="INTERNAL_ERROR")


def _over_budget(endpoint: Endpoint, refused: BudgetRefused, request_id: str) -> CallError:
    condition = "BUDGET_EXCEEDED"
    told = f'[{condition}] endpoint "{endpoint.name}": {refused.reason} (request id {request_id}, HTTP status 403)'
    return CallError(condition, told, status=403, code=condition)


def _limited(endpoint: Endpoint, reached: LimitReached, request_id: str) -> CallError:
    condition = "REQUEST_LIMIT_EXCEEDED"
    limit = reached.bound.limit
    if reached.wait_s == float("inf"):
        what = (
            f"this call may use up to {reached.amount} tokens, more than {reached.bound.describe()} ever leaves: lower "
            "max_tokens, shorten the request or raise the limit"
        )
    else:
        advice = "raise max_wait_ms" if limit.waits else "set on_exceeded to wait"
        what = (
            f"{reached.bound.describe()} is used up: try again in {reached.wait_s:.1f} s, {advice} or raise the limit"
        )
    told = f'[{condition}] endpoint "{endpoint.name}": {what} (request id {request_id}, HTTP status 429)'
    return CallError(condition, told, status=429, code=condition)


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
