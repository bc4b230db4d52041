"""How long an entity takes: now, as a rule, and at its slowest."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

STALE_S: Final = 30.0
"""After so long without an answer nobody knows how long the next one takes."""
KEPT: Final = 128
"""Latencies that percentiles are taken from."""
MIN_FOR_PERCENTILE: Final = 20
"""With fewer, a high percentile would be the slowest one by another name."""
_TYPICAL: Final = 0.15
_BASELINE: Final = 0.03
_SHORTEST_S: Final = 1e-6


class Latencies:
    """The latest latencies of one entity, for one thread.

    The averages are exponentially weighted means of logarithms, that is geometric means: latencies of
    models spread over orders of magnitude, and one straggler must not look like a slow server.

    Example:
        >>> latencies = Latencies()
        >>> latencies.add(0.5, now=100.0)
        >>> round(latencies.typical_s(now=101.0), 6)
        0.5
    """

    __slots__ = ("_baseline", "_latest", "_measured_at", "_recent", "_sorted", "_sorted_count", "count")

    def __init__(self) -> None:
        self.count = 0
        """Latencies measured so far."""
        self._latest: deque[float] = deque(maxlen=KEPT)
        self._measured_at = -math.inf
        self._recent = 0.0
        self._baseline = 0.0
        self._sorted: list[float] = []
        self._sorted_count = 0

    def add(self, seconds: float, now: float) -> None:
        """Note how long an answer took that has come `now`."""
        self.count += 1
        self._latest.append(seconds)
        logarithm = math.log(max(seconds, _SHORTEST_S))
        if now - self._measured_at > STALE_S:
            # What was typical before the pause would hold a recovered entity back for many measurements.
            self._recent = logarithm
        else:
            self._recent += _TYPICAL * (logarithm - self._recent)
        # The first ones weigh the same, else the baseline would long be the very first latency.
        self._baseline += max(_BASELINE, 1.0 / self.count) * (logarithm - self._baseline)
        self._measured_at = now

    def typical_s(self, now: float) -> float | None:
        """Return the seconds that an answer takes these days; None after 30 s without a measurement."""
        return math.exp(self._recent) if now - self._measured_at <= STALE_S else None

    @property
    def baseline_s(self) -> float | None:
        """Seconds that an answer takes as a rule, over about the last hundred; None without any."""
        return math.exp(self._baseline) if self.count else None

    def percentile_s(self, percentile: float) -> float | None:
        """Return the seconds within which this share of the last 128 answers came, by nearest rank.

        Args:
            percentile: Above 0, up to 100.

        Returns:
            None where fewer than 20 were measured.
        """
        if len(self._latest) < MIN_FOR_PERCENTILE:
            return None
        if self._sorted_count != self.count:
            self._sorted = sorted(self._latest)
            self._sorted_count = self.count
        rank = math.ceil(percentile / 100.0 * len(self._sorted))
        return self._sorted[min(max(rank, 1), len(self._sorted)) - 1]
