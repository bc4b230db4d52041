"""What a progress bar says of a statement, from what the gateway counts anyway."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from fleming_sql.gateway.batch import Consumed, Tally
from fleming_sql.policies.pricing import cost, tier_of
from fleming_sql.progress import Figures
from fleming_sql.types import Price, Snapshot, Usage


class Meter:
    """Reads the tally of one statement. Any thread may; what it reads may be a call behind.

    Args:
        tally: Of the statement.
        snapshot: Has the prices.
    """

    def __init__(self, tally: Tally, snapshot: Snapshot) -> None:
        self._tally = tally
        self._snapshot = snapshot

    def read(self, seconds: float) -> Figures:
        """Return the figures as of now.

        Costs are those of all calls of one entity at the price for one of average length, so they may differ from the
        log's where prices depend on the length, and have no guardrails' calls in them.

        Args:
            seconds: How long the statement has been running.
        """
        tally = self._tally
        consumed = list(tally.consumed.items())
        costs = list(self._costs(consumed))
        known = [cost_usd for cost_usd in costs if cost_usd is not None]
        return Figures(
            done=tally.done,
            known=tally.known,
            failed=tally.failed,
            reused=tally.reused,
            tokens=sum(each.input_tokens + each.output_tokens for _, each in consumed),
            cost_usd=sum(known) if known or not costs else None,
            is_cost_partial=len(known) < len(costs),
            seconds=seconds,
        )

    def _costs(self, consumed: list[tuple[tuple[str, str, str | None], Consumed]]) -> Iterator[float | None]:
        for (endpoint, entity_id, tier), of_entity in consumed:
            price = self._price(endpoint, entity_id, tier, of_entity.input_tokens // of_entity.calls)
            yield None if price is None else _cost(price, of_entity)

    def _price(self, endpoint: str, entity_id: str, tier: str | None, length: int) -> Price | None:
        for entity in self._snapshot.endpoints[endpoint].entities:
            if entity.id == entity_id:
                return self._snapshot.price(entity, datetime.now(UTC), tier_of(tier), length)
        return None


def _cost(price: Price, consumed: Consumed) -> float | None:
    usage = Usage(
        input_tokens=consumed.input_tokens,
        output_tokens=consumed.output_tokens,
        cached_input_tokens=consumed.cached_input_tokens,
        cache_write_tokens=consumed.cache_write_tokens,
    )
    of_one = cost(price, usage, consumed.seconds)
    return None if of_one is None else of_one + (consumed.calls - 1) * price.per_call
