"""The single door to time and randomness, so that tests can stand in for both."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from uuid import uuid4


class Clock:
    """Time and chance as the gateway sees them. Subclass it to control a test.

    Args:
        seed: Makes `random` repeatable; None draws from the operating system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311  spreads load and jitter, guards nothing

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.perf_counter()

    def random(self) -> float:
        """Return a number in [0, 1)."""
        return self._random.random()

    def new_id(self) -> str:
        """Return a fresh request id."""
        return str(uuid4())

    async def sleep(self, seconds: float) -> None:
        """Wait without holding up other calls."""
        await asyncio.sleep(seconds)
