"""How many requests one served entity gets at once.

A limit is a number of places. It starts with as many as the administrator allows, and then:

- *A refusal closes a place.* A round of refusals therefore takes just the share of the limit that was refused: all of
  it when a quota is used up, a quarter when a quarter had no place. Cutting in proportion is DCTCP's idea (RFC 8257);
  plain AIMD (Chiu and Jain 1989) halves at the first loss, and collapses when refusals come at random.
- *Answers open places*, one for every `patience` of them, while the limit is used to the full. Each refusal doubles
  the patience, a place opened without a refusal shortens it. With a patience of 1 the limit doubles per round, like
  TCP in slow start (Jacobson 1988); with the greatest one it only asks now and then whether there is more, like the
  probing of CUBIC (RFC 9438), and one request in fifty or fewer is refused for it.
- *Refusals that are not due to the load are put up with.* When they have brought the limit down to three quarters,
  it stays there for a comparison. If there are as many as before, fewer requests do not help: the limit grows again
  and ignores them, until their share changes.
- *Slow answers halve the limit*, once per round: a server may queue instead of refusing. Slow means that even the
  quick answers (the lower quartile) take five times as long as they used to, which heavy tails do not bring about.
  Quartiles are followed by small steps, without keeping latencies (Ma, Muthukrishnan, Sandler, "Frugal Streaming
  for Estimating Quantiles", 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["answered", "refused", "other"]
"""What became of a request: refused is HTTP 429 or 529, other is a failure that says nothing about the load."""

MAX_PATIENCE: Final = 50
"""Answers per opened place at a small limit: when the provider is full, one request in so many is refused."""
MAX_PATIENCE_ROUNDS: Final = 2
"""The same at a large limit, in rounds, so that a refusal has come back before the next place is opened."""
COLLAPSE: Final = 5.0
"""Latencies that have grown this many times are taken for a queue."""
QUICK_S: Final = 1.0
"""Answers within a second are no queue worth shortening, however quick they were before."""
_FEWER: Final = 0.75  # of the requests: a clear difference in refusals if they are due to the load, at a small price
_FEWEST: Final = 0.05  # share of refusals; fewer do not bring the limit down far
_MOST: Final = 0.4  # a provider that refuses more is in trouble, whatever the cause
_CHANGE: Final = 0.1  # in the share of refusals: six standard deviations at the windows used here
_SETTLING: Final = (
    64  # answers, and two rounds besides, before the usual latency is known: connections are opened first
)


class _LowerQuartile:
    """Follows the lower quartile of positive numbers: where one step down weighs as much as three up.

    Args:
        step: Of the estimate, upwards; larger at first.
    """

    __slots__ = ("_seen", "_step", "value")

    def __init__(self, step: float) -> None:
        self._step = step
        self._seen = 0
        self.value = 0.0

    def see(self, number: float) -> None:
        self._seen += 1
        step = max(self._step, 1.0 / (self._seen + 3))
        if self._seen == 1:
            self.value = number
        elif number > self.value:
            self.value *= 1.0 + step
        elif number < self.value:
            self.value /= 1.0 + 3.0 * step


@dataclass(slots=True)
class Ticket:
    """One request under way."""

    rank: int
    """Requests in flight when it was sent, itself included."""
    sent_at: float
    """In seconds."""


class _Blame:
    """Finds out whether refusals are due to the load: if so, there are clearly fewer at three quarters of it.

    Args:
        level: The limit at present.
    """

    def __init__(self, level: int) -> None:
        self.anyway = 0.0
        """Share of requests that is refused whatever the load; 0 as long as refusals seem to be due to the load."""
        self._recent = 0.0
        self.start(level)

    def start(self, level: int) -> None:
        """Compare what is below three quarters of `level` with what is above, from now on."""
        self.level = level
        self._below_since = float("inf")
        self._refused_above = self._above = self._refused_below = self._below = 0

    @property
    def compares(self) -> bool:
        """Whether the limit is to stay as it is, because a comparison is under way and refusals are not too many."""
        return self._below > 0 and self._refused_below <= 4 + _MOST * self._below

    def excuses(self, ticket: Ticket) -> bool:
        """Return whether a refusal of this request is to be put up with."""
        return self.anyway > 0 or (self.compares and ticket.sent_at >= self._below_since)

    def see(self, ticket: Ticket, refused: bool, limit: int, now: float) -> None:
        """Take note of one outcome."""
        self._recent += (refused - self._recent) / (2 * limit + 32)
        if self.anyway:
            if not self.anyway / 4 < self._recent < self.anyway + _CHANGE:
                self.anyway = 0.0  # something has changed: look again
                self.start(limit)
        elif ticket.sent_at >= self._below_since:
            self._below += 1
            self._refused_below += refused
            if self._below >= 64 + limit // 2:
                self._judge(limit)
        else:
            self._above += 1
            self._refused_above += refused
            self.level = max(self.level, limit)
            if limit < _FEWER * self.level - 1 and self._below_since > now:
                self._below_since = now

    def _judge(self, limit: int) -> None:
        below, above = self._refused_below / self._below, self._refused_above / self._above
        if_load = max(0.0, 1.0 - (1.0 - above) / _FEWER)  # the same number served out of fewer
        if _FEWEST <= below <= _MOST and below >= (above + if_load) / 2:
            self.anyway = self._recent = below
            self._below = 0
        else:
            self.start(limit)


class AdaptiveLimit:
    """How many requests one served entity gets at once: as many as it has been seen to take.

    Args:
        ceiling: The most that are allowed, at least 1; the limit starts there.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = self._limit = max(1, ceiling)
        self._in_flight = 0
        self._patience = 1
        self._answers = 0
        self._refused_since_opening = False
        self._blame = _Blame(self._limit)
        self._halved_at = self._opened_at = float("-inf")
        self._usual, self._recent = _LowerQuartile(0.005), _LowerQuartile(0.05)
        self._seen = 0
        self._refused_at = float("-inf")
        self._refused_lately = self._served_beside = False

    @property
    def limit(self) -> int:
        """Requests that may be in flight at once, from 1 to the ceiling."""
        return self._limit

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return self._in_flight

    @property
    def ceiling(self) -> int:
        """The most that are allowed; a limit that was at the ceiling goes along when it is raised."""
        return self._ceiling

    @ceiling.setter
    def ceiling(self, ceiling: int) -> None:
        untouched = self._limit == self._ceiling
        self._ceiling = max(1, ceiling)
        self._limit = self._ceiling if untouched else min(self._limit, self._ceiling)
        self._blame.start(self._limit)

    def sent(self, now: float) -> Ticket:
        """Count a request that is being sent."""
        self._in_flight += 1
        return Ticket(self._in_flight, now)

    def ended(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Count a request that has ended, and learn from it; once for each ticket."""
        # While it doubles, half of the limit in use is enough, as for TCP in Linux.
        used = self._in_flight >= self._limit or (self._patience == 1 and 2 * ticket.rank > self._limit)
        self._in_flight -= 1
        if outcome == "other" or ticket.sent_at < self._halved_at:
            return
        refused = outcome == "refused"
        blamed = not self._blame.anyway
        self._blame.see(ticket, refused, self._limit, now)
        if blamed and self._blame.anyway:
            self._patience = 1
        self._follow_outage(ticket, refused, now)
        if refused:
            if not self._blame.excuses(ticket):
                self._close_place(ticket)
        elif self._has_collapsed(ticket, now):
            self._halve(now)
        elif used and not self._blame.compares:
            self._count_answer(ticket, now)

    def _follow_outage(self, ticket: Ticket, refused: bool, now: float) -> None:
        """Begin anew after an outage: refusals beside which nothing was answered tell nothing of how many are taken."""
        if refused:
            self._refused_at, self._refused_lately = now, True
        elif ticket.sent_at <= self._refused_at:
            self._served_beside = True
        elif self._refused_lately:
            if not self._served_beside:
                self._patience = 1
                self._blame.start(self._limit)
            self._refused_lately = self._served_beside = False

    def _close_place(self, ticket: Ticket) -> None:
        limit = self._limit
        self._answers = 0
        self._refused_since_opening = True
        # Refused with nothing else in flight: then it is not about how many, and nothing was learned from refusals.
        greatest = max(MAX_PATIENCE, MAX_PATIENCE_ROUNDS * limit)
        self._patience = 1 if ticket.rank == 1 else min(2 * self._patience, greatest)
        self._limit = max(1, min(limit - 1, max(self._in_flight, limit // 2)))

    def _count_answer(self, ticket: Ticket, now: float) -> None:
        self._answers += 1
        if self._answers < self._patience or self._limit >= self._ceiling:
            return
        # The last place has been tried only when what was sent after it was opened has come back.
        if not self._refused_since_opening and ticket.sent_at >= self._opened_at:
            self._patience = max(1, self._patience // 4)
        self._limit += 1
        self._opened_at = now
        self._answers = 0
        if self._blame.anyway and self._limit > self._blame.level:
            self._patience = max(1, self._limit // 4)
        self._refused_since_opening = False

    def _has_collapsed(self, ticket: Ticket, now: float) -> bool:
        latency = now - ticket.sent_at
        self._usual.see(latency)
        self._recent.see(latency)
        self._seen += 1
        return (
            self._recent.value > max(QUICK_S, COLLAPSE * self._usual.value)
            and self._seen > _SETTLING + 2 * self._limit
            and 2 * ticket.rank > self._limit > 1
        )

    def _halve(self, now: float) -> None:
        self._limit = max(1, self._limit // 2)
        self._patience = 1
        self._answers = 0
        self._halved_at = now
        self._blame.start(self._limit)
        # Answers may have become longer for good: what was slow is usual now, and the limit grows back.
        self._usual.value = self._recent.value
