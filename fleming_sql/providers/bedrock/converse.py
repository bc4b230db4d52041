"""Requests to Bedrock's Converse API, which is the same for all models that chat.

After https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.providers.base import BadProviderRequest, object_parameter
from fleming_sql.providers.bedrock.converse_messages import to_conversation
from fleming_sql.providers.bedrock.settings import config_object, family_of, uses_output_format
from fleming_sql.types import ModelRequest, ResponseFormat, ServedEntity

_Body = dict[str, Any]

_INFERENCE: Final[Mapping[str, str]] = {
    "max_tokens": "maxTokens",
    "max_completion_tokens": "maxTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
}
"""OpenAI's parameters that `inferenceConfig` has under other names."""
_OWN: Final = frozenset(
    {
        "inferenceConfig",
        "guardrailConfig",
        "performanceConfig",
        "serviceTier",
        "outputConfig",
        "requestMetadata",
        "promptVariables",
        "additionalModelRequestFields",
    }
)
"""Objects of the API that may be given under their own names."""
_PATHS: Final = "additionalModelResponseFieldPaths"
_CONFIGURED: Final[Mapping[str, tuple[str, ...]]] = {
    "guardrailConfig": ("guardrailIdentifier", "guardrailVersion"),
    "performanceConfig": ("latency",),
}
"""Fields that the provider_config may set for every call, with what each needs."""
_NO_PLACE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "n": lambda value: value == 1,
    "logprobs": lambda value: value is False,
    "top_logprobs": lambda value: value == 0,
    "stream": lambda value: value is False,
}
"""Parameters that no answer of this API could show, each with the values that ask for nothing."""
_TOOL_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")


def to_body(entity: ServedEntity, request: ModelRequest) -> _Body:
    """Return the body of a request.

    Parameters that the API does not name go to the model as `additionalModelRequestFields`, which Bedrock checks.

    Raises:
        BadProviderRequest: A message or a parameter has no place in this API.
    """
    system, turns = to_conversation(request.messages)
    body: _Body = {"messages": turns}
    if system:
        body["system"] = system
    for key, value in request.parameters.items():
        if value is not None:
            _add_parameter(body, entity, key, value)
    _add_tools(body, request.parameters)
    _add_response_format(body, entity, request)
    for key, needed in _CONFIGURED.items():
        if configured := config_object(entity, key, *needed):
            if key in body:
                raise BadProviderRequest(f'the parameter "{key}" is set by the provider_config of the model: remove it')
            body[key] = dict(configured)
    return body


def _add_parameter(body: _Body, entity: ServedEntity, key: str, value: Any) -> None:
    if key in _INFERENCE:
        listed = [value] if key == "stop" and isinstance(value, str) else value
        _merge(body, "inferenceConfig", {_INFERENCE[key]: listed})
    elif key in _OWN:
        _merge(body, key, object_parameter({key: value}, key))
    elif key == _PATHS:
        body[key] = value
    elif key in _NO_PLACE:
        if not _NO_PLACE[key](value):
            raise BadProviderRequest(f'the parameter "{key}" has no place in Bedrock\'s Converse API: remove it')
    elif key in ("messages", "system", "model", "modelId", "toolConfig"):
        raise BadProviderRequest(f'the parameter "{key}" is set by the gateway: remove it')
    elif key == "service_tier":
        _merge(body, "serviceTier", {"type": "default" if value == "auto" else value})
    elif key == "metadata" and isinstance(value, Mapping):
        _merge(body, "requestMetadata", value)
    elif key == "user":
        _merge(body, "requestMetadata", {"user": value})
    elif key == "reasoning_effort" and family_of(entity) == "anthropic":
        _merge(body, "outputConfig", {"effort": value})
    elif key not in ("tools", "tool_choice"):
        _merge(body, "additionalModelRequestFields", {key: value})


def _merge(body: _Body, key: str, fields: Mapping[str, Any]) -> None:
    body[key] = {**body.get(key, {}), **fields}


def _add_tools(body: _Body, parameters: Mapping[str, Any]) -> None:
    tools, choice = parameters.get("tools"), parameters.get("tool_choice")
    if tools:
        if not isinstance(tools, list):
            raise BadProviderRequest('the parameter "tools" must be a list')
        body["toolConfig"] = {"tools": [_tool(tool) for tool in tools]}
        if choice is not None:
            body["toolConfig"]["toolChoice"] = _tool_choice(choice)
    elif choice not in (None, "none", "auto"):
        raise BadProviderRequest('the parameter "tool_choice" needs the parameter "tools"')


def _tool(tool: Any) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if isinstance(function, dict):
        spec = {key: function[key] for key in ("name", "description", "strict") if function.get(key) is not None}
        return {"toolSpec": {**spec, "inputSchema": {"json": function.get("parameters") or {"type": "object"}}}}
    if isinstance(tool, dict) and len(tool) == 1:
        return tool  # in the API's own form, such as a cachePoint
    raise BadProviderRequest("tools must be a list of {'type': 'function', 'function': {'name': …, 'parameters': …}}")


def _tool_choice(choice: Any) -> _Body:
    if choice in ("auto", "required"):
        return {"auto" if choice == "auto" else "any": {}}
    function = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(function, dict) and function.get("name"):
        return {"tool": {"name": function["name"]}}
    raise BadProviderRequest(
        'the parameter "tool_choice" must be "auto", "required" or {"type": "function", "function": {"name": …}}; '
        "for no tools leave out tools"
    )


def _add_response_format(body: _Body, entity: ServedEntity, request: ModelRequest) -> None:
    wanted = request.response_format
    if wanted is None or wanted.kind == "text":
        return
    if wanted.kind == "json_schema" and uses_output_format(entity):
        _merge(body, "outputConfig", {"textFormat": _output_format(wanted)})
    elif "toolConfig" in body:
        raise BadProviderRequest(
            'the parameter "tools" cannot go with a response format, which is itself a tool here: remove one'
        )
    else:
        body["toolConfig"] = _forced_tool(wanted)


def _output_format(wanted: ResponseFormat) -> _Body:
    schema = {"schema": jsontext.dumps(wanted.schema), "name": _name(wanted)}
    return {"type": "json_schema", "structure": {"jsonSchema": schema}}


def _forced_tool(wanted: ResponseFormat) -> _Body:
    schema = wanted.schema if wanted.kind == "json_schema" else None
    spec = {
        "name": _name(wanted),
        "description": "Takes the answer, in the shape that was asked for.",
        "inputSchema": {"json": schema or {"type": "object"}},
    }
    return {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": spec["name"]}}}


def _name(wanted: ResponseFormat) -> str:
    return _TOOL_NAME.sub("_", wanted.name)[:64] or "response"
