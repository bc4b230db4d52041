# ruff: noqa: RUF001  looking like another character is what these are here for
"""Texts as words in them are compared, and where their characters stand in the texts as they were given.

They are compared much as Unicode compares identifiers (NFKC_Casefold, The Unicode Standard, section 3.13): without
regard to case, to the width of letters or to characters that nobody sees. A run of white space is one space. A letter
that only looks like a Latin one is that where it stands in a word with Latin letters.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

UNSPACED_BREAK: Final = "\u200b"
"""The zero-width space: nobody sees it, and it ends a word all the same."""
_HIDDEN: Final = (
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no white space
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    r"\u0334-\u0338\u20d0-\u20ff]"  # strokes through a letter and rings around it, which make no other letter of it
)
"""Default_Ignorable_Code_Point of Unicode 15, DerivedCoreProperties.txt, and what else hides a letter."""
_UNSEEN: Final = re.compile(_HIDDEN)
_SINGLE: Final = (
    r"[!-~\u0400-\u0482\u048a-\u052f\u05d0-\u05ea\u0620-\u064a\u0904-\u0939\u0e01-\u0e30"
    r"\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]"
)
"""Letters that become one with nothing but marks. There are others."""
_CUT: Final = re.compile(rf"{_SINGLE}{_HIDDEN}*+(?={_SINGLE})")
_SPACE: Final = re.compile(r"\s+")
_MOST_MARKS: Final = 30
"""On one letter, as in Unicode's Stream-Safe Text Format (UAX #15): normalising takes the square of their number."""
_STACKED: Final = re.compile(rf"[^\w\x00-\x7f]{{{_MOST_MARKS + 1},}}")
_SHORT: Final = 512
"""Characters in which no stack of marks takes long."""
_BLOCK: Final = 128
"""Characters whose places are found together: places take longer than folding, and few of them are asked for."""


LOOKALIKES: Final = (
    ("аобесрхуіјѕԁԛԝһкмтнвгдлӏпиёѡѵ", "ao6ecpxyijsdqwhkmthbrdllnuewv"),
    ("АВЕКМНОРСТХУІЈЅӀЁԚԜҺ", "ABEKMHOPCTXYIJSIEQWH"),
    ("αβεικνορτυχγηωϲϳ", "abeikvoptuxynwcj"),
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹ", "ABEZHIKMNOPTYXC"),
    ("օոսհցքյ", "onuhgqj"),
)
"""Letters of Cyrillic, Greek and Armenian, and the Latin ones that they look like.

Source: `confusables.txt` of Unicode TS 39, and a few that are read so in the middle of a Latin word.
"""
_LATIN_FOR: Final = {
    ord(one): other for letters, latin in LOOKALIKES for one, other in zip(letters, latin, strict=True)
}
_WORD: Final = re.compile(r"[^\s!-/:-@\[-`{-~]+")
_LATIN: Final = re.compile("[A-Za-z\u00c0-\u024f\u2100-\u214f\uff21-\uff5a\U0001d400-\U0001d7ff]")
_LOOKALIKE: Final = re.compile("[\u0370-\u03ff\u0400-\u058f]")


def fold(text: str) -> str:
    """Return a text as it is compared.

    Example:
        >>> fold("HARD  Straße")
        'hard strasse'
    """
    if text.isascii():
        folded = " ".join(text.lower().split())
        return folded if folded.isprintable() else " ".join(_UNSEEN.sub("", text).lower().split())
    seen = _UNSEEN.sub("", _in_one_script(text))
    if len(seen) > _SHORT:
        seen = _STACKED.sub(_fewer_marks, seen)
    return " ".join(_letters(seen).split())


