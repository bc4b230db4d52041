from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from fleming_sql.policies.breaker import RECENT, Breaker, BreakerSettings, Outcome

_OUTCOMES: tuple[Outcome, ...] = ("answered", "failed", "refused")
_SETTINGS = BreakerSettings(failure_share=0.5, min_calls=4, window_s=10.0, open_s=5.0)


def _fed(outcomes: Iterable[Outcome], settings: BreakerSettings = _SETTINGS) -> Breaker:
    breaker = Breaker(settings)
    for outcome in outcomes:
        breaker.record(outcome, 0.0)
    return breaker


def _opened() -> Breaker:
    """Open since 0; half open from 5."""
    return _fed(["failed"] * 4)


def _times(outcome: Outcome, count: int) -> list[Outcome]:
    return [outcome] * count


def test_a_new_breaker_lets_requests_through() -> None:
    assert Breaker().claim(0.0)


def test_it_opens_when_the_share_of_failures_is_reached() -> None:
    assert _fed(["answered", "answered", "failed", "failed"]).state(0.0) == "open"


def test_it_stays_closed_under_the_share() -> None:
    assert _fed(["answered", "answered", "answered", "failed"]).state(0.0) == "closed"


def test_it_stays_closed_under_the_least_number_of_calls() -> None:
    assert _fed(["failed"] * 3).state(0.0) == "closed"


def test_refusals_do_not_open_it() -> None:
    assert _fed(_times("refused", 100)).state(0.0) == "closed"


def test_an_entity_that_has_answered_thousands_is_left_out_as_soon_as_another() -> None:
    assert _fed([*_times("answered", 5000), *_times("failed", 10)]).state(0.0) == "open"


def test_refusals_do_not_dilute_the_failures() -> None:
    assert _fed(["answered", *_times("refused", 100), *_times("failed", 3)]).state(0.0) == "open"


def test_refusals_do_not_make_up_the_least_number_of_calls() -> None:
    assert _fed(["answered", *_times("refused", 100), "failed", "failed"]).state(0.0) == "closed"


def test_a_share_of_one_opens_where_all_fail() -> None:
    assert _fed(["failed"] * 4, replace(_SETTINGS, failure_share=1.0)).state(0.0) == "open"


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker = _fed(["failed"] * 3)
    breaker.record("failed", 10.0)

    assert breaker.state(10.0) == "closed"


def test_failures_within_the_window_are_remembered() -> None:
    breaker = _fed(["failed"] * 3)
    breaker.record("failed", 9.9)

    assert breaker.state(9.9) == "open"


def test_an_open_breaker_lets_nothing_through() -> None:
    assert not _opened().claim(4.9)


def test_an_open_breaker_says_since_when_and_until_when() -> None:
    breaker = _opened()

    assert (breaker.opened_at, breaker.opens_until) == (0.0, 5.0)


def test_a_closed_breaker_has_no_times() -> None:
    breaker = Breaker()

    assert (breaker.opened_at, breaker.opens_until) == (None, None)


def test_it_is_half_open_after_its_time() -> None:
    assert _opened().state(5.0) == "half_open"


def test_half_open_it_lets_one_probe_through() -> None:
    breaker = _opened()

    assert [breaker.claim(5.0), breaker.claim(5.0), breaker.claim(9.9)] == [True, False, False]


def test_asking_takes_no_place() -> None:
    breaker = _opened()

    assert [breaker.allows(5.0), breaker.allows(5.0), breaker.claim(5.0), breaker.allows(5.0)] == [
        True,
        True,
        True,
        False,
    ]


def test_an_answered_probe_closes_it() -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.record("answered", 5.5, claimed=True)

    assert breaker.state(5.5) == "closed"


def test_an_answered_probe_forgets_the_failures_before() -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.record("answered", 5.5, claimed=True)
    breaker.record("failed", 5.6)

    assert (breaker.calls(5.6), breaker.state(5.6)) == (1, "closed")


