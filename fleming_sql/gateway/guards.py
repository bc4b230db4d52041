"""The guardrails of an endpoint, made ready once for all calls of a statement."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final, Literal, NamedTuple

from fleming_sql import jsontext
from fleming_sql.guardrails import BadConfig, Guardrail, Surroundings, make_guardrail
from fleming_sql.guardrails.base import ModelGuardrail, PolicyGuardrail
from fleming_sql.tokenizer import TokenCounter
from fleming_sql.types import Endpoint, GuardrailRule, GuardrailRules, Snapshot

_KEPT: Final = 1024


class Guard(NamedTuple):
    """One row of `fleming.guardrails`, ready to look."""

    rule: GuardrailRule
    guardrail: Guardrail | None
    """None where its config cannot be gone by; config_problems has it, and calls that meet it fail."""


class Stage(NamedTuple):
    """Guardrails that follow each other in rank and look in the same way."""

    way: Literal["text", "policy", "model"]
    """Those that look at the text do so one after the other, one SQL policy looks at many texts at once, and those
    that ask a model ask at the same time."""
    guards: tuple[Guard, ...]


Chain = tuple[Stage, ...]
"""Stages in their order."""


@dataclass(frozen=True, slots=True)
class Guards:
    """All guardrails of an endpoint."""

    input: Chain = ()
    output: Chain = ()
    fingerprint: bytes = b""
    """Of those that an answer depends on. Empty where it depends on none."""
    reads_caller: bool = False
    """Whether what they say may depend on who asks."""
    endpoints: tuple[str, ...] = ()
    """Those that they ask."""

    @property
    def asks_about_answers(self) -> bool:
        """Whether a model is asked about answers."""
        return any(stage.way == "model" for stage in self.output)

    @property
    def screens_vectors(self) -> bool:
        """Whether something can look at the requests of many rows at once, before any of them is sent.

        A SQL policy takes one query for all of them; what goes by the text takes half the time that it takes between
        two requests, when the processor's caches have been used for something else.
        """
        return bool(self.input) and self.input[0].way != "model"


NO_GUARDS: Final = Guards()


class GuardMaker:
    """Makes the guardrails of endpoints, each as long as its row stays as it is. Any thread may ask.

    Args:
        counter: Counts tokens.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._made: dict[tuple[object, ...], Guard] = {}

    def make(self, snapshot: Snapshot, endpoint_name: str, *, asks_models: bool = True) -> Guards:
        """Return the guardrails of an endpoint.

        Args:
            snapshot: The configuration.
            endpoint_name: Of it; one that does not exist has none.
            asks_models: False leaves out those that ask a model: they do not look at what guardrails ask.
        """
        rules = snapshot.guardrails.by_endpoint.get(endpoint_name, ())
        endpoint = snapshot.endpoints.get(endpoint_name)
        if not rules or endpoint is None:
            return NO_GUARDS
        guards = [self._guard(rule, snapshot.guardrails, endpoint) for rule in rules]
        if not asks_models:
            guards = [guard for guard in guards if not isinstance(guard.guardrail, ModelGuardrail)]
        return Guards(
            _chain(guard for guard in guards if guard.rule.phase == "input"),
            _chain(guard for guard in guards if guard.rule.phase == "output"),
            _fingerprint(guards, snapshot.guardrails),
            any(isinstance(g.guardrail, PolicyGuardrail) and g.guardrail.reads_caller for g in guards),
            tuple({g.guardrail.endpoint for g in guards if isinstance(g.guardrail, ModelGuardrail)}),
        )

    def _guard(self, rule: GuardrailRule, rules: GuardrailRules, endpoint: Endpoint) -> Guard:
        model = endpoint.entities[0].model if endpoint.entities else ""
        key = rule, rules.pii_entities, tuple(rules.macros.values()), model
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= _KEPT:
                self._made.clear()
            made = self._made[key] = Guard(rule, self._make(rule, rules, model))
        return made

    def _make(self, rule: GuardrailRule, rules: GuardrailRules, model: str) -> Guardrail | None:
        count_tokens = partial(self._counter.count_text, model=model)
        surroundings = Surroundings(rules.pii_entities, rules.macros, count_tokens)
        try:
            made = make_guardrail(rule.kind, rule.behavior, rule.config, surroundings)
        except (BadConfig, KeyError):
            return None
        if made.counts_tokens:
            self._counter.load(model)  # here, since the event loop must not wait for it
        return made


def _chain(guards: Iterable[Guard]) -> Chain:
    """Return guards, which come in the order of their ranks, as stages."""
    stages: list[Stage] = []
    for (way, _), group in groupby(enumerate(guards), key=lambda item: _group(item[1], item[0])):
        stages.append(Stage(way, tuple(guard for _, guard in group)))
    return tuple(stages)


def _group(guard: Guard, position: int) -> tuple[Literal["text", "policy", "model"], int]:
    """Return how a guard looks, and what tells it from its neighbours if it looks by itself."""
    if isinstance(guard.guardrail, PolicyGuardrail):
        return "policy", position
    if isinstance(guard.guardrail, ModelGuardrail):
        # What one model masks, those after it are not to see.
        return "model", position if guard.rule.behavior == "mask" else -1
    return "text", -1


def _fingerprint(guards: Sequence[Guard], config: GuardrailRules) -> bytes:
    """Return what tells answers apart by the guardrails that they went through.

    A request is looked at each time it is made, so a guardrail that lets it pass as it is has no part in the answer.
    """
    shaping = [
        [rule.phase, rule.rank, rule.kind, rule.behavior, rule.config, rule.fails_open]
        for rule, guardrail in guards
        if rule.behavior == "mask"
        or (rule.behavior == "block" and (rule.phase == "output" or isinstance(guardrail, PolicyGuardrail)))
    ]
    if not shaping:
        return b""
    entities = [[entity.name, entity.pattern, entity.validator, entity.context_words] for entity in config.pii_entities]
    macros = [[macro.name, macro.definition] for macro in config.macros.values()]
    return hashlib.blake2b(jsontext.dumpb([shaping, entities, macros]), digest_size=16).digest()
