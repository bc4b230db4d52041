"""The `modelParameters` argument: what is known is checked here, the rest goes to the provider as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from fleming_sql.errors import ArgumentError
from fleming_sql.types import CUSTOM

_PREFIX: Final = "AI_FUNCTION_INVALID_MODEL_PARAMETERS"


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: Literal["number", "integer", "boolean", "string", "string or array of strings"]
    low: float = -math.inf
    high: float = math.inf


_POSITIVE: Final = _Rule("integer", 1)
_PENALTY: Final = _Rule("number", -2, 2)
_RULES: Final[Mapping[str, _Rule]] = {
    "temperature": _Rule("number", 0, 2),
    "top_p": _Rule("number", 0, 1),
    "max_tokens": _POSITIVE,
    "max_completion_tokens": _POSITIVE,
    "top_k": _POSITIVE,
    "n": _POSITIVE,
    "seed": _Rule("integer"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "stop": _Rule("string or array of strings"),
    "reasoning_effort": _Rule("string"),
    "logprobs": _Rule("boolean"),
    "top_logprobs": _Rule("integer", 0, 20),
    "user": _Rule("string"),
}
_JSON_NAMES: Final = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_REQUEST: Final = "the argument request"
_RESERVED: Final[Mapping[str, str]] = {
    "model": "the row of the endpoint in fleming.served_entities",
    "messages": _REQUEST,
    "prompt": _REQUEST,
    "input": _REQUEST,
    "stream": "no place: a SQL function returns whole answers",
    "response_format": "the argument responseFormat",
    "files": "the argument files",
}
"""Where the value of a reserved name goes instead."""


def check_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters to send: nulls left out, whole numbers as integers where those are due.

    Example:
        >>> check_parameters({"max_tokens": 256.0, "temperature": None, "min_p": 0.1})
        {'max_tokens': 256, 'min_p': 0.1}

    Raises:
        ArgumentError: A parameter is reserved, of the wrong type or out of its range; it is named.
    """
    for name in raw:
        if name in _RESERVED:
            raise ArgumentError(
                f"{_PREFIX}.FOUND_RESERVED_PARAMETER_NAME",
                f'modelParameters must not hold "{name}": its value goes into {_RESERVED[name]}.',
            )
    return {
        name: _checked(name, value, _RULES[name]) if name in _RULES else value
        for name, value in raw.items()
        if value is not None
    }


def is_reusable(task: str, parameters: Mapping[str, Any]) -> bool:
    """Tell whether the same request may be answered with an earlier answer.

    Not where the caller asked for variety, and not where calling may do more than answer: a custom model
    or an agent.
    """
    if task == CUSTOM or task.startswith("agent/"):
        return False
    return _at_most(parameters.get("temperature"), 0) and _at_most(parameters.get("n"), 1)


def _at_most(value: Any, limit: int) -> bool:
    return value is None or (isinstance(value, (int, float)) and value <= limit)


def _checked(name: str, value: Any, rule: _Rule) -> Any:
    typed = _as_kind(value, rule.kind)
    if typed is None:
        raise ArgumentError(
            f"{_PREFIX}.INVALID_PARAMETER_DATA_TYPE",
            f'"{name}" in modelParameters must be of type {rule.kind}, found {_shown(value)}.',
        )
    if rule.kind in ("number", "integer") and not rule.low <= typed <= rule.high:
        wanted = f"{rule.low} or more" if rule.high == math.inf else f"from {rule.low} to {rule.high}"
        raise ArgumentError(
            f"{_PREFIX}.INVALID_NUMERIC_PARAMETER",
            f'"{name}" in modelParameters must be {wanted}, found {_shown(value)}.',
        )
    return typed


def _as_kind(value: Any, kind: str) -> Any:
    """Return the value as this kind has it, None where it is of another."""
    match value, kind:
        case bool(), _:
            return value if kind == "boolean" else None
        case int(), "number" | "integer":
            return value
        case float(), "number" if math.isfinite(value):
            return value
        case float(), "integer" if value.is_integer():
            return int(value)
        case str(), "string" | "string or array of strings":
            return value
        case list(), "string or array of strings" if all(isinstance(item, str) for item in value):
            return value
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{_JSON_NAMES.get(type(value), type(value).__name__)} {text[:80]}"
