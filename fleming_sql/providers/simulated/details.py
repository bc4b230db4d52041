"""Strings for a JSON Schema: details found in the prompt, formats, and short phrases for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final
from uuid import UUID

from fleming_sql.providers.simulated.words import choose, first_words

_EMAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL: Final = re.compile(r"https?://[^\s<>\"')]+")
_DATE: Final = re.compile(r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b")
_LANGUAGES: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        language: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
        for language, words in {
            "English": "the|and|is|was|my|have|with|please|not",
            "German": "der|die|das|und|ist|nicht|ich|habe|bitte|mit",
            "French": "le|les|des|est|et|pas|je|vous|une|avec",
            "Spanish": "el|los|que|es|y|por|una|mi|con|gracias",
            "Italian": "il|che|di|sono|non|per|una|mio|grazie|con",
        }.items()
    }
)
_DETAILS: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        name: re.compile(pattern)
        for name, pattern in {
            r"e-?mail": _EMAIL.pattern,
            r"url|link|website": _URL.pattern,
            r"(?:^|_)date|day$": _DATE.pattern,
            r"phone|telephone": r"\+?\d[\d ()/-]{6,}\d",
            r"order|invoice|ticket|tracking|(?:^|_)(?:id|reference|number)$": (
                r"\b[A-Z]{1,5}[-_]?\d{2,}(?:-\d+)*\b|(?<=#)\d+|\b\d{4,}\b"
            ),
            r"currency": r"\b(?:EUR|USD|GBP|CHF|JPY)\b|[$€£]",
            r"amount|price|total|cost": (r"[$€£]\s?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?\s?(?:€|£|EUR|USD|GBP)"),
            r"(?:^|_)name$|customer|person|author|sender": r"\b[A-Z][a-z]+ [A-Z][a-z]+\b",
        }.items()
    }
)
"""What a property whose name matches the key means in a text."""
_ABOUT_TEXT: Final = re.compile(
    r"summary|title|subject|text|reason|description|comment|explanation|quote", re.IGNORECASE
)
_SENTIMENTS: Final = ("positive", "negative", "neutral")
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


def find_details(name: str, text: str) -> list[str]:
    """Return what a text has for a property of this name, in its order.

    Example:
        >>> find_details("order_id", "Where is my order AB-1234?")
        ['AB-1234']
    """
    lowered = name.lower()
    if lowered in ("language", "lang"):
        return [_language(text)]
    if lowered in ("sentiment", "mood", "tone"):
        return [choose(_SENTIMENTS, text, lowered)]
    for names, pattern in _DETAILS.items():
        if re.search(names, lowered):
            found = [item.strip() for item in pattern.findall(text)]
            if found:
                return found
    return []


def about_text(name: str) -> bool:
    """Return whether a property of this name retells the text, so that there is always something to say."""
    return _ABOUT_TEXT.search(name) is not None


def phrase(name: str, text: str, chance: int) -> str:
    """Return a short text for a property that the prompt has no detail for."""
    if text and about_text(name):
        return f"Simulated {name.replace('_', ' ')}: {first_words(text)}"
    return f"simulated {name.replace('_', ' ')} {chance % 1000}"


def fixed_format(name: str, text: str, chance: int) -> str | None:
    """Return a string of one of JSON Schema's formats, from the text where it has one; None for others."""
    moment = _EPOCH + timedelta(seconds=chance % (365 * 86_400))
    match name:
        case "date":
            return _found(_DATE, text) or moment.strftime("%Y-%m-%d")
        case "date-time":
            return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        case "time":
            return moment.strftime("%H:%M:%SZ")
        case "duration":
            return f"PT{chance % 60}M"
        case "uuid":
            return str(UUID(int=(chance << 64 | chance) & ((1 << 128) - 1), version=4))
        case "email" | "idn-email":
            return _found(_EMAIL, text) or f"user{chance % 1000}@simulated.example"
        case "uri" | "url" | "iri":
            return _found(_URL, text) or f"https://simulated.example/{chance % 1000}"
        case "hostname":
            return "simulated.example"
        case "ipv4":
            return f"192.0.2.{chance % 256}"
        case "ipv6":
            return f"2001:db8::{chance % 65_536:x}"
    return None


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[0] if found else None


def _language(text: str) -> str:
    counted = {language: len(pattern.findall(text)) for language, pattern in _LANGUAGES.items()}
    return max(counted, key=lambda language: counted[language])
