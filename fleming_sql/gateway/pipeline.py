"""The call pipeline: the same steps for every way of calling.

    permission -> plan (unknown, off, broken row?) -> request -> guardrails -> reuse -> budgets -> rate limits
    -> delivery -> guardrails -> check -> log

A call always ends in one record, whatever happened. Nothing here knows of SQL, vectors or threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.errors import CallError, StoreError
from fleming_sql.gateway.budgets import BudgetRefused, Ledger
from fleming_sql.gateway.call_errors import (
    limited,
    mismatched,
    over_budget,
    undecided_answer,
    unexpected,
    unreadable,
    why_silent,
)
from fleming_sql.gateway.checkpoint import Checkpoint, Screened, with_originals
from fleming_sql.gateway.delivery import Delivery
from fleming_sql.gateway.expectations import Expectations
from fleming_sql.gateway.guards import GuardMaker
from fleming_sql.gateway.limiter import Admission, LimitReached, RateLimiter
from fleming_sql.gateway.plan import CallInput, Plan, Statement
from fleming_sql.gateway.policy_batches import PolicyEvaluator
from fleming_sql.gateway.records import CallInProgress, Guarding
from fleming_sql.gateway.reuse import Reusable, ReuseCache
from fleming_sql.gateway.screening import Screener
from fleming_sql.gateway.upstream import Cancelled, Exchange, Upstream
from fleming_sql.guardrails.base import Undecided
from fleming_sql.policies.answers import AnswerMismatch, CheckedAnswer
from fleming_sql.policies.fallbacks import Tries
from fleming_sql.policies.parameters import is_reusable
from fleming_sql.policies.requests import BadRequest, Prompt
from fleming_sql.providers import ProviderRegistry
from fleming_sql.tokenizer import TokenCounter
from fleming_sql.transport import Transport
from fleming_sql.types import EMBEDDINGS, Caller, CallFacts, CallRecord, Endpoint, ModelRequest, StoredAnswer, UsedUp

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
        policies: Evaluates guardrails that are written in SQL.
        on_used_up: Told of budgets that are used up.

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
        policies: PolicyEvaluator,
        on_used_up: Callable[[UsedUp], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._policies = policies
        self.observe: Callable[[CallRecord, CallFacts], None] | None = None
        """Told of each call that has ended, after the log."""
        self._providers = providers
        self._clock = clock
        self._transport = transport
        self._reuse = ReuseCache(clock.monotonic)
        self.counter = TokenCounter()
        self._cleared_at: dict[str | None, datetime] = {}
        self._expectations = Expectations(self.counter)
        self.ledger = Ledger(clock, on_used_up)
        self.limiter = RateLimiter(clock)
        self.delivery = Delivery(Upstream(providers, transport, clock), clock)
        self.guards = GuardMaker(self.counter)
        self.recall: Callable[[Plan, CallInput, Caller], Awaitable[StoredAnswer | None]] | None = None
        """Finds an earlier answer to what a guardrail asks."""
        self.checkpoint = Checkpoint(Screener(policies, clock.monotonic), self.guards, self._call_for_guardrail)

    async def aclose(self) -> None:
        """Close the connections to providers."""
        self._policies.close()
        await self._transport.aclose()

    async def call(
        self,
        plan: Plan,
        asked: CallInput,
        statement: Statement,
        stored: StoredAnswer | None = None,
        *,
        screened: Screened | None = None,
        guarding: Guarding | None = None,
    ) -> Outcome:
        """Make one call and log it.

        Args:
            plan: The endpoint and the options.
            asked: The row.
            statement: On whose behalf, and for which statement.
            stored: An earlier answer to the same request, which is given again if it may be.
            screened: What guardrails have said of the request already.
            guarding: The guardrail that makes the call.

        Returns:
            The result or the error; errors are values here, so that one row's does not end the others.

        Raises:
            asyncio.CancelledError: The task was cancelled; if a request had gone out, that is logged.
        """
        progress = CallInProgress(plan, asked, statement, self._clock, guarding)
        try:
            outcome = await self._call(plan, asked, progress, stored, screened)
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
            failure = unexpected(plan, error, progress.request_id)
            outcome = Outcome(progress.failed(failure), error=failure)
        self._end(progress, outcome.record)
        return outcome

    def repeat(self, plan: Plan, asked: CallInput, statement: Statement, outcome: Outcome) -> None:
        """Log a row that shares the outcome of an identical row of its batch."""
        progress = CallInProgress(plan, asked, statement, self._clock)
        self._end(progress, progress.repeated(outcome.record, outcome.reusable))

    def _end(self, progress: CallInProgress, record: CallRecord) -> None:
        if progress.reservation is not None:
            self.ledger.settle(progress.reservation, *progress.bill(record))
        self._log(record)
        progress.trace_end(record)
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

    async def _call_for_guardrail(self, plan: Plan, asked: CallInput, statement: Statement, guarding: Guarding) -> Any:
        """Return what a model says to a guardrail, an `Undecided` where it says nothing."""
        stored = None
        if self.recall is not None and plan.reusable:
            try:
                stored = await self.recall(plan, asked, statement.caller)
            except StoreError:
                return Undecided("the log cannot be searched for an earlier answer")
        try:
            outcome = await self.call(plan, asked, statement, stored, guarding=guarding)
        except Cancelled:  # tells of this call's request, which is none of the call's that it is made for
            raise asyncio.CancelledError from None
        if outcome.error is None:
            return outcome.value
        return Undecided(why_silent(plan, outcome.error, outcome.record.databricks_request_id))

    async def _call(
        self,
        plan: Plan,
        asked: CallInput,
        progress: CallInProgress,
        stored: StoredAnswer | None,
        screened: Screened | None,
    ) -> Outcome:
        refusal = plan.refuse(progress.caller, progress.request_id, is_permitted=progress.guarding is not None)
        if refusal:
            raise refusal
        endpoint, trace = plan.endpoint, progress.trace
        assert endpoint is not None  # noqa: S101  a plan without an endpoint refuses
        if trace is not None:
            trace.note_permission(plan, progress.caller)
        prompt = self._read(plan, endpoint, asked, progress, screened)
        if plan.guards.input:
            prompt = await self.checkpoint.pass_request(plan, prompt, progress, screened)
        # A request given as a STRUCT may bring a temperature of its own.
        reusable = plan.reusable and is_reusable(endpoint.task, prompt.request.parameters)
        if trace is not None:
            trace.note_reuse(plan, reusable=reusable)
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
            found = await reuse.find(progress.key) or await self._revived(plan, endpoint, prompt, progress, stored)
            if progress.trace is not None:
                progress.trace.note_found(found, stored)
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

    async def _revived(
        self, plan: Plan, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress, stored: StoredAnswer | None
    ) -> Reusable | None:
        """Return an answer from the log as it was when it came, None where it cannot be read any more."""
        entity = next((e for e in endpoint.entities if stored and e.id == stored.served_entity_id), None)
        if stored is None or entity is None or self._is_cleared(endpoint, stored):
            return None
        try:
            answer = self._providers.get(entity.provider).decode(prompt.request, jsontext.loads(stored.response_body))
        except Exception as error:
            _LOGGER.debug("the answer of call %s cannot be given again", stored.request_id, exc_info=error)
            return None
        if endpoint.log_original and plan.guards.output:  # else the log has it as it left the guardrails
            answer = await self.checkpoint.pass_answer(plan, prompt, answer, progress)
        made = Reusable(answer, stored.request_id, entity.id, stored.request_body, stored.response_body)
        age_s = (self._clock.now() - stored.request_time).total_seconds()
        self._reuse.keep(progress.key, float(endpoint.cache_ttl_seconds or 0) - max(0.0, age_s), made)
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
            if admission is not None and progress.admission is admission:
                admission.settle(progress.used_tokens(made.answer if made else None), sent=progress.sent)

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
        foresee = partial(self._expectations.cost, self.ledger, endpoint, prompt)
        if self.ledger.is_empty:
            progress.reservation = self.ledger.begin(*asked, foresee)
            return
        try:
            progress.reservation = await progress.limited(self.ledger.admit(*asked, foresee()))
        except BudgetRefused as refused:
            raise over_budget(endpoint, refused, progress.request_id) from None

    async def _admit(self, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress) -> Admission | None:
        """Wait for the budgets and the rate limits that the caller meets; None where there are no limits.

        Raises:
            CallError: A budget is used up, or a limit has no room and the call may not wait.
        """
        # Not before reuse: an answer that was given before costs nothing, so it is within every budget.
        await self._reserve(endpoint, prompt, progress)
        if progress.trace is not None and progress.reservation is not None:
            progress.trace.note_budgets(self.ledger.counting(progress.reservation))
        admission = await self._within_limits(endpoint, prompt, progress)
        if progress.trace is not None:
            progress.trace.note_limits(progress.access.requirements, self.limiter, progress.limited_s)
        return admission

    async def _within_limits(self, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress) -> Admission | None:
        needed = progress.access.requirements
        if not needed and endpoint.routing != "least_cost":
            return None
        counts_tokens = any(bound.limit.metric == "tokens" for requirement in needed for bound in requirement)
        progress.tokens = self._expectations.tokens(endpoint, prompt, exact=counts_tokens)
        if not needed:
            return None
        admitting = self.limiter.admit(needed, progress.tokens, progress.flow, paced=progress.paced)
        try:
            progress.admission = await progress.limited(admitting)
            return progress.admission
        except LimitReached as reached:
            raise limited(endpoint, reached, progress.request_id) from None

    def _read(
        self,
        plan: Plan,
        endpoint: Endpoint,
        asked: CallInput,
        progress: CallInProgress,
        screened: Screened | None,
    ) -> Prompt:
        try:
            prompt = screened.prompt if screened is not None else plan.read(asked)
        except BadRequest as error:
            progress.withholds = bool(plan.guards.input) and not endpoint.log_original  # it may quote the request
            raise unreadable(endpoint, error, progress.request_id) from None
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
            return _check(plan, content, progress).value
        except AnswerMismatch as mismatch:
            progress.keep(made, reused=reused)
            raise mismatched(plan, mismatch, progress.request_id) from None

    async def _answer(self, plan: Plan, endpoint: Endpoint, prompt: Prompt, progress: CallInProgress) -> Reusable:
        """Send until there is an answer in the asked-for format, within one deadline and one budget of attempts."""
        request, tries, mismatches = prompt.request, Tries(endpoint), 0
        while True:
            exchange = await self.delivery.deliver(plan.snapshot, endpoint, request, progress, tries)
            if exchange.answer.usage.output_tokens is not None:
                self._expectations.learn(endpoint, exchange.answer.usage.output_tokens)
            if plan.guards.output and endpoint.task != EMBEDDINGS:
                exchange = await self._passed(plan, endpoint, prompt, exchange, progress)
            self._check_for_guardrail(plan, exchange, progress)
            made = Reusable(
                exchange.answer, progress.request_id, exchange.entity.id, exchange.request_body, exchange.response_body
            )
            if plan.options.response_format is None:
                return made
            try:
                progress.checked = _check(plan, exchange.answer.content, progress)
            except AnswerMismatch as mismatch:
                mismatches += 1
                if not mismatch.retryable or mismatches > 1 or not tries.unusable():
                    progress.keep(made)
                    raise mismatched(plan, mismatch, progress.request_id) from None
                progress.spent(exchange.answer)
                request = _with_correction(request, exchange.answer.content, mismatch)
                if plan.guards.input:
                    again = await self.checkpoint.pass_request(plan, replace(prompt, request=request), progress, None)
                    request = again.request
                if progress.reservation is None:
                    await self._reserve(endpoint, prompt, progress)
            else:
                return made

    def _settle_early(self, progress: CallInProgress, exchange: Exchange) -> None:
        """Let go of what a call has reserved once it is answered: what its guardrails ask would wait for it."""
        if progress.admission is not None:
            progress.admission.settle(progress.used_tokens(exchange.answer), sent=True)
            progress.admission = None
        if progress.reservation is not None:
            self.ledger.settle(progress.reservation, *progress.bill())
            progress.reservation = None

    def _check_for_guardrail(self, plan: Plan, exchange: Exchange, progress: CallInProgress) -> None:
        """See that the guardrail that made the call can read the answer, else it would be given again."""
        if progress.guarding is None:
            return
        try:
            progress.guarding.read(plan.checker.check(exchange.answer.content).value)
        except Undecided as undecided:
            progress.spent(exchange.answer)
            raise undecided_answer(plan, undecided, progress.request_id) from None

    async def _passed(
        self, plan: Plan, endpoint: Endpoint, prompt: Prompt, exchange: Exchange, progress: CallInProgress
    ) -> Exchange:
        """Return an answer as it may be used, and as it may be logged."""
        if plan.guards.asks_about_answers:
            self._settle_early(progress, exchange)
        try:
            with progress.statement.hold():
                answer = await self.checkpoint.pass_answer(plan, prompt, exchange.answer, progress)
        except BaseException:
            progress.spent(exchange.answer)
            raise
        if endpoint.log_original:
            return replace(exchange, answer=answer)
        progress.passed(answer)
        # Of what came, guardrails have looked at this alone: not at reasoning, further choices, or names in it.
        body = self._providers.get(exchange.entity.provider).render(prompt.request, answer)
        return replace(exchange, answer=answer, response_body=jsontext.dumps(body))


def _check(plan: Plan, content: Any, progress: CallInProgress) -> CheckedAnswer:
    """Return the value that SQL gets, with what was masked in the request put back.

    Raises:
        AnswerMismatch: It does not fit; the text quotes the answer as it came, with the placeholders.
    """
    has_text = plan.endpoint is not None and plan.endpoint.task != EMBEDDINGS
    if not progress.originals or not has_text:
        return plan.checker.check(content)
    try:
        return plan.checker.check(with_originals(content, progress.originals))
    except AnswerMismatch as mismatch:
        plan.checker.check(content)
        reason = "the answer does not fit once the originals stand in the place of their placeholders"
        raise AnswerMismatch(mismatch.condition, reason, retryable=mismatch.retryable) from None


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
