"""Rules run over a text: one pass that tells which of them may find something, then those alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from fleming_sql.guardrails.pii import context
from fleming_sql.guardrails.pii.automata import Pattern, Patterns
from fleming_sql.guardrails.pii.patterns import Rule, Search
from fleming_sql.guardrails.pii.phones import is_idle
from fleming_sql.guardrails.spans import Span

_PLANS: Final = 512
"""How many combinations of patterns are kept in mind; texts have few of them."""
_ROUNDS: Final = 8
"""How often a text is looked at again after something was found; the second time finds nothing, as a rule."""


class Detector:
    """Finds what its rules describe in a text as bytes.

    All patterns are one automaton that goes through the text once; those that it has not seen are not run.

    Args:
        rules: What to find; where two would find the same, the one that comes first does.
        cue: RE2 of something else to look out for.

    Raises:
        re2.error: A pattern is not valid.
    """

    def __init__(self, rules: Sequence[Rule], cue: str | None = None) -> None:
        numbers: dict[str, int] = {}
        words = [context.pattern(rule.words) if rule.words else "" for rule in rules]
        for pattern in (*(rule.pattern for rule in rules), *filter(None, words)):
            numbers.setdefault(pattern, len(numbers))
        self.cue = len(numbers) if cue else -1
        self._set = Patterns([*numbers, *([cue] if cue else [])])
        self._rules = [
            _Ready(
                rule,
                numbers[rule.pattern],
                Pattern(rule.pattern),
                numbers[near] if near else None,
                not near or not rule.needs_words,
            )
            for rule, near in zip(rules, words, strict=True)
        ]
        self._plan = lru_cache(maxsize=_PLANS)(self._make_plan)

    def cues(self, data: bytes) -> Sequence[int]:
        """Return the numbers of the patterns that a text has; what is empty has nothing to find."""
        return self._set.present(data)

    def find(self, data: bytes, cues: Sequence[int]) -> list[Span]:
        """Return what a text has, in its order and without overlaps, in bytes.

        What was found is blanked and the rest looked at again, so that nothing comes to light once it is masked.

        Args:
            data: The text.
            cues: Of it, as `cues` returns them.
        """
        found: list[Span] = []
        for _ in range(_ROUNDS):
            plan = self._plan(frozenset(cues))
            if not plan.steps:
                break
            before = len(found)
            data = _round(data, plan, found)
            if len(found) == before:
                break
            cues = self._set.present(data)
        found.sort()
        return found

    def _make_plan(self, cues: frozenset[int]) -> _Plan:
        steps = [
            _Step(ready.rule, ready.regex, ready.words in cues)
            for ready in self._rules
            if ready.pattern in cues and (ready.words in cues or ready.is_free)
        ]
        return _Plan(steps, any(step.told for step in steps if step.rule.search))


class _Step(NamedTuple):
    """A rule that may find something in a text."""

    rule: Rule
    regex: Pattern
    told: bool
    """Whether one of its context words is there."""


class _Plan(NamedTuple):
    """What is done with all texts that have the same patterns."""

    steps: Sequence[_Step]
    tells: bool
    """Whether there are context words of runs of digits."""


class _Ready(NamedTuple):
    """A rule, and the numbers of its pattern and its context words."""

    rule: Rule
    pattern: int
    regex: Pattern
    words: int | None
    is_free: bool
    """Whether it finds something without a context word too."""


def _round(data: bytes, plan: _Plan, found: list[Span]) -> bytes:
    """Add what the rules find, and return the text without it."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for rule, regex, told in plan.steps:
        if rule.search is None:
            new = _checked(rule, regex, data)
        else:
            places = runs.get(rule.pattern)
            if places is None:
                places = regex.places(data)
                if not plan.tells:
                    places = [(start, end) for start, end in places if not is_idle(data, start, end)]
                runs[rule.pattern] = places
            new = _searched(rule, rule.search, places, data, told) if places else []
        if new:
            found += new
            data = blank(data, new)
    return data


def blank(data: bytes, spans: Sequence[Span]) -> bytes:
    """Return a text with nothing at some places, of the same length."""
    if len(spans) == 1:
        start, end, _ = spans[0]
        return data[:start] + bytes(end - start) + data[end:]
    changed = bytearray(data)
    for start, end, _ in spans:
        changed[start:end] = bytes(end - start)
    return bytes(changed)


def _checked(rule: Rule, regex: Pattern, data: bytes) -> list[Span]:
    found = []
    for start, end in regex.places(data):
        if not rule.words or context.is_near(rule.words, data, start, end):
            place = rule.check(data, start, end) if rule.check else (start, end)
            if place and b"\0" not in data[place[0] : place[1]]:
                found.append(Span(*place, rule.entity))
    return found


def _searched(rule: Rule, search: Search, runs: Sequence[tuple[int, int]], data: bytes, told: bool) -> list[Span]:
    """Return what a rule finds in runs of digits, of which others may have taken something, which is blank by now."""
    return [
        Span(begin, stop, rule.entity)
        for start, end in runs
        if data[start] or data[end - 1]
        for begin, stop in search(data, start, end, told)
    ]
