"""Providers that fail, in every way that the benchmarks' fault matrix has, with time constants that suit a test.

Each scenario is one statement of 10,000 rows over an endpoint with two entities, half of the traffic each; the claims
below are asked of what it left behind. A fault is an attempt that a server spoilt; "requests" are what arrived at
the servers, and the connections that were refused.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import fleming_sql
from fleming_sql.testing import Faults, MockModel, Received, Reply, Switch, after, echo_chat

ROWS = 10_000
TOLERANCE = 0.05
COLUMNS: Mapping[str, Any] = {
    "max_concurrency": 64,
    "attempt_timeout_ms": 300,
    "breaker_open_ms": 200,
    "breaker_window_ms": 1_000,
    "max_retries": 8,  # where both entities fail 17.5 %, 1.6 of 10,000 rows would use up the attempts of the default
    "retry_on_timeout": True,  # else a row that hangs at both entities is given up
}
LOG_OF = {
    "refused": "status_code = 429",
    "failed": "status_code = 500",
    "cut": "error_code = 'CONNECTION_LOST'",
    "malformed": "error_code = 'INVALID_RESPONSE'",
}


@dataclass(frozen=True)
class Run:
    """What a scenario's statement left behind."""

    answered: int
    """Rows with the answer to their own question."""
    requests: int
    faults: int
    attempts: Mapping[str, int]
    """Rows of `serving.attempts`: all, and those that any condition on them picks."""
    injected: Mapping[str, int]
    """By kind, where the faults are mixed."""
    calls_after_recovery: int = 0


@contextmanager
def two_entities(first: Callable[[Received], Reply] | None, second: Callable[[Received], Reply]) -> Iterator[Any]:
    """Yield the connection and the servers; None refuses connections."""
    with pytest.MonkeyPatch.context() as patch, MockModel(second, record=False) as healthy:
        for name in ("HTTP_PROXY", "http_proxy", "FLEMING_USER"):
            patch.delenv(name, raising=False)
        with MockModel(first or echo_chat, record=False) as server, fleming_sql.connect(user="ada") as con:
            names = ", ".join(COLUMNS)
            con.execute(
                f"insert into fleming.endpoints (name, {names}) values ('chat'{', ?' * len(COLUMNS)})",
                list(COLUMNS.values()),
            )
            for position, url in enumerate([nobody() if first is None else server.url, healthy.url], start=1):
                con.execute(
                    "insert into fleming.served_entities "
                    "(endpoint, name, provider, model, base_url, traffic_percentage, position) "
                    "values ('chat', ?, 'openai', 'mock', ?, 50, ?)",
                    [f"entity-{position}", url, position],
                )
            yield con, server, healthy


def nobody() -> str:
    """Return an address that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def ask(con: fleming_sql.Connection) -> int:
    """Ask 10,000 questions and return how many got their own answer."""
    [(answered,)] = con.execute(
        "select count(*) filter (a.result = 'echo: question ' || i) from ("
        "select i, ai_query('chat', 'question ' || i, failOnError => false) as a "
        f"from range({ROWS}) t(i))"
    ).fetchall()
    return int(answered)


def attempts(con: fleming_sql.Connection) -> dict[str, int]:
    """Count the log's attempts, by each condition that a test asks about."""
    conditions = ["true", *LOG_OF.values(), "error_code = 'DEADLINE_EXCEEDED'", "error_code = 'CONNECTION_FAILED'"]
    counts = ", ".join(f"count(*) filter ({condition})" for condition in conditions)
    [row] = con.execute(f"select {counts} from fleming.serving.attempts").fetchall()
    return dict(zip(conditions, row, strict=True))


def mixed() -> Run:
    """Both entities fail 17.5 % of their requests, in five ways."""
    first, second = Faults(seed=1, retry_after_s=0.05), Faults(seed=2, retry_after_s=0.05)
    with two_entities(first, second) as (con, *servers):
        answered = ask(con)
        injected = {kind: first.counts[kind] + second.counts[kind] for kind in Faults.KINDS}
        requests = sum(server.request_count for server in servers)
        return Run(answered, requests, sum(injected.values()), attempts(con), injected)


