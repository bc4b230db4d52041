from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.policies.latency import KEPT, MIN_FOR_PERCENTILE, STALE_S, Latencies


def _measured(*seconds: float, every_s: float = 0.1) -> Latencies:
    latencies = Latencies()
    for at, each in enumerate(seconds):
        latencies.add(each, at * every_s)
    return latencies


def test_nothing_is_typical_before_the_first_measurement() -> None:
    assert Latencies().typical_s(0.0) is None


def test_there_is_no_baseline_before_the_first_measurement() -> None:
    assert Latencies().baseline_s is None


def test_the_first_latency_is_typical() -> None:
    assert _measured(0.4).typical_s(1.0) == pytest.approx(0.4)


def test_the_typical_latency_follows_a_change_within_twenty_answers() -> None:
    assert _measured(*[0.1] * 50, *[2.0] * 20).typical_s(8.0) == pytest.approx(2.0, rel=0.2)


def test_the_baseline_holds_where_the_typical_latency_has_long_changed() -> None:
    baseline = _measured(*[0.1] * 100, *[2.0] * 20).baseline_s

    assert baseline is not None
    assert baseline < 0.5


def test_one_straggler_does_not_make_an_entity_slow() -> None:
    typical = _measured(*[0.1] * 50, 10.0).typical_s(6.0)

    assert typical is not None
    assert typical < 0.25


def test_the_first_latency_does_not_rule_the_baseline() -> None:
    assert _measured(10.0, *[0.1] * 20).baseline_s == pytest.approx(0.1, rel=0.3)


def test_nothing_is_typical_any_more_after_a_pause() -> None:
    latencies = _measured(0.4)

    assert latencies.typical_s(STALE_S) is not None
    assert latencies.typical_s(STALE_S + 0.1) is None


def test_a_pause_leaves_the_baseline() -> None:
    latencies = _measured(0.4)
    latencies.add(0.4, 10 * STALE_S)

    assert latencies.baseline_s == pytest.approx(0.4)


def test_what_was_typical_before_a_pause_does_not_weigh_on_a_recovered_entity() -> None:
    latencies = _measured(*[30.0] * 50)
    latencies.add(0.1, 100.0)

    assert latencies.typical_s(100.0) == pytest.approx(0.1)


def test_latencies_of_nothing_can_be_measured() -> None:
    typical = _measured(0.0, -1.0).typical_s(1.0)

    assert typical is not None
    assert 0 < typical < 1e-5


def test_there_is_no_percentile_of_few_measurements() -> None:
    assert _measured(*[0.1] * (MIN_FOR_PERCENTILE - 1)).percentile_s(50) is None


@pytest.mark.parametrize(("percentile", "seconds"), [(50, 50.0), (95, 95.0), (99.9, 100.0), (100, 100.0), (0.1, 1.0)])
def test_a_percentile_is_the_nearest_rank(percentile: float, seconds: float) -> None:
    hundred = [float(number) for number in range(1, 101)]
    random.Random(1).shuffle(hundred)  # noqa: S311

    assert _measured(*hundred).percentile_s(percentile) == seconds


def test_percentiles_forget_all_but_the_latest() -> None:
    assert _measured(*[9.0] * 500, *[0.1] * KEPT).percentile_s(100) == 0.1


def test_a_percentile_knows_what_came_after_the_last_one() -> None:
    latencies = _measured(*[0.1] * 50)
    latencies.percentile_s(99)
    latencies.add(7.0, 6.0)

    assert latencies.percentile_s(100) == 7.0


def test_all_measurements_are_counted() -> None:
    assert _measured(*[0.1] * 300).count == 300


@given(st.lists(st.floats(0.001, 100), min_size=MIN_FOR_PERCENTILE, max_size=200), st.floats(0.001, 100))
def test_averages_and_percentiles_lie_between_the_extremes(seconds: list[float], percentile: float) -> None:
    latencies = _measured(*seconds)

    found = latencies.percentile_s(percentile)

    assert found in seconds[-KEPT:]
    for average in (latencies.typical_s(20.0), latencies.baseline_s):
        assert average is not None
        assert min(seconds) * (1 - 1e-9) <= average <= max(seconds) * (1 + 1e-9)


@given(st.floats(0.001, 100), st.integers(1, 100))
def test_a_steady_latency_is_both_typical_and_the_baseline(seconds: float, count: int) -> None:
    latencies = _measured(*[seconds] * count)

    assert math.isclose(latencies.typical_s(10.0) or 0, seconds, rel_tol=1e-9)
    assert math.isclose(latencies.baseline_s or 0, seconds, rel_tol=1e-9)
