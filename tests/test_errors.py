"""Bad input and bad providers: each has a clear error, a row in the log and no more calls than it should."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Serve

from fleming_sql import Connection
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, error_reply


def ask(con: Any, sql: str = "select ai_query('chat', 'x')") -> str:
    """Run a statement that must fail, and return the error's text."""
    with pytest.raises(duckdb.Error) as caught:
        con.execute(sql).fetchall()
    return str(caught.value)


def logged(con: Any) -> tuple[Any, ...]:
    """Return status, code and number of attempts of the only call in the log."""
    rows = con.execute("select status_code, error_code, attempts from fleming.serving.inference").fetchall()
    assert len(rows) == 1
    row: tuple[Any, ...] = rows[0]
    return row


def test_an_unknown_endpoint_lists_the_near_names(con: Connection, model: MockModel) -> None:
    text = ask(con, "select ai_query('chta', 'x')")

    assert "RESOURCE_DOES_NOT_EXIST" in text
    assert 'did you mean "chat"?' in text
    assert logged(con) == (404, "RESOURCE_DOES_NOT_EXIST", 0)


def test_an_unknown_endpoint_is_a_row_error_where_the_caller_wants_those(con: Connection) -> None:
    result, message = con.execute(
        "select r.result, r.errorMessage from (select ai_query('nope', 'x', failOnError => false) as r)"
    ).fetchall()[0]

    assert result is None
    assert "there are none yet" in message


def test_a_disabled_endpoint_is_refused(con: Connection, model: MockModel) -> None:
    con.execute("update fleming.endpoints set enabled = false")

    assert "is switched off" in ask(con)
    assert logged(con) == (403, "PERMISSION_DENIED", 0)


BROKEN_ROWS = {
    "endpoint without entity": ("delete from fleming.served_entities", "has no served entity"),
    "unknown provider": ("update fleming.served_entities set provider = 'opnai'", "names the provider"),
    "percentages": ("update fleming.served_entities set traffic_percentage = 60", "sum to 60, not to 100"),
    "unknown credential": ("update fleming.served_entities set credential = 'k'", "names the credential"),
    "address": (
        "update fleming.served_entities set base_url = 'example.com'",
        "not an http or https address",
    ),
    "address with a password": (
        "update fleming.served_entities set base_url = 'http://u:p@h'",
        "user name or password",
    ),
    "task": ("update fleming.endpoints set task = 'custom'", "cannot serve the task custom"),
    "parameters": ("update fleming.served_entities set parameters = '[1]'", "JSON of type ARRAY"),
    "defaults": ("update fleming.endpoints set default_parameters = '1'", "JSON of type"),
    "config key": (
        "update fleming.served_entities set provider_config = '{\"foo\": 1}'",
        'has the key "foo"',
    ),
    "plain secret": (
        'update fleming.served_entities set provider_config = \'{"openai_api_key": "sk-very-secret"}\'',
        "as plain text",
    ),
    "secret reference": (
        'update fleming.served_entities set provider_config = \'{"openai_api_key": "{{secrets/a/b}}"}\'',
        'refers to the credential "a/b"',
    ),
}


@pytest.mark.parametrize("case", BROKEN_ROWS)
def test_a_broken_row_shows_in_config_problems_and_fails_calls_with_the_same_words(
    con: Connection, model: MockModel, case: str
) -> None:
    change, words = BROKEN_ROWS[case]
    con.execute("insert into fleming.model_prices (provider, model, input_per_million) values ('openai', '*', 0)")
    con.execute(change)

    [(problem, remedy)] = con.execute("select problem, remedy from fleming.config_problems").fetchall()
    text = ask(con)

    assert words in problem
    assert problem in text
    assert remedy in text
    assert "sk-very-secret" not in text
    assert model.request_count == 0
    assert logged(con) == (400, "CONFIG_PROBLEM", 0)


def test_an_entity_of_no_endpoint_is_a_problem(con: Connection) -> None:
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('ghost', 'g', 'simulated')")

    assert con.execute("select table_name, column_name from fleming.config_problems").fetchall() == [
        ("served_entities", "endpoint")
    ]


@pytest.mark.parametrize("insert", ["('x', 'nonsense')", "('', 'llm/v1/chat')"])
def test_impossible_rows_are_refused_by_the_table(con: Connection, insert: str) -> None:
    with pytest.raises(duckdb.ConstraintException):
        con.execute(f"insert into fleming.endpoints (name, task) values {insert}")


