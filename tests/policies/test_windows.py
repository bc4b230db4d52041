"""The sliding window against a log that is summed anew for every question, and the pace against its average."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleming_sql.policies.windows import CATCH_UP_S, MARGIN_S, Admitted, Pace, SlidingWindow

PERIOD = 8.0
LENGTH = PERIOD + MARGIN_S


class Brute:
    """One list of admissions that is never shortened."""

    def __init__(self) -> None:
        self.log: list[tuple[float, int]] = []

    def used(self, now: float) -> int:
        return sum(amount for at, amount in self.log if now < at + LENGTH)

    def room_at(self, amount: int, limit: int, now: float) -> float:
        if amount > limit:
            return math.inf
        ends = sorted({now, *(at + LENGTH for at, _ in self.log if at + LENGTH > now)})
        return next(end for end in ends if self.used(end) + amount <= limit)

    def most(self) -> int:
        """Return the largest sum of any closed window of the period."""
        return max((sum(a for at, a in self.log if start <= at <= start + PERIOD) for start, _ in self.log), default=0)


class Windowed(RuleBasedStateMachine):
    """Takes what fits, settles in any order, and compares."""

    LIMIT = 10

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.window = SlidingWindow(PERIOD)
        self.brute = Brute()
        self.open: list[tuple[Admitted, int]] = []

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0, 3.0, 8.0, 8.1, 8.25, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(amount=st.integers(0, LIMIT + 2), settled=st.booleans())
    def take(self, amount: int, settled: bool) -> None:
        ready = self.window.room_at(amount, self.LIMIT, self.now)
        assert ready == self.brute.room_at(amount, self.LIMIT, self.now)
        if ready > self.now:
            return
        admitted = self.window.take(amount, self.now, settled=settled)
        self.brute.log.append((self.now, amount))
        if not settled:
            self.open.append((admitted, len(self.brute.log) - 1))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float) -> None:
        admitted, place = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        at, amount = self.brute.log[place]
        true = int(amount * share)
        self.window.settle(admitted, true, self.now)
        self.brute.log[place] = (at, true)

    @invariant()
    def what_is_used_is_what_the_log_sums_to(self) -> None:
        assert self.window.used(self.now) == self.brute.used(self.now)

    @invariant()
    def no_window_holds_more_than_the_limit(self) -> None:
        assert self.brute.most() <= self.LIMIT

    @invariant()
    def estimates_are_known(self) -> None:
        assert self.window.has_estimates == bool(self.open)


TestWindowed = Windowed.TestCase
TestWindowed.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_more_than_the_limit_never_fits() -> None:
    assert SlidingWindow(PERIOD).room_at(6, 5, 0.0) == math.inf


def test_an_admission_counts_a_margin_longer_than_the_period() -> None:
    window = SlidingWindow(PERIOD)
    window.take(5, 0.0, settled=True)

    assert window.used(PERIOD) == 5
    assert window.used(LENGTH) == 0


def test_a_settlement_after_the_window_has_passed_changes_nothing_of_the_next() -> None:
    window = SlidingWindow(PERIOD)
    old = window.take(5, 0.0, settled=False)
    window.take(3, 20.0, settled=True)

    window.settle(old, 1, 20.0)

    assert window.used(20.0) == 3


def test_a_call_that_used_more_than_was_reserved_counts_in_full() -> None:
    window = SlidingWindow(PERIOD)
    window.settle(window.take(2, 0.0, settled=False), 9, 1.0)

    assert window.used(1.0) == 9
    assert window.room_at(2, 10, 1.0) == LENGTH


def test_the_first_of_a_batch_goes_at_once() -> None:
    assert Pace(60.0).next_at(3.0) == 3.0


def test_admissions_are_as_far_apart_as_the_limit_asks_for() -> None:
    pace, times, now = Pace(60.0), [], 0.0
    for _ in range(5):
        now = pace.next_at(now)
        times.append(now)
        pace.took(1, 120, now)

    assert times == [0.0, 0.5, 1.0, 1.5, 2.0]


@given(late=st.lists(st.floats(0, 0.9), min_size=10, max_size=60))
def test_lateness_is_made_up_for(late: list[float]) -> None:
    pace, now = Pace(60.0), 0.0
    for delay in late:
        now = pace.next_at(now) + delay * 0.5
        pace.took(1, 120, now)

    # The first is late by itself; those after it keep to its beat.
    assert pace.next_at(0.0) == pytest.approx(late[0] * 0.5 + 0.5 * len(late))


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), max_size=60))
def test_the_pace_is_kept_on_average_but_for_what_it_makes_up(arrivals: list[tuple[float, int]]) -> None:
    """However late callers come, no more passes than the limit's rate and what a short pause had left over."""
    limit, period = 100, 10.0
    rate = limit / period
    pace, now, log = Pace(period), 0.0, []
    for pause, amount in arrivals:
        now = pace.next_at(now + pause)
        pace.took(amount, limit, now)
        log.append((now, amount))

    for first, (start, _) in enumerate(log):
        passed = 0
        for end, amount in log[first:]:
            assert passed <= rate * (end - start + CATCH_UP_S) + 1e-6
            passed += amount


def test_after_a_long_pause_the_pace_begins_anew() -> None:
    pace = Pace(60.0)
    pace.took(1, 60, 0.0)
    pace.took(1, 60, 100.0)

    assert pace.next_at(100.0) == 101.0


def test_what_is_given_back_brings_the_next_forward() -> None:
    pace = Pace(60.0)
    pace.took(100, 600, 0.0)
    pace.gave_back(90, 600, 0.0)

    assert pace.next_at(0.0) == pytest.approx(1.0)
