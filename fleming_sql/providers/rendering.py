"""Answers in OpenAI's wire format and that of custom models: what `Provider.decode` reads, the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleming_sql.types import COMPLETIONS, CUSTOM, EMBEDDINGS, Answer, Task, Usage


def render_openai(task: Task, answer: Answer) -> dict[str, Any]:
    """Return an answer as the server of a task would have given it."""
    if task == CUSTOM:
        return {"predictions": [answer.content], "model": answer.model}
    told = {"model": answer.model, "usage": render_usage(answer.usage), **_tier(answer.usage)}
    if task == EMBEDDINGS:
        data = [
            {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(answer.content)
        ]
        return {"object": "list", "data": data, **told}
    if task == COMPLETIONS:
        choice = {"index": 0, "text": answer.content, "finish_reason": answer.finish_reason}
        return {"object": "text_completion", "choices": [choice], **told}
    message = {"role": "assistant", "content": answer.content}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return {"object": "chat.completion", "choices": [choice], **told}


def render_usage(usage: Usage) -> dict[str, Any]:
    """Return an OpenAI-style `usage` object, without the counts that are not known.

    Example:
        >>> render_usage(Usage(9, 3))
        {'prompt_tokens': 9, 'completion_tokens': 3, 'total_tokens': 12}
    """
    counts: dict[str, Any] = known(prompt_tokens=usage.input_tokens, completion_tokens=usage.output_tokens)
    if usage.input_tokens is not None:
        counts["total_tokens"] = usage.input_tokens + (usage.output_tokens or 0)
    inputs = known(cached_tokens=usage.cached_input_tokens, cache_write_tokens=usage.cache_write_tokens)
    outputs = known(reasoning_tokens=usage.reasoning_tokens)
    if inputs:
        counts["prompt_tokens_details"] = inputs
    if outputs:
        counts["completion_tokens_details"] = outputs
    return counts


def known(**counts: int | None) -> dict[str, int]:
    """Return the counts that are known."""
    return {name: count for name, count in counts.items() if count is not None}


def _tier(usage: Usage) -> Mapping[str, str]:
    return {} if usage.service_tier is None else {"service_tier": usage.service_tier}
