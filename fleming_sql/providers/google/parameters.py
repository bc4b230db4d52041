"""OpenAI's parameters in the words of generateContent.

Sources: https://ai.google.dev/api/generate-content#generationconfig and, for reasoning_effort,
https://ai.google.dev/gemini-api/docs/openai#thinking
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.types import ResponseFormat

_RENAMED: Final[Mapping[str, str]] = {
    "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_BESIDE: Final[Mapping[str, str]] = {
    "safetySettings": "safetySettings",
    "safety_settings": "safetySettings",
    "cachedContent": "cachedContent",
    "cached_content": "cachedContent",
    "toolConfig": "toolConfig",
    "tool_config": "toolConfig",
    "service_tier": "serviceTier",
    "serviceTier": "serviceTier",
    "labels": "labels",
}
"""What stands beside generationConfig; all that is not named in this module is a setting in it."""
_NO_PLACE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "n": lambda value: value == 1,
    "logprobs": lambda value: value is False,
    "top_logprobs": lambda value: value == 0,
    "logit_bias": lambda value: not value,
    "parallel_tool_calls": lambda value: value is True,
    "user": lambda value: False,
    "metadata": lambda value: not value,
    "store": lambda value: value is False,
    "stream": lambda value: value is False,
}
"""OpenAI's parameters that do nothing here, each with the values that ask for nothing."""
_BUDGETS: Final[Mapping[str, int]] = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""Tokens of thought by effort, for models before Gemini 3; later ones know levels by name."""
_LEVELS: Final[Mapping[str, str]] = {"none": "minimal", **{name: name for name in ("minimal", "low", "medium", "high")}}
_WITH_BUDGETS: Final = ("gemini-1", "gemini-2")
_MODES: Final[Mapping[str, str]] = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_SET_HERE: Final = ("model", "contents", "messages", "systemInstruction", "responseMimeType", "responseJsonSchema")


def to_settings(model: str, given: Mapping[str, Any], wanted: ResponseFormat | None) -> dict[str, Any]:
    """Return what goes beside `contents`: generationConfig, tools and the like.

    Args:
        model: Name of the model, which decides how it is told to think.
        given: The parameters.
        wanted: The response format.

    Raises:
        BadProviderRequest: A parameter has no place in this API.
    """
    config: dict[str, Any] = {}
    body: dict[str, Any] = {}
    for key, value in given.items():
        if value is not None:
            _add(body, config, model, key, value)
    config.update(_format(wanted))
    return {**body, **({"generationConfig": config} if config else {})}


def _add(body: dict[str, Any], config: dict[str, Any], model: str, key: str, value: Any) -> None:
    if key in _NO_PLACE:
        if not _NO_PLACE[key](value):
            raise BadProviderRequest(f'the parameter "{key}" has no place in Google\'s API: remove it')
    elif key in _SET_HERE:
        raise BadProviderRequest(f'the parameter "{key}" is set by the gateway: remove it')
    elif key == "stop":
        config["stopSequences"] = [value] if isinstance(value, str) else value
    elif key == "reasoning_effort":
        config.setdefault("thinkingConfig", _thinking(model, value))
    elif key == "tools":
        body["tools"] = _tools(value)
    elif key == "tool_choice":
        body["toolConfig"] = {"functionCallingConfig": _choice(value)}
    elif key == "generationConfig" and isinstance(value, dict):
        config.update(value)
    elif key in _BESIDE:
        body[_BESIDE[key]] = value
    else:
        config[_RENAMED.get(key, key)] = value


def _thinking(model: str, effort: Any) -> dict[str, Any]:
    if effort not in _BUDGETS:
        raise BadProviderRequest(
            f'the parameter "reasoning_effort" is {effort!r} and must be one of {", ".join(_BUDGETS)}'
        )
    if model.removeprefix("models/").startswith(_WITH_BUDGETS):
        return {"thinkingBudget": _BUDGETS[effort]}
    return {"thinkingLevel": _LEVELS[effort]}


def _format(wanted: ResponseFormat | None) -> dict[str, Any]:
    if wanted is None or wanted.kind == "text":
        return {}
    json: dict[str, Any] = {"responseMimeType": "application/json"}
    return {**json, "responseJsonSchema": wanted.schema} if wanted.kind == "json_schema" else json


def _tools(tools: Any) -> list[Any]:
    """Return OpenAI's functions as one tool, and Google's own tools, such as `{"googleSearch": {}}`, as they are."""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadProviderRequest('the parameter "tools" must be a list of objects')
    functions = [_declaration(tool["function"]) for tool in tools if isinstance(tool.get("function"), dict)]
    own = [tool for tool in tools if not isinstance(tool.get("function"), dict)]
    return [*([{"functionDeclarations": functions}] if functions else []), *own]


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    declared = {key: function[key] for key in ("name", "description") if key in function}
    if function.get("parameters"):
        declared["parametersJsonSchema"] = function["parameters"]
    return declared


def _choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str) and choice in _MODES:
        return {"mode": _MODES[choice]}
    function = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return {"mode": "ANY", "allowedFunctionNames": [function["name"]]}
    raise BadProviderRequest(
        f'the parameter "tool_choice" must be one of {", ".join(_MODES)}, or an object that names a function'
    )
