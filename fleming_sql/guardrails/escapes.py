r"""Texts with the escapes of JSON resolved, which is how a model reads them: `\u0040` is an @."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from fleming_sql.guardrails.splicing import ESCAPE, json_stretches

_RUN: Final = r"\\(?<!\\\\)\\*+"
r"""All backslashes of a row, since JSON may stand in the strings of JSON: `\\\"`.

A match begins at the first of them only. Began it at each, a row would be read over and over."""
_CODE: Final = (
    r"u(?:([dD][89abAB][0-9a-fA-F]{2})\\++u([dD][c-fC-F][0-9a-fA-F]{2})"  # a pair of surrogates
    r"|([0-9a-fA-F]{4}))"
)
_CODES: Final = re.compile(_RUN + _CODE)
_ESCAPES: Final = re.compile(_RUN + rf'(?:{_CODE}|(["/bfnrt]))')
_SIGNS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "/": "/"}


class Meant(NamedTuple):
    """A text with its escapes resolved."""

    text: str
    ends: Sequence[int]
    """Where each escape ends in it."""
    origins: Sequence[int]
    """Where each escape ends in the text as it was given."""
    written: Sequence[tuple[int, int]]
    """The escapes of JSON there, without those of JSON in its strings."""

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return the place in the text as it was given of the characters from `start` to before `end`."""
        return self._origin(start), self._origin(end)

    def cuts(self, position: int) -> bool:
        """Return whether a position in the text as it was given lies within an escape of JSON."""
        last = bisect_left(self.written, position, key=lambda escape: escape[0]) - 1
        return last >= 0 and position < self.written[last][1]

    def _origin(self, position: int) -> int:
        last = bisect_right(self.ends, position) - 1
        return position if last < 0 else self.origins[last] + position - self.ends[last]


def unescape(text: str) -> Meant | None:
    r"""Return a text with its escapes resolved; None where it has none.

    Where a text is no JSON, only `\u` and four hexadecimal digits is an escape: `\t` may begin a path or a formula.

    Example:
        >>> unescape('["ada\\u0040example.com"]').text
        '["ada@example.com"]'
    """
    pieces: list[str] = []
    ends: list[int] = []
    origins: list[int] = []
    done = length = 0
    stretches = json_stretches(text)
    for escape in _escapes(text, stretches):
        begin, end = escape.span()
        pieces += [text[done:begin], _meaning(escape)]
        length += begin - done + 1
        ends.append(length)
        origins.append(end)
        done = end
    if not pieces:
        return None
    written = [escape.span() for start, end in stretches for escape in ESCAPE.finditer(text, start, end)]
    return Meant("".join([*pieces, text[done:]]), ends, origins, written)


def _escapes(text: str, stretches: Sequence[tuple[int, int]]) -> Iterator[re.Match[str]]:
    done = 0
    for start, end in stretches:
        yield from _CODES.finditer(text, done, start)
        yield from _ESCAPES.finditer(text, start, end)
        done = end
    yield from _CODES.finditer(text, done)


def _meaning(escape: re.Match[str]) -> str:
    """Return the one character that an escape stands for."""
    body = escape[escape.lastindex or 0]
    if escape.lastindex == 4:
        return _SIGNS[body]
    if escape.lastindex == 2:
        return chr(0x10000 + ((int(escape[1], 16) - 0xD800) << 10) + int(body, 16) - 0xDC00)
    character = chr(int(body, 16))
    return "\ufffd" if "\ud800" <= character <= "\udfff" else character
