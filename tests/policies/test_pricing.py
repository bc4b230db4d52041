"""What an answer costs by its counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.policies.pricing import cost, cost_of, tier_of
from fleming_sql.types import Price, ServedEntity, Snapshot, Usage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENTITY = ServedEntity("id", "chat", "one", "openai", "m", None, None, 100, 1, {}, {})
FULL = Price(2.0, 8.0, cached_input_per_million=0.5, cache_write_per_million=2.5)


def at(price: Price | tuple[Price, ...], usage: Usage, when: datetime = NOON) -> float | None:
    prices = price if isinstance(price, tuple) else (price,)
    return cost_of(Snapshot(prices={("chat", "one"): prices}), ENTITY, usage, 1.0, when)


def test_input_and_output_have_their_prices() -> None:
    assert cost(FULL, Usage(1000, 100), 0) == pytest.approx(0.0028)


def test_cached_and_newly_cached_input_have_prices_of_their_own() -> None:
    usage = Usage(1000, 0, cached_input_tokens=600, cache_write_tokens=300)

    assert cost(FULL, usage, 0) == pytest.approx((100 * 2 + 600 * 0.5 + 300 * 2.5) / 1e6)


def test_cached_input_without_a_price_of_its_own_costs_what_input_costs() -> None:
    assert cost(Price(2.0, 8.0), Usage(1000, 0, 600, None, 300), 0) == pytest.approx(0.002)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_reasoning_is_part_of_the_output_and_costs_nothing_more(outputs: int, reasoning: int) -> None:
    assert cost(FULL, Usage(5, outputs, reasoning_tokens=min(reasoning, outputs)), 0) == cost(
        FULL, Usage(5, outputs), 0
    )


def test_a_price_of_time_and_calls_counts_no_tokens() -> None:
    assert cost(Price(0, 0, per_second=0.01, per_call=0.5), Usage(1000, 1000), 20) == pytest.approx(0.7)


def test_without_an_input_price_no_cost_is_known() -> None:
    assert cost(Price(None, 8.0), Usage(1, 1), 0) is None


def test_output_without_a_price_leaves_the_cost_unknown() -> None:
    assert cost(Price(2.0, None), Usage(1, 1), 0) is None


def test_a_model_that_answers_with_no_tokens_needs_no_price_of_output() -> None:
    assert cost(Price(2.0, None), Usage(1_000_000), 0) == 2.0


def test_parts_that_are_more_than_the_whole_are_no_counts_to_charge_by() -> None:
    assert cost(FULL, Usage(10, 0, cached_input_tokens=6, cache_write_tokens=5), 0) is None


@pytest.mark.parametrize("tier", [None, "default", "auto", "standard", "on_demand", "Standard"])
def test_the_normal_tier_has_many_names(tier: str | None) -> None:
    assert tier_of(tier) == "default"


def test_an_entity_without_a_price_has_no_cost() -> None:
    assert cost_of(Snapshot(), ENTITY, Usage(1, 1), 1.0, NOON) is None


def test_a_tier_without_a_price_has_no_cost() -> None:
    assert at(FULL, Usage(1, 1, service_tier="flex")) is None


def test_a_price_without_a_tier_holds_for_all() -> None:
    assert at(Price(0, 0, service_tier=None, per_call=1), Usage(1, 1, service_tier="flex")) == 1


@pytest.mark.parametrize(("tokens", "dollars"), [(999, 999e-6), (1000, 3000e-6)])
def test_the_length_of_the_input_decides_the_price_of_all_of_it(tokens: int, dollars: float) -> None:
    prices = (Price(1.0, 1.0, to_input_tokens=1000), Price(3.0, 1.0, from_input_tokens=1000))

    assert at(prices, Usage(tokens, 0)) == pytest.approx(dollars)


@pytest.mark.parametrize(("seconds", "dollars"), [(-1, 1.0), (0, 2.0)])
def test_a_price_ends_where_the_next_begins(seconds: int, dollars: float) -> None:
    prices = (Price(1.0, 1.0, valid_to=NOON), Price(2.0, 1.0, valid_from=NOON))

    assert at(prices, Usage(1_000_000, 0), NOON + timedelta(seconds=seconds)) == dollars
