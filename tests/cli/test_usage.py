"""`fleming usage`: sums of the log by this and that, and their bars."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import fleming_sql
from fleming_sql.cli.charts import bars

Run = Callable[..., Result]


@pytest.fixture
def used(store: Path) -> Path:
    """A log: ada asked `chat` three times, once from the cache; bob asked `dear`, and an endpoint that is none."""
    with fleming_sql.connect(gateway=store, user="ada") as con:
        con.execute("insert into fleming.endpoints (name) values ('dear')")
        con.execute(
            "insert into fleming.served_entities (endpoint, name, provider, model) "
            "values ('dear', 'one', 'simulated', 'gold')"
        )
        con.execute(
            "insert into fleming.model_prices (provider, model, input_per_million, output_per_million) "
            "values ('simulated', 'gold', 1000, 1000)"
        )
        con.execute(
            "select ai_query('chat', 'q' || range % 2, usageContext => {'team': 'growth'}) from range(3)"
        ).fetchall()
    with fleming_sql.connect(gateway=store, user="bob") as con:
        con.execute("select ai_query('dear', 'Hello')").fetchall()
        con.execute("select ai_query('nope', 'Hello', failOnError => false)").fetchall()
    return store


def table(done: Result) -> list[dict[str, object]]:
    assert done.exit_code == 0, done.stderr
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def test_usage_by_each_dimension_accounts_for_all_calls(run: Run, used: Path) -> None:
    def calls(*by: str) -> dict[object, object]:
        arguments = [word for name in by for word in ("--by", name)]
        return {tuple(row[name] for name in by): row["calls"] for row in table(run("usage", "--json", *arguments))}

    assert calls("user") == {("ada",): 3, ("bob",): 2}
    assert calls("endpoint") == {("chat",): 3, ("dear",): 1, ("nope",): 1}
    assert calls("model") == {("demo",): 3, ("gold",): 1, (None,): 1}
    assert calls("entity") == {("chat/demo",): 3, ("dear/one",): 1, (None,): 1}
    assert calls("context:team") == {("growth",): 3, (None,): 2}
    assert calls("user", "endpoint") == {("ada", "chat"): 3, ("bob", "dear"): 1, ("bob", "nope"): 1}
    assert list(calls("day").values()) == [5]


def test_usage_adds_up_as_the_view_of_the_log_does(run: Run, used: Path) -> None:
    with fleming_sql.connect(gateway=used) as con:
        view = con.execute(
            "select calls, errors, cache_hits, input_tokens, output_tokens, cost_usd, unpriced_calls "
            "from fleming.serving.usage_by_day"
        ).fetchall()

    [row] = table(run("usage", "--json"))

    assert view == [tuple(row.values())[1:]]


def test_usage_is_narrowed_by_time_endpoint_and_user(run: Run, used: Path) -> None:
    def count(*arguments: str) -> int:
        return sum(int(str(row["calls"])) for row in table(run("usage", "--json", *arguments)))

    assert count("--since", "1h") == 5
    assert count("--until", "2026-01-01") == 0
    assert count("--since", "2020-01-01", "--endpoint", "chat") == 3
    assert count("--user", "bob") == 2
    assert count("--since", "2w", "--endpoint", "chat", "--user", "bob") == 0


def test_usage_in_a_pipe_is_a_plain_table_without_a_chart(run: Run, used: Path) -> None:
    lines = run("usage", "--by", "endpoint").stdout.splitlines()

    assert lines[0].split() == [
        "endpoint",
        "calls",
        "errors",
        "cache_hits",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "unpriced_calls",
    ]
    assert [line.split()[:2] for line in lines[1:]] == [["chat", "3"], ["dear", "1"], ["nope", "1"]]


def test_the_chart_draws_the_most_expensive_longest(run: Run, used: Path) -> None:
    done = run("usage", "--by", "endpoint", "--chart", "cost")

    chart = done.stdout.partition("\ncost\n")[2].splitlines()
    assert [line.split()[0] for line in chart] == ["chat", "dear", "nope"]
    assert ["█" in line for line in chart] == [False, True, False]
    assert "$0.0" in chart[1]


def test_usage_of_an_empty_log_says_so(run: Run, store: Path) -> None:
    done = run("usage")

    assert (done.exit_code, done.stderr) == (0, "no calls\n")


def test_bars_fit_their_line_and_show_the_smallest_value() -> None:
    drawn = bars(["a", "a very long name of an endpoint that goes on and on"], [1000, 0.001], ["1,000", "0"], 60)

    long, short = drawn.splitlines()
    assert max(len(long), len(short)) <= 60
    assert "…" in short
    assert "▏" in short


def test_json_and_another_format_contradict_each_other(run: Run, store: Path) -> None:
    done = run("usage", "--json", "--format", "csv")

    assert (done.exit_code, done.stdout) == (2, "")
    assert "--json and --format csv contradict each other" in done.stderr
