"""The limit against simulated providers, in virtual time: a client that always has another row to send."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.policies.concurrency import AdaptiveLimit, Outcome, Ticket

_BOUNDLESS = 10**9
_AT_ONCE = 0.001


@dataclass
class _Provider:
    """Serves `capacity` requests at once and refuses the others; all settings are functions of virtual time."""

    capacity: Callable[[float], int]
    latency: Callable[[float], float] = lambda now: 0.1
    """Median seconds of an answer."""
    sigma: float = 0.0
    """Of the lognormal distribution of latencies; 0 is constant."""
    refusal: float | None = _AT_ONCE
    """Seconds that a refusal takes; None is as long as an answer."""
    faults: Callable[[float], float] = lambda now: 0.0
    """Share of requests refused at random."""
    network: float = 0.0
    """Mean seconds from the client to the provider, and back."""


@dataclass
class _Run:
    """A client that never lacks rows to send: those that were refused pause, and others take the place at once."""

    limit: AdaptiveLimit
    provider: _Provider
    seed: int = 1
    now: float = 0.0
    sent: int = 0
    outcomes: list[tuple[float, Outcome]] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - a simulation
        self._events: list[tuple[float, int, Literal["arrives", "served", "ends"], Ticket, Outcome]] = []
        self._number = self._busy = 0

    def until(self, end: float, requests: int = 400_000) -> _Run:
        self._send()
        while self._events and self._events[0][0] <= end and self.sent < requests:
            self.now, _, kind, ticket, outcome = heapq.heappop(self._events)
            if kind == "arrives":
                self._arrives(ticket)
            elif kind == "served":
                self._busy -= 1
                self._at(self._trip(), "ends", ticket, outcome)
            else:
                self.limit.ended(ticket, outcome, self.now)
                self.outcomes.append((self.now, outcome))
                self.limits.append((self.now, self.limit.limit))
                self._send()
        return self

    def _send(self) -> None:
        while self.limit.in_flight < self.limit.limit:
            self.sent += 1
            self._at(self._trip(), "arrives", self.limit.sent(self.now), "answered")

    def _arrives(self, ticket: Ticket) -> None:
        provider = self.provider
        full = self._busy >= provider.capacity(self.now)
        if full or self._random.random() < provider.faults(self.now):
            delay = self._latency() if provider.refusal is None else provider.refusal
            self._at(delay, "ends", ticket, "refused")
        else:
            self._busy += 1
            self._at(self._latency(), "served", ticket, "answered")

    def _latency(self) -> float:
        return self.provider.latency(self.now) * math.exp(self._random.gauss(0, self.provider.sigma))

    def _trip(self) -> float:
        return self.provider.network * self._random.uniform(0.5, 1.5)

    def _at(self, delay: float, kind: Literal["arrives", "served", "ends"], ticket: Ticket, outcome: Outcome) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + delay, self._number, kind, ticket, outcome))

    def goodput(self, since: float, until: float) -> float:
        return sum(outcome == "answered" for at, outcome in self.outcomes if since <= at < until) / (until - since)

    def refused_share(self, since: float) -> float:
        late = [outcome == "refused" for at, outcome in self.outcomes if at >= since]
        return sum(late) / len(late)

    def mean_limit(self) -> float:
        return sum(limit for _, limit in self.limits) / len(self.limits)

    def first(self, since: float, fits: Callable[[int], bool]) -> float:
        """Return the seconds after `since` until the limit fits, infinity if it never does."""
        return next((at - since for at, limit in self.limits if at >= since and fits(limit)), math.inf)

    def halvings(self) -> int:
        limits = [limit for _, limit in self.limits]
        return sum(after <= before // 2 for before, after in pairwise(limits))


def _always(value: int) -> Callable[[float], int]:
    return lambda now: value


# --- a provider that serves C at once and refuses the others ---


@pytest.mark.parametrize("ceiling", [32, 128, 512])
@pytest.mark.parametrize("capacity", [1, 2, 8, 16, 32, 100])
@pytest.mark.parametrize("refusal", [_AT_ONCE, None], ids=["refused at once", "refused as slowly as answered"])
@pytest.mark.parametrize("sigma", [0.0, 0.6], ids=["constant", "lognormal"])
@pytest.mark.parametrize("median", [0.01, 1.0])
def test_a_batch_gets_what_the_provider_can_serve_and_few_refusals(
    median: float, sigma: float, refusal: float | None, capacity: int, ceiling: int
) -> None:
    warm = max(2.0, 5 * median) if median > 0.1 else 50 * median
    end = warm + (1000 if capacity < 8 else 100) * median
    provider = _Provider(_always(capacity), lambda now: median, sigma, refusal)
    run = _Run(AdaptiveLimit(ceiling), provider).until(end)
    known = min(capacity, ceiling) / (median * math.exp(sigma**2 / 2))

    assert run.goodput(warm, end) >= 0.92 * known
    assert run.refused_share(warm) <= 0.04


@pytest.mark.parametrize("network", [0.005, 0.02])
def test_a_capacity_blurred_by_the_network_is_found_too(network: float) -> None:
    provider = _Provider(_always(32), sigma=0.6, network=network)
    run = _Run(AdaptiveLimit(128), provider).until(22)

    assert run.goodput(2, 22) >= 0.95 * 32 / (0.1 * math.exp(0.18) + 2 * network)
    assert run.refused_share(2) < 0.05


@pytest.mark.parametrize("refusal", [_AT_ONCE, None])
@pytest.mark.parametrize("sigma", [0.0, 0.6])
@pytest.mark.parametrize(("before", "after"), [(32, 8), (128, 32), (8, 32), (32, 128)])
def test_a_capacity_that_changes_is_found_within_20_rounds(
    before: int, after: int, sigma: float, refusal: float | None
) -> None:
    provider = _Provider(lambda now: before if now < 10 else after, sigma=sigma, refusal=refusal)
    run = _Run(AdaptiveLimit(256), provider).until(20)

    assert run.first(10, lambda limit: 0.9 * after <= limit <= 1.1 * after) <= 2.0
    assert run.goodput(14, 20) >= 0.9 * after / (0.1 * math.exp(sigma**2 / 2))
    assert run.refused_share(14) < 0.05


def test_one_place_becomes_four_within_ninety_answers() -> None:
    run = _Run(AdaptiveLimit(32), _Provider(lambda now: 1 if now < 10 else 4)).until(20)

    assert run.first(10, lambda limit: limit >= 4) <= 9.0


# --- refusals that are not due to the load ---


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("refusal", [_AT_ONCE, None])
@pytest.mark.parametrize("sigma", [0.0, 0.6])
def test_refusals_at_random_do_not_make_the_limit_collapse(sigma: float, refusal: float | None, share: float) -> None:
    provider = _Provider(_always(_BOUNDLESS), sigma=sigma, refusal=refusal, faults=lambda now: share)
    run = _Run(AdaptiveLimit(128), provider).until(math.inf, requests=10_000)

    assert run.mean_limit() >= 0.9 * 128


def test_a_capacity_is_respected_again_when_refusals_at_random_have_ended() -> None:
    provider = _Provider(
        lambda now: _BOUNDLESS if now < 10 else 32, sigma=0.6, faults=lambda now: 0.1 if now < 10 else 0.0
    )
    run = _Run(AdaptiveLimit(128), provider).until(30)

    assert run.refused_share(15) < 0.05
    assert run.goodput(15, 30) >= 0.9 * 32 / (0.1 * math.exp(0.18))


@pytest.mark.parametrize("refusal", [_AT_ONCE, None])
def test_refusals_at_random_beside_a_capacity_leave_more_than_half_of_it(refusal: float | None) -> None:
    provider = _Provider(_always(32), sigma=0.6, refusal=refusal, faults=lambda now: 0.1)
    run = _Run(AdaptiveLimit(128), provider).until(42)

    assert run.goodput(2, 42) >= 0.6 * 32 / (0.1 * math.exp(0.18))


@pytest.mark.parametrize("capacity", [32, _BOUNDLESS])
@pytest.mark.parametrize("refusal", [0.05, None])
@pytest.mark.parametrize("sigma", [0.0, 0.6])
def test_a_quota_used_up_takes_the_limit_to_one_and_it_comes_back_within_ten_rounds(
    sigma: float, refusal: float | None, capacity: int
) -> None:
    provider = _Provider(lambda now: 0 if 20 <= now < 40 else capacity, sigma=sigma, refusal=refusal)
    run = _Run(AdaptiveLimit(128), provider).until(45)

    assert run.first(20, lambda limit: limit == 1) <= 1.0
    assert run.first(40, lambda limit: limit >= 0.95 * min(capacity, 128)) <= 1.0


def test_a_failure_that_says_nothing_about_the_load_changes_nothing() -> None:
    limit = AdaptiveLimit(4)
    for _ in range(100):
        limit.ended(limit.sent(0.0), "other", 1.0)

    assert limit.limit == 4


# --- a server that queues ---


@pytest.mark.parametrize("ceiling", [2, 16, 128])
@pytest.mark.parametrize("sigma", [0.6, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_heavy_tails_are_no_collapse(seed: int, sigma: float, ceiling: int) -> None:
    run = _Run(AdaptiveLimit(ceiling), _Provider(_always(_BOUNDLESS), sigma=sigma), seed).until(math.inf, 20_000)

    assert min(limit for _, limit in run.limits) == ceiling


@pytest.mark.parametrize("times", [20, 100])
@pytest.mark.parametrize("sigma", [0.0, 0.6])
def test_answers_that_become_longer_for_good_cost_one_or_two_halvings_and_the_limit_grows_back(
    sigma: float, times: int
) -> None:
    provider = _Provider(_always(_BOUNDLESS), lambda now: 0.1 if now < 10 else 0.1 * times, sigma)
    run = _Run(AdaptiveLimit(128), provider).until(10 + 10 * 0.1 * times)

    assert 1 <= run.halvings() <= 2
    assert run.limit.limit == 128


def test_a_collapse_halves_once_per_round() -> None:
    limit = AdaptiveLimit(64)
    for at in range(200):
        limit.ended(limit.sent(at), "answered", at + 0.1)
    old = [limit.sent(200.0) for _ in range(64)]
    for ticket in old:
        limit.ended(ticket, "answered", 300.0)

    assert limit.limit == 32


# --- bounds ---


def test_it_starts_at_the_ceiling() -> None:
    assert AdaptiveLimit(128).limit == 128


def test_an_unspoiled_limit_follows_a_raised_ceiling() -> None:
    limit = AdaptiveLimit(8)
    limit.ceiling = 32

    assert limit.limit == 32


def test_a_limit_that_was_refused_more_does_not_follow_a_raised_ceiling() -> None:
    limit = AdaptiveLimit(8)
    tickets = [limit.sent(0.0) for _ in range(8)]
    limit.ended(tickets[7], "refused", 0.1)
    limit.ceiling = 32

    assert limit.limit == 7


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    limit = AdaptiveLimit(8)
    tickets = [limit.sent(0.0) for _ in range(8)]
    for number, ticket in enumerate(reversed(tickets)):
        limit.ended(ticket, "refused" if number < 2 else "answered", 0.1)
    for at in range(1, 1000):
        limit.ended(limit.sent(at), "answered", at + 0.1)

    assert limit.limit == 6


_STEPS = st.one_of(
    st.just("sent"),
    st.tuples(st.sampled_from(["answered", "refused", "other"]), st.integers(0, 1000)),
    st.integers(-3, 40),
)


@given(st.integers(1, 40), st.lists(st.tuples(_STEPS, st.floats(0, 100)), max_size=300))
def test_any_sequence_keeps_the_limit_in_its_bounds_and_counts_what_is_in_flight(
    ceiling: int, steps: list[tuple[str | tuple[Outcome, int] | int, float]]
) -> None:
    limit, now = AdaptiveLimit(ceiling), 0.0
    tickets: list[Ticket] = []
    for step, seconds in steps:
        now += seconds
        if isinstance(step, int):
            limit.ceiling = step
        elif isinstance(step, tuple):
            if tickets:
                limit.ended(tickets.pop(step[1] % len(tickets)), step[0], now)
        else:
            tickets.append(limit.sent(now))

        assert 1 <= limit.limit <= limit.ceiling
        assert limit.in_flight == len(tickets)
