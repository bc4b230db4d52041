"""The tables of who may call, how much and at what price, as the snapshot holds them.

Rows that config_problems complains of are left out where they cannot be held: the calls that would meet them fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final, TypeVar, get_args

from fleming_sql.types import Permission, Price, Principal, PrincipalType, RateLimit

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
    for provider, model, paid_in, paid_out, valid_from in rows(
        "select provider, model, input_per_million, output_per_million, valid_from from model_prices "
        "order by valid_from desc"
    ):
        price = Price(paid_in, paid_out, valid_from.replace(tzinfo=UTC))
        found.setdefault((provider, model), []).append(price)
    return {key: tuple(prices) for key, prices in found.items()}
