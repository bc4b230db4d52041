"""The log: call records in, rows of `serving.calls` out, many at a time, and none lost.

`add` writes a record to the journal, where it outlives the process, and remembers it for the table. `flush` writes all
that were added before it into the table, in one transaction, and returns when they are committed; threads that flush at
the same time share one commit. `release` is what a batch calls before its results are handed out.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb

from fleming_sql.errors import StoreError
from fleming_sql.store.call_rows import LAST_SEQ, UNWRITABLE, CallTable, naive, remnant
from fleming_sql.store.journal import Journal, read_journal, set_aside
from fleming_sql.types import CallRecord, Settings

BATCH: Final = 2048
"""Records that are written at once where there are so many: a row group of the store."""
MAX_UNWRITTEN: Final = 10_000
"""Records kept in memory while the store cannot be written and `on_log_failure` is continue."""
_LOGGER: Final = logging.getLogger("fleming_sql")
# What was exported counts too: calls that somebody removed must not lend their numbers to new ones.
_NEXT_SEQ: Final = f"select 1 + greatest(({LAST_SEQ}), (select coalesce(max(to_seq), 0) from serving.exports))"  # noqa: S608
_LOGGED: Final = """
select databricks_request_id
from serving.calls
where request_time >= ? and databricks_request_id in (select unnest(?::varchar[]))
"""
_RECOVERED: Final = "insert into serving.recoveries values (now() at time zone 'UTC', ?, ?, ?, ?)"
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
    """The log of one store. What earlier processes left in its journal is written into the table at once.

    Args:
        cursor: A cursor of its own, whose current catalog is the store.
        journal: Of the store; None for a store in memory, which outlives no process.

    Raises:
        StoreError: A journal was left behind and cannot be read or written into the table; it stays.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, journal: Journal | None) -> None:
        self._cursor = cursor
        self._table = CallTable(cursor)
        self._journal = journal
        self._settings = Settings()
        self._writing = threading.Lock()
        self._adding = threading.Lock()
        self._pending: deque[CallRecord] = deque()
        self._next_seq: int = cursor.execute(_NEXT_SEQ).fetchall()[0][0]
        self._journal_failed = False
        self._write_failed = False
        self._behind = False
        for path in journal.left_behind() if journal else ():
            self._recover(path)

    def configure(self, settings: Settings) -> None:
        """Take over settings that may have changed."""
        self._settings = settings

    def is_open(self) -> bool:
        """Return whether the connection behind the log is open; a log that is being written is."""
        if not self._writing.acquire(blocking=False):
            return True
        try:
            self._cursor.execute("select 1").fetchall()
        except duckdb.ConnectionException:
            return False
        finally:
            self._writing.release()
        return True

    def check(self) -> None:
        """Try again what could not be written before, ahead of calls that would have to be logged too.

        Raises:
            StoreError: The store still cannot be written.
        """
        if self._write_failed:
            self._flush_or_warn()

    def add(self, record: CallRecord) -> None:
        """Take a record into the log. Any thread may call it."""
        with self._adding:
            if self._journal is not None and self._settings.durability != "off":
                self._write_ahead(self._journal, record)
            self._pending.append(record)

    def release(self, soon: Callable[[], None] | None) -> None:
        """Return when the results of the records that were added before may be handed out.

        Args:
            soon: Sees to it that `flush` is called soon, for callers who settle before they read; None where the
                records must be in the table at once.

        Raises:
            StoreError: The store could not be written.
        """
        if soon is None or len(self._pending) >= 4 * BATCH or not self._is_durable():
            self._flush_or_warn()
            return
        self._behind = True
        soon()

    def settle(self) -> None:
        """Return when the table has what `release` left for later.

        Raises:
            StoreError: The store could not be written.
        """
        if self._behind:
            self._flush_or_warn()

    def flush(self) -> None:
        """Write every record that was added before the call, and return when they are committed.

        Raises:
            StoreError: The store could not be written; the records are kept for the next flush.
        """
        if threading.current_thread() is threading.main_thread():
            _apart(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        with self._writing:
            with self._adding:
                records = deque(self._pending.popleft() for _ in range(len(self._pending)))
                if self._journal is not None:
                    self._journal.turn()
            try:
                if records:
                    self._write_all(records)
            except Exception as error:
                self._write_failed = True
                with self._adding:
                    self._pending.extendleft(reversed(records))  # those that were not written
                if isinstance(error, duckdb.Error):
                    raise StoreError(
                        f"the log of {len(records)} calls could not be written to fleming.serving.calls, so their "
                        "results are held back; the records wait in memory, and in the journal if that can be written: "
                        f"make room or give access, and run the statement again. {error}"
                    ) from error
                raise
            self._write_failed = self._journal_failed = False
            self._behind = bool(self._pending)
            if self._journal is not None:
                with self._adding:
                    self._journal.forget()

    def close(self) -> None:
        """Write what is left; the journal stays only where that fails.

        Raises:
            StoreError: The store could not be written.
        """
        self.flush()
        if self._journal is not None:
            with self._adding:
                self._journal.remove()

    def admitted(self, endpoint: str, before: datetime, seconds: float) -> list[tuple[float, str, int, int]]:
        """Return what calls were sent within the last seconds by earlier processes, the oldest first.

        Args:
            endpoint: Its name.
            before: When this process opened the store.
            seconds: How far back to look from now.

        Returns:
            For each second and requester the age in seconds of the latest call, how many there were, their tokens.
        """
        with self._writing:
            return self._cursor.execute(_ADMITTED, [endpoint, seconds, naive(before)]).fetchall()

    def _write_ahead(self, journal: Journal, record: CallRecord) -> None:
        """Write a record to the journal; one that it does not take has to be in the table before its result is out."""
        try:
            journal.append(record)
        except OSError as error:
            if not self._journal_failed:
                _LOGGER.warning("the journal cannot be written, so each result waits for the table: %s", error)
            self._journal_failed = True

    def _is_durable(self) -> bool:
        """Return whether all records are as durable as the settings ask, without the table."""
        if self._settings.durability == "off":
            return True
        if self._journal is None or self._journal_failed or self._write_failed:
            return False
        if self._settings.durability == "power":
            self._journal.sync()  # without the lock: the event loop takes it for each record
        return True

    def _flush_or_warn(self) -> None:
        try:
            self.flush()
        except StoreError as error:
            if self._settings.on_log_failure == "fail":
                raise
            self._forget_oldest(error)

    def _forget_oldest(self, error: StoreError) -> None:
        with self._adding:
            lost = max(0, len(self._pending) - MAX_UNWRITTEN)
            for _ in range(lost):
                self._pending.popleft()
        _LOGGER.warning("calls go on unlogged, as the setting on_log_failure says; %d records lost: %s", lost, error)

    def _recover(self, path: Path) -> None:
        """Write what a killed process had not put into the table; doing it again adds nothing."""
        try:
            found = list(read_journal(path))
            if not found:
                path.unlink()
                return
            records = [record for record in found if record is not None]
            missing = self._not_logged(records)
            for start in range(0, len(missing), BATCH):
                self._write_all(deque(missing[start : start + BATCH]))
            torn = len(found) - len(records)
            self._cursor.execute(_RECOVERED, [path.name, len(records), len(missing), torn])
            if torn:
                _LOGGER.warning("%d damaged records of the journal %s were skipped", torn, path.name)
                set_aside(path)
            else:
                path.unlink()
        except (OSError, duckdb.Error) as error:
            raise StoreError(
                f"the journal {path}, which a process left behind that was killed, cannot be put into the log: "
                f"{error}. Make room or give access to it, and open the store again; nothing in it is lost"
            ) from error

    def _not_logged(self, records: Sequence[CallRecord]) -> list[CallRecord]:
        if not records:
            return []
        since = naive(min(record.request_time for record in records))
        ids = [record.databricks_request_id for record in records]
        logged = {row[0] for row in self._cursor.execute(_LOGGED, [since, ids]).fetchall()}
        return list({r.databricks_request_id: r for r in records if r.databricks_request_id not in logged}.values())

    def _write_all(self, records: deque[CallRecord]) -> None:
        """Write records and take out of the queue those that are committed."""
        try:
            self._write(records)
            records.clear()
        except UNWRITABLE:
            # A value that fits no column must not keep the rest, and all that comes later, out of the log.
            while records:
                try:
                    self._write([records[0]])
                except UNWRITABLE:
                    self._write([remnant(records[0])])
                records.popleft()

    def _write(self, records: Sequence[CallRecord]) -> None:
        self._table.write(self._next_seq, records)
        self._next_seq += len(records)


def _apart(work: Callable[[], None]) -> None:
    """Do `work` on a thread of its own: Ctrl-C reaches the main thread at any step, and must not end it halfway."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  handed on below
            failed.append(error)

    thread = threading.Thread(target=run, name="fleming-sql-log")
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending and starts no more threads
        run()
    else:
        thread.join()
    if failed:
        raise failed[0]
