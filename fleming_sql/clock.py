"""The single door to time and randomness, so that tests can stand in for both."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime


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
        """Return a fresh request id, a version 4 UUID. It is unique, not secret, so it needs no system call."""
        text = f"{self._random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"

    async def sleep(self, seconds: float) -> None:
        """Wait without holding up other calls."""
        await asyncio.sleep(seconds)
