"""Has guardrails look at requests and answers, in the order of their ranks, and takes down what they say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from fleming_sql import jsontext
from fleming_sql.gateway.guards import Chain, Guard, Stage
from fleming_sql.gateway.policy_batches import PolicyEvaluator, events_of
from fleming_sql.guardrails.base import (
    PASS,
    Finding,
    Guardrail,
    ModelGuardrail,
    PolicyGuardrail,
    Question,
    TextGuardrail,
    Undecided,
    Verdict,
)
from fleming_sql.guardrails.documents import Document
from fleming_sql.guardrails.spans import restore
from fleming_sql.types import Caller, GuardrailResult

T = TypeVar("T")

_LOGGER: Final = logging.getLogger("fleming_sql")
_LARGE: Final = 100_000
"""Characters from which a document is looked at on another thread: the calls go on meanwhile."""
_HOLD_S: Final = 0.005
"""How long texts are looked at before others get the thread."""
_SPANS_KEPT: Final = 50
"""Places of one kind of find that the log keeps; it counts them all."""


class Ask(Protocol):
    """Asks a model on behalf of a guardrail."""

    async def __call__(self, screening: Screening, guard: Guard, guardrail: ModelGuardrail, question: Question) -> Any:
        """Return what the model said, an `Undecided` where it said nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """Why a call goes no further."""

    guard: Guard
    verdict: Verdict
    reason: str


@dataclass(slots=True)
class Screening:
    """One document on its way past the guardrails of its phase."""

    document: Document
    """As it is by now: what was masked is not in it any more."""
    chain: Chain
    stage: int = 0
    """How many stages it is past."""
    block: Block | None = None
    results: list[GuardrailResult] = field(default_factory=list)
    originals: dict[str, str] = field(default_factory=dict)
    """What stands behind the placeholders that are put back into the answer."""
    is_masked: bool = False

    @property
    def is_over(self) -> bool:
        """Whether no guardrail is left to look."""
        return self.block is not None or self.stage == len(self.chain)

    def take(self, guard: Guard, decision: Verdict | Undecided, took_ms: float) -> None:
        """Do what a guardrail's row says with its decision, and with its having come to none."""
        if isinstance(decision, Undecided):
            self._fail(guard, f"could not decide: {decision}", took_ms)
            return
        entities = _entities(self.document, decision) if decision.reason is not None else None
        self._add(guard, self._act(guard, decision), decision.reason, entities, took_ms)

    def _fail(self, guard: Guard, told: str, took_ms: float) -> None:
        if guard.rule.behavior == "log":
            action = "log"
        elif guard.rule.fails_open:
            action = "allow"
        else:
            action, self.block = "block", Block(guard, PASS, told)
        self._add(guard, action, told, None, took_ms)

    def _act(self, guard: Guard, verdict: Verdict) -> str:
        behavior = guard.rule.behavior
        if verdict.reason is None:
            return "none"
        if behavior == "log":
            return "log"
        if (behavior == "mask" or verdict.masks) and verdict.texts is not None:
            self.document = self.document.with_texts(verdict.texts)
            # It may have masked what an earlier one has put there.
            self.originals |= {new: restore(old, self.originals) for new, old in verdict.originals.items()}
            self.is_masked = True
            return "mask"
        self.block = Block(guard, verdict, verdict.reason)
        return "block"

    def _add(self, guard: Guard, action: str, reason: str | None, entities: str | None, took_ms: float) -> None:
        rule = guard.rule
        if self.document.media:
            unseen = f"{self.document.media} picture(s) or file(s) beside the text were not looked at"
            reason = unseen if reason is None else f"{reason}; {unseen}"
        self.results.append(GuardrailResult(rule.name, rule.phase, rule.kind, action, reason, entities, took_ms))

    def without_finds(self) -> list[str] | None:
        """Return the texts as the log may keep them after a block; None where that cannot be said.

        What blocked is masked in them, and what those after it would have masked.
        """
        texts = self.document.texts
        if self.block is not None and self.block.verdict.texts is not None:
            texts = list(self.block.verdict.texts)
        document = self.document.with_texts(texts)
        for stage in self.chain[self.stage :]:
            for guard in stage.guards:
                if guard.rule.behavior != "mask":
                    continue
                if not isinstance(guard.guardrail, TextGuardrail):
                    return None
                try:
                    verdict = guard.guardrail.examine(document)
                except Exception:  # noqa: BLE001  what cannot be masked is not logged, whatever went wrong
                    return None
                if verdict.texts is not None:
                    document = document.with_texts(verdict.texts)
        return document.texts


