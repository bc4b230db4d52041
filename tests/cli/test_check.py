"""`fleming check`: the tables, the secrets, the servers and the store, and the exit code of a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fleming_sql.testing import MockModel, Received, Reply, echo_chat, error_reply

Run = Callable[..., Result]


def add(run: Run, statement: str) -> None:
    done = run("sql", statement)
    assert done.exit_code == 0, done.output


def checked(run: Run, kind: str, *options: str) -> list[dict[str, Any]]:
    report = json.loads(run("check", "--json", *options).stdout)
    return [finding for finding in report["checked"] if finding["kind"] == kind]


def serve_at(run: Run, url: str) -> None:
    add(
        run,
        "insert into fleming.endpoints (name) values ('own'); "
        "insert into fleming.served_entities (endpoint, name, provider, model, base_url) "
        f"values ('own', 'a', 'openai', 'm', '{url}')",
    )


def test_a_store_that_is_right_passes(run: Run, store: Path) -> None:
    done = run("check")

    assert done.exit_code == 0, done.output
    assert "it can be written" in done.stdout


def test_a_problem_of_the_configuration_is_exit_code_1(run: Run, store: Path) -> None:
    add(run, "insert into fleming.rate_limits (endpoint, calls) values ('nowhere', 5)")

    done = run("check", "--offline", "--json")

    report = json.loads(done.stdout)
    assert (done.exit_code, report["ok"]) == (1, False)
    assert "nowhere" in report["problems"][0]["told"]


def test_a_secret_is_looked_for_and_never_shown(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "very-secret-key")
    add(
        run,
        "insert into fleming.credentials (name, reference) values ('team', 'TEAM_KEY'); "
        "update fleming.served_entities set credential = 'team'",
    )

    done = run("check", "--offline")

    assert done.exit_code == 0, done.output
    assert "team: found (env), used by chat/" in done.stdout
    assert "very-secret-key" not in done.output


def test_a_secret_that_is_missing_is_a_problem_for_whom_needs_it(run: Run, store: Path) -> None:
    add(
        run,
        "insert into fleming.credentials (name, reference) values ('used', 'NOT_A'), ('unused', 'NOT_B'); "
        "update fleming.served_entities set credential = 'used'",
    )

    states = {finding["what"]: finding["state"] for finding in checked(run, "credential", "--offline")}

    assert states == {"used": "problem", "unused": "warning"}


def test_a_server_that_answers_anything_is_reached_and_gets_no_key(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_KEY", "very-secret-key")

    def refuse(request: Received) -> Reply:
        return error_reply(404, "no such path")

    with MockModel(refuse) as server:
        serve_at(run, f"{server.url}/v1")
        add(
            run,
            "insert into fleming.credentials (name, reference) values ('team', 'TEAM_KEY'); "
            "update fleming.served_entities set credential = 'team' where endpoint = 'own'",
        )

        found = checked(run, "provider")

        assert [finding["state"] for finding in found] == ["ok"]
        assert server.request_count == 1
        assert "authorization" not in server.requests[0].headers


def test_a_server_that_is_not_there_is_a_problem(run: Run, store: Path) -> None:
    with MockModel(echo_chat) as server:
        url = server.url
    serve_at(run, url)

    found = checked(run, "provider")

    assert [finding["state"] for finding in found] == ["problem"]
    assert "own/a is served there" in found[0]["told"]


def test_offline_asks_nobody(run: Run, store: Path) -> None:
    with MockModel(echo_chat) as server:
        serve_at(run, server.url)

        assert checked(run, "provider", "--offline") == []
        assert server.request_count == 0