CREDENTIALS = {
    "missing variable": (
        "env",
        "FLEMING_TEST_NO_SUCH_VARIABLE",
        "FLEMING_TEST_NO_SUCH_VARIABLE is not set or empty",
    ),
    "missing file": ("file", "/no/such/file", "No such file"),
    "failing command": ("command", "false", "ended with status 1"),
    "missing command": ("command", "no-such-command-here", "cannot be run"),
    "empty command": ("command", "true", "printed nothing"),
    "keyring form": ("keyring", "only-service", "not of the form service/user"),
}


@pytest.mark.parametrize("case", CREDENTIALS)
def test_a_credential_that_cannot_be_had_is_an_error_that_says_which(
    con: Connection, model: MockModel, case: str
) -> None:
    source, reference, words = CREDENTIALS[case]
    con.execute("insert into fleming.credentials values ('key', ?, ?)", [source, reference])
    con.execute("update fleming.served_entities set credential = 'key'")

    text = ask(con)

    assert words in text
    assert "fleming.credentials, row key" in text
    assert logged(con) == (400, "CREDENTIAL_ERROR", 0)
    assert model.request_count == 0


def test_a_public_provider_without_a_credential_is_an_error(con: Connection, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "chat")

    assert "needs a credential" in ask(con)


STATUSES = [
    (400, "BAD_REQUEST", 1, "check the request"),
    (401, "UNAUTHENTICATED", 1, "check the column credential"),
    (403, "PERMISSION_DENIED", 1, "check the column credential"),
    (404, "RESOURCE_DOES_NOT_EXIST", 1, "base_url and model"),
    (413, "REQUEST_TOO_LARGE", 1, "shorten the request"),
    (422, "UNPROCESSABLE_ENTITY", 1, "check the request"),
    (429, "REQUEST_LIMIT_EXCEEDED", 3, "lower fleming.endpoints.max_concurrency"),
    (500, "INTERNAL_ERROR", 3, "the fault is the provider's"),
    (529, "OVERLOADED", 3, "the fault is the provider's"),
]


@pytest.mark.parametrize(("status", "code", "attempts", "advice"), STATUSES)
def test_an_error_status_is_told_with_what_to_change(
    con: Connection, serve: Serve, status: int, code: str, attempts: int, advice: str
) -> None:
    server = serve(lambda received: error_reply(status, "the reason", headers={"retry-after": "0"}), max_retries=2)

    text = ask(con)

    assert "the reason" in text
    assert advice in text
    assert 'endpoint "chat"' in text
    assert f"HTTP status {status}" in text
    assert "request id" in text
    assert server.request_count == attempts
    assert logged(con) == (status, code, attempts)
    condition = "REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT" if attempts > 1 else "REMOTE_FUNCTION_HTTP_FAILED_ERROR"
    assert condition in text


def test_a_passing_error_is_retried_and_then_is_none(con: Connection, serve: Serve) -> None:
    replies = iter([error_reply(429, "slow down", headers={"retry-after-ms": "1"}), chat_reply("fine")])
    serve(lambda received: next(replies))

    assert con.execute("select ai_query('chat', 'x')").fetchall() == [("fine",)]
    attempts = con.execute("select reason, status_code, error_code from fleming.serving.attempts order by started_at")
    assert attempts.fetchall() == [("first", 429, "REQUEST_LIMIT_EXCEEDED"), ("retry", 200, None)]


def test_calls_that_wait_for_a_retry_when_the_statement_fails_keep_their_own_failure(
    con: Connection, serve: Serve
) -> None:
    def refuse(received: Received) -> Reply:
        text = received.json()["messages"][0]["content"]
        if text != "q0":
            return error_reply(503, "busy", headers={"retry-after": "30"})
        return error_reply(400, "bad").delayed(0.5)

    serve(refuse, max_concurrency=8)

    ask(con, "select ai_query('chat', 'q' || i) from range(100) t(i)")

    statuses = con.execute("select status_code, count(*) from fleming.serving.inference group by 1 order by 1")
    assert statuses.fetchall() == [(400, 1), (503, 7)]


def test_a_near_name_is_found_in_any_case(con: Connection, model: MockModel) -> None:
    assert 'did you mean "chat"?' in ask(con, "select ai_query('CHAT', 'x')")