class Folded:
    """A text as it is compared, which knows where its characters stand in the text as it was given.

    Args:
        text: As it was given.
    """

    def __init__(self, text: str) -> None:
        self._given = text = _in_one_script(text)
        self._cuts = list(_cuts(text))
        pieces = [_spaced(text[start:end]) for start, end in zip(self._cuts, self._cuts[1:], strict=False)]
        self._starts = [0, *accumulate(map(len, pieces))]
        self._places: dict[int, _Places] = {}
        self.text = "".join(pieces)
        """As it is compared, white space at its ends aside."""

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return the place in the text as it was given of the characters from `start` to before `end`.

        Where one character became several, or several became one, it is the place of all of them.
        """
        first, last = self._block(start), self._block(end - 1)
        return (
            self._cuts[first] + self._in(first).starts[start - self._starts[first]],
            self._cuts[last] + self._in(last).ends[end - 1 - self._starts[last]],
        )

    def breaks(self) -> set[int]:
        """Return where in `text` a word ends though nothing is seen there."""
        found: set[int] = set()
        for number, start in enumerate(self._starts[:-1]):
            if UNSPACED_BREAK in self._given[self._cuts[number] : self._cuts[number + 1]]:
                found.update(start + position for position in self._in(number).breaks)
        return found

    def _block(self, position: int) -> int:
        return bisect_right(self._starts, position, hi=len(self._starts) - 1) - 1

    def _in(self, block: int) -> _Places:
        known = self._places.get(block)
        if known is None:
            given = self._given[self._cuts[block] : self._cuts[block + 1]]
            known = _places(given, self._starts[block + 1] - self._starts[block])
            self._places[block] = known
        return known


class _Places(NamedTuple):
    """Where the characters of a folded block stand in the block as it was given."""

    starts: Sequence[int]
    ends: Sequence[int]
    breaks: Sequence[int]


def _places(text: str, length: int) -> _Places:
    starts: list[int] = []
    ends: list[int] = []
    breaks: list[int] = []
    is_space = False
    done = 0
    for start, end, cluster in _clusters(text):
        if start > done and UNSPACED_BREAK in text[done:start]:
            breaks.append(len(starts))
        done = end
        for letter in _letters(cluster):
            if is_space and letter.isspace():
                ends[-1] = end
                continue
            is_space = letter.isspace()
            starts.append(start)
            ends.append(end)
    if UNSPACED_BREAK in text[done:]:
        breaks.append(len(starts))
    if len(starts) != length:  # too many marks on one letter: all of the block is one place then
        return _Places([0] * length, [len(text)] * length, breaks)
    return _Places(starts, ends, breaks)


def _spaced(text: str) -> str:
    """Return a text as `fold` does, and with the white space at its ends."""
    seen = _UNSEEN.sub("", text)
    if len(seen) > _SHORT:
        seen = _STACKED.sub(_fewer_marks, seen)
    return _SPACE.sub(" ", _letters(seen))


def _in_one_script(text: str) -> str:
    """Return a text of the same length in which no word mixes Latin letters with those that look like them."""
    return _WORD.sub(_in_latin, text) if _LOOKALIKE.search(text) else text


def _in_latin(word: re.Match[str]) -> str:
    # A word of another script alone is left: its letters mean what they are, and in no case look all like Latin ones.
    return word[0].translate(_LATIN_FOR) if _LATIN.search(word[0]) else word[0]


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.replace("i\u0307", "i")  # what İ becomes, which Turkish writes as i


def _cuts(text: str) -> Iterator[int]:
    """Return where blocks begin, and the last ends: folding one has nothing to do with what stands outside."""
    yield 0
    cut = _CUT.search(text, _BLOCK)
    while cut is not None:
        yield cut.end()
        cut = _CUT.search(text, cut.end() + _BLOCK)
    yield len(text)


def _clusters(text: str) -> Iterator[tuple[int, int, str]]:
    """Return each character that is seen with the marks on it: what Unicode composes lies within one of these."""
    cluster, start, end = "", 0, 0
    for position, character in enumerate(text):
        if _UNSEEN.match(character):
            continue
        if cluster and not character.isascii() and _joins(character):
            cluster += character if len(cluster) <= _MOST_MARKS else ""
        else:
            if cluster:
                yield start, end, cluster
            cluster, start = character, position
        end = position + 1
    if cluster:
        yield start, end, cluster


def _joins(character: str) -> bool:
    """Return whether a character may become one with that before it."""
    first = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.category(first) in ("Mn", "Mc") or "\u1161" <= first <= "\u11c2"  # or a Hangul vowel, or a final


def _fewer_marks(match: re.Match[str]) -> str:
    kept: list[str] = []
    marks = 0
    for character in match[0]:
        marks = marks + 1 if _joins(character) else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)
