"""The content of answers in OpenAI's wire format."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from fleming_sql.providers.base import BadAnswer, find_error_message


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
    if isinstance(content, str):
        return content, reason
    refusal = message.get("refusal")
    if isinstance(content, list):
        texts = [part["text"] for part in content if _is_text(part)]
        if texts:
            return "".join(texts), reason
        refusal = refusal or next((_refusal(part) for part in content if _refusal(part)), None)
    if refusal:
        raise BadAnswer(f"the model refused: {refusal}")
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
        raise BadAnswer(f"choices is {_kind(payload, 'choices')}{_error_in(payload)}")
    if not choices:
        raise BadAnswer(f"choices is empty{_error_in(payload)}")
    if not isinstance(choices[0], dict):
        raise BadAnswer("choices[0] is not an object")
    return choices[0]


def _error_in(payload: Mapping[str, Any]) -> str:
    """Say what a server that answers errors with status 200 has to say."""
    return f"; the server says: {find_error_message(payload['error'])}" if payload.get("error") else ""


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else None


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type", "text") in ("text", "output_text")
        and isinstance(part.get("text"), str)
    )


def _refusal(part: Any) -> Any:
    return part.get("refusal") if isinstance(part, dict) else None


def _kind(source: Mapping[str, Any], key: str) -> str:
    if key not in source:
        return "missing"
    return "null" if source[key] is None else f"of type {type(source[key]).__name__}"
