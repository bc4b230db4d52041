"""What the rounds of the crash benchmark came to, and its table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.crash_checks import Findings, Store
from benchmarks.crash_job import JobProcess
from benchmarks.table import Row


@dataclass(slots=True)
class Figures:
    """What the rounds came to."""

    began: float = field(default_factory=time.monotonic)
    rounds: int = 0
    requests: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    too_late: int = 0
    """Runs that had ended before they were to be killed."""
    findings: list[Findings] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    stores: dict[Path, Store] = field(default_factory=dict)
    """Each store, as last read."""
    open_s: list[float] = field(default_factory=list)
    open_after_kill_s: list[float] = field(default_factory=list)

    def opened(self, process: JobProcess, *, after_kill: bool) -> None:
        """Take down how long a process took to open its store, if it came that far."""
        if "opened" in process.at:
            took = process.at["opened"] - process.at["opening"]
            (self.open_after_kill_s if after_kill else self.open_s).append(took)


def tabulate(figures: Figures, rows: int, seed: int) -> list[Row]:
    """Return the table of the figures."""
    found = figures.findings
    kills = ", ".join(f"{count} {moment}" for moment, count in sorted(figures.kills.items()))
    asked = figures.rounds * rows
    repeated = sum(f.repeated for f in found)
    shown_unlogged = sum(f.seen_not_logged for f in found)
    again = sum(f.asked_though_logged for f in found)
    lost = max((f.lost_at_once for f in found), default=0)
    age_s = max((f.lost_age_s for f in found), default=0.0)
    stores = figures.stores.values()
    title = f"{figures.rounds} rounds of {rows:,} rows"
    return [
        Row(
            f"{title}, seed {seed}: kills", f"{sum(figures.kills.values())} ({kills}), {figures.too_late} came too late"
        ),
        Row("the same: violations", f"{len(figures.violations)}", "0", not figures.violations),
        Row(
            "the same: rows that the user saw and that are not in the log",
            f"{shown_unlogged:,}",
            "0",
            not shown_unlogged,
        ),
        Row("the same: requests of answers that were in the log already", f"{again:,}", "0", not again),
        Row("the same: requests; rows", f"{figures.requests:,}; {asked:,}"),
        Row("the same: rows that were paid twice", f"{repeated:,}, {repeated / max(1, asked):.2%}"),
        Row(
            "the same: answered, not logged when killed",
            f"{sum(f.answered_not_logged for f in found):,}, at most {lost:,} by one kill, "
            f"{age_s * 1000:.0f} ms before it",
        ),
        Row(
            "the same: journals read again; their records",
            f"{sum(s.journals for s in stores):,}; {sum(s.records for s in stores):,}, of which "
            f"{sum(s.replayed for s in stores):,} were not in the table yet, and {sum(s.torn for s in stores):,} torn",
        ),
        Row("the same: store opened after a kill, p50; longest", _times(figures.open_after_kill_s)),
        Row("the same: store opened after an orderly end, p50; longest", _times(figures.open_s)),
    ]


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never"
    return f"{median(seconds) * 1000:,.0f} ms; {max(seconds) * 1000:,.0f} ms of {len(seconds):,}"
