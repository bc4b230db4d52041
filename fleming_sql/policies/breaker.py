"""When to leave a failing entity out, and when to try it again.

The circuit breaker of Nygard, "Release It!", 2007: closed while calls go through, open for a while after too
many failed, then half open, when one probe decides which of the two comes next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["answered", "failed", "refused"]
"""How a request ended. `refused` is 429 or 529: the entity works, and has enough to do."""

State = Literal["closed", "open", "half_open"]

RECENT: Final = 5
"""Times `min_calls`: how many of the latest outcomes count, so that an entity that has answered thousands is left out
as soon as another one when it fails."""
_MIN_PATIENCE_S: Final = 1.0
"""A probe gets at least so long, since models answer no faster."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens, and for how long."""

    failure_share: float = 0.5
    """Opens at this share of failed ones among those answered and failed; above 0, up to 1."""
    min_calls: int = 20
    """Fewer outcomes within the window prove nothing."""
    window_s: float = 10.0
    """Length of the sliding window."""
    open_s: float = 5.0
    """How long it stays open before a probe."""

    @property
    def most_calls(self) -> int:
        """How many of the latest outcomes count."""
        return RECENT * self.min_calls


class Breaker:
    """The breaker of one entity, for one thread.

    It looks at the latest outcomes within the window, five times `min_calls` of them at most.

    Args:
        settings: May be replaced at any time.

    Example:
        >>> breaker = Breaker(BreakerSettings(min_calls=2))
        >>> breaker.record("failed", 0.0)
        >>> breaker.record("failed", 0.1)
        >>> breaker.state(0.2), breaker.state(5.2)
        ('open', 'half_open')
        >>> breaker.claim(5.2), breaker.claim(5.3)
        (True, False)
        >>> breaker.record("answered", 5.4, claimed=True)
        >>> breaker.state(5.5)
        'closed'
    """

    __slots__ = ("_opened_at", "_probe_at", "_probes", "_settings", "_window")

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self._window = _Window(self._settings.window_s)
        self._opened_at: float | None = None
        self._probe_at = 0.0
        self._probes = 0

    @property
    def settings(self) -> BreakerSettings:
        """The settings in force; a new length of the window starts it empty."""
        return self._settings

    @settings.setter
    def settings(self, settings: BreakerSettings) -> None:
        if settings.window_s != self._settings.window_s:
            self._window = _Window(settings.window_s)
        self._settings = settings

    @property
    def opened_at(self) -> float | None:
        """When it opened last; None while it is closed."""
        return self._opened_at

    @property
    def opens_until(self) -> float | None:
        """From when on a probe may go out; None while it is closed."""
        return None if self._opened_at is None else self._opened_at + self._settings.open_s

    def state(self, now: float) -> State:
        """Return the state: `closed`, `open`, or `half_open` when a probe may decide."""
        if self._opened_at is None:
            return "closed"
        return "open" if now < self._opened_at + self._settings.open_s else "half_open"

    def allows(self, now: float) -> bool:
        """Return whether a request may go out: it is closed, or half open with no probe under way."""
        if self._opened_at is None:
            return True
        if now < self._opened_at + self._settings.open_s:
            return False
        # A probe that hangs, or whose end was never told, must not shut the entity out for good.
        return not self._probes or now - self._probe_at >= max(self._settings.open_s, _MIN_PATIENCE_S)

    def claim(self, now: float) -> bool:
        """Return what `allows` returns, and take the probe's place where it is half open.

        Whoever got the place says so at the end, by `record(…, claimed=True)` or by `release`. A request
        let through while it was closed is no probe, even if it ends after the breaker opened.
        """
        if not self.allows(now):
            return False
        if self._opened_at is not None:
            self._probe_at = now
            self._probes += 1
        return True

    def release(self, now: float) -> None:
        """Give the probe's place back: the request never went out, or was cancelled."""
        if self._probes:
            self._probes -= 1

    def record(self, outcome: Outcome, now: float, *, claimed: bool = False) -> None:
        """Note how a request ended.

        Args:
            outcome: `refused` counts for a probe only; how many requests an entity takes is seen to elsewhere.
            now: When it ended.
            claimed: Whether it was the probe. Other requests that end while the breaker is not closed
                change nothing: they were sent before it opened.
        """
        probe = claimed and self._probes > 0
        if probe:
            self._probes -= 1
        if self._opened_at is None:
            if outcome != "refused":
                self._window.add(outcome == "failed", now, self._settings.most_calls)
                if outcome == "failed" and self._is_failing():
                    self._opened_at = now
        elif probe and outcome == "answered":
            self._opened_at = None
            self._window = _Window(self._settings.window_s)
        elif probe and now >= self._opened_at + self._settings.open_s:
            self._opened_at = now

    def calls(self, now: float) -> int:
        """Return how many answers and failures count at present."""
        self._window.slide(now)
        return self._window.calls

    def failure_share(self, now: float) -> float:
        """Return the share of failures among them, 0 without any."""
        self._window.slide(now)
        return self._window.failed / self._window.calls if self._window.calls else 0.0

    def _is_failing(self) -> bool:
        window, settings = self._window, self._settings
        return window.calls >= settings.min_calls and window.failed >= settings.failure_share * window.calls


class _Window:
    """The latest outcomes of the last seconds."""

    __slots__ = ("_latest", "_length_s", "failed")

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._latest: deque[tuple[float, bool]] = deque()
        self.failed = 0

    @property
    def calls(self) -> int:
        return len(self._latest)

    def add(self, failed: bool, now: float, most: int) -> None:
        self._latest.append((now, failed))
        self.failed += failed
        self.slide(now)
        while len(self._latest) > most:
            self._drop()

    def slide(self, now: float) -> None:
        """Forget what is older than the window."""
        while self._latest and self._latest[0][0] <= now - self._length_s:
            self._drop()

    def _drop(self) -> None:
        self.failed -= self._latest.popleft()[1]
