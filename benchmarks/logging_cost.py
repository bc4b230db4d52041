"""What the log costs: three gateways in turns, of which one journals, one does not and one has no log at all."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import fleming_sql
from benchmarks.setup import Mock, Spent, add_endpoint, measured, value
from benchmarks.table import Row
from fleming_sql.connection import session
from fleming_sql.store.telemetry import CallLog
from fleming_sql.testing import MockModel, Received, Reply, chat_reply
from fleming_sql.types import CallRecord

ROWS: Final = 16_384
"""Eight vectors a run."""
RUNS: Final = 7
"""Of each gateway, after one to warm up."""
BODY: Final = 1400
"""Characters of a prompt and of an answer; the bodies that carry them have some 100 and 300 more."""
ANSWERS: Final = 4096
"""Different ones; more than the rows that are compressed together."""
CONCURRENCY: Final = 256
ROOT: Final = Path(__file__).resolve().parent.parent
ASK: Final = "select count(v) from (select ai_query('chat', prompt, cache => false) as v from prompts)"
"""Without the cache: looking answers up is not the log's work."""
VARIANTS: Final = ("no log", "off", "process")


class NoLog(CallLog):
    """Drops every record: what the gateway costs without a log. Only this benchmark puts it in place of the log."""

    def add(self, record: CallRecord) -> None:
        """Drop the record."""


class TimedLog(CallLog):
    """Adds up the CPU of the threads that log, in nanoseconds; threads that DuckDB starts itself are not in it."""

    added_ns = 0
    written_ns = 0

    def add(self, record: CallRecord) -> None:
        """Time the call; all come from the event loop's thread."""
        began = time.thread_time_ns()
        super().add(record)
        self.added_ns += time.thread_time_ns() - began

    def flush(self) -> None:
        """Time the call."""
        began = time.thread_time_ns()
        super().flush()
        self.written_ns += time.thread_time_ns() - began


def measure() -> list[Row]:
    """Run the gateways in turns, each time in another order, then one whose log is timed from within."""
    spent: dict[str, list[Spent]] = {variant: [] for variant in VARIANTS}
    with TemporaryDirectory() as folder, _talkative_mock() as server, ExitStack() as stack:
        cons = {variant: stack.enter_context(_gateway(Path(folder), variant, server)) for variant in VARIANTS}
        for number in range(RUNS + 1):
            prompts = _texts(f"run {number}", ROWS)
            for turn in range(len(VARIANTS)):
                variant = VARIANTS[(number + turn) % len(VARIANTS)]
                spent[variant].append(_run(cons[variant], prompts))
        stack.close()
        size = _size(Path(folder) / "process.duckdb")
    timed = _from_within()
    runs = {variant: runs[1:] for variant, runs in spent.items()}
    return [*_overhead(runs), timed, *size]


def _overhead(runs: dict[str, list[Spent]]) -> list[Row]:
    title = f"{ROWS:,} rows of 1.5 kB each way, median of {RUNS}"
    rows = [
        Row(
            f"{title}: {'no log at all' if variant == 'no log' else f'durability {variant}'}",
            f"{ROWS / median(s.wall for s in of):,.0f} rows/s, {_us(of):.0f} us CPU per row",
        )
        for variant, of in runs.items()
    ]
    for variant in VARIANTS[1:]:
        pairs = list(zip(runs[variant], runs["no log"], strict=True))
        slower = median(ours.wall / bare.wall - 1 for ours, bare in pairs)
        more = median((ours.cpu - bare.cpu) / ROWS * 1e6 for ours, bare in pairs)
        share = 1 - 1 / (1 + slower)
        rows += [
            Row(f"the log with durability {variant}: rows/s", f"{-share:+.1%}", "less than 5 % fewer", share < 0.05),
            Row(f"the log with durability {variant}: CPU per row", f"{more:+.1f} us", "< 20 us", more < 20),
        ]
    return rows


def _us(of: list[Spent]) -> float:
    return median(spent.cpu for spent in of) / ROWS * 1e6


