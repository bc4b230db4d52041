"""Which entity of an endpoint is asked first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, Protocol

from fleming_sql.types import Routing, ServedEntity

_SAME_COST_USD: Final = 1e-12
"""Costs nearer than this differ by rounding only: no price list is finer."""


class Situation(Protocol):
    """What a choice may depend on. Each is asked for only where the routing needs it."""

    @property
    def chance(self) -> float:
        """A number in [0, 1)."""

    @property
    def key(self) -> str:
        """What sticks to an entity: the requester, or the value of a key of `usageContext`."""

    def latency_s(self, entity: ServedEntity) -> float | None:
        """Return how long the entity usually takes, in seconds; None has it measured by this request."""

    def cost_usd(self, entity: ServedEntity) -> float | None:
        """Return what this request will cost there, in US dollars; None where no price is known."""


def first(routing: Routing, entities: Sequence[ServedEntity], situation: Situation) -> ServedEntity:
    """Return the entity to ask first.

    Those with a traffic_percentage of 0 are for fallback: they are first only where all others are left out.

    Args:
        routing: The rule of the endpoint.
        entities: Those that can be asked now, by position, at least one. Their percentages may sum to
            less than 100, since some may be left out.
        situation: Asked for what the rule depends on.
    """
    if len(entities) == 1:
        return entities[0]
    takers = [entity for entity in entities if entity.traffic_percentage > 0]
    if len(takers) < 2:
        return takers[0] if takers else entities[0]
    return _RULES[routing](takers, situation)


def _by_weight(entities: Sequence[ServedEntity], situation: Situation) -> ServedEntity:
    point = situation.chance * sum(entity.traffic_percentage for entity in entities)
    for entity in entities:
        point -= entity.traffic_percentage
        if point < 0:
            return entity
    return entities[-1]  # rounding took the point to the very end


def _sticky(entities: Sequence[ServedEntity], situation: Situation) -> ServedEntity:
    """Rendezvous hashing: each entity scores the key, the highest score wins.

    Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on
    Networking 6(1), 1998; with weights by the logarithmic method of Schindelhauer and Schomaker, "Weighted
    Distributed Hash Tables", SPAA 2005. A score depends on nothing but the key and its own entity, so a
    change of one weight moves keys to or from that entity only. The name is hashed, not the id: the id
    is another after each change of the row.
    """
    key = situation.key
    return max(entities, key=lambda entity: -entity.traffic_percentage / math.log(_uniform(entity.name, key)))


def _uniform(name: str, key: str) -> float:
    """Return a number in the open interval (0, 1) for a name and a key, the same on every machine."""
    text = f"{len(name)}:{name}{key}"
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    # 52 bits: with more, the half would round away, and the logarithm meet 0 or 1.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2.0**52


def _by_position(entities: Sequence[ServedEntity], situation: Situation) -> ServedEntity:
    lowest = min(entity.position for entity in entities)
    return _one_of([entity for entity in entities if entity.position == lowest], situation)


def _least_latency(entities: Sequence[ServedEntity], situation: Situation) -> ServedEntity:
    latencies = [(situation.latency_s(entity), entity) for entity in entities]
    unknown = [entity for latency, entity in latencies if latency is None]
    if unknown:
        return unknown[int(situation.chance * len(unknown))] if len(unknown) > 1 else unknown[0]
    return min(latencies, key=lambda pair: math.inf if pair[0] is None else pair[0])[1]


def _least_cost(entities: Sequence[ServedEntity], situation: Situation) -> ServedEntity:
    costs = [(situation.cost_usd(entity), entity) for entity in entities]
    lowest = min((cost for cost, _ in costs if cost is not None), default=None)
    if lowest is None:
        return _by_weight(entities, situation)
    return _one_of([e for cost, e in costs if cost is not None and cost - lowest <= _SAME_COST_USD], situation)


def _one_of(entities: Sequence[ServedEntity], situation: Situation) -> ServedEntity:
    return entities[0] if len(entities) == 1 else _by_weight(entities, situation)


_RULES: Final[Mapping[Routing, Callable[[Sequence[ServedEntity], Situation], ServedEntity]]] = MappingProxyType(
    {
        "weighted": _by_weight,
        "sticky": _sticky,
        "priority": _by_position,
        "least_latency": _least_latency,
        "least_cost": _least_cost,
    }
)
