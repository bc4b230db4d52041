"""Rate limits at work: calls wait their turn or are refused, tokens are reserved before and settled after.

Everything runs on the gateway's event loop, and nothing is awaited between looking at the counters and charging them,
so no two calls can take the same room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fleming_sql.clock import Clock
from fleming_sql.gateway.fairness import FairQueue, Flow
from fleming_sql.policies.limits import Bound, CounterKey, Requirement
from fleming_sql.policies.tokens import Tokens
from fleming_sql.policies.windows import Admitted, Pace, SlidingWindow

TELL_EVERY_S: Final = 5.0
"""How often a wait is logged."""
_NEVER: Final = float("inf")
_LOGGER: Final = logging.getLogger("fleming_sql")


class LimitReached(Exception):
    """A limit has no room for a call, and the call may not wait for it.

    Args:
        bound: The limit.
        wait_s: When there will be room, in seconds from now; infinity for never.
        amount: How much the call asked for.
    """

    def __init__(self, bound: Bound, wait_s: float, amount: int) -> None:
        super().__init__(bound.describe())
        self.bound = bound
        self.wait_s = wait_s
        self.amount = amount


@dataclass(slots=True)
class Counter:
    """What one limit has admitted."""

    bound: Bound
    window: SlidingWindow
    pace: Pace

    def change(self, bound: Bound) -> None:
        """Take over a limit that may have another amount; what was admitted goes on counting."""
        if bound.limit.amount != self.bound.limit.amount:
            self.pace = Pace(bound.limit.period_s)
        self.bound = bound


class Admission:
    """A call's share of the limits that it was let through by."""

    __slots__ = ("_charged", "_limiter", "_paced")

    def __init__(self, limiter: RateLimiter, charged: Sequence[tuple[Counter, Admitted]], *, paced: bool) -> None:
        self._limiter = limiter
        self._charged = charged
        self._paced = paced

    def settle(self, tokens: int, *, sent: bool) -> None:
        """Say what the call came to.

        Args:
            tokens: All that were used; 0 for a call that failed.
            sent: Whether any request went out; a call that sent none is given back whole.
        """
        self._limiter.settle(self._charged, tokens, sent=sent, paced=self._paced)


