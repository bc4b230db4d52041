"""Token counts where the provider gave none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fleming_sql.types import ModelRequest

FIRST_GUESS: Final = 256
"""Tokens of an answer of which nothing is known yet."""
_PICTURE: Final = 2000
"""Tokens: what hardly any picture exceeds."""
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a call may come to."""

    prompt: int
    answer: int
    """The longest answer that the call allows, else the usual one."""
    is_bounded: bool
    """Whether the call says how long an answer may be."""

    def within(self, limit: int) -> int:
        """Return how much of a limit to reserve: a guess is not worth refusing a call that may fit."""
        sure = self.prompt + (self.answer if self.is_bounded else 0)
        return min(self.prompt + self.answer, max(sure, limit))


def longest_answer(parameters: Mapping[str, Any]) -> int | None:
    """Return how many tokens the parameters of a request allow all its answers together, None without a bound.

    Example:
        >>> longest_answer({"max_tokens": 100, "n": 2})
        200
    """
    for name in _LIMITS:
        bound = parameters.get(name)
        if isinstance(bound, int) and bound > 0:
            answers = parameters.get("n")
            return bound * (answers if isinstance(answers, int) and answers > 0 else 1)
    return None


class UsualAnswer:
    """How long answers have been of late, in tokens: a moving average over about twenty.

    Example:
        >>> usual = UsualAnswer()
        >>> usual.add(100)
        >>> usual.tokens
        100
    """

    _WEIGHT: Final = 0.1

    def __init__(self) -> None:
        self._mean: float | None = None

    @property
    def tokens(self) -> int:
        """What to expect of the next."""
        return FIRST_GUESS if self._mean is None else round(self._mean)

    def add(self, tokens: int) -> None:
        """Count an answer."""
        self._mean = tokens if self._mean is None else self._mean + self._WEIGHT * (tokens - self._mean)


def estimate_tokens(characters: int) -> int:
    """Estimate tokens from a number of characters as Databricks does: `(text_length + 1) / 4`."""
    return (characters + 1) // 4


def longest_prompt(request: ModelRequest) -> int:
    """Return how many tokens the prompt of a request may come to, with room for pictures.

    What is not ASCII counts by its bytes in UTF-8: the vocabularies of models have seldom more to a token than a
    character of it, and never less than a byte.
    """
    texts, pictures = [], 0
    for part in _parts([*request.messages, *request.inputs, request.fields]):
        if isinstance(part, str):
            texts.append(part)
        else:
            pictures += 1
    text = "".join(texts)
    if text.isascii():
        return estimate_tokens(len(text)) + _PICTURE * pictures
    ascii_only = len(text.encode("ascii", "ignore"))
    return estimate_tokens(ascii_only) + len(text.encode("utf-8", "replace")) - ascii_only + _PICTURE * pictures


def _parts(value: Any) -> Iterator[str | Mapping[str, Any]]:
    """Yield the texts in a value, and its pictures as they are."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        if value.get("type") in ("image_url", "input_image", "image"):
            yield value
        else:
            for item in value.values():
                yield from _parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    elif value is not None:
        yield str(value)


def share_out(total: int | None, weights: Sequence[int]) -> list[int | None]:
    """Split a count over the calls that shared a request, by weight, so that the parts sum to it.

    Example:
        >>> share_out(10, [1, 1, 2])
        [2, 3, 5]
    """
    if total is None:
        return [None] * len(weights)
    whole = sum(weights) or len(weights)
    weights = weights if sum(weights) else [1] * len(weights)
    parts: list[int | None] = []
    given = seen = 0
    for weight in weights:
        seen += weight
        upto = total * seen // whole
        parts.append(upto - given)
        given = upto
    return parts
