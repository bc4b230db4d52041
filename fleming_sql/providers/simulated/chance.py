"""Chance that is none: numbers that depend on their arguments only, in every process and on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, TypeVar

_RANGE: Final = 1 << 64
_SEPARATOR: Final = "\x1f"

T = TypeVar("T")


def number(*parts: object) -> int:
    """Return a number from 0 to 2**64 - 1 that stands for `parts`."""
    text = _SEPARATOR.join(map(str, parts))
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def share(*parts: object) -> float:
    """Return a number from 0 up to, but not including, 1 that stands for `parts`."""
    return (number(*parts) >> 11) / (_RANGE >> 11)


def pick(options: Sequence[T], *parts: object) -> T:
    """Return the option that stands for `parts`.

    Example:
        >>> pick(["a", "b", "c"], 1, "some prompt") == pick(["a", "b", "c"], 1, "some prompt")
        True
    """
    return options[number(*parts) % len(options)]
