"""Numbers of passports and driving licences: so many forms that a word near has to tell them.

Sources: the authorities' descriptions of their documents (ICAO Doc 9303 for passports; AAMVA for licences of US
states; DVLA, KBA and the ministries of transport for the others).
"""

from __future__ import annotations

import re
from typing import Final

from fleming_sql.guardrails.pii.context import (
    BANK,
    BEFORE,
    LICENCE,
    NOT_PHONE,
    PASSPORT,
    PHONE,
    SSN,
    Words,
    is_near,
    is_other,
)
from fleming_sql.guardrails.pii.edges import DIGITS, NO_DIGITS, WORD, at

PASSPORT_FORMS: Final = (
    r"\b(?:[A-Z]{1,3} ?\d{5,9}[A-Z]{0,2}"  # most countries: letters, then digits
    r"|\d{8,9}[A-Z]?"  # United Kingdom, United States
    r"|\d{2} ?[A-Z]{2} ?\d{5}"  # France
    r"|[CFGHJKLMNPRTVWXYZ][A-Z0-9]{8}"  # Germany
    r"|[A-Z]{2,3}[A-Z0-9]{6,7})\b"  # Netherlands
)
LICENCE_FORMS: Final = (
    r"\b(?:[A-Z9]{5}\d{6}[A-Z9]{2}[A-Z0-9]{3}"  # United Kingdom
    r"|[A-Z]{2}[- ]?\d{2}[ -]?\d{11}"  # India
    r"|[A-Z]\d{3,4}-\d{3,5}-\d{2,5}(?:-\d{1,3}){0,2}"  # US states that write groups, Ontario
    r"|[A-Z]{1,3}[A-Z0-9]{6,12}|[A-Z]\d{3}[A-Z0-9]{7}"  # US states, Germany, Italy
    r"|\d{2}[A-Z]{2}\d{5}|\d{8}-?[A-Z]"  # France, Spain
    r"|\d{3} \d{3} \d{3}|\d{7,12})\b"  # Australia, New York, Japan
)
_DATE: Final = re.compile(
    rb"(?<![0-9])(?:19|20)[0-9]{2}([-/. ]?)(?:0[1-9]|1[0-2])\1(?:[0-2][0-9]|3[01])(?![0-9])"
    rb"|^[0-9]{1,2}[-/. ][0-9]{1,2}[-/. ][0-9]{2,4}$"
)
_CLAUSE: Final = re.compile(rb"[^A-Za-z]*[,;:.]")
_NOT_PASSPORT: Final = Words((*LICENCE, *BANK, *PHONE, *SSN, *NOT_PHONE))
_NOT_LICENCE: Final = Words((*PASSPORT, *BANK, *PHONE, *SSN, *NOT_PHONE))


def check_passport(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Return the place of the number of a passport."""
    return _checked(PASSPORT, _NOT_PASSPORT, data, start, end)


def check_licence(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Return the place of the number of a driving licence."""
    return _checked(LICENCE, _NOT_LICENCE, data, start, end)


def _checked(words: Words, others: Words, data: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Return the place of a number with four digits at least that is no date, and is not labelled otherwise."""
    text = data[start:end]
    if len(text.translate(None, NO_DIGITS)) < 4 or _DATE.search(text):
        return None
    if at(data, start - 1) in b"_-/." and at(data, start - 2) in WORD:
        return None
    if at(data, end) in b"-_/." and (at(data, end + 1) in DIGITS or at(data, end + 1) in WORD):
        return None
    if is_other(words, others, data, start, end):
        return None
    if is_near(words, data, start, end, BEFORE, 0):
        return start, end
    is_told = not _CLAUSE.match(data, end) and is_near(words, data, end, end, 0, 20)
    return (start, end) if is_told else None
