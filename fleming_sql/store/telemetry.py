"""The log: call records in, rows of `serving.calls` out, many at a time.

`add` only remembers a record. `flush` writes all that were added before it, in one transaction, and returns when
they are committed, so whoever calls it before handing out results hands out logged ones only. Threads that flush
at the same time share one commit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import duckdb

from fleming_sql.errors import StoreError
from fleming_sql.store.call_rows import UNWRITABLE, CallTable, remnant
from fleming_sql.types import CallRecord

_NEXT_SEQ: Final = "select coalesce(max(log_seq), 0) + 1 from serving.calls"
_ADMITTED: Final = """
with sent as (
    select
        epoch(now() at time zone 'UTC' - request_time) - limit_wait_ms / 1000 as age_s,
        requester,
        coalesce(input_token_count, 0) + coalesce(output_token_count, 0) as tokens
    from serving.calls
    where endpoint_name = ? and request_time >= now() at time zone 'UTC' - to_seconds(?) and request_time < ?
        and not cache_hit and served_entity_id is not null  -- embeddings that shared a request have no attempts
)
select min(age_s) as latest, requester, count(*), sum(tokens)::bigint
from sent
group by requester, floor(age_s)
order by latest desc
"""


class CallLog:
    """The log of one store.

    Args:
        cursor: A cursor of its own, whose current catalog is the store.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._table = CallTable(cursor)
        self._next_seq: int = cursor.execute(_NEXT_SEQ).fetchall()[0][0]
        self._lock = threading.Lock()
        self._pending: deque[CallRecord] = deque()

    def is_open(self) -> bool:
        """Return whether the connection behind the log is open; a log that is being written is."""
        if not self._lock.acquire(blocking=False):
            return True
        try:
            self._cursor.execute("select 1").fetchall()
        except duckdb.ConnectionException:
            return False
        finally:
            self._lock.release()
        return True

    def add(self, record: CallRecord) -> None:
        """Remember a record. Any thread may call it."""
        self._pending.append(record)

    def flush(self) -> None:
        """Write every record that was added before the call, and return when they are committed.

        Raises:
            StoreError: The store could not be written; the records are kept for the next flush.
        """
        with self._lock:
            records = self._take()
            if not records:
                return
            try:
                self._write_all(records)
            except BaseException as error:
                self._pending.extendleft(reversed(records))
                if isinstance(error, duckdb.Error):
                    raise StoreError(
                        f"the log of {len(records)} calls could not be written to fleming.serving.calls, so their "
                        f"results are held back: {error}"
                    ) from error
                raise

    def admitted(self, endpoint: str, before: datetime, seconds: float) -> list[tuple[float, str, int, int]]:
        """Return what calls were sent within the last seconds by earlier processes, the oldest first.

        Args:
            endpoint: Its name.
            before: When this process opened the store.
            seconds: How far back to look from now.

        Returns:
            For each second and requester the age in seconds of the latest call, how many there were, their tokens.
        """
        with self._lock:
            return self._cursor.execute(_ADMITTED, [endpoint, seconds, before.replace(tzinfo=None)]).fetchall()

    def _take(self) -> list[CallRecord]:
        return [self._pending.popleft() for _ in range(len(self._pending))]

    def _write_all(self, records: Sequence[CallRecord]) -> None:
        try:
            self._write(records)
        except UNWRITABLE:
            # A value that fits no column must not keep the rest, and all that comes later, out of the log.
            for record in records:
                try:
                    self._write([record])
                except UNWRITABLE:
                    self._write([remnant(record)])

    def _write(self, records: Sequence[CallRecord]) -> None:
        self._table.write(self._next_seq, records)
        self._next_seq += len(records)
