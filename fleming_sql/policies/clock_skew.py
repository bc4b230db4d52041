"""Whether a signature or a token was refused because this machine's clock is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

_STATUSES: Final = frozenset({400, 401, 403})
"""How servers answer to a signature or a token that is of another time."""
_MAX_SKEW_S: Final = 240.0
"""AWS takes signatures that are up to five minutes off; Google's and Microsoft's tokens are as strict."""


def told_skew(status: int, headers: Mapping[str, str], now: datetime) -> str:
    """Return what to add to an error's message where the clocks differ too much; empty where they do not.

    Args:
        status: HTTP status of the answer.
        headers: Of the answer, names in lower case.
        now: The time on this machine, with its time zone.

    Example:
        >>> told_skew(403, {"date": "Sat, 21 Nov 2026 12:20:00 GMT"}, datetime(2026, 11, 21, 12, 0, tzinfo=UTC))[:47]
        "; this machine's clock is 20 minutes behind the"
    """
    if status not in _STATUSES:
        return ""
    try:
        off_s = (now - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):  # none, none that can be read, or one without a time zone
        return ""
    if abs(off_s) < _MAX_SKEW_S:
        return ""
    where = "ahead of" if off_s > 0 else "behind"
    return (
        f"; this machine's clock is {abs(off_s) / 60:.0f} minutes {where} the server's, and signatures and tokens "
        "hold for a few minutes only: set the clock"
    )
