"""Evaluates SQL policies for many calls at once: what comes while a query runs goes together into the next one."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
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


_Key = tuple[str, tuple[SqlMacro, ...]]


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits for what a policy says to some events."""

    key: _Key
    events: Sequence[PolicyEvent]
    results: asyncio.Future[list[Any]]
    is_alone: bool = False
    """Whether its events share no query: one that they shared was broken off because of another's."""
    query: _Query | None = None
    """The one that they are in."""

    def settle(self, reason: str) -> None:
        if not self.results.done():
            self.results.set_result([Undecided(reason)] * len(self.events))


@dataclass(slots=True, eq=False)
class _Query:
    """Waiters whose events are evaluated together."""

    key: _Key
    waiters: list[_Waiter]
    loop: asyncio.AbstractEventLoop
    still_waiting: int
    is_broken_off: bool = False

    @property
    def events(self) -> list[PolicyEvent]:
        return [event for waiter in self.waiters for event in waiter.events]


class PolicyEvaluator:
    """Runs the queries of SQL policies one after the other on a thread of its own, policies taking turns.

    All of it is used on one event loop.

    Args:
        sandbox: Closed with it.
        max_events: How many share a query at most; what is handed over in one call always does.
    """

    def __init__(self, sandbox: Sandbox, max_events: int = _MAX_EVENTS) -> None:
        self._sandbox = sandbox
        self._max_events = max_events
        self._waiting: dict[_Key, deque[_Waiter]] = {}
        self._running: _Query | None = None
        self._jobs: SimpleQueue[_Query | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    async def evaluate(self, policy: PolicyGuardrail, events: Sequence[PolicyEvent], timeout_s: float) -> list[Any]:
        """Return what a policy says to each of some events: a JSON value, or an `Undecided` where it failed.

        Args:
            policy: The policy.
            events: Those of one call, or of many; they share one query.
            timeout_s: How long it may take, in seconds, waiting for other queries included.
        """
        if not events:
            return []
        loop = asyncio.get_running_loop()
        waiter = _Waiter((policy.expression, policy.macros), events, loop.create_future())
        if self._is_closed:
            waiter.settle("the gateway is closing")
            return waiter.results.result()
        self._waiting.setdefault(waiter.key, deque()).append(waiter)
        loop.call_soon(self._start)  # not at once: what other tasks ask for in this round goes into the same query
        timer = loop.call_later(timeout_s, self._give_up, waiter, timeout_s)
        try:
            return await waiter.results
        finally:
            timer.cancel()
            self._leave(waiter)

    def close(self) -> None:
        """Break off what runs and end the thread. Call it once, when there are no more calls."""
        self._is_closed = True
        if self._thread is None:
            self._sandbox.close()
            return
        self._jobs.put(None)
        for _ in range(round(_CLOSING_S / _NAG_S)):
            if self._running is not None:
                self._sandbox.interrupt()
            self._thread.join(_NAG_S)
            if not self._thread.is_alive():
                return

    def _give_up(self, waiter: _Waiter, timeout_s: float) -> None:
        waiter.settle(f"it took longer than {timeout_s:g} s")
        if waiter.query is not None:
            self._break_off(waiter.query)

    def _leave(self, waiter: _Waiter) -> None:
        """Break off a query for which nobody waits any more."""
        query = waiter.query
        if query is not None:
            query.still_waiting -= 1
            if not query.still_waiting:
                self._break_off(query)

    def _break_off(self, query: _Query) -> None:
        if query is self._running:
            query.is_broken_off = True
            self._sandbox.interrupt()
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
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="fleming-sql-policies", daemon=True)
            self._thread.start()
        self._jobs.put(query)

    def _serve(self) -> None:
        while (query := self._jobs.get()) is not None:
            results = self._results(query)
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                query.loop.call_soon_threadsafe(self._finish, query, results)
        self._sandbox.close()

    def _results(self, query: _Query) -> list[Any] | Undecided:
        if query.is_broken_off:
            return Undecided("it was broken off")
        try:
            results = self._sandbox.evaluate(*query.key, query.events)
            return [_value(result) for result in results]
        except Exception as error:  # noqa: BLE001  handed on to those who wait, who would wait for ever otherwise
            return Undecided(f"its engine failed with {type(error).__name__}")

    def _finish(self, query: _Query, results: list[Any] | Undecided) -> None:
        self._running = None
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
                waiter.settle(str(results))
        if self._is_closed:
            self._settle_all()
        else:
            self._start()

    def _settle_all(self) -> None:
        for queue in self._waiting.values():
            for waiter in queue:
                waiter.settle("the gateway is closing")
        self._waiting.clear()


def _value(result: str | Exception | None) -> Any:
    if isinstance(result, Exception):
        return Undecided(f"its expression failed ({result})")
    return None if result is None else jsontext.loads(result)