BAD_BODIES = {
    "not JSON": (Reply(body="<html>busy</html>"), "the answer is not JSON"),
    "empty": (Reply(body=b""), "the answer is not JSON"),
    "no choices": (Reply(body={"id": "x"}), "choices"),
    "empty choices": (Reply(body={"choices": []}), "choices"),
    "null content": (chat_reply(None), "content is null"),
    "refusal": (chat_reply(None, refusal="I will not"), "I will not"),
    "truncated": (
        Reply(body={"choices": [{"message": {"content": "x" * 200}}]}, cut_after=50),
        "connection was lost",
    ),
    "dropped": (Reply(drop=True), "connection was lost"),
    "not an object": (Reply(body=[1, 2]), "AI_FUNCTION_INVALID_HTTP_RESPONSE"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_answer_is_told_and_not_paid_for_twice(con: Connection, serve: Serve, case: str) -> None:
    reply, words = BAD_BODIES[case]
    server = serve(lambda received: reply)

    text = ask(con)

    assert words in text
    assert server.request_count == 1
    assert logged(con)[0] == 502


def test_a_redirect_is_not_followed(con: Connection, serve: Serve) -> None:
    elsewhere = MockModel(lambda received: chat_reply("stolen"))
    with elsewhere:
        server = serve(lambda received: Reply(status=307, headers={"location": elsewhere.url}))

        text = ask(con)

    assert "redirects are not followed" in text
    assert server.request_count == 1
    assert elsewhere.request_count == 0


def test_an_answer_longer_than_the_limit_is_refused(con: Connection, serve: Serve) -> None:
    serve(lambda received: chat_reply("x" * 10_000), max_response_bytes=1000)

    assert "longer than 1000 bytes" in ask(con)
    assert logged(con)[:2] == (502, "MAX_RESPONSE_SIZE_EXCEEDED")


def test_no_answer_in_time_is_a_timeout_and_not_sent_again(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: Reply(hang=True), timeout_ms=150)

    assert "no whole answer came within" in ask(con)
    assert server.request_count == 1
    assert logged(con) == (504, "DEADLINE_EXCEEDED", 1)
    server.wait_until(lambda server: server.abandoned == 1)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_a_refused_connection_names_the_address(con: Connection, add_endpoint: AddEndpoint, closed_port: int) -> None:
    add_endpoint(con, base_url=f"http://127.0.0.1:{closed_port}", max_retries=0)

    assert f"no connection to 127.0.0.1:{closed_port}: connection refused" in ask(con)
    assert logged(con) == (503, "CONNECTION_FAILED", 1)


def test_a_connection_that_is_not_made_in_time_is_told(con: Connection, add_endpoint: AddEndpoint) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        waiting = [socket.socket() for _ in range(8)]
        for one_too_many in waiting:  # nobody accepts them, so that those who come later are not answered
            one_too_many.setblocking(False)
            one_too_many.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        add_endpoint(con, base_url=url, max_retries=0, connect_timeout_ms=200)

        text = ask(con)
        for one_too_many in waiting:
            one_too_many.close()

    assert "not made in time" in text
    assert logged(con) == (503, "CONNECTION_FAILED", 1)


def test_an_unknown_host_is_named(con: Connection, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, base_url="http://no-such-host.invalid", max_retries=0)

    assert "no-such-host.invalid is not known" in ask(con)


@pytest.fixture
def plain_server() -> Iterator[int]:
    """A server that answers whatever comes in plain text, as an HTTP server does to a TLS greeting."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        try:
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        except OSError:
            return  # the listener was closed

    thread = threading.Thread(target=answer)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_failed_tls_handshake_is_told(con: Connection, add_endpoint: AddEndpoint, plain_server: int) -> None:
    add_endpoint(con, base_url=f"https://127.0.0.1:{plain_server}", max_retries=0)

    assert "TLS" in ask(con)
    assert logged(con)[:2] == (503, "CONNECTION_FAILED")


ARGUMENTS = {
    "temperature": ("modelParameters => {'temperature': 9}", "INVALID_NUMERIC_PARAMETER"),
    "parameter type": ("modelParameters => {'max_tokens': 'many'}", "INVALID_PARAMETER_DATA_TYPE"),
    "reserved": ("modelParameters => {'messages': 'x'}", "FOUND_RESERVED_PARAMETER_NAME"),
    "parameters not a struct": ("modelParameters => 'x'", "the argument modelParameters takes a STRUCT"),
    "return type": ("returnType => 'StringType'", "AI_FUNCTION_UNSUPPORTED_RETURN_TYPE"),
    "broken type": ("returnType => 'STRUCT<a: INT'", "AI_FUNCTION_UNSUPPORTED_RETURN_TYPE"),
    "return type not text": ("returnType => 5", "the argument returnType takes text"),
    "fail on error": ("failOnError => 'no'", "the argument failOnError takes true or false"),
    "fail on error null": ("failOnError => null", "the argument failOnError takes true or false"),
    "cache": ("cache => 1", "the argument cache takes true or false"),
    "context": ("usageContext => 'team'", "the argument usageContext takes a MAP or STRUCT"),
    "nested context": ("usageContext => {'a': [1]}", "usageContext takes texts"),
    "file path": ("files => 'cat.png'", "the argument files takes a BLOB"),
    "format word": ("responseFormat => 'yaml'", "AI_FUNCTION_INVALID_RESPONSE_FORMAT_TYPE"),
    "bare schema": (
        """responseFormat => '{"type": "object", "properties": {}}'""",
        "AI_FUNCTION_UNSUPPORTED_RESPONSE_FORMAT",
    ),
    "two fields": (
        "responseFormat => 'STRUCT<a: STRUCT<x: INT>, b: STRUCT<y: INT>>'",
        "Only one field is allowed on the top-level",
    ),
    "list field": ("responseFormat => 'STRUCT<a: ARRAY<INT>>'", "should be StructType"),
    "schema of an array": (
        """responseFormat => '{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"array"}}}'""",
        "AI_FUNCTION_INVALID_RESPONSE_FORMAT_TYPE",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_wrong_argument_is_an_error_of_the_statement(con: Connection, model: MockModel, case: str) -> None:
    argument, words = ARGUMENTS[case]

    assert words in ask(con, f"select ai_query('chat', 'x', {argument})")
    assert model.request_count == 0


REQUESTS = {
    "a number list": ("[1, 2]", "messages[0] must be"),
    "a struct without messages": ("{'text': 'x'}", "with the field messages"),
    "an empty list of messages": ("{'messages': []::json[]}", "messages must be a list with at least one"),
    "a message without role": ("{'messages': [{'content': 'x'}]}", "messages[0] must be"),
    "a message without content": ("{'messages': [{'role': 'user'}]}", "messages[0] has no content"),
    "the model's name": (
        "{'messages': [{'role': 'user', 'content': 'x'}], 'model': 'gpt'}",
        "the field model",
    ),
    "a blob": ("'x'::blob", "not BLOB"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_that_does_not_fit_is_an_error_that_shows_what_would(
    con: Connection, model: MockModel, case: str
) -> None:
    request, words = REQUESTS[case]

    text = ask(con, f"select ai_query('chat', {request})")

    assert words in text
    assert "AI_FUNCTION_UNSUPPORTED_REQUEST" in text
    assert model.request_count == 0


def test_an_endpoint_from_a_column_is_refused_while_binding(con: Connection, model: MockModel) -> None:
    with pytest.raises(duckdb.BinderException, match="constant"):
        con.execute("select ai_query(e, 'x') from (values ('chat')) v(e)")


def test_a_key_that_a_server_repeats_is_kept_out_of_errors_and_log(
    con: Connection, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEMING_TEST_KEY", "sk-very-secret-1234")
    con.execute("insert into fleming.credentials values ('key', 'env', 'FLEMING_TEST_KEY')")
    server = serve(
        lambda received: error_reply(401, f"Incorrect key: {received.headers['authorization']}"),
        credential="key",
    )

    text = ask(con)

    assert server.requests[0].headers["authorization"] == "Bearer sk-very-secret-1234"
    assert "[REDACTED]" in text
    for table in ("calls", "inference", "attempts", "endpoint_usage", "served_entities"):
        rows = con.execute(f"from fleming.serving.{table}").fetchall()
        assert "sk-very-secret" not in str(rows)


@pytest.mark.parametrize("source", ["env", "file", "command"])
def test_each_source_of_credentials_gives_the_key(
    con: Connection, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, source: str
) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    monkeypatch.setenv("FLEMING_TEST_KEY", "sk-1")
    reference = {"env": "FLEMING_TEST_KEY", "file": str(tmp_path / "key"), "command": "echo sk-1"}[source]
    con.execute("insert into fleming.credentials values ('team/key', ?, ?)", [source, reference])
    server = serve(credential="team/key")

    con.execute("select ai_query('chat', 'x')").fetchall()

    assert server.requests[0].headers["authorization"] == "Bearer sk-1"


def test_a_secret_reference_in_provider_config_is_resolved(
    con: Connection, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEMING_TEST_KEY", "sk-2")
    con.execute("insert into fleming.credentials values ('team/key', 'env', 'FLEMING_TEST_KEY')")
    server = serve(provider_config={"openai_api_key": "{{secrets/team/key}}"})

    con.execute("select ai_query('chat', 'x')").fetchall()

    assert server.requests[0].headers["authorization"] == "Bearer sk-2"
