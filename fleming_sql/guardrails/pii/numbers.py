"""Numbers in runs of digits: payment cards, social security numbers, bank accounts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from fleming_sql.guardrails.pii.context import (
    BANK,
    CARD,
    LICENCE,
    NOT_PHONE,
    PASSPORT,
    PHONE,
    SSN,
    Words,
    is_near,
    is_other,
    listed,
)
from fleming_sql.guardrails.pii.edges import NO_DIGITS, at, is_apart, is_glued, is_piece
from fleming_sql.guardrails.pii.validators import is_card, is_routing_number, is_us_ssn

_CARD: Final = re.compile(
    rb"""(?<![0-9])(?=(
        [2-9][0-9]{12,18}(?![0-9])
    |   [2-9][0-9]{3}(?P<by>[ ]{1,2}|[ ]?[.\-/][ ]?)[0-9]{4}(?P=by)[0-9]{4}(?P=by)[0-9]{4}(?:(?P=by)[0-9]{3})?(?![0-9])
    |   [2-9][0-9]{3}(?:[ ]?[.\- ][ ]?)[0-9]{4}(?:[ ]?[.\- ][ ]?)[0-9]{4}(?:[ ]?[.\- ][ ]?)[0-9]{1,4}(?![0-9])
    |   3[0-9]{3}[ ]?[.\- ][ ]?[0-9]{6}[ ]?[.\- ][ ]?[0-9]{4,5}(?![0-9])
    |   [2-9](?:[ .\-][0-9]){12,18}(?![ .\-]?[0-9])
    |   [2-9][0-9](?:[ .\-][0-9]{2}){6,8}(?![ .\-]?[0-9])
    ))""",
    re.VERBOSE,
)
_SHORTEST_CARD: Final = 13
"""Digits of it."""
_SSN: Final = re.compile(
    rb"(?<![0-9])[0-8][0-9]{2}(?:([ .\-])[0-9]{2}\1[0-9]{4}|(?P<plain>[0-9]{6}| - [0-9]{2} - [0-9]{4}))(?![0-9])"
)
_ACCOUNT: Final = re.compile(rb"(?<![0-9])[0-9]{8,17}(?![0-9])|(?<![0-9])[0-9]{3,6}(?:[ \-][0-9]{3,6}){1,3}(?![0-9])")
_DATE: Final = re.compile(rb"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[0-9]{6})?")
_ROUTING: Final = listed("routing*, aba, rtn")
_SHARED: Final = listed("account*, konto*, routing, aba, id, total, ref, ssn")
_NUMBERS: Final = tuple(word for word in NOT_PHONE if word not in _SHARED)
_NOT_BANK: Final = Words((*PASSPORT, *LICENCE, *PHONE, *SSN, *_NUMBERS))
_IDENTIFIER: Final = Words((*NOT_PHONE, "ord"))
_NAME: Final = 14
"""Characters before a number in which the name stands that it is glued to."""
NOT_SSN: Final = Words((*PASSPORT, *LICENCE, *PHONE, *BANK, *_NUMBERS))


def find_cards(data: bytes, start: int, end: int, told: bool = True) -> Sequence[tuple[int, int]]:
    """Return the payment cards in a run of digits, from `start` to before `end`."""
    found: list[tuple[int, int]] = []
    if end - start < _SHORTEST_CARD or len(data[start:end].translate(None, NO_DIGITS)) < _SHORTEST_CARD:
        return found
    done = start
    for match in _CARD.finditer(data, start, end):
        begin, stop = match.span(1)
        if begin < done or not is_card(data[begin:stop].decode()) or _is_barcode(data, begin, stop):
            continue
        if not is_piece(data, begin, stop) or is_glued(data, begin, stop) or _is_bare(data, begin, stop):
            done = stop
            found.append((begin, stop))
    return found


def find_ssns(data: bytes, start: int, end: int, told: bool = True) -> Sequence[tuple[int, int]]:
    """Return the US social security numbers in a run of digits: with dashes, or told by a word near.

    Args:
        data: The text.
        start: Where the run begins.
        end: Where it ends.
        told: Whether a word that tells them is in the text.
    """
    found: list[tuple[int, int]] = []
    if end - start < (9 if told else 11):
        return found
    for match in _SSN.finditer(data, start, end):
        begin, stop = match.span()
        if not is_us_ssn(match[0].decode()) or (is_piece(data, begin, stop) and not _is_named_ssn(data, begin, stop)):
            continue
        is_formed = match[1] == b"-" and not is_near(NOT_PHONE, data, begin, stop, 14, 0)
        is_told = told and not is_formed and is_near(SSN, data, begin, stop)
        if is_formed or (is_told and not (match["plain"] and is_other(SSN, NOT_SSN, data, begin, stop))):
            found.append((begin, stop))
    return found


def find_accounts(data: bytes, start: int, end: int, told: bool = True) -> Sequence[tuple[int, int]]:
    """Return the numbers of US banks and their accounts in a run of digits: those that a word near tells."""
    return list(_accounts(data, start, end))


def _accounts(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _ACCOUNT.finditer(data, start, end):
        begin, stop = match.span()
        digits = len(match[0].translate(None, NO_DIGITS))
        if not 8 <= digits <= 17 or is_piece(data, begin, stop) or not is_near(BANK, data, begin, stop, 40, 16):
            continue
        if is_near(_ROUTING, data, begin, stop, 24, 0):
            if digits == 9 and is_routing_number(match[0].decode()):
                yield begin, stop
        elif (
            not _DATE.fullmatch(match[0])
            and not match[0].endswith(b"00000")
            and not is_other(BANK, _NOT_BANK, data, begin, stop)
        ):
            yield begin, stop


def _is_bare(data: bytes, begin: int, stop: int) -> bool:
    """Return whether digits without a mark are a token's only ones, and its name is not that of something else."""
    if not data[begin:stop].isdigit() or not is_apart(data, begin, stop):
        return False
    return not is_near(_IDENTIFIER, data, begin, stop, _NAME, 0) or is_near(CARD, data, begin, stop, _NAME, 0)


def _is_named_ssn(data: bytes, begin: int, stop: int) -> bool:
    """Return whether a number in a name, such as `ssn_123-45-6789`, is written with dashes, or told by the name."""
    if not is_apart(data, begin, stop) and not is_glued(data, begin, stop):
        return False
    is_formed = at(data, begin + 3) == 45 and at(data, begin + 6) == 45
    return is_formed or is_near(SSN, data, begin, stop, _NAME, 0)


def _is_barcode(data: bytes, begin: int, stop: int) -> bool:
    """Return whether 13 digits are those of an article rather: of two check digits one would pass by chance (GS1)."""
    return stop - begin == 13 and not is_near(CARD, data, begin, stop)
