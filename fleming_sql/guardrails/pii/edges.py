"""What stands right before and after a find: whether it is whole, or a piece of something longer."""

from __future__ import annotations

import re
from typing import Final

WORD: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
DIGITS: Final = frozenset(b"0123456789")
NO_DIGITS: Final = bytes(code for code in range(256) if code not in DIGITS)
"""What `bytes.translate` is to take out so that digits are left."""
_WORD_BEFORE: Final = re.compile(rb"(?<![0-9A-Za-z_.-])(?=[A-Za-z]*[G-Zg-z])[A-Za-z]{3,20}\Z")
_WORD_AFTER: Final = re.compile(rb"(?=[A-Za-z]*[G-Zg-z])[A-Za-z]{3,20}")
_MARGIN: Final = 24
_APART_BEFORE: Final = re.compile(
    rb"(?:(?<![0-9A-Za-z_.\-])(?=[A-Za-z]*[G-Zg-z])[A-Za-z]{1,20}|(?<![0-9A-Za-z_.\-])[A-Za-z_]{0,20}_|[^0-9A-Za-z_.\-+]|\A)\Z"
)
_APART_AFTER: Final = re.compile(
    rb"(?=[A-Za-z]*[G-Zg-z])[A-Za-z]{1,20}(?![0-9A-Za-z_])|_[A-Za-z_]{0,20}(?:[0-9]{1,4})?(?![0-9A-Za-z_])"
    rb"|(?![0-9A-Za-z_]|[.\-/][0-9])"
)
"""Words of hexadecimal digits alone may be of a hash, and more digits of an identifier."""


def at(data: bytes, position: int) -> int:
    """Return the byte at a position, 0 outside of the text."""
    return data[position] if 0 <= position < len(data) else 0


def is_piece(data: bytes, begin: int, stop: int) -> bool:
    """Return whether a number is a piece of a word, of a decimal, or of a chain of numbers."""
    before, after = at(data, begin - 1), at(data, stop)
    if before in WORD or after in WORD:
        return True
    return (before in b".-_+" and at(data, begin - 2) in WORD) or (after in b".-_/" and at(data, stop + 1) in DIGITS)


def follows_word(data: bytes, begin: int) -> bool:
    """Return whether a word stands right before a position; one of hexadecimal digits alone may begin a hash."""
    return _WORD_BEFORE.search(data[max(0, begin - 21) : begin]) is not None


def is_glued(data: bytes, begin: int, stop: int) -> bool:
    """Return whether nothing but a word stands right before or after a number, as in `card4111…exp`."""
    before, after = at(data, begin - 1), at(data, stop)
    if (before in WORD or before in b".-_+") and not follows_word(data, begin):
        return False
    if after in WORD or (after in b".-_/" and at(data, stop + 1) in DIGITS):
        return _WORD_AFTER.match(data, stop) is not None
    return True


def is_apart(data: bytes, begin: int, stop: int) -> bool:
    """Return whether only an underscore or a word of letters parts a number from what stands around it, as in `x4111…`.

    What has more digits in the same token, but for a short number after an underscore, is an identifier.
    """
    before = data[max(0, begin - _MARGIN) : begin]
    return _APART_BEFORE.search(before) is not None and _APART_AFTER.match(data, stop) is not None
