"""The provider registry: one line per wire format, imported on first use, and the presets of `presets.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from fleming_sql import jsontext
from fleming_sql.providers.base import BadAnswer, BadProviderRequest, Provider
from fleming_sql.providers.presets import Preset, read_presets
from fleming_sql.types import ServedEntity

PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ai21labs": "fleming_sql.providers.ai21labs:AI21",
        "amazon-bedrock": "fleming_sql.providers.bedrock:AmazonBedrock",
        "anthropic": "fleming_sql.providers.anthropic:Anthropic",
        "cohere": "fleming_sql.providers.cohere:Cohere",
        "custom": "fleming_sql.providers.custom:Custom",
        "databricks-model-serving": "fleming_sql.providers.databricks:Databricks",
        "gemini": "fleming_sql.providers.google.gemini:Gemini",
        "google-cloud-vertex-ai": "fleming_sql.providers.google.vertex_ai:VertexAI",
        "mlflow-model-serving": "fleming_sql.providers.mlflow:MlflowModelServing",
        "openai": "fleming_sql.providers.openai:OpenAI",
        "openai-moderation": "fleming_sql.providers.openai_moderation:OpenAIModeration",
        "simulated": "fleming_sql.providers.simulated:Simulated",
    }
)


class ProviderRegistry:
    """The providers of one gateway, each made once.

    Args:
        providers: Name to `module:Class`; by default all that ship with the package.
        presets: Servers in OpenAI's wire format, by name; by default those of `presets.csv`.
    """

    def __init__(self, providers: Mapping[str, str] = PROVIDERS, presets: Mapping[str, Preset] | None = None) -> None:
        self._paths = dict(providers)
        self._presets = read_presets() if presets is None else presets
        self._made: dict[str, Provider] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, sorted."""
        return tuple(sorted({*self._paths, *self._presets}))

    def describe(self) -> list[tuple[object, ...]]:
        """Return the rows of the table `providers`, one per provider."""
        return [self._row(name, self.get(name)) for name in self.names]

    def _row(self, name: str, provider: Provider) -> tuple[object, ...]:
        facts = provider.facts()
        return (
            name,
            sorted(facts.tasks),
            facts.description,
            sorted(facts.config_keys),
            provider.requires_credential(_at_public_address(name)),
            facts.base_url,
            facts.credential_variable,
            jsontext.dumps(dict(facts.quirks)),
            facts.price_list,
            facts.documentation_url,
        )

    def get(self, name: str) -> Provider:
        """Return the provider called `name`.

        Raises:
            KeyError: There is no such provider.
        """
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Provider:
        if name in self._presets:
            from fleming_sql.providers.openai_preset import OpenAIPreset

            return OpenAIPreset(self._presets[name])
        module, _, attribute = self._paths[name].partition(":")
        provider: Provider = getattr(import_module(module), attribute)()
        return provider


def _at_public_address(provider: str) -> ServedEntity:
    return ServedEntity("", "", "", provider, "", None, None, 100.0, 1, {}, {})


__all__ = ["PROVIDERS", "BadAnswer", "BadProviderRequest", "Provider", "ProviderRegistry"]
