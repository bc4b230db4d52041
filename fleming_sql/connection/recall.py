"""Finds the rows of a vector that an earlier call has answered, so that re-running a statement sends nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import duckdb

from fleming_sql.clock import Clock
from fleming_sql.errors import StoreError
from fleming_sql.gateway.batch import RowCall
from fleming_sql.gateway.pipeline import Gateway
from fleming_sql.store.answers import StoredAnswers, oldest
from fleming_sql.types import Caller


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
        is_short = self._gateway.is_memory_short
        if not is_short and not self._answers.from_earlier:
            return wanted
        for position, row in enumerate(rows):
            if row is None or not row.plan.reusable or row.plan.endpoint is None:
                continue
            key = row.plan.key(row.asked, caller)
            if is_short or not self._gateway.knows(key):
                wanted[row.plan.endpoint.cache_ttl_seconds or 0][position] = key
        wanted.pop(0, None)
        return wanted
