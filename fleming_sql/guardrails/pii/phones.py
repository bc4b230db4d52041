"""Phone numbers: of all countries with their code, of many in the form that they have at home.

Sources: ITU-T E.164 (codes of countries, at most 15 digits), the North American Numbering Plan (area and exchange
begin with 2 to 9), and the national numbering plans as the ITU publishes them (lengths, mobile prefixes).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fleming_sql.guardrails.pii.context import NOT_PHONE, PHONE, is_near
from fleming_sql.guardrails.pii.edges import DIGITS, NO_DIGITS, WORD, at, follows_word, is_apart

_LENGTHS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        code: (shortest, longest)
        for (shortest, longest), codes in {
            (10, 10): "1 7 30 52 58 90 91 98",
            (10, 11): "54 55",
            (9, 9): "27 31 33 34 41 48 56 61 93 94 212 218 221 240 244 251 254 255 256 260 261 351 380 420 421 590 594 "
            "596 992 994 995 998",
            (9, 10): "44 57 92 234 881 966",
            (9, 11): "86",
            (8, 8): "45 47 65 216 222 223 226 227 228 232 235 236 253 257 357 370 371 502 503 504 505 852 853",
            (8, 9): "32 36 51 66 213 237 250 264 268 374 375 377 382 385 386 387 389 591 593 595 598 962 963 965 968 "
            "971 972 973 974",
            (8, 10): "20 40 60 63 64 81 82 84 229 233 381 506 855 856 880 886 964 970 976 977 996",
            (7, 9): "46 53 353 354 355 356 359 372 373 501 507 509 592 960 961 993",
            (7, 10): "95",
            (5, 13): "43 49",
            (6, 11): "39 352 358",
            (8, 12): "62",
        }.items()
        for code in codes.split()
    }
)
"""How many digits follow a country's code."""
_OTHER_CODES: Final = re.compile(
    r"21[1-8]|22\d|23\d|24\d|25[0-8]|26\d|29[0-9]|35\d|37\d|38[0-9]|42[0-3]|50\d|59\d|67\d|68\d|69[0-2]|800|808|85\d|87[08]|88\d|96\d|97\d|99[2-8]"
)
_CODE: Final = re.compile(r"[17]|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|" + _OTHER_CODES.pattern)

RUN: Final = r"(?:\+ ?)?\(?\d(?:[ ().\-/+]{0,3}\d){6,}"
"""RE2: at least seven digits with what may stand between those of a number."""
_EXTENSION: Final = re.compile(
    rb" ?(?:,|;)? ?(?:ext(?:ension)?\.?|x|extn\.?|poste|durchwahl|dw|app\.?|#) ?[0-9]{1,6}(?![0-9])", re.IGNORECASE
)
_ABROAD: Final = re.compile(rb"(?:\+ ?|(?<![0-9])00 ?)\(?[1-9](?:[ .\-/]{0,2}\(?[0-9]\)?){6,16}")
_HOME: Final = re.compile(
    rb"""(?P<nanp>(?:1[ .\-])?(?:\([2-9][0-9]{2}\)[ .\-]?|[2-9][0-9]{2}[ .\-])[2-9][0-9]{2}[ .\-][0-9]{4})
    |    (?P<trunk>\(?0[1-9][0-9]{0,4}\)?(?:[ ]?[ ./\-][ ]?[0-9]{2,8}|(?<=\))[0-9]{3,8})(?:[ .\-][0-9]{1,6}){0,5})
    |    (?P<area>\([1-9][0-9]{1,3}\)[ ]?[0-9]{3,5}[ \-][0-9]{2,4}(?:[ \-][0-9]{2})?)
    |    (?P<russian>8[ \-]?\(?[3-9][0-9]{2}\)?[ \-][0-9]{3}[ \-][0-9]{2}[ \-][0-9]{2})
    |    (?P<chinese>1[3-9][0-9][ \-][0-9]{4}[ \-][0-9]{4})
    |    (?P<brazilian>[1-9][0-9][ ]9[0-9]{4}-[0-9]{4})
    |    (?P<indian>[6-9][0-9]{4}[ \-][0-9]{5})
    |    (?P<service>1(?:[38]00[ \-][0-9]{3}[ \-][0-9]{3}))
    |    (?P<italian>3[2-9][0-9][ .\-](?:[0-9]{6,7}|[0-9]{3}[ ][0-9]{3,4}))
    |    (?P<spanish>[6-9][0-9]{2}(?:[ ][0-9]{2}){3}|9[0-9][ ][0-9]{3}[ ][0-9]{2}[ ][0-9]{2})
    |    (?P<mobile>0[5-7][0-9]{8,9})
    """,
    re.VERBOSE,
)
"""Forms that are told by themselves, each bounded in length."""
_ANY: Final = re.compile(rb"\(?[0-9]{1,13}\)?(?:[ .\-/]{1,2}[0-9]{1,8}){0,5}")
"""Forms that a word near has to tell."""
_DATE: Final = re.compile(
    rb"(?:(?:19|20)[0-9]{2}([.\-/ ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])"
    rb"|(?:0?[1-9]|[12][0-9]|3[01])([.\-/ ])(?:0?[1-9]|[12][0-9]|3[01])\2(?:19|20)[0-9]{2})(?![0-9])"
)
_STAMP: Final = re.compile(
    rb"(?:19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}[ ][0-9]{1,2}|[0-9]{2}/[0-9]{2}/(?:19|20)[0-9]{2}[ ][0-9]{1,2}"
)
_CHAIN: Final = re.compile(rb"[1-9][0-9]*(?:-[1-9][0-9]*)*")
"""As in a UUID: what begins within a word is no number, and neither is what a dash ties to it."""
_LABEL: Final = 18
"""Characters before a number in which its label stands, if it has one."""
_COMPACT_DATE: Final = re.compile(rb"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[0-9]{6})?")


