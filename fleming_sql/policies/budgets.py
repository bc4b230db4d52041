"""Which budgets a call counts for, and from when to when a budget's window goes.

Windows are those of the calendar in the budget's time zone, so a day on which clocks change has 23 or 25 hours. They
tile time: each begins where the one before it ends. `serving.spend` works out the same windows in SQL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fleming_sql.policies.access import Identity
from fleming_sql.types import Budget

Window: TypeAlias = Literal["day", "week", "month"]
CounterKey: TypeAlias = tuple[str, str | None, str | None, str, str | None, str]
"""Scope, principal, endpoint, window, context key and time zone: what tells apart what budgets count."""

FIRST_SEEN: Final = 20
"""So many answers are looked at before they are taken for typical."""
_SEEN_KEPT: Final = 100


class Span(NamedTuple):
    """One window: from `start` up to, not including, `end`; both UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Met:
    """A budget that a call counts for."""

    budget: Budget
    subject: str | None
    """Whose spending it is: the user, group or value of a context key; None for everybody's."""


def window_of(window: Window, time_zone: str, at: datetime) -> Span:
    """Return the window that a moment is in.

    Args:
        window: `day`, `week` (from Monday) or `month`.
        time_zone: IANA name; a name that the system does not know counts as UTC.
        at: The moment, with its time zone.

    Example:
        >>> window_of("day", "Europe/Berlin", datetime(2026, 3, 29, 12, tzinfo=UTC))
        Span(start=datetime(2026, 3, 28, 23, 0, tzinfo=UTC), end=datetime(2026, 3, 29, 22, 0, tzinfo=UTC))
    """
    zone = _zone(time_zone)
    first = _first_day(window, at.astimezone(zone).date())
    # Where clocks go back over midnight, a moment may be read as the day before though that has ended.
    while at < _begin(first, zone):
        first = _first_day(window, first - timedelta(days=1))
    while at >= _begin(following := _next_day(window, first), zone):
        first = following
    return Span(_begin(first, zone), _begin(following, zone))


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        # config_problems knows DuckDB's list of zones; a system with an older one must not let spending through.
        return UTC


def _begin(day: date, zone: tzinfo) -> datetime:
    """Return when a day begins: at the first of two midnights, and where there is none, when clocks go over it."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _first_day(window: Window, day: date) -> date:
    if window == "day":
        return day
    return day - timedelta(days=day.weekday()) if window == "week" else day.replace(day=1)


def _next_day(window: Window, first: date) -> date:
    if window == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=1 if window == "day" else 7)


def key_of(budget: Budget) -> CounterKey:
    """Return what tells apart what budgets count; a new name, amount or action goes on with what was spent."""
    return budget.scope, budget.principal, budget.endpoint, budget.window, budget.context_key, budget.time_zone


def met(
    budgets: Sequence[Budget], identity: Identity, endpoint: str, usage_context: Mapping[str, str]
) -> tuple[Met, ...]:
    """Return the budgets that a call counts for, in their order.

    Args:
        budgets: All there are.
        identity: Who asks.
        endpoint: Which endpoint is asked.
        usage_context: The labels of the call.
    """
    found = []
    for budget in budgets:
        if budget.endpoint is not None and budget.endpoint != endpoint:
            continue
        if budget.scope in ("global", "endpoint"):
            found.append(Met(budget, None))
        elif budget.scope == "group":
            if budget.principal in identity.groups:
                found.append(Met(budget, budget.principal))
        else:
            subject = identity.name if budget.scope == "user" else usage_context.get(budget.context_key or "")
            if subject is not None and budget.principal in (None, subject):
                found.append(Met(budget, subject))
    return tuple(found)


class Foresight:
    """How much the next answer may come to, by those before it: tokens or seconds.

    Twice the most of the last hundred, and `usual` as long as fewer than twenty were seen. `at_most` begins at
    `most` and comes down to that by half with each answer, so that the first calls of a process cannot be many at a
    time where a budget is small: nothing is known of their answers yet.

    Args:
        usual: What an answer may come to of which nothing is known.
        most: What hardly any answer exceeds.

    Example:
        >>> tokens = Foresight(usual=4096, most=131_072)
        >>> tokens.expected, tokens.at_most
        (4096, 131072)
    """

    def __init__(self, usual: float, most: float) -> None:
        self._usual = usual
        self._most = most
        self._seen: deque[float] = deque(maxlen=_SEEN_KEPT)

    @property
    def expected(self) -> float:
        """What to count for an answer that never came, but may have been billed."""
        twice = 2 * max(self._seen, default=0.0)
        return twice if len(self._seen) >= FIRST_SEEN else max(self._usual, twice)

    @property
    def at_most(self) -> float:
        """What to reserve for a call."""
        seen = len(self._seen)
        return self.expected if seen >= FIRST_SEEN else max(self.expected, self._most / 2**seen)

    def add(self, amount: float) -> None:
        """Count an answer."""
        self._seen.append(amount)
