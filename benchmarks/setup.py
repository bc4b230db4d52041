"""What the benchmarks share: the mock server's process, a gateway in a folder of its own, clocks."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

import fleming_sql

FILLER = " The parcel came nine days late and the box was open. What does the customer want us to do?" * 3
SPARE_FILES = 100
COUNT = "SELECT count(v) FROM (SELECT ai_query('chat', prompt) AS v FROM prompts)"


@dataclass(frozen=True, slots=True)
class Mock:
    """The mock model server, in a process of its own."""

    url: str

    def stats(self) -> dict[str, int]:
        """Return its counters."""
        counters: dict[str, int] = httpx.get(f"{self.url}/stats").json()
        return counters


@contextmanager
def mock(latency_ms: float = 0, sigma: float = 0) -> Iterator[Mock]:
    """Run the mock server for as long as the block lasts."""
    command = [sys.executable, "-m", "fleming_sql.testing", "--port", "0"]
    delay = ["--latency-ms", str(latency_ms), "--sigma", str(sigma)]
    with subprocess.Popen([*command, *delay], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        yield Mock(process.stdout.readline().strip())
        process.stdin.close()


@contextmanager
def gateway(
    server: Mock, max_concurrency: int = 512, config: Mapping[str, Any] | None = None
) -> Iterator[fleming_sql.Connection]:
    """Connect to a database file in a new folder whose endpoint `chat` is the mock; the store is a file beside it."""
    with (
        TemporaryDirectory() as folder,
        fleming_sql.connect(Path(folder) / "bench.duckdb", config=config) as con,
    ):
        add_endpoint(con, "chat", server, max_concurrency)
        yield con


def add_endpoint(con: fleming_sql.Connection, name: str, server: Mock, max_concurrency: int = 512) -> None:
    """Configure one endpoint with one entity."""
    con.execute("INSERT INTO fleming.endpoints (name, max_concurrency) VALUES (?, ?)", [name, max_concurrency])
    con.execute(
        "INSERT INTO fleming.served_entities (endpoint, name, provider, model, base_url) "
        "VALUES (?, 'mock', 'openai', 'mock-1', ?)",
        [name, f"{server.url}/v1"],
    )


def prompts(label: str, count: int) -> list[str]:
    """Return distinct prompts of about 300 characters; another label makes others."""
    return [f"{label} {number:07d}{FILLER}" for number in range(count)]


def fill(con: fleming_sql.Connection, label: str, count: int) -> None:
    """Make the table `prompts` hold `prompts(label, count)`."""
    con.execute(
        "CREATE OR REPLACE TABLE prompts AS "
        "SELECT format('{} {:07d}{}', ?::VARCHAR, number, ?::VARCHAR) AS prompt FROM range(?::BIGINT) AS r(number)",
        [label, FILLER, count],
    )


def value(con: fleming_sql.Connection, sql: str) -> Any:
    """Return the one value of a statement."""
    return con.execute(sql).fetchall()[0][0]


@dataclass(slots=True)
class Spent:
    """Seconds of wall clock and of this process's CPU, children not counted."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def measured() -> Iterator[Spent]:
    """Measure a block; read the figures after it."""
    spent = Spent(time.perf_counter(), _cpu())
    try:
        yield spent
    finally:
        spent.wall, spent.cpu = time.perf_counter() - spent.wall, _cpu() - spent.cpu


def files_missing(connections: int) -> str:
    """Say so where the system allows too few open files for that many connections, else return nothing."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE_FILES
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return ""
    return f"not measured: {allowed:,} open files allowed, {needed:,} needed (ulimit -n)"


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
