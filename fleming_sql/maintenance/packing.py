"""Packs the log when there is time for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from fleming_sql.clock import Clock
from fleming_sql.store.packing import LogPacker
from fleming_sql.types import Settings

PATIENCE_S: Final = 60.0
"""How long it waits for a moment without calls; then it packs a little beside them, each second."""
_AGAIN_S: Final = 1.0


class Packing:
    """The task that packs the bodies of logged calls into a third of their room, when no calls are under way.

    Args:
        packer: Does it.
        is_busy: Whether statements are under way.
        clock: Time.
    """

    name: Final = "packing"

    def __init__(self, packer: LogPacker, is_busy: Callable[[], bool], clock: Clock) -> None:
        self._packer = packer
        self._is_busy = is_busy
        self._clock = clock
        self._stopped = threading.Event()
        self._waits_since: float | None = None

    def every_s(self, settings: Settings) -> float | None:
        """Return the seconds between two runs."""
        period_s = settings.maintenance_minutes * 60
        return period_s if self._waits_since is None else min(period_s, _AGAIN_S)

    def run(self, settings: Settings) -> str:
        """Pack what was logged since the last time, step by step.

        Raises:
            duckdb.Error: A step failed; those before it are done.
        """
        self._stopped.clear()
        packed = 0
        while not self._stopped.is_set() and self._has_time(packed):
            some = self._packer.pack()
            if some is None:
                self._waits_since = None
                break
            packed += some
        return f"the bodies of {packed} calls packed"

    def stop(self) -> None:
        """Break it off: the step under way is undone, those before it are done."""
        self._stopped.set()
        self._packer.interrupt()

    def _has_time(self, packed: int) -> bool:
        """Return whether to do another step: none beside calls, unless there has been no moment without for long."""
        if not self._is_busy():
            return True
        now = self._clock.monotonic()
        if self._waits_since is None:
            self._waits_since = now
        return not packed and now - self._waits_since >= PATIENCE_S
