"""The content of answers in OpenAI's wire format."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from fleming_sql.providers.base import BadAnswer, find_error_message
from fleming_sql.providers.refusals import read_refusal
from fleming_sql.types import Refusal

_FILTERED: Final = "content_filter"


def read_chat(payload: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return text and finish reason of the first choice of a chat completion.

    Raises:
        BadAnswer: There is no text; the message says what is there in its place.
    """
    choice = _first_choice(payload)
    reason = _finish_reason(choice)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadAnswer(f"choices[0].message is {_kind(choice, 'message')}, finish_reason {reason}")
    content = message.get("content")
    text = _text(content)
    refusal = message.get("refusal") or _refusal(content)
    if text or (text is not None and not refusal and reason != _FILTERED):
        return text, reason
    if refusal:
        raise BadAnswer(f"the model refused: {refusal}", refusal="content_policy")
    _check_filter(reason)
    if isinstance(content, list):
        raise BadAnswer(f"choices[0].message.content has no part of type text, finish_reason {reason}")
    raise BadAnswer(f"choices[0].message.content is {_kind(message, 'content')}, finish_reason {reason}")


def read_completion(payload: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return text and finish reason of the first choice of a text completion.

    Raises:
        BadAnswer: There is no text.
    """
    choice = _first_choice(payload)
    text = choice.get("text")
    if not text:
        _check_filter(_finish_reason(choice))
    if not isinstance(text, str):
        raise BadAnswer(f"choices[0].text is {_kind(choice, 'text')}, finish_reason {_finish_reason(choice)}")
    return text, _finish_reason(choice)


def read_embeddings(payload: Mapping[str, Any], inputs: int) -> list[list[float]]:
    """Return one vector per input, in the order of the inputs.

    Raises:
        BadAnswer: A vector is missing or is not one, or the order is unclear.
    """
    data = payload.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise BadAnswer(f"data is not a list of objects{_error_in(payload)}")
    if len(data) != inputs:
        raise BadAnswer(f"data has {len(data)} embeddings for {inputs} inputs")
    vectors: list[list[float] | None] = [None] * inputs
    for position, item in enumerate(data):
        index = item.get("index", position)
        if not isinstance(index, int) or not 0 <= index < inputs or vectors[index] is not None:
            raise BadAnswer(f"data[{position}].index is {index!r}: not each input has its embedding")
        vectors[index] = _vector(item.get("embedding"), position)
    return [vector for vector in vectors if vector is not None]


def _vector(value: Any, position: int) -> list[float]:
    if isinstance(value, str):
        try:
            packed = base64.b64decode(value, validate=True)
            numbers: list[float] = np.frombuffer(packed, dtype="<f4").tolist()
        except (binascii.Error, ValueError):
            raise BadAnswer(f"data[{position}].embedding is text, but not base64 of 32-bit floats") from None
        value = numbers
    if not isinstance(value, list) or not value or not {*map(type, value)} <= {float, int}:
        raise BadAnswer(f"data[{position}].embedding is not a list of numbers")
    return value


def _first_choice(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = payload.get("choices")
    if not isinstance(choices, list):
        raise BadAnswer(f"choices is {_kind(payload, 'choices')}{_error_in(payload)}", refusal=_refused(payload))
    if not choices:
        raise BadAnswer(f"choices is empty{_error_in(payload)}", refusal=_refused(payload))
    if not isinstance(choices[0], dict):
        raise BadAnswer("choices[0] is not an object")
    return choices[0]


def _error_in(payload: Mapping[str, Any]) -> str:
    """Say what a server that answers errors with status 200 has to say."""
    return f"; the server says: {find_error_message(payload['error'])}" if payload.get("error") else ""


def _refused(payload: Mapping[str, Any]) -> Refusal | None:
    """Return what such a server refuses; it puts the status that it means into the error, as OpenRouter does."""
    error = payload.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return read_refusal(code if isinstance(code, int) else 400, payload) if error else None


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else None


def _check_filter(reason: str | None) -> None:
    """Raise where an answer without content was filtered, as Azure OpenAI does with what a model wrote."""
    if reason == _FILTERED:
        raise BadAnswer("the answer was filtered: finish_reason content_filter", refusal="content_policy")


def _text(content: Any) -> str | None:
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = [part["text"] for part in content if _is_text(part)]
    return "".join(texts) if texts else None


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type", "text") in ("text", "output_text")
        and isinstance(part.get("text"), str)
    )


def _refusal(content: Any) -> Any:
    """Return the first refusal among the parts of a content, None without any."""
    parts = content if isinstance(content, list) else []
    return next((part["refusal"] for part in parts if isinstance(part, dict) and part.get("refusal")), None)


def _kind(source: Mapping[str, Any], key: str) -> str:
    if key not in source:
        return "missing"
    return "null" if source[key] is None else f"of type {type(source[key]).__name__}"
