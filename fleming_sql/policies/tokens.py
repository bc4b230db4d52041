"""Token counts where the provider gave none."""

from __future__ import annotations

from collections.abc import Sequence


def estimate_tokens(characters: int) -> int:
    """Estimate tokens from a number of characters as Databricks does: `(text_length + 1) / 4`."""
    return (characters + 1) // 4


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
