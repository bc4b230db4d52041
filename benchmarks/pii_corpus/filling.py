"""Templates: texts with slots in them. `⟦card⟧` is any card number, `⟦card:visa⟧` one of a network.

`⟦card|4111 1111 1111 1111⟧` is what stands there, `⟦?routing⟧` is labelled as optional, and a slot that has no entity
is a near miss.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from benchmarks.pii_corpus import Entity
from benchmarks.pii_corpus.near_misses import NearMisses
from benchmarks.pii_corpus.values import Values

ENTITY_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "card": "CREDIT_CARD",
        "card_number": "CREDIT_CARD",
        "email": "EMAIL_ADDRESS",
        "phone": "PHONE_NUMBER",
        "phone_abroad": "PHONE_NUMBER",
        "phone_us": "PHONE_NUMBER",
        "ssn": "US_SSN",
        "ssn_plain": "US_SSN",
        "bank": "US_BANK_NUMBER",
        "routing": "US_BANK_NUMBER",
        "iban": "IBAN_CODE",
        "iban_number": "IBAN_CODE",
        "ip": "IP_ADDRESS",
        "ip4": "IP_ADDRESS",
        "ip6": "IP_ADDRESS",
        "passport": "PASSPORT",
        "licence": "DRIVER_LICENSE",
        "mac": "MAC_ADDRESS",
        "crypto": "CRYPTO",
        "url": "URL_CREDENTIALS",
        "key": "API_KEY",
        "jwt": "API_KEY",
    }
)
"""What the value of a slot is labelled as."""
_SLOT: Final = re.compile(r"⟦(\??)(\w+)(?::(\w+))?(?:\|([^⟧]*))?⟧")


class Filler:
    """Fills templates.

    Args:
        random: Where the values come from.
    """

    def __init__(self, random: Random) -> None:
        self.values = Values(random)
        self._near_misses = NearMisses(random)

    def fill(self, template: str) -> tuple[str, list[Entity]]:
        r"""Return the text and its labels. `\n`, `\t` and `\"` in the template are what they are in Python.

        Raises:
            AttributeError: There is no such slot.
        """
        template = template.replace("\\n", "\n").replace("\\t", "\t")
        text, entities, done = "", [], 0
        for match in _SLOT.finditer(template):
            text += template[done : match.start()]
            value = self._value(match[2], match[3], match[4])
            entity = ENTITY_OF.get(match[2])
            if entity:
                entities.append(Entity(entity, len(text), len(text) + len(value), bool(match[1])))
            text += value
            done = match.end()
        return text + template[done:], entities

    def _value(self, slot: str, detail: str | None, literal: str | None) -> str:
        if literal is not None:
            return literal
        if re.fullmatch(r"n\d", slot):
            return self._near_misses.number(int(slot[1]))
        maker = getattr(self.values if slot in ENTITY_OF else self._near_misses, slot)
        value: str = maker(detail) if detail else maker()
        return value
