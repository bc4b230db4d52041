"""Reading `served_entities.provider_config`, and saying what is wrong in it."""

from __future__ import annotations

from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.types import ServedEntity


def config_text(entity: ServedEntity, key: str) -> str | None:
    """Return a text of the entity's provider_config; an empty one is as good as none.

    Raises:
        BadProviderRequest: The value is something else than a text.
    """
    value = entity.provider_config.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise config_problem(entity, key, "must be a text")


def config_problem(entity: ServedEntity, key: str, problem: str) -> BadProviderRequest:
    """Return the error for a key of an entity's provider_config."""
    return BadProviderRequest(
        f'key "{key}" {problem}: table served_entities, row "{entity.endpoint}/{entity.name}", column provider_config'
    )
