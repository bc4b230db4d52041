"""Cursors of the tasks beside the calls: opened when they are first needed, interrupted from other threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb


class LateCursor:
    """A cursor that most sessions never need.

    Args:
        open_cursor: Opens a cursor of its own, whose current catalog is the store.
        prepare: A statement for the cursor to begin with.
    """

    def __init__(self, open_cursor: Callable[[], duckdb.DuckDBPyConnection], prepare: str | None = None) -> None:
        self._open_cursor = open_cursor
        self._prepare = prepare
        self._opened: duckdb.DuckDBPyConnection | None = None

    def get(self) -> duckdb.DuckDBPyConnection:
        """Return the cursor."""
        if self._opened is None:
            self._opened = self._open_cursor()
            if self._prepare is not None:
                self._opened.execute(self._prepare)
        return self._opened

    def rows(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.get().execute(sql, parameters or []).fetchall()

    def interrupt(self) -> None:
        """Break off the statement under way, from another thread."""
        if self._opened is not None:
            self._opened.interrupt()
