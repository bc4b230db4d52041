"""Whether several processes that export into the same Delta tables, some of them killed, lose or double a record."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import duckdb
from deltalake import DeltaTable

from benchmarks.table import Row

ROOT: Final = Path(__file__).resolve().parent.parent
PROCESSES: Final = 4
SECONDS: Final = 60.0
KILLED: Final = 2
KILLS_EACH: Final = 3
END_S: Final = 90.0
"""How long a process may take to close."""
_LOGGED: Final = {
    "inference": "SELECT databricks_request_id FROM serving.calls",
    "attempts": "SELECT unnest(attempts).attempt_id FROM serving.calls",
    "endpoint_usage": "SELECT databricks_request_id FROM serving.calls WHERE usage_tracking",
    "served_entities": "SELECT served_entity_id FROM serving.served_entities",
}
_KEYS: Final = {
    "inference": "databricks_request_id",
    "attempts": "attempt_id",
    "endpoint_usage": "databricks_request_id",
    "served_entities": "served_entity_id",
}


@dataclass(slots=True)
class Outcome:
    """What a run left behind."""

    kills: int = 0
    seconds: float = 0.0
    """Until the last process had exported all of its log and closed."""
    rows: int = 0
    """In all tables together."""
    missing: Counter[str] = field(default_factory=Counter)
    """Rows of the stores that no Delta table has, by table."""
    doubled: Counter[str] = field(default_factory=Counter)
    strange: Counter[str] = field(default_factory=Counter)
    """Rows of the Delta tables that no store has."""
    commits: int = 0
    moved: int = 0
    """Commits that were put behind one of another process."""
    conflicts: int = 0
    """Commits that conflicted with one of another process and were made anew."""


@dataclass(slots=True)
class _Process:
    """A store, and the process that has it open at the moment."""

    store: Path
    lake: Path
    conflicts: int = 0
    running: subprocess.Popen[str] | None = None
    asking: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self.asking.clear()
        command = [sys.executable, "-m", "benchmarks.delta_job", str(self.store), str(self.lake)]
        self.running = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, args=(self.running,), daemon=True).start()

    def wait_until_asking(self) -> None:
        assert self.asking.wait(END_S), f"the process of {self.store} makes no calls"
        assert self.running
        assert self.running.poll() is None, f"the process of {self.store} has ended"

    def kill(self) -> None:
        if self.running:
            self.running.kill()
            self.running.wait()
            self.tell_to_end()

    def tell_to_end(self) -> None:
        assert self.running
        assert self.running.stdin
        self.running.stdin.close()

    def end(self) -> None:
        assert self.running
        code = self.running.wait(END_S)
        assert code == 0, f"the process of {self.store} ended with {code}"

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        before = self.conflicts
        for line in process.stdout:
            self.asking.set()
            self.conflicts = before + int(line)
        process.stdout.close()
        self.asking.set()


def run(folder: Path, seconds: float = SECONDS, kills_each: int = KILLS_EACH, seed: int | None = None) -> Outcome:
    """Run the processes, kill two of them again and again and start them anew, and compare what is where at the end.

    Args:
        folder: An empty one, for the stores and the tables.
        seconds: How long calls are made.
        kills_each: How often each of the two is killed.
        seed: Of the moments.
    """
    chance = random.Random(seed)  # noqa: S311  moments, not secrets
    processes = [_Process(folder / f"{number}.duckdb", folder / "lake") for number in range(PROCESSES)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_until_asking()
        begun = time.time()
        moments = sorted(
            (begun + seconds * chance.uniform(0, 1), process) for process in range(KILLED) for _ in range(kills_each)
        )
        for moment, number in moments:
            time.sleep(max(0.0, moment - time.time()))
            processes[number].kill()
            processes[number].start()
        time.sleep(max(0.0, begun + seconds - time.time()))
        for process in processes:
            process.tell_to_end()
        for process in processes:
            process.end()
    finally:
        for process in processes:
            process.kill()
    outcome = Outcome(kills=len(moments), seconds=time.time() - begun)
    outcome.conflicts = sum(process.conflicts for process in processes)
    _compare(outcome, [process.store for process in processes], folder / "lake")
    return outcome


def _compare(outcome: Outcome, stores: Sequence[Path], lake: Path) -> None:
    logged = {table: Counter[str]() for table in _LOGGED}
    for store in stores:
        with duckdb.connect(str(store), read_only=True) as con:
            for table, query in _LOGGED.items():
                logged[table].update(key for (key,) in con.execute(query).fetchall())
    for table, key in _KEYS.items():
        delta = DeltaTable(lake / table)
        there = Counter(delta.to_pyarrow_table(columns=[key]).column(0).to_pylist())
        outcome.rows += there.total()
        outcome.missing[table] = len(logged[table].keys() - there.keys())
        outcome.strange[table] = len(there.keys() - logged[table].keys())
        outcome.doubled[table] = there.total() - len(there)
        history = delta.history()
        outcome.commits += len(history)
        outcome.moved += sum(int(commit.get("operationMetrics", {}).get("num_retries", 0)) > 0 for commit in history)


def measure() -> list[Row]:
    """Measure a minute."""
    with TemporaryDirectory() as folder:
        outcome = run(Path(folder))
    wrong = outcome.missing.total() + outcome.doubled.total() + outcome.strange.total()
    return [
        Row(
            f"Delta export: {PROCESSES} processes into the same tables for {SECONDS:.0f} s, {outcome.kills} kills",
            f"{outcome.missing.total()} rows missing, {outcome.doubled.total()} doubled, "
            f"{outcome.strange.total()} of no store",
            "none of any",
            wrong == 0,
        ),
        Row("the same: rows exported", f"{outcome.rows:,}, {outcome.rows / outcome.seconds:,.0f} a second"),
        Row(
            "the same: commits",
            f"{outcome.commits:,}; {outcome.moved:,} put behind another, {outcome.conflicts:,} made anew",
        ),
    ]