class Screener:
    """Runs documents through their guardrails.

    Args:
        evaluator: Evaluates SQL policies.
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(self, evaluator: PolicyEvaluator, monotonic: Callable[[], float]) -> None:
        self._evaluator = evaluator
        self._monotonic = monotonic

    def run_texts(self, screening: Screening) -> None:
        """Have all look whose turn it is by now and who need nothing but the text."""
        while not screening.is_over:
            stage = screening.chain[screening.stage]
            if stage.way != "text":
                return
            self._look(screening, stage)
            if screening.block is None:
                screening.stage += 1

    async def run(self, screenings: Sequence[Screening], target: str, caller: Caller, ask: Ask | None) -> None:
        """Have all guardrails look at documents that have the same ones.

        Args:
            screenings: The documents; the same stage comes next for all of them.
            target: Their endpoint.
            caller: Who calls it.
            ask: Asks models; without it the screening ends where one would have to be asked.
        """
        while True:
            await self._run_all_texts(screenings)
            going_on = [screening for screening in screenings if not screening.is_over]
            if not going_on:
                return
            stage = going_on[0].chain[going_on[0].stage]
            if stage.way == "policy":
                await self._evaluate(going_on, stage.guards[0], target, caller)
            elif ask is None:
                return
            else:
                for screening in going_on:  # one: many are only run as far as no model is asked
                    await self._ask(screening, stage, ask)
            for screening in going_on:
                if screening.block is None:
                    screening.stage += 1

    async def _run_all_texts(self, screenings: Sequence[Screening]) -> None:
        began = self._monotonic()
        for screening in screenings:
            if is_large(screening):
                await asyncio.to_thread(self.run_texts, screening)
            else:
                self.run_texts(screening)
            if self._monotonic() - began > _HOLD_S:
                await asyncio.sleep(0)
                began = self._monotonic()

    def _look(self, screening: Screening, stage: Stage) -> None:
        now = self._monotonic()
        for guard in stage.guards:
            decision = _decision(_examine, guard.guardrail, screening.document)
            began, now = now, self._monotonic()
            screening.take(guard, decision, (now - began) * 1000)
            if screening.block is not None:
                return

    async def _evaluate(self, screenings: Sequence[Screening], guard: Guard, target: str, caller: Caller) -> None:
        """Evaluate a SQL policy over all parts of all documents in one query."""
        policy, began = guard.guardrail, self._monotonic()
        assert isinstance(policy, PolicyGuardrail)  # noqa: S101  it is what makes a policy stage
        events = [events_of(screening.document, target, caller.user, caller.groups) for screening in screenings]
        together = [event for of_one in events for event in of_one]
        results = await self._evaluator.evaluate(policy, together, guard.rule.timeout_s)
        took_ms = (self._monotonic() - began) * 1000 / max(1, len(together))
        end = 0
        for screening, of_one in zip(screenings, events, strict=True):
            begin, end = end, end + len(of_one)
            decision = _decision(policy.read, screening.document, results[begin:end])
            screening.take(guard, decision, took_ms * len(of_one))

    async def _ask(self, screening: Screening, stage: Stage, ask: Ask) -> None:
        """Ask the models of a stage at the same time; of those that object, the lowest rank is the one that counts."""
        asking = [self._asked(screening, guard, ask) for guard in stage.guards]
        # Alone it is asked on the task of the call, which is let come to its end where the statement fails meanwhile.
        answers = [await asking[0]] if len(asking) == 1 else await asyncio.gather(*asking)
        for guard, (decision, took_ms) in zip(stage.guards, answers, strict=True):
            if screening.block is None:
                screening.take(guard, decision, took_ms)

    async def _asked(self, screening: Screening, guard: Guard, ask: Ask) -> tuple[Verdict | Undecided, float]:
        document, guardrail, began = screening.document, guard.guardrail, self._monotonic()
        assert isinstance(guardrail, ModelGuardrail)  # noqa: S101  it is what makes a stage of models
        if not any(part.text.strip() for part in document.parts):
            return PASS, 0.0
        question = _decision(guardrail.question, document)
        if isinstance(question, Undecided):
            return question, 0.0
        answer = await ask(screening, guard, guardrail, question)
        if isinstance(answer, Undecided):
            return answer, (self._monotonic() - began) * 1000
        decision: Verdict | Undecided = _decision(guardrail.read, document, answer)
        return decision, (self._monotonic() - began) * 1000


def is_large(screening: Screening) -> bool:
    """Return whether it takes so long to look at a document that others should not wait for it."""
    return sum(len(part.text) for part in screening.document.parts) > _LARGE


def _examine(guardrail: Guardrail | None, document: Document) -> Verdict:
    if not isinstance(guardrail, TextGuardrail):
        raise Undecided("its row is wrong: see fleming.config_problems")
    return guardrail.examine(document)


def _decision(decide: Callable[..., T], *of: Any) -> T | Undecided:
    """Return what a guardrail decides, and that it came to no decision where it failed, in whatever way."""
    try:
        return decide(*of)
    except Undecided as undecided:
        return undecided
    except Exception as error:  # noqa: BLE001  a guardrail that fails has not decided, whatever went wrong
        # Its text may hold what it failed on.
        _LOGGER.debug("a guardrail failed with %s", type(error).__name__)
        return Undecided(f"it failed with {type(error).__name__}")


def _entities(document: Document, verdict: Verdict) -> str | None:
    """Return what was found as JSON: kinds, counts and places."""
    found: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        found.setdefault(finding.entity, []).append(finding)
    entities = [
        {
            "type": entity,
            "count": len(finds),
            "spans": [
                {"part": document.parts[find.part].path, "start": find.start, "end": find.end}
                for find in finds[:_SPANS_KEPT]
            ],
        }
        for entity, finds in found.items()
    ]
    entities += [{"type": category, "score": score} for category, score in verdict.scores.items()]
    return jsontext.dumps(entities) if entities else None
