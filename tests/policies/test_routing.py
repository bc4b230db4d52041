from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.policies.routing import first
from fleming_sql.types import Routing, ServedEntity

_DRAWS = 100_000
_KEYS = [f"user-{number}@example.com" for number in range(40_000)]
_ROUTINGS: tuple[Routing, ...] = get_args(Routing)


@dataclass
class _Known:
    """A situation of which everything is known beforehand, and that notes what it was asked for."""

    chance: float = 0.0
    key: str = "ada"
    latencies: dict[str, float | None] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)

    def latency_s(self, entity: ServedEntity) -> float | None:
        return self.latencies.get(entity.name)

    def cost_usd(self, entity: ServedEntity) -> float | None:
        return self.costs.get(entity.name)


class _Unasked:
    """A situation that nobody may ask."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"was asked for {name}")


def _entity(name: str, traffic: float, position: int = 1, id: str = "") -> ServedEntity:
    return ServedEntity(id or name, "chat", name, "openai", "m", None, None, traffic, position, {}, {})


def _entities(**traffic: float) -> list[ServedEntity]:
    return [_entity(name, share, position) for position, (name, share) in enumerate(traffic.items(), start=1)]


def _shares(routing: Routing, entities: Sequence[ServedEntity], situation: _Known) -> Counter[str]:
    generator = random.Random(20)  # noqa: S311
    chosen: Counter[str] = Counter()
    for _ in range(_DRAWS):
        situation.chance = generator.random()
        chosen[first(routing, entities, situation).name] += 1
    return chosen


def _stuck(entities: Sequence[ServedEntity]) -> dict[str, str]:
    return {key: first("sticky", entities, _Known(key=key)).name for key in _KEYS}


def _assert_near(count: int, share: float, draws: int) -> None:
    """Within five standard deviations of a binomial: a right split fails once in two million runs."""
    assert abs(count - share * draws) < 5 * math.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize("routing", _ROUTINGS)
def test_the_only_entity_is_first_without_a_question(routing: Routing) -> None:
    only = _entity("a", 0)

    assert first(routing, [only], _Unasked()) is only  # type: ignore[arg-type]


@pytest.mark.parametrize("routing", _ROUTINGS)
def test_the_only_entity_with_traffic_is_first_without_a_question(routing: Routing) -> None:
    entities = _entities(spare=0, a=10, other=0)

    assert first(routing, entities, _Unasked()).name == "a"  # type: ignore[arg-type]


@pytest.mark.parametrize("routing", _ROUTINGS)
def test_the_first_by_position_stands_in_where_none_has_traffic(routing: Routing) -> None:
    assert first(routing, _entities(a=0, b=0), _Known()).name == "a"


@given(
    routing=st.sampled_from(_ROUTINGS),
    traffic=st.lists(st.sampled_from([0.0, 0.5, 20.0, 100.0]), min_size=1, max_size=6).filter(any),
    chance=st.floats(0, 1, exclude_max=True),
    key=st.text(),
    data=st.data(),
)
def test_an_entity_without_traffic_is_never_first_while_another_has_some(
    routing: Routing, traffic: list[float], chance: float, key: str, data: st.DataObject
) -> None:
    figures = st.none() | st.floats(0.001, 10)
    entities = [_entity(f"e{at}", share, position=at) for at, share in enumerate(traffic)]
    latencies = {entity.name: data.draw(figures) for entity in entities}
    costs = {entity.name: data.draw(figures) for entity in entities}

    assert first(routing, entities, _Known(chance, key, latencies, costs)).traffic_percentage > 0


def test_the_split_is_that_of_the_percentages() -> None:
    chosen = _shares("weighted", _entities(a=70, b=25, c=5, spare=0), _Known())

    expected = {"a": 0.7, "b": 0.25, "c": 0.05}
    squares = sum((chosen[name] - share * _DRAWS) ** 2 / (share * _DRAWS) for name, share in expected.items())
    assert squares < 27.6  # chi-square with two degrees of freedom, one in a million
    assert chosen["spare"] == 0


def test_the_rest_shares_by_weight_where_one_is_left_out() -> None:
    chosen = _shares("weighted", _entities(b=30, c=10), _Known())

    _assert_near(chosen["b"], 0.75, _DRAWS)


def test_rounding_leaves_nobody_without_an_entity_at_the_end_of_the_range() -> None:
    last = _Known(chance=math.nextafter(1, 0))

    assert first("weighted", _entities(a=0.1, b=33.4, c=33.4), last).name == "c"


def test_a_key_stays_on_its_entity_whatever_the_chance() -> None:
    entities = _entities(a=50, b=50)

    assert len({first("sticky", entities, _Known(chance=chance)).name for chance in (0.0, 0.3, 0.6, 0.99)}) == 1


def test_a_key_stays_when_the_row_gets_another_id() -> None:
    before = _stuck(_entities(a=50, b=50))

    assert _stuck([_entity("a", 50, 1, id="new"), _entity("b", 50, 2, id="newer")]) == before


def test_keys_stay_when_the_positions_change() -> None:
    assert _stuck([_entity("b", 50), _entity("a", 50)]) == _stuck(_entities(a=50, b=50))


def test_keys_are_split_by_weight() -> None:
    chosen = Counter(_stuck(_entities(a=70, b=25, c=5)).values())

    for name, share in {"a": 0.7, "b": 0.25, "c": 0.05}.items():
        _assert_near(chosen[name], share, len(_KEYS))


def test_a_greater_weight_moves_its_share_of_the_keys_and_only_to_the_entity_that_grew() -> None:
    before, after = _stuck(_entities(a=50, b=30, c=20)), _stuck(_entities(a=80, b=30, c=20))

    moved = [key for key in _KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {"a"}
    _assert_near(len(moved), 80 / 130 - 50 / 100, len(_KEYS))


def test_an_entity_left_out_moves_its_own_keys_only() -> None:
    before, after = _stuck(_entities(a=50, b=30, c=20)), _stuck(_entities(a=50, c=20))

    assert {before[key] for key in _KEYS if before[key] != after[key]} == {"b"}


def test_the_keys_of_an_entity_left_out_are_shared_by_weight() -> None:
    before, after = _stuck(_entities(a=50, b=30, c=20)), _stuck(_entities(a=50, c=20))

    homeless = [key for key in _KEYS if before[key] == "b"]
    _assert_near(sum(after[key] == "a" for key in homeless), 5 / 7, len(homeless))


def test_keys_of_one_entity_pair_tell_nothing_of_another() -> None:
    chat, other = _stuck(_entities(a=50, b=50)), _stuck(_entities(c=50, d=50))

    _assert_near(sum(chat[key] == "a" and other[key] == "c" for key in _KEYS), 0.25, len(_KEYS))


def test_a_name_and_a_key_do_not_run_into_each_other() -> None:
    entities = [_entity("a", 50), _entity("ab", 50)]
    keys = [f"b{number}" for number in range(2_000)]

    # Were they joined as they are, "a" + "bX" and "ab" + "X" would score the same for all of them.
    same = sum(
        first("sticky", entities, _Known(key=key)).name == first("sticky", entities, _Known(key=key[1:])).name
        for key in keys
    )
    _assert_near(same, 0.5, len(keys))


@pytest.mark.parametrize("key", ["", "\ud800", "ü" * 1_000, "\0"])
def test_any_text_sticks(key: str) -> None:
    assert first("sticky", _entities(a=50, b=50), _Known(key=key)).name in ("a", "b")


def test_the_place_of_a_key_is_the_same_on_every_machine() -> None:
    names = [first("sticky", _entities(a=50, b=50), _Known(key=key)).name for key in ("ada", "bob", "cy", "dee")]

    assert names == ["b", "b", "b", "a"]


def test_the_lowest_position_is_first() -> None:
    entities = [_entity("a", 1, position=1), _entity("b", 99, position=2)]

    assert _shares("priority", entities, _Known()) == {"a": _DRAWS}


def test_an_entity_without_traffic_does_not_hold_the_lowest_position() -> None:
    entities = [_entity("spare", 0, 1), _entity("b", 10, 2), _entity("c", 90, 3)]

    assert first("priority", entities, _Known()).name == "b"


def test_equal_positions_share_by_weight() -> None:
    entities = [_entity("a", 75, 1), _entity("b", 25, 1), _entity("c", 100, 2)]

    chosen = _shares("priority", entities, _Known())

    _assert_near(chosen["a"], 0.75, _DRAWS)
    assert chosen["c"] == 0


def test_the_fastest_is_first() -> None:
    situation = _Known(latencies={"a": 0.9, "b": 0.2, "c": 0.4})

    assert first("least_latency", _entities(a=90, b=1, c=9), situation).name == "b"


def test_one_that_was_not_measured_goes_before_the_fastest() -> None:
    situation = _Known(latencies={"a": 0.9, "b": 0.2, "c": None})

    assert first("least_latency", _entities(a=90, b=1, c=9), situation).name == "c"


def test_chance_picks_among_those_that_were_not_measured() -> None:
    chosen = _shares("least_latency", _entities(a=90, b=1, c=9), _Known(latencies={"a": 0.01}))

    _assert_near(chosen["b"], 0.5, _DRAWS)
    assert chosen["a"] == 0


def test_the_cheapest_is_first() -> None:
    situation = _Known(costs={"a": 0.0003, "b": 0.0001, "c": 0.0002})

    assert first("least_cost", _entities(a=90, b=1, c=9), situation).name == "b"


def test_an_unknown_price_is_last() -> None:
    situation = _Known(costs={"a": None, "b": 5.0})

    assert first("least_cost", _entities(a=99, b=1), situation).name == "b"


def test_a_price_of_nothing_is_a_price() -> None:
    situation = _Known(costs={"a": 0.1, "b": 0.0})

    assert first("least_cost", _entities(a=99, b=1), situation).name == "b"


def test_equal_costs_share_by_weight() -> None:
    costs: dict[str, float | None] = {"a": 0.1 + 0.2, "b": 0.3, "c": 0.4}

    chosen = _shares("least_cost", _entities(a=75, b=25, c=100), _Known(costs=costs))

    _assert_near(chosen["a"], 0.75, _DRAWS)
    assert chosen["c"] == 0


def test_no_price_at_all_shares_by_weight() -> None:
    _assert_near(_shares("least_cost", _entities(a=75, b=25), _Known())["a"], 0.75, _DRAWS)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=10), st.text(), st.floats(1.01, 10), st.data())
def test_growing_never_takes_a_key_away_from_the_one_that_grows(
    traffic: list[float], key: str, factor: float, data: st.DataObject
) -> None:
    entities = [_entity(f"e{at}", share) for at, share in enumerate(traffic)]
    grown = data.draw(st.integers(0, len(entities) - 1))
    before = first("sticky", entities, _Known(key=key))
    entities[grown] = replace(entities[grown], traffic_percentage=traffic[grown] * factor)

    assert first("sticky", entities, _Known(key=key)).name in (before.name, f"e{grown}")
