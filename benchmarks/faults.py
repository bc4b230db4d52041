"""What providers that fail cost: rows without an answer, requests too many, time; beside it litellm's Router."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.loops import Send, run
from benchmarks.processes import apart
from benchmarks.setup import Mock, Spent, fill, gateway, measured, prompts
from benchmarks.table import Row
from fleming_sql import Connection

ROWS = 10_000
ROUTER_ROWS = 1_000
LATENCY_S = 0.05
ATTEMPT_TIMEOUT_S = 2.0
RETRIES = 8
"""Both entities of the mix fail 17.5 % of their requests: of 10,000 rows, 1.6 would use up the 5 attempts of the
default, and one in 10 million uses up these 9."""
MIXED = ("--refused", "0.10", "--failed", "0.05", "--hung", "0.01", "--cut", "0.01", "--malformed", "0.005")
KINDS = ("refused", "failed", "hung", "cut", "malformed", "down")
DOWN_S = 10.0
BREAKER_OPEN_S = 2.0
RECOVERY_S = 2.0
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Case:
    """Two entities with half of the traffic each."""

    name: str
    entities: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
    """Options of either's server; None is a port on which nobody listens."""
    concurrency: int = 64
    crawls: bool = False
    """Whether the faults of the first entity are its requests whose client did not wait for the answer."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns of the endpoint that this case sets."""

    @property
    def ideal_s(self) -> float:
        """Return what a healthy entity alone takes that answers so many at once."""
        return ROWS * LATENCY_S / self.concurrency


CASES = (
    Case("mixed faults at both entities", ((*MIXED, "--seed", "1"), (*MIXED, "--seed", "2"))),
    Case("one entity refuses connections", (None, ())),
    Case("one entity crawls, 5 s an answer after 2 s", (("--slow-after-s", "2", "--slow-ms", "5000"), ()), crawls=True),
    Case(
        f"one entity fails for {DOWN_S:.0f} s",
        (("--down-for-s", str(DOWN_S)), ()),
        concurrency=32,  # so that the rows last beyond the recovery
        columns={"breaker_open_ms": int(BREAKER_OPEN_S * 1000)},
    ),
)


def measure() -> list[Row]:
    """Run each case through ai_query, then through litellm's Router."""
    rows = [row for case in CASES for row in (*_ours(case), apart(_router, case, True))]
    return [*rows, apart(_router, CASES[0], False)]


