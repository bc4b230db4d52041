# ruff: noqa: RUF001, RUF002  looking like another character is what these are here for
"""Characters that look like ASCII ones, or like nothing at all.

Sources: the decimal digits and compatibility forms of the Unicode Character Database (by `unicodedata`), its
`Default_Ignorable_Code_Point` property for what cannot be seen, and `confusables.txt` of Unicode TS 39 for letters
of other scripts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Final

from fleming_sql.guardrails.folding import LOOKALIKES

HIDDEN: Final = "\x1a"
"""What a character that cannot be seen becomes: ASCII's own sign for a character to be left out."""

_LETTERS: Final = (
    *LOOKALIKES,
    ("ıɑɡℓßøđłæœþðØĐŁÆŒÞħ", "iaglsodlaopdODLAOPh"),
)
_MARKS: Final = (
    ("‐‑‒–—―−⁃﹘﹣－", "-" * 11),
    ("。｡․﹒·‧", "......"),
    ("⁄∕", "//"),
    ("∶꞉", "::"),
    ("\u00a0\u1680\u202f\u205f\u3000\u2028\u2029", " " * 7),
    ("【】「」［］（）", "[][][]()"),
    ("‘’′´", "''''"),
    ("“”″", '"""'),
)
_ZEROS: Final = (
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20,
    0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0,
    0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1FBF0,
)  # fmt: skip
"""The zeros of the scripts in use; their nine other digits follow them."""
_COMPATIBLE: Final = (
    (0xC0, 0x250),
    (0x1E00, 0x1F00),
    (0x2000, 0x200B),
    (0x2070, 0x20A0),
    (0x2100, 0x2150),
    (0x2460, 0x2500),
    (0xFE50, 0xFE70),
    (0xFF01, 0xFF5F),
    (0x1D400, 0x1D800),
    (0x1F130, 0x1F14A),
)
"""Blocks with letters, digits and marks that stand for an ASCII one."""
_UNSEEN: Final = (
    (0xAD, 0xAE),
    (0x300, 0x370),  # accents that stand over the letter before
    (0x61C, 0x61D),
    (0x115F, 0x1161),
    (0x17B4, 0x17B6),
    (0x180B, 0x1810),
    (0x200B, 0x2010),
    (0x202A, 0x202F),
    (0x2060, 0x2070),
    (0x20D0, 0x2100),
    (0x3164, 0x3165),
    (0xFE00, 0xFE10),
    (0xFEFF, 0xFF00),
    (0xFFA0, 0xFFA1),
    (0x1D173, 0x1D17B),
    (0xE0000, 0xE01F0),
)


@cache
def table() -> dict[int, str]:
    """Return what each character stands for, one for one, as `str.translate` takes it."""
    found: dict[int, str] = {}
    for begin, end in _COMPATIBLE:
        found |= {code: plain for code in range(begin, end) if (plain := _plain(chr(code)))}
    for zero in _ZEROS:
        found |= {zero + digit: str(digit) for digit in range(10)}
    for begin, end in _UNSEEN:
        found |= dict.fromkeys(range(begin, end), HIDDEN)
    for unusual, plain in (*_LETTERS, *_MARKS):
        found |= {ord(one): other for one, other in zip(unusual, plain, strict=True)}
    return found


@cache
def _runs() -> re.Pattern[str]:
    # `re` looks characters beyond the first 65,536 up one range after the other: all of them are one range here.
    near = "".join(chr(code) for code in sorted(table()) if code < 0x10000)
    return re.compile(f"[{near}\U00010000-\U0010ffff]+")


def fold(text: str) -> str:
    """Return a text of the same length with ASCII characters in the place of those that look like them.

    Example:
        >>> fold("４１１１–ａｄа")
        '4111-ada'
    """
    seen = table()
    return _runs().sub(lambda run: run[0].translate(seen), text)


def _plain(character: str) -> str:
    """Return the ASCII character that one stands for, accents left off; nothing where there is none."""
    plain = unicodedata.normalize("NFKD", character)[:1]
    return plain if plain.isascii() and plain.isprintable() else ""
