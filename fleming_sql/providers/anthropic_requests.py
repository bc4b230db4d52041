"""From an OpenAI-style chat to the body of a message request to Anthropic."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.types import ModelRequest, ResponseFormat

DEFAULT_MAX_TOKENS: Final = 4096
_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_DATA_URL: Final = re.compile(r"data:([\w.+/-]+);base64,(.+)", re.DOTALL)
_TOOL_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")
_NO_PLACE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "n": lambda value: value == 1,
    "presence_penalty": lambda value: value == 0,
    "frequency_penalty": lambda value: value == 0,
    "logprobs": lambda value: value is False,
    "top_logprobs": lambda value: value == 0,
    "logit_bias": lambda value: not value,
    "seed": lambda value: False,
    "stream": lambda value: value is False,
}
"""OpenAI's parameters that this API does not know, each with the values that ask for nothing."""


def to_body(model: str, request: ModelRequest) -> dict[str, Any]:
    """Return the body of a message request.

    Raises:
        BadProviderRequest: A message or a parameter has no place in this API.
    """
    system, turns = _conversation(request.messages)
    body: dict[str, Any] = {"model": model, "max_tokens": DEFAULT_MAX_TOKENS, "messages": turns}
    if system:
        body["system"] = system
    for key, value in request.parameters.items():
        _add_parameter(body, key, value)
    body.update(_forced_tool(request.response_format, request.parameters))
    return body


def _add_parameter(body: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        return
    if key in ("max_tokens", "max_completion_tokens"):
        body["max_tokens"] = value
    elif key == "stop":
        body["stop_sequences"] = [value] if isinstance(value, str) else value
    elif key == "user":
        body["metadata"] = {**body.get("metadata", {}), "user_id": value}
    elif key in _NO_PLACE:
        if not _NO_PLACE[key](value):
            raise BadProviderRequest(f'the parameter "{key}" has no place in Anthropic\'s API: remove it')
    elif key == "metadata" and isinstance(value, dict):
        body["metadata"] = {**value, **body.get("metadata", {})}
    elif key in ("model", "messages", "system"):
        raise BadProviderRequest(f'the parameter "{key}" is set by the gateway: remove it')
    else:
        body[key] = value


def _forced_tool(wanted: ResponseFormat | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tool whose input is the answer: the way to a JSON answer that every Claude model knows."""
    if wanted is None or wanted.kind == "text":
        return {}
    for key in ("tools", "tool_choice"):
        if parameters.get(key):
            raise BadProviderRequest(
                f'the parameter "{key}" cannot go with a response format, which is itself a tool: remove one'
            )
    schema = wanted.schema if wanted.kind == "json_schema" else None
    name = _TOOL_NAME.sub("_", wanted.name)[:64] or "response"
    tool = {
        "name": name,
        "description": "Takes the answer, in the shape that was asked for.",
        "input_schema": schema or {"type": "object"},
    }
    return {"tools": [tool], "tool_choice": {"type": "tool", "name": name}}


def _conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Return the system prompt, and the turns with neighbours of the same role merged."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if message.get("tool_calls") or role not in {"user", "assistant", *_SYSTEM_ROLES}:
            raise BadProviderRequest(
                f"a message of role {role!r}{' with tool_calls' if message.get('tool_calls') else ''} has no "
                "place here: this provider takes system, user and assistant messages"
            )
        if role in _SYSTEM_ROLES:
            system.extend(_texts_only(message.get("content")))
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"] = _blocks(turns[-1]["content"]) + _blocks(message.get("content"))
        else:
            content = message.get("content")
            turns.append({"role": role, "content": content if isinstance(content, str) else _blocks(content)})
    if not turns:
        raise BadProviderRequest("the request has no user message, and Anthropic's API needs one")
    return "\n\n".join(system), turns


def _texts_only(content: Any) -> list[str]:
    blocks = _blocks(content)
    if any(block["type"] != "text" for block in blocks):
        raise BadProviderRequest("a system message takes text only")
    return [block["text"] for block in blocks]


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadProviderRequest("the content of a message must be a text or a list of parts")
    return [_block(part) for part in content]


def _block(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if isinstance(part, dict) and part.get("source") is not None:
        return dict(part)  # already in Anthropic's own form, such as a document
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        address = part.get("image_url")
        url = address.get("url") if isinstance(address, dict) else address
        if isinstance(url, str):
            return {"type": "image", "source": _source(url)}
    raise BadProviderRequest(
        f"a message part of type {kind!r} has no place here: this provider takes text and image_url"
    )


def _source(url: str) -> dict[str, Any]:
    if found := _DATA_URL.fullmatch(url):
        return {"type": "base64", "media_type": found[1], "data": found[2]}
    if url.startswith("https://"):
        return {"type": "url", "url": url}
    raise BadProviderRequest("image_url must be a data URL in base64 or an https address")
