"""Where requests pass their guardrails on the way to a model, and answers on the way back."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.errors import CallError
from fleming_sql.gateway.blocks import anonymized_input, blocked, blocked_body, request_body
from fleming_sql.gateway.guards import Guard, GuardMaker
from fleming_sql.gateway.plan import CallInput, Plan, Statement, make_plan
from fleming_sql.gateway.records import CallInProgress, Guarding
from fleming_sql.gateway.screening import Block, Screener, Screening, is_large
from fleming_sql.guardrails.base import ModelGuardrail, Question, Undecided
from fleming_sql.guardrails.documents import read_answer, read_request, write_answer, write_request
from fleming_sql.guardrails.spans import restore
from fleming_sql.policies.requests import Prompt
from fleming_sql.types import CUSTOM, Answer, Caller, CallOptions, Snapshot

_PLANS_KEPT: Final = 64

Call = Callable[[Plan, CallInput, Statement, Guarding], Awaitable[Any]]
"""Calls an endpoint for a guardrail; returns the result, or an `Undecided` where there is none."""


@dataclass(frozen=True, slots=True)
class Screened:
    """A request that guardrails have looked at before its turn came."""

    prompt: Prompt
    screening: Screening


class Checkpoint:
    """Has guardrails look at each request before it is sent, and at each answer before it is used.

    Args:
        screener: Runs them.
        maker: Makes those of the endpoints that guardrails ask.
        call: Calls an endpoint for a guardrail.
    """

    def __init__(self, screener: Screener, maker: GuardMaker, call: Call) -> None:
        self._screener = screener
        self._maker = maker
        self._call = call
        self._plans: OrderedDict[tuple[int, str, float, bool, bytes], Plan] = OrderedDict()

    async def screen_rows(self, rows: Sequence[tuple[Plan, CallInput]], caller: Caller) -> list[Screened | None]:
        """Have guardrails look at many requests at once, as far as none of them asks a model.

        Args:
            rows: The requests.
            caller: Whose they are.

        Returns:
            One per row; None for one that cannot be read, or that nothing looks at in this way.
        """
        screened = [_screened(plan, asked) for plan, asked in rows]
        by_plan: defaultdict[int, list[Screening]] = defaultdict(list)
        for (plan, _), one in zip(rows, screened, strict=True):
            if one is not None:
                by_plan[id(plan)].append(one.screening)
        for plan in {id(plan): plan for plan, _ in rows}.values():
            await self._screener.run(by_plan[id(plan)], plan.endpoint_name, _identified(plan, caller), ask=None)
        return screened

    async def pass_request(
        self, plan: Plan, prompt: Prompt, progress: CallInProgress, before: Screened | None
    ) -> Prompt:
        """Return a request as it may be sent.

        Args:
            plan: Of the call.
            prompt: The request.
            progress: Takes down what the guardrails say.
            before: What they have said already.

        Raises:
            CallError: One of them blocks it.
        """
        screening = before.screening if before else Screening(read_request(prompt.request), plan.guards.input)
        await self._screen(plan, screening, progress)
        if screening.block is not None:
            raise self._blocked_request(plan, prompt, screening, screening.block, progress)
        if not screening.is_masked:
            return prompt
        progress.originals = {**progress.originals, **screening.originals}
        if plan.endpoint is not None and plan.endpoint.log_original:
            progress.unmasked_request = request_body(prompt.request)
        masked = write_request(prompt.request, screening.document.texts)
        progress.parameters = masked.parameters
        return replace(prompt, request=masked)

    async def pass_answer(self, plan: Plan, prompt: Prompt, answer: Answer, progress: CallInProgress) -> Answer:
        """Return an answer as it may be used; the same object where nothing was masked.

        Raises:
            CallError: A guardrail blocks it.
        """
        question = read_request(prompt.request) if plan.guards.asks_about_answers else None
        screening = Screening(read_answer(answer.content, question), plan.guards.output)
        await self._screen(plan, screening, progress)
        if screening.block is not None:
            texts = screening.without_finds() if _detects_pii(screening.block) else None
            shown = write_answer(answer.content, texts) if texts is not None else None
            progress.blocked_answer(blocked_body(screening.block, shown, answer.usage))
            raise blocked(plan.endpoint_name, screening.block, progress.request_id)
        if not screening.is_masked:
            return answer
        return replace(answer, content=write_answer(answer.content, screening.document.texts))

    async def _screen(self, plan: Plan, screening: Screening, progress: CallInProgress) -> None:
        try:
            if not is_large(screening):
                self._screener.run_texts(screening)
            if not screening.is_over:
                ask = partial(self._ask, plan.snapshot, progress)
                caller = _identified(plan, progress.caller)
                running = self._screener.run([screening], plan.endpoint_name, caller, ask)
                await progress.guarded(running)
        finally:
            progress.results += screening.results
            if progress.trace is not None:
                progress.trace.note_guardrails(screening.results)

    def _blocked_request(
        self, plan: Plan, prompt: Prompt, screening: Screening, block: Block, progress: CallInProgress
    ) -> CallError:
        assert plan.endpoint is not None  # noqa: S101  only endpoints have guardrails
        texts, shown = screening.without_finds(), None
        masked = write_request(prompt.request, texts) if texts is not None else None
        if masked is not None and _detects_pii(block):
            shown = anonymized_input(masked)
        logged = prompt.request if plan.endpoint.log_original else masked
        body = request_body(logged) if logged is not None else None
        progress.blocked_request(body, blocked_body(block, shown))
        return blocked(plan.endpoint_name, block, progress.request_id)

    async def _ask(
        self,
        snapshot: Snapshot,
        progress: CallInProgress,
        screening: Screening,
        guard: Guard,
        guardrail: ModelGuardrail,
        question: Question,
    ) -> Any:
        endpoint = snapshot.endpoints.get(question.endpoint)
        if endpoint is None or endpoint.task not in guardrail.tasks:
            return Undecided(f'the endpoint "{question.endpoint}" is none that can be asked')
        is_custom = endpoint.task == CUSTOM
        # What a guardrail of a higher rank will mask is not to be in the log of this call either.
        logs = endpoint.log_original or screening.without_finds() == screening.document.texts
        plan = self._plan(snapshot, question, guard.rule.timeout_s, takes_parameters=not is_custom, logs=logs)
        request = question.fields if is_custom else question.request
        asked = CallInput(jsontext.dumps(request), usage_context=progress.usage_context)
        read = partial(guardrail.read, screening.document)
        guarding = Guarding(guard.rule.name, progress.request_id, read)
        return await self._call(plan, asked, progress.statement, guarding)

    def _plan(
        self, snapshot: Snapshot, question: Question, timeout_s: float, *, takes_parameters: bool, logs: bool
    ) -> Plan:
        """Return the plan of a guardrail's calls: within its own time, past no guardrail that asks a model."""
        parameters = question.parameters if takes_parameters else {}
        key = id(snapshot), question.endpoint, timeout_s, logs, jsontext.dumpb(parameters)
        known = self._plans.get(key)
        if known is not None and known.snapshot is snapshot:
            self._plans.move_to_end(key)
            return known
        guards = self._maker.make(snapshot, question.endpoint, asks_models=False)
        plan = make_plan(snapshot, question.endpoint, CallOptions(parameters=parameters), guards=guards)
        assert plan.endpoint is not None  # noqa: S101  looked up before
        endpoint = replace(
            plan.endpoint,
            timeout_ms=min(plan.endpoint.timeout_ms, int(timeout_s * 1000)),
            payload_logging=plan.endpoint.payload_logging and logs,
        )
        plan = self._plans[key] = replace(plan, endpoint=endpoint)
        if len(self._plans) > _PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan


def with_originals(content: Any, originals: Mapping[str, str]) -> Any:
    """Return an answer's content with what was masked in the request in the place of its placeholders."""
    return write_answer(content, [restore(text, originals) for text in read_answer(content).texts])


def _identified(plan: Plan, caller: Caller) -> Caller:
    """Return a caller with all groups that it is in."""
    return Caller(caller.user, plan.access(caller).groups)


def _screened(plan: Plan, asked: CallInput) -> Screened | None:
    if plan.endpoint is None or plan.refusal is not None or not plan.guards.screens_vectors:
        return None
    try:
        prompt = plan.read(asked)
        return Screened(prompt, Screening(read_request(prompt.request), plan.guards.input))
    except Exception:  # noqa: BLE001  the call meets it again, and fails by itself
        return None


def _detects_pii(block: Block) -> bool:
    """Return whether personal data blocked a call: then Databricks shows what is left of the text."""
    guardrail = block.guard.guardrail
    return guardrail is not None and guardrail.detects_pii