def is_idle(data: bytes, start: int, end: int) -> bool:
    """Return whether a run of digits is seen at a glance to be no number that is found without a word that tells it.

    It is a date, a plain number, or a piece of an identifier.
    """
    is_bound = False
    if start > 1:
        before = data[start - 1]
        is_bound = before in WORD or (before == 45 and data[start - 2] in WORD)
    if end - start < 13 and data[start] != 48:  # shorter than the number of a card, and without a leading zero
        run = data[start:end]
        if is_bound:
            return not (run[3:4] == run[6:7] == b"-" and end - start == 11)  # in the form of a social security number
        return run.isdigit() or (end - start < 11 and _DATE.fullmatch(run) is not None)
    if is_bound and _CHAIN.fullmatch(data, start, end) and not follows_word(data, start):
        return not is_apart(data, start, end)
    return end - start < 21 and _STAMP.fullmatch(data, start, end) is not None


def find_phones(data: bytes, start: int, end: int, told: bool = True) -> Sequence[tuple[int, int]]:
    """Return the phone numbers in a run of digits, from `start` to before `end`.

    Args:
        data: The text.
        start: Where the run begins.
        end: Where it ends.
        told: Whether there is a word in the text that tells phone numbers.
    """
    found: list[tuple[int, int]] = []
    pieces = [(start, end)]
    if data.find(b"+", start, end) >= 0 or data.find(b"00", start, end) >= 0:
        pieces = _search(_abroad, data, pieces, found)
    pieces = _search(_at_home, data, pieces, found)
    if told:
        _search(_by_context, data, pieces, found)
    return found


def _search(
    places: Callable[[bytes, int, int], Iterable[tuple[int, int]]],
    data: bytes,
    pieces: Iterable[tuple[int, int]],
    found: list[tuple[int, int]],
) -> list[tuple[int, int]]:
    """Add the numbers in pieces of a run, with their extensions, and return the pieces that are left."""
    left: list[tuple[int, int]] = []
    for start, end in pieces:
        for begin, stop in places(data, start, end):
            extension = _EXTENSION.match(data, stop)
            found.append((begin, extension.end() if extension else stop))
            if begin - start > 6:
                left.append((start, begin))
            start = stop
        if end - start > 6:
            left.append((start, end))
    return left


def is_abroad(digits: bytes) -> bool:
    """Return whether digits are a country's code and a number of the length that it has there."""
    text = digits.decode()
    code = _CODE.match(text)
    if code is None:
        return False
    national = len(text) - code.end()
    shortest, longest = _LENGTHS.get(code[0], (4, 12))
    if code[0] == "1" and (text[1] in "01" or text[4:5] in ("0", "1")):
        return False
    return shortest <= national <= longest


