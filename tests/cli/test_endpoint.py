"""`fleming endpoint`: the list, one in full, and a call with all that was decided."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from fleming_sql.testing import MockModel, error_reply

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]


def add(run: Run, statement: str) -> None:
    done = run("sql", statement)
    assert done.exit_code == 0, done.output


def test_the_list_has_problems_and_todays_calls(run: Run, store: Path) -> None:
    run("endpoint", "test", "chat")

    rows = json.loads(run("endpoint", "list", "--json").stdout)

    chat = next(row for row in rows if row["name"] == "chat")
    assert (chat["problems"], chat["calls_today"], chat["errors_today"]) == (0, 1, 0)


def test_one_endpoint_is_shown_as_it_is_exported(run: Run, store: Path) -> None:
    add(run, "insert into fleming.rate_limits (endpoint, calls) values ('chat', 600)")

    done = run("endpoint", "show", "chat")

    assert done.exit_code == 0, done.output
    assert "rate_limits:\n  - endpoint: chat\n    calls: 600\n" in done.stdout
    assert "calls today" in done.stdout


def test_as_json_it_is_shown_in_full(run: Run, store: Path) -> None:
    found = json.loads(run("endpoint", "show", "chat", "--json").stdout)

    assert found["configuration"]["endpoints"][0]["max_retries"] == 4
    assert found["problems"] == []


def test_an_unknown_endpoint_is_told_with_those_like_it(run: Run, store: Path) -> None:
    done = run("endpoint", "show", "chatt")

    assert done.exit_code == 1
    assert 'no endpoint "chatt" in fleming.endpoints of the gateway store fleming.duckdb; ' in done.stderr
    assert 'did you mean "chat"?' in done.stderr


def test_a_test_shows_each_step_and_the_answer(run: Run, store: Path) -> None:
    done = run("endpoint", "test", "chat", "Good evening")

    assert done.exit_code == 0, done.output
    named = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert [name for name in named if name in ("permission", "reuse", "route", "attempt", "usage", "log")] == [
        "permission", "reuse", "route", "attempt", "usage", "log",
    ]  # fmt: skip
    assert "Good evening" in done.stdout


def test_a_test_asks_anew_unless_told_otherwise(run: Run, store: Path) -> None:
    run("endpoint", "test", "chat", "Hello", "--cache")

    anew = json.loads(run("endpoint", "test", "chat", "Hello", "--json").stdout)
    again = json.loads(run("endpoint", "test", "chat", "Hello", "--cache", "--json").stdout)

    assert [step["facts"]["hit"] for step in anew["steps"] if step["name"] == "reuse"] == [False]
    assert [step["facts"]["hit"] for step in again["steps"] if step["name"] == "reuse"] == [True]


def test_a_call_that_fails_shows_its_trace_and_what_to_change(run: Run, store: Path) -> None:
    with MockModel(lambda request: error_reply(400, "no such model")) as server:
        add(
            run,
            "insert into fleming.endpoints (name) values ('own'); "
            "insert into fleming.served_entities (endpoint, name, provider, model, base_url) "
            f"values ('own', 'a', 'openai', 'm', '{server.url}')",
        )

        done = run("endpoint", "test", "own")

    assert done.exit_code == 1
    assert "HTTP status 400" in done.stdout
    assert "no such model" in done.stderr


def test_an_object_is_the_request_itself(run: Run, store: Path) -> None:
    request = '{"messages": [{"role": "user", "content": "Good evening"}]}'

    done = run("endpoint", "test", "chat", request, "--json")

    assert json.loads(done.stdout)["answer"].endswith("Good evening")