def _from_within() -> Row:
    with TemporaryDirectory() as folder, _talkative_mock() as server, _gateway(Path(folder), "timed", server) as con:
        log = con._session._log
        assert isinstance(log, TimedLog)
        _run(con, _texts("warm", ROWS))
        log.added_ns = log.written_ns = 0
        for number in range(RUNS):
            _run(con, _texts(f"timed {number}", ROWS))
        added, written = (ns / RUNS / ROWS / 1000 for ns in (log.added_ns, log.written_ns))
    what = "CPU of the log's own functions per row, durability process"
    return Row(what, f"{added + written:.1f} us: {added:.1f} to take a record, {written:.1f} to write the table")


def _run(con: fleming_sql.Connection, prompts: list[str]) -> Spent:
    """Ask for all prompts; the time ends when the table has the calls, or has none to wait for."""
    con.execute("create or replace table prompts as select unnest(?::varchar[]) as prompt", [prompts])
    with measured() as spent:
        assert value(con, ASK) == len(prompts)
        con._session._log.flush()
    return spent


@contextmanager
def _gateway(folder: Path, variant: str, server: Mock) -> Iterator[fleming_sql.Connection]:
    names = vars(session)
    usual = names["CallLog"]
    names["CallLog"] = {"no log": NoLog, "timed": TimedLog}.get(variant, usual)
    try:
        con = fleming_sql.connect(folder / f"{variant.replace(' ', '-')}.duckdb")
    finally:
        names["CallLog"] = usual
    with con:
        if variant == "off":
            con.execute("insert into fleming.settings values ('durability', 'off')")
        add_endpoint(con, "chat", server, CONCURRENCY)
        yield con


def _size(database: Path) -> list[Row]:
    """Compare what the store takes, as it was written and when it is packed, with the bodies that are in it."""
    with fleming_sql.connect(database) as con:
        [(calls, bodies)] = con.execute(
            "select count(*), sum(strlen(request) + strlen(response)) from fleming.serving.inference"
        ).fetchall()
        written = _used(con)
        with measured() as spent:
            con._session.upkeep.worker.run_now("packing")
        packed = _used(con)
    raw = int(bodies)
    what = f"the store after a million such calls, {raw / calls / 1000:.2f} GB of bodies; from {calls:,}"
    return [
        Row(f"{what}: as written", f"{written / calls / 1000:.2f} GB, {written / raw:.0%}"),
        Row(f"{what}: packed", f"{packed / calls / 1000:.2f} GB, {packed / raw:.0%}"),
        Row("packing, when no calls are made: CPU per row", f"{spent.cpu / calls * 1e6:.1f} us"),
    ]


def _used(con: fleming_sql.Connection) -> int:
    """Return the bytes of the store's file that are in use; two checkpoints, since one frees what the last replaced."""
    for _ in range(2):
        con.execute("insert or replace into fleming.settings values ('maintenance_minutes', '10')")
        con.execute("checkpoint fleming")
    sql = "select block_size * used_blocks from pragma_database_size() where database_name = 'fleming'"
    return int(value(con, sql))


def _texts(label: str, count: int) -> list[str]:
    """Return texts of README's words in random order, each one another: harder to compress than prose is."""
    words = re.findall(r"[A-Za-z0-9']+[.,;:]?", (ROOT / "README.md").read_text("utf-8"))
    source = random.Random(label)  # noqa: S311  texts, not secrets
    return [f"{label} {number}: {' '.join(source.choices(words, k=BODY // 4))}"[:BODY] for number in range(count)]


@contextmanager
def _talkative_mock() -> Iterator[Mock]:
    command = [sys.executable, "-m", "benchmarks.logging_cost"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stdin
        yield Mock(process.stdout.readline().strip())
        process.stdin.close()


def main() -> None:
    """Serve long answers in turns, at once, until standard input closes."""
    replies = [_ready(chat_reply(text, prompt_tokens=350, completion_tokens=350)) for text in _texts("answer", ANSWERS)]
    state = {"next": 0}

    def reply(received: Received) -> Reply:
        state["next"] = (state["next"] + 1) % ANSWERS
        return replies[state["next"]]

    with MockModel(reply, record=False) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def _ready(reply: Reply) -> Reply:
    return Reply(body=reply.content(), headers={"content-type": "application/json"})


if __name__ == "__main__":
    main()
