"""Embeddings by the hashing trick: texts that share words and parts of words get vectors that are near."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final
from zlib import crc32

_WORD: Final = re.compile(r"\w+")
_SHORT_WORD: Final = 0.3
_WORD_PART: Final = 0.3


def embed(text: str, dimensions: int, start: int) -> list[float]:
    """Return the unit vector that stands for a text.

    Args:
        text: Any text; one without words gets a vector of its own.
        dimensions: Length of the vector.
        start: Where hashing begins: another number gives another space.
    """
    vector = [0.0] * dimensions
    begin = start & 0xFFFFFFFF
    for feature, weight in _features(text).items():
        place = crc32(feature.encode("utf-8", "replace"), begin)
        vector[place % dimensions] += weight if place & 0x80000000 else -weight
    length = math.sqrt(math.fsum(item * item for item in vector))
    if length == 0:
        vector[crc32(text.encode("utf-8", "replace"), begin) % dimensions] = length = 1.0
    return [item / length for item in vector]


def _features(text: str) -> dict[str, float]:
    """Return words and their trigrams with weights that grow slowly with how often they occur."""
    features: dict[str, float] = {}
    parts: Counter[str] = Counter()
    for word, times in Counter(_WORD.findall(text.lower())).items():
        features[word] = (1.0 if len(word) > 3 else _SHORT_WORD) * (1 + math.log(times))
        if len(word) > 3:
            marked = f"<{word}>"
            parts.update(marked[at : at + 3] for at in range(len(marked) - 2))
    for part, times in parts.items():
        features[f"#{part}"] = _WORD_PART * (1 + math.log(times))
    return features
