"""Personal data: cards, accounts, addresses, keys, documents, and forms of one's own."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, ClassVar

from fleming_sql.guardrails.base import BadConfig, Surroundings
from fleming_sql.guardrails.pii.automata import Pattern
from fleming_sql.guardrails.pii.detector import Detector, blank
from fleming_sql.guardrails.pii.normalise import ESCAPE_CUE, Plain, normalise, unescape
from fleming_sql.guardrails.pii.own import check_entity, own_rules
from fleming_sql.guardrails.pii.patterns import ENTITIES, STRONG, WEAK, Rule
from fleming_sql.guardrails.spans import Span, SpanGuardrail
from fleming_sql.types import Behavior

__all__ = ["Pii", "built_in", "check_entity"]


class Pii(SpanGuardrail):
    """Finds personal data by its form: by patterns, check digits and the words near it."""

    detects_pii = True
    looks_back = True
    description = "Personal data: cards, accounts, addresses, phone numbers, documents, keys, and forms of one's own"
    behaviors = ("block", "mask", "log")
    config_schema: ClassVar[Mapping[str, Any]] = {
        "properties": {
            "entities": {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "description": "Names in built_in_pii_entities and pii_entities; all of them where it is missing",
            },
            "engine": {
                "enum": ["patterns", "presidio"],
                "default": "patterns",
                "description": "presidio finds names and places too, by a spaCy model that is installed",
            },
            "restore": {
                "type": "boolean",
                "default": False,
                "description": "Number the placeholders, and put the originals back into the answer",
            },
        }
    }

    def __init__(self, config: Mapping[str, Any], behavior: Behavior, surroundings: Surroundings) -> None:
        self.restores = bool(config.get("restore", False))
        if self.restores and behavior != "mask":
            raise BadConfig(
                f"restore is for the behavior mask, and this guardrail's is {behavior}",
                "leave restore out, or set behavior to mask",
            )
        for entity in surroundings.pii_entities:
            check_entity(entity)
        self._recognise: Callable[[str], Iterable[Span]] | None = None
        named: tuple[str, ...] = ()
        if config.get("engine") == "presidio":
            from fleming_sql.guardrails.pii import presidio

            named = presidio.ENTITIES
        own = [entity.name for entity in surroundings.pii_entities]
        wanted = _wanted(config.get("entities"), [*(entity.name for entity in ENTITIES), *own, *named], named)
        if named and (asked := wanted.intersection(named)):
            self._recognise = presidio.recogniser(presidio.load_model(), asked)
        self._own_rules = own_rules(entity for entity in surroundings.pii_entities if entity.name in wanted)
        self._detector = _detector(frozenset(wanted), tuple(self._own_rules))
        self._given = Detector(self._own_rules) if self._own_rules else None
        # Patterns of one's own and the recogniser look at the text as given, escapes and all.
        self.resolves_escapes = self._given is None and self._recognise is None
        self._placeholders = _placeholders(frozenset([*(entity.name for entity in ENTITIES), *own, *named]))

    def find(self, text: str) -> Sequence[Span]:
        """Return the personal data in a text, in its order and without overlaps."""
        plain = normalise(text)
        cues = self._detector.cues(plain.data)
        if not cues and (self._given is None or text.isascii()) and self._recognise is None:
            return ()
        if self._detector.cue in cues:
            plain = unescape(text)
            cues = self._detector.cues(plain.data)
        found = self._seen(plain, cues)
        if plain.stretches:
            found = [Span(*plain.place(one.start, one.end), one.entity) for one in found]
        if self._given is not None and not (text.isascii() and not plain.stretches):
            found = _merged(found, self._as_given(text, self._given))
        if self._recognise is not None:
            found = _merged(found, self._recognise(text))
        return found

    def _seen(self, plain: Plain, cues: Sequence[int]) -> Sequence[Span]:
        return self._detector.find(self._without_placeholders(plain.data), cues) if cues else ()

    def _as_given(self, text: str, detector: Detector) -> Iterator[Span]:
        """Return what patterns of one's own find in a text that reads otherwise than it was given."""
        data = self._without_placeholders(text.encode("utf-8", "replace"))
        done = characters = 0
        for one in detector.find(data, detector.cues(data)):
            start = characters + len(data[done : one.start].decode("utf-8", "replace"))
            end = start + len(data[one.start : one.end].decode("utf-8", "replace"))
            done, characters = one.end, end
            yield Span(start, end, one.entity)

    def _without_placeholders(self, data: bytes) -> bytes:
        """Return a text in which what has been masked already is blank: its words are no context, its name no data."""
        if b"<" not in data:
            return data
        return blank(data, [Span(*place, "") for place in self._placeholders.places(data)])


def built_in() -> list[tuple[str, str, str | None, list[str]]]:
    """Return the rows of the table `built_in_pii_entities`: name, description, validator, context words."""
    return [(entity.name, entity.description, entity.validator, list(entity.words)) for entity in ENTITIES]


@lru_cache(maxsize=64)
def _detector(wanted: frozenset[str], own: tuple[Rule, ...]) -> Detector:
    rules = [*STRONG, *own, *WEAK]
    return Detector([rule for rule in rules if rule.entity in wanted], ESCAPE_CUE)


def _merged(found: Sequence[Span], more: Iterable[Span]) -> list[Span]:
    """Return finds, and those of others that overlap none of them, in order."""
    merged = list(found)
    for one in more:
        at = bisect_left(merged, (one.end,))
        if at == 0 or merged[at - 1].end <= one.start:
            insort(merged, one)
    return merged


@cache
def _placeholders(names: frozenset[str]) -> Pattern:
    # Six digits at most: a number in brackets is none of ours, and may be somebody's card.
    return Pattern(f"<(?:{'|'.join(sorted(names))})(?:_[0-9]{{1,6}})?>")


def _wanted(asked: Sequence[str] | None, known: Sequence[str], extra: Sequence[str]) -> set[str]:
    """Return the names of what to find.

    Raises:
        BadConfig: One is not known.
    """
    if asked is None:
        return set(known)
    for name in asked:
        if name not in known:
            near = _near(name.upper(), known)
            said = f"did you mean {' or '.join(near)}? " if near else ""
            raise BadConfig(
                f"there is no PII entity {name!r}",
                f"{said}fleming.built_in_pii_entities lists those built in, and fleming.pii_entities takes your own",
            )
    return set(asked)


def _near(name: str, known: Sequence[str]) -> list[str]:
    """Return the names that one may be a mistake for: those that have a word of it, or look like it."""
    words = set(name.split("_"))
    return [one for one in known if words.intersection(one.split("_"))][:3] or get_close_matches(name, known, n=3)
