"""Values written so that a pattern does not see them and a reader does."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NamedTuple

from benchmarks.pii_corpus import Entity, Example
from benchmarks.pii_corpus.filling import ENTITY_OF
from benchmarks.pii_corpus.values import Values

_CYRILLIC: Final = str.maketrans("aeopcxyi", "аеорсхуі")  # noqa: RUF001  the point of it
_GREEK: Final = str.maketrans("ov", "ον")  # noqa: RUF001  the point of it
_FULLWIDTH: Final = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_FULLWIDTH_DIGITS: Final = {code: code + 0xFEE0 for code in range(0x30, 0x3A)}
_BOLD_DIGITS: Final = {ord("0") + digit: 0x1D7CE + digit for digit in range(10)}
_ARABIC_DIGITS: Final = {ord("0") + digit: 0x0660 + digit for digit in range(10)}
_ZERO_WIDTH: Final = ("\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad")
_TEXTS: Final = (
    "please use {} for this",
    "{}",
    "it is {}, ok?",
    "ask {} 🙂",
    "这是{}。",
    "meine Angaben: {}",
    "値は{}です",
    "x={}; y=2",
)
_WITH_WORD: Final[dict[str, str]] = {
    "card": "card number {}",
    "email": "my e-mail: {}",
    "phone": "call me, phone {}",
    "iban": "IBAN {}",
    "ssn": "SSN {}",
}


class Trick(NamedTuple):
    """One way of hiding."""

    name: str
    slots: tuple[str, ...]
    play: Callable[[Random, str], str]


def _inserted(random: Random, value: str) -> str:
    pieces = list(value)
    for _ in range(random.randrange(1, 5)):
        pieces.insert(random.randrange(1, len(pieces)), random.choice(_ZERO_WIDTH))
    return "".join(pieces)


def _homoglyphs(random: Random, value: str) -> str:
    return value.translate(random.choice((_CYRILLIC, _CYRILLIC, _GREEK)))


def _dashes(random: Random, value: str) -> str:
    return value.replace("-", random.choice("‐‑‒–—−")).replace(" ", random.choice("\u00a0\u202f\u2009"))  # noqa: RUF001  the point of it


def _mixed(random: Random, value: str) -> str:
    return "".join(chr(ord(one) + 0xFEE0) if one.isdigit() and random.random() < 0.5 else one for one in value)


TRICKS: Final = (
    Trick("zero width", ("email", "card", "iban", "ssn", "phone"), _inserted),
    Trick("full width", ("email", "card", "iban", "phone"), lambda _, value: value.translate(_FULLWIDTH)),
    Trick("full-width digits", ("card", "phone", "ssn"), lambda _, value: value.translate(_FULLWIDTH_DIGITS)),
    Trick("full-width at", ("email",), lambda _, value: value.replace("@", "＠")),  # noqa: RUF001  the point of it
    Trick("homoglyphs", ("email",), _homoglyphs),
    Trick("dashes and blanks", ("card", "iban", "ssn", "phone"), _dashes),
    Trick("bold digits", ("card", "ssn"), lambda _, value: value.translate(_BOLD_DIGITS)),
    Trick("Arabic digits", ("card", "phone"), lambda _, value: value.translate(_ARABIC_DIGITS)),
    Trick("some digits full width", ("card", "phone", "iban"), _mixed),
    Trick("decomposed", ("email",), lambda _, value: unicodedata.normalize("NFD", value.replace("a", "ä", 1))),
    Trick("direction marks", ("card", "email", "iban"), lambda _, value: f"\u202d{value}\u202c"),
)


def obfuscated(random: Random, count: int) -> Iterator[Example]:
    """Yield texts with one value each, hidden, the tricks in turns."""
    values = Values(random)
    for number in range(count):
        trick = TRICKS[number % len(TRICKS)]
        slot = random.choice(trick.slots)
        value = values.phone_abroad() if slot == "phone" else getattr(values, slot)()
        hidden = trick.play(random, value)
        if hidden == value:  # it has nothing that this trick changes
            hidden = _inserted(random, value)
        frame = _WITH_WORD[slot] if random.random() < 0.5 or slot == "ssn" else random.choice(_TEXTS)
        start = frame.index("{}")
        label = Entity(ENTITY_OF[slot], start, start + len(hidden))
        yield Example(frame.replace("{}", hidden), (label,), "obfuscated", trick.name)
