"""Which DuckDB instance has which gateway.

DuckDB instances belong to the process, and so must the map from an instance to its gateway: this is the one piece
of state that is not reached through an object that a caller holds. A Python function registered with each
instance tells its id, so that any connection or cursor finds its way here.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final
from uuid import uuid4

import duckdb

from fleming_sql.connection.functions import INSTANCE_FUNCTION, Slot, register
from fleming_sql.connection.session import Session


class Registry:
    """The slots of all DuckDB instances that ever had a gateway."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._slots: dict[str, Slot] = {}
        self._kept: list[tuple[Callable[..., Any], ...]] = []

    def find(self, cursor: duckdb.DuckDBPyConnection) -> Slot | None:
        """Return the slot of a cursor's instance, None if it never had one."""
        try:
            rows = cursor.execute(f"select {INSTANCE_FUNCTION}()").fetchall()
        except duckdb.CatalogException:
            return None
        return self._slots.get(rows[0][0])

    def make(self, cursor: duckdb.DuckDBPyConnection) -> Slot:
        """Register the functions with a cursor's instance and return its slot."""
        slot = Slot(uuid4().hex, self.arm_interrupt)
        self._kept.append(register(cursor, slot))
        self._slots[slot.id] = slot
        return slot

    def sessions(self) -> list[Session]:
        """Return what is attached anywhere in this process."""
        return [slot.session for slot in list(self._slots.values()) if slot.session is not None]

    def close_all(self) -> None:
        """Close every session; at the interpreter's end."""
        for session in self.sessions():
            session.close()

    def arm_interrupt(self) -> None:
        """Let Ctrl-C break off calls under way.

        DuckDB sees an interrupt only between vectors, and the thread that waits for calls may not be the main one.
        Only Python's own handler is replaced, by one that calls it; a handler of the program's own is left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        for session in self.sessions():
            session.engine.cancel()
            session.progress.stop()
        signal.default_int_handler(number, frame)

    def abandon_all(self) -> None:
        """Leave every session to the parent; in a process just forked."""
        for session in self.sessions():
            session.abandon()


REGISTRY: Final = Registry()
atexit.register(REGISTRY.close_all)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=REGISTRY.abandon_all)
