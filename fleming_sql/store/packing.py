"""Packs the bodies of logged calls: moves them from the columns that are quick to write into those that are small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import duckdb

from fleming_sql.store.cursors import LateCursor

CHUNK: Final = 2048
"""Calls in one transaction: a row group."""
_FIRST: Final = """
select min(log_seq) from serving.calls where log_seq >= ? and (request is not null or response is not null)
"""
_PACK: Final = """
update serving.calls
set
    packed_request = coalesce(request, packed_request),
    packed_response = coalesce(response, packed_response),
    request = null,
    response = null
where log_seq between ? and ? and (request is not null or response is not null)
"""


class LogPacker:
    """Packs one store's log, the oldest calls first.

    Args:
        open_cursor: Opens a cursor of its own, whose current catalog is the store, when it is needed.
    """

    def __init__(self, open_cursor: Callable[[], duckdb.DuckDBPyConnection]) -> None:
        self._cursor = LateCursor(open_cursor)
        self._packed_to = 0

    def pack(self) -> int | None:
        """Pack some calls; return how many, None when all are packed.

        Raises:
            duckdb.Error: They could not be packed, and are as they were: somebody changes them at the same time.
        """
        first = self._cursor.rows(_FIRST, [self._packed_to])[0][0]
        if first is None:
            return None
        packed: int = self._cursor.rows(_PACK, [first, first + CHUNK - 1])[0][0]
        self._packed_to = first + CHUNK if packed == CHUNK else first
        return packed

    def interrupt(self) -> None:
        """Break off the statement under way, from another thread."""
        self._cursor.interrupt()
