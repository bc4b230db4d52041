"""Finds the rows of a vector that an earlier call has answered, so that re-running a statement sends nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import duckdb

from fleming_sql.clock import Clock
from fleming_sql.errors import StoreError
from fleming_sql.gateway.batch import RowCall
from fleming_sql.gateway.pipeline import Gateway
from fleming_sql.gateway.plan import CallInput, Plan
from fleming_sql.store.answers import StoredAnswers, oldest
from fleming_sql.types import Caller, StoredAnswer


class Recall:
    """Looks up the rows that may be answered from the log and not from memory.

    Args:
        answers: The log's.
        gateway: Knows what is in memory.
        clock: Time.
    """

    def __init__(self, answers: StoredAnswers, gateway: Gateway, clock: Clock) -> None:
        self._answers = answers
        self._gateway = gateway
        self._clock = clock

    @property
    def is_needed(self) -> bool:
        """Whether the log may hold an answer that is not in memory. Any thread may ask."""
        return self._gateway.is_memory_short or self._answers.from_earlier

    def look_up(self, rows: Sequence[RowCall | None], caller: Caller) -> list[RowCall | None]:
        """Return the rows, those with an answer in the log together with it.

        Raises:
            StoreError: The log cannot be read; sending what is in it would be paid twice.
        """
        found = list(rows)
        for ttl_s, keys in self._wanted(rows, caller).items():
            try:
                stored = self._answers.find(set(keys.values()), oldest(self._clock.now(), ttl_s))
            except duckdb.Error as error:
                raise StoreError(f"fleming.serving.calls cannot be searched for earlier answers: {error}") from error
            for position, key in keys.items():
                row = found[position]
                if row is not None and key in stored:
                    found[position] = replace(row, stored=stored[key])
        return found

    def _wanted(self, rows: Sequence[RowCall | None], caller: Caller) -> dict[int, dict[int, bytes]]:
        """Return the request hashes by position, by the time for which an answer may be given again."""
        wanted: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        # What is in memory now may have to make room before its row is reached.
        if not self.is_needed:
            return wanted
        is_short = self._gateway.is_memory_short
        for position, row in enumerate(rows):
            if row is None or not row.plan.reusable or row.plan.endpoint is None:
                continue
            key = row.plan.key(row.asked, caller)
            if is_short or not self._gateway.knows(key):
                wanted[row.plan.endpoint.cache_ttl_seconds or 0][position] = key
        wanted.pop(0, None)
        return wanted


class RecallForGuardrails:
    """The same for what guardrails ask, which is not known before the rows are looked at.

    It is asked on the event loop and searches on another thread; those who ask meanwhile are answered together by the
    next search.

    Args:
        recall: With a cursor of its own.
    """

    def __init__(self, recall: Recall) -> None:
        self._recall = recall
        self._waiting: list[tuple[RowCall, Caller, asyncio.Future[StoredAnswer | None]]] = []
        self._searching: asyncio.Task[None] | None = None

    async def find(self, plan: Plan, asked: CallInput, caller: Caller) -> StoredAnswer | None:
        """Return an earlier answer to the same request from the log, None without one.

        Raises:
            StoreError: The log cannot be read.
        """
        if not self._recall.is_needed:
            return None
        found: asyncio.Future[StoredAnswer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((RowCall(plan, asked), caller, found))
        if self._searching is None:
            self._searching = asyncio.create_task(self._search())
        return await found

    async def _search(self) -> None:
        while self._waiting:
            caller = self._waiting[0][1]
            together = [waiting for waiting in self._waiting if waiting[1] == caller]
            self._waiting = [waiting for waiting in self._waiting if waiting[1] != caller]
            try:
                rows = await asyncio.to_thread(self._recall.look_up, [row for row, _, _ in together], caller)
            except Exception as error:  # noqa: BLE001  handed on to those who wait, who would wait for ever otherwise
                for _, _, found in together:
                    if not found.done():
                        found.set_exception(error)
            else:
                for row, (_, _, found) in zip(rows, together, strict=True):
                    if not found.done():
                        found.set_result(row.stored if row is not None else None)
        self._searching = None