def down() -> Run:
    """One entity refuses connections."""
    with two_entities(None, echo_chat) as (con, _, healthy):
        answered = ask(con)
        made = attempts(con)
        refused = made["error_code = 'CONNECTION_FAILED'"]
        return Run(answered, healthy.request_count + refused, refused, made, {})


def crawling() -> Run:
    """One entity slows down to an answer a minute after its first 200."""
    arrived = itertools.count()
    crawl = after(60.0)
    with two_entities(lambda received: (crawl if next(arrived) >= 200 else echo_chat)(received), echo_chat) as made:
        con, server, healthy = made
        answered = ask(con)
        server.wait_until(lambda server: server.in_flight == 0)
        requests = server.request_count + healthy.request_count
        return Run(answered, requests, server.abandoned, attempts(con), {})


def recovering() -> Run:
    """One entity fails for a while in the middle of the statement."""
    outage = Faults(seed=1, refused=0.0, failed=1.0, hung=0.0, cut=0.0, malformed=0.0)
    switch = Switch(outage)
    with two_entities(switch, after(0.02)) as (con, server, healthy):
        answered: list[int] = []
        statement = threading.Thread(target=lambda: answered.append(ask(con)))
        statement.start()
        healthy.wait_until(lambda healthy: healthy.request_count > 2_000, timeout_s=30)
        before = server.request_count
        switch.use(after(0.02))
        server.wait_until(lambda server: server.request_count > before + 200, timeout_s=30)
        statement.join()
        requests = server.request_count + healthy.request_count
        calls_after = server.request_count - before
        return Run(answered[0], requests, outage.injected, attempts(con), {}, calls_after)


@pytest.fixture(scope="module", params=[mixed, down, crawling, recovering], ids=lambda scenario: scenario.__name__)
def run(request: pytest.FixtureRequest) -> Run:
    """Return what a scenario left behind; it runs once for all claims."""
    scenario: Callable[[], Run] = request.param
    return scenario()


def test_no_row_is_without_its_answer(run: Run) -> None:
    assert run.answered == ROWS


def test_requests_beyond_the_rows_are_those_that_faults_took(run: Run) -> None:
    beyond = run.requests - ROWS - run.faults

    assert run.faults > 0
    assert abs(beyond) <= TOLERANCE * run.faults


def test_each_request_is_in_the_log(run: Run) -> None:
    assert run.attempts["true"] == run.requests


@pytest.mark.parametrize("run", [mixed], indirect=True, ids=["mixed"])
@pytest.mark.parametrize("kind", LOG_OF)
def test_each_injected_fault_is_in_the_log_as_what_it_was(run: Run, kind: str) -> None:
    assert run.attempts[LOG_OF[kind]] == run.injected[kind] > 0


@pytest.mark.parametrize("run", [mixed], indirect=True, ids=["mixed"])
def test_each_hang_is_in_the_log_as_a_timeout(run: Run) -> None:
    """There may be more: on a busy machine an answer can take longer than the 300 ms."""
    assert run.attempts["error_code = 'DEADLINE_EXCEEDED'"] >= run.injected["hung"] > 0


@pytest.mark.parametrize("run", [down], indirect=True, ids=["down"])
def test_an_entity_that_is_down_is_soon_left_out(run: Run) -> None:
    """Without a breaker it would be tried with half of the rows."""
    assert run.faults < ROWS / 20


@pytest.mark.parametrize("run", [crawling], indirect=True, ids=["crawling"])
def test_an_entity_that_crawls_is_soon_left_out(run: Run) -> None:
    assert run.faults < ROWS / 20


@pytest.mark.parametrize("run", [recovering], indirect=True, ids=["recovering"])
def test_an_entity_that_fails_is_soon_left_out(run: Run) -> None:
    assert run.faults < ROWS / 20


@pytest.mark.parametrize("run", [recovering], indirect=True, ids=["recovering"])
def test_an_entity_that_recovers_gets_calls_again(run: Run) -> None:
    assert run.calls_after_recovery > 200
