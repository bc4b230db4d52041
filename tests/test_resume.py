"""Nothing is paid twice: answers in the log are given again, in this process and in later ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint

import fleming_sql
from fleming_sql import Connection
from fleming_sql.clock import Clock
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, echo_chat, embeddings_reply

Open = Callable[..., Any]
ASK = "select ai_query('chat', 'row ' || i) as answer from range({}) t(i) order by i"


class SetClock(Clock):
    """A clock whose wall time runs ahead."""

    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


@pytest.fixture
def server() -> Iterator[MockModel]:
    with MockModel(echo_chat) as server:
        yield server


@pytest.fixture
def reopen(tmp_path: Path, server: MockModel, add_endpoint: AddEndpoint) -> Open:
    """Open the same database and store as another process would: nothing is kept in memory."""

    @contextmanager
    def start(user: str = "ada", **options: Any) -> Iterator[Connection]:
        with fleming_sql.connect(tmp_path / "w.duckdb", user=user, **options) as con:
            if not con.execute("from fleming.endpoints").fetchall():
                add_endpoint(con, base_url=server.url)
            yield con

    return start


def ask(con: Connection, rows: int = 20) -> list[Any]:
    answers: list[Any] = con.execute(ASK.format(rows)).fetchall()
    return answers


def test_a_statement_that_is_run_again_by_a_later_process_sends_nothing(reopen: Open, server: MockModel) -> None:
    with reopen() as con:
        first = ask(con)
    with reopen() as con:
        assert ask(con) == first
    assert len(server.requests) == 20


def test_a_job_that_is_resumed_sends_only_what_is_missing(reopen: Open, server: MockModel) -> None:
    with reopen() as con:
        ask(con, 3000)
    with reopen() as con:
        ask(con, 5000)
    assert len(server.requests) == 5000


def test_an_answer_from_the_log_costs_nothing_and_names_the_call_that_made_it(reopen: Open) -> None:
    with reopen() as con:
        ask(con, 1)
        [(made,)] = con.execute("select databricks_request_id from fleming.serving.inference").fetchall()
    with reopen() as con:
        ask(con, 1)
        again = con.execute(
            "select i.reused_request_id, i.attempts, u.input_token_count, u.cost_usd, i.request = o.request "
            "from fleming.serving.inference i join fleming.serving.endpoint_usage u using (databricks_request_id) "
            "join fleming.serving.inference o on o.databricks_request_id = i.reused_request_id where i.cache_hit"
        ).fetchall()
    assert again == [(made, 0, 0, 0.0, True)]


@pytest.mark.parametrize(
    "change",
    [
        "update fleming.endpoints set default_parameters = '{\"max_tokens\": 5}'",
        "update fleming.served_entities set model = 'another'",
        "update fleming.endpoints set cache_ttl_seconds = null",
        "select ai_cache_clear('chat')",
        "select fleming.ai_cache_clear()",
        "update fleming.serving.calls set response = 'unreadable'",
        "update fleming.serving.calls set status_code = 500",
    ],
)
def test_what_would_be_answered_differently_is_sent_again(reopen: Open, server: MockModel, change: str) -> None:
    with reopen() as con:
        ask(con)
    with reopen() as con:
        con.execute(change)
        assert len(ask(con)) == 20
    assert len(server.requests) == 40


@pytest.mark.parametrize(
    "change",
    [
        "update fleming.endpoints set max_concurrency = 8, timeout_ms = 999, max_retries = 9, hedge_after_ms = 500",
        "update fleming.endpoints set breaker_open_ms = 1, max_logged_bytes = 100000, cache_ttl_seconds = 9999",
        "insert into fleming.rate_limits (endpoint, calls) values ('chat', 100000)",
        "insert into fleming.model_prices (provider, model, input_per_million) values ('openai', '*', 1)",
    ],
)
def test_how_calls_are_made_may_change_without_paying_again(reopen: Open, server: MockModel, change: str) -> None:
    with reopen() as con:
        ask(con)
    with reopen() as con:
        con.execute(change)
        ask(con)
    assert len(server.requests) == 20


@pytest.mark.parametrize(
    "arguments",
    [
        "modelParameters => {'max_tokens': 7}",
        "modelParameters => {'temperature': 0.5}",
        'responseFormat => \'{"type": "json_object"}\', failOnError => false',
        "cache => false",
    ],
)
def test_other_arguments_are_another_request(reopen: Open, server: MockModel, arguments: str) -> None:
    with reopen() as con:
        con.execute("select ai_query('chat', 'one')").fetchall()
    with reopen() as con:
        sent = len(server.requests)
        con.execute(f"select ai_query('chat', 'one', {arguments})").fetchall()
    assert len(server.requests) > sent


@pytest.mark.parametrize(("hours", "sent"), [(23, 20), (25, 40)])
def test_an_answer_is_given_again_no_longer_than_the_endpoint_says(
    reopen: Open, server: MockModel, hours: int, sent: int
) -> None:
    clock = SetClock()
    with reopen() as con:
        ask(con)
    clock.ahead = timedelta(hours=hours)
    with reopen(clock=clock) as con:
        ask(con)
    assert len(server.requests) == sent


def test_a_clock_that_went_back_keeps_answers(reopen: Open, server: MockModel) -> None:
    clock = SetClock()
    clock.ahead = timedelta(hours=-5)
    with reopen() as con:
        ask(con)
    with reopen(clock=clock) as con:
        ask(con)
    assert len(server.requests) == 20


def test_with_the_scope_user_nobody_gets_anothers_answer(reopen: Open, server: MockModel) -> None:
    with reopen() as con:
        con.execute("update fleming.endpoints set cache_scope = 'user'")
        ask(con)
    with reopen("bob") as con:
        ask(con)
        assert len(server.requests) == 40
        ask(con)
    with reopen("ada") as con:
        ask(con)
    assert len(server.requests) == 40


def test_who_may_not_call_gets_no_answer_from_the_log(reopen: Open) -> None:
    with reopen() as con:
        ask(con)
        con.execute("insert into fleming.principals (name, type) values ('ada', 'user')")
        con.execute("insert into fleming.permissions (endpoint, principal) values ('chat', 'ada')")
    with reopen("mallory") as con, pytest.raises(duckdb.Error, match="PERMISSION_DENIED"):
        ask(con)


def test_answers_that_were_not_logged_are_not_given_again(reopen: Open, server: MockModel) -> None:
    with reopen() as con:
        con.execute("update fleming.endpoints set payload_logging = false")
        ask(con)
    with reopen() as con:
        ask(con)
    assert len(server.requests) == 40


def test_answers_that_memory_has_no_room_for_come_from_the_log(tmp_path: Path, add_endpoint: AddEndpoint) -> None:
    """Sixty answers of 900 kB are more than the 128 MiB that are kept."""
    with (
        MockModel(lambda received: chat_reply("x" * 900_000)) as server,
        fleming_sql.connect(tmp_path / "w.duckdb") as con,
    ):
        add_endpoint(con, base_url=server.url)
        for _ in range(2):
            con.execute("select length(ai_query('chat', 'row ' || i)) from range(60) t(i)").fetchall()
        assert len(server.requests) == 60


def test_vectors_that_shared_a_request_are_found_one_by_one(tmp_path: Path, add_endpoint: AddEndpoint) -> None:
    def embed(received: Received) -> Reply:
        texts = received.json()["input"]
        return embeddings_reply([[float(len(text)), 1.0] for text in texts])

    ask = "select ai_query('embed', repeat('x', i::int)) from range(1, 40) t(i) where i % {} = 0 order by i"
    with MockModel(embed) as server:
        with fleming_sql.connect(tmp_path / "w.duckdb") as con:
            add_endpoint(con, "embed", task="llm/v1/embeddings", base_url=server.url)
            con.execute(ask.format(1)).fetchall()
            sent = len(server.requests)
        with fleming_sql.connect(tmp_path / "w.duckdb") as con:
            vectors = [vector for (vector,) in con.execute(ask.format(3)).fetchall()]
    assert [vector[0] for vector in vectors] == [float(i) for i in range(3, 40, 3)]
    assert len(server.requests) == sent


def test_a_statement_that_dbt_repeats_after_a_failure_pays_for_no_row_twice(reopen: Open, server: MockModel) -> None:
    """As its RetryableCursor does: the statement fails after the calls, and is executed again as it is."""
    with reopen() as con:
        con.execute("create table out as select 1 as i")
        statement = f"create table out as {ASK.format(30)}"
        for _ in range(3):
            with pytest.raises(duckdb.CatalogException, match="already exists"):
                con.execute(f"begin; create or replace table x as {ASK.format(30)}; {statement}")
            con.execute("rollback")
    assert len(server.requests) == 30


def test_a_relation_that_is_read_again_and_again_sends_its_rows_once(reopen: Open, server: MockModel) -> None:
    """DuckDB runs a relation anew at each read, as marimo's lazy results and a repr in a notebook do."""
    with reopen() as con:
        relation = con.sql(ASK.format(30))
        first = relation.fetchall()
        assert relation.fetchall() == first
        assert [(text,) for text in relation.pl()["answer"].to_list()] == first
        assert [(text,) for text in relation.df()["answer"]] == first
        assert "row 1" in str(relation)
    assert len(server.requests) == 30


def test_an_expression_that_stands_in_two_places_is_sent_once(reopen: Open, server: MockModel) -> None:
    with reopen() as con:
        con.execute(
            "select ai_query('chat', 'row ' || i) from range(30) t(i) where ai_query('chat', 'row ' || i) <> ''"
        ).fetchall()
    assert len(server.requests) == 30


def test_clearing_says_how_many_answers_there_were(reopen: Open) -> None:
    with reopen() as con:
        ask(con)
        ask(con)
        assert con.execute("select ai_cache_clear('chat')").fetchall() == [(20,)]
        assert con.execute("select ai_cache_clear('chat')").fetchall() == [(0,)]


def test_clearing_holds_for_answers_in_memory_too(reopen: Open, server: MockModel) -> None:
    with reopen() as con:
        ask(con)
        con.execute("select ai_cache_clear()").fetchall()
        ask(con)
    assert len(server.requests) == 40


def test_clearing_an_endpoint_that_does_not_exist_says_so(reopen: Open) -> None:
    with reopen() as con, pytest.raises(duckdb.Error, match=r'no endpoint "chatt".*did you mean "chat"'):
        con.execute("select ai_cache_clear('chatt')").fetchall()
