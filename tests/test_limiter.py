"""Rate limits and the waiting line by themselves, in a time of their own: no test waits for real.

`simulate` runs a coroutine on an event loop whose clock jumps to the next timer whenever nothing else is to be done.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleming_sql.clock import Clock
from fleming_sql.gateway.fairness import FairQueue, Flow
from fleming_sql.gateway.limiter import Admission, LimitReached, RateLimiter
from fleming_sql.policies.limits import Bound, Requirement
from fleming_sql.policies.tokens import Tokens
from fleming_sql.types import RateLimit

T = TypeVar("T")
MINUTE = 60.0
FREE = Tokens(0, 0, is_bounded=True)


class Jump(selectors.SelectSelector):
    """Waits for nothing: the time that it was to wait has passed when it returns."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing is left to happen, and a call still waits")
        if timeout > 0:
            self.now += timeout + 1e-6  # timers are never early
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not sleep: its time moves on to the next timer."""

    def __init__(self) -> None:
        self.jump = Jump()
        super().__init__(self.jump)

    def time(self) -> float:
        return self.jump.now


class VirtualClock(Clock):
    """The clock of the loop that runs."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def simulate(main: Callable[[RateLimiter], Coroutine[Any, Any, T]]) -> T:
    """Run `main` with a limiter of its own, in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(RateLimiter(VirtualClock())))
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


def whole(
    amount: int,
    metric: Literal["calls", "tokens"] = "calls",
    period: Literal["minute", "hour"] = "minute",
    *,
    waits: bool = True,
    max_wait_s: float | None = None,
) -> Requirement:
    """Return the limit of the endpoint."""
    return (Bound(RateLimit("chat", "endpoint", None, metric, amount, period, waits, max_wait_s), None),)


def of_user(user: str, amount: int, *, waits: bool = True, max_wait_s: float | None = None) -> Requirement:
    return (Bound(RateLimit("chat", "user", user, "calls", amount, "minute", waits, max_wait_s), user),)


def of_groups(**amounts: int) -> Requirement:
    return tuple(
        Bound(RateLimit("chat", "user_group", group, "calls", amount, "minute", False, None), group)
        for group, amount in amounts.items()
    )


async def admit(
    limiter: RateLimiter,
    *needed: Requirement,
    user: str = "ada",
    statement: str = "s",
    tokens: Tokens = FREE,
    paced: bool = True,
) -> tuple[float, Admission]:
    """Return when the call was admitted, and its admission."""
    admission = await limiter.admit(needed, tokens, Flow(user, statement), paced=paced)
    admission.send()
    return now(), admission


def most_in(times: Sequence[float], seconds: float) -> int:
    """Return the most of `times` in any closed window of that length."""
    ordered, window, most = sorted(times), deque[float](), 0
    for time in ordered:
        window.append(time)
        while window[0] < time - seconds:
            window.popleft()
        most = max(most, len(window))
    return most


# one call after the other


def test_a_thousand_at_once_are_refused_but_for_the_limit() -> None:
    async def main(limiter: RateLimiter) -> list[object]:
        rule = whole(100, waits=False)
        return await asyncio.gather(*(admit(limiter, rule) for _ in range(1000)), return_exceptions=True)

    results = simulate(main)

    assert sum(isinstance(result, tuple) for result in results) == 100
    assert sum(isinstance(result, LimitReached) for result in results) == 900


def test_a_refusal_tells_when_there_will_be_room_and_then_there_is() -> None:
    async def main(limiter: RateLimiter) -> tuple[float, float]:
        rule = whole(1, waits=False)
        await admit(limiter, rule)
        await asyncio.sleep(20)
        with pytest.raises(LimitReached) as caught:
            await admit(limiter, rule)
        await asyncio.sleep(caught.value.wait_s)
        return caught.value.wait_s, (await admit(limiter, rule))[0]

    wait_s, at = simulate(main)

    assert 40 <= wait_s <= 40.2
    assert at == pytest.approx(20 + wait_s)


@pytest.mark.parametrize("amount", [1, 7, 60, 1200])
def test_a_batch_runs_at_the_limit_and_never_above_it(amount: int) -> None:
    count = 5 * amount + 3

    async def main(limiter: RateLimiter) -> list[float]:
        return [at for at, _ in await asyncio.gather(*(admit(limiter, whole(amount)) for _ in range(count)))]

    times = simulate(main)

    assert most_in(times, MINUTE) <= amount
    ideal = (count - 1) * MINUTE / amount
    assert ideal - 1e-6 <= max(times) <= ideal / 0.98


def test_a_batch_is_spread_evenly() -> None:
    async def main(limiter: RateLimiter) -> list[float]:
        return [at for at, _ in await asyncio.gather(*(admit(limiter, whole(1200)) for _ in range(3000)))]

    times = sorted(simulate(main))

    assert most_in(times, 0.5) <= 12
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 0.2


def test_single_calls_are_not_paced_while_there_is_room() -> None:
    async def main(limiter: RateLimiter) -> list[float]:
        return [(await admit(limiter, whole(5), paced=False))[0] for _ in range(6)]

    times = simulate(main)

    assert times[:5] == [0.0] * 5
    assert times[5] >= MINUTE


def test_a_single_call_is_not_held_up_by_the_pace_of_anothers_batch() -> None:
    async def main(limiter: RateLimiter) -> float:
        rule = whole(6)  # one in 10 s
        batch = [asyncio.create_task(admit(limiter, rule, user="ada")) for _ in range(4)]
        await asyncio.sleep(1)
        at, _ = await admit(limiter, rule, user="bob", statement="b", paced=False)
        await asyncio.gather(*batch)
        return at

    assert simulate(main) == pytest.approx(1.0, abs=0.01)


def test_a_single_call_is_not_held_up_by_the_pace_of_its_users_own_batch() -> None:
    async def main(limiter: RateLimiter) -> float:
        rule = whole(6)
        batch = [asyncio.create_task(admit(limiter, rule, statement="long")) for _ in range(4)]
        await asyncio.sleep(1)
        at, _ = await admit(limiter, rule, statement="short", paced=False)
        await asyncio.gather(*batch)
        return at

    assert simulate(main) == pytest.approx(1.0, abs=0.01)


def test_calls_that_may_wait_only_so_long_get_the_room_that_is_left() -> None:
    async def main(limiter: RateLimiter) -> tuple[int, float]:
        rule = whole(5, max_wait_s=0.2)
        results = await asyncio.gather(*(admit(limiter, rule) for _ in range(10)), return_exceptions=True)
        return sum(isinstance(result, tuple) for result in results), now()

    admitted, took_s = simulate(main)

    assert admitted == 5
    assert took_s <= 2.1


def test_no_wait_at_all_refuses_like_reject() -> None:
    async def main(limiter: RateLimiter) -> tuple[int, float]:
        rule = whole(5, max_wait_s=0.0)
        results = await asyncio.gather(*(admit(limiter, rule) for _ in range(10)), return_exceptions=True)
        return sum(isinstance(result, tuple) for result in results), now()

    assert simulate(main) == (5, 0.0)


def test_the_stricter_of_calls_and_tokens_holds() -> None:
    async def main(limiter: RateLimiter) -> tuple[int, int]:
        counts = []
        for calls, tokens in ((3, 1000), (50, 200)):
            rules = (
                (Bound(RateLimit(str(calls), "endpoint", None, "calls", calls, "minute", False, None), None),),
                (Bound(RateLimit(str(calls), "endpoint", None, "tokens", tokens, "minute", False, None), None),),
            )
            results = await asyncio.gather(
                *(admit(limiter, *rules, tokens=Tokens(20, 20, is_bounded=True)) for _ in range(10)),
                return_exceptions=True,
            )
            counts.append(sum(isinstance(result, tuple) for result in results))
        return counts[0], counts[1]

    assert simulate(main) == (3, 5)


def test_the_first_half_of_an_hours_limit_is_not_paced_and_the_rest_is() -> None:
    async def main(limiter: RateLimiter) -> list[float]:
        return [(await admit(limiter, whole(100, period="hour")))[0] for _ in range(53)]

    times = simulate(main)

    assert times[:51] == [pytest.approx(0.0, abs=0.01)] * 51
    assert times[51:] == [pytest.approx(36.0, abs=0.01), pytest.approx(72.0, abs=0.01)]


def test_many_who_wait_for_one_limit_are_not_all_looked_at_for_each_that_goes() -> None:
    looked = 0

    class Counting(RateLimiter):
        def _look(self, *arguments: Any) -> Any:
            nonlocal looked
            looked += 1
            return super()._look(*arguments)

    async def main(_: RateLimiter) -> None:
        limiter = Counting(VirtualClock())
        await asyncio.gather(*(admit(limiter, whole(50), user=f"user {at}", paced=False) for at in range(500)))

    simulate(main)

    assert looked < 5 * 500


def test_minute_and_hour_hold_together() -> None:
    async def main(limiter: RateLimiter) -> list[float]:
        rules = whole(10), whole(25, period="hour")
        return [at for at, _ in await asyncio.gather(*(admit(limiter, *rules, paced=False) for _ in range(40)))]

    times = simulate(main)

    assert most_in(times, MINUTE) <= 10
    assert most_in(times, 3600.0) <= 25
    assert sorted(times)[24] < 125
    assert sorted(times)[25] >= 3600


def test_a_member_of_several_groups_is_held_up_when_all_are_used_up_and_uses_them_all() -> None:
    async def main(limiter: RateLimiter) -> tuple[int, list[int]]:
        results = await asyncio.gather(
            *(admit(limiter, of_groups(red=2, blue=4)) for _ in range(8)), return_exceptions=True
        )
        return sum(isinstance(result, tuple) for result in results), [used for _, used in limiter.usage()]

    assert simulate(main) == (4, [4, 4])


def test_a_call_that_is_refused_by_one_limit_takes_nothing_of_another() -> None:
    async def main(limiter: RateLimiter) -> list[int]:
        rules = whole(100), of_user("ada", 3, waits=False)
        await asyncio.gather(*(admit(limiter, *rules) for _ in range(10)), return_exceptions=True)
        return [used for _, used in limiter.usage()]

    assert simulate(main) == [3, 3]


# tokens


def test_tokens_are_reserved_before_and_settled_after() -> None:
    async def main(limiter: RateLimiter) -> list[int]:
        _, admission = await admit(limiter, whole(1000, "tokens"), tokens=Tokens(100, 500, is_bounded=True))
        seen = [used for _, used in limiter.usage()]
        admission.settle(130, sent=True)
        return seen + [used for _, used in limiter.usage()]

    assert simulate(main) == [600, 130]


def test_a_failed_call_gives_its_tokens_back_and_stays_counted() -> None:
    async def main(limiter: RateLimiter) -> dict[str, int]:
        rules = whole(10), whole(1000, "tokens")
        _, admission = await admit(limiter, *rules, tokens=Tokens(100, 500, is_bounded=True))
        admission.settle(0, sent=True)
        return {bound.limit.metric: used for bound, used in limiter.usage()}

    assert simulate(main) == {"calls": 1, "tokens": 0}


def test_a_call_that_sent_nothing_gives_all_back() -> None:
    async def main(limiter: RateLimiter) -> list[int]:
        rules = whole(10), whole(1000, "tokens")
        _, admission = await admit(limiter, *rules, tokens=Tokens(100, 500, is_bounded=True))
        admission.settle(0, sent=False)
        return [used for _, used in limiter.usage()]

    assert simulate(main) == [0, 0]


def test_what_is_given_back_lets_the_next_in_at_once() -> None:
    async def main(limiter: RateLimiter) -> float:
        rule = whole(1000, "tokens")
        _, first = await admit(limiter, rule, tokens=Tokens(0, 900, is_bounded=True), paced=False)
        second = asyncio.create_task(admit(limiter, rule, tokens=Tokens(0, 900, is_bounded=True), paced=False))
        await asyncio.sleep(3)
        first.settle(50, sent=True)
        return (await second)[0]

    assert simulate(main) == pytest.approx(3.0, abs=0.01)


def test_a_wait_for_what_may_be_given_back_ends_when_it_may_wait_no_longer() -> None:
    async def main(limiter: RateLimiter) -> float:
        rule = whole(1000, "tokens", max_wait_s=5.0)
        tokens = Tokens(0, 900, is_bounded=True)
        await admit(limiter, rule, tokens=tokens, paced=False)
        with pytest.raises(LimitReached):
            await admit(limiter, rule, tokens=tokens, paced=False)
        return now()

    assert simulate(main) == pytest.approx(5.0, abs=0.01)


def test_a_call_that_may_need_more_than_the_whole_limit_is_refused_at_once() -> None:
    async def main(limiter: RateLimiter) -> LimitReached:
        with pytest.raises(LimitReached) as caught:
            await admit(limiter, whole(1000, "tokens"), tokens=Tokens(600, 500, is_bounded=True))
        return caught.value

    reached = simulate(main)

    assert (reached.wait_s, reached.amount) == (float("inf"), 1100)


def test_a_guess_at_the_answer_does_not_refuse_a_call() -> None:
    async def main(limiter: RateLimiter) -> float:
        return (await admit(limiter, whole(1000, "tokens"), tokens=Tokens(600, 5000, is_bounded=False)))[0]

    assert simulate(main) == 0.0


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_batch_under_a_token_limit_uses_it_though_less_is_used_than_reserved(share: float) -> None:
    limit, reserved = 60_000, 600
    used = int(reserved * share)
    count = 3 * limit // used

    async def call(limiter: RateLimiter, times: list[float]) -> None:
        tokens = Tokens(reserved // 2, reserved // 2, is_bounded=True)
        at, admission = await admit(limiter, whole(limit, "tokens"), tokens=tokens)
        times.append(at)
        await asyncio.sleep(0.2)
        admission.settle(used, sent=True)

    async def main(limiter: RateLimiter) -> list[float]:
        times: list[float] = []
        await asyncio.gather(*(call(limiter, times) for _ in range(count)))
        return times

    times = simulate(main)

    assert most_in(times, MINUTE) * used <= limit
    assert max(times) <= 3 * MINUTE / 0.96


# changes and cancellation


def test_a_changed_amount_goes_on_counting() -> None:
    async def main(limiter: RateLimiter) -> int:
        for _ in range(3):
            await admit(limiter, whole(3, waits=False))
        results = await asyncio.gather(
            *(admit(limiter, whole(5, waits=False)) for _ in range(4)), return_exceptions=True
        )
        return sum(isinstance(result, tuple) for result in results)

    assert simulate(main) == 2


def test_an_old_amount_still_in_use_does_not_take_the_pace_away() -> None:
    """A running statement keeps the amount that it began with while another one has the new one."""

    async def main(limiter: RateLimiter) -> list[float]:
        old, new = whole(60), whole(61)
        calls = [admit(limiter, rule, statement=name) for rule, name in ((old, "a"), (new, "b")) for _ in range(15)]
        return [at for at, _ in await asyncio.gather(*calls)]

    assert most_in(simulate(main), 10.0) <= 12


def test_a_call_that_is_cancelled_while_it_waits_takes_nothing() -> None:
    async def main(limiter: RateLimiter) -> tuple[int, int]:
        rule = whole(2)
        tasks = [asyncio.create_task(admit(limiter, rule, paced=False)) for _ in range(5)]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(100)
        used = [used for _, used in limiter.usage()]
        return used[0], len(limiter.waiting())

    assert simulate(main) == (0, 0)


def test_a_call_that_is_cancelled_in_the_moment_it_is_admitted_gives_its_room_back() -> None:
    async def main(limiter: RateLimiter) -> int:
        rule = whole(1)
        _, first = await admit(limiter, rule, paced=False)
        task = asyncio.create_task(admit(limiter, rule, paced=False))
        await asyncio.sleep(1)
        first.settle(0, sent=False)  # admits the second, whose task has not run yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return next(used for _, used in limiter.usage())

    assert simulate(main) == 0


def test_a_statement_that_is_cancelled_does_not_hold_up_those_behind_it() -> None:
    async def main(limiter: RateLimiter) -> float:
        rule = whole(6)
        batch = [asyncio.create_task(admit(limiter, rule, user="ada")) for _ in range(50)]
        await asyncio.sleep(1)
        bob = asyncio.create_task(admit(limiter, rule, user="bob", paced=False))
        await asyncio.sleep(0)
        for task in batch:
            task.cancel()
        await asyncio.gather(*batch, return_exceptions=True)
        return (await bob)[0]

    assert simulate(main) <= 10.0


# fairness


def test_a_call_of_another_user_waits_for_one_call_and_not_for_a_batch() -> None:
    async def main(limiter: RateLimiter) -> float:
        rule = whole(60)
        await asyncio.gather(*(admit(limiter, rule, paced=False) for _ in range(60)))
        batch = [asyncio.create_task(admit(limiter, rule, user="ada")) for _ in range(500)]
        await asyncio.sleep(1)
        at, _ = await admit(limiter, rule, user="bob", statement="b", paced=False)
        for task in batch:
            task.cancel()
        await asyncio.gather(*batch, return_exceptions=True)
        return at

    assert simulate(main) <= MINUTE + 2


def test_users_share_a_limit_equally_however_much_each_asks_for() -> None:
    async def main(limiter: RateLimiter) -> dict[str, int]:
        rule, admitted = whole(60), dict.fromkeys(("ada", "bob", "eve"), 0)

        async def call(user: str, number: int) -> None:
            await admit(limiter, rule, user=user, statement=f"{user}{number % 3}")
            admitted[user] += 1

        tasks = [
            asyncio.create_task(call(user, number))
            for user, count in (("ada", 600), ("bob", 60), ("eve", 300))
            for number in range(count)
        ]
        await asyncio.sleep(90)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return admitted

    counts = simulate(main).values()

    assert max(counts) - min(counts) <= 2  # the first comer's first call went before the others had come
    assert sum(counts) >= 85


def test_a_user_whose_own_limit_is_used_up_holds_up_nobody_else() -> None:
    async def main(limiter: RateLimiter) -> float:
        shared = whole(1000)
        ada = [asyncio.create_task(admit(limiter, shared, of_user("ada", 1), user="ada")) for _ in range(5)]
        await asyncio.sleep(0.5)
        at, _ = await admit(limiter, shared, of_user("bob", 1), user="bob", statement="b", paced=False)
        for task in ada:
            task.cancel()
        await asyncio.gather(*ada, return_exceptions=True)
        return at

    assert simulate(main) == pytest.approx(0.5, abs=0.01)


def test_a_call_does_not_wait_for_a_limit_that_only_its_users_other_statement_meets() -> None:
    """Two connections of one name may be in different groups."""

    async def main(limiter: RateLimiter) -> float:
        of_group = (Bound(RateLimit("chat", "user_group", "red", "calls", 1, "minute", True, None), "red"),)
        await admit(limiter, of_group)
        waiting = asyncio.create_task(admit(limiter, of_group))
        await asyncio.sleep(1)
        at, _ = await admit(limiter, whole(1000), statement="other", paced=False)
        await waiting
        return at

    assert simulate(main) == pytest.approx(1.0, abs=0.01)


pushes = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=60)


def test_a_users_statements_take_turns() -> None:
    queue = FairQueue[str](lambda item: False)
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.push(Flow("ada", item[0]), item)

    assert [queue.pop() for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]


@given(pushes, st.sets(st.integers(0, 59)))
def test_the_queue_gives_everything_out_once_by_turns(flows: list[tuple[str, int]], gone: set[int]) -> None:
    queue = FairQueue[int](gone.__contains__)
    for item, (user, statement) in enumerate(flows):
        queue.push(Flow(user, (user, statement)), item)
    left = defaultdict[str, int](int)
    for item, (user, _) in enumerate(flows):
        left[user] += item not in gone

    order: list[int] = []
    while queue:
        popped = queue.pop()
        if popped is not None:
            order.append(popped)

    assert sorted(order) == sorted(set(range(len(flows))) - gone)
    for flow in set(flows):  # each statement in its order
        of_flow = [item for item in order if flows[item] == flow]
        assert of_flow == sorted(of_flow)
    served = defaultdict[str, int](int)
    for item in order:  # nobody is a turn ahead of one who still waits
        served[flows[item][0]] += 1
        waiting = [served[other] for other, count in left.items() if served[other] < count]
        assert served[flows[item][0]] <= min(waiting, default=len(order)) + 1


# any order of events

events = st.lists(
    st.fixed_dictionaries(
        {
            "pause": st.sampled_from([0.0, 0.0, 0.0, 0.3, 2.0, 15.0, 70.0]),
            "user": st.sampled_from(["ada", "bob"]),
            "statement": st.integers(0, 2),
            "prompt": st.integers(0, 30),
            "answer": st.integers(0, 50),
            "bounded": st.booleans(),
            "share": st.floats(0, 1),
            "takes": st.sampled_from([0.0, 0.1, 5.0, 90.0]),
            "sent": st.booleans(),
            "paced": st.booleans(),
            "cancel_after": st.sampled_from([None, None, None, 0.0, 0.1, 1.0, 30.0]),
        }
    ),
    min_size=1,
    max_size=50,
)
amounts = st.tuples(st.integers(1, 8), st.integers(60, 300), st.integers(1, 6))


class Provider:
    """Takes down what was admitted, corrects it as calls end, and checks every window each time."""

    def __init__(self, amounts: dict[str, int]) -> None:
        self.amounts = amounts
        self.log: dict[str, list[list[float]]] = defaultdict(list)

    def admitted(self, taken: dict[str, int]) -> list[list[float]]:
        entries = [[now(), float(amount)] for amount in taken.values()]
        for counter, entry in zip(taken, entries, strict=True):
            self.log[counter].append(entry)
        self.check()
        return entries

    def check(self) -> None:
        for counter, amount in self.amounts.items():
            for start, _ in self.log[counter]:
                assert sum(took for at, took in self.log[counter] if start <= at <= start + MINUTE) <= amount


async def one_of_many(limiter: RateLimiter, provider: Provider, asked: dict[str, Any], wait: dict[str, Any]) -> str:
    """Make one call as `asked` says and return how it ended."""
    amounts, user = provider.amounts, asked["user"]
    needed = (
        whole(amounts["calls"], **wait),
        whole(amounts["tokens"], "tokens", **wait),
        of_user(user, amounts[user], **wait),
    )
    tokens = Tokens(asked["prompt"], asked["answer"], is_bounded=asked["bounded"])
    reserved = tokens.within(amounts["tokens"])
    try:
        admission = await limiter.admit(needed, tokens, Flow(user, (user, asked["statement"])), paced=asked["paced"])
        admission.send()
    except LimitReached:
        return "refused"
    entries = provider.admitted({"calls": 1, user: 1, "tokens": reserved})
    used, sent = 0, False
    try:
        await asyncio.sleep(asked["takes"])
        used, sent = int(reserved * asked["share"]) if asked["sent"] else 0, asked["sent"]
    finally:
        admission.settle(used, sent=sent)
        for entry, amount in zip(entries, (sent, sent, used), strict=True):
            entry[1] = float(amount)
        provider.check()
    return "answered"


@settings(max_examples=100, deadline=None)
@given(events, amounts, st.booleans(), st.sampled_from([None, 0.0, 5.0, 100.0]))
def test_whatever_happens_no_window_holds_more_than_its_limit_and_nobody_is_forgotten(
    calls: list[dict[str, Any]], limits: tuple[int, int, int], waits: bool, max_wait_s: float | None
) -> None:
    provider = Provider({"calls": limits[0], "tokens": limits[1], "ada": limits[2], "bob": limits[2]})
    wait = {"waits": waits, "max_wait_s": max_wait_s}

    async def main(limiter: RateLimiter) -> list[int]:
        tasks = []
        for asked in calls:
            await asyncio.sleep(asked["pause"])
            task = asyncio.create_task(one_of_many(limiter, provider, asked, wait))
            tasks.append(task)
            if asked["cancel_after"] is not None:
                asyncio.get_running_loop().call_later(asked["cancel_after"], task.cancel)
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.result() in ("answered", "refused") for task in tasks)
        assert not any(
            task.cancelled() and asked["cancel_after"] is None for task, asked in zip(tasks, calls, strict=True)
        )
        assert not limiter.waiting()
        await asyncio.sleep(MINUTE + 1)
        return [used for _, used in limiter.usage()]

    assert not any(simulate(main))


def test_many_callers_of_many_users_in_random_order_lose_no_room() -> None:
    """Half of them are cancelled somewhere on the way; the others still get the limit's whole rate."""
    chance = random.Random(7)  # noqa: S311

    async def main(limiter: RateLimiter) -> list[float]:
        times: list[float] = []

        async def call(user: str) -> None:
            at, admission = await admit(limiter, whole(300), user=user, paced=chance.random() < 0.5)
            sent = chance.random() < 0.9
            admission.settle(0, sent=sent)
            if sent:
                times.append(at)

        tasks = [asyncio.create_task(call(f"user {chance.randrange(40)}")) for _ in range(4000)]
        for task in tasks[::2]:
            asyncio.get_running_loop().call_later(chance.uniform(0, 100), task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        return times

    times = simulate(main)

    assert most_in(times, MINUTE) <= 300
    assert max(times) <= (len(times) / 300) * MINUTE / 0.98