@contextmanager
def failing(*options: str, latency_s: float = LATENCY_S) -> Iterator[Mock]:
    """Run the mock server with faults, in a process of its own, for as long as the block lasts.

    Args:
        options: Of `python -m fleming_sql.testing`.
        latency_s: How long an answer takes.
    """
    command = [sys.executable, "-m", "fleming_sql.testing", "--latency-ms", str(latency_s * 1000), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        yield Mock(process.stdout.readline().strip())
        process.stdin.close()


def stats(server: Mock) -> dict[str, Any]:
    """Return the server's counters and those of its faults."""
    counters: dict[str, Any] = httpx.get(f"{server.url}/stats").json()
    return counters


@dataclass(frozen=True, slots=True)
class _Servers:
    """The servers of a case; None is the one that refuses connections."""

    case: Case
    urls: tuple[str, ...]
    running: tuple[Mock | None, ...]

    def requests(self) -> int:
        """Return how many requests arrived."""
        return sum(stats(server)["requests"] for server in self.running if server)

    def faults(self) -> int:
        """Return how many requests met a fault, refused connections not among them."""
        counted = sum(stats(server).get(kind, 0) for server in self.running if server for kind in KINDS)
        first = self.running[0]
        left = stats(first)["abandoned"] if self.case.crawls and first else 0
        return int(counted + left)


@contextmanager
def _servers(case: Case) -> Iterator[_Servers]:
    with ExitStack() as stack:
        running = tuple(
            None if options is None else stack.enter_context(failing(*options)) for options in case.entities
        )
        urls = tuple(server.url if server else _nobody() for server in running)
        yield _Servers(case, urls, running)


def _nobody() -> str:
    """Return an address that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def _ours(case: Case) -> list[Row]:
    with _servers(case) as servers, gateway(Mock(servers.urls[0]), case.concurrency) as con:
        _configure(con, case, servers.urls[1])
        fill(con, case.name, ROWS)
        with measured() as spent:
            answered, first_error = con.execute(
                "SELECT count(a.result), any_value(a.errorMessage) "
                "FROM (SELECT ai_query('chat', prompt, failOnError => false) AS a FROM prompts)"
            ).fetchall()[0]
        refused = _refused_connections(con)
        faults = servers.faults() + refused
        beyond = servers.requests() + refused - ROWS
        recovery = (
            [_recovery(con, servers.running[0])] if servers.running[0] and "--down-for-s" in _options(case) else []
        )
    if first_error:
        print(f"{case.name}: {first_error}", file=sys.stderr)
    over = (beyond - faults) / faults
    return [
        Row(f"{case.name}: rows answered", f"{answered:,}", f"{ROWS:,}", answered == ROWS),
        Row("the same: upstream requests beyond one a row", f"{beyond / ROWS:.3f} a row, {faults:,} faults injected"),
        Row("the same: requests beyond the faults, by faults", f"{over:+.1%}", "within 5 %", abs(over) <= TOLERANCE),
        Row("the same: wall time; ideal", _walls(spent, case)),
        *recovery,
    ]


def _options(case: Case) -> Sequence[str]:
    return case.entities[0] or ()


def _configure(con: Connection, case: Case, second_url: str) -> None:
    """Give the endpoint its second entity, and the time and the attempts that the faults ask for."""
    columns = {
        "attempt_timeout_ms": int(ATTEMPT_TIMEOUT_S * 1000),
        "max_retries": RETRIES,
        "retry_on_timeout": True,  # else a row that hangs at both entities is given up
        **case.columns,
    }
    assignments = ", ".join(f"{column} = ?" for column in columns)
    con.execute(f"UPDATE fleming.endpoints SET {assignments} WHERE name = 'chat'", list(columns.values()))
    con.execute("UPDATE fleming.served_entities SET traffic_percentage = 50 WHERE endpoint = 'chat'")
    con.execute(
        "INSERT INTO fleming.served_entities (endpoint, name, provider, model, base_url, traffic_percentage, position) "
        "VALUES ('chat', 'second', 'openai', 'mock-1', ?, 50, 2)",
        [f"{second_url}/v1"],
    )


def _refused_connections(con: Connection) -> int:
    """Return the attempts that no server could count."""
    sql = "SELECT count(*) FROM fleming.serving.attempts WHERE error_code = 'CONNECTION_FAILED'"
    count: int = con.execute(sql).fetchall()[0][0]
    return count


def _recovery(con: Connection, server: Mock) -> Row:
    """Return how long the entity was fit again before its first answer was used, less the breaker's interval."""
    recovered_at = time.time() - stats(server)["age_s"] + DOWN_S
    [(answered_at,)] = con.execute(
        "SELECT min(epoch(started_at) + duration_ms / 1000) FROM fleming.serving.attempts "
        "WHERE served_entity_name = 'mock' AND error_code IS NULL"
    ).fetchall()
    what = f"the same: recovery used, after the breaker's {BREAKER_OPEN_S:.0f} s"
    target = f"<= {RECOVERY_S:.0f} s"
    if answered_at is None:
        return Row(what, "never", target, False)
    late = answered_at - recovered_at - BREAKER_OPEN_S
    return Row(what, f"{late:+.1f} s", target, late <= RECOVERY_S)


def _walls(spent: Spent, case: Case) -> str:
    return f"{spent.wall:.1f} s; {case.ideal_s:.1f} s"


def _router(case: Case, cooldowns: bool) -> Row:
    """Send fewer rows through litellm's Router: as many retries, the same time for an attempt."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing litellm goes to the internet
    settings = "" if cooldowns else " without its cooldowns"
    title = f"{case.name}: litellm's Router{settings}, {ROUTER_ROWS:,} rows"
    answers = _Answers()
    with _servers(case) as servers:
        try:
            send = _over_router(servers.urls, cooldowns, answers)
        except ImportError:
            return Row(title, "not installed")
        spent = run(lambda: send, prompts(case.name, ROUTER_ROWS), case.concurrency)
        beyond = servers.requests() - ROUTER_ROWS
        faults = servers.faults()
    arrived = f"{beyond / ROUTER_ROWS:+.3f} requests a row beyond one, {faults:,} faults"
    return Row(title, f"{answers.count:,} answered, {arrived}, {spent.wall:.1f} s")


@dataclass(slots=True)
class _Answers:
    count: int = 0


def _over_router(urls: Sequence[str], cooldowns: bool, answers: _Answers) -> Send:
    """Return a call through the Router that counts its answer.

    Raises:
        ImportError: litellm is not installed.
    """
    import litellm
    import litellm.router

    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "asyncio"):
        logging.getLogger(name).disabled = True  # a screenful for each fault
    router = litellm.router.Router(
        model_list=[
            {
                "model_name": "chat",
                "litellm_params": {"model": "openai/mock-1", "api_base": f"{url}/v1", "api_key": "none"},
            }
            for url in urls
        ],
        routing_strategy="simple-shuffle",
        num_retries=RETRIES,
        timeout=ATTEMPT_TIMEOUT_S,
        disable_cooldowns=not cooldowns,
    )

    async def send(prompt: str) -> None:
        try:
            answer = await router.acompletion(model="chat", messages=[{"role": "user", "content": prompt}])
        except Exception:  # noqa: BLE001  any failure is a row without an answer
            return
        answers.count += bool(answer.choices[0].message.content)

    return send
