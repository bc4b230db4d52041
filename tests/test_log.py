"""The log: a full, correct row for every call, whatever became of it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Serve

from fleming_sql import Connection
from fleming_sql.testing import MockModel, Reply, chat_reply


def row(con: Any, columns: str, source: str = "inference") -> tuple[Any, ...]:
    rows = con.execute(f"select {columns} from fleming.serving.{source}").fetchall()
    assert len(rows) == 1
    found: tuple[Any, ...] = rows[0]
    return found


def ask(con: Any, text: str = "x", arguments: str = "") -> None:
    con.execute(f"select ai_query('chat', ?{arguments})", [text]).fetchall()


def test_a_call_leaves_a_full_row_in_each_table(con: Connection, serve: Serve) -> None:
    serve(
        lambda received: chat_reply("four", prompt_tokens=12, completion_tokens=5, cached_tokens=8, reasoning_tokens=2)
    )
    before = datetime.now(UTC).replace(tzinfo=None)

    ask(con, "hello")

    request_id, day, at, endpoint, status, requester, sampled, codes, hit, attempts, version = row(
        con,
        "databricks_request_id, request_date, request_time, endpoint_name, status_code, requester, sampling_fraction, "
        "logging_error_codes, cache_hit, attempts, config_version",
    )
    assert (endpoint, status, requester, sampled, codes, hit, attempts, version) == (
        "chat", 200, "ada", 1.0, [], False, 1, 1,
    )  # fmt: skip
    assert timedelta(0) <= at - before < timedelta(seconds=30)
    assert day == at.date()
    request, response = row(con, "request, response")
    assert json.loads(request) == {"model": "mock", "messages": [{"role": "user", "content": "hello"}]}
    assert json.loads(response)["choices"][0]["message"]["content"] == "four"
    duration, queue, overhead = row(con, "execution_duration_ms, queue_ms, overhead_us")
    assert duration >= 0
    assert queue >= 0
    assert overhead > 0
    usage = row(
        con,
        "databricks_request_id, input_token_count, output_token_count, input_character_count, output_character_count, "
        "cached_input_token_count, reasoning_token_count, tokens_estimated, request_streaming, cost_usd, status_code",
        "endpoint_usage",
    )
    assert usage == (request_id, 12, 5, 5, 4, 8, 2, False, False, None, 200)
    attempt = row(con, "databricks_request_id, status_code, error_code, reason, inputs, served_entity_name", "attempts")
    assert attempt == (request_id, 200, None, "first", 1, "chat-1")


def test_the_columns_follow_databricks(con: Connection) -> None:
    names = [name for name, *_ in con.execute("describe fleming.serving.inference").fetchall()]
    usage = [name for name, *_ in con.execute("describe fleming.serving.endpoint_usage").fetchall()]

    for name in (
        "databricks_request_id", "client_request_id", "request_date", "request_time", "status_code",
        "sampling_fraction", "execution_duration_ms", "request", "response", "served_entity_id",
        "logging_error_codes", "requester",
    ):  # fmt: skip
        assert name in names
    for name in (
        "client_request_id", "databricks_request_id", "requester", "status_code", "request_time",
        "input_token_count", "output_token_count", "input_character_count", "output_character_count",
        "usage_context", "request_streaming", "served_entity_id",
    ):  # fmt: skip
        assert name in usage


def test_databricks_join_of_usage_and_entities_works(con: Connection, model: MockModel) -> None:
    ask(con)

    joined = con.execute(
        "select se.endpoint_name, se.entity_name, sum(eu.input_token_count) from fleming.serving.endpoint_usage eu "
        "join fleming.serving.served_entities se on eu.served_entity_id = se.served_entity_id group by all"
    ).fetchall()
    assert joined == [("chat", "mock", 9)]


def test_tokens_that_the_provider_does_not_tell_are_estimated_and_flagged(con: Connection, serve: Serve) -> None:
    serve(lambda received: Reply(body={"choices": [{"message": {"content": "a" * 39}}]}))

    ask(con, "b" * 79)

    assert row(con, "input_token_count, output_token_count, tokens_estimated", "endpoint_usage") == (20, 10, True)


def test_payload_logging_false_keeps_the_row_without_bodies(con: Connection, serve: Serve) -> None:
    serve(payload_logging=False)

    ask(con)

    assert row(con, "request, response, status_code") == (None, None, 200)
    assert row(con, "input_token_count", "endpoint_usage") == (9,)


def test_usage_tracking_false_keeps_calls_out_of_the_usage_table(con: Connection, serve: Serve) -> None:
    serve(usage_tracking=False)

    ask(con)

    assert row(con, "status_code") == (200,)
    assert con.execute("from fleming.serving.endpoint_usage").fetchall() == []


def test_a_body_over_the_limit_is_left_out_with_its_code(con: Connection, serve: Serve) -> None:
    serve(lambda received: chat_reply("short"), max_logged_bytes=600)

    ask(con, "y" * 700)

    codes, request, response = row(con, "logging_error_codes, request, response")
    assert codes == ["MAX_REQUEST_SIZE_EXCEEDED"]
    assert request is None
    assert "short" in response


def test_the_limit_counts_bytes_not_characters(con: Connection, serve: Serve) -> None:
    serve(lambda received: chat_reply("short"), max_logged_bytes=600)

    ask(con, "é" * 290)

    assert row(con, "logging_error_codes") == (["MAX_REQUEST_SIZE_EXCEEDED"],)


def test_the_answer_of_a_failed_call_is_logged_too(con: Connection, serve: Serve) -> None:
    serve(lambda received: Reply(status=400, body={"error": {"message": "why"}}))

    with pytest.raises(duckdb.Error):
        ask(con)

    status, code, message, request, response = row(con, "status_code, error_code, error_message, request, response")
    assert (status, code) == (400, "BAD_REQUEST")
    assert "why" in message
    assert "messages" in request
    assert json.loads(response) == {"error": {"message": "why"}}


def test_an_answer_that_was_paid_for_counts_though_it_was_of_no_use(con: Connection, serve: Serve) -> None:
    serve(lambda received: chat_reply("not a number", prompt_tokens=7, completion_tokens=3))

    with pytest.raises(duckdb.Error):
        ask(con, arguments=", returnType => 'INT'")

    assert row(con, "input_token_count, output_token_count", "endpoint_usage") == (7, 3)


def test_rows_of_a_statement_share_its_id(con: Connection, model: MockModel) -> None:
    con.execute("select ai_query('chat', 'a' || i) from range(3) t(i)").fetchall()
    con.execute("select ai_query('chat', 'b' || i) from range(2) t(i)").fetchall()

    counts = con.execute("select count(*) from fleming.serving.inference group by statement_id order by 1").fetchall()
    assert counts == [(2,), (3,)]


def test_equal_requests_have_equal_hashes_and_others_do_not(con: Connection, model: MockModel) -> None:
    con.execute("select ai_query('chat', x, cache => false) from (values ('a'), ('a'), ('b')) v(x)").fetchall()

    counts = con.execute("select count(*) from fleming.serving.inference group by request_hash order by 1").fetchall()
    assert counts == [(1,), (2,)]


def test_waiting_for_another_statement_is_queue_time(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: chat_reply("x").delayed(0.3), max_concurrency=1)
    first = threading.Thread(target=lambda: con.cursor().execute("select ai_query('chat', 'first')").fetchall())
    first.start()
    server.wait_until(lambda server: server.in_flight == 1)

    ask(con, "second")
    first.join()

    waited = con.execute("select queue_ms from fleming.serving.inference order by request_time").fetchall()
    assert waited[0][0] < 100
    assert waited[1][0] > 100


def test_a_row_of_one_is_as_full_as_a_row_of_many(con: Connection, model: MockModel) -> None:
    """One record is written by bound values and several by Arrow: both ways give the same."""
    arguments = ", usageContext => map {'team': 'a'}"
    ask(con, "alone", arguments)
    con.execute(f"select ai_query('chat', t{arguments}) from (values ('of-2a'), ('of-2b')) v(t)").fetchall()

    varying = "log_seq, databricks_request_id, request_time, statement_id, request_hash"
    rows = con.execute(
        f"select * exclude ({varying}, execution_duration_ms, queue_ms, overhead_us, request, response, attempts), "
        "list_transform(attempts, lambda a: [a.served_entity_name, a.reason, a.status_code::varchar]) "
        "from fleming.serving.calls"
    ).fetchall()
    assert rows[0] == rows[1] == rows[2]
    times = con.execute("select request_time from fleming.serving.calls").fetchall()
    assert max(times)[0] - min(times)[0] < timedelta(minutes=1)


def test_the_log_can_be_emptied_with_plain_sql(con: Connection, model: MockModel) -> None:
    ask(con)
    con.execute("delete from fleming.serving.calls where request_time < now() at time zone 'UTC' + interval 1 day")

    assert con.execute("from fleming.serving.inference").fetchall() == []


def test_a_call_to_no_endpoint_is_logged(con: Connection, add_endpoint: AddEndpoint) -> None:
    with pytest.raises(duckdb.Error):
        ask(con)

    assert row(con, "endpoint_name, status_code, served_entity_id, requester") == ("chat", 404, None, "ada")
