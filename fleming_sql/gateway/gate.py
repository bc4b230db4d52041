"""How many upstream requests are under way at once, shared fairly between users and their statements."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from fleming_sql.gateway.fairness import FairQueue, Flow


class FairGate:
    """Lets `limit` holders in at once; those who wait get in by turns.

    Example:
        >>> await gate.enter(Flow("ada", "statement 7"))
        >>> gate.leave()
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._inside = 0
        self._waiting = FairQueue[asyncio.Future[None]](asyncio.Future.done)

    @property
    def inside(self) -> int:
        """How many are in."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(1 for _ in self._waiting)

    def waiting_by_statement(self) -> dict[Hashable, int]:
        """Return how many of each statement wait for a place."""
        return self._waiting.counts()

    def try_enter(self) -> bool:
        """Take a place if one is free and nobody waits; return whether it was taken."""
        if self._inside < self.limit and not self._waiting:
            self._inside += 1
            return True
        return False

    async def enter(self, flow: Flow) -> None:
        """Wait for a place and take it."""
        if self.try_enter():
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.push(flow, place)
        self.admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1
        self.admit()

    def admit(self) -> None:
        """Let in who waits and has a place; called whenever the limit has grown."""
        while self._inside < self.limit and (place := self._waiting.pop()) is not None:
            self._inside += 1
            place.set_result(None)
