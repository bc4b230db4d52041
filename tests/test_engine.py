"""The engine: many at once, identical ones once, fair between statements, and stopped at once when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import duckdb
import pytest
from conftest import Serve

from fleming_sql import Connection
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, echo_chat


def prompt(received: Received) -> str:
    text: str = received.json()["messages"][-1]["content"]
    return text


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run `work` in a thread; its result, or its error, is put into the list."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as error:  # noqa: BLE001  looked at by the test
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, result


def test_more_than_a_thousand_requests_are_in_flight(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: Reply(hang=True), max_concurrency=1500)
    sql = "select ai_query('chat', 'q' || i) from range(1500) t(i)"

    thread, _ = in_thread(lambda: con.execute(sql).fetchall())
    server.wait_until(lambda server: server.in_flight == 1500, timeout_s=60)
    con.interrupt()
    thread.join()

    assert server.peak_in_flight == 1500


def test_an_endpoints_concurrency_is_never_exceeded(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: echo_chat(received).delayed(0.01), max_concurrency=7)

    con.execute("select ai_query('chat', 'q' || i) from range(100) t(i)").fetchall()

    assert server.peak_in_flight == 7


def test_connections_are_kept_alive(con: Connection, serve: Serve) -> None:
    server = serve(max_concurrency=4)

    con.execute("select ai_query('chat', 'q' || i) from range(200) t(i)").fetchall()

    assert server.request_count == 200
    assert server.connections <= 4


def test_identical_rows_are_asked_once_and_logged_each(con: Connection, model: MockModel) -> None:
    sql = "select count(a) from (select ai_query('chat', 'q' || (i % 5)) as a from range(20000) t(i))"

    assert con.execute(sql).fetchall() == [(20000,)]
    assert model.request_count == 5
    logged = "select cache_hit, count(*), count(distinct request) from fleming.serving.inference group by 1 order by 1"
    assert con.execute(logged).fetchall() == [(False, 5, 5), (True, 19995, 5)]


def test_a_repeated_statement_sends_nothing(con: Connection, model: MockModel) -> None:
    for _ in range(3):
        con.execute("select ai_query('chat', 'q' || i) from range(10) t(i)").fetchall()

    assert model.request_count == 10
    hits = con.execute(
        "select count(*), count(distinct reused_request_id), sum(cost_usd), sum(output_token_count) "
        "from fleming.serving.inference join fleming.serving.endpoint_usage using (databricks_request_id, cache_hit) "
        "where cache_hit"
    ).fetchall()
    assert hits == [(20, 10, 0.0, 0)]


@pytest.mark.parametrize(
    "changed",
    [
        "modelParameters => {'max_tokens': 5}",
        'responseFormat => \'{"type": "json_object"}\', failOnError => false',
        "files => '\\x89PNG\\x0D\\x0A\\x1A\\x0A'::blob",
    ],
)
def test_other_parameters_schema_or_file_are_another_request(con: Connection, model: MockModel, changed: str) -> None:
    con.execute("select ai_query('chat', 'q')").fetchall()
    before = model.request_count

    con.execute(f"select ai_query('chat', 'q', {changed})").fetchall()

    assert model.request_count > before


def test_a_changed_endpoint_is_another_request(con: Connection, model: MockModel) -> None:
    con.execute("select ai_query('chat', 'q')").fetchall()
    con.execute("update fleming.served_entities set model = 'newer'")
    con.execute("select ai_query('chat', 'q')").fetchall()

    assert [received.json()["model"] for received in model.requests] == ["mock", "newer"]


@pytest.mark.parametrize("variety", ["{'temperature': 0.7}", "{'n': 2}"])
def test_a_caller_who_wants_variety_gets_it(con: Connection, model: MockModel, variety: str) -> None:
    con.execute(f"select ai_query('chat', 'q', modelParameters => {variety}) from range(4)").fetchall()

    assert model.request_count == 4


def test_a_temperature_inside_the_request_is_variety_too(con: Connection, model: MockModel) -> None:
    request = "{'messages': [{'role': 'user', 'content': 'q'}], 'temperature': 0.7}"
    con.execute(f"select ai_query('chat', {request}) from range(4)").fetchall()

    assert model.request_count == 4


@pytest.mark.parametrize("column", ["cache_ttl_seconds = null", """default_parameters = '{"temperature": 1}'"""])
def test_an_endpoint_can_switch_reuse_off(con: Connection, model: MockModel, column: str) -> None:
    con.execute(f"update fleming.endpoints set {column}")
    con.execute("select ai_query('chat', 'q') from range(4)").fetchall()

    assert model.request_count == 4


def test_an_answer_is_reused_no_longer_than_the_endpoint_says(con: Connection, model: MockModel) -> None:
    con.execute("update fleming.endpoints set cache_ttl_seconds = 0")
    con.execute("select ai_query('chat', 'q')").fetchall()
    con.execute("select ai_query('chat', 'q')").fetchall()

    assert model.request_count == 2


def test_identical_calls_under_way_in_two_threads_are_one(con: Connection, serve: Serve) -> None:
    release = threading.Event()

    def wait(received: Received) -> Reply:
        release.wait(10)
        return chat_reply("shared")

    server = serve(wait)
    cursors = [con.cursor() for _ in range(4)]

    def ask(cursor: Connection) -> Any:
        return cursor.execute("select ai_query('chat', 'q')").fetchall()

    work = [in_thread(partial(ask, cursor)) for cursor in cursors]
    server.wait_until(lambda server: server.in_flight >= 1)
    release.set()
    for thread, _ in work:
        thread.join()

    assert [result for _, result in work] == [[[("shared",)]]] * 4
    assert server.request_count == 1


def test_failures_are_not_reused(con: Connection, serve: Serve) -> None:
    replies = iter([Reply(status=400, body="no"), chat_reply("yes")])
    serve(lambda received: next(replies))

    with pytest.raises(duckdb.Error):
        con.execute("select ai_query('chat', 'q')").fetchall()

    assert con.execute("select ai_query('chat', 'q')").fetchall() == [("yes",)]


def test_a_long_batch_does_not_starve_a_single_call(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: echo_chat(received).delayed(0.02), max_concurrency=4)
    cursor = con.cursor()
    thread, _ = in_thread(lambda: cursor.execute("select ai_query('chat', 'b' || i) from range(600) t(i)").fetchall())
    server.wait_until(lambda server: server.request_count > 20)

    con.execute("select ai_query('chat', 'single')").fetchall()
    asked_until_then = server.request_count
    thread.join()

    assert asked_until_then < 100
    assert server.request_count == 601


@pytest.fixture
def slow(con: Connection, serve: Serve) -> MockModel:
    """A model that does not answer in time for anybody."""
    return serve(lambda received: Reply(hang=True), max_concurrency=50)


SLOW = "select ai_query('chat', 'q' || i) from range(500) t(i)"


def stopped(con: Any, server: MockModel) -> None:
    """The statement is over: nothing under way, everything that was is logged, and the connection works."""
    server.wait_until(lambda server: server.in_flight == 0)
    assert server.request_count == 50
    logged = "select status_code, error_code, attempts, count(*) from fleming.serving.inference group by all"
    assert con.execute(logged).fetchall() == [(499, "CANCELLED", 1, 50)]
    assert con.execute("select error_code, count(*) from fleming.serving.attempts group by all").fetchall() == [
        ("CANCELLED", 50)
    ]


@pytest.mark.parametrize("how", ["execute", "sql"])
def test_interrupt_stops_a_statement_within_a_second(con: Connection, slow: MockModel, how: str) -> None:
    interrupted_at: list[float] = []

    def interrupt() -> None:
        slow.wait_until(lambda server: server.in_flight == 50)
        interrupted_at.append(time.monotonic())
        con.interrupt()

    thread, _ = in_thread(interrupt)
    with pytest.raises(duckdb.Error, match=r"(?i)interrupt"):
        getattr(con, how)(SLOW).fetchall()
    took = time.monotonic() - interrupted_at[0]
    thread.join()

    assert took < 1.0
    stopped(con, slow)


def test_interrupting_one_connection_leaves_the_others_at_work(con: Connection, serve: Serve) -> None:
    server = serve(
        lambda received: Reply(hang=True) if "slow" in prompt(received) else echo_chat(received).delayed(0.2)
    )
    other = con.cursor()
    thread, result = in_thread(lambda: other.execute("select ai_query('chat', 'quick')").fetchall())
    slow_thread, slow_result = in_thread(lambda: con.execute("select ai_query('chat', 'slow')").fetchall())
    server.wait_until(lambda server: server.in_flight == 2)
    con.interrupt()
    thread.join()
    slow_thread.join()

    assert result == [[("echo: quick",)]]
    assert isinstance(slow_result[0], duckdb.Error)


def test_whoever_waits_for_a_call_that_is_interrupted_makes_it_instead(con: Connection, serve: Serve) -> None:
    replies = iter([Reply(hang=True), chat_reply("second")])
    server = serve(lambda received: next(replies))
    leader, follower = con.cursor(), con.cursor()
    leading, led = in_thread(lambda: leader.execute("select ai_query('chat', 'q')").fetchall())
    server.wait_until(lambda server: server.in_flight == 1)
    following, followed = in_thread(lambda: follower.execute("select ai_query('chat', 'q')").fetchall())
    leader.interrupt()
    leading.join()
    following.join()

    assert isinstance(led[0], duckdb.Error)
    assert followed == [[("second",)]]


def test_closing_a_connection_stops_its_statement(con: Connection, slow: MockModel) -> None:
    cursor = con.cursor()
    thread, result = in_thread(lambda: cursor.execute(SLOW).fetchall())
    slow.wait_until(lambda server: server.in_flight == 50)
    began = time.monotonic()
    cursor.close()
    thread.join()

    assert time.monotonic() - began < 1.0
    assert isinstance(result[0], duckdb.Error)
    stopped(con, slow)


CTRL_C = """
import fleming_sql, signal, sys, time, duckdb
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in what runs in the background
kind, url = sys.argv[1:]
con = fleming_sql.connect() if kind == "connect" else fleming_sql.attach(duckdb.connect())
con.execute("insert into fleming.endpoints (name, max_concurrency) values ('chat', 50)")
con.execute("insert into fleming.served_entities (endpoint, name, provider, base_url) "
            "values ('chat', 'm', 'openai', ?)", [url])
try:
    con.sql("select ai_query('chat', 'q' || i) from range(500) t(i)").fetchall()
except (KeyboardInterrupt, RuntimeError, duckdb.Error) as error:
    assert "interrupt" in str(error).lower() or isinstance(error, KeyboardInterrupt), error
print(con.execute("select error_code, count(*) from fleming.serving.inference group by 1").fetchall(), flush=True)
con.close()
"""


@pytest.mark.parametrize("kind", ["connect", "attach"])
def test_ctrl_c_stops_a_statement_within_a_second_and_logs_what_was_under_way(kind: str) -> None:
    with MockModel(lambda received: Reply(hang=True)) as server:
        script = textwrap.dedent(CTRL_C)
        process = subprocess.Popen(
            [sys.executable, "-c", script, kind, server.url], stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        server.wait_until(lambda server: server.in_flight == 50)
        process.send_signal(signal.SIGINT)
        sent_at = time.monotonic()
        assert process.stdout is not None
        shown = process.stdout.readline()
        took = time.monotonic() - sent_at
        process.communicate(timeout=20)

    assert shown == "[('CANCELLED', 50)]\n"
    assert took < 1.0
    assert process.returncode == 0
