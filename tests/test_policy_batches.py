from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fleming_sql.gateway.policy_batches import PolicyEvaluator, events_of
from fleming_sql.guardrails import Surroundings, make_guardrail
from fleming_sql.guardrails.base import PolicyGuardrail, Undecided
from fleming_sql.guardrails.documents import Document, Part, read_request
from fleming_sql.store.policy_sandbox import PolicySandbox
from fleming_sql.types import ModelRequest, PolicyEvent, SqlMacro


class Recorded:
    """Echoes messages and takes down the queries; holds back those in which `stuck` is, until interrupted."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.policies: list[str] = []
        self.entered = threading.Event()
        self.goes_on = threading.Event()
        self.interrupted = threading.Event()
        self.is_closed = False

    def evaluate(
        self, expression: str, macros: Sequence[SqlMacro], events: Sequence[PolicyEvent]
    ) -> list[str | Exception | None]:
        messages = [event.message for event in events]
        self.queries.append(messages)
        self.policies.append(expression)
        self.entered.set()
        if "held" in messages:
            self.goes_on.wait(10)
        if "stuck" in messages:
            self.interrupted.clear()
            self.interrupted.wait(10)
            raise RuntimeError("interrupted")
        if "broken" in messages:
            raise RuntimeError("a secret")
        return [ValueError("conversion error") if m == "wrong" else None if m == "null" else f'"{m}"' for m in messages]

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.is_closed = True


def _policy(expression: str = "event.message") -> PolicyGuardrail:
    made = make_guardrail("sql", "block", f'{{"expression": "{expression}"}}', Surroundings())
    assert isinstance(made, PolicyGuardrail)
    return made


def _events(*messages: str) -> list[PolicyEvent]:
    return [PolicyEvent("request", "chat", "ada", message, None, "user", "", ()) for message in messages]


def _run(use: Callable[[PolicyEvaluator], Any], sandbox: Recorded | PolicySandbox, **arguments: int) -> Any:
    async def run() -> Any:
        evaluator = PolicyEvaluator(lambda: sandbox, **arguments)
        try:
            return await use(evaluator)
        finally:
            evaluator.close()

    return asyncio.run(run())


async def _entered(sandbox: Recorded) -> None:
    await asyncio.to_thread(sandbox.entered.wait, 10)


def test_a_vector_costs_one_query() -> None:
    sandbox = Recorded()
    messages = [str(n) for n in range(2048)]
    assert _run(lambda evaluator: evaluator.evaluate(_policy(), _events(*messages), 10), sandbox) == messages
    assert sandbox.queries == [messages]


def test_calls_of_one_moment_share_a_query() -> None:
    sandbox = Recorded()
    messages = [str(n) for n in range(2048)]
    policy = _policy()

    async def use(evaluator: PolicyEvaluator) -> Any:
        return await asyncio.gather(*(evaluator.evaluate(policy, _events(message), 10) for message in messages))

    assert _run(use, sandbox) == [[message] for message in messages]
    assert sandbox.queries == [messages]


def test_what_comes_while_a_query_runs_goes_into_the_next() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        first = asyncio.create_task(evaluator.evaluate(_policy(), _events("held"), 10))
        await _entered(sandbox)
        others = []
        for message in ("a", "b", "c"):
            others.append(asyncio.create_task(evaluator.evaluate(_policy(), _events(message), 10)))
            await asyncio.sleep(0)
        sandbox.goes_on.set()
        return await asyncio.gather(first, *others)

    assert _run(use, sandbox) == [["held"], ["a"], ["b"], ["c"]]
    assert sandbox.queries == [["held"], ["a", "b", "c"]]


def test_a_query_has_no_more_events_than_it_may() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        return await asyncio.gather(*(evaluator.evaluate(_policy(), _events(m, m), 10) for m in "abcd"))

    assert _run(use, sandbox, max_events=5) == [["a", "a"], ["b", "b"], ["c", "c"], ["d", "d"]]
    assert sandbox.queries == [["a", "a", "b", "b"], ["c", "c", "d", "d"]]


def test_what_is_handed_over_at_once_is_not_split() -> None:
    sandbox = Recorded()
    _run(lambda evaluator: evaluator.evaluate(_policy(), _events(*"abcdef"), 10), sandbox, max_events=5)
    assert sandbox.queries == [list("abcdef")]


def test_policies_take_turns() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        busy = [evaluator.evaluate(_policy("event.role"), _events(m, m), 10) for m in "abc"]
        return await asyncio.gather(*busy, evaluator.evaluate(_policy("event.actor"), _events("z"), 10))

    _run(use, sandbox, max_events=2)
    assert sandbox.policies == ["event.role", "event.actor", "event.role", "event.role"]


def test_no_events_cost_no_query() -> None:
    sandbox = Recorded()
    assert _run(lambda evaluator: evaluator.evaluate(_policy(), [], 10), sandbox) == []
    assert sandbox.queries == []


def test_a_failed_event_is_undecided_and_null_is_none() -> None:
    a, wrong, null = _run(
        lambda evaluator: evaluator.evaluate(_policy(), _events("a", "wrong", "null"), 10), Recorded()
    )
    assert (a, str(wrong), null) == ("a", "its expression failed (conversion error)", None)
    assert isinstance(wrong, Undecided)


def test_an_engine_that_fails_is_undecided_without_its_words() -> None:
    [result] = _run(lambda evaluator: evaluator.evaluate(_policy(), _events("broken"), 10), Recorded())
    assert str(result) == "its engine failed with RuntimeError"


def test_a_query_that_takes_too_long_is_interrupted() -> None:
    sandbox = Recorded()
    [result] = _run(lambda evaluator: evaluator.evaluate(_policy(), _events("stuck"), 0.01), sandbox)
    assert str(result) == "it took longer than 0.01 s"
    assert sandbox.interrupted.is_set()


def test_an_event_that_takes_too_long_takes_no_other_of_its_vector_with_it() -> None:
    sandbox = Recorded()
    a, stuck, b = _run(lambda evaluator: evaluator.evaluate(_policy(), _events("a", "stuck", "b"), 0.01), sandbox)
    assert (a, str(stuck), b) == ("a", "it took longer than 0.01 s", "b")
    assert sandbox.queries == [["a", "stuck", "b"], ["a"], ["stuck"], ["b"]]


def test_those_who_share_a_query_that_takes_too_long_are_evaluated_anew_and_alone() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        return await asyncio.gather(*(evaluator.evaluate(_policy(), _events(m), 0.01) for m in ("stuck", "a", "b")))

    stuck, *others = _run(use, sandbox)
    assert (str(stuck[0]), others) == ("it took longer than 0.01 s", [["a"], ["b"]])
    assert sandbox.queries == [["stuck", "a", "b"], ["stuck"], ["a"], ["b"]]


def test_waiting_for_another_query_is_not_part_of_the_time() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        first = asyncio.create_task(evaluator.evaluate(_policy(), _events("held"), 10))
        await _entered(sandbox)
        late = asyncio.create_task(evaluator.evaluate(_policy(), _events("late"), 0.2))
        await asyncio.wait([late], timeout=0.4)
        sandbox.goes_on.set()
        return await late, await first

    assert _run(use, sandbox) == (["late"], ["held"])


def test_a_cancelled_call_leaves_the_others_alone() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        first, second = (asyncio.create_task(evaluator.evaluate(_policy(), _events(m), 10)) for m in ("held", "a"))
        await _entered(sandbox)
        first.cancel()
        await asyncio.wait([first])
        sandbox.goes_on.set()
        return await second

    assert _run(use, sandbox) == ["a"]
    assert sandbox.queries == [["held", "a"]]


def test_a_cancelled_call_in_the_queue_is_not_evaluated() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        first = asyncio.create_task(evaluator.evaluate(_policy(), _events("held"), 10))
        await _entered(sandbox)
        second = asyncio.create_task(evaluator.evaluate(_policy(), _events("a"), 10))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        sandbox.goes_on.set()
        await first
        return await evaluator.evaluate(_policy(), _events("b"), 10)

    assert _run(use, sandbox) == ["b"]
    assert sandbox.queries == [["held"], ["b"]]


def test_a_query_for_which_nobody_waits_is_interrupted() -> None:
    sandbox = Recorded()

    async def use(evaluator: PolicyEvaluator) -> Any:
        stuck = asyncio.create_task(evaluator.evaluate(_policy(), _events("stuck"), 10))
        await _entered(sandbox)
        stuck.cancel()
        return await evaluator.evaluate(_policy(), _events("a"), 10)

    assert _run(use, sandbox) == ["a"]


def test_closing_breaks_off_what_runs_and_closes_the_sandbox() -> None:
    sandbox = Recorded()

    async def use() -> Any:
        evaluator = PolicyEvaluator(lambda: sandbox)
        stuck = asyncio.create_task(evaluator.evaluate(_policy(), _events("stuck"), 10))
        await _entered(sandbox)
        queued = asyncio.create_task(evaluator.evaluate(_policy(), _events("a"), 10))
        await asyncio.sleep(0)
        evaluator.close()
        return await stuck, await queued, await evaluator.evaluate(_policy(), _events("b"), 10)

    stuck, queued, after = asyncio.run(use())
    assert [str(result) for result in (*queued, *after)] == ["the gateway is closing"] * 2
    assert (isinstance(stuck[0], Undecided), sandbox.is_closed) == (True, True)


def test_a_query_that_no_interrupt_ends_holds_up_no_other() -> None:
    deaf, other = Recorded(), Recorded()
    sandboxes = iter([deaf, other])

    async def use() -> Any:
        evaluator = PolicyEvaluator(lambda: next(sandboxes))
        first = await evaluator.evaluate(_policy(), _events("held"), 0.01)
        second = await evaluator.evaluate(_policy(), _events("a"), 10)
        deaf.goes_on.set()
        evaluator.close()
        return str(first[0]), second

    assert asyncio.run(use()) == ("it took longer than 0.01 s", ["a"])
    assert (deaf.queries, other.queries) == ([["held"]], [["a"]])


@pytest.mark.parametrize(("phase", "kind"), [("input", "request"), ("output", "response")])
def test_an_event_says_in_which_phase_it_is(phase: Any, kind: str) -> None:
    [event] = events_of(Document(phase, (Part("Hi", "answer", "assistant"),)), "chat", "ada", ["staff"])
    assert event == PolicyEvent(kind, "chat", "ada", "Hi", None, "assistant", "answer", ["staff"])


def test_every_part_is_an_event_and_those_of_calls_bring_the_arguments() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": '{"to": "eve"}'}}
    messages = ({"role": "user", "content": "Pay"}, {"role": "assistant", "content": None, "tool_calls": [call]})
    document = read_request(ModelRequest("llm/v1/chat", {}, messages=messages))
    events = events_of(document, "chat", "ada", [])
    assert [event.message for event in events] == document.texts
    assert {event.arguments for event in events if event.path.endswith("arguments")} == {'{"to": "eve"}'}


def test_with_the_sandbox_a_policy_that_fails_on_one_row_decides_on_all_others() -> None:
    policy = _policy("if(event.message::integer > 5, 'DENY', 'ALLOW')")
    events = _events(*(str(n % 10) for n in range(2047)), "x")
    *results, wrong = _run(lambda evaluator: evaluator.evaluate(policy, events, 30), PolicySandbox())
    assert results == ["DENY" if n % 10 > 5 else "ALLOW" for n in range(2047)]
    assert isinstance(wrong, Undecided)


def test_with_the_sandbox_a_slow_policy_is_broken_off_and_the_next_works() -> None:
    class Slow(PolicyGuardrail):
        expression = (
            "list_sum(list_transform(range(40000), lambda x: list_sum(list_transform(range(4000), "
            "lambda y: x * y * length(event.message)))))"
        )
        macros = ()

        def __init__(self) -> None: ...

        def read(self, document: Document, results: Sequence[Any]) -> Any: ...

    async def use(evaluator: PolicyEvaluator) -> Any:
        slow = await evaluator.evaluate(Slow(), _events("a", "b"), 0.1)
        return slow[0], await evaluator.evaluate(_policy(), _events("a"), 30)

    slow, after = _run(use, PolicySandbox())
    assert (str(slow), after) == ("it took longer than 0.1 s", ["a"])
