"""From an OpenAI-style chat to the `contents` of generateContent.

Source: https://ai.google.dev/api/caching#Content and https://ai.google.dev/gemini-api/docs/function-calling
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from fleming_sql import jsontext
from fleming_sql.providers.base import BadProviderRequest

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_ROLES: Final[Mapping[Any, str]] = {"user": "user", "tool": "user", "assistant": "model"}
_DATA_URL: Final = re.compile(r"data:([\w.+/-]+);base64,(.+)", re.DOTALL)
_OWN_PARTS: Final = frozenset({"inlineData", "fileData"})
_ADDRESSES: Final = ("https://", "http://", "gs://")

_Part = dict[str, Any]


def to_contents(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `contents`, neighbours of the same role merged, and `systemInstruction` where there is one.

    Raises:
        BadProviderRequest: A message has no place in this API.
    """
    system: list[_Part] = []
    contents: list[dict[str, Any]] = []
    called: dict[Any, str] = {}
    for message in messages:
        role = message.get("role")
        if role in _SYSTEM_ROLES:
            system.extend(_system_parts(message.get("content")))
            continue
        if role not in _ROLES:
            raise BadProviderRequest(
                f"a message of role {role!r} has no place here: this provider takes system, user, assistant and tool"
            )
        parts = _tool_result(message, called) if role == "tool" else _parts_of(message, called)
        if contents and contents[-1]["role"] == _ROLES[role]:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": _ROLES[role], "parts": parts})
    if not contents:
        raise BadProviderRequest("the request has no user message, and generateContent needs one")
    return {"contents": contents, **({"systemInstruction": {"parts": system}} if system else {})}


def _system_parts(content: Any) -> list[_Part]:
    parts = _parts(content)
    if any("text" not in part for part in parts):
        raise BadProviderRequest("a system message takes text only")
    return parts


def _parts_of(message: Mapping[str, Any], called: dict[Any, str]) -> list[_Part]:
    """Return the parts of a message; the names of the functions that it calls go into `called`, by id."""
    calls = message.get("tool_calls") or []
    parts = [] if calls and not message.get("content") else _parts(message.get("content"))
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadProviderRequest("each of tool_calls must have a function with a name")
        called[call.get("id")] = function["name"]
        parts.append({"functionCall": {"name": function["name"], "args": _arguments(function.get("arguments"))}})
    return parts


def _arguments(text: Any) -> Any:
    if not isinstance(text, str):
        return text or {}
    try:
        return jsontext.loads(text) if text else {}
    except ValueError:
        raise BadProviderRequest("the arguments of tool_calls must be JSON") from None


def _tool_result(message: Mapping[str, Any], called: Mapping[Any, str]) -> list[_Part]:
    """Return what a function gave; here it stands under the function's name, in OpenAI's words under the call's id."""
    name = message.get("name") or called.get(message.get("tool_call_id"))
    if not isinstance(name, str):
        raise BadProviderRequest("the tool_call_id of a tool message must be one of the tool_calls before it")
    texts = [part.get("text") for part in _parts(message.get("content"))]
    result = "".join(text for text in texts if text)
    return [{"functionResponse": {"name": name, "response": _as_object(result)}}]


def _as_object(text: str) -> Any:
    try:
        value: Any = jsontext.loads(text)
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"result": value}


def _parts(content: Any) -> list[_Part]:
    if isinstance(content, str):
        return [{"text": content}]
    if not isinstance(content, list):
        raise BadProviderRequest("the content of a message must be a text or a list of parts")
    return [_part(part) for part in content]


def _part(part: Any) -> _Part:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if isinstance(part, dict) and _OWN_PARTS & part.keys():
        return dict(part)  # already in Google's own form, such as a video
    if kind == "text" and isinstance(part.get("text"), str):
        return {"text": part["text"]}
    if kind == "image_url":
        address = part.get("image_url")
        url = address.get("url") if isinstance(address, dict) else address
        if isinstance(url, str):
            return _image(url)
    raise BadProviderRequest(
        f"a message part of type {kind!r} has no place here: this provider takes text and image_url"
    )


def _image(url: str) -> _Part:
    if found := _DATA_URL.fullmatch(url):
        return {"inlineData": {"mimeType": found[1], "data": found[2]}}
    if not url.startswith(_ADDRESSES):
        raise BadProviderRequest("image_url must be a data URL in base64, or an address with https:// or gs://")
    media_type = mimetypes.guess_type(urlsplit(url).path)[0]
    if media_type is None:
        raise BadProviderRequest(
            "the address of an image must end in what kind it is, such as .png, since this provider has to say so: "
            "pass a data URL in its place"
        )
    return {"fileData": {"fileUri": url, "mimeType": media_type}}
