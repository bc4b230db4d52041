"""From OpenAI-style messages to the system prompt and the turns of Bedrock's Converse API.

After https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.providers.base import BadProviderRequest

Block = dict[str, Any]

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_SYSTEM_BLOCKS: Final = frozenset({"text", "guardContent", "cachePoint"})
_BLOCKS: Final = frozenset(
    {
        "text",
        "image",
        "document",
        "video",
        "audio",
        "toolUse",
        "toolResult",
        "guardContent",
        "cachePoint",
        "reasoningContent",
        "citationsContent",
        "searchResult",
    }
)
"""Kinds of content that Converse takes; a part that is one of them already goes as it is."""
_DATA_URL: Final = re.compile(r"data:image/([\w.+-]+);base64,(.+)", re.DOTALL)
_FORMATS: Final[Mapping[str, str]] = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "gif": "gif", "webp": "webp"}


def to_conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Block], list[Block]]:
    """Return the blocks of the system prompt, and the turns with neighbours of the same role merged.

    Raises:
        BadProviderRequest: A message has no place in this API, or there is none but system messages.
    """
    system: list[Block] = []
    turns: list[Block] = []
    for message in messages:
        role = message.get("role")
        if role in _SYSTEM_ROLES:
            system += _system(message.get("content"))
            continue
        role, blocks = _turn(role, message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise BadProviderRequest("the request has no user message, and Bedrock's Converse API needs one")
    return system, turns


def _turn(role: Any, message: Mapping[str, Any]) -> tuple[str, list[Block]]:
    content = message.get("content")
    if role == "tool":
        result = {"toolUseId": message.get("tool_call_id"), "content": _blocks(content)}
        return "user", [{"toolResult": result}]
    if role not in ("user", "assistant"):
        raise BadProviderRequest(
            f"a message of role {role!r} has no place here: this provider takes system, user, assistant and tool "
            "messages"
        )
    calls = message.get("tool_calls") if role == "assistant" else None
    if not calls:
        return role, _blocks(content)
    said = [block for block in _blocks(content or "") if block != {"text": ""}]  # refused where it is empty
    return role, [*said, *map(_tool_use, calls)]


def _tool_use(call: Any) -> Block:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise BadProviderRequest("tool_calls must be a list of {'id': …, 'type': 'function', 'function': {…}}")
    try:
        given = jsontext.loads(function.get("arguments") or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise BadProviderRequest(f'the arguments of the tool call "{function.get("name")}" must be a JSON object')
    return {"toolUse": {"toolUseId": call.get("id"), "name": function.get("name"), "input": given}}


def _system(content: Any) -> list[Block]:
    blocks = _blocks(content)
    if not all(block.keys() <= _SYSTEM_BLOCKS for block in blocks):
        raise BadProviderRequest("a system message takes text only")
    return blocks


def _blocks(content: Any) -> list[Block]:
    if isinstance(content, str):
        return [{"text": content}]
    if not isinstance(content, list):
        raise BadProviderRequest("the content of a message must be a text or a list of parts")
    return [block for part in content for block in _part(part)]


def _part(part: Any) -> list[Block]:
    """Return a part as a block, and the point up to which the prompt is to be cached where it is marked so."""
    if not isinstance(part, dict):
        raise _no_place(type(part).__name__)
    known = {key: value for key, value in part.items() if value is not None}
    if len(known) == 1 and known.keys() <= _BLOCKS:
        return [known]
    mark = known.get("cache_control")
    return [_block(known), *([] if mark is None else [_cache_point(mark)])]


def _block(part: Mapping[str, Any]) -> Block:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return {"text": part["text"]}
    if kind == "image_url":
        address = part.get("image_url")
        url = address.get("url") if isinstance(address, dict) else address
        if isinstance(url, str):
            return {"image": _image(url)}
    raise _no_place(kind)


def _no_place(kind: Any) -> BadProviderRequest:
    return BadProviderRequest(
        f"a message part of type {kind!r} has no place here: this provider takes text, image_url and the blocks of "
        "Bedrock's Converse API, such as {'document': {…}}"
    )


def _image(url: str) -> Block:
    found = _DATA_URL.fullmatch(url)
    if found and found[1] in _FORMATS:
        return {"format": _FORMATS[found[1]], "source": {"bytes": found[2]}}
    ending = url.rpartition(".")[2].lower()
    if url.startswith("s3://") and ending in _FORMATS:
        return {"format": _FORMATS[ending], "source": {"s3Location": {"uri": url}}}
    raise BadProviderRequest(
        "image_url must be a data URL in base64 of a PNG, JPEG, GIF or WebP picture, or the s3:// address of one: "
        "Bedrock loads no others"
    )


def _cache_point(mark: Any) -> Block:
    """Return the block for the mark that Anthropic's API has for the same thing."""
    ttl = mark.get("ttl") if isinstance(mark, dict) else None
    return {"cachePoint": {"type": "default", **({"ttl": ttl} if isinstance(ttl, str) else {})}}
