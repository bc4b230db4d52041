"""What a progress bar tells of a statement, as numbers and as words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_CENTS_BELOW = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a statement has done so far."""

    done: int = 0
    """Calls that have ended, failed ones included."""
    known: int = 0
    """Calls that are known of: DuckDB hands rows over a vector at a time, so there may be more to come."""
    failed: int = 0
    reused: int = 0
    """Calls that an earlier answer answered."""
    tokens: int = 0
    """Input and output together."""
    cost_usd: float | None = None
    """None where no price is known for any of them."""
    is_cost_partial: bool = False
    """Whether some calls have no known price, so that the cost is more than `cost_usd`."""
    seconds: float = 0.0
    """Since the first rows came."""

    @property
    def rows_per_second(self) -> float:
        """Rows that got their result, by the time that passed."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    def words(self) -> Sequence[str]:
        """Return what there is to say, the most important first.

        Example:
            >>> Figures(done=120, known=400, failed=1, tokens=9300, cost_usd=0.0042, seconds=2.0).words()
            ['120/400 calls', '60 rows/s', '1 error', '$0.0042', '9,300 tokens']
        """
        said = [f"{self.done:,}/{self.known:,} calls", f"{self.rows_per_second:,.0f} rows/s"]
        if self.failed:
            said.append(f"{self.failed:,} {'error' if self.failed == 1 else 'errors'}")
        if self.cost_usd is not None:
            said.append(money(self.cost_usd, is_partial=self.is_cost_partial))
        elif self.is_cost_partial:
            said.append("cost unknown")
        said.append(f"{self.tokens:,} tokens")
        if self.reused:
            said.append(f"{self.reused:,} reused")
        return said


def money(usd: float, *, is_partial: bool = False) -> str:
    """Return an amount with two digits that count, cents from a dollar on.

    Args:
        usd: US dollars.
        is_partial: Whether there is more to it that is not known.

    Example:
        >>> money(0.000123), money(12.345), money(0), money(0.5, is_partial=True)
        ('$0.00012', '$12.35', '$0', 'at least $0.50')
    """
    if usd == 0:
        text = "$0"
    elif abs(usd) >= _CENTS_BELOW:
        text = f"${usd:,.2f}"
    else:
        text = f"${usd:.8f}".rstrip("0") if usd < 1e-6 else f"${_two_digits(usd)}"
    return f"at least {text}" if is_partial else text


def _two_digits(usd: float) -> str:
    digits = max(2, 1 - int(f"{usd:e}".split("e")[1]))
    return f"{usd:.{digits}f}"
