"""The calls of one vector: identical ones made once, the first failure stopping what is not yet sent."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from fleming_sql.errors import CallCancelled
from fleming_sql.gateway.checkpoint import Screened
from fleming_sql.gateway.pipeline import Gateway, Outcome
from fleming_sql.gateway.plan import CallInput, Plan, Statement
from fleming_sql.gateway.trace import Trace
from fleming_sql.types import Caller, CallRecord, StoredAnswer

_WORKER: Final[ContextVar[asyncio.Task[Any] | None]] = ContextVar("fleming_sql_worker", default=None)


@dataclass(frozen=True, slots=True)
class RowCall:
    """One row: what it asks, and the plan that its arguments make."""

    plan: Plan
    asked: CallInput
    stored: StoredAnswer | None = None
    """An earlier answer to the same request, from the log."""


@dataclass(slots=True)
class Consumed:
    """What calls that are priced alike have consumed."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    seconds: float = 0.0

    def add(self, record: CallRecord) -> None:
        """Count a call."""
        self.calls += 1
        self.input_tokens += record.input_token_count or 0
        self.output_tokens += record.output_token_count or 0
        self.cached_input_tokens += record.cached_input_token_count or 0
        self.cache_write_tokens += record.cache_write_token_count or 0
        self.seconds += record.execution_duration_ms / 1000


@dataclass(slots=True)
class Tally:
    """What a statement has done so far, over all its vectors."""

    started_at: datetime
    known: int = 0
    """Calls of the vectors that have come."""
    done: int = 0
    failed: int = 0
    reused: int = 0
    consumed: dict[tuple[str, str, str | None], Consumed] = field(default_factory=dict)
    """By endpoint, id of the served entity and service tier."""

    def count(self, outcome: Outcome, rows: int) -> None:
        """Count a call that has ended.

        Args:
            outcome: How.
            rows: How many identical ones it stands for.
        """
        record = outcome.record
        self.done += rows
        self.reused += rows if record.cache_hit else rows - 1
        if outcome.error is not None:
            self.failed += rows
        if record.served_entity_id is not None and not record.cache_hit:
            key = (record.endpoint_name, record.served_entity_id, record.service_tier)
            self.consumed.setdefault(key, Consumed()).add(record)


