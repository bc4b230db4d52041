"""Answers to generateContent, read and put down again.

Source: https://ai.google.dev/api/generate-content#generatecontentresponse
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fleming_sql.providers.base import BadAnswer
from fleming_sql.providers.rendering import known
from fleming_sql.providers.usage import read_count, read_text
from fleming_sql.types import Answer, Usage

_FILTERED: Final = "content_filter"
_FINISH_REASONS: Final[Mapping[str, str]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": _FILTERED,
    "RECITATION": _FILTERED,
    "BLOCKLIST": _FILTERED,
    "PROHIBITED_CONTENT": _FILTERED,
    "SPII": _FILTERED,
    "MODEL_ARMOR": _FILTERED,
    "IMAGE_SAFETY": _FILTERED,
    "IMAGE_PROHIBITED_CONTENT": _FILTERED,
    "IMAGE_RECITATION": _FILTERED,
}
"""Google's finish reasons in the words of the chat completions that the rest of the gateway knows."""
_REASONS: Final[Mapping[str, str]] = {"stop": "STOP", "length": "MAX_TOKENS", _FILTERED: "SAFETY"}
"""The other way round, by the likeliest of those that are one there."""
_TIER_PREFIXES: Final = ("service_tier_", "on_demand_")


def read_chat(payload: Any) -> Answer:
    """Return the first candidate's text, without its thoughts.

    Raises:
        BadAnswer: There is no text; the message says what is there in its place.
    """
    if not isinstance(payload, dict):
        raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
    candidates = payload.get("candidates")
    candidate = candidates[0] if isinstance(candidates, list) and candidates else None
    if not isinstance(candidate, dict):
        raise _without_candidate(payload)
    given = candidate.get("finishReason")
    reason = _FINISH_REASONS.get(given, given.lower()) if isinstance(given, str) else None
    model = payload.get("modelVersion")
    return Answer(
        content=_text(candidate, reason),
        usage=read_usage(payload.get("usageMetadata")),
        model=model if isinstance(model, str) else None,
        finish_reason=reason,
    )


def _without_candidate(payload: Mapping[str, Any]) -> BadAnswer:
    feedback = payload.get("promptFeedback")
    blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
    if blocked:
        return BadAnswer(f"the prompt was blocked: blockReason {blocked}", refusal="content_policy")
    return BadAnswer("candidates is missing or empty")


def _text(candidate: Mapping[str, Any], reason: str | None) -> str:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    parts = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str) and not part.get("thought")]
    text = "".join(texts)
    if text or (texts and reason != _FILTERED):
        return text
    given = candidate.get("finishReason")
    if reason == _FILTERED:
        raise BadAnswer(f"the answer was filtered: finishReason {given}", refusal="content_policy")
    kinds = ", ".join(_kind(part) for part in parts) or "no parts"
    hint = "; thoughts count as output: raise max_tokens" if reason == "length" else ""
    raise BadAnswer(f"candidates[0].content has no part with text ({kinds}), finishReason {given}{hint}")


def _kind(part: Mapping[str, Any]) -> str:
    return "thought" if part.get("thought") else ", ".join(part) or "an empty part"


def read_usage(usage: Any) -> Usage:
    """Read `usageMetadata`.

    Thoughts are output that is counted beside that of the candidates. Where the total says that the candidates'
    count has them in it already, as it had at first, they are not added again.
    """
    if not isinstance(usage, dict):
        return Usage()
    prompt, tools = read_count(usage, "promptTokenCount"), read_count(usage, "toolUsePromptTokenCount")
    written, thoughts = read_count(usage, "candidatesTokenCount"), read_count(usage, "thoughtsTokenCount")
    total = read_count(usage, "totalTokenCount")
    inputs = None if prompt is None else prompt + (tools or 0)
    counts_thoughts = written is not None and total is not None and total == (inputs or 0) + written
    outputs = [count for count in (written, None if counts_thoughts else thoughts) if count is not None]
    return Usage(
        input_tokens=inputs,
        output_tokens=sum(outputs) if outputs else None,
        cached_input_tokens=read_count(usage, "cachedContentTokenCount"),
        reasoning_tokens=thoughts,
        service_tier=_tier(usage),
    )


def _tier(usage: Mapping[str, Any]) -> str | None:
    """Return the tier: the Gemini API calls it serviceTier, Vertex AI trafficType."""
    tier = read_text(usage, "serviceTier") or read_text(usage, "trafficType")
    if tier is None:
        return None
    tier = tier.lower()
    return next((tier.removeprefix(prefix) for prefix in _TIER_PREFIXES if tier.startswith(prefix)), tier)


def render_chat(answer: Answer) -> dict[str, Any]:
    """Return an answer as a candidate with one part."""
    reason = answer.finish_reason
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": answer.content}]}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = _REASONS.get(reason, reason.upper())
    rendered: dict[str, Any] = {"candidates": [candidate], "usageMetadata": _rendered_usage(answer.usage)}
    return rendered if answer.model is None else {**rendered, "modelVersion": answer.model}


def _rendered_usage(usage: Usage) -> dict[str, Any]:
    thoughts, outputs = usage.reasoning_tokens, usage.output_tokens
    counts: dict[str, Any] = known(
        promptTokenCount=usage.input_tokens,
        candidatesTokenCount=None if outputs is None else outputs - (thoughts or 0),
        thoughtsTokenCount=thoughts,
        cachedContentTokenCount=usage.cached_input_tokens,
        totalTokenCount=None if usage.input_tokens is None else usage.input_tokens + (outputs or 0),
    )
    return counts if usage.service_tier is None else {**counts, "serviceTier": usage.service_tier}
