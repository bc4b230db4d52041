"""Keeps Python's cyclic garbage collector from walking through thousands of waiting calls over and over.

A vector of 2,048 calls holds some 100,000 objects at once. With the default threshold (a collection per 700 new
objects, each tenth of which looks at older ones, too) the collector took 100 us per call, more than sending it. Calls
leave no cycles behind, so nothing waits longer for its memory.
"""

from __future__ import annotations

import gc
import threading
from typing import Final

THRESHOLD: Final = 20_000


class QuietCollector:
    """Raises the collector's first threshold while at least one piece of work is under way, and puts it back.

    A program that has switched the collector off or set a higher threshold is left as it is.

    Example:
        >>> with QuietCollector():
        ...     run_many_calls()
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: tuple[int, int, int] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            saved = gc.get_threshold()
            if self._inside == 1 and 0 < saved[0] < THRESHOLD:
                self._saved = saved
                gc.set_threshold(THRESHOLD, *saved[1:])

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                if gc.get_threshold()[0] == THRESHOLD:  # nobody has changed it since
                    gc.set_threshold(*self._saved)
                self._saved = None