class Batch:
    """Runs the calls of one vector on the gateway's event loop.

    As many workers as the endpoint takes requests at once pull rows, so that a row that waits is a place in a list
    and not a task.

    It can be cancelled from the moment it is made, before its rows are known.

    Args:
        gateway: Makes the calls.
        statement_id: Goes into the log.
        caller: On whose behalf.
        tally: Of the statement.
    """

    def __init__(self, gateway: Gateway, statement_id: str, caller: Caller, tally: Tally) -> None:
        self._gateway = gateway
        self.tally = tally
        self._rows: Sequence[RowCall | None] = ()
        self._statement = Statement(statement_id, caller, self._permit, self._rest, self._hold)
        self._outcomes: list[Outcome | None] = []
        self._waiting: deque[list[int]] = deque()
        self._workers: list[asyncio.Task[Any]] = []
        self._screened: dict[int, Screened | None] = {}
        self._sending: Counter[asyncio.Task[Any]] = Counter()
        self._holding: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self._cancelled = False

    @property
    def statement(self) -> Statement:
        """On whose behalf the calls are made."""
        return self._statement

    @property
    def left(self) -> int:
        """How many rows of this vector have no answer yet."""
        return sum(1 for row, outcome in zip(self._rows, self._outcomes, strict=True) if row and outcome is None)

    def trace_into(self, trace: Trace) -> None:
        """Take down what the steps of the calls decide; for a batch of one row."""
        self._statement = replace(self._statement, trace=trace)

    def fill(self, rows: Sequence[RowCall | None]) -> None:
        """Give the rows in their order; None stands for a NULL request, which is no call."""
        self._rows = rows
        self._outcomes = [None] * len(rows)

    async def run(self) -> list[Outcome | None]:
        """Make the calls and return their outcomes in the order of the rows.

        Raises:
            CallCancelled: `cancel` was called; what was under way is logged.
        """
        try:
            if not self._cancelled:
                await self._run_workers()
            if self._cancelled:
                raise CallCancelled(
                    "[CANCELLED] the statement was interrupted; calls under way were broken off and logged"
                )
            return self._outcomes
        finally:
            # The statement refers to the batch and the batch to the statement: let go of what is large.
            self._rows, self._outcomes, self._screened = (), [], {}
            self._workers.clear()
            self._sending.clear()
            self._holding.clear()

    async def _run_workers(self) -> None:
        self._waiting.extend(self._groups())
        self.tally.known += sum(map(len, self._waiting))
        await self._screen()
        self._statement = replace(self._statement, paced=len(self._waiting) > 1)
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._width())]
        for ended in await asyncio.gather(*self._workers, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
                raise ended

    async def _screen(self) -> None:
        """Have guardrails look at all rows at once, where they can."""
        firsts = [positions[0] for positions in self._waiting if self._row(positions[0]).plan.guards.screens_vectors]
        if not firsts:
            return
        rows = [self._row(position) for position in firsts]
        screening = asyncio.create_task(
            self._gateway.checkpoint.screen_rows([(row.plan, row.asked) for row in rows], self._statement.caller)
        )
        self._workers = [screening]
        await asyncio.wait([screening])
        if not screening.cancelled():
            self._screened = dict(zip(firsts, screening.result(), strict=True))

    def cancel(self) -> None:
        """Send no more and break off what is under way. Called on the event loop."""
        if self._cancelled:
            return  # a second cancellation would interrupt what logs the first
        self._stopped = self._cancelled = True
        self._waiting.clear()
        for worker in self._workers:
            worker.cancel()

    def _width(self) -> int:
        """Return how many calls to have under way: embeddings that wait are what fills a request."""
        widths = (row.plan.width for row in self._rows if row is not None)
        return min(len(self._waiting), max(widths, default=0))

    def _groups(self) -> list[list[int]]:
        """Return the positions of the rows, identical ones together."""
        alone: list[list[int]] = []
        groups: dict[tuple[int, str, bytes | None], list[int]] = {}
        for position, row in enumerate(self._rows):
            if row is None:
                continue
            if row.plan.reusable and not row.asked.request.startswith("{"):  # an object may hold its own parameters
                groups.setdefault((id(row.plan), row.asked.request, row.asked.file), []).append(position)
            else:
                alone.append([position])
        return [*groups.values(), *alone]

    async def _work(self) -> None:
        _WORKER.set(asyncio.current_task())
        while self._waiting:
            await self._one(self._waiting.popleft())

    async def _one(self, positions: Sequence[int]) -> None:
        row = self._row(positions[0])
        screened = self._screened.pop(positions[0], None)
        outcome = await self._gateway.call(row.plan, row.asked, self._statement, row.stored, screened=screened)
        self._outcomes[positions[0]] = outcome
        for position in positions[1:]:
            self._gateway.repeat(row.plan, self._row(position).asked, self._statement, outcome)
            self._outcomes[position] = outcome
        self.tally.count(outcome, len(positions))
        if outcome.error is not None and row.plan.options.fail_on_error:
            self._stop()

    def _row(self, position: int) -> RowCall:
        row = self._rows[position]
        assert row is not None  # noqa: S101  groups hold no NULL rows
        return row

    def _stop(self) -> None:
        """Let requests under way come to their end, to be logged, and send nothing more, not even again."""
        if self._stopped:
            return
        self._stopped = True
        self._waiting.clear()
        current = asyncio.current_task()
        for worker in self._workers:
            if not self._sending[worker] and worker not in self._holding and worker is not current:
                worker.cancel()

    def _permit(self) -> None:
        worker = _worker()
        if self._stopped and worker not in self._holding:
            raise asyncio.CancelledError
        self._sending[worker] += 1

    def _rest(self) -> None:
        self._sending[_worker()] -= 1

    @contextmanager
    def _hold(self) -> Iterator[None]:
        worker = _worker()
        self._holding.add(worker)
        try:
            yield
        finally:
            self._holding.discard(worker)


def _worker() -> asyncio.Task[Any]:
    """Return whose call it is that the current task is about: guardrails may ask on tasks of their own."""
    worker = _WORKER.get()
    assert worker is not None  # noqa: S101  only workers make calls
    return worker