def _abroad(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _ABROAD.finditer(data, start, end):
        begin = match.start()
        before = at(data, begin - 1)
        if before in WORD or (data[begin] == 48 and before == 32 and at(data, begin - 2) in DIGITS):
            continue
        stop = _end_abroad(data, begin, match.end())
        if stop and (data[begin] == 43 or not _is_unlikely(data, begin, stop)):
            yield begin, stop


def _end_abroad(data: bytes, begin: int, end: int) -> int:
    """Return where a number with a code ends: at the last place between digits where its length is right, or 0."""
    prefix = 1 if data[begin] == 43 else 2
    stop = end
    while stop > begin + 7:
        inside = data[begin + prefix : stop].replace(b"(0)", b"")
        at_edge = stop >= len(data) or data[stop] not in WORD
        if at_edge and is_abroad(inside.translate(None, NO_DIGITS)):
            return stop
        stop = max(data.rfind(mark, begin, stop) for mark in (b" ", b".", b"-", b"/"))
        while stop > begin and data[stop - 1] not in DIGITS and data[stop - 1] != 41:
            stop -= 1
    return 0


def _at_home(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    position = start
    while match := _HOME.search(data, position, end):
        begin, stop = match.span()
        is_piece = _continues(data, begin, stop, start)
        found = None if is_piece else _checked(match.lastgroup or "", data, begin, stop)
        if found:
            yield found
        if found:
            start = found[1]
        position = found[1] if found else _after_group(data, begin, end)


def _checked(form: str, data: bytes, begin: int, stop: int) -> tuple[int, int] | None:
    """Return the place of a number whose form is told, after what is particular to the form."""
    digits = data[begin:stop].translate(None, NO_DIGITS)
    if form == "nanp":
        area = digits[-10:-7]
        if area[1:] in (b"00", b"11") and area not in (b"500", b"700", b"800", b"900"):
            return None
    elif form == "trunk":
        stop = _end_of_trunk(data, begin, stop)
        if not stop:
            return None
    elif (form == "area" and not 8 <= len(digits) <= 11) or (
        form == "mobile" and digits[1] == 54 and len(digits) == 11
    ):
        return None
    if _DATE.match(data, begin) or _is_unlikely(data, begin, stop):
        return None
    return begin, stop


def _end_of_trunk(data: bytes, begin: int, stop: int) -> int:
    """Return where a number with a leading zero ends: at the last place between digits where it has 9 to 12, or 0."""
    while True:
        text = data[begin:stop]
        digits = len(text.translate(None, NO_DIGITS))
        if digits < 9 or _PAIRS.fullmatch(text):
            return 0
        if digits <= 12:
            return stop
        stop = begin + len(_LAST_GROUP.sub(b"", text))


_LAST_GROUP: Final = re.compile(rb"[^0-9]*[0-9]+[^0-9]*\Z")
_PAIRS: Final = re.compile(rb"[0-9]{2}(?:-[0-9]{2}){5}")
"""As the numbers of a lottery: a French number, which has pairs too, has five of them."""


def _by_context(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _ANY.finditer(data, start, end):
        begin, stop = match.span()
        digits = match[0].translate(None, NO_DIGITS)
        if not 7 <= len(digits) <= 13 or digits.startswith(b"00"):
            continue
        if _continues(data, begin, stop, start) or _is_dated(data, begin, digits):
            continue
        if is_near(PHONE, data, begin, stop, 40, 12) and not is_near(NOT_PHONE, data, begin, stop, _LABEL, 0):
            yield begin, stop


def _is_dated(data: bytes, begin: int, digits: bytes) -> bool:
    return _DATE.match(data, begin) is not None or _COMPACT_DATE.fullmatch(digits) is not None


def _is_unlikely(data: bytes, begin: int, stop: int) -> bool:
    """Return whether a word right before says that a number is something else, and none that it is a phone's."""
    return is_near(NOT_PHONE, data, begin, stop, _LABEL, 0) and not is_near(PHONE, data, begin, stop, _LABEL, 0)


def _continues(data: bytes, begin: int, stop: int, start: int) -> bool:
    """Return whether a number is a piece of something longer, which does not reach back before `start`."""
    before, further = at(data, begin - 1), at(data, begin - 2)
    if before in WORD or before in b"#$+" or (before in b"-._" and further in WORD):
        return True
    follows = before in b" /" and further in DIGITS and begin - 1 > start and data[begin] != 40
    if follows and not is_near(PHONE, data, begin, stop, _LABEL, 0):
        return True
    after = at(data, stop)
    if after == 44 and at(data, stop + 1) in DIGITS and b"." in data[begin:stop]:
        return True  # an amount, as it is written on the Continent
    if after in WORD:
        return _EXTENSION.match(data, stop) is None
    return after in b".-/:" and at(data, stop + 1) in DIGITS


def _after_group(data: bytes, begin: int, end: int) -> int:
    """Return the position after the group of digits that begins at one."""
    position = begin + 1
    while position < end and data[position] in DIGITS:
        position += 1
    return position
