"""Which entity serves a call."""

from __future__ import annotations

from collections.abc import Sequence

from fleming_sql.types import ServedEntity


def choose(entities: Sequence[ServedEntity], chance: float) -> ServedEntity:
    """Return the entity whose share of the traffic `chance` falls into.

    Args:
        entities: Those of one endpoint; their percentages sum to 100.
        chance: A number in [0, 1).
    """
    point = chance * sum(entity.traffic_percentage for entity in entities)
    for entity in entities:
        point -= entity.traffic_percentage
        if point < 0:
            return entity
    return entities[0]
