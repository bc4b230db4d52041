"""One request for identical calls: those under way are joined, those answered are served from memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from fleming_sql.types import Answer

DEFAULT_MAX_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reusable:
    """An answer as its first caller got it."""

    answer: Answer
    request_id: str
    served_entity_id: str
    request_body: str
    response_body: str


class ReuseCache:
    """Answers by request hash, the least recently used dropped first.

    Args:
        monotonic: Seconds on a clock that never goes back.
        max_bytes: Bound on the bodies kept.
    """

    def __init__(self, monotonic: Callable[[], float], max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._monotonic = monotonic
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, tuple[float, Reusable]] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[Reusable]] = {}
        self._cleared = 0
        self._has_dropped = False

    def get(self, key: bytes) -> Reusable | None:
        """Return the kept answer, None if there is none or its time is over."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        expires, found = entry
        if expires <= self._monotonic():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found

    def __contains__(self, key: bytes) -> bool:
        """Return whether an answer is kept or on its way."""
        return key in self._under_way or self.get(key) is not None

    async def find(self, key: bytes) -> Reusable | None:
        """Return the answer that is kept or on its way, None where there is neither.

        Raises:
            CallError: The call that was on its way failed.
        """
        while True:
            found = self.get(key)
            under_way = self._under_way.get(key)
            if found is not None or under_way is None:
                return found
            try:
                return await asyncio.shield(under_way)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not under_way.cancelled() or (task and task.cancelling()):
                    raise  # this caller was cancelled too, not only the one it waited for

    async def lead(self, key: bytes, ttl_s: float, call: Callable[[], Awaitable[Reusable]]) -> Reusable:
        """Make the call for `key`; those who look for it meanwhile get its answer, or its error.

        If it is cancelled, one of them makes the call instead.
        """
        under_way = self._under_way[key] = asyncio.get_running_loop().create_future()
        cleared = self._cleared
        try:
            made = await call()
        except asyncio.CancelledError:
            under_way.cancel()
            raise
        except Exception as error:
            under_way.set_exception(error)
            under_way.exception()  # read, so that nobody waiting is no warning
            raise
        else:
            under_way.set_result(made)
            if cleared == self._cleared:
                self.keep(key, ttl_s, made)
            return made
        finally:
            del self._under_way[key]

    def knows(self, key: bytes) -> bool:
        """Return whether an answer is kept, be its time over or not. Any thread may ask."""
        return key in self._kept

    @property
    def is_short(self) -> bool:
        """Whether an answer that is kept may have to make room soon. Any thread may ask."""
        return self._has_dropped or 2 * self._bytes > self._max_bytes

    def clear(self) -> None:
        """Forget all answers; those on their way are not kept."""
        self._cleared += 1
        self._kept.clear()
        self._bytes = 0

    def keep(self, key: bytes, ttl_s: float, made: Reusable) -> None:
        """Keep an answer for a time."""
        size = _size(made)
        self._has_dropped = self._has_dropped or size > self._max_bytes
        if ttl_s <= 0 or size > self._max_bytes:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = (self._monotonic() + ttl_s, made)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._has_dropped = True
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        _, dropped = self._kept.pop(key)
        self._bytes -= _size(dropped)


def _size(entry: Reusable) -> int:
    # Python keeps one to four bytes a character, and the answer holds the text once more; 1 kB for the objects.
    return 1024 + 2 * len(entry.request_body) + 4 * len(entry.response_body)
