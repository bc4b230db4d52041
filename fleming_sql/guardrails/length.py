"""The guardrail `length`: how long the texts of a request or of an answer may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from fleming_sql.guardrails.base import PASS, BadConfig, Surroundings, TextGuardrail, Verdict
from fleming_sql.guardrails.documents import Document
from fleming_sql.types import Behavior


class Length(TextGuardrail):
    """Objects to texts that are too short or too long, all parts counted together.

    Parameters do not count, such as the descriptions of tools: nobody who writes a prompt can shorten them.
    """

    description = "Texts that are too short or too long, in characters or in tokens"
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "min_chars": {
                "type": "integer",
                "minimum": 1,
                "description": "Fewest characters, all messages or inputs together",
            },
            "max_chars": {
                "type": "integer",
                "minimum": 0,
                "description": "Most characters, all messages or inputs together",
            },
            "max_tokens": {
                "type": "integer",
                "minimum": 0,
                "description": "Most tokens, as they are counted for limits before a call",
            },
        },
        "minProperties": 1,
    }
    behaviors: ClassVar[tuple[Behavior, ...]] = ("block", "log")

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        self._min_chars: int | None = _whole(config, "min_chars")
        self._max_chars: int | None = _whole(config, "max_chars")
        self._max_tokens: int | None = _whole(config, "max_tokens")
        self._count_tokens = surroundings.count_tokens
        if self._min_chars is not None and self._max_chars is not None and self._min_chars > self._max_chars:
            raise BadConfig(
                f"min_chars {self._min_chars:,} is more than max_chars {self._max_chars:,}",
                "make min_chars the smaller of the two, or leave one out",
            )

    def examine(self, document: Document) -> Verdict:
        """Return which bounds the document breaks."""
        texts = [part.text for part in document.parts if part.role != "parameter"]
        broken = "; ".join(self._broken(texts))
        return Verdict(broken) if broken else PASS

    def _broken(self, texts: list[str]) -> Iterator[str]:
        chars = sum(map(len, texts))
        if self._min_chars is not None and chars < self._min_chars:
            yield f"{chars:,} characters, fewer than min_chars {self._min_chars:,}"
        if self._max_chars is not None and chars > self._max_chars:
            yield f"{chars:,} characters, more than max_chars {self._max_chars:,}"
        if self._max_tokens is not None:
            tokens = sum(map(self._count_tokens, texts))
            if tokens > self._max_tokens:
                yield f"{tokens:,} tokens, more than max_tokens {self._max_tokens:,}"


def _whole(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return None if value is None else int(value)  # 5.0 is an integer in JSON Schema
