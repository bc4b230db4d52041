"""What an answer costs: the provider's counts at the price that holds. `serving.endpoint_usage` says it in SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from fleming_sql.types import Price, ServedEntity, Snapshot, Usage

DEFAULT_TIER: Final = "default"
_NORMAL_TIERS: Final = frozenset({DEFAULT_TIER, "auto", "standard", "on_demand"})
"""What OpenAI, Anthropic and Groq call the tier of requests that ask for none."""


def tier_of(service_tier: str | None) -> str:
    """Return the tier as prices call it; one that the provider does not name is the normal one.

    Example:
        >>> tier_of("standard"), tier_of("Flex")
        ('default', 'flex')
    """
    tier = DEFAULT_TIER if service_tier is None else service_tier.lower()
    return DEFAULT_TIER if tier in _NORMAL_TIERS else tier


def tiers_of(snapshot: Snapshot, entity: ServedEntity) -> frozenset[str]:
    """Return the service tiers that an entity has prices for."""
    prices = snapshot.prices.get((entity.endpoint, entity.name), ())
    return frozenset(price.service_tier for price in prices if price.service_tier is not None)


def cost(price: Price, usage: Usage, seconds: float) -> float | None:
    """Return what one answer costs in US dollars, None where price and counts do not say.

    Cached and newly cached input are parts of the input with prices of their own; reasoning is part of the output
    and costs the same. A count that is None is 0; parts that are more than the whole are no counts to charge by.

    Args:
        price: What holds for the entity, the tier and the length of the input.
        usage: As the provider counted, or estimated.
        seconds: How long the request took.

    Example:
        >>> price = Price(2.0, 8.0, cached_input_per_million=0.5)
        >>> cost(price, Usage(input_tokens=1000, output_tokens=50, cached_input_tokens=400), 1.0)
        0.0018
    """
    if price.input_per_million is None:
        return None
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    if cached + written > inputs or (price.output_per_million is None and outputs > 0):
        return None
    tokens = (
        (inputs - cached - written) * price.input_per_million
        + cached * _or(price.cached_input_per_million, price.input_per_million)
        + written * _or(price.cache_write_per_million, price.input_per_million)
        + outputs * (price.output_per_million or 0.0)
    )
    return tokens / 1e6 + price.per_call + price.per_second * seconds


def cost_of(snapshot: Snapshot, entity: ServedEntity, usage: Usage, seconds: float, at: datetime) -> float | None:
    """Return what one answer of an entity costs in US dollars, None where no price is known.

    Args:
        snapshot: Has the prices.
        entity: Which answered.
        usage: As the provider counted, or estimated; it names the tier.
        seconds: How long the request took.
        at: When the call began, with its time zone.
    """
    price = snapshot.price(entity, at, tier_of(usage.service_tier), usage.input_tokens or 0)
    return None if price is None else cost(price, usage, seconds)


def _or(price: float | None, otherwise: float) -> float:
    return otherwise if price is None else price
