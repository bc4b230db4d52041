"""From the value that `ai_query` was given, as JSON text, to a request in the gateway's own terms."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.types import (
    AGENT_RESPONSES,
    COMPLETIONS,
    CUSTOM,
    EMBEDDINGS,
    RESPONSES,
    Image,
    ModelRequest,
    ResponseFormat,
    Task,
)

_RESERVED: Final = frozenset({"model", "stream", "response_format"})
_TAKE_ITEMS: Final = frozenset({RESPONSES, AGENT_RESPONSES})
"""Tasks whose requests have the field `input`, with items that need not be messages."""
_SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image or another RIFF file"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"BM", "a BMP image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\x1f\x8b", "gzip data"),
)


class BadRequest(Exception):
    """The request does not fit the endpoint's task; the text says what would be accepted."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as read, and whether it stood for one input or for a list of them."""

    request: ModelRequest
    is_list: bool = False
    """Embeddings: the caller gave a list and gets a list of vectors."""
    characters: int = 0
    """Length of the text in it, for estimates."""


def read_request(
    task: Task,
    text: str,
    file: bytes | None,
    parameters: Mapping[str, Any],
    response_format: ResponseFormat | None,
) -> Prompt:
    """Read one row's request.

    Args:
        task: Of the endpoint.
        text: The request as JSON: a string for a prompt, an object for a STRUCT, an array for a list.
        file: The bytes given as `files`, if any.
        parameters: Those of the endpoint and the call, merged.
        response_format: The answer's shape that the caller asked for.

    Raises:
        BadRequest: The value does not fit the task.
    """
    try:
        value = jsontext.loads(text)
    except ValueError as error:
        raise BadRequest(f"the request is not valid JSON: {error}") from None
    if file is not None and task in (EMBEDDINGS, COMPLETIONS, CUSTOM):
        raise BadRequest(f"files go to chat endpoints, and the task of this one is {task}")
    if task == CUSTOM:
        return Prompt(ModelRequest(task, parameters, fields=value), characters=len(text))
    if task == EMBEDDINGS:
        inputs = _texts(value, "input")
        return Prompt(
            ModelRequest(task, parameters, inputs=inputs),
            is_list=isinstance(value, list),
            characters=sum(map(len, inputs)),
        )
    if task == COMPLETIONS:
        inputs = _texts(value, "prompt")
        if len(inputs) != 1:
            raise BadRequest(f"a completions endpoint takes one prompt per row, and this row has {len(inputs)}")
        return Prompt(ModelRequest(task, parameters, inputs=inputs), characters=len(inputs[0]))
    return _read_chat(task, value, text, file, parameters, response_format)


def _read_chat(
    task: Task,
    value: Any,
    text: str,
    file: bytes | None,
    parameters: Mapping[str, Any],
    response_format: ResponseFormat | None,
) -> Prompt:
    messages, extra = _read_items(value, text) if task in _TAKE_ITEMS else _messages(value, text)
    if file is not None:
        messages = _with_image(messages, read_image(file))
    request = ModelRequest(
        task,
        {**parameters, **extra} if extra else parameters,
        messages=messages,
        response_format=response_format,
    )
    return Prompt(request, characters=sum(_length(message) for message in messages))


def _messages(value: Any, text: str) -> tuple[tuple[Mapping[str, Any], ...], Mapping[str, Any]]:
    if isinstance(value, str):
        return ({"role": "user", "content": value},), {}
    if isinstance(value, bool | int | float):
        return ({"role": "user", "content": text},), {}  # as written: parsing may have rounded it
    if isinstance(value, list):
        return _checked_messages(value), {}
    if not isinstance(value, dict) or "messages" not in value:
        raise BadRequest(
            "a chat endpoint takes text, or a STRUCT or JSON with the field messages: "
            "{'messages': [{'role': 'user', 'content': '…'}]}; this row has " + _described(value)
        )
    return _checked_messages(value["messages"]), _beside(value, "messages")


