"""Keeps the log as long and as large as the settings say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from fleming_sql.clock import Clock
from fleming_sql.store.retention import LogTrimmer
from fleming_sql.types import Settings

_MEGABYTE: Final = 1e6
_MOST_DAYS: Final = 36_500
_MOST_ROWS: Final = 1e15
"""What is more is a problem of the settings, and counts as this."""
_LOOK_S: Final = 1.0
"""How often it is looked for a moment without a statement; each checkpoint in vain doubles it."""


class Retention:
    """The task that removes calls which are older or more than the settings allow.

    Args:
        trimmer: Removes them.
        clock: Time.
    """

    name: Final = "retention"

    def __init__(self, trimmer: LogTrimmer, clock: Clock) -> None:
        self._trimmer = trimmer
        self._clock = clock
        self._stopped = threading.Event()

    def every_s(self, settings: Settings) -> float | None:
        """Return the seconds between two runs, None where all calls are kept."""
        return _every_s(settings)

    def run(self, settings: Settings) -> str:
        """Remove what need not be kept, step by step.

        Raises:
            duckdb.Error: A step failed; those before it are done.
        """
        self._stopped.clear()
        last = self._trimmer.last_removable(settings.delta_location)
        removed = 0
        if settings.retention_days is not None:
            oldest = self._clock.now().replace(tzinfo=None) - timedelta(days=min(settings.retention_days, _MOST_DAYS))
            removed += self._all(lambda: self._trimmer.remove_before(oldest, last))
        if settings.retention_rows is not None:
            kept = int(min(settings.retention_rows, _MOST_ROWS))
            removed += self._all(lambda: self._trimmer.remove_beyond(kept, last))
        return f"{removed} calls removed from the log"

    def stop(self) -> None:
        """Break it off: the step under way is undone, those before it are done."""
        self._stopped.set()
        self._trimmer.interrupt()

    def _all(self, step: Callable[[], int | None]) -> int:
        removed = 0
        while not self._stopped.is_set():
            some = step()
            if some is None:
                break
            removed += some
        return removed


class Compaction:
    """The task that gives the room of removed calls back: without it the file would grow by all that was ever logged.

    DuckDB checkpoints by itself each 16 MB of its write-ahead log, but whole row groups are written past that log. A
    statement that calls models has a transaction in the store until it ends, and while there is one no room comes back,
    so this waits for a moment without.

    Args:
        trimmer: Does it.
        is_busy: Whether statements are under way.
        clock: Time.
    """

    name: Final = "compaction"

    def __init__(self, trimmer: LogTrimmer, is_busy: Callable[[], bool], clock: Clock) -> None:
        self._trimmer = trimmer
        self._is_busy = is_busy
        self._clock = clock
        self._again_s: float | None = None

    def every_s(self, settings: Settings) -> float | None:
        """Return the seconds between two runs, None where no calls are removed."""
        period_s = _every_s(settings)
        if period_s is None or self._again_s is None:
            return period_s
        return min(period_s, self._again_s)

    def run(self, settings: Settings) -> str:
        """Checkpoint the store, if there is anything to gain.

        Raises:
            duckdb.Error: It is not possible at the moment.
        """
        if not self._trimmer.has_room_to_free():
            self._again_s = None
            return "nothing to do"
        if self._is_busy():
            self._again_s = _LOOK_S
            return "waits for a moment without a statement under way"
        began = self._clock.monotonic()
        done = self._trimmer.checkpoint()
        took_ms = (self._clock.monotonic() - began) * 1000
        self._again_s = None if done else 2 * (self._again_s or _LOOK_S)
        size = self._trimmer.size()
        return (
            f"checkpoint in {took_ms:.0f} ms: the file has {size.bytes / _MEGABYTE:.1f} MB, "
            f"{size.free_bytes / _MEGABYTE:.1f} MB of them free for new records"
            f"{'' if done else '; more once the transactions in the store have ended'}"
        )

    def stop(self) -> None:
        """Break it off; the next one does it."""
        self._trimmer.interrupt()


def _every_s(settings: Settings) -> float | None:
    if settings.retention_days is None and settings.retention_rows is None:
        return None
    return settings.maintenance_minutes * 60
