"""Forms of personal data of one's own: the rows of `fleming.pii_entities`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Final

from fleming_sql.guardrails.base import BadConfig
from fleming_sql.guardrails.pii.automata import Pattern
from fleming_sql.guardrails.pii.context import Words
from fleming_sql.guardrails.pii.patterns import ENTITIES, Check, Rule
from fleming_sql.guardrails.pii.validators import VALIDATORS
from fleming_sql.types import PiiEntity

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")


def check_entity(entity: PiiEntity) -> None:
    """Accept a row of `fleming.pii_entities`.

    Raises:
        BadConfig: Its name, pattern, validator or context words cannot be gone by.
    """
    if not _NAME.fullmatch(entity.name):
        raise BadConfig(
            f"{entity.name!r} cannot be the name of a PII entity",
            "write capital letters, digits and underscores, a letter first, as in EMPLOYEE_ID",
        )
    if any(entity.name == built_in.name for built_in in ENTITIES):
        raise BadConfig(f"the PII entity {entity.name} is built in", "give yours another name")
    _check_pattern(entity)
    if entity.validator is not None and entity.validator not in VALIDATORS:
        near = get_close_matches(entity.validator, VALIDATORS, n=1)
        raise BadConfig(
            f"the PII entity {entity.name} names the validator {entity.validator!r}, which does not exist",
            f"{f'did you mean {near[0]}? ' if near else ''}there are {', '.join(VALIDATORS)}",
        )
    if not all(word.strip() for word in entity.context_words):
        raise BadConfig(f"a context word of the PII entity {entity.name} is empty", "take it out of context_words")


def own_rules(entities: Iterable[PiiEntity]) -> list[Rule]:
    """Return the rules of rows that `check_entity` has accepted."""
    return [
        Rule(
            entity.name,
            entity.pattern,
            check=_passing(VALIDATORS[entity.validator]) if entity.validator else _not_empty,
            words=Words(entity.context_words),
        )
        for entity in entities
    ]


def _check_pattern(entity: PiiEntity) -> None:
    import re2

    try:
        regex = Pattern(entity.pattern)
    except re2.error as error:
        told = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise BadConfig(
            f"the pattern of the PII entity {entity.name} is not valid RE2: {told}",
            "RE2 has no look-around and no back-references; its syntax is at https://github.com/google/re2/wiki/Syntax",
        ) from None
    if regex.matches(b""):
        raise BadConfig(
            f"the pattern of the PII entity {entity.name} matches the empty text, and so everywhere",
            "write one that needs at least one character",
        )


def _passing(passes: Callable[[str], bool]) -> Check:
    def check(data: bytes, start: int, end: int) -> tuple[int, int] | None:
        return (start, end) if end > start and passes(data[start:end].decode("utf-8", "replace")) else None

    return check


def _not_empty(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    return (start, end) if end > start else None
