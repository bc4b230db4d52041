"""The tables of who may call, how much and at what price, as the snapshot holds them.

Rows that config_problems complains of are left out where they cannot be held: the calls that would meet them fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC
from typing import Any, Final, TypeVar, get_args

from fleming_sql.types import Budget, Permission, Price, Principal, PrincipalType, RateLimit

T = TypeVar("T")
Rows = Callable[[str], list[tuple[Any, ...]]]

_GROUP_TOO: Final = "user_group"
"""What rate_limits.key says, as Databricks does, where principals.type says group; permissions take both."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a snapshot; see `types.Snapshot`."""

    permissions: Mapping[str, tuple[Permission, ...]]
    rate_limits: Mapping[str, tuple[RateLimit, ...]]
    principals: Mapping[str, Principal]
    groups_of: Mapping[str, frozenset[str]]
    prices: Mapping[tuple[str, str], tuple[Price, ...]]
    budgets: tuple[Budget, ...]


_BUDGETS: Final = (
    'select budget, scope, principal, endpoint, "window", amount_usd, action, context_key, time_zone, webhook '
    "from __budgets() order by budget"
)
_PRICES: Final = """
select
    p.endpoint, p.served_entity, p.input_per_million, p.output_per_million, p.cached_input_per_million,
    p.cache_write_per_million, p.service_tier, p.from_input_tokens, p.to_input_tokens, p.per_second, p.per_call,
    p.valid_from, p.valid_to
from __prices_of_entities() as p
inner join __configured_models() as m using (endpoint, served_entity, provider, base_url, model)
"""


def read_rules(rows: Rows) -> Rules:
    """Read the rules.

    Args:
        rows: Runs a query.
    """
    principals = {
        name: Principal(name, kind, enabled)
        for name, kind, enabled in rows("select name, type, enabled from principals")
        if kind in get_args(PrincipalType)
    }
    return Rules(
        _by_first(rows("select endpoint, principal_type, principal, privilege from permissions"), _permission),
        _by_first(
            rows(
                "select endpoint, key, principal, calls, tokens, renewal_period, on_exceeded, max_wait_ms "
                "from rate_limits where (calls is null) <> (tokens is null) and coalesce(calls, tokens) > 0"
            ),
            _rate_limit,
        ),
        principals,
        {
            member: frozenset(groups)
            for member, groups in rows("select member, list(group_name) from memberships group by member")
        },
        _prices(rows),
        tuple(Budget(*row) for row in rows(_BUDGETS)),
    )


def _by_first(rows: list[tuple[Any, ...]], make: Callable[..., T]) -> dict[str, tuple[T, ...]]:
    found: dict[str, list[T]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(make(*row))
    return {first: tuple(made) for first, made in found.items()}


def _permission(endpoint: str, principal_type: Any, principal: str, privilege: Any) -> Permission:
    return Permission("group" if principal_type == _GROUP_TOO else principal_type, principal, privilege)


def _rate_limit(
    endpoint: str,
    key: Any,
    principal: str | None,
    calls: int | None,
    tokens: int | None,
    period: Any,
    on_exceeded: str,
    max_wait_ms: int | None,
) -> RateLimit:
    return RateLimit(
        endpoint=endpoint,
        key=key,
        principal=principal,
        metric="tokens" if calls is None else "calls",
        amount=(tokens or 0) if calls is None else calls,
        period=period,
        waits=on_exceeded == "wait",
        max_wait_s=None if max_wait_ms is None else max_wait_ms / 1000,
    )


def _prices(rows: Rows) -> dict[tuple[str, str], tuple[Price, ...]]:
    found: dict[tuple[str, str], list[Price]] = {}
    names = [field.name for field in fields(Price)]
    for endpoint, entity, *columns in rows(_PRICES):
        row = dict(zip(names, columns, strict=True))
        row["valid_from"] = row["valid_from"].replace(tzinfo=UTC)
        row["valid_to"] = row["valid_to"] and row["valid_to"].replace(tzinfo=UTC)
        price = Price(**row)
        found.setdefault((endpoint, entity), []).append(price)
    return {key: tuple(prices) for key, prices in found.items()}
