"""AI21's Jamba models: OpenAI's wire format but for what is said here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from fleming_sql.providers.base import BadProviderRequest, ProviderFacts
from fleming_sql.providers.openai_preset import OpenAIPreset
from fleming_sql.providers.presets import Preset
from fleming_sql.types import CHAT, ModelRequest, OutgoingRequest, ServedEntity

_KEY: Final = "ai21labs_api_key"
_IGNORED: Final = (
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "reasoning_effort",
    "user",
)


class AI21(OpenAIPreset):
    """Jamba models at AI21, or at a server that speaks the same.

    They take no pictures, and JSON without a schema: a schema is told to the model in words.

    Example:
        >>> AI21().encode(entity, request).url
        'https://api.ai21.com/studio/v1/chat/completions'
    """

    secret_keys: ClassVar[tuple[str, ...]] = (_KEY,)
    tasks: ClassVar[frozenset[str]] = frozenset({CHAT})

    def __init__(self) -> None:
        quirks = {
            "max_tokens_parameter": "max_tokens",
            "response_formats": "json_object",
            "refused_parameters": "|".join(_IGNORED),
        }
        super().__init__(
            Preset(
                name="ai21labs",
                title="AI21's Jamba models",
                base_url="https://api.ai21.com/studio/v1",
                credential_variable="AI21_API_KEY",
                tasks=self.tasks,
                quirks=quirks,
                price_list=None,
                documentation_url="https://docs.ai21.com/reference/jamba-1-6-api-ref",
            )
        )

    def facts(self) -> ProviderFacts:
        """Return what `fleming.providers` says of it: Databricks' name for the key belongs to it."""
        facts = super().facts()
        return facts._replace(config_keys=facts.config_keys | {_KEY})

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a chat into the body of `/chat/completions`.

        Raises:
            BadProviderRequest: A message or a parameter has no place in this API.
        """
        messages = tuple(_with_one_text(message) for message in request.messages)
        return super().encode(entity, replace(request, messages=messages))


def _with_one_text(message: Mapping[str, Any]) -> dict[str, Any]:
    told = {**message, "role": "system"} if message.get("role") == "developer" else dict(message)
    content = told.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise BadProviderRequest("AI21's models take text only: a part of a message is something else")
        told["content"] = "".join(part["text"] for part in content)
    return told
