"""The job of the crash benchmark: a process that asks for many rows and is made to be killed.

It says on standard output what it is about to do and when, and appends each piece of the result to a file as soon as
it has it: that is what the user saw.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import fleming_sql
from benchmarks.crash_ledger import ROOT, prompt_sql

Phase = Literal["opening", "opened", "asking", "answered", "closing", "closed"]
ENDED_S: Final = 300.0
_AHEAD: Final = 1_000_000
"""Rows of a piece that is the whole result."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the statement."""

    folder: str
    url: str
    label: str
    rows: int
    seen: str
    """File that takes what the user saw."""
    is_table: bool = False
    """Whether the statement makes a table, which is read once it is there; else the result is fetched in pieces."""
    piece: int = 512
    max_concurrency: int = 256
    durability: str = "process"

    @property
    def database(self) -> Path:
        """The user's database; the store stands beside it."""
        return Path(self.folder) / "warehouse.duckdb"

    @property
    def store(self) -> Path:
        """The gateway's store."""
        return Path(self.folder) / "warehouse.fleming.duckdb"


def say(phase: Phase) -> None:
    """Tell the harness what comes now."""
    print(phase, time.monotonic(), flush=True)


def perform(job: Job) -> None:
    """Open the database, ask, write down what comes, close."""
    say("opening")
    con = fleming_sql.connect(job.database, user="ada")
    say("opened")
    _configure(con, job)
    say("asking")
    with open(job.seen, "ab", buffering=0) as seen:
        seen.writelines(b"".join(json.dumps(row).encode() + b"\n" for row in piece) for piece in _pieces(con, job))
    say("answered")
    say("closing")
    con.close()
    say("closed")


def _configure(con: fleming_sql.Connection, job: Job) -> None:
    """Bring about what the statement needs; it may be there already, in whole or in part."""
    con.execute(
        "insert into fleming.endpoints (name, max_concurrency) "
        "select 'chat', ? where not exists (select 1 from fleming.endpoints)",
        [job.max_concurrency],
    )
    con.execute(
        "insert into fleming.served_entities (endpoint, name, provider, model, base_url) "
        "select 'chat', 'ledger', 'openai', 'mock-1', ? where not exists (select 1 from fleming.served_entities)",
        [f"{job.url}/v1"],
    )
    if job.durability != "process":
        con.execute("insert or replace into fleming.settings values ('durability', ?)", [job.durability])
    con.execute(
        f"create table if not exists prompts_{job.label} as "
        f"select number, {prompt_sql(job.label)} as prompt from range(?::bigint) as r (number)",
        [job.rows],
    )


def _pieces(con: fleming_sql.Connection, job: Job) -> Iterator[list[Any]]:
    asking = (
        f"select prompt[2:strpos(prompt, '>') - 1] as key, ai_query('chat', prompt) as answer from prompts_{job.label}"
    )
    if job.is_table:
        con.execute(f"create or replace table answers_{job.label} as {asking}")
        asking = f"select key, answer from answers_{job.label}"
    result = con.execute(asking)
    while piece := result.fetchmany(_AHEAD if job.is_table else job.piece):
        yield piece


class JobProcess:
    """The job in a process of its own.

    Args:
        job: What it does.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.at: dict[Phase, float] = {}
        """When each phase began, in seconds of `time.monotonic`."""
        self._phases: queue.Queue[Phase | None] = queue.Queue()
        self._errors = open(Path(job.folder) / "errors.txt", "w+")  # noqa: SIM115  closed with the process
        command = [sys.executable, "-m", "benchmarks.crash_job", json.dumps(asdict(job))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=ROOT)
        self.started_at = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def reaches(self, phase: Phase) -> bool:
        """Wait until a phase begins; return whether it did before the process ended."""
        while phase not in self.at:
            if self._phases.get(timeout=ENDED_S) is None:
                self._phases.put(None)
                return phase in self.at
        return True

    def kill(self) -> float | None:
        """Send SIGKILL; return when, None if the process had ended."""
        at = time.monotonic()
        if self._process.poll() is not None:
            return None
        self._process.kill()
        self._process.wait()
        return at if self._process.returncode < 0 else None

    def end(self) -> str | None:
        """Wait for the end of the process; return what it complained of if it failed, None if it was killed or fine."""
        self._process.wait(ENDED_S)
        self._errors.seek(0)
        with self._errors as errors:
            complaint = errors.read().strip()
        if self._process.returncode in (0, -9):
            return None
        return complaint or f"exit status {self._process.returncode}"

    def seen(self) -> list[tuple[str, str]]:
        """Return the rows that the user saw; a line that the kill cut off is none."""
        path = Path(self.job.seen)
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [(key, answer) for key, answer in map(json.loads, lines)]

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):
                    phase, at = line.split()
                    self.at[cast("Phase", phase)] = float(at)
                    self._phases.put(cast("Phase", phase))
        self._phases.put(None)


if __name__ == "__main__":
    perform(Job(**json.loads(sys.argv[1])))
