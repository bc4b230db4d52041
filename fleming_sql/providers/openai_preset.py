"""Servers in OpenAI's wire format that are known by name: their addresses, and where they differ from OpenAI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from fleming_sql.jsontext import dumps
from fleming_sql.providers.base import BadProviderRequest, ProviderFacts
from fleming_sql.providers.openai import OpenAI
from fleming_sql.providers.presets import Preset
from fleming_sql.providers.provider_config import address_of, config_problem, config_text, in_path
from fleming_sql.types import Answer, ModelRequest, OutgoingRequest, ResponseFormat, ServedEntity

_FORMATS: Final = "response_formats"
_ALL_FORMATS: Final = "json_schema|json_object"
_KNOWN_FORMATS: Final = ("json_schema|json_object", "json_schema", "json_object", "none")
_DEFAULTS: Final = ("max_tokens_parameter", "max_inputs_per_request", _FORMATS)
"""Quirks that an entity's provider_config may overrule: servers learn, and models of one server differ."""
_HEADER: Final = "header."
_THOUGHTS: Final = re.compile(r"\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)


class OpenAIPreset(OpenAI):
    """A server of which one row of `presets.csv` tells how it differs from OpenAI.

    Args:
        preset: The row.

    Example:
        >>> OpenAIPreset(read_presets()["groq"]).encode(entity, request).url
        'https://api.groq.com/openai/v1/chat/completions'
    """

    def __init__(self, preset: Preset) -> None:
        self._preset = preset
        self._defaults: Mapping[str, Any] = {
            key: int(value) if value.isdigit() else value for key, value in preset.quirks.items() if key in _DEFAULTS
        }
        self._headers = {
            key.removeprefix(_HEADER): name for key, name in preset.quirks.items() if key.startswith(_HEADER)
        }
        self._refused = frozenset(preset.quirks.get("refused_parameters", "").split("|")) - {""}
        self._thinks_aloud = preset.quirks.get("think_tags") == "true"

    def facts(self) -> ProviderFacts:
        """Return what the row says."""
        preset = self._preset
        return ProviderFacts(
            preset.tasks,
            preset.title,
            frozenset({*_DEFAULTS, *self._headers, *preset.url_keys}),
            preset.base_url,
            preset.credential_variable,
            preset.quirks,
            preset.price_list,
            preset.documentation_url,
        )

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the wire format as this server takes it.

        Raises:
            BadProviderRequest: The provider_config lacks what the address needs, or the server does not know the task
                or a parameter.
        """
        if request.task not in self._preset.tasks:
            raise BadProviderRequest(
                f'provider "{entity.provider}" cannot serve the task {request.task} (table endpoints, column task)'
            )
        self._check_parameters(entity, request.parameters)
        known = replace(entity, base_url=self.base_url(entity), provider_config=self._settings(entity))
        outgoing = super().encode(known, _with_told_format(known, request))
        headers = {name: config_text(entity, key) for key, name in self._headers.items()}
        return replace(outgoing, headers={**outgoing.headers, **{name: text for name, text in headers.items() if text}})

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return whether the entity is called at the preset's own address, and that needs one."""
        own = urlsplit(self._preset.base_url).netloc
        return self._preset.needs_credential and (not entity.base_url or urlsplit(entity.base_url).netloc == own)

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer, and leave out what the model has thought in front of it.

        Raises:
            BadAnswer: A field is missing or wrong, or the model refused.
        """
        answer = super().decode(request, payload)
        if self._thinks_aloud and isinstance(answer.content, str):
            return replace(answer, content=without_thoughts(answer.content))
        return answer

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return `max_inputs_per_request` of the provider_config where it has one, else the preset's."""
        return super().max_inputs(replace(entity, provider_config=self._settings(entity)))

    def base_url(self, entity: ServedEntity) -> str:
        """Return the entity's address, else the preset's with its gaps filled from provider_config.

        Raises:
            BadProviderRequest: A key for a gap is missing.
        """
        if given := address_of(entity):
            return given
        parts: dict[str, str] = {}
        for key in self._preset.url_keys:
            value = config_text(entity, key)
            if value is None:
                raise config_problem(entity, key, f"is missing, and is a part of {self._preset.base_url}")
            parts[key] = in_path(entity, key, value)
        return self._preset.base_url.format_map(parts)

    def _settings(self, entity: ServedEntity) -> Mapping[str, Any]:
        """Return the provider_config above what the preset says."""
        given = {key: value for key, value in entity.provider_config.items() if value is not None}
        return {**self._defaults, **given}

    def _check_parameters(self, entity: ServedEntity, parameters: Mapping[str, Any]) -> None:
        for key in sorted(self._refused & parameters.keys()):
            if (key, parameters[key]) != ("n", 1):
                raise BadProviderRequest(
                    f'provider "{entity.provider}" does not know the parameter "{key}": remove it, or take another '
                    f"provider ({self._preset.documentation_url})"
                )


def without_thoughts(text: str) -> str:
    """Return a text without the `<think>…</think>` at its beginning; one that never ends leaves nothing.

    Example:
        >>> without_thoughts("<think>They ask for a number.</think> 7")
        '7'
    """
    while thoughts := _THOUGHTS.match(text):
        text = text[thoughts.end() :]
    return text


def _with_told_format(entity: ServedEntity, request: ModelRequest) -> ModelRequest:
    """Return a request for a form that the server cannot be held to with that form told to the model in words.

    The gateway checks answers in any case, so a model that does not listen is asked again.
    """
    formats = config_text(entity, _FORMATS) or _ALL_FORMATS
    if formats not in _KNOWN_FORMATS:
        raise config_problem(entity, _FORMATS, f'is "{formats}" and must be one of {_KNOWN_FORMATS}')
    wanted = request.response_format
    if wanted is None or wanted.kind == "text" or wanted.kind in formats.split("|") or not request.messages:
        return request
    allowed = ResponseFormat("json_object") if formats == "json_object" else None
    return replace(request, messages=_told(request.messages, _in_words(wanted)), response_format=allowed)


def _in_words(wanted: ResponseFormat) -> str:
    if wanted.schema is None:
        return "Answer with one JSON object and nothing else."
    return (
        f"Answer with one JSON object and nothing else. It must be valid by this JSON Schema:\n{dumps(wanted.schema)}"
    )


def _told(messages: tuple[Mapping[str, Any], ...], text: str) -> tuple[Mapping[str, Any], ...]:
    """Return messages with one more instruction; in the first one if that has some, as many models take but one."""
    first = messages[0]
    if first.get("role") not in ("system", "developer"):
        return ({"role": "system", "content": text}, *messages)
    content = first.get("content")
    more = [*content, {"type": "text", "text": text}] if isinstance(content, list) else f"{content}\n\n{text}"
    return ({**first, "content": more}, *messages[1:])
