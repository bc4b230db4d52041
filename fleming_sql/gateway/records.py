"""What is known of a call while it runs, and the one record that it ends in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from fleming_sql.clock import Clock
from fleming_sql.errors import CallError
from fleming_sql.gateway.budgets import Reservation
from fleming_sql.gateway.fairness import Flow
from fleming_sql.gateway.limiter import Admission
from fleming_sql.gateway.plan import Access, CallInput, Plan, Statement
from fleming_sql.gateway.reuse import Reusable
from fleming_sql.gateway.trace import Trace
from fleming_sql.gateway.upstream import Cancelled, Exchange, ExchangeFailed
from fleming_sql.policies.answers import CheckedAnswer
from fleming_sql.policies.tokens import Tokens, estimate_tokens
from fleming_sql.types import (
    Answer,
    AnsweredRequest,
    Attempt,
    Caller,
    CallFacts,
    CallRecord,
    GuardrailResult,
    ServedEntity,
    Usage,
)

T = TypeVar("T")

CANCELLED_STATUS: Final = 499
"""What proxies log when the client goes away before the answer."""


class Guarding(NamedTuple):
    """What a call is for that a guardrail makes."""

    guardrail: str
    request_id: str
    """Of the call that it looks at."""
    read: Callable[[Any], object]
    """Raises `Undecided` for an answer that the guardrail cannot read."""


class CallInProgress:
    """The clockwork of one call: its id, its deadline, what it waited for and what it tried.

    Args:
        plan: The endpoint and options.
        asked: The row.
        statement: The statement it belongs to.
        clock: Time and ids.
        guarding: The guardrail that makes the call; None for everybody else's.
    """

    __slots__ = (
        "_answers", "_asked", "_attempts", "_billed", "_clock", "_deadline", "_idle_s", "_limited_s", "_plan",
        "_queued_s", "_request_body", "_response_body", "_spent", "_started", "_started_at", "_statement",
        "_upstream_ms", "admission", "checked", "entity", "failures", "guarding", "input_characters", "key",
        "last_error", "originals", "parameters", "request_id", "reservation", "results", "sent", "tokens",
        "unmasked_request", "withholds",
    )  # fmt: skip

    def __init__(
        self, plan: Plan, asked: CallInput, statement: Statement, clock: Clock, guarding: Guarding | None = None
    ) -> None:
        self.key = plan.key(asked, statement.caller)
        self._asked = asked
        self._plan = plan
        self._statement = statement
        self._clock = clock
        self._started_at = clock.now()
        self._started = clock.monotonic()
        self._deadline: float | None = None
        self._queued_s = 0.0
        self._idle_s = 0.0
        self._limited_s = 0.0
        self._upstream_ms = 0.0
        self._attempts: list[Attempt] = []
        self._answers: list[AnsweredRequest] = []
        self._billed = (0, 0)
        self._request_body: str | None = None
        self._response_body: str | None = None
        self._spent: list[Answer] = []
        self.request_id = clock.new_id()
        self.sent = False
        self.admission: Admission | None = None
        self.reservation: Reservation | None = None
        self.failures = 0
        self.last_error: CallError | None = None
        self.checked: CheckedAnswer | None = None
        self.entity: ServedEntity | None = None
        self.input_characters = 0
        self.parameters: Mapping[str, Any] = {}
        self.tokens = Tokens(0, 0, is_bounded=False)
        self.guarding = guarding
        self.results: list[GuardrailResult] = []
        self.originals: Mapping[str, str] = {}
        self.unmasked_request: str | None = None
        self.withholds = False

    def permit(self) -> None:
        """Ask the statement whether a request may go out, and take down that it did.

        Raises:
            asyncio.CancelledError: The statement sends no more.
        """
        self._statement.permit()
        self.sent = True

    def goes_out(self) -> float:
        """Take down that a request goes out now; return the seconds left for it."""
        if self.admission is not None:
            self.admission.send()
        return self.start_clock()

    def rest(self) -> None:
        """Tell the statement that the request is over."""
        self._statement.rest()

    def start_clock(self) -> float:
        """Start the deadline at the first request that goes out; return the seconds left."""
        if self._deadline is None:
            assert self._plan.endpoint is not None  # noqa: S101  only calls to an endpoint send
            self._deadline = self._clock.monotonic() + self._plan.endpoint.timeout_ms / 1000
        return self.remaining_s

    @property
    def flow(self) -> Flow:
        """Whose turn the call takes where others wait too."""
        return self._statement.flow

    @property
    def statement(self) -> Statement:
        """The statement that the call belongs to."""
        return self._statement

    @property
    def caller(self) -> Caller:
        """On whose behalf the call is made."""
        return self._statement.caller

    @property
    def paced(self) -> bool:
        """Whether the call is one of many."""
        return self._statement.paced

    @property
    def trace(self) -> Trace | None:
        """What takes down the steps; None for the calls that guardrails make, which are steps of another."""
        return self._statement.trace if self.guarding is None else None

    @property
    def limited_s(self) -> float:
        """How long budgets and rate limits have held it up."""
        return self._limited_s

    def trace_end(self, record: CallRecord) -> None:
        """Take down what it used, for those who trace it."""
        if self.trace is not None:
            self.trace.note_usage(self._plan, record, self.facts())

    @property
    def access(self) -> Access:
        """What the endpoint's rules say to the caller."""
        return self._plan.access(self._statement.caller)

    @property
    def usage_context(self) -> Mapping[str, str]:
        """The labels of the call."""
        return self._asked.usage_context

    def label(self, key: str | None) -> str:
        """Return the value of a key of `usageContext`, the requester without one."""
        found = self._asked.usage_context.get(key) if key is not None else None
        return self._statement.caller.user if found is None else found

    @property
    def remaining_s(self) -> float:
        """Seconds left for the whole call; endless before its first request."""
        return float("inf") if self._deadline is None else self._deadline - self._clock.monotonic()

    async def queued(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait for a place; the time counts as queued and not against the deadline."""
        began = self._clock.monotonic()
        await waiting
        took = self._clock.monotonic() - began
        self._queued_s += took
        if self._deadline is not None:
            self._deadline += took

    async def limited(self, waiting: Awaitable[T]) -> T:
        """Wait for the rate limits; it counts as queued."""
        began = self._clock.monotonic()
        try:
            return await waiting
        finally:
            took = self._clock.monotonic() - began
            self._limited_s += took
            self._queued_s += took

    async def guarded(self, waiting: Awaitable[T]) -> T:
        """Wait for guardrails; they have deadlines of their own."""
        began = self._clock.monotonic()
        try:
            return await waiting
        finally:
            took = self._clock.monotonic() - began
            self._idle_s += took
            if self._deadline is not None:
                self._deadline += took

    async def idle(self, waiting: Awaitable[None]) -> None:
        """Wait between attempts; the time counts against the deadline, but is not overhead."""
        began = self._clock.monotonic()
        await waiting
        self._idle_s += self._clock.monotonic() - began

    def tried(self, exchange: Exchange | ExchangeFailed) -> None:
        """Take down one attempt."""
        self._request_body = exchange.request_body or self._request_body
        # What no guardrail has looked at is not logged, unless everything is.
        is_answer = isinstance(exchange, Exchange) or exchange.failure.status < 300
        self._response_body = exchange.response_body if self.shows_answers or not is_answer else None
        self._add(exchange.attempts)
        if isinstance(exchange, Exchange):
            answered = next((attempt.attempt_id for attempt in exchange.attempts if attempt.error_code is None), None)
            answer = exchange.answer if self.shows_answers else replace(exchange.answer, content=None)
            self._answers.append(AnsweredRequest(answered, exchange.entity, answer))

    def facts(self) -> CallFacts:
        """Return what those who watch calls want to know beside the record."""
        return CallFacts(self._plan.endpoint, self.parameters, tuple(self._answers))

    def bill(self, record: CallRecord | None = None) -> tuple[CallRecord, CallFacts]:
        """Return what no budget has counted yet.

        Args:
            record: Of the call, if it has ended.
        """
        attempts, answers = self._billed
        self._billed = len(self._attempts), len(self._answers)
        record, facts = record or self._count(self._record(200)), self.facts()
        if not attempts:
            return record, facts
        unbilled = replace(record, attempts=record.attempts[attempts:])
        return unbilled, replace(facts, answers=facts.answers[answers:])

    def failed_with(self, error: ExchangeFailed) -> None:
        """Take down one attempt that failed; all failures of a call count against its one budget of retries."""
        self.failures += 1 + len(error.others)
        self.tried(error)

    def spent(self, answer: Answer) -> None:
        """Count the tokens of an answer that did not fit and is asked for again."""
        self._spent.append(answer)

    def keep(self, made: Reusable, *, reused: bool = False) -> None:
        """Log an answer that came but could not be used; count its tokens unless another call did."""
        if not reused:
            self._spent.append(made.answer)
        self._request_body, self._response_body = made.request_body, made.response_body

    def used_tokens(self, last: Answer | None) -> int:
        """Return the tokens of all answers that came, estimated where the provider did not say.

        Args:
            last: The one that is not counted as spent yet.
        """
        answers = [*self._spent, last] if last is not None else self._spent
        used = [self._with_estimates(answer) for answer in answers]
        return sum((usage.input_tokens or 0) + (usage.output_tokens or 0) for usage in used)

    def answered(self, made: Reusable) -> CallRecord:
        """Return the record of a call that its own request answered."""
        self._request_body, self._response_body = made.request_body, made.response_body
        self._spent.append(made.answer)
        return self._count(self._record(200))

    def reused(self, made: Reusable) -> CallRecord:
        """Return the record of a call that another one's answer answered: no tokens, no cost."""
        self._request_body, self._response_body = made.request_body, made.response_body
        record = self._record(200)
        record.cache_hit = True
        record.reused_request_id = made.request_id
        record.served_entity_id = made.served_entity_id
        record.input_token_count = record.output_token_count = 0
        record.output_character_count = _characters(made.answer)
        return record

    def repeated(self, first: CallRecord, made: Reusable | None) -> CallRecord:
        """Return the record of a row that shares the outcome of an identical row of its vector."""
        if made is not None and first.error_code is None:
            self.input_characters = first.input_character_count
            record = self.reused(made)
            record.request = first.request
            record.guardrail_results = first.guardrail_results
            return record
        record = self._record(first.status_code)
        record.guardrail_results = first.guardrail_results
        record.error_code, record.error_message = first.error_code, first.error_message
        record.request, record.response = first.request, first.response
        record.served_entity_id = first.served_entity_id
        record.reused_request_id = first.databricks_request_id
        record.cache_hit = True
        record.input_token_count = record.output_token_count = 0
        return record

    def failed(self, error: CallError) -> CallRecord:
        """Return the record of a call that ended in an error."""
        if self.trace is not None:
            self.trace.note_failure(error)
        record = self._count(self._record(error.status))
        record.error_code = error.code
        record.error_message = error.message if self._may_quote else f"[{error.condition}] HTTP status {error.status}"
        return record

    def broken_off(self, cancelled: Cancelled) -> None:
        """Take down a request that was cancelled while it was under way."""
        self._request_body, self._response_body = cancelled.request_body, None
        self._add(cancelled.attempts)

    def cancelled(self, *, between_attempts: bool) -> CallRecord:
        """Return the record of a call that was cancelled after a request had gone out.

        Between two attempts nothing was broken off: the call has failed as its last attempt did.
        """
        if between_attempts and self.last_error is not None:
            return self.failed(self.last_error)
        record = self._count(self._record(CANCELLED_STATUS))
        record.error_code = "CANCELLED"
        record.error_message = "the statement was interrupted or its connection closed"
        return record

    def _add(self, attempts: tuple[Attempt, ...]) -> None:
        self._attempts.extend(attempts)
        self._upstream_ms += _span_ms(attempts)

    @property
    def shows_answers(self) -> bool:
        """Whether errors and the log may hold an answer as it came."""
        endpoint = self._plan.endpoint
        return not self._plan.guards.output or (endpoint is not None and endpoint.log_original)

    def passed(self, answer: Answer) -> None:
        """Show those who watch calls the answer that came last, as guardrails have left it."""
        self._answers[-1] = replace(self._answers[-1], answer=answer)

    def blocked_request(self, request: str | None, response: str) -> None:
        """Log these of a call whose request a guardrail blocks; None where nothing may be logged of it."""
        self._request_body, self._response_body = request, response

    def blocked_answer(self, response: str) -> None:
        """Log this in the place of an answer that a guardrail blocks."""
        if not self.shows_answers:
            self._response_body = response

    @property
    def _may_quote(self) -> bool:
        """Whether the log may hold texts that quote the request or the answer, as those of errors do."""
        if self.withholds:
            return False
        endpoint = self._plan.endpoint
        return endpoint is None or endpoint.payload_logging or self._plan.refusal is not None

    def _record(self, status: int) -> CallRecord:
        plan, statement, endpoint = self._plan, self._statement, self._plan.endpoint
        total_s = self._clock.monotonic() - self._started
        waited_s = self._queued_s + self._idle_s + self._upstream_ms / 1000
        record = CallRecord(
            databricks_request_id=self.request_id,
            client_request_id=None,
            request_time=self._started_at,
            endpoint_name=plan.endpoint_name,
            config_version=endpoint.version if endpoint else None,
            served_entity_id=self.entity.id if self.entity else None,
            requester=statement.caller.user,
            statement_id=statement.id,
            usage_context=self._asked.usage_context,
            request_hash=self.key.hex(),
            payload_logging=endpoint.payload_logging if endpoint else False,
            usage_tracking=endpoint.usage_tracking if endpoint else True,
            status_code=status,
            execution_duration_ms=(total_s - self._queued_s) * 1000,
            queue_ms=self._queued_s * 1000,
            limit_wait_ms=self._limited_s * 1000,
            overhead_us=max(0.0, total_s - waited_s) * 1e6,
            input_character_count=self.input_characters,
            attempts=tuple(
                attempt if self._may_quote else replace(attempt, error_message=None) for attempt in self._attempts
            ),
            guardrail_results=tuple(self.results),
        )
        if self.guarding is not None:
            record.guardrail, record.guarded_request_id = self.guarding.guardrail, self.guarding.request_id
        if endpoint is not None and endpoint.payload_logging:
            request = self.unmasked_request or self._request_body
            _log_bodies(record, request, self._response_body, endpoint.max_logged_bytes)
        return record

    def _count(self, record: CallRecord) -> CallRecord:
        """Add up the tokens of all answers that came for this call, estimating what the provider did not say."""
        for answer in self._spent:
            usage = self._with_estimates(answer)
            record.tokens_estimated = record.tokens_estimated or usage is not answer.usage
            record.input_token_count = _plus(record.input_token_count, usage.input_tokens)
            record.output_token_count = _plus(record.output_token_count, usage.output_tokens)
            record.cached_input_token_count = _plus(record.cached_input_token_count, usage.cached_input_tokens)
            record.cache_write_token_count = _plus(record.cache_write_token_count, usage.cache_write_tokens)
            record.reasoning_token_count = _plus(record.reasoning_token_count, usage.reasoning_tokens)
            record.service_tier = usage.service_tier or record.service_tier
            record.output_character_count += _characters(answer)
        return record

    def _with_estimates(self, answer: Answer) -> Usage:
        """Return the tokens of an answer; the provider's own object where it counted them all."""
        usage = answer.usage
        is_text = isinstance(answer.content, str)
        if usage.input_tokens is not None and (usage.output_tokens is not None or not is_text):
            return usage
        return replace(
            usage,
            input_tokens=estimate_tokens(self.input_characters) if usage.input_tokens is None else usage.input_tokens,
            output_tokens=(
                estimate_tokens(len(answer.content)) if usage.output_tokens is None and is_text else usage.output_tokens
            ),
        )


def _span_ms(attempts: tuple[Attempt, ...]) -> float:
    """Return the time from the first beginning to the last end; a hedge runs beside the first request."""
    if len(attempts) < 2:
        return attempts[0].duration_ms if attempts else 0.0
    begun = min(attempt.started_at for attempt in attempts)
    return max((attempt.started_at - begun).total_seconds() * 1000 + attempt.duration_ms for attempt in attempts)


def _plus(total: int | None, more: int | None) -> int | None:
    return total if more is None else (total or 0) + more


def _characters(answer: Answer) -> int:
    return len(answer.content) if isinstance(answer.content, str) else 0


def _log_bodies(record: CallRecord, request: str | None, response: str | None, limit: int) -> None:
    codes: list[str] = []
    record.request = _bounded(request, limit, "MAX_REQUEST_SIZE_EXCEEDED", codes)
    record.response = _bounded(response, limit, "MAX_RESPONSE_SIZE_EXCEEDED", codes)
    record.logging_error_codes = tuple(codes)


def _bounded(body: str | None, limit: int, code: str, codes: list[str]) -> str | None:
    # A character is at most four bytes, so most bodies need no encoding to be measured.
    if body is None or len(body) * 4 <= limit or len(body.encode("utf-8", "replace")) <= limit:
        return body
    codes.append(code)
    return None
