"""Evaluates SQL policies for many calls at once: what comes while a query runs goes together into the next one."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Protocol

from fleming_sql import jsontext
from fleming_sql.guardrails.base import PolicyGuardrail, Undecided
from fleming_sql.guardrails.documents import Document
from fleming_sql.types import PolicyEvent, SqlMacro

_MAX_EVENTS: Final = 8192
_NAG_S: Final = 0.05
"""An interrupt that comes between two statements of a query is lost, so it is repeated until the query has ended."""
_GRACE_S: Final = 1.0
"""How long after an interrupt those who share a query are still waited for."""
_CLOSING_S: Final = 1.0


class Sandbox(Protocol):
    """Evaluates expressions, on one thread at a time."""

    def evaluate(
        self, expression: str, macros: Sequence[SqlMacro], events: Sequence[PolicyEvent]
    ) -> Sequence[str | Exception | None]:
        """Return JSON text, None for NULL, or an exception for each event; raises where it was interrupted."""
        ...

    def interrupt(self) -> None:
        """Break off what is evaluated. Any thread may call it."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def events_of(document: Document, target: str, user: str, groups: Sequence[str]) -> list[PolicyEvent]:
    """Return what a SQL policy is asked about a document: one event for each of its parts.

    Args:
        document: A request or an answer.
        target: Name of the endpoint.
        user: Who calls it.
        groups: Those that the user is in.
    """
    kind = "request" if document.phase == "input" else "response"
    return [
        PolicyEvent(kind, target, user, part.text, part.arguments, part.role, part.path, groups)
        for part in document.parts
    ]


class _TookTooLong(Undecided):
    """The time of a query was over."""


_Key = tuple[str, tuple[SqlMacro, ...]]


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits for what a policy says to some events."""

    key: _Key
    events: Sequence[PolicyEvent]
    timeout_s: float
    results: asyncio.Future[list[Any]]
    is_alone: bool = False
    """Whether its events share no query: one that they shared was broken off, which may be another's fault."""
    query: _Query | None = None
    """The one that they are in."""

    def settle(self, undecided: Undecided) -> None:
        if not self.results.done():
            self.results.set_result([undecided] * len(self.events))


@dataclass(slots=True, eq=False)
class _Query:
    """Waiters whose events are evaluated together."""

    key: _Key
    waiters: list[_Waiter]
    loop: asyncio.AbstractEventLoop
    still_waiting: int
    is_broken_off: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def events(self) -> list[PolicyEvent]:
        return [event for waiter in self.waiters for event in waiter.events]

    def settle(self, undecided: Undecided) -> None:
        for waiter in self.waiters:
            waiter.settle(undecided)


class _Engine:
    """A sandbox and the thread that uses it.

    Args:
        sandbox: Closed when the thread ends.
        finish: Called on the event loop with a query and its results.
    """

    def __init__(self, sandbox: Sandbox, finish: Callable[[_Query, list[Any] | Undecided], None]) -> None:
        self.sandbox = sandbox
        self._finish = finish
        self._jobs: SimpleQueue[_Query | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, name="fleming-sql-policies", daemon=True)
        self.thread.start()

    def run(self, query: _Query) -> None:
        """Have the thread evaluate a query."""
        self._jobs.put(query)

    def end(self) -> None:
        """Have the thread end after what it does."""
        self._jobs.put(None)

    def _serve(self) -> None:
        while (query := self._jobs.get()) is not None:
            results = self._results(query)
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                query.loop.call_soon_threadsafe(self._finish, query, results)
        self.sandbox.close()

    def _results(self, query: _Query) -> list[Any] | Undecided:
        if query.is_broken_off:
            return Undecided("it was broken off")
        try:
            results = self.sandbox.evaluate(*query.key, query.events)
            return [_value(result) for result in results]
        except Exception as error:  # noqa: BLE001  handed on to those who wait, who would wait for ever otherwise
            return Undecided(f"its engine failed with {type(error).__name__}")


