"""What a crash costs: a job of many rows is killed at random moments and run again until it ends.

`python -m benchmarks.crash --seed 7 --rounds 3` takes other figures than `python -m benchmarks crash`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from benchmarks.crash_checks import Findings, Round, Run, compare, read_store
from benchmarks.crash_figures import Figures, tabulate
from benchmarks.crash_job import Job, JobProcess
from benchmarks.crash_ledger import LedgerModel, ledger_model
from benchmarks.table import Row, markdown
from fleming_sql.errors import StoreError

ROWS: Final = 20_000
ROUNDS: Final = 50
ROUNDS_PER_STORE: Final = 10
"""A store is new for one of so many rounds, and holds what they left for the others."""
TABLE_EVERY: Final = 4
"""One of so many rounds makes a table of its rows; the others fetch them piece by piece."""
SEED: Final = 20261121
ROWS_PER_S: Final = 4000
"""A first guess, for the moments of the first kills."""

TELLING: Final = 1000
"""From so many requests on the pace of a run is told."""

Moment = Literal["starting", "opening", "asking", "closing"]


@dataclass(frozen=True, slots=True)
class Kill:
    """When a process is killed: so far into a phase, as a share of what the phase usually takes."""

    moment: Moment
    share: float


class CrashesLost(SystemExit):
    """Something was lost, or told wrongly; the benchmark ends with status 1."""


@dataclass(slots=True)
class Pace:
    """How long the phases of a run take that is not killed, in seconds, by the latest ones."""

    starting: float = 0.5
    opening: float = 0.3
    asking: float = ROWS / ROWS_PER_S
    closing: float = 0.2

    def learn(self, process: JobProcess, rows: int, run: Run) -> None:
        """Take over what the phases of a run took, as far as it came.

        Args:
            process: The run.
            rows: Of its statement.
            run: What it asked.
        """
        at = process.at
        if "opening" in at:
            self.starting = at["opening"] - process.started_at
        if "opened" in at:
            self.opening = at["opened"] - at["opening"]
        until = at.get("answered", run.killed_at)
        if until is not None and len(run.entries) >= TELLING:
            self.asking = (until - at["asking"]) / len(run.entries) * rows
        if "closed" in at:
            self.closing = at["closed"] - at["closing"]

    def of(self, moment: Moment) -> float:
        """Return what a phase takes."""
        return float(getattr(self, moment))


class Harness:
    """Runs rounds, one after the other.

    Args:
        model: The server with the ledger.
        folder: For databases and stores.
        rows: Of each round's statement.
        seed: Of the moments that `run` kills at.
    """

    def __init__(self, model: LedgerModel, folder: Path, rows: int, seed: int = SEED) -> None:
        self._model = model
        self._folder = folder
        self._rows = rows
        self._seed = seed
        self._pace = Pace(asking=rows / ROWS_PER_S)
        self.figures = Figures()

    def run(self, number: int) -> None:
        """Run the round of this number: its kills are as chance has them, by the seed and the number."""
        source = random.Random(f"{self._seed}-{number}")  # noqa: S311  moments, not secrets
        kills = list(_kills(source, is_new=number % ROUNDS_PER_STORE == 0))
        is_table = number % TABLE_EVERY == TABLE_EVERY - 1
        self.round(f"r{number}", kills, store=f"store-{number // ROUNDS_PER_STORE}", is_table=is_table)

    def round(
        self,
        label: str,
        kills: Sequence[Kill],
        *,
        store: str = "store",
        is_table: bool = False,
        durability: str = "process",
        lost_within_s: float | None = None,
    ) -> Findings:
        """Run the job as often as it is to be killed and once to its end, and compare.

        Args:
            label: Of the prompts, which no other round of the store has.
            kills: One for each run but the last.
            store: Folder of the database and its store.
            is_table: Whether the statement makes a table.
            durability: The setting.
            lost_within_s: As `compare` takes it.

        Returns:
            What was found; its violations are among the figures too.
        """
        folder = self._folder / store
        folder.mkdir(exist_ok=True)
        runs: list[Run] = []
        for kill in (*kills, None):
            seen = folder / f"seen-{label}-{len(runs)}.ndjson"
            job = Job(str(folder), self._model.url, label, self._rows, str(seen), is_table, durability=durability)
            process = JobProcess(job)
            killed_at = self._kill(process, kill, runs) if kill else None
            complaint = process.end()
            self.figures.opened(process, after_kill=len(runs) > 0)
            run = Run(process.seen(), self._model.entries(), killed_at)
            runs.append(run)
            if complaint:
                return self._finish(label, kills, Findings([f"a run failed: {complaint}"]))
            self._pace.learn(process, self._rows, run)
            if killed_at is None:
                self.figures.too_late += kill is not None
                break
        return self._finish(label, kills, self._compare(job, runs, lost_within_s))

    def _kill(self, process: JobProcess, kill: Kill, before: Sequence[Run]) -> float | None:
        """Kill a process at its moment; return when, None if it had ended before."""
        if kill.moment != "starting" and not process.reaches(kill.moment):
            return None
        wait_s = self._pace.of(kill.moment) * kill.share
        if kill.moment == "asking":
            wait_s *= self._left(before)
        time.sleep(wait_s)
        at = process.kill()
        if at is not None:
            self.figures.kills[kill.moment] = self.figures.kills.get(kill.moment, 0) + 1
        return at

    def _left(self, before: Sequence[Run]) -> float:
        """Return the share of the rows that the runs before did not ask for."""
        asked = len({entry.key for run in before for entry in run.entries})
        return max(0.05, 1 - asked / self._rows)

    def _compare(self, job: Job, runs: Sequence[Run], lost_within_s: float | None) -> Findings:
        try:
            store = read_store(job.database, job.label)
        except StoreError as error:
            return Findings([f"the store does not open: {error}"])
        outcome = Round(job.label, job.rows, runs, store, job.max_concurrency)
        self.figures.requests += len(outcome.entries)
        self.figures.stores[job.store] = store
        self.figures.open_s.append(store.open_s)
        return compare(outcome, lost_within_s)

    def _finish(self, label: str, kills: Sequence[Kill], findings: Findings) -> Findings:
        self.figures.rounds += 1
        self.figures.findings.append(findings)
        moments = ", ".join(f"{kill.moment} {kill.share:.3f}" for kill in kills)
        self.figures.violations += [
            f"round {label}, seed {self._seed}, kills at {moments or 'no moment'}: {violation}"
            for violation in findings.violations
        ]
        return findings


def _kills(source: random.Random, *, is_new: bool) -> Iterator[Kill]:
    """Draw the kills of a round: mostly one, while it asks; a run that follows on a kill is often killed early."""
    [count] = source.choices((1, 2, 3), (5, 3, 2))
    for number in range(count):
        early = is_new or number > 0
        moments: tuple[Moment, ...] = ("starting", "opening", "asking", "closing")
        [moment] = source.choices(moments, (5, 35, 45, 15) if early else (5, 5, 75, 15))
        # The last rows, and the end of the process, come a little later than usual half of the time.
        yield Kill(moment, source.uniform(0.0, 1.1))


def run_rounds(rounds: int, rows: int, seed: int, first: int = 0) -> Figures:
    """Run rounds with stores in a temporary folder.

    Args:
        rounds: How many.
        rows: Of each one's statement.
        seed: Of the moments and the latencies.
        first: Number of the first one.
    """
    with TemporaryDirectory() as folder, ledger_model(seed) as model:
        harness = Harness(model, Path(folder), rows, seed)
        for number in range(first, first + rounds):
            known = len(harness.figures.violations)
            harness.run(number)
            for violation in harness.figures.violations[known:]:
                print(violation, file=sys.stderr, flush=True)
        return harness.figures


def measure() -> list[Row]:
    """Run all rounds.

    Raises:
        CrashesLost: Something does not hold; the table is printed before.
    """
    return _checked(run_rounds(ROUNDS, ROWS, SEED), ROWS, SEED)


def _checked(figures: Figures, rows: int, seed: int) -> list[Row]:
    table = tabulate(figures, rows, seed)
    if figures.violations:
        print(markdown(table), flush=True)
        raise CrashesLost(f"{len(figures.violations)} violations, printed above; seed {seed}")
    return table


def main() -> None:
    """Run some rounds and print their figures; the status is 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--first", type=int, default=0, metavar="ROUND", help="number of the first round")
    options = parser.parse_args()
    figures = run_rounds(options.rounds, options.rows, options.seed, options.first)
    print(markdown(_checked(figures, options.rows, options.seed)), end="")


if __name__ == "__main__":
    main()
