"""What each step of one call decided, for those who ask about that call. Calls without a trace pay nothing for it.

Steps note what they decided as they decide it, so a call that fails has its trace up to the failure. Texts of requests
and answers, and secrets, are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fleming_sql.policies.access import granting, identify
from fleming_sql.policies.pricing import cost_of

if TYPE_CHECKING:
    from fleming_sql.errors import CallError
    from fleming_sql.gateway.limiter import RateLimiter
    from fleming_sql.gateway.plan import Plan
    from fleming_sql.gateway.reuse import Reusable
    from fleming_sql.policies.fallbacks import Step as NextStep
    from fleming_sql.policies.limits import Requirement
    from fleming_sql.types import (
        Attempt,
        Budget,
        Caller,
        CallFacts,
        CallRecord,
        Endpoint,
        GuardrailResult,
        ServedEntity,
        StoredAnswer,
    )

_FAILING_STEP: Final[Mapping[str, str]] = {
    "RESOURCE_DOES_NOT_EXIST": "configuration",
    "CONFIG_PROBLEM": "configuration",
    "PERMISSION_DENIED": "permission",
    "AI_FUNCTION_UNSUPPORTED_REQUEST": "request",
    "BUDGET_EXCEEDED": "budgets",
    "REQUEST_LIMIT_EXCEEDED": "rate limits",
    "INPUT_GUARDRAIL_TRIGGERED": "guardrails",
    "OUTPUT_GUARDRAIL_TRIGGERED": "guardrails",
}
"""Which step ends a call with a condition; all others come of the attempts and the answer."""


@dataclass(frozen=True, slots=True)
class TracedStep:
    """One step of a call."""

    name: str
    """Such as `permission`, `rate limits` or `attempt`."""
    decision: str
    """In words."""
    at_ms: float
    """When it was decided, from the beginning of the trace."""
    took_ms: float
    """Since the step before it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: JSON values by name."""


class Trace:
    """Takes down the steps of one call.

    Args:
        monotonic: Seconds on a clock that never goes back.

    Example:
        >>> trace = Trace(clock.monotonic)
        >>> trace.note("reuse", "no earlier answer", hit=False)
        >>> trace.steps[0].decision
        'no earlier answer'
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = self._last = monotonic()
        self.steps: list[TracedStep] = []

    def note(self, step: str, decision: str, /, **facts: Any) -> None:
        """Take down what a step decided, now."""
        now = self._monotonic()
        at_ms, took_ms = (now - self._began) * 1000, (now - self._last) * 1000
        self._last = now
        self.steps.append(TracedStep(step, decision, at_ms, took_ms, facts))

    def note_permission(self, plan: Plan, caller: Caller) -> None:
        """Take down by which row a caller may call."""
        snapshot, rows = plan.snapshot, plan.snapshot.permissions.get(plan.endpoint_name, ())
        identity = identify(caller, snapshot.principals, snapshot.groups_of)
        groups = sorted(identity.groups)
        by = granting(rows, identity)
        if by is None:
            decision = f'"{caller.user}" may call: the endpoint has no row in fleming.permissions, so it is open to all'
            self.note("permission", decision, user=caller.user, groups=groups, granted_by=None)
        else:
            row = f"{plan.endpoint_name}/{by.principal_type}/{by.principal}/{by.privilege}"
            decision = f'"{caller.user}" may call, by {by.privilege} of the {by.principal_type} "{by.principal}"'
            self.note("permission", decision, user=caller.user, groups=groups, granted_by=row)

    def note_guardrails(self, results: Iterable[GuardrailResult]) -> None:
        """Take down what guardrails said, each as a step."""
        for result in results:
            said = "found nothing" if result.action == "none" else result.action
            self.note(
                "guardrails",
                f"{result.phase} {result.guardrail} ({result.kind}): {said}"
                + (f", {result.reason}" if result.reason is not None else ""),
                guardrail=result.guardrail,
                phase=result.phase,
                kind=result.kind,
                action=result.action,
                reason=result.reason,
                duration_ms=result.duration_ms,
            )

    def note_reuse(self, plan: Plan, *, reusable: bool) -> None:
        """Take down why the call has to be made, whatever was answered before."""
        if reusable:
            return
        if not plan.options.cache:
            why = "the caller asks anew (cache => false)"
        elif plan.endpoint is not None and plan.endpoint.cache_ttl_seconds is None:
            why = "cache_ttl_seconds of the endpoint is NULL"
        else:
            why = "temperature is above 0, n above 1, or the model is an agent or custom"
        self.note("reuse", f"not looked for: {why}", hit=False)

    def note_found(self, found: Reusable | None, stored: StoredAnswer | None) -> None:
        """Take down whether an earlier answer is given again."""
        if found is None:
            self.note("reuse", "no earlier answer to the same request", hit=False)
            return
        source = "log" if stored is not None and stored.request_id == found.request_id else "memory"
        told = f"the answer of call {found.request_id} is given again, from the {source}: nothing is sent"
        self.note("reuse", told, hit=True, source=source, request_id=found.request_id)

    def note_budgets(self, budgets: Sequence[tuple[Budget, str | None, float]]) -> None:
        """Take down the budgets that count a call, with what was spent of each."""
        if not budgets:
            self.note("budgets", "no budget counts this call")
        for budget, subject, spent_usd in budgets:
            whose = f' of "{subject}"' if subject is not None else ""
            self.note(
                "budgets",
                f'"{budget.name}"{whose}: {spent_usd:g} of {budget.amount_usd:g} US dollars spent this {budget.window}',
                budget=budget.name,
                subject=subject,
                spent_usd=spent_usd,
                amount_usd=budget.amount_usd,
                window=budget.window,
                action=budget.action,
            )

    def note_limits(self, needed: Sequence[Requirement], limiter: RateLimiter, waited_s: float) -> None:
        """Take down the rate limits that a call met, with what is left of each."""
        used = {bound.key: amount for bound, amount in limiter.usage()}
        bounds = [bound for requirement in needed for bound in requirement]
        if not bounds:
            self.note("rate limits", "no limit holds for this call")
        for bound in bounds:
            left = max(0, bound.limit.amount - used.get(bound.key, 0))
            waited = f", waited {waited_s * 1000:.0f} ms" if waited_s >= 0.001 else ""
            self.note(
                "rate limits",
                f"{bound.describe()}: {left} left{waited}",
                key=bound.limit.key,
                counted=bound.counted,
                metric=bound.limit.metric,
                period=bound.limit.period,
                amount=bound.limit.amount,
                left=left,
                waited_ms=waited_s * 1000,
            )

    def note_route(self, endpoint: Endpoint, allowed: Iterable[ServedEntity], step: NextStep) -> None:
        """Take down whom the call is sent to first, and who could have been."""
        open_to = {entity.name for entity in allowed}
        candidates = [
            {
                "entity": entity.name,
                "traffic_percentage": entity.traffic_percentage,
                "position": entity.position,
                "left_out": entity.name not in open_to,
            }
            for entity in endpoint.entities
        ]
        told = ", ".join(_candidate(entity, left_out=entity.name not in open_to) for entity in endpoint.entities)
        self.note(
            "route",
            f'"{step.entity.name}" is asked first, by the routing {endpoint.routing}, of {told}',
            routing=endpoint.routing,
            chosen=step.entity.name,
            reason=step.reason,
            forced=step.forced,
            candidates=candidates,
        )

    def note_attempts(self, attempts: Sequence[Attempt], entity: ServedEntity, url: str, failure: str | None) -> None:
        """Take down requests that were sent, or why none was.

        Args:
            attempts: The requests.
            entity: Who was asked.
            url: Where; its host is told.
            failure: Why none was sent, or why there is no answer.
        """
        host = urlsplit(url).netloc.rpartition("@")[2]
        if not attempts and failure is not None:
            self.note("attempt", f'nothing is sent to "{entity.name}": {failure}', entity=entity.name, host=host)
        for attempt in attempts:
            status = f"HTTP status {attempt.status_code}" if attempt.status_code else "no answer"
            ended = f"{attempt.error_code}: {attempt.error_message or failure}" if attempt.error_code else "answered"
            self.note(
                "attempt",
                f'"{attempt.served_entity_name}" at {host or "-"} ({attempt.reason}): {status} in '
                f"{attempt.duration_ms:.1f} ms, {ended}",
                entity=attempt.served_entity_name,
                host=host,
                reason=attempt.reason,
                after_error_code=attempt.after_error_code,
                status_code=attempt.status_code,
                duration_ms=attempt.duration_ms,
                error_code=attempt.error_code,
                error_message=attempt.error_message,
            )

    def note_next(self, step: NextStep | None) -> None:
        """Take down what follows a failed attempt."""
        if step is None:
            self.note("retry", "not tried again, and nobody else is left to ask: the call ends with the last failure")
            return
        pause = f" after a pause of {step.wait_s * 1000:.0f} ms" if step.wait_s else ""
        decision = f'"{step.entity.name}" is asked next{pause} ({step.reason})'
        self.note("retry", decision, entity=step.entity.name, reason=step.reason, wait_ms=step.wait_s * 1000)

    def note_failure(self, error: CallError) -> None:
        """Take down why the call ends here."""
        step = _FAILING_STEP.get(error.condition, "answer")
        self.note(step, error.message, condition=error.condition, status_code=error.status, error_code=error.code)

    def note_usage(self, plan: Plan, record: CallRecord, facts: CallFacts) -> None:
        """Take down what the call used, and what it costs where that is known."""
        cost_usd = _cost_usd(plan, record, facts)
        if not facts.answers and not record.cache_hit:
            self.note("usage", "nothing was used", input_tokens=None, output_tokens=None, cost_usd=cost_usd)
            return
        tokens = f"{_count(record.input_token_count)} input and {_count(record.output_token_count)} output tokens"
        estimated = " (estimated)" if record.tokens_estimated else ""
        price = "its cost is not known: it has no price" if cost_usd is None else f"{cost_usd:.6g} US dollars"
        self.note(
            "usage",
            f"{tokens}{estimated}, {price}",
            input_tokens=record.input_token_count,
            output_tokens=record.output_token_count,
            tokens_estimated=record.tokens_estimated,
            cost_usd=cost_usd,
        )


def _candidate(entity: ServedEntity, *, left_out: bool) -> str:
    state = ", left out since it failed" if left_out else ""
    return f'"{entity.name}" ({entity.traffic_percentage:g} %, position {entity.position}{state})'


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)


def _cost_usd(plan: Plan, record: CallRecord, facts: CallFacts) -> float | None:
    """Return what all answers of a call cost together, None where that is not known."""
    if not facts.answers:
        return 0.0
    took_s = {attempt.attempt_id: attempt.duration_ms / 1000 for attempt in record.attempts}
    costs = [
        cost_of(
            plan.snapshot,
            answered.entity,
            answered.answer.usage,
            took_s.get(answered.attempt_id or "", record.execution_duration_ms / 1000),
            record.request_time,
        )
        for answered in facts.answers
    ]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
