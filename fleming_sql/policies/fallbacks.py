"""What a failure means for the next attempt: the end, another entity, or the same one again later.

The order is that of Databricks' fallbacks: on 429, 5xx, a timeout or a lost connection the other entities are tried
by their position, each once. What is left of the budget then goes to those that may have recovered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fleming_sql.policies.failures import Failure
from fleming_sql.policies.retries import RETRIED_STATUSES, backoff
from fleming_sql.types import Endpoint, ServedEntity

Verdict = Literal[
    "final",  # no entity would answer it otherwise
    "elsewhere",  # this entity is not asked again for this call
    "again",  # others first, then this one after a pause
]
CREDENTIAL_STATUSES: Final = frozenset({401, 402, 403})
"""The key is wrong, has nothing left to spend, or may not do this."""
THROTTLED: Final = frozenset({429, 529})
"""The entity has more to do than it takes."""


def judge(failure: Failure, endpoint: Endpoint) -> Verdict:
    """Return what a failure means for the next attempt of its call."""
    if failure.refusal is not None:
        return "elsewhere" if failure.refusal in endpoint.fallback_on else "final"
    if failure.kind == "status":
        if failure.status in RETRIED_STATUSES:
            return "again"
        return "elsewhere" if failure.status >= 500 or failure.status in CREDENTIAL_STATUSES else "final"
    if failure.kind == "connect":
        return "again"
    if failure.kind in ("timeout", "cut", "answer"):  # it may have been answered, hence billed
        return "again" if endpoint.retry_on_timeout else "elsewhere"
    return "final" if failure.kind == "too_large" else "elsewhere"


def is_of_credential(failure: Failure) -> bool:
    """Return whether the key is at fault: it cannot be had, or was refused."""
    return failure.refusal is None and (failure.kind == "credential" or failure.status in CREDENTIAL_STATUSES)


def outcome(failure: Failure) -> Literal["answered", "failed", "refused", "unsent"]:
    """Return what a failure says about the entity's health; one that answers 400 is well."""
    if failure.kind == "request":
        return "unsent"
    if failure.refusal is not None or failure.kind == "too_large":
        return "answered"
    if failure.kind == "status":
        if failure.status in THROTTLED:
            return "refused"
        failed = failure.status >= 500 or failure.status == 408 or failure.status in CREDENTIAL_STATUSES
        return "failed" if failed else "answered"
    return "failed"


@dataclass(slots=True)
class _Tried:
    entity: ServedEntity
    verdict: Verdict
    not_before: float
    credential_failed: bool


@dataclass(frozen=True, slots=True)
class Step:
    """The next attempt."""

    entity: ServedEntity
    wait_s: float
    reason: Literal["first", "schema_mismatch", "fallback", "retry"]
    forced: bool = False
    """Asked although it is left out, because nobody else is left to ask."""


class Tries:
    """What one call has tried, and what it may try next; one budget for retries and fallbacks together.

    Args:
        endpoint: Its entities in the order of their position, its budget and what it falls back on.

    Example:
        >>> tries = Tries(endpoint)
        >>> tries.failed(first, Failure("status", "overloaded", status=503), now=0.0)
        >>> tries.next([second], now=0.0, remaining_s=60.0).entity is second
        True
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tried: dict[str, _Tried] = {}
        self._made = 0
        self._unusable = 0
        self._over = False

    @property
    def _budget(self) -> int:
        entities = len(self._endpoint.entities) if self._endpoint.fallback_enabled else 1
        return max(1 + self._endpoint.max_retries, entities + self._unusable)

    def failed(self, entity: ServedEntity, failure: Failure, now: float) -> None:
        """Take down a failed attempt.

        Args:
            entity: Who was asked.
            failure: What went wrong.
            now: Seconds.
        """
        self._made += 1
        verdict = judge(failure, self._endpoint)
        self._over = self._over or verdict == "final"
        pause_s = backoff(self._made, failure.chance) if failure.retry_after_s is None else failure.retry_after_s
        self._tried[entity.name] = _Tried(entity, verdict, now + pause_s, is_of_credential(failure))

    def unusable(self) -> bool:
        """Take down an attempt whose answer was not in the asked-for format; return whether it may be asked again."""
        self._made += 1
        self._unusable += 1
        return self._made <= self._endpoint.max_retries

    def ahead(self, allowed: Sequence[ServedEntity], entity: ServedEntity) -> int:
        """Return how many attempts may follow the one at `entity`, should it not be answered in time."""
        alone = len(self._endpoint.entities) == 1
        others = 0 if alone else sum(1 for other in self._untried(allowed) if other.name != entity.name)
        again = self._endpoint.retry_on_timeout and self._made < self._endpoint.max_retries
        return others + again

    def next(self, allowed: Sequence[ServedEntity], now: float, remaining_s: float) -> Step | None:
        """Return the next attempt, None where the call has to end with its last failure.

        Args:
            allowed: The entities that are not left out, by position.
            now: Seconds.
            remaining_s: Time left for the whole call.
        """
        if self._over or self._made >= self._budget or remaining_s <= 0:
            return None
        untried = self._untried(allowed)
        if untried:
            return Step(untried[0], 0.0, "fallback")
        step = self._again(allowed, now)
        left_out = self._untried(self._endpoint.entities)
        if left_out and (step is None or step.forced or step.wait_s >= remaining_s):
            return Step(left_out[0], 0.0, "fallback", forced=True)
        return step if step is not None and step.wait_s < remaining_s else None

    def _untried(self, entities: Sequence[ServedEntity]) -> list[ServedEntity]:
        """Return who has not been asked yet, and does not use a key that was just refused."""
        if self._tried and not self._endpoint.fallback_enabled:
            return []
        refused = {tried.entity.credential for tried in self._tried.values() if tried.credential_failed}
        return [
            e for e in entities if e.name not in self._tried and (e.credential is None or e.credential not in refused)
        ]

    def _again(self, allowed: Sequence[ServedEntity], now: float) -> Step | None:
        again = [tried for tried in self._tried.values() if tried.verdict == "again"]
        if not again or self._made > self._endpoint.max_retries:
            return None
        names = {entity.name for entity in allowed}
        well = [tried for tried in again if tried.entity.name in names]
        soonest = min(well or again, key=lambda tried: tried.not_before)
        return Step(soonest.entity, max(0.0, soonest.not_before - now), "retry", forced=not well)
