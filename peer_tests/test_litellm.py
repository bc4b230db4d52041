"""LiteLLM's proxy as an upstream, in the wire formats that it serves."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from fleming_sql import Connection
from peer_tests.servers import serve_as


def _ask(con: Connection, request: str = "'hello'", options: str = "") -> Any:
    return con.execute(f"select ai_query('peer', {request}{options})").fetchall()[0][0]


@pytest.mark.parametrize(
    ("provider", "path", "task"),
    [
        ("openai", "/v1", "llm/v1/chat"),
        ("openai", "/v1", "llm/v1/responses"),
        ("anthropic", "/v1", "llm/v1/chat"),
        ("gemini", "/v1beta", "llm/v1/chat"),
    ],
)
def test_a_chat_in_each_wire_format(con: Connection, litellm_url: str, provider: str, path: str, task: str) -> None:
    serve_as(con, provider, litellm_url + path, "chat", credential="peer", task=task)

    assert _ask(con) == "said: hello"
    usage = "select input_token_count > 0, output_token_count > 0, tokens_estimated from fleming.serving.endpoint_usage"
    assert con.execute(usage).fetchall() == [(True, True, False)]


def test_cached_and_reasoning_tokens_come_through(con: Connection, litellm_url: str) -> None:
    serve_as(con, "openai", litellm_url + "/v1", "chat", credential="peer")
    _ask(con)

    counts = "select cached_input_token_count, reasoning_token_count from fleming.serving.endpoint_usage"
    assert con.execute(counts).fetchall() == [(3, 2)]


def test_embeddings(con: Connection, litellm_url: str) -> None:
    serve_as(con, "openai", litellm_url + "/v1", "embed", credential="peer", task="llm/v1/embeddings")

    assert con.execute("select ai_query('peer', 'a' || n) from range(3) as r(n)").fetchall() == [([0.5, 0.25],)] * 3


def test_a_wrong_key_is_refused_as_such(con: Connection, litellm_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_KEY", "sk-wrong-key-0000")
    serve_as(con, "openai", litellm_url + "/v1", "chat", credential="peer")

    with pytest.raises(duckdb.Error, match=r"code 40[013]") as raised:
        _ask(con)
    assert "sk-wrong-key-0000" not in str(raised.value)


def test_a_busy_model_is_a_429(con: Connection, litellm_url: str) -> None:
    serve_as(con, "openai", litellm_url + "/v1", "busy", credential="peer")

    with pytest.raises(duckdb.Error, match="429"):
        _ask(con)
    assert con.execute("select error_code from fleming.serving.attempts").fetchall() == [("REQUEST_LIMIT_EXCEEDED",)]


def test_a_model_that_is_not_there_is_told(con: Connection, litellm_url: str) -> None:
    serve_as(con, "openai", litellm_url + "/v1", "no-such-model", credential="peer")

    with pytest.raises(duckdb.Error, match=r"code 40[04]"):
        _ask(con)


def test_a_table_of_rows(con: Connection, litellm_url: str) -> None:
    serve_as(con, "openai", litellm_url + "/v1", "chat", credential="peer")

    answers = con.execute("select n, ai_query('peer', 'row ' || n) from range(100) as r(n) order by n").fetchall()

    assert answers == [(n, f"said: row {n}") for n in range(100)]
