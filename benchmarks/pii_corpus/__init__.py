"""The labelled corpus of texts with and without personal data: what it is made of and how it is scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).with_name("corpus.jsonl")


@dataclass(frozen=True, slots=True)
class Entity:
    """A stretch of a text that is personal data."""

    type: str
    start: int
    end: int
    """In characters; exclusive."""
    optional: bool = False
    """Whether it is as good to leave it as to find it: it counts neither way."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text with its labels."""

    text: str
    entities: Sequence[Entity]
    source: str
    """`generated`, `hand`, `obfuscated` or `held_out`."""
    topic: str
    """The section of the templates that it was made from, or the trick that was played."""


def load(path: Path = CORPUS) -> list[Example]:
    """Return all texts of the corpus."""
    rows = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return [
        Example(row["text"], [Entity(**entity) for entity in row["entities"]], row["source"], row["topic"])
        for row in rows
    ]
