"""Answers of Bedrock's InvokeModel API: each maker's own, told apart by the fields that only one of them has.

Cohere's and Jurassic-2's answers come without counts of tokens: the gateway estimates those. For the sources see
`fleming_sql.providers.bedrock.invoke`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fleming_sql.providers.anthropic import Anthropic
from fleming_sql.providers.base import BadAnswer
from fleming_sql.providers.bedrock.converse_answers import read_converse
from fleming_sql.providers.openai_answers import read_chat
from fleming_sql.providers.rendering import known
from fleming_sql.providers.usage import read_count, read_usage
from fleming_sql.types import Answer, ModelRequest, Usage

_FINISH_REASONS: Final[Mapping[str, str]] = {
    "finish": "stop",
    "finished": "stop",
    "complete": "stop",
    "endoftext": "stop",
    "stop": "stop",
    "stop_sequence": "stop",
    "stop_criteria_met": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filtered": "content_filter",
    "error_toxic": "content_filter",
}
"""Why a text ended, in small letters, in the words of chat completions."""
_GUARDRAIL: Final = "amazon-bedrock-guardrailAction"


def read_text_answer(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    """Read a chat or a completion, of Converse or of InvokeModel.

    Raises:
        BadAnswer: It has no text, or a guardrail has put words of its own in its place.
    """
    if payload.get(_GUARDRAIL) == "INTERVENED":
        raise BadAnswer(f"a guardrail of Bedrock intervened: {_GUARDRAIL} INTERVENED", refusal="content_policy")
    reader = next((reader for field, reader in _READERS.items() if field in payload), None)
    if reader is None:
        fields = ", ".join(sorted(payload)) or "none"
        raise BadAnswer(f"the answer is of no model that this provider knows (fields: {fields})")
    return reader(request, payload)


def read_vectors(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    """Read embeddings: Titan's one vector, or Cohere's for several texts.

    Raises:
        BadAnswer: A vector is missing or is not one.
    """
    found = payload.get("embeddings")
    if isinstance(found, dict):
        found = found.get("float")
    if found is None:
        by_type = payload.get("embeddingsByType")
        one = payload.get("embedding", by_type.get("float") if isinstance(by_type, dict) else None)
        found = None if one is None else [one]
    if not isinstance(found, list):
        raise BadAnswer("the answer has neither embedding nor embeddings of floats")
    if len(found) != len(request.inputs):
        raise BadAnswer(f"the answer has {len(found)} embeddings for {len(request.inputs)} inputs")
    for position, vector in enumerate(found):
        if not isinstance(vector, list) or not vector or not {*map(type, vector)} <= {float, int}:
            raise BadAnswer(f"embeddings[{position}] is not a list of numbers")
    return Answer(found, Usage(input_tokens=read_count(payload, "inputTextTokenCount")))


def render_vectors(answer: Answer) -> dict[str, Any]:
    """Return embeddings in Cohere's form, with Titan's count of tokens."""
    return {"embeddings": answer.content, **known(inputTextTokenCount=answer.usage.input_tokens)}


def _titan(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    result = _first(payload, "results")
    usage = Usage(read_count(payload, "inputTextTokenCount"), read_count(result, "tokenCount"))
    return _answer(result.get("outputText"), result.get("completionReason"), usage)


def _jurassic(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    completion = _first(payload, "completions")
    data, reason = completion.get("data"), completion.get("finishReason")
    text = data.get("text") if isinstance(data, dict) else None
    return _answer(text, reason.get("reason") if isinstance(reason, dict) else None)


def _command(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    generation = _first(payload, "generations")
    return _answer(generation.get("text"), generation.get("finish_reason"))


def _command_r(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    return _answer(payload.get("text"), payload.get("finish_reason"))


def _claude_text(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    return _answer(payload.get("completion"), payload.get("stop_reason"))


def _claude(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    return Anthropic().decode(request, payload)


def _openai(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    text, reason = read_chat(payload)
    model = payload.get("model")
    usage = read_usage(payload.get("usage"), payload.get("service_tier"))
    return Answer(text, usage, model if isinstance(model, str) else None, reason)


def _answer(text: Any, reason: Any, usage: Usage | None = None) -> Answer:
    reason = _FINISH_REASONS.get(reason.lower(), reason.lower()) if isinstance(reason, str) else None
    if not text and reason == "content_filter":
        raise BadAnswer("the answer was filtered", refusal="content_policy")
    if not isinstance(text, str):
        raise BadAnswer(f"the answer has no text, finish reason {reason}")
    return Answer(text, usage or Usage(), None, reason)


def _first(payload: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    items = payload[field]
    if not isinstance(items, list) or not items or not isinstance(items[0], dict):
        raise BadAnswer(f"{field} is not a list of objects")
    return items[0]


_READERS: Final[Mapping[str, Callable[[ModelRequest, Mapping[str, Any]], Answer]]] = {
    "output": read_converse,
    "content": _claude,
    "choices": _openai,
    "results": _titan,
    "generations": _command,
    "completions": _jurassic,
    "completion": _claude_text,
    "text": _command_r,
}
