"""Which rate limits a caller meets, as Databricks orders them.

The endpoint's own limit holds for everybody. Beneath it, for calls and for tokens apart, a caller meets the limits of
its own name; without any, those of its groups; without any, the one that each user has. A group's limit is shared by
its members. Who is in several groups is held up only when the limits of all of them are used up, calls and tokens
looked at apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fleming_sql.policies.access import Identity
from fleming_sql.types import RateLimit

CounterKey: TypeAlias = tuple[str, str, str | None, str, str]
"""Endpoint, key, whose use it is, metric and period: what tells counters apart."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit and the counter that it is held against."""

    limit: RateLimit
    counted: str | None
    """Whose use is counted; None for everybody's together."""

    @property
    def key(self) -> CounterKey:
        """What tells its counter apart; the amount plays no part, so that a new one goes on counting."""
        limit = self.limit
        return limit.endpoint, limit.key, self.counted, limit.metric, limit.period

    @property
    def is_shared(self) -> bool:
        """Whether it holds for every caller of the endpoint."""
        return self.limit.key == "endpoint"

    @property
    def unpaced_amount(self) -> int:
        """How much of it a batch may use as fast as it can, before it is paced.

        None of a minute's. Half of an hour's: a small batch need not be spread over an hour that has room for it.
        """
        return self.limit.amount // 2 if self.limit.period == "hour" else 0

    def describe(self) -> str:
        """Return it in words, with the row to change.

        Example:
            >>> bound.describe()
            'the limit of 5 calls per minute for the user "ada" (table fleming.rate_limits, row chat/user/ada)'
        """
        limit = self.limit
        whom = f'endpoint "{limit.endpoint}"' if self.counted is None else f'{_KIND[limit.key]} "{self.counted}"'
        if limit.key == "user" and limit.principal is None:
            whom = f'user "{self.counted}", as for each user'
        row = f"{limit.endpoint}/{limit.key}/{limit.principal or '-'}/{limit.metric}/{limit.period}"
        return (
            f"the limit of {limit.amount} {limit.metric} per {limit.period} for the {whom} "
            f"(table fleming.rate_limits, row {row})"
        )


_KIND = {"user": "user", "user_group": "group", "service_principal": "service principal"}

Requirement: TypeAlias = tuple[Bound, ...]
"""Bounds of which at least one must have room; all of them are charged."""


def requirements(limits: Sequence[RateLimit], identity: Identity) -> tuple[Requirement, ...]:
    """Return what must have room for a call of `identity`; nothing where no limit meets it.

    Args:
        limits: Those of one endpoint.
        identity: Who asks.
    """
    found: list[Requirement] = [(Bound(limit, None),) for limit in limits if limit.key == "endpoint"]
    for metric in ("calls", "tokens"):
        found.extend(_personal([limit for limit in limits if limit.metric == metric], identity))
    return tuple(found)


def _personal(limits: Sequence[RateLimit], identity: Identity) -> list[Requirement]:
    """Return what holds for the caller beneath the endpoint's own limits, all of one metric."""
    own: list[Requirement] = [(Bound(limit, identity.name),) for limit in limits if _names(limit, identity)]
    return (
        own
        or _of_groups(limits, identity)
        or [(Bound(limit, identity.name),) for limit in limits if _is_default(limit)]
    )


def _is_default(limit: RateLimit) -> bool:
    return limit.key == "user" and limit.principal is None


def _names(limit: RateLimit, identity: Identity) -> bool:
    return limit.key == identity.type and limit.principal == identity.name


def _of_groups(limits: Sequence[RateLimit], identity: Identity) -> list[Requirement]:
    alternatives: dict[tuple[str, str], list[Bound]] = {}
    for limit in limits:
        if limit.key == "user_group" and limit.principal in identity.groups:
            alternatives.setdefault((limit.metric, limit.period), []).append(Bound(limit, limit.principal))
    return [tuple(bounds) for bounds in alternatives.values()]