@pytest.mark.parametrize("outcome", ["failed", "refused"])
def test_a_probe_without_an_answer_opens_it_again(outcome: Outcome) -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.record(outcome, 6.0, claimed=True)

    assert [breaker.state(6.0), breaker.state(10.9), breaker.state(11.0)] == ["open", "open", "half_open"]


def test_there_is_a_place_for_another_probe_after_one_that_failed() -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.record("failed", 6.0, claimed=True)

    assert breaker.claim(11.0)


def test_a_probe_that_never_went_out_gives_its_place_back() -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.release(5.1)

    assert (breaker.state(5.1), breaker.claim(5.1)) == ("half_open", True)


def test_a_probe_that_hangs_is_joined_by_another() -> None:
    breaker = _opened()
    breaker.claim(5.0)

    assert [breaker.claim(9.9), breaker.claim(10.0), breaker.claim(10.1)] == [False, True, False]


def test_a_probe_gets_a_second_even_where_the_breaker_opens_for_less() -> None:
    breaker = _fed(["failed"] * 4, replace(_SETTINGS, open_s=0.1))
    breaker.claim(0.2)

    assert [breaker.claim(1.1), breaker.claim(1.2)] == [False, True]


def test_a_probe_that_answers_late_closes_it_all_the_same() -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.claim(10.0)
    breaker.record("answered", 10.5, claimed=True)

    assert breaker.state(10.5) == "closed"


def test_a_late_probe_does_not_prolong_the_time_after_a_newer_one_failed() -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.claim(10.0)
    breaker.record("failed", 10.5, claimed=True)
    breaker.record("failed", 12.0, claimed=True)

    assert breaker.opens_until == 15.5


def test_a_late_release_does_not_free_the_place_of_a_newer_probe() -> None:
    breaker = _opened()
    breaker.claim(5.0)
    breaker.claim(10.0)
    breaker.release(10.1)

    assert not breaker.claim(10.2)


@pytest.mark.parametrize("outcome", _OUTCOMES)
@pytest.mark.parametrize("now", [1.0, 6.0], ids=["open", "half open"])
def test_a_request_sent_before_it_opened_changes_nothing(outcome: Outcome, now: float) -> None:
    breaker = _opened()
    breaker.record(outcome, now)

    assert (breaker.opened_at, breaker.calls(now)) == (0.0, 4)


def test_a_claim_of_a_closed_breaker_makes_no_probe() -> None:
    breaker = Breaker(_SETTINGS)
    breaker.claim(0.0)
    for _ in range(4):
        breaker.record("failed", 0.0)
    breaker.record("answered", 1.0, claimed=True)

    assert breaker.state(1.0) == "open"


def test_settings_may_change_while_it_is_open() -> None:
    breaker = _opened()
    breaker.settings = replace(_SETTINGS, open_s=1.0)

    assert breaker.state(1.0) == "half_open"


def test_a_new_length_of_the_window_starts_it_empty() -> None:
    breaker = _fed(["failed"] * 3)
    breaker.settings = replace(_SETTINGS, window_s=2.0)

    assert breaker.calls(0.0) == 0


def test_other_new_settings_leave_the_window() -> None:
    breaker = _fed(["failed"] * 3)
    breaker.settings = replace(_SETTINGS, failure_share=0.9)

    assert breaker.calls(0.0) == 3


def test_the_share_leaves_refusals_out() -> None:
    breaker = _fed(["answered", "answered", "answered", "failed", "refused", "refused"])

    assert (breaker.failure_share(0.0), breaker.calls(0.0)) == (0.25, 4)


