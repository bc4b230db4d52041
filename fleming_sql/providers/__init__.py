"""The provider registry: one line per wire format, imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from fleming_sql.providers.base import BadAnswer, BadProviderRequest, Provider
from fleming_sql.types import ServedEntity

PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "anthropic": "fleming_sql.providers.anthropic:Anthropic",
        "openai": "fleming_sql.providers.openai:OpenAI",
        "openai-moderation": "fleming_sql.providers.openai_moderation:OpenAIModeration",
        "simulated": "fleming_sql.providers.simulated:Simulated",
    }
)


class ProviderRegistry:
    """The providers of one gateway, each made once.

    Args:
        providers: Name to `module:Class`; by default all that ship with the package.
    """

    def __init__(self, providers: Mapping[str, str] = PROVIDERS) -> None:
        self._paths = dict(providers)
        self._made: dict[str, Provider] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, sorted."""
        return tuple(sorted(self._paths))

    def describe(self) -> list[tuple[str, list[str], str, list[str], bool]]:
        """Return the rows of the table `providers`, one per provider."""
        return [
            (
                name,
                sorted(provider.tasks),
                provider.description,
                sorted(provider.config_keys),
                provider.requires_credential(_at_public_address(name)),
            )
            for name, provider in ((name, self.get(name)) for name in self.names)
        ]

    def get(self, name: str) -> Provider:
        """Return the provider called `name`.

        Raises:
            KeyError: There is no such provider.
        """
        if name not in self._made:
            module, _, attribute = self._paths[name].partition(":")
            self._made[name] = getattr(import_module(module), attribute)()
        return self._made[name]


def _at_public_address(provider: str) -> ServedEntity:
    return ServedEntity("", "", "", provider, "", None, None, 100.0, 1, {}, {})


__all__ = ["PROVIDERS", "BadAnswer", "BadProviderRequest", "Provider", "ProviderRegistry"]
