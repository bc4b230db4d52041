"""RE2 as it is needed here: where a pattern matches bytes, and which of many patterns do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_MEMORY: Final = 64 << 20
"""Bytes for the states of an automaton; where they are used up it forgets them and goes on, more slowly."""
_NOWHERE: Final = (-1, -1)


class Pattern:
    """One RE2.

    Args:
        pattern: In RE2's syntax.

    Raises:
        re2.error: It is not valid.
    """

    __slots__ = ("_anchor", "_match", "_regex")

    def __init__(self, pattern: str) -> None:
        import re2

        options = re2.Options()
        options.never_capture = True
        options.log_errors = False
        self._regex = re2.compile(pattern.encode(), options=options)
        # What the package makes of each match takes longer than the match itself, and its place is all that is needed.
        self._match: Any = getattr(getattr(self._regex, "_regexp", None), "Match", None)
        self._anchor: Any = getattr(getattr(re2, "_Anchor", None), "UNANCHORED", None)

    def places(self, data: bytes) -> list[tuple[int, int]]:
        """Return where it matches, one after the other."""
        match, anchor = self._match, self._anchor
        if match is None or anchor is None:
            return [found.span() for found in self._regex.finditer(data)]
        found: list[tuple[int, int]] = []
        position, end = 0, len(data)
        while position <= end and (place := match(anchor, data, position, end)[0]) != _NOWHERE:
            found.append(place)
            position = place[1] if place[1] > position else position + 1
        return found

    def matches(self, data: bytes) -> bool:
        """Return whether it matches anywhere."""
        return self._regex.search(data) is not None


class Patterns:
    """Several RE2 in one automaton, which goes through a text once.

    RE2 reports no match, rather than an error, where it has no memory for the states that patterns need. So it is
    tried out with one pattern more, and where that is not found all patterns are said to be there.

    Args:
        patterns: Valid ones.
    """

    __slots__ = ("_all", "_set", "_works")
    _PROBE: Final = b"\x00\x01probe\x01\x00"

    def __init__(self, patterns: Sequence[str]) -> None:
        import re2

        options = re2.Options()
        options.max_mem = _MEMORY
        options.log_errors = False
        self._all = range(len(patterns))
        self._set = re2.Set.SearchSet(options)
        for pattern in (*patterns, r"\x00\x01probe\x01\x00"):
            self._set.Add(pattern.encode())
        self._set.Compile()
        self._works = len(patterns) in (self._set.Match(self._PROBE) or ())

    def present(self, data: bytes) -> Sequence[int]:
        """Return the numbers of those that match anywhere."""
        return (self._set.Match(data) or ()) if self._works else self._all
