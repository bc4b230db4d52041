"""Faults found by attack, each kept from coming back."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from conftest import AddEndpoint, Serve

import fleming_sql
from fleming_sql import Connection
from fleming_sql.engine import Engine
from fleming_sql.errors import CallCancelled
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, echo_chat, embeddings_reply, error_reply


def fail(con: Any, sql: str) -> str:
    with pytest.raises(duckdb.Error) as caught:
        con.execute(sql).fetchall()
    return str(caught.value)


def one(con: Any, sql: str) -> Any:
    return con.execute(sql).fetchall()[0]


def test_connecting_again_and_again_leaves_a_running_statement_alone(tmp_path: Path, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as server, fleming_sql.connect(tmp_path / "w.duckdb") as con:
        add_endpoint(con, base_url=server.url)
        rows: list[Any] = []
        sql = "select count(a) from (select ai_query('chat', 'q' || i) as a from range(6000) t(i))"
        thread = threading.Thread(target=lambda: rows.extend(con.cursor().execute(sql).fetchall()))
        thread.start()
        while thread.is_alive():
            fleming_sql.connect(tmp_path / "w.duckdb").close()
        thread.join()

        assert rows == [(6000,)]
        assert one(con, "select count(*) from fleming.serving.inference") == (6000,)


def test_connections_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        for _ in range(20):
            fleming_sql.connect(tmp_path / "w.duckdb").close()

        assert len(con._session._kept) == 1


def test_a_count_that_cannot_be_true_is_estimated(con: Connection, serve: Serve) -> None:
    serve(lambda received: chat_reply("x" * 39, prompt_tokens=2**64 - 1))

    con.execute("select ai_query('chat', 'q')").fetchall()

    usage = "select input_token_count, tokens_estimated from fleming.serving.endpoint_usage"
    assert one(con, usage) == (0, True)


def test_a_record_that_cannot_be_written_does_not_stop_the_log(con: Connection, model: MockModel) -> None:
    with fleming_sql.connect(user="bad \udcff name") as other:
        other.execute("select ai_query('none', 'x', failOnError => false)").fetchall()
        assert one(other, "select requester from fleming.serving.inference") == ("bad ? name",)


def test_a_retry_after_beyond_the_deadline_ends_embedding_calls_at_once(con: Connection, serve: Serve) -> None:
    serve(
        lambda received: error_reply(429, "later", headers={"retry-after": "86400"}),
        name="embed",
        task="llm/v1/embeddings",
        timeout_ms=2000,
    )

    rows = con.execute(
        "select ai_query('embed', i::varchar, failOnError => false).errorMessage from range(5) t(i)"
    ).fetchall()

    assert all("REMOTE_FUNCTION_HTTP_FAILED_ERROR" in message for (message,) in rows)


def test_json_that_only_duckdb_reads_is_that_endpoints_problem_alone(con: Connection, model: MockModel) -> None:
    con.execute("""insert into fleming.endpoints (name, default_parameters) values ('bad', '{"temperature": 0.5,}')""")
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('bad', 'b', 'simulated')")

    assert con.execute("select ai_query('chat', 'x')").fetchall() == [("echo: x",)]
    text = fail(con, "select ai_query('bad', 'x')")
    assert "default_parameters is not valid JSON" in text
    assert "row bad" in text


def test_an_error_nested_a_thousand_levels_deep_is_a_failure_like_others(con: Connection, serve: Serve) -> None:
    serve(lambda received: Reply(status=400, body=b'{"error":' * 990 + b'"x"' + b"}" * 990))

    assert "REMOTE_FUNCTION_HTTP_FAILED_ERROR" in fail(con, "select ai_query('chat', 'x')")
    assert one(con, "select status_code, attempts from fleming.serving.inference") == (400, 1)


def test_an_answer_nested_too_deep_to_look_for_the_key_is_a_failure(
    con: Connection, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEMING_TEST_KEY", "sk-very-secret")
    con.execute("insert into fleming.credentials values ('key', 'env', 'FLEMING_TEST_KEY')")
    serve(lambda received: Reply(body=b'{"error":' * 1000 + b'"sk-very-secret \\n"' + b"}" * 1000), credential="key")

    text = fail(con, "select ai_query('chat', 'x')")

    assert "AI_FUNCTION_INVALID_HTTP_RESPONSE" in text
    assert "sk-very-secret" not in text + str(con.execute("from fleming.serving.calls").fetchall())


@pytest.mark.parametrize("error", [ValueError("sk-hidden"), RuntimeError(), httpx.DecodingError("bad gzip"), OSError()])
def test_whatever_a_transport_raises_is_a_logged_failure(add_endpoint: AddEndpoint, error: Exception) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    with fleming_sql.connect(transport=httpx.MockTransport(answer)) as con:
        add_endpoint(con, base_url="http://model.internal", max_retries=0)

        (message,) = one(con, "select ai_query('chat', 'x', failOnError => false).errorMessage")

        assert type(error).__name__ in message
        assert "sk-hidden" not in message
        assert one(con, "select attempts from fleming.serving.inference") == (1,)


def test_each_request_for_embeddings_is_in_the_log_the_refused_ones_too(con: Connection, serve: Serve) -> None:
    def at_most_two(received: Received) -> Reply:
        texts = received.json()["input"]
        return error_reply(413, "too large") if len(texts) > 2 else embeddings_reply([[1.0]] * len(texts))

    server = serve(at_most_two, name="embed", task="llm/v1/embeddings")

    con.execute("select ai_query('embed', i::varchar) from range(8) t(i)").fetchall()

    assert one(con, "select count(*) from fleming.serving.attempts") == (server.request_count,)
    assert one(con, "select count(*) from fleming.serving.attempts where status_code = 413") == (3,)


def test_embedding_requests_that_are_broken_off_are_in_the_log(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: Reply(hang=True), name="embed", task="llm/v1/embeddings")

    def interrupt() -> None:
        server.wait_until(lambda server: server.in_flight == 3)
        con.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    fail(con, "select ai_query('embed', i::varchar) from range(600) t(i)")
    thread.join()

    server.wait_until(lambda server: server.in_flight == 0)
    assert one(con, "select count(*), any_value(error_code) from fleming.serving.attempts") == (3, "CANCELLED")
    assert one(con, "select count(*), any_value(status_code) from fleming.serving.inference") == (600, 499)


KEY = "sk-very-secret+1/2"
ECHOES: dict[str, Callable[[str], Reply]] = {
    "answer": lambda key: chat_reply(f"your key is {key}"),
    "error": lambda key: error_reply(401, f"bad key {key}"),
    "text across the cut": lambda key: Reply(status=401, body="x" * 1990 + key),
    "escaped": lambda key: Reply(
        status=401,
        body=json.dumps({"error": key}).replace("/", "\\/").replace("+", "\\u002B"),
        headers={"content-type": "application/json"},
    ),
    "escaped answer": lambda key: Reply(
        body=json.dumps(chat_reply(f"key {key}").body).replace("/", "\\/").replace("+", "\\u002B"),
        headers={"content-type": "application/json"},
    ),
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("arguments", ["", ", returnType => 'INT'", """, responseFormat => '{"type":"json_object"}'"""])
def test_a_key_that_comes_back_in_any_form_is_taken_out(
    con: Connection, serve: Serve, monkeypatch: pytest.MonkeyPatch, echo: str, arguments: str
) -> None:
    monkeypatch.setenv("FLEMING_TEST_KEY", KEY)
    con.execute("insert into fleming.credentials values ('key', 'env', 'FLEMING_TEST_KEY')")
    server = serve(lambda received: ECHOES[echo](KEY), credential="key")

    shown = con.execute(f"select ai_query('chat', 'q', failOnError => false{arguments})").fetchall()
    kept = con.execute("from fleming.serving.calls").fetchall()

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    for text in (str(shown), str(kept)):
        for form in (KEY, KEY[:12], "\\u002B1", "\\/2"):
            assert form not in text


def test_a_key_that_is_a_number_of_the_answer_does_not_break_it(
    con: Connection, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEMING_TEST_KEY", "123456789")
    con.execute("insert into fleming.credentials values ('key', 'env', 'FLEMING_TEST_KEY')")
    serve(lambda received: chat_reply("fine", prompt_tokens=123456789), credential="key")

    assert one(con, "select ai_query('chat', 'q')") == ("fine",)
    assert "123456789" not in one(con, "select response from fleming.serving.inference")[0]


def test_payload_logging_false_keeps_contents_out_of_error_texts_too(con: Connection, serve: Serve) -> None:
    replies = iter([chat_reply("the patient said"), error_reply(400, "cannot process: the patient said")])
    serve(lambda received: next(replies), payload_logging=False)

    assert "the patient said" in fail(con, "select ai_query('chat', 'q1', returnType => 'INT')")
    fail(con, "select ai_query('chat', 'q2')")

    rows = con.execute("from fleming.serving.calls").fetchall()
    assert "patient" not in str(rows)
    assert "AI_FUNCTION_HTTP_PARSE_CAST_ERROR" in str(rows)


def test_the_message_of_an_attempt_is_bounded(con: Connection, serve: Serve) -> None:
    serve(lambda received: error_reply(400, "y" * 1_000_000))

    fail(con, "select ai_query('chat', 'q')")

    assert one(con, "select max(length(error_message)) < 1000 from fleming.serving.attempts") == (True,)


def test_a_proxys_password_is_not_shown(
    con: Connection, add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MockModel(lambda received: Reply(status=407)) as proxy:
        address = proxy.url.removeprefix("http://")
        monkeypatch.setenv("https_proxy", f"http://user:pa55word@{address}")
        monkeypatch.setenv("no_proxy", "")
        add_endpoint(con, base_url="https://model.example", max_retries=0)

        text = fail(con, "select ai_query('chat', 'q')")

    assert "proxy answered with HTTP 407" in text
    assert "pa55word" not in text


def test_work_that_is_cancelled_before_it_runs_does_not_run() -> None:
    class Work:
        def __init__(self) -> None:
            self.cancelled = False

        async def run(self) -> str:
            if self.cancelled:
                raise CallCancelled("cancelled")
            return "ran"

        def cancel(self) -> None:
            self.cancelled = True

    async def nothing() -> None:
        return None

    engine, work = Engine(lambda: None), Work()
    with engine.owned(work, owner=7):
        engine.cancel(7)
        with pytest.raises(CallCancelled):
            engine.run(work)
    engine.close(nothing)


def test_a_forked_process_that_ends_does_not_touch_the_parents_files(tmp_path: Path) -> None:
    script = """
        import os, signal, sys, warnings, fleming_sql
        warnings.simplefilter("ignore")
        con = fleming_sql.connect(sys.argv[1])
        con.execute("insert into fleming.endpoints (name) values ('chat')")
        con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('chat', 'm', 'simulated')")
        con.execute("select ai_query('chat', 'a' || i) from range(100) t(i)").fetchall()
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        con.execute("create table kept as select ai_query('chat', 'b' || i) as a from range(100) t(i)")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "w.duckdb")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == -9, done.stderr
    with fleming_sql.connect(tmp_path / "w.duckdb") as con:
        assert one(con, "select count(*) from fleming.serving.inference") == (200,)
        assert one(con, "select count(*) from kept") == (100,)


def test_not_a_number_among_the_parameters_is_told(con: Connection, model: MockModel) -> None:
    text = fail(con, "select ai_query('chat', 'q', modelParameters => {'temperature': 'nan'::double})")

    assert "AI_FUNCTION_INVALID_MODEL_PARAMETERS" in text
    assert model.request_count == 0


@pytest.mark.parametrize("gateway", ["", "a\0b", "md:other", "s3://bucket/store"])
def test_a_store_that_is_no_file_is_refused_before_anything_is_opened(gateway: str) -> None:
    with pytest.raises(fleming_sql.FlemingError, match="gateway="):
        fleming_sql.connect(gateway=gateway)
