"""Budgets at work: what calls may come to is reserved before they are made, and settled with what they cost.

A call whose reservation does not fit into what is left waits for those under way, since they may cost less than was
reserved for them. Once none is under way it goes alone, as long as anything is left: so no more than one call passes
the amount, unless an answer is longer than any before it made likely.

Everything runs on the gateway's event loop, and nothing is awaited between looking at a counter and charging it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import isfinite
from typing import Final

from fleming_sql.clock import Clock
from fleming_sql.policies.access import Identity, identify
from fleming_sql.policies.budgets import CounterKey, Foresight, Met, Span, key_of, met, window_of
from fleming_sql.policies.pricing import DEFAULT_TIER, cost_of, tiers_of
from fleming_sql.policies.tokens import Tokens
from fleming_sql.types import (
    AnsweredRequest,
    Budget,
    Caller,
    CallFacts,
    CallRecord,
    Endpoint,
    ServedEntity,
    Snapshot,
    Spent,
    Usage,
    UsedUp,
)

_USUAL_ANSWER: Final = 4096
"""Tokens."""
_LONGEST_ANSWER: Final = 131_072
"""Tokens: what the models of today answer with at most."""
_USUAL_S: Final = 10.0
_CALLERS_KEPT: Final = 1024
_TIDY_FROM: Final = 1000


class BudgetRefused(Exception):
    """A budget lets a call not through."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class _Counter:
    """What was spent of one budget, by one subject, in one window."""

    key: CounterKey
    subject: str | None
    span: Span
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    under_way: int = 0
    waiting: deque[_Asking] = field(default_factory=deque)
    told: set[str] = field(default_factory=set)
    """Names of the budgets that are known to be used up."""

    def is_waited_for(self) -> bool:
        while self.waiting and self.waiting[0].admitted.done():
            self.waiting.popleft()
        return bool(self.waiting)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call may cost, in US dollars."""

    most: float | None
    """What to reserve; None where a served entity has no known price."""
    usual: float = 0.0
    """What to count for a request that may have been billed, and whose cost is not known."""


_UNKNOWN: Final = Estimate(None)


@dataclass(slots=True, eq=False)
class Reservation:
    """What is held for a call under way, and what it takes to hold it for a budget that is made meanwhile."""

    endpoint: str
    caller: Caller
    usage_context: Mapping[str, str]
    foresee: Callable[[], Estimate] | None
    """Says what the call may cost; None where `estimate` does."""
    estimate: Estimate = _UNKNOWN
    counters: tuple[_Counter, ...] = ()


@dataclass(slots=True, eq=False)
class _Asking:
    """A call that asks to be let through."""

    endpoint: str
    caller: Caller
    usage_context: Mapping[str, str]
    estimate: Estimate
    admitted: asyncio.Future[Reservation]


class Ledger:
    """Knows what was spent of each budget, and lets calls through as long as something is left.

    It goes by the newest budgets that it was told of, also for statements that have begun before: a budget made to
    stop one of them counts what that goes on to spend.

    Args:
        clock: Time. One that goes backwards is taken to stand still, so no window comes again.
        on_used_up: Told once for each budget, subject and window, when the amount has been spent.
    """

    def __init__(self, clock: Clock, on_used_up: Callable[[UsedUp], None]) -> None:
        self._clock = clock
        self._on_used_up = on_used_up
        self._now = datetime.min.replace(tzinfo=UTC)
        self._snapshot = Snapshot()
        self._by_key: dict[CounterKey, list[Budget]] = {}
        self._counters: dict[tuple[CounterKey, str | None], _Counter] = {}
        self._met: dict[tuple[Caller, str], tuple[Identity, tuple[Met, ...]]] = {}
        self._labelled: tuple[Budget, ...] = ()
        self._tokens: dict[str, Foresight] = {}
        self._seconds: dict[str, Foresight] = {}
        self._under_way: set[Reservation] = set()
        self._tidy_at = _TIDY_FROM

    @property
    def is_empty(self) -> bool:
        """Whether there are no budgets."""
        return not self._snapshot.budgets

    def is_as_of(self, snapshot: Snapshot) -> bool:
        """Return whether these budgets are the ones it goes by. Any thread may ask."""
        return self._snapshot is snapshot or not (self._snapshot.budgets or snapshot.budgets)

    def counting(self, reservation: Reservation) -> list[tuple[Budget, str | None, float]]:
        """Return the budgets that count a call, each with whose spending it is and what was spent so far."""
        found = self._budgets_of(reservation)
        return [(met.budget, met.subject, self._counter(met.budget, met.subject).spent_usd) for met in found]

    def knows(self, budget: Budget) -> bool:
        """Return whether it counts what a budget counts. Any thread may ask."""
        return key_of(budget) in self._by_key

    async def cover(self, snapshot: Snapshot, spent: Iterable[Spent]) -> None:
        """Go by other budgets from now on.

        Args:
            snapshot: Has the budgets, the groups and the prices.
            spent: What was spent in the current windows of budgets that it did not know.
        """
        before, by_key = self._by_key, dict[CounterKey, list[Budget]]()
        for budget in snapshot.budgets:
            by_key.setdefault(key_of(budget), []).append(budget)
        self._snapshot, self._by_key = snapshot, by_key
        self._labelled = tuple(budget for budget in snapshot.budgets if budget.scope == "context")
        self._met.clear()
        self._counters = {at: counter for at, counter in self._counters.items() if counter.key in by_key}
        for row in spent:
            key = key_of(row.budget)
            if key in by_key and key not in before:
                self._counter(row.budget, row.subject).spent_usd = row.spent_usd
        if by_key:
            for reservation in self._under_way:
                self._hold(reservation, before)
        for counter in list(self._counters.values()):
            self._tell(counter)
            self._pump(counter)

    async def admit(
        self, endpoint: str, caller: Caller, usage_context: Mapping[str, str], estimate: Estimate
    ) -> Reservation:
        """Wait until every budget that the call counts for has room, and take it.

        Raises:
            BudgetRefused: One that blocks is used up, or cannot count what the call will cost.
        """
        self._forget_idle()
        asking = _Asking(endpoint, caller, usage_context, estimate, asyncio.get_running_loop().create_future())
        found = self._look(asking, is_new=True)
        if isinstance(found, Reservation):
            return found
        found.waiting.append(asking)
        try:
            return await asking.admitted
        except asyncio.CancelledError:
            if asking.admitted.done() and not asking.admitted.cancelled() and asking.admitted.exception() is None:
                self.release(asking.admitted.result())
            raise

    def begin(
        self, endpoint: str, caller: Caller, usage_context: Mapping[str, str], foresee: Callable[[], Estimate]
    ) -> Reservation:
        """Take down a call while there are no budgets, for those that are made before it ends."""
        reservation = Reservation(endpoint, caller, usage_context, foresee)
        self._under_way.add(reservation)
        return reservation

    def estimate(self, endpoint: Endpoint, tokens: Tokens, answers: int, *, any_tier: bool = False) -> Estimate:
        """Return what a call may cost.

        Args:
            endpoint: The dearest of its entities counts.
            tokens: Of the prompt, and of the answer where that is bounded.
            answers: How many may come for it.
            any_tier: Whether the call asks for a service tier; the dearest counts, since which it gets is not known.
        """
        words, time = self._foresight(endpoint)
        at_most, expected = (tokens.answer, tokens.answer) if tokens.is_bounded else (words.at_most, words.expected)
        most = self._dearest(endpoint, tokens.prompt, at_most, time.at_most, any_tier=any_tier)
        usual = self._dearest(endpoint, tokens.prompt, expected, time.expected, any_tier=any_tier)
        return Estimate(None) if most is None or usual is None else Estimate(answers * most, usual)

    def settle(self, reservation: Reservation, record: CallRecord, facts: CallFacts) -> None:
        """Count what a call cost in the place of what was reserved for it."""
        if not reservation.counters and not self._snapshot.budgets:
            self._under_way.discard(reservation)
            return
        unanswered = sum(1 for attempt in record.attempts if _may_be_billed(attempt.error_code, attempt.status_code))
        spent_usd = reservation.estimate.usual * unanswered
        took_s = {attempt.attempt_id: attempt.duration_ms / 1000 for attempt in record.attempts}
        for answered in facts.answers:
            usage = _usage(answered, record, len(facts.answers))
            seconds = took_s.get(answered.attempt_id or "", record.execution_duration_ms / 1000)
            if facts.endpoint is not None:
                words, time = self._foresight(facts.endpoint)
                words.add(usage.output_tokens or 0)
                time.add(seconds)
            cost = self._cost(answered.entity, usage, seconds)
            spent_usd += reservation.estimate.usual if cost is None else cost
        self._settle(reservation, spent_usd)

    def release(self, reservation: Reservation) -> None:
        """Give back what was reserved for a call that was not made."""
        self._settle(reservation, 0.0)

    def _settle(self, reservation: Reservation, spent_usd: float) -> None:
        self._under_way.discard(reservation)
        for counter in reservation.counters:
            counter.under_way -= 1
            counter.reserved_usd -= reservation.estimate.most or 0.0
            if not counter.under_way:
                counter.reserved_usd = 0.0  # sums of fractions do not come back to nothing by themselves
            counter.spent_usd += spent_usd
            self._tell(counter)
        for counter in reservation.counters:
            self._pump(counter)

    def _pump(self, counter: _Counter) -> None:
        """Let those through or refuse them who wait for a counter, in their order, as far as can be said."""
        while counter.waiting:
            asking = counter.waiting[0]
            if not asking.admitted.done():
                try:
                    found = self._look(asking)
                except BudgetRefused as refused:
                    asking.admitted.set_exception(refused)
                else:
                    if found is counter:
                        return
                    if isinstance(found, _Counter):
                        found.waiting.append(asking)
                    else:
                        asking.admitted.set_result(found)
            counter.waiting.popleft()

    def _look(self, asking: _Asking, *, is_new: bool = False) -> Reservation | _Counter:
        """Reserve what a call may come to, or return the counter that it has to wait for.

        Raises:
            BudgetRefused: It cannot be let through.
        """
        counters: list[_Counter] = []
        waits_for: _Counter | None = None
        most = asking.estimate.most or 0.0
        for found in self._budgets_of(asking):
            counter = self._counter(found.budget, found.subject)
            if counter not in counters:  # budgets that count the same share it
                counters.append(counter)
            if found.budget.action != "block":
                continue
            amount = found.budget.amount_usd
            if asking.estimate.most is None:
                raise BudgetRefused(_uncountable(found, asking.endpoint))
            if counter.spent_usd >= amount:
                raise BudgetRefused(_used_up(found, counter))
            fits = counter.spent_usd + counter.reserved_usd + most <= amount
            if waits_for is None and ((counter.under_way and not fits) or (is_new and counter.is_waited_for())):
                waits_for = counter
        if waits_for is not None:
            return waits_for
        reservation = Reservation(asking.endpoint, asking.caller, asking.usage_context, None, asking.estimate)
        self._take(reservation, counters)
        self._under_way.add(reservation)
        return reservation

    def _hold(self, reservation: Reservation, before: Container[CounterKey]) -> None:
        """Reserve for a call under way what it may take of budgets that there were not before."""
        budgets = [found for found in self._budgets_of(reservation) if key_of(found.budget) not in before]
        if budgets and reservation.foresee is not None:
            reservation.estimate, reservation.foresee = reservation.foresee(), None
        self._take(reservation, dict.fromkeys(self._counter(found.budget, found.subject) for found in budgets))

    def _take(self, reservation: Reservation, counters: Iterable[_Counter]) -> None:
        for counter in counters:
            counter.under_way += 1
            counter.reserved_usd += reservation.estimate.most or 0.0
            reservation.counters += (counter,)

    def _budgets_of(self, asking: _Asking | Reservation) -> tuple[Met, ...]:
        known = self._met.get((asking.caller, asking.endpoint))
        if known is None:
            if len(self._met) >= _CALLERS_KEPT:
                self._met.clear()
            snapshot = self._snapshot
            identity = identify(asking.caller, snapshot.principals, snapshot.groups_of)
            known = identity, met(snapshot.budgets, identity, asking.endpoint, {})
            self._met[asking.caller, asking.endpoint] = known
        identity, plain = known
        return plain + met(self._labelled, identity, asking.endpoint, asking.usage_context) if self._labelled else plain

    def _counter(self, budget: Budget, subject: str | None) -> _Counter:
        """Return the counter of the current window."""
        self._now = max(self._now, self._clock.now())
        key = key_of(budget)
        counter = self._counters.get((key, subject))
        if counter is None or self._now >= counter.span.end:
            span = window_of(budget.window, budget.time_zone, self._now)
            counter = self._counters[key, subject] = _Counter(key, subject, span)
        return counter

    def _forget_idle(self) -> None:
        """Drop the counters that hold nothing, or of a window that has ended, once they are many.

        Not while counters are looked at: one that was just made holds nothing yet.
        """
        if len(self._counters) < self._tidy_at:
            return
        self._now = max(self._now, self._clock.now())
        self._counters = {
            at: counter
            for at, counter in self._counters.items()
            if counter.under_way or counter.is_waited_for() or (counter.spent_usd > 0 and self._now < counter.span.end)
        }
        self._tidy_at = max(_TIDY_FROM, 2 * len(self._counters))

    def _tell(self, counter: _Counter) -> None:
        """Say so, once, where a budget is used up."""
        for budget in self._by_key.get(counter.key, ()):
            if counter.spent_usd >= budget.amount_usd and budget.name not in counter.told:
                counter.told.add(budget.name)
                self._on_used_up(UsedUp(budget, counter.subject, counter.span.start, counter.spent_usd))

    def _foresight(self, endpoint: Endpoint) -> tuple[Foresight, Foresight]:
        """Return how many tokens and how many seconds the next answer of an endpoint may take."""
        words = self._tokens.get(endpoint.name)
        if words is None:
            words = self._tokens[endpoint.name] = Foresight(_USUAL_ANSWER, _LONGEST_ANSWER)
            self._seconds[endpoint.name] = Foresight(_USUAL_S, endpoint.timeout_ms / 1000)
        return words, self._seconds[endpoint.name]

    def _dearest(
        self, endpoint: Endpoint, prompt: float, answer: float, seconds: float, *, any_tier: bool
    ) -> float | None:
        usage = Usage(input_tokens=round(prompt), output_tokens=round(answer))
        costs = [self._cost(entity, usage, seconds) for entity in endpoint.entities]
        known = [cost for cost in costs if cost is not None]
        if not known or len(known) < len(costs):
            return None
        if any_tier:
            for entity in endpoint.entities:
                for tier in tiers_of(self._snapshot, entity) - {DEFAULT_TIER}:
                    cost = self._cost(entity, replace(usage, service_tier=tier), seconds)
                    if cost is not None:
                        known.append(cost)
        return max(known)

    def _cost(self, entity: ServedEntity, usage: Usage, seconds: float) -> float | None:
        cost = cost_of(self._snapshot, entity, usage, seconds, self._clock.now())
        return cost if cost is not None and isfinite(cost) and cost >= 0 else None


def _may_be_billed(error_code: str | None, status_code: int) -> bool:
    """Return what `__may_be_billed` does in SQL."""
    return error_code is not None and error_code != "CONNECTION_FAILED" and status_code < 300


def _usage(answered: AnsweredRequest, record: CallRecord, answers: int) -> Usage:
    """Return the tokens of an answer; what the provider did not say, as its part of what the record estimates."""
    usage = answered.answer.usage
    if usage.input_tokens is not None and usage.output_tokens is not None:
        return usage
    return Usage(
        input_tokens=_or_part(usage.input_tokens, record.input_token_count, answers),
        output_tokens=_or_part(usage.output_tokens, record.output_token_count, answers),
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        service_tier=usage.service_tier,
    )


def _or_part(tokens: int | None, total: int | None, answers: int) -> int:
    return (total or 0) // answers if tokens is None else tokens


def _used_up(found: Met, counter: _Counter) -> str:
    budget, span = found.budget, counter.span
    return (
        f"{_named(found)} is used up: {counter.spent_usd:.6g} of {budget.amount_usd:.6g} US dollars spent since "
        f"{span.start:%Y-%m-%d %H:%M} UTC; wait for its next {budget.window}, which begins at "
        f"{span.end:%Y-%m-%d %H:%M} UTC, or raise amount_usd in its row of fleming.budgets"
    )


def _uncountable(found: Met, endpoint: str) -> str:
    return (
        f"{_named(found)} cannot count what this call costs: a served entity of endpoint "
        f'"{endpoint}" has no price that is valid now; insert a row into fleming.model_prices'
    )


def _named(found: Met) -> str:
    of = f' of "{found.subject}"' if found.subject is not None else ""
    return f'the budget "{found.budget.name}"{of}'
