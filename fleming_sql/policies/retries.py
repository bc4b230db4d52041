"""When to try again.

Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

BASE_S: Final = 0.5
CAP_S: Final = 20.0
RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


def backoff(attempts_made: int, chance: float) -> float:
    """Return the seconds to wait before the next attempt.

    Args:
        attempts_made: Attempts so far, at least 1.
        chance: A number in [0, 1), the jitter.

    Example:
        >>> backoff(3, 0.5)
        1.0
    """
    return chance * min(CAP_S, BASE_S * 2.0 ** (attempts_made - 1))


def read_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds or HTTP date) ask for, None without.

    Example:
        >>> read_retry_after({"retry-after": "1.5"}, datetime.now(UTC))
        1.5
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < float("inf") else None
