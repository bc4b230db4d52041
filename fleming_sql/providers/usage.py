"""What an answer says of the tokens that it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fleming_sql.types import Usage

MAX_TOKENS: Final = 10**12
"""A count beyond it is no count; the gateway estimates instead."""
_MAX_TEXT: Final = 64


def read_usage(usage: Any, service_tier: Any = None) -> Usage:
    """Read an OpenAI-style `usage` object; a missing or odd one gives empty counts.

    Args:
        usage: The object.
        service_tier: What stands beside it in the answer.
    """
    tier = read_text({"service_tier": service_tier}, "service_tier")
    if not isinstance(usage, dict):
        return Usage(service_tier=tier)
    inputs = _mapping(usage, "prompt_tokens_details", "input_tokens_details")
    cached = read_count(inputs, "cached_tokens")
    return Usage(
        input_tokens=read_count(usage, "prompt_tokens", "input_tokens"),
        output_tokens=_output_tokens(usage),
        # Moonshot and StepFun, and DeepSeek, have it beside the other counts.
        cached_input_tokens=read_count(usage, "cached_tokens", "prompt_cache_hit_tokens") if cached is None else cached,
        reasoning_tokens=_reasoning_tokens(usage),
        cache_write_tokens=read_count(inputs, "cache_write_tokens", "cache_creation_input_tokens"),
        service_tier=tier,
    )


def _output_tokens(usage: Mapping[str, Any]) -> int | None:
    """Return the tokens of the answer with those of the reasoning.

    xAI counts the latter apart (https://docs.x.ai/docs/key-information/consumption-and-rate-limits): the total tells.
    """
    given = read_count(usage, "prompt_tokens", "input_tokens")
    written = read_count(usage, "completion_tokens", "output_tokens")
    reasoning = _reasoning_tokens(usage)
    if given is None or written is None or reasoning is None:
        return written
    is_apart = read_count(usage, "total_tokens") == given + written + reasoning
    return written + reasoning if is_apart else written


def _reasoning_tokens(usage: Mapping[str, Any]) -> int | None:
    return read_count(_mapping(usage, "completion_tokens_details", "output_tokens_details"), "reasoning_tokens")


def _mapping(source: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = source.get(key)
        if isinstance(value, dict):
            return value
    return {}


def read_count(source: Mapping[str, Any], *keys: str) -> int | None:
    """Return the first of the counts called `keys`; None where there is none, or one that cannot be true."""
    for key in keys:
        value = source.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
            return value
    return None


def read_text(source: Mapping[str, Any], key: str) -> str | None:
    """Return the short text called `key`; None where there is none."""
    value = source.get(key)
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT else None
