"""A text as it reads, and where in the text as it was given each of its characters stands.

Personal data is found in what a reader, or a model, makes of a text: with escapes resolved, look-alikes in ASCII and
without what cannot be seen. What was found is masked in the text as it was given.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, NamedTuple

from fleming_sql.guardrails.pii.context import mark
from fleming_sql.guardrails.pii.folding import HIDDEN, fold

_CONTROLS: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
"""Those that nothing shows."""
ESCAPE_CUE: Final = rf"{_CONTROLS}|\\|%[2-7][0-9A-Fa-f]|&(?:#|[A-Za-z]{{2,8}};)"
"""RE2: an escape may stand here."""
_ENTITIES: Final = {
    "commat": "@", "period": ".", "colon": ":", "sol": "/", "plus": "+", "num": "#", "lowbar": "_", "UnderBar": "_",
    "hyphen": "-", "dash": "-", "ndash": "-", "mdash": "-", "minus": "-", "nbsp": " ", "ensp": " ", "emsp": " ",
    "thinsp": " ", "lpar": "(", "rpar": ")", "equals": "=", "amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'",
    "shy": HIDDEN, "zwj": HIDDEN, "zwnj": HIDDEN, "lrm": HIDDEN, "rlm": HIDDEN, "ZeroWidthSpace": HIDDEN,
}  # fmt: skip
"""Named character references of HTML that may stand in personal data (WHATWG HTML, section 13.5)."""
_UNIT: Final = (
    f"{HIDDEN}+"
    r"|\\{1,16}(?:u(?P<json>[0-9A-Fa-f]{4})|(?P<mark>[\"'/bfnrt]))"
    r"|%(?P<percent>[2-7][0-9A-Fa-f])"
    r"|&(?:#(?P<decimal>[0-9]{1,7})|#[xX](?P<hex>[0-9A-Fa-f]{1,6})|(?P<name>[A-Za-z]{2,14}));"
)


class Plain(NamedTuple):
    """A text as it reads."""

    data: bytes
    """ASCII, one byte per character; a question mark for what has no look-alike there."""
    stretches: Sequence[Stretch] = ()
    """Where its characters stand in the text as it was given; empty where they all stand in the same place."""

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return the place in the text as it was given of the characters from `start` to before `end`."""
        if not self.stretches:
            return start, end
        first, last = self._stretch(start), self._stretch(end - 1)
        begin = first.origin + (start - first.start if first.width == 1 else 0)
        stop = last.origin + (end - last.start if last.width == 1 else last.width)
        return begin, stop

    def _stretch(self, position: int) -> Stretch:
        return self.stretches[bisect_right(self.stretches, position, key=lambda stretch: stretch.start) - 1]


class Stretch(NamedTuple):
    """Characters that follow each other in both texts, or one that stands for several."""

    start: int
    """In the text as it reads."""
    origin: int
    """In the text as it was given."""
    width: int
    """How many characters stand there for each."""


def normalise(text: str) -> Plain:
    """Return a text with look-alikes in ASCII and without what cannot be seen; escapes are left."""
    if text.isascii():
        return Plain(text.encode())
    folded = _folded(text)
    if HIDDEN in folded:
        return _resolved(folded, _hidden().finditer(folded))
    return Plain(folded.encode("ascii", "replace"))


def unescape(text: str) -> Plain:
    r"""Return a text as `normalise` does, with escapes of JSON, URLs and HTML resolved, and without controls.

    Example:
        >>> unescape(r"ada\u0040example.com").data
        b'ada@example.com'
    """
    seen = _controls().sub(HIDDEN, text)  # before context words of other scripts become such signs
    folded = seen if seen.isascii() else _folded(seen)
    return _resolved(folded, _units().finditer(folded))


def _folded(text: str) -> str:
    """Return a text of the same length with look-alikes in ASCII, and so with all letters of addresses of mail."""
    folded = fold(mark(text))
    return _address().sub(_in_ascii, folded) if "@" in folded else folded


def _in_ascii(address: re.Match[str]) -> str:
    return _foreign().sub("x", address[0])


def _resolved(text: str, units: Iterable[re.Match[str]]) -> Plain:
    pieces: list[str] = []
    stretches: list[Stretch] = []
    done = length = 0
    for unit in units:
        begin, end = unit.span()
        read = _meaning(unit)
        if begin > done:
            stretches.append(Stretch(length, done, 1))
            pieces.append(text[done:begin])
            length += begin - done
        if read != HIDDEN:
            stretches.append(Stretch(length, begin, end - begin))
            pieces.append(read)
            length += 1
        done = end
    stretches.append(Stretch(length, done, 1))
    pieces.append(text[done:])
    return Plain("".join(pieces).encode("ascii", "replace"), stretches)


def _meaning(unit: re.Match[str]) -> str:
    """Return the one character that an escape stands for, or HIDDEN."""
    kind = unit.lastgroup
    if kind is None:
        return HIDDEN
    body = unit[kind]
    if kind == "name":
        return _ENTITIES.get(body, "?")
    if kind == "mark":
        return body if body in "\"'/" else "\n"
    code = int(body, 10 if kind == "decimal" else 16)
    if code > 0x10FFFF:
        return "?"
    return _controls().sub(HIDDEN, fold(chr(code)))


@cache
def _address() -> re.Pattern[str]:
    # Scripts without spaces are left out: what stands beside an address there is another word.
    word = r"[\w.%+\u0180-\u06ff-]"
    return re.compile(rf"(?<!{word}){word}+@{word}+")


@cache
def _foreign() -> re.Pattern[str]:
    return re.compile(r"[\u0180-\u06ff]")


@cache
def _controls() -> re.Pattern[str]:
    return re.compile(_CONTROLS)


@cache
def _units() -> re.Pattern[str]:
    return re.compile(_UNIT)


@cache
def _hidden() -> re.Pattern[str]:
    return re.compile(f"{HIDDEN}+")
