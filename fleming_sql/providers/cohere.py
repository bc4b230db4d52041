"""Cohere's API, version 2. Embeddings: https://docs.cohere.com/reference/embed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.base import BadProviderRequest, Provider, with_parameters
from fleming_sql.providers.cohere_answers import read_chat, read_embeddings, render_chat, render_embeddings
from fleming_sql.providers.provider_config import address_of
from fleming_sql.types import CHAT, EMBEDDINGS, Answer, ModelRequest, OutgoingRequest, ResponseFormat, ServedEntity

BASE_URL: Final = "https://api.cohere.com"
MAX_INPUTS: Final = 96
_VERSION: Final = re.compile(r"/v[12]$")
_RENAMED: Final[Mapping[str, str]] = {"max_completion_tokens": "max_tokens", "top_p": "p", "top_k": "k"}
_RENAMED_OF_EMBEDDINGS: Final[Mapping[str, str]] = {"dimensions": "output_dimension"}
_NO_PLACE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "n": lambda value: value == 1,
    "top_logprobs": lambda value: value == 0,
    "logit_bias": lambda value: not value,
    "parallel_tool_calls": lambda value: value is True,
    "user": lambda value: False,
    "metadata": lambda value: not value,
    "store": lambda value: value is False,
    "encoding_format": lambda value: value == "float",
}
"""OpenAI's parameters that this API does not know, each with the values that ask for nothing."""
_THINKING: Final[Mapping[str, str]] = {"none": "disabled", "high": "enabled"}
_TOOL_CHOICES: Final[Mapping[str, str | None]] = {"auto": None, "required": "REQUIRED", "none": "NONE"}


class Cohere(Provider):
    """Command and Embed models at Cohere, or at a server that speaks version 2 of its API.

    Example:
        >>> Cohere().encode(entity, request).url
        'https://api.cohere.com/v2/chat'
    """

    tasks: ClassVar[frozenset[str]] = frozenset({CHAT, EMBEDDINGS})
    description: ClassVar[str] = "Cohere's API, version 2"
    secret_keys: ClassVar[tuple[str, ...]] = ("cohere_api_key",)
    config_keys: ClassVar[frozenset[str]] = frozenset({"cohere_api_key", "cohere_api_base"})
    public_url: ClassVar[str | None] = BASE_URL
    credential_variable: ClassVar[str | None] = "CO_API_KEY"
    documentation_url: ClassVar[str | None] = "https://docs.cohere.com/reference/chat"

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a chat into `/v2/chat`, texts into `/v2/embed`.

        Raises:
            BadProviderRequest: A message or a parameter has no place in this API.
        """
        if request.task == EMBEDDINGS:
            return OutgoingRequest(f"{_base_url(entity)}/embed", dumpb(_embed_body(entity, request)))
        if request.task == CHAT:
            return OutgoingRequest(f"{_base_url(entity)}/chat", dumpb(_chat_body(entity, request)))
        raise BadProviderRequest(
            f'provider "{entity.provider}" cannot serve the task {request.task} (table endpoints, column task)'
        )

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return True for Cohere itself; another server may ask for none."""
        return _base_url(entity).startswith((BASE_URL, "https://api.cohere.ai"))

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer.

        Raises:
            BadAnswer: A field is missing or wrong, or the model gave no text.
        """
        return read_embeddings(payload, len(request.inputs)) if request.task == EMBEDDINGS else read_chat(payload)

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return an answer as Cohere would have given it; it does not name its model."""
        return render_embeddings(answer) if request.task == EMBEDDINGS else render_chat(answer)

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return 96, the most that `/v2/embed` takes."""
        return MAX_INPUTS


def _base_url(entity: ServedEntity) -> str:
    return f"{_VERSION.sub('', address_of(entity, 'cohere_api_base') or BASE_URL)}/v2"


def _embed_body(entity: ServedEntity, request: ModelRequest) -> dict[str, Any]:
    given = {_RENAMED_OF_EMBEDDINGS.get(key, key): value for key, value in _with_a_place(request.parameters).items()}
    input_type = given.pop("input_type", "search_document")  # models refuse requests without one
    body = {
        "model": entity.model,
        "texts": list(request.inputs),
        "input_type": input_type,
        "embedding_types": ["float"],
    }
    return with_parameters(body, given)


def _chat_body(entity: ServedEntity, request: ModelRequest) -> dict[str, Any]:
    body = {
        "model": entity.model,
        "messages": [_message(message) for message in request.messages],
        **_format(request.response_format),
    }
    settings: dict[str, Any] = {}
    for key, value in _with_a_place(request.parameters).items():
        settings.update(_setting(key, value))
    return with_parameters(body, settings)


def _with_a_place(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without those that ask for nothing."""
    wrong = next((key for key, value in given.items() if key in _NO_PLACE and not _NO_PLACE[key](value)), None)
    if wrong is not None:
        raise BadProviderRequest(f'the parameter "{wrong}" has no place in Cohere\'s API: remove it')
    return {key: value for key, value in given.items() if key not in _NO_PLACE and value is not None}


def _setting(key: str, value: Any) -> dict[str, Any]:
    if key == "stop":
        return {"stop_sequences": [value] if isinstance(value, str) else value}
    if key == "reasoning_effort":
        if not isinstance(value, str) or value not in _THINKING:
            raise BadProviderRequest(
                f'the parameter "reasoning_effort" is {value!r} and must be none or high, since Cohere\'s models know '
                'no other; "thinking": {"type": "enabled", "token_budget": 500} sets a limit'
            )
        return {"thinking": {"type": _THINKING[value]}}
    if key == "tool_choice":
        if not isinstance(value, str) or value not in _TOOL_CHOICES:
            raise BadProviderRequest(f'the parameter "tool_choice" must be one of {", ".join(_TOOL_CHOICES)}')
        return {} if _TOOL_CHOICES[value] is None else {"tool_choice": _TOOL_CHOICES[value]}
    return {_RENAMED.get(key, key): value}


def _message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message in Cohere's words, which are OpenAI's but for a role."""
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def _format(wanted: ResponseFormat | None) -> dict[str, Any]:
    if wanted is None or wanted.kind == "text":
        return {}
    json: dict[str, Any] = {"type": "json_object"}
    return {"response_format": {**json, "json_schema": wanted.schema} if wanted.kind == "json_schema" else json}