class PolicyEvaluator:
    """Runs the queries of SQL policies one after the other on a thread of its own, policies taking turns.

    All of it is used on one event loop.

    Args:
        make_sandbox: Makes a sandbox. A second one is made where a query in the first does not end.
        max_events: How many share a query at most; what is handed over in one call always does.
    """

    def __init__(self, make_sandbox: Callable[[], Sandbox], max_events: int = _MAX_EVENTS) -> None:
        self._make_sandbox = make_sandbox
        self._max_events = max_events
        self._waiting: dict[_Key, deque[_Waiter]] = {}
        self._running: _Query | None = None
        self._engine: _Engine | None = None
        self._is_closed = False

    async def evaluate(self, policy: PolicyGuardrail, events: Sequence[PolicyEvent], timeout_s: float) -> list[Any]:
        """Return what a policy says to each of some events: a JSON value, or an `Undecided` where it failed.

        Args:
            policy: The policy.
            events: Those of one call, or of many; they share one query.
            timeout_s: How long a query may take, in seconds. One over several events that takes longer is broken off,
                and each of them gets that time for itself.
        """
        if not events:
            return []
        key = policy.expression, policy.macros
        results = await self._ask(key, events, timeout_s)
        if len(events) == 1 or not isinstance(results[0], _TookTooLong):
            return results
        return [(await self._ask(key, [event], timeout_s, is_alone=True))[0] for event in events]

    async def _ask(
        self, key: _Key, events: Sequence[PolicyEvent], timeout_s: float, *, is_alone: bool = False
    ) -> list[Any]:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(key, events, timeout_s, loop.create_future(), is_alone)
        if self._is_closed:
            waiter.settle(Undecided("the gateway is closing"))
            return waiter.results.result()
        self._waiting.setdefault(waiter.key, deque()).append(waiter)
        loop.call_soon(self._start)  # not at once: what other tasks ask for in this round goes into the same query
        try:
            return await waiter.results
        finally:
            self._leave(waiter)

    def close(self) -> None:
        """Break off what runs and end the thread. Call it once, when there are no more calls."""
        self._is_closed = True
        engine = self._engine
        if engine is None:
            return
        engine.end()
        for _ in range(round(_CLOSING_S / _NAG_S)):
            if self._running is not None:
                engine.sandbox.interrupt()
            engine.thread.join(_NAG_S)
            if not engine.thread.is_alive():
                return

    def _give_up(self, query: _Query, timeout_s: float) -> None:
        """Break off a query whose time is over. Those that share it are asked again, each alone."""
        if query is self._running:
            told = _TookTooLong(f"it took longer than {timeout_s:g} s")
            if len(query.waiters) == 1:
                query.settle(told)
            self._break_off(query)
            query.timer = query.loop.call_later(_GRACE_S, self._abandon, query, told)

    def _abandon(self, query: _Query, told: Undecided) -> None:
        """Go on with another sandbox: some of DuckDB's functions do not notice an interrupt until they are done."""
        if query is self._running and self._engine is not None:
            self._engine.end()
            self._engine = None
            self._finish(query, told)

    def _leave(self, waiter: _Waiter) -> None:
        """Break off a query for which nobody waits any more."""
        query = waiter.query
        if query is not None:
            query.still_waiting -= 1
            if not query.still_waiting:
                self._break_off(query)

    def _break_off(self, query: _Query) -> None:
        if query is self._running and self._engine is not None:
            query.is_broken_off = True
            self._engine.sandbox.interrupt()
            query.loop.call_later(_NAG_S, self._break_off, query)

    def _start(self) -> None:
        """Have the next query run, if none does."""
        while self._running is None and self._waiting:
            key = next(iter(self._waiting))
            queue = self._waiting.pop(key)
            waiters = self._taken(queue)
            if queue:
                self._waiting[key] = queue  # behind those of the other policies
            if waiters:
                query = self._running = _Query(key, waiters, asyncio.get_running_loop(), len(waiters))
                for waiter in waiters:
                    waiter.query = query
                timeout_s = min(waiter.timeout_s for waiter in waiters)
                query.timer = query.loop.call_later(timeout_s, self._give_up, query, timeout_s)
                self._hand_over(query)

    def _taken(self, queue: deque[_Waiter]) -> list[_Waiter]:
        """Take the waiters of the next query from a queue."""
        taken: list[_Waiter] = []
        size = 0
        while queue:
            waiter = queue[0]
            if not waiter.results.done():
                size += len(waiter.events)
                if taken and (size > self._max_events or waiter.is_alone):
                    break
                taken.append(waiter)
            queue.popleft()
            if taken and taken[0].is_alone:
                break
        return taken

    def _hand_over(self, query: _Query) -> None:
        if self._engine is None:
            self._engine = _Engine(self._make_sandbox(), self._finish)
        self._engine.run(query)

    def _finish(self, query: _Query, results: list[Any] | Undecided) -> None:
        if query is not self._running:
            return  # it was abandoned
        self._running = None
        if query.timer is not None:
            query.timer.cancel()
        end = 0
        for waiter in query.waiters:
            begin, end = end, end + len(waiter.events)
            if waiter.results.done():
                continue
            if not isinstance(results, Undecided):
                waiter.results.set_result(results[begin:end])
            elif query.is_broken_off and not waiter.is_alone and not self._is_closed:
                waiter.is_alone, waiter.query = True, None
                self._waiting.setdefault(query.key, deque()).append(waiter)
            else:
                waiter.settle(results)
        if self._is_closed:
            self._settle_all()
        else:
            self._start()

    def _settle_all(self) -> None:
        for queue in self._waiting.values():
            for waiter in queue:
                waiter.settle(Undecided("the gateway is closing"))
        self._waiting.clear()


def _value(result: str | Exception | None) -> Any:
    if isinstance(result, Exception):
        return Undecided(f"its expression failed ({result})")
    return None if result is None else jsontext.loads(result)
