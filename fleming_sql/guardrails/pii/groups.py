"""Numbers that are written in groups as no issuer would write them: on lines of their own, with commas, unevenly."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from itertools import accumulate, pairwise
from typing import Final

from fleming_sql.guardrails.pii.context import CARD, SSN, is_near, is_other
from fleming_sql.guardrails.pii.edges import DIGITS, at, is_glued, is_piece
from fleming_sql.guardrails.pii.numbers import NOT_SSN
from fleming_sql.guardrails.pii.validators import is_card, is_us_ssn

_BETWEEN: Final = r"[ \t\r\n.,_/-]{1,3}"
CARDS: Final = (
    rf"(?:\b|_)[2-9](?:\d{{2,}}(?:{_BETWEEN}\d{{3,}}){{2,}}"
    rf"|\d{{7,}}{_BETWEEN}\d{{4,}}|\d{{2,}}{_BETWEEN}\d{{7,}})"
)
"""RE2: groups of three digits and more, of which there may be enough for a card."""
SSNS: Final = (
    r"[0-8]\d{2} ?[\t\r\n,_/]{1,2} ?\d{2} ?[\t\r\n,_/]{1,2} ?\d{4}"
    rf"|[0-8]\d{{4}}{_BETWEEN}\d{{4}}|[0-8]\d{{2}}{_BETWEEN}\d{{6}}"
)
"""RE2: nine digits in groups, but for those that `numbers` knows."""
_GROUP: Final = re.compile(rb"[0-9]+")
_BEFORE: Final = re.compile(rb"(?P<digits>[0-9]+)(?P<mark>[ \t\r\n.,_/\-]{1,3})\Z")
_AFTER: Final = re.compile(rb"(?P<mark>[ \t\r\n.,_/\-]{1,3})(?P<digits>[0-9]+)")
_MOST_DIGITS: Final = 19
_FEWEST_DIGITS: Final = 13
_LIKE_SPACES: Final = re.compile(rb"[ \t\r\n]+")
_MIXED: Final = frozenset({b" ", b"-"})
"""What may stand in one number together: a dash, and a space or the end of a line."""
_OF_LISTS: Final = frozenset(b",/_\n\t")
"""What stands between the numbers of a list or of a column as well."""


def find_cards(data: bytes, start: int, end: int, told: bool = True) -> Sequence[tuple[int, int]]:
    """Return the payment cards in groups of digits, from `start` to before `end`.

    The check digit is right by chance in one of ten numbers, so there is more to ask of groups that may be a list's.
    """
    groups = [match.span() for match in _GROUP.finditer(data, start, end)]
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(groups) - 1:
        last = _last_of_card(data, groups, first)
        if last:
            found.append((groups[first][0], groups[last][1]))
        first = (last or first) + 1
    return found


def check_ssn(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Return the place of a US social security number that a word near tells, whatever stands between its groups."""
    if at(data, start - 1) in DIGITS or at(data, end) in DIGITS or is_piece(data, start, end):
        return None
    if not is_us_ssn(data[start:end].decode()) or is_other(SSN, NOT_SSN, data, start, end):
        return None
    return start, end


def _last_of_card(data: bytes, groups: Sequence[tuple[int, int]], first: int) -> int:
    """Return the last of the groups that are a card from the first of them on, 0 where they are none."""
    ends = list(accumulate((stop - begin for begin, stop in groups[first : first + 7])))
    for count in range(len(ends), 1, -1):
        if _FEWEST_DIGITS <= ends[count - 1] <= _MOST_DIGITS:
            begin, stop = groups[first][0], groups[first + count - 1][1]
            if is_card(data[begin:stop].decode()) and _is_one(data, groups, first, first + count):
                return first + count - 1
    return 0


def _is_one(data: bytes, groups: Sequence[tuple[int, int]], first: int, after: int) -> bool:
    """Return whether groups whose digits are a card's belong together, and are not a piece of something longer."""
    begin, stop = groups[first][0], groups[after - 1][1]
    if is_piece(data, begin, stop) and not is_glued(data, begin, stop) and not _is_named(data, begin, stop):
        return False
    marks = {_mark(data[end:start]) for (_, end), (start, _) in pairwise(groups[first:after])}
    sizes = [end - start for start, end in groups[first:after]]
    if not (len(marks) == 1 or marks <= _MIXED):
        return False
    is_listed = bool(_OF_LISTS.intersection(data[begin:stop]))
    is_regular = all(size % 4 == 0 for size in sizes[:-1]) or sizes[:-1] == [4, 6]
    if is_regular and not (is_listed and (len(sizes) == 2 or _goes_on(data, begin, stop, marks, 4))):
        return True
    if is_near(CARD, data, begin, stop):
        return True
    # Groups of three are the thousands of an amount.
    is_even = len(marks) == 1 and len(sizes) > 2 and set(sizes[1:]) != {3} and not marks & {b",", b"."}
    return is_even and at(data, begin - 1) != 43 and not _goes_on(data, begin, stop, marks, 1)


def _is_named(data: bytes, begin: int, stop: int) -> bool:
    """Return whether a number follows the word for a card in a name, as in `card_4111…`."""
    return at(data, begin - 1) in b"_-" and at(data, stop) not in b"_-" and is_near(CARD, data, begin, stop, 14, 0)


def _mark(between: bytes) -> bytes:
    """Return what stands between two groups, all white space as one space, and none beside another mark."""
    return _LIKE_SPACES.sub(b" ", between).strip() or b" "


def _goes_on(data: bytes, begin: int, stop: int, marks: Set[bytes], fewest: int) -> bool:
    """Return whether groups of as many digits as `fewest` stand before or after some, with the same between them."""
    before = _BEFORE.search(data[max(0, begin - 24) : begin])
    after = _AFTER.match(data, stop)
    return any(
        match is not None and len(match["digits"]) >= fewest and _mark(match["mark"]) in marks
        for match in (before, after)
    )
