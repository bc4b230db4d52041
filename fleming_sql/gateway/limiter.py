"""Rate limits at work: calls wait their turn or are refused, tokens are reserved before and settled after.

Everything runs on the gateway's event loop, and nothing is awaited between looking at the counters and charging them,
so no two calls can take the same room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple

from fleming_sql.clock import Clock
from fleming_sql.gateway.fairness import FairQueue, Flow
from fleming_sql.policies.limits import Bound, CounterKey, Requirement
from fleming_sql.policies.tokens import Tokens
from fleming_sql.policies.windows import Admitted, Pace, SlidingWindow

TELL_EVERY_S: Final = 5.0
"""How often a wait is logged."""
_TIDY_FROM: Final = 1000
_NEVER: Final = float("inf")
_time: Final = itemgetter(0)
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

    def change(self, bound: Bound, now: float) -> None:
        """Take over a limit that may have another amount; what was admitted goes on counting."""
        self.pace.rescale(self.bound.limit.amount, bound.limit.amount, now)
        self.bound = bound


class Charge(NamedTuple):
    """What one counter was charged."""

    counter: Counter
    admitted: Admitted
    paced: bool


class Admission:
    """A call's share of the limits that it was let through by."""

    __slots__ = ("_charges", "_limiter")

    def __init__(self, limiter: RateLimiter, charges: Sequence[Charge]) -> None:
        self._limiter = limiter
        self._charges = charges

    def settle(self, tokens: int, *, sent: bool) -> None:
        """Say what the call came to.

        Args:
            tokens: All that were used; 0 for a call that failed.
            sent: Whether any request went out; a call that sent none is given back whole.
        """
        self._limiter.settle(self._charges, tokens, sent=sent)

    def send(self) -> None:
        """Say that the call's request goes out; again does nothing."""
        self._limiter.send(self._charges)


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
    has_deadlines: bool = False
    """Whether some that wait may only do so for a time."""
    timer: asyncio.TimerHandle | None = None
    wakes_at: float = _NEVER
    told_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier process admitted of one user's calls within one second."""

    age_s: float
    """Of the latest of them."""
    user: str
    groups: frozenset[str]
    calls: int
    tokens: int

    def counts_for(self, bound: Bound) -> bool:
        """Return whether it takes up some of a limit."""
        if bound.limit.key == "user_group":
            return bound.counted in self.groups
        return bound.counted is None or bound.counted == self.user


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
        self._earlier: dict[str, tuple[float, Sequence[Earlier]]] = {}
        self._tidy_at = _TIDY_FROM

    async def recall(self, endpoint: str, calls: Sequence[Earlier]) -> None:
        """Count the calls of earlier processes, the oldest first, in counters that are yet to be made."""
        self._earlier[endpoint] = self._clock.monotonic(), calls

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
        line.has_deadlines |= any(b.limit.max_wait_s is not None for requirement in requirements for b in requirement)
        now = self._clock.monotonic()
        if 0.0 < line.shared_until <= now:
            self._pump(line)  # others have waited for the same room
        else:
            self._step(line, flow, now)
        return place.result() if place.done() else await self._taken(line, place)

    async def _taken(self, line: _Line, place: asyncio.Future[Admission]) -> Admission:
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                place.result().settle(0, sent=False)
            raise

    def settle(self, charges: Sequence[Charge], tokens: int, *, sent: bool) -> None:
        """Correct what a call was charged; see `Admission.settle`."""
        now = self._clock.monotonic()
        has_room = False
        for counter, admitted, paced in charges:
            limit = counter.bound.limit
            if sent:
                counter.window.send(admitted, now)  # no later than this, where several calls shared a request
            amount = (1 if sent else 0) if limit.metric == "calls" else tokens
            if amount != admitted.amount:
                has_room = has_room or amount < admitted.amount
                if paced:  # the pace of what follows
                    counter.pace.gave_back(admitted.amount - amount, limit.amount, now)
            counter.window.settle(admitted, amount, now)
        if has_room:
            line = self._lines[charges[0].counter.bound.limit.endpoint]
            if line.queue:
                self._pump(line)

    def send(self, charges: Sequence[Charge]) -> None:
        """Count from now on; see `Admission.send`."""
        now = self._clock.monotonic()
        for charge in charges:
            charge.counter.window.send(charge.admitted, now)

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
        moving = line.queue.users()
        while moving:
            served = []
            for user in moving:
                if self._serve_one(line, user, now):
                    served.append(user)
                elif line.shared_until > now and not line.has_deadlines:
                    break  # a limit that holds for all is full, so nobody else can go, and nobody is to be refused
            moving = served
        line.has_deadlines = line.has_deadlines and bool(line.queue)
        self._tell(line, now)

    def _serve_one(self, line: _Line, user: Hashable, now: float) -> bool:
        """Admit one call of a user, of the statement whose turn it is among those that can go; return whether any."""
        return any(self._step(line, flow, now) for flow in line.queue.flows(user))

    def _step(self, line: _Line, flow: Flow, now: float) -> bool:
        """Refuse what of a statement may not wait, and admit its next call if that can go; return whether it did."""
        while (call := line.queue.head(flow)) is not None:
            ready = self._ready(line, call, now)
            if ready is None:
                continue  # refused, and gone from the line
            if ready > now or line.shared_until > now:
                return False
            line.queue.take(flow)
            call.admitted.set_result(self._charge(call, now))
            following = line.queue.head(flow)
            if following is not None:
                following.since = now
            return True
        return False

    def _ready(self, line: _Line, call: _Waiting, now: float) -> float | None:
        """Return when a call may go, None where it was refused; see to it that it is looked at again by then."""
        if call.since is None:
            call.since = now
        try:
            ready, held_by, is_full = self._look(call, call.since, now)
        except LimitReached as reached:
            call.admitted.set_exception(reached)
            return None
        if held_by is not None:
            call.held_by, call.ready_at = held_by, ready
            if is_full and held_by.is_shared:
                line.shared_until = max(line.shared_until, ready)
            self._wake(line, min(ready, now + TELL_EVERY_S), now)
        return ready

    def _look(self, call: _Waiting, since: float, now: float) -> tuple[float, Bound | None, bool]:
        """Return when a call may go, what holds it up until then, and whether that has no room or only a pace.

        Raises:
            LimitReached: It may not wait that long.
        """
        ready, held_by, is_full = now, None, False
        for requirement in call.requirements:
            found = [(self._ready_at(bound, call, since, now), bound) for bound in requirement]
            at, bound = min(found, key=_time)
            if at <= now:
                continue
            patient = [(at, bound) for at, bound in found if bound.limit.waits]
            if not patient or at == _NEVER:
                raise LimitReached(bound, at - now, self._amount(bound, call))
            at, bound = min(patient, key=_time)
            deadline = _deadline(bound, since)
            if now >= deadline or (at > deadline and not self._counter(bound).window.has_estimates):
                raise LimitReached(bound, at - now, self._amount(bound, call))
            if min(at, deadline) > ready:
                ready, held_by = min(at, deadline), bound
                is_full = self._room_at(bound, call, now) > now
        return ready, held_by, is_full

    def _ready_at(self, bound: Bound, call: _Waiting, since: float, now: float) -> float:
        room = self._room_at(bound, call, now)
        if not self._is_paced(bound, call, now):
            return room
        # The pace never costs a call that the limit itself has room for.
        return max(room, min(self._counter(bound).pace.next_at(now), _deadline(bound, since)))

    def _is_paced(self, bound: Bound, call: _Waiting, now: float) -> bool:
        if not call.paced or not bound.limit.waits:
            return False
        return self._counter(bound).window.used(now) >= bound.unpaced_amount

    def _room_at(self, bound: Bound, call: _Waiting, now: float) -> float:
        return self._counter(bound).window.room_at(self._amount(bound, call), bound.limit.amount, now)

    def _charge(self, call: _Waiting, now: float) -> Admission:
        charges = []
        for requirement in call.requirements:
            for bound in requirement:
                counter, amount = self._counter(bound), self._amount(bound, call)
                paced = self._is_paced(bound, call, now)
                if paced:
                    counter.pace.took(amount, bound.limit.amount, now)
                settled = bound.limit.metric == "calls"
                charges.append(Charge(counter, counter.window.take(amount, now, settled=settled, sent=False), paced))
        return Admission(self, charges)

    def _amount(self, bound: Bound, call: _Waiting) -> int:
        return 1 if bound.limit.metric == "calls" else call.tokens.within(bound.limit.amount)

    def _counter(self, bound: Bound) -> Counter:
        counter = self._counters.get(bound.key)
        if counter is None:
            self._forget_idle()
            counter = self._counters[bound.key] = self._new_counter(bound)
        elif counter.bound.limit is not bound.limit:
            counter.change(bound, self._clock.monotonic())
        return counter

    def _forget_idle(self) -> None:
        """Drop the counters that hold nothing, once there are twice as many as were left the last time."""
        if len(self._counters) < self._tidy_at:
            return
        now = self._clock.monotonic()
        self._counters = {key: counter for key, counter in self._counters.items() if counter.window.used(now)}
        self._tidy_at = max(_TIDY_FROM, 2 * len(self._counters))

    def _new_counter(self, bound: Bound) -> Counter:
        limit = bound.limit
        counter = Counter(bound, SlidingWindow(limit.period_s), Pace(limit.period_s))
        recalled_at, calls = self._earlier.get(limit.endpoint, (0.0, ()))
        for call in calls:
            if call.counts_for(bound):
                amount = call.calls if limit.metric == "calls" else call.tokens
                counter.window.take(amount, recalled_at - call.age_s, settled=True)
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
                'endpoint "%s": calls waiting for %s: %d; the next goes in %.1f s',
                line.endpoint,
                held[0].held_by.describe(),
                sum(1 for _ in line.queue),
                max(0.0, held[0].ready_at - now),
            )


def _deadline(bound: Bound, since: float) -> float:
    return _NEVER if bound.limit.max_wait_s is None else since + bound.limit.max_wait_s