@dataclass(slots=True)
class Held:
    """A statement that waits for a limit."""

    calls: int = 0
    bound: Bound | None = None
    ready_in_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits to be admitted."""

    requirements: Sequence[Requirement]
    tokens: Tokens
    paced: bool
    statement: str
    admitted: asyncio.Future[Admission]
    since: float | None = None
    """When it became the next of its statement: what `max_wait_ms` counts from."""
    held_by: Bound | None = None
    ready_at: float = 0.0


@dataclass(slots=True)
class _Line:
    """The calls that wait at one endpoint."""

    endpoint: str

    queue: FairQueue[_Waiting] = field(default_factory=lambda: FairQueue(lambda waiting: waiting.admitted.done()))
    shared_until: float = 0.0
    """Until when a limit that holds for all has no room."""
    timer: asyncio.TimerHandle | None = None
    wakes_at: float = _NEVER
    told_at: float = 0.0


class RateLimiter:
    """Admits calls as the limits of their endpoints allow.

    Args:
        clock: Time.

    Example:
        >>> admission = await limiter.admit(requirements, Tokens(20, 100, True), Flow("ada", "s1"), paced=True)
        >>> admission.settle(140, sent=True)
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counters: dict[CounterKey, Counter] = {}
        self._lines: dict[str, _Line] = {}

    async def admit(self, requirements: Sequence[Requirement], tokens: Tokens, flow: Flow, *, paced: bool) -> Admission:
        """Wait until every requirement has room, and take it.

        Args:
            requirements: At least one.
            tokens: What to reserve of limits on tokens.
            flow: Whose turn it takes.
            paced: Whether it is one of many and goes at the limit's pace, not as soon as there is room.

        Raises:
            LimitReached: There is none, and a limit refuses or the wait would be too long.
        """
        endpoint = requirements[0][0].limit.endpoint
        line = self._lines.get(endpoint) or self._lines.setdefault(endpoint, _Line(endpoint))
        place = asyncio.get_running_loop().create_future()
        call = _Waiting(requirements, tokens, paced, str(flow.statement), place)
        line.queue.push(flow, call)
        now = self._clock.monotonic()
        if line.shared_until > now or not line.shared_until:
            self._serve(line, flow, now)
        else:
            self._pump(line)
        return place.result() if place.done() else await self._taken(line, place)

    async def _taken(self, line: _Line, place: asyncio.Future[Admission]) -> Admission:
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                place.result().settle(0, sent=False)
            raise

    def settle(self, charged: Sequence[tuple[Counter, Admitted]], tokens: int, *, sent: bool, paced: bool) -> None:
        """Correct what a call was charged; see `Admission.settle`."""
        now = self._clock.monotonic()
        for counter, admitted in charged:
            limit = counter.bound.limit
            amount = (1 if sent else 0) if limit.metric == "calls" else tokens
            if paced and amount != admitted.amount:
                counter.pace.gave_back(admitted.amount - amount, limit.amount)
            counter.window.settle(admitted, amount, now)
        if charged:
            line = self._lines[charged[0][0].bound.limit.endpoint]
            if line.queue:
                self._pump(line)

    def usage(self) -> Iterator[tuple[Bound, int]]:
        """Return each limit that has been met, and how much of it is taken up now."""
        now = self._clock.monotonic()
        for counter in self._counters.values():
            yield counter.bound, counter.window.used(now)

    def waiting(self) -> Mapping[str, Held]:
        """Return what each statement that waits is held up by."""
        now = self._clock.monotonic()
        found: dict[str, Held] = {}
        for line in self._lines.values():
            for call in line.queue:
                held = found.setdefault(call.statement, Held())
                held.calls += 1
                if call.held_by is not None:
                    held.bound, held.ready_in_s = call.held_by, call.ready_at - now
        return found

    def _pump(self, line: _Line) -> None:
        """Admit or refuse whoever can be, one of each user at a time, and set the time to look again."""
        now = self._clock.monotonic()
        line.shared_until = 0.0
        if line.timer is not None:
            line.timer.cancel()
            line.timer, line.wakes_at = None, _NEVER
        stuck: set[object] = set()
        moved = True
        while moved:
            moved = False
            for user in line.queue.users():
                if user in stuck:
                    continue
                if self._step(line, user, now):
                    moved = True
                else:
                    stuck.add(user)
        self._tell(line, now)

    def _serve(self, line: _Line, flow: Flow, now: float) -> None:
        """Admit or refuse what one user has waiting."""
        while self._step(line, flow.user, now):
            pass

    def _step(self, line: _Line, user: object, now: float) -> bool:
        """Look at the next call of a user; return whether it left the line."""
        call = line.queue.head(user)
        if call is None:
            return False
        if call.since is None:
            call.since = now
        try:
            ready, held_by = self._look(call, call.since, now)
        except LimitReached as reached:
            line.queue.pop(user)
            call.admitted.set_exception(reached)
            return True
        if ready <= now and line.shared_until <= now:
            line.queue.pop(user)
            call.admitted.set_result(self._charge(call, now))
            return True
        if held_by is not None:
            call.held_by, call.ready_at = held_by, ready
            if held_by.is_shared:
                line.shared_until = max(line.shared_until, ready)
            self._wake(line, min(ready, now + TELL_EVERY_S), now)
        return False

    def _look(self, call: _Waiting, since: float, now: float) -> tuple[float, Bound | None]:
        """Return when a call may go, and what holds it up until then.

        Raises:
            LimitReached: It may not wait that long.
        """
        ready, held_by = now, None
        for requirement in call.requirements:
            at, bound = min(
                ((self._ready_at(bound, call, since, now), bound) for bound in requirement), key=lambda found: found[0]
            )
            if at <= now:
                continue
            patient = [(self._ready_at(bound, call, since, now), bound) for bound in requirement if bound.limit.waits]
            if not patient or at == _NEVER:
                raise LimitReached(bound, at - now, self._amount(bound, call))
            at, bound = min(patient, key=lambda found: found[0])
            deadline = _deadline(bound, since)
            if now >= deadline or (at > deadline and not self._counter(bound).window.has_estimates):
                raise LimitReached(bound, at - now, self._amount(bound, call))
            if min(at, deadline) > ready:
                ready, held_by = min(at, deadline), bound
        return ready, held_by

    def _ready_at(self, bound: Bound, call: _Waiting, since: float, now: float) -> float:
        counter = self._counter(bound)
        room = counter.window.room_at(self._amount(bound, call), bound.limit.amount, now)
        if not call.paced or not bound.limit.waits:
            return room
        # The pace never costs a call that the limit itself has room for.
        return max(room, min(counter.pace.next_at(now), _deadline(bound, since)))

    def _charge(self, call: _Waiting, now: float) -> Admission:
        charged = []
        for requirement in call.requirements:
            for bound in requirement:
                counter, amount = self._counter(bound), self._amount(bound, call)
                if call.paced:
                    counter.pace.took(amount, bound.limit.amount, now)
                settled = bound.limit.metric == "calls"
                charged.append((counter, counter.window.take(amount, now, settled=settled)))
        return Admission(self, charged, paced=call.paced)

    def _amount(self, bound: Bound, call: _Waiting) -> int:
        return 1 if bound.limit.metric == "calls" else call.tokens.within(bound.limit.amount)

    def _counter(self, bound: Bound) -> Counter:
        counter = self._counters.get(bound.key)
        if counter is None:
            period_s = bound.limit.period_s
            counter = self._counters[bound.key] = Counter(bound, SlidingWindow(period_s), Pace(period_s))
        elif counter.bound.limit is not bound.limit:
            counter.change(bound)
        return counter

    def _wake(self, line: _Line, at: float, now: float) -> None:
        if at >= line.wakes_at:
            return
        if line.timer is not None:
            line.timer.cancel()
        line.wakes_at = at
        line.timer = asyncio.get_running_loop().call_later(at - now, self._pump, line)

    def _tell(self, line: _Line, now: float) -> None:
        """Log, now and then, that calls wait."""
        if now - line.told_at < TELL_EVERY_S:
            return
        held = [call for call in line.queue if call.held_by is not None and now - (call.since or now) > 0.0]
        if held and held[0].held_by is not None:
            line.told_at = now
            _LOGGER.info(
                'endpoint "%s": %d calls wait for %s; the next goes in %.1f s',
                line.endpoint,
                sum(1 for _ in line.queue),
                held[0].held_by.describe(),
                max(0.0, held[0].ready_at - now),
            )


def _deadline(bound: Bound, since: float) -> float:
    return _NEVER if bound.limit.max_wait_s is None else since + bound.limit.max_wait_s
