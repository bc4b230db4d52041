"""What is told of money: spending so far, budgets that are used up, alerts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fleming_sql.types.config import Budget


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls have cost in the current window of a budget."""

    budget: Budget
    subject: str | None
    """Whose spending it is: the user, group or value of a context key; None for everybody's."""
    spent_usd: float


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A budget whose amount has been spent."""

    budget: Budget
    subject: str | None
    """Whose spending it is: the user, group or value of a context key; None for everybody's."""
    window_start: datetime
    """Beginning of the budget's window, UTC."""
    spent_usd: float
    """Spent in the window so far."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One row of `serving.alerts`: an alert that was raised. Times are UTC."""

    alert_id: str
    alert_time: datetime
    kind: Literal["budget", "query"]
    name: str
    """Of the budget or of the row of `fleming.alerts`."""
    subject: str | None
    """Whose spending it was; None for everybody's and for queries."""
    window_start: datetime | None
    """Beginning of the budget's window; None for queries."""
    value: float | None
    """US dollars spent, or what the query returned."""
    threshold: float | None
    """What it was compared with."""
    message: str
    """The same in a sentence."""
