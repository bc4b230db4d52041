"""`fleming init`: a store and an endpoint, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import fleming_sql

Run = Callable[..., Result]


def test_init_makes_a_store_and_says_what_to_do_next(run: Run, folder: Path) -> None:
    done = run("init")

    assert done.exit_code == 0
    assert [path.name for path in folder.iterdir()] == ["fleming.duckdb"]
    assert "Made the gateway store fleming.duckdb" in done.stdout
    assert "fleming init --example" in done.stdout


def test_the_next_step_of_the_example_works_as_it_is_printed(run: Run) -> None:
    done = run("init", "--example", "place.duckdb")
    line = next(line for line in done.stdout.splitlines() if "fleming sql" in line)

    assert line == "  fleming sql --gateway place.duckdb \"select ai_query('chat', 'Hello')\""
    asked = run("sql", "--gateway", "place.duckdb", "select ai_query('chat', 'Hello') as answer")
    assert asked.stdout == "answer\nThis is a simulated answer to: Hello\n"


def test_init_again_changes_nothing(run: Run, store: Path) -> None:
    run("sql", "update fleming.endpoints set max_retries = 7")

    done = run("init", "--example", "--json")

    assert json.loads(done.stdout) == {
        "gateway": "fleming.duckdb",
        "created": False,
        "endpoint_added": False,
        "endpoints": ["chat"],
    }
    assert run("sql", "select max_retries from fleming.endpoints").stdout == "max_retries\n7\n"


def test_init_with_a_provider_names_the_variable_and_stores_no_key(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-of-mine")

    done = run("init", "--provider", "openai", "--model", "gpt-4.1-mini", "--credential-env", "MY_KEY")

    assert done.exit_code == 0
    assert done.stderr == ""
    with fleming_sql.connect(gateway=folder / "fleming.duckdb") as con:
        [row] = con.execute(
            "select s.provider, s.model, c.source, c.reference from fleming.served_entities as s "
            "join fleming.credentials as c on c.name = s.credential"
        ).fetchall()
    assert row == ("openai", "gpt-4.1-mini", "env", "MY_KEY")
    assert b"sk-secret-of-mine" not in (folder / "fleming.duckdb").read_bytes()


def test_two_endpoints_with_one_variable_share_a_credential(run: Run) -> None:
    for name in ("chat", "draft"):
        added = run(
            "init", "--endpoint", name, "--provider", "openai", "--model", "gpt-4.1-mini", "--credential-env", "MY_KEY"
        )
        assert added.exit_code == 0
        assert "MY_KEY is not set" in added.stderr

    assert run("sql", "select count(*) as n from fleming.credentials").stdout == "n\n1\n"


def test_an_unknown_provider_adds_nothing(run: Run) -> None:
    done = run("init", "--provider", "opnai", "--model", "gpt-4.1-mini", "--credential-env", "MY_KEY")

    assert done.exit_code == 1
    assert 'there is no provider "opnai". Did you mean "openai"?' in done.stderr
    assert run("sql", "select count(*) as n from fleming.endpoints").stdout == "n\n0\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--example", "--provider", "openai"],
        ["--model", "gpt-4.1-mini"],
        ["--provider", "openai"],
        [":memory:"],
    ],
)
def test_options_that_do_not_go_together_make_no_store(run: Run, folder: Path, arguments: list[str]) -> None:
    done = run("init", *arguments)

    assert done.exit_code == 2
    assert list(folder.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(run: Run) -> None:
    done = run("init", "no/such/folder/gateway.duckdb")

    assert done.exit_code == 1
    assert "no/such/folder/gateway.duckdb cannot be created" in done.stderr


def test_the_next_step_is_of_the_endpoint_that_was_added(run: Run, store: Path) -> None:
    done = run("init", "--endpoint", "local", "--provider", "simulated")

    assert "fleming sql \"select ai_query('local', 'Hello')\"" in done.stdout


def test_init_with_a_database_makes_the_store_beside_it(run: Run, store: Path, folder: Path) -> None:
    done = run("init", "--database", "shop.duckdb", "--json")

    assert json.loads(done.stdout)["gateway"] == "shop.fleming.duckdb"
    assert (folder / "shop.fleming.duckdb").exists()
