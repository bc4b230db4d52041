"""Removes the oldest rows of the log, a few at a time, and gives the room that they took back for new ones.

The log is appended to from another cursor meanwhile: DuckDB lets a delete and appends of other rows commit beside each
other. The newest row always stays, because the next number of `log_seq` is counted from it.

Room comes back with a checkpoint that meets no transaction of another connection in the store: whole row groups are
freed then, and a partly empty one is merged with its neighbour (DuckDB 1.5 and 2.0, measured). A file that was larger
once stays so, and is filled again before it grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import duckdb

from fleming_sql.store.call_rows import LAST_SEQ
from fleming_sql.store.catalog import CATALOG
from fleming_sql.store.cursors import LateCursor
from fleming_sql.store.exports import LOG_TABLES

_ROW_GROUP: Final = 2048
CHUNK: Final = 10 * _ROW_GROUP
"""Numbers of `log_seq` in one transaction: ten row groups, 3 to 40 ms."""
_EXPORTED: Final = f"""
select if(count(*) = {len(LOG_TABLES)}, min(exported), 0)
from (
    select table_name, max(to_seq) as exported
    from serving.exports
    where table_name in {LOG_TABLES} and location = ? and exported_at is not null
    group by table_name
)
"""  # noqa: S608  own constant
_BEYOND: Final = "select count(*) - ?, min(log_seq) from serving.calls"
_FIRST_KEPT: Final = """
select log_seq from serving.calls where log_seq between ? and ? order by log_seq offset ? limit 1
"""
_DELETE_UP_TO: Final = "delete from serving.calls where log_seq between ? and ?"
_FIRST_BEFORE: Final = "select min(log_seq) from serving.calls where request_time < ? and log_seq between ? and ?"
_DELETE_BEFORE: Final = "delete from serving.calls where request_time < ? and log_seq between ? and ?"
_TOUCH: Final = "create or replace macro main.__compacted() as true"
"""Changes something, of no meaning: after an update of a row to what it was, a checkpoint still does nothing."""
_SIZE: Final = (
    "select block_size, total_blocks, free_blocks, wal_size from pragma_database_size() where database_name = ?"
)


@dataclass(frozen=True, slots=True)
class FileSize:
    """How large the store's file is; all 0 in memory."""

    bytes: int
    free_bytes: int
    """Part of it that new records will fill."""
    has_changes: bool
    """Whether a checkpoint has anything to work into it."""

    @property
    def used_bytes(self) -> int:
        """What is not free."""
        return self.bytes - self.free_bytes


class LogTrimmer:
    """Removes rows of one store's log.

    Args:
        open_cursor: Opens a cursor of its own, whose current catalog is the store, when it is needed.
        chunk: Numbers of `log_seq` that one step looks at.
    """

    def __init__(self, open_cursor: Callable[[], duckdb.DuckDBPyConnection], chunk: int = CHUNK) -> None:
        self._cursor = LateCursor(open_cursor)
        self._chunk = chunk
        self._unfreed = 0
        """Rows that were removed and may still take room."""

    def interrupt(self) -> None:
        """Break off the statement under way, from another thread."""
        self._cursor.interrupt()

    def last_removable(self, location: str | None) -> int:
        """Return the `log_seq` up to which calls may be removed.

        Args:
            location: Where the log is exported to; what is not known to be there in all its tables stays. None where
                it is exported nowhere.
        """
        newest = self._number(LAST_SEQ) - 1
        return newest if location is None else min(newest, self._number(_EXPORTED, [location]))

    def remove_beyond(self, rows: int, last: int) -> int | None:
        """Remove some of the oldest calls, so that in the end so many are left.

        Args:
            rows: How many are kept.
            last: As from `last_removable`.

        Returns:
            How many were removed by this step; None when none are left to remove.

        Raises:
            duckdb.Error: They could not be removed; all of this step are still there.
        """
        excess, first = self._rows(_BEYOND, [rows])[0]
        if first is None or excess <= 0 or first > last:
            return None
        end = min(first + self._chunk - 1, last)
        first_kept = self._rows(_FIRST_KEPT, [first, end, excess])
        return self._removed(_DELETE_UP_TO, [first, first_kept[0][0] - 1 if first_kept else end]) or None

    def remove_before(self, time: datetime, last: int) -> int | None:
        """Remove some of the calls that were made before a time.

        Args:
            time: UTC, without its zone.
            last: As from `last_removable`.

        Returns:
            How many were removed by this step; None when none are left to remove.

        Raises:
            duckdb.Error: They could not be removed; all of this step are still there.
        """
        first = self._rows(_FIRST_BEFORE, [time, -1, last])[0][0]
        if first is None:
            return None
        return self._removed(_DELETE_BEFORE, [time, first, min(first + self._chunk - 1, last)])

    def has_room_to_free(self) -> bool:
        """Return whether a checkpoint would give back room, or at least work changes into the file."""
        return self._unfreed > 0 or self.size().has_changes

    def checkpoint(self) -> bool:
        """Work the write-ahead log into the file: what was removed becomes room for new records.

        It waits for nobody and breaks nothing off.

        Returns:
            False if no room came back because another connection has a transaction in the store: try again later.

        Raises:
            duckdb.Error: It is not possible at the moment.
        """
        before = self.size()
        if not before.has_changes:
            self._rows(_TOUCH, [])  # without a change a checkpoint does nothing, not even what the last one left
        self._rows(f"checkpoint {CATALOG}", [])
        if self.size().used_bytes < before.used_bytes or self._unfreed < 2 * _ROW_GROUP:
            self._unfreed = 0
        return self._unfreed == 0

    def size(self) -> FileSize:
        """Return how large the store's file is."""
        block, total, free, wal = self._rows(_SIZE, [CATALOG])[0]
        return FileSize(block * total, block * free, wal != "0 bytes")

    def _rows(self, sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        return self._cursor.rows(sql, parameters)

    def _removed(self, sql: str, parameters: list[Any]) -> int:
        removed = self._number(sql, parameters)
        self._unfreed += removed
        return removed

    def _number(self, sql: str, parameters: list[Any] | None = None) -> int:
        return int(self._rows(sql, parameters or [])[0][0])
