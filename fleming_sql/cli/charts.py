"""Small charts of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_LONGEST_LABEL: Final = 32
_WIDEST: Final = 100


def bars(labels: Sequence[str], values: Sequence[float], told: Sequence[str], width: int) -> str:
    """Return horizontal bars, one line for each value, the greatest as long as there is room.

    Args:
        labels: What each bar is of.
        values: How long they are, relative to one another; 0 or more.
        told: The values in words, which stand behind the bars.
        width: Characters of a line.
    """
    shown = [label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…" for label in labels]
    label_width = max(map(len, shown), default=0)
    room = max(8, min(width, _WIDEST) - label_width - max(map(len, told), default=0) - 3)
    greatest = max(values, default=0)
    return "\n".join(
        f"{label.ljust(label_width)} {_bar(value / greatest if greatest else 0, room)} {words}"
        for label, value, words in zip(shown, values, told, strict=True)
    )


def _bar(share: float, room: int) -> str:
    """Return a bar in eighths of a character; whatever is more than nothing can be seen."""
    eighths = round(share * room * 8)
    if share > 0:
        eighths = max(1, eighths)
    return ("█" * (eighths // 8) + _BLOCKS[eighths % 8]).rstrip()