def _beside(value: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the other fields of a request: they are parameters of this row."""
    extra = {key: item for key, item in _without_nulls(value).items() if key != field}
    reserved = sorted(_RESERVED & extra.keys())
    if reserved:
        raise BadRequest(
            f"the field {reserved[0]} of the request is the gateway's own: the model comes from "
            "fleming.served_entities, the answer's shape from the argument responseFormat"
        )
    return extra


def _without_nulls(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields that are used: a STRUCT has every field in every row, the others as NULL."""
    return {key: item for key, item in value.items() if item is not None}


def _read_items(value: Any, text: str) -> tuple[tuple[Mapping[str, Any], ...], Mapping[str, Any]]:
    """Read what the Responses API takes: `input` is a text, or a list of messages and other items."""
    if not isinstance(value, dict) or value.get("input") is None:
        return _messages(value, text)
    if value.get("messages") is not None:
        raise BadRequest("the request has both fields input and messages: give one of them")
    given = value["input"]
    is_typed = isinstance(given, list) and given and all(_is_item(item) for item in given)
    if not (is_typed or isinstance(given, str)):
        raise BadRequest(
            "input must be a text, or a list with at least one {'role': …, 'content': …} or item with a type, and is "
            + _described(given)
        )
    items = tuple([_without_nulls(item) for item in given]) if is_typed else ({"role": "user", "content": given},)
    return items, _beside(value, "input")


def _is_item(item: Any) -> bool:
    return isinstance(item, dict) and (
        isinstance(item.get("type"), str) or (isinstance(item.get("role"), str) and item.get("content") is not None)
    )


def _checked_messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages must be a list with at least one {'role': …, 'content': …}")
    checked = []
    for position, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest(f"messages[{position}] must be {{'role': …, 'content': …}}, and is {_described(message)}")
        checked.append(_without_nulls(message))
        if "content" not in checked[-1] and "tool_calls" not in checked[-1]:
            raise BadRequest(f"messages[{position}] has no content")
    return tuple(checked)


def _texts(value: Any, field: str) -> tuple[str, ...]:
    if isinstance(value, dict) and value.get(field) is not None:
        value = value[field]
    items = value if isinstance(value, list) else [value]
    if not items:
        raise BadRequest("the list of texts is empty")
    for position, item in enumerate(items):
        if not isinstance(item, str | int | float) or isinstance(item, bool):
            raise BadRequest(
                f"this endpoint takes text, a list of texts, or a STRUCT with the field {field}; "
                f"item {position} is {_described(item)}"
            )
    return tuple(item if isinstance(item, str) else jsontext.dumps(item) for item in items)


def _length(message: Mapping[str, Any]) -> int:
    content = message.get("content", "")
    if isinstance(content, str):
        return len(content)
    parts = content if isinstance(content, list) else []
    return sum(len(part["text"]) for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def read_image(data: bytes) -> Image:
    """Return the picture in `data`.

    Raises:
        BadRequest: It is neither JPEG nor PNG; the text names what was found.
    """
    found = next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), None)
    if found == "image/jpeg":
        return Image("image/jpeg", data)
    if found == "image/png":
        return Image("image/png", data)
    raise BadRequest(f"files takes JPEG and PNG images, and this row has {found or _unknown(data)}")


def _unknown(data: bytes) -> str:
    if not data:
        return "no bytes at all"
    if data[:64].decode("latin-1").isprintable():
        return f"text of {len(data)} bytes: pass the file's content as a BLOB, not its path"
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}"


def _with_image(messages: tuple[Mapping[str, Any], ...], image: Image) -> tuple[Mapping[str, Any], ...]:
    url = f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}
    for position in range(len(messages) - 1, -1, -1):
        message = messages[position]
        if message.get("role") == "user":
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
            changed = {**message, "content": [*parts, part]}
            return (*messages[:position], changed, *messages[position + 1 :])
    raise BadRequest("files needs a message with the role user to go with")


def _described(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, dict):
        return f"an object with the fields {', '.join(map(str, value)) or '(none)'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{type(value).__name__} {jsontext.dumps(value)[:80]}"
