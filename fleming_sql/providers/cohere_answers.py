"""Answers of Cohere's API, version 2, read and put down again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fleming_sql.providers.base import BadAnswer
from fleming_sql.providers.rendering import known
from fleming_sql.providers.usage import read_count
from fleming_sql.types import Answer, Usage

_FILTERED: Final = "content_filter"
_FINISH_REASONS: Final[Mapping[str, str]] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": _FILTERED,
}
"""Cohere's finish reasons in the words of the chat completions that the rest of the gateway knows."""
_REASONS: Final[Mapping[str, str]] = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    _FILTERED: "ERROR_TOXIC",
}
_COUNTS: Final = ("billed_units", "tokens")
_UNKNOWN: Final[Mapping[str, Any]] = {}


def read_chat(payload: Any) -> Answer:
    """Return the text of a message, without its thinking.

    Raises:
        BadAnswer: There is no text; the message says what is there in its place.
    """
    message = _object(payload).get("message")
    if not isinstance(message, dict):
        raise BadAnswer("message is missing or not an object")
    given = payload.get("finish_reason")
    reason = _FINISH_REASONS.get(given, given.lower()) if isinstance(given, str) else None
    return Answer(_text(message.get("content"), reason, given), _read_usage(payload.get("usage")), None, reason)


def _object(payload: Any) -> Mapping[str, Any]:
    if not isinstance(payload, dict):
        raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
    return payload


def _text(content: Any, reason: str | None, given: Any) -> str:
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    texts = [part["text"] for part in parts if part.get("type") == "text" and isinstance(part.get("text"), str)]
    text = "".join(texts)
    if text or (texts and reason != _FILTERED):
        return text
    if reason == _FILTERED:
        raise BadAnswer(f"the answer was filtered: finish_reason {given}", refusal="content_policy")
    kinds = ", ".join(str(part.get("type")) for part in parts) or "no parts"
    raise BadAnswer(f"message.content has no part of type text ({kinds}), finish_reason {given}")


def _read_usage(usage: Any) -> Usage:
    """Read the counts: those that are billed where they are there, for Cohere adds words of its own that are not."""
    if not isinstance(usage, dict):
        return Usage()
    counted = next((usage[key] for key in _COUNTS if _has_tokens(usage.get(key))), _UNKNOWN)
    inputs, cached = _count(counted, "input_tokens"), _count(usage, "cached_tokens")
    return Usage(
        input_tokens=inputs,
        output_tokens=_count(counted, "output_tokens"),
        # What was found in the cache may be of those words too.
        cached_input_tokens=cached if cached is None or inputs is None else min(cached, inputs),
    )


def _has_tokens(counted: Any) -> bool:
    return isinstance(counted, dict) and _count(counted, "input_tokens") is not None


def _count(source: Mapping[str, Any], key: str) -> int | None:
    """Return a count, which Cohere's schema has as a number with a point."""
    value = source.get(key)
    return (
        read_count({key: int(value)}, key)
        if isinstance(value, float) and value.is_integer()
        else read_count(source, key)
    )


def read_embeddings(payload: Any, inputs: int) -> Answer:
    """Return one vector per input.

    Raises:
        BadAnswer: A vector is missing or is not one.
    """
    found = _object(payload).get("embeddings")
    vectors = found.get("float") if isinstance(found, dict) else None
    if not isinstance(vectors, list):
        raise BadAnswer("embeddings.float is missing or not a list")
    if len(vectors) != inputs:
        raise BadAnswer(f"embeddings.float has {len(vectors)} embeddings for {inputs} inputs")
    for position, vector in enumerate(vectors):
        if not isinstance(vector, list) or not vector or not {*map(type, vector)} <= {float, int}:
            raise BadAnswer(f"embeddings.float[{position}] is not a list of numbers")
    meta = payload.get("meta")
    return Answer(vectors, _read_usage(meta))


def render_chat(answer: Answer) -> dict[str, Any]:
    """Return a text as a message with one part."""
    reason = answer.finish_reason
    return {
        "finish_reason": None if reason is None else _REASONS.get(reason, reason.upper()),
        "message": {"role": "assistant", "content": [{"type": "text", "text": answer.content}]},
        "usage": _rendered_usage(answer.usage),
    }


def render_embeddings(answer: Answer) -> dict[str, Any]:
    """Return vectors as `/v2/embed` would have given them."""
    return {"embeddings": {"float": answer.content}, "meta": _rendered_usage(answer.usage)}


def _rendered_usage(usage: Usage) -> dict[str, Any]:
    billed = known(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    return {"billed_units": billed, **known(cached_tokens=usage.cached_input_tokens)}
