"""How many upstream requests an endpoint has under way, shared fairly between statements."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable


class FairGate:
    """Lets `limit` holders in at once; those who wait get in turn by flow, not by arrival.

    A flow is a statement: with round robin between flows, a single call waits for at most one request of each
    statement that is ahead of it, not for all rows of a long batch.

    Example:
        >>> await gate.enter("statement 7")
        >>> gate.leave()
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._inside = 0
        self._flows: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def inside(self) -> int:
        """How many are in."""
        return self._inside

    async def enter(self, flow: Hashable) -> None:
        """Wait for a place and take it."""
        if self._inside < self.limit and not self._flows:
            self._inside += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._flows.setdefault(flow, deque()).append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._inside < self.limit and self._flows:
            flow, waiting = self._flows.popitem(last=False)
            place = waiting.popleft()
            if waiting:
                self._flows[flow] = waiting
            if not place.done():
                self._inside += 1
                place.set_result(None)
