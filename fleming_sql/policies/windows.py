"""How much was admitted in the last minute or hour, exactly: a log of admissions, not a counter that begins anew.

A fixed window lets twice its limit pass around its edge, and a smoothed one is wrong by what it smooths. The log
costs one entry per admitted call of the window.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MARGIN_S: Final = 0.1
"""How much longer than its period an admission counts. Requests do not take equally long to arrive, so without it
the provider would see a few more than the limit in some windows. It costs 0.17 % of a limit per minute."""
CATCH_UP_S: Final = 5.0
"""A pause between two vectors up to that long is made up for; after a longer one the pace begins anew."""


class Admitted:
    """One admission: how much of the limit it takes up."""

    __slots__ = ("amount", "at", "sent", "settled")

    def __init__(self, at: float, amount: int, *, settled: bool, sent: bool) -> None:
        self.sent = sent
        """Whether its request has gone out. Until then it goes on counting, since it will go out some time."""
        self.at = at
        self.amount = amount
        self.settled = settled
        """False while the amount is an estimate."""


class SlidingWindow:
    """What was admitted within the last `period_s` seconds.

    Args:
        period_s: Length of the window.

    Example:
        >>> window = SlidingWindow(60.0)
        >>> window.take(1, now=0.0, settled=True)
        >>> window.room_at(1, limit=1, now=30.0)
        60.1
    """

    def __init__(self, period_s: float) -> None:
        self._length_s = period_s + MARGIN_S
        self._log: deque[Admitted] = deque()
        self._used = 0
        self._unsettled = 0

    def used(self, now: float) -> int:
        """Return how much is taken up."""
        self._expire(now)
        return self._used

    @property
    def has_estimates(self) -> bool:
        """Whether some of it may still be given back."""
        return self._unsettled > 0

    def room_at(self, amount: int, limit: int, now: float) -> float:
        """Return when `amount` fits, if nothing is given back until then: `now` or later, infinity for never."""
        if amount > limit:
            return float("inf")
        self._expire(now)
        excess = self._used + amount - limit
        if excess <= 0:
            return now
        latest = now
        for admitted in self._log:
            excess -= admitted.amount
            latest = max(latest, (admitted.at if admitted.sent else now) + self._length_s)
            if excess <= 0:
                return latest
        return float("inf")  # not reached: the amounts of the log sum to what is used

    def take(self, amount: int, now: float, *, settled: bool, sent: bool = True) -> Admitted:
        """Take up `amount`, whether it fits or not.

        Args:
            amount: Calls or tokens.
            now: Seconds.
            settled: False for an estimate, which `settle` will correct.
            sent: False for a request that is yet to go out, which `send` will say.
        """
        admitted = Admitted(now, amount, settled=settled, sent=sent)
        self._log.append(admitted)
        self._used += amount
        self._unsettled += not settled
        return admitted

    def send(self, admitted: Admitted, now: float) -> None:
        """Say that a request goes out: it counts from now on, not from when it was admitted."""
        # It keeps its place in the log, so what was admitted after it counts at least as long.
        if not admitted.sent:
            admitted.sent, admitted.at = True, now

    def settle(self, admitted: Admitted, amount: int, now: float) -> None:
        """Correct an admission to what it came to; it still counts from when it was made."""
        self._unsettled -= not admitted.settled
        admitted.settled = True
        admitted.sent = True
        self._expire(now)
        if admitted.at + self._length_s > now:  # else it has left the log, and its amount with it
            self._used += amount - admitted.amount
            admitted.amount = amount

    def _expire(self, now: float) -> None:
        log, length_s = self._log, self._length_s
        while log and log[0].sent and log[0].at + length_s <= now:
            self._used -= log.popleft().amount


class Pace:
    """Spreads a batch over its limit: one admission after the other, as far apart as the limit asks for.

    Lateness is made up for, so that the pace is kept on average.

    Args:
        period_s: Of the limit.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._next = float("-inf")

    def next_at(self, now: float) -> float:
        """Return when the next admission is due: `now` or later."""
        return max(self._next, now)

    def took(self, amount: int, limit: int, now: float) -> None:
        """Count an admission."""
        start = now if now - self._next > CATCH_UP_S else self._next
        self._set(start + amount * self._period_s / limit, now)

    def rescale(self, old: int, new: int, now: float) -> None:
        """Go on at the pace of a limit that was changed."""
        if old != new and self._next > now:
            self._set(now + (self._next - now) * old / new, now)

    def gave_back(self, amount: int, limit: int, now: float) -> None:
        """Count less (or, negative, more) than was taken for an admission made before."""
        self._set(self._next - amount * self._period_s / limit, now)

    def _set(self, at: float, now: float) -> None:
        self._next = min(at, now + self._period_s)  # by then the window has room again, whatever was used
