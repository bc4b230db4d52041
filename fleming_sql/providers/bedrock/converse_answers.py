"""Answers of Bedrock's Converse API, read and written.

After https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.providers.base import BadAnswer
from fleming_sql.providers.rendering import known
from fleming_sql.providers.usage import read_count, read_text
from fleming_sql.types import Answer, ModelRequest, Usage

_FINISH_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
_STOP_REASONS: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "content_filtered",
}
"""The other way round, by the likeliest of those that are one there."""


def read_converse(request: ModelRequest, payload: Mapping[str, Any]) -> Answer:
    """Read an answer: its text, or the forced tool's input where the request has a response format.

    Raises:
        BadAnswer: There is neither, or a guardrail has put words of its own in their place.
    """
    output = payload.get("output")
    message = output.get("message") if isinstance(output, dict) else None
    blocks = message.get("content") if isinstance(message, dict) else None
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise BadAnswer("output.message.content is not a list of blocks")
    reason = payload.get("stopReason")
    if reason == "guardrail_intervened":
        raise BadAnswer("a guardrail of Bedrock intervened: stopReason guardrail_intervened", refusal="content_policy")
    wanted = request.response_format
    content = _tool_input(blocks) if wanted is not None and wanted.kind != "text" else None
    return Answer(
        content=_text(blocks, reason) if content is None else content,
        usage=_usage(payload),
        model=model if isinstance(model := payload.get("model"), str) else None,
        finish_reason=_FINISH_REASONS.get(reason, reason) if isinstance(reason, str) else None,
    )


def render_converse(answer: Answer) -> dict[str, Any]:
    """Return an answer as Converse would have given it, with the model where one is known."""
    reason = answer.finish_reason
    usage = answer.usage
    cached = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
    counts = known(
        inputTokens=None if usage.input_tokens is None else max(0, usage.input_tokens - cached),
        outputTokens=usage.output_tokens,
        cacheReadInputTokens=usage.cached_input_tokens,
        cacheWriteInputTokens=usage.cache_write_tokens,
        reasoningTokens=usage.reasoning_tokens,
    )
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": answer.content}]}},
        "stopReason": None if reason is None else _STOP_REASONS.get(reason, reason),
        "usage": counts,
        **({} if usage.service_tier is None else {"serviceTier": {"type": usage.service_tier}}),
        **({} if answer.model is None else {"model": answer.model}),
    }


def _tool_input(blocks: list[dict[str, Any]]) -> str | None:
    for block in blocks:
        call = block.get("toolUse")
        if isinstance(call, dict) and "input" in call:
            return jsontext.dumps(call["input"])
    return None


def _text(blocks: list[dict[str, Any]], reason: Any) -> str:
    texts = [block["text"] for block in blocks if "text" in block]
    text = "".join(texts) if texts and all(isinstance(text, str) for text in texts) else None
    if text:
        return text
    if reason == "content_filtered":
        raise BadAnswer("the answer was filtered: stopReason content_filtered", refusal="content_policy")
    if reason == "model_context_window_exceeded":
        raise BadAnswer(f"the model has no room to answer: stopReason {reason}", refusal="context_window")
    if text is not None:
        return text
    kinds = ", ".join(next(iter(block), "empty") for block in blocks) or "no blocks"
    raise BadAnswer(f"output.message.content has no text ({kinds}), stopReason {reason}")


def _usage(payload: Mapping[str, Any]) -> Usage:
    """Read the counts: Bedrock keeps input that its cache takes or gives apart, the gateway counts it as input."""
    usage = payload.get("usage")
    tier = _tier(payload)
    if not isinstance(usage, dict):
        return Usage(service_tier=tier)
    parts = ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    counts = [count for count in (read_count(usage, part) for part in parts) if count is not None]
    return Usage(
        input_tokens=sum(counts) if counts else None,
        output_tokens=read_count(usage, "outputTokens"),
        cached_input_tokens=read_count(usage, "cacheReadInputTokens"),
        reasoning_tokens=read_count(usage, "reasoningTokens"),
        cache_write_tokens=read_count(usage, "cacheWriteInputTokens"),
        service_tier=tier,
    )


def _tier(payload: Mapping[str, Any]) -> str | None:
    """Return what the price depends on besides the counts.

    Optimized latency, and what is kept in the cache for an hour, have no prices of their own in `model_prices`: as
    tiers without a row they leave the cost unknown.
    """
    usage, performance, tier = (payload.get(key) for key in ("usage", "performanceConfig", "serviceTier"))
    details = usage.get("cacheDetails") if isinstance(usage, dict) else None
    if isinstance(details, list) and any(isinstance(item, dict) and item.get("ttl") == "1h" for item in details):
        return "cache_1h"
    if isinstance(performance, dict) and performance.get("latency") == "optimized":
        return "optimized"
    return read_text(tier, "type") if isinstance(tier, dict) else None