def test_the_share_of_nothing_is_zero() -> None:
    assert Breaker().failure_share(0.0) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(_OUTCOMES)), max_size=60),
    st.floats(0.2, 20),
    st.floats(-1000, 1000),
)
def test_the_window_holds_what_is_younger_than_its_length(
    steps: list[tuple[float, Outcome]], window_s: float, start: float
) -> None:
    breaker = Breaker(BreakerSettings(min_calls=1_000, window_s=window_s))
    now, times = start, []
    for pause, outcome in steps:
        now += pause
        breaker.record(outcome, now)
        if outcome != "refused":
            times.append(now)

        assert breaker.calls(now) == sum(time > now - window_s for time in times)


@given(st.lists(st.sampled_from(_OUTCOMES), max_size=60), st.integers(1, 30), st.floats(0.05, 1))
def test_it_opens_exactly_by_the_rule(outcomes: list[Outcome], min_calls: int, share: float) -> None:
    breaker = Breaker(BreakerSettings(failure_share=share, min_calls=min_calls))

    for count in range(1, len(outcomes) + 1):
        breaker.record(outcomes[count - 1], 0.0)
        decided = [outcome for outcome in outcomes[:count] if outcome != "refused"][-RECENT * min_calls :]
        is_failing = len(decided) >= min_calls and decided.count("failed") >= share * len(decided)
        is_failing = is_failing and outcomes[count - 1] == "failed"  # an answer does not open it
        assert (breaker.state(0.0) == "open") == is_failing
        if is_failing:
            break


class _Life(RuleBasedStateMachine):
    """Any order of requests, probes, ends and pauses."""

    probes: Bundle[float] = Bundle("probes")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(_SETTINGS)
        self.under_way: list[float] = []
        self.recorded_since_closed = 0

    @rule(pause=st.sampled_from([0.0, 0.125, 1.0, 4.875, 5.0, 12.0]))
    def pass_time(self, pause: float) -> None:
        self.now += pause

    @rule(outcome=st.sampled_from(_OUTCOMES))
    def end_of_a_request(self, outcome: Outcome) -> None:
        before = self.breaker.state(self.now)
        self.breaker.record(outcome, self.now)
        self.recorded_since_closed += before == "closed"

        if before != "closed":
            assert self.breaker.state(self.now) == before
        elif self.breaker.state(self.now) == "open":
            assert self.recorded_since_closed >= _SETTINGS.min_calls

    @precondition(lambda self: self.breaker.state(self.now) == "half_open")
    @rule(target=probes)
    def probe(self) -> float:
        allowed = self.breaker.allows(self.now)
        if self.breaker.claim(self.now):
            assert allowed
            self.under_way.append(self.now)
            return self.now
        assert not allowed
        return -1.0

    @rule(sent=consumes(probes), outcome=st.sampled_from(_OUTCOMES))
    def end_of_a_probe(self, sent: float, outcome: Outcome) -> None:
        if sent < 0:
            return
        self.under_way.remove(sent)
        before = self.breaker.state(self.now)
        self.breaker.record(outcome, self.now, claimed=True)
        after = self.breaker.state(self.now)

        if before == "closed":
            self.recorded_since_closed += 1
        elif outcome == "answered":
            assert after == "closed"
            self.recorded_since_closed = 0
        else:
            assert after == "open"

    @rule(sent=consumes(probes))
    def cancel_a_probe(self, sent: float) -> None:
        if sent < 0:
            return
        self.under_way.remove(sent)
        before = self.breaker.state(self.now)
        self.breaker.release(self.now)

        assert self.breaker.state(self.now) == before

    @invariant()
    def no_two_probes_wait_at_once(self) -> None:
        if self.breaker.state(self.now) == "half_open":
            assert sum(self.now - sent < _SETTINGS.open_s for sent in self.under_way) <= 1

    @invariant()
    def an_open_breaker_ends_by_itself(self) -> None:
        until = self.breaker.opens_until
        assert until is None or until <= self.now + _SETTINGS.open_s

    @invariant()
    def half_open_it_lets_somebody_through_in_the_end(self) -> None:
        assert self.breaker.state(self.now) == "open" or self.breaker.allows(self.now + _SETTINGS.open_s)


_Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = _Life.TestCase
