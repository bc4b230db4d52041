"""What a connection's calls are labelled with in the log, besides their own `usageContext`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint

import fleming_sql
from fleming_sql import Connection
from fleming_sql.connection.connect import interrupt
from fleming_sql.errors import ArgumentError
from fleming_sql.testing import MockModel, Reply


def labels(con: Any) -> list[dict[str, str]]:
    rows = con.execute("select usage_context from fleming.serving.endpoint_usage order by request_time").fetchall()
    return [context for (context,) in rows]


def ask(con: Any, own: str = "null") -> None:
    con.execute(f"select ai_query('chat', 'Hello', usageContext => {own})").fetchall()


def test_the_labels_of_a_connection_go_with_each_of_its_calls(add_endpoint: AddEndpoint) -> None:
    with fleming_sql.connect(usage_context={"team": "growth"}) as con:
        add_endpoint(con, provider="simulated")
        ask(con)

        assert labels(con) == [{"team": "growth"}]


def test_the_labels_of_a_call_win_for_their_own_keys(con: Connection, model: MockModel) -> None:
    con.usage_context = {"team": "growth", "notebook": "churn"}
    ask(con, "{'team': 'sales'}")

    assert labels(con) == [{"team": "sales", "notebook": "churn"}]


def test_changed_labels_hold_from_the_next_statement_on(con: Connection, model: MockModel) -> None:
    con.usage_context = {"step": "one"}
    ask(con)
    con.usage_context = {"step": "two"}
    ask(con)
    con.usage_context = {}
    ask(con)

    assert labels(con) == [{"step": "one"}, {"step": "two"}, {}]


def test_a_cursor_begins_with_the_labels_of_its_connection(con: Connection, model: MockModel) -> None:
    con.usage_context = {"step": "one"}
    cursor = con.cursor()
    con.usage_context = {"step": "two"}
    ask(cursor)

    assert labels(con) == [{"step": "one"}]


def test_a_function_is_asked_for_the_labels_once_per_statement(con: Connection, model: MockModel) -> None:
    steps = iter(["one", "two", "three"])
    con.usage_context = lambda: {"step": next(steps)}
    con.execute("select ai_query('chat', 'Hello ' || range) from range(2100)").fetchall()
    ask(con)

    [(first, second)] = con.execute("""
        select count(*) filter (usage_context['step'] = 'one'), count(*) filter (usage_context['step'] = 'two')
        from fleming.serving.endpoint_usage
    """).fetchall()
    assert (first, second) == (2100, 1)


def test_attach_labels_a_plain_connection_and_its_cursors(add_endpoint: AddEndpoint) -> None:
    with duckdb.connect() as bare:
        fleming_sql.attach(bare, usage_context={"team": "growth"})
        add_endpoint(bare, provider="simulated")
        ask(bare)
        ask(bare.cursor())

        assert labels(bare) == [{"team": "growth"}, {"team": "growth"}]
        fleming_sql.detach(bare)


def test_attach_again_changes_the_labels_of_one_cursor(add_endpoint: AddEndpoint) -> None:
    with duckdb.connect() as bare:
        fleming_sql.attach(bare, usage_context={"team": "growth"})
        add_endpoint(bare, provider="simulated")
        fleming_sql.attach(bare.cursor(), usage_context={"team": "sales"})
        ask(bare)

        assert labels(bare) == [{"team": "growth"}]
        fleming_sql.detach(bare)


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (["team"], "usage_context takes a dict of texts such as {'team': 'growth'}, not list"),
        ({"team": 7}, "its key team has a value of type int"),
        ({7: "team"}, "its key 7 has a value of type int"),
        ({"team": "x" * 20_000}, "usage_context takes at most 10240 bytes"),
    ],
)
def test_wrong_labels_are_refused_and_nothing_is_opened(context: Any, words: str, tmp_path: Any) -> None:
    with pytest.raises(ArgumentError, match=words.replace("{", r"\{")):
        fleming_sql.connect(tmp_path / "w.duckdb", usage_context=context)

    assert list(tmp_path.iterdir()) == []


def test_detaching_ends_the_gateway_of_a_connection_that_was_closed_before(add_endpoint: AddEndpoint) -> None:
    before = threading.active_count()
    bare = duckdb.connect()
    fleming_sql.attach(bare)
    add_endpoint(bare, provider="simulated")
    ask(bare)
    during = threading.active_count()

    bare.close()
    fleming_sql.detach(bare)

    assert before == threading.active_count() < during


def test_interrupt_breaks_off_a_statement_that_waits_for_an_answer(add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda _: Reply(hang=True)) as server, duckdb.connect() as bare:
        fleming_sql.attach(bare)
        add_endpoint(bare, base_url=server.url)
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask, bare.cursor())
            server.wait_until(lambda server: server.in_flight == 1)
            interrupt(bare)

            with pytest.raises(duckdb.Error, match="CANCELLED"):
                asking.result(10)
        fleming_sql.detach(bare)
