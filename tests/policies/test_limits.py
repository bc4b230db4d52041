"""Which limits a caller meets, against the order of precedence that Databricks documents."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.policies.access import Identity
from fleming_sql.policies.limits import Bound, requirements
from fleming_sql.types import RateLimit

Key = Literal["endpoint", "user", "user_group", "service_principal"]
Metric = Literal["calls", "tokens"]
Period = Literal["minute", "hour"]
ADA = Identity("ada", "user", True, frozenset({"red", "blue"}))
ETL = Identity("etl", "service_principal", True, frozenset({"red"}))


def limit(
    key: Key, principal: str | None = None, metric: Metric = "calls", period: Period = "minute", amount: int = 5
) -> RateLimit:
    return RateLimit("chat", key, principal, metric, amount, period, waits=True, max_wait_s=None)


def met(limits: list[RateLimit], identity: Identity) -> list[set[tuple[RateLimit, str | None]]]:
    return [{(bound.limit, bound.counted) for bound in alternatives} for alternatives in requirements(limits, identity)]


WHOLE = limit("endpoint")
DEFAULT = limit("user")
OWN = limit("user", "ada")
RED = limit("user_group", "red")
BLUE = limit("user_group", "blue")


def test_without_limits_nothing_is_required() -> None:
    assert requirements([], ADA) == ()


def test_the_endpoints_limit_holds_beside_any_other() -> None:
    assert met([OWN, WHOLE], ADA) == [{(WHOLE, None)}, {(OWN, "ada")}]


def test_a_name_of_its_own_comes_before_groups_and_the_default() -> None:
    assert met([DEFAULT, RED, BLUE, OWN], ADA) == [{(OWN, "ada")}]


def test_groups_come_before_the_default_and_one_of_them_with_room_is_enough() -> None:
    assert met([DEFAULT, RED, BLUE], ADA) == [{(RED, "red"), (BLUE, "blue")}]


def test_the_default_is_counted_for_each_user_alone() -> None:
    other = limit("user", "bob")

    assert met([DEFAULT, other, limit("user_group", "green")], ADA) == [{(DEFAULT, "ada")}]


def test_a_service_principal_meets_the_limit_of_its_name_and_not_that_of_a_user() -> None:
    own = limit("service_principal", "etl")

    assert met([limit("user", "etl"), own], ETL) == [{(own, "etl")}]


def test_calls_and_tokens_of_groups_are_looked_at_apart() -> None:
    tokens = limit("user_group", "red", "tokens")

    assert met([RED, BLUE, tokens], ADA) == [{(RED, "red"), (BLUE, "blue")}, {(tokens, "red")}]


def test_all_limits_of_a_name_hold_together() -> None:
    metrics: tuple[Metric, ...] = ("calls", "tokens")
    periods: tuple[Period, ...] = ("minute", "hour")
    rows = [limit("user", "ada", metric, period) for metric in metrics for period in periods]

    assert met(rows, ADA) == [{(row, "ada")} for row in rows]


def test_another_amount_keeps_the_counter() -> None:
    assert Bound(limit("user", "ada", amount=5), "ada").key == Bound(limit("user", "ada", amount=9), "ada").key


def test_default_and_named_limit_of_a_user_share_a_counter_so_that_naming_it_does_not_begin_anew() -> None:
    assert Bound(DEFAULT, "ada").key == Bound(OWN, "ada").key


rows = st.lists(
    st.builds(
        limit,
        st.sampled_from(["endpoint", "user", "user_group", "service_principal"]),
        st.sampled_from(["ada", "red", "blue", "green", None]),
        st.sampled_from(["calls", "tokens"]),
        st.sampled_from(["minute", "hour"]),
    ),
    max_size=12,
    unique=True,
)
identities = st.builds(
    Identity,
    st.sampled_from(["ada", "bob"]),
    st.sampled_from(["user", "service_principal"]),
    st.just(True),
    st.frozensets(st.sampled_from(["red", "blue", "green"])),
)


def _expected_keys(limits: list[RateLimit], identity: Identity) -> set[RateLimit]:
    """Say the order of precedence once more, in the words of its documentation."""
    expected = {row for row in limits if row.key == "endpoint"}
    for metric in ("calls", "tokens"):
        of_metric = [row for row in limits if row.metric == metric]
        specific = {row for row in of_metric if row.key == identity.type and row.principal == identity.name}
        of_groups = {row for row in of_metric if row.key == "user_group" and row.principal in identity.groups}
        defaults = {row for row in of_metric if row.key == "user" and row.principal is None}
        expected |= specific or of_groups or defaults
    return expected


@given(rows, identities)
def test_the_limits_met_are_those_of_databricks_order(limits: list[RateLimit], identity: Identity) -> None:
    found = [bound.limit for alternatives in requirements(limits, identity) for bound in alternatives]

    assert set(found) == _expected_keys(limits, identity)
    assert len(found) == len(set(found))


@given(rows, identities)
def test_only_groups_are_alternatives_and_only_for_one_metric_and_period(
    limits: list[RateLimit], identity: Identity
) -> None:
    for alternatives in requirements(limits, identity):
        assert alternatives
        assert len({(bound.limit.metric, bound.limit.period) for bound in alternatives}) == 1
        assert len(alternatives) == 1 or all(bound.limit.key == "user_group" for bound in alternatives)
