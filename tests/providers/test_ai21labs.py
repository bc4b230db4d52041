"""AI21's Jamba models, over real sockets: what is not as at OpenAI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.jsontext import dumps, loads
from fleming_sql.providers.ai21labs import AI21
from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.testing import MockModel, Received, Reply, chat_reply
from fleming_sql.types import CHAT, EMBEDDINGS, ModelRequest, ResponseFormat, ServedEntity

_SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
_FORMAT = '{"type": "json_schema", "json_schema": {"name": "t", "strict": true, "schema": {"type": "object", \
"properties": {"topic": {"type": "string"}}, "required": ["topic"]}}}'
_FIELDS = frozenset(
    {"model", "messages", "tools", "documents", "response_format", "max_tokens", "temperature", "top_p", "stop", "n"}
)


class Jamba:
    """Answers who has the key `k-1` and asks as the reference says."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = reply or chat_reply("hello", prompt_tokens=9, completion_tokens=3)

    def __call__(self, received: Received) -> Reply:
        if received.headers.get("authorization") != "Bearer k-1":
            return Reply(401, {"detail": "Forbidden: Bad or missing API token."})
        if received.path != "/studio/v1/chat/completions":
            return Reply(404, {"detail": "Not Found"})
        body = received.json()
        wrong = [message for message in body["messages"] if not isinstance(message["content"], str)]
        if wrong or body.keys() - _FIELDS or body.get("response_format", {}).get("type") == "json_schema":
            detail = {"loc": ["body", "messages", 0, "content"], "msg": "str type expected", "type": "type_error.str"}
            return Reply(422, {"detail": [detail]})
        return self.reply


Start = Callable[..., MockModel]


@pytest.fixture
def start(con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Serve Jamba behind the endpoint `chat`."""
    monkeypatch.setenv("AI21_KEY", "k-1")
    con.execute("insert into fleming.credentials values ('team/key', 'env', 'AI21_KEY')")

    def serve_it(api: Callable[[Received], Reply] | None = None, **columns: Any) -> MockModel:
        settings = {"model": "jamba-large", "credential": "team/key", "max_retries": 0, "cache_ttl_seconds": None}
        return serve(api or Jamba(), provider="ai21labs", path="/studio/v1", **{**settings, **columns})

    return serve_it


def _one(con: Con, sql: str) -> Any:
    [row] = con.execute(sql).fetchall()
    return row if len(row) > 1 else row[0]


def _entity(base_url: str | None = None) -> ServedEntity:
    return ServedEntity("id", "chat", "main", "ai21labs", "jamba-mini", base_url, None, 100, 0, {}, {})


def _body(*messages: Mapping[str, Any], wanted: ResponseFormat | None = None, **parameters: Any) -> Any:
    given = messages or ({"role": "user", "content": "hi"},)
    request = ModelRequest(CHAT, parameters, messages=given, response_format=wanted)
    return loads(AI21().encode(_entity(), request).body)


def test_a_prompt_is_answered_and_its_tokens_are_logged(con: Con, start: Start) -> None:
    start()

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"
    columns = "input_token_count, output_token_count"
    assert _one(con, f"select {columns} from fleming.serving.endpoint_usage") == (9, 3)


def test_the_key_may_stand_in_the_provider_config(con: Con, start: Start) -> None:
    start(credential=None, provider_config={"ai21labs_api_key": "{{secrets/team/key}}"})

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"


def test_a_schema_goes_into_the_system_prompt_and_json_mode_is_on(con: Con, start: Start) -> None:
    server = start(Jamba(chat_reply('{"topic":"tax"}')))

    assert _one(con, f"select ai_query('chat', 'hi', responseFormat => '{_FORMAT}')") == '{"topic":"tax"}'

    body = server.requests[0].json()
    assert body["response_format"] == {"type": "json_object"}
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert dumps(_SCHEMA) in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("reply", "status", "words", "requests"),
    [
        (Reply(422, {"detail": [{"msg": "ensure this value is at least 1"}]}), 422, "at least 1", 1),
        (Reply(400, {"detail": "Prompt is empty"}), 400, "Prompt is empty", 1),
        (Reply(429, {"detail": "Rate limit reached"}, {"retry-after": "0"}), 429, "Rate limit reached", 3),
        (Reply(500, {"detail": "Internal error"}, {"retry-after": "0"}), 500, "Internal error", 3),
    ],
)
def test_errors_are_retried_by_their_status_and_told_in_their_words(
    con: Con, start: Start, reply: Reply, status: int, words: str, requests: int
) -> None:
    server = start(Jamba(reply), max_retries=2)

    error = _one(con, "select ai_query('chat', 'hi', failOnError => false).errorMessage")

    assert words in error
    assert f"HTTP status {status})" in error
    assert server.request_count == requests


def test_a_wrong_key_is_told(con: Con, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI21_KEY", "k-2")
    start()

    with pytest.raises(duckdb.Error, match=r"code 401.*Bad or missing API token.*check the credential"):
        _one(con, "select ai_query('chat', 'hi')")


def test_a_picture_is_refused_before_anything_is_sent(con: Con, start: Start) -> None:
    server = start()

    with pytest.raises(duckdb.Error, match="take text only"):
        con.execute("select ai_query('chat', 'x', files => ?::blob)", [b"\x89PNG\r\n\x1a\n" + b"\0" * 8])
    assert server.request_count == 0


def test_its_own_address_is_ai21s() -> None:
    outgoing = AI21().encode(_entity(), ModelRequest(CHAT, {}, messages=({"role": "user", "content": "hi"},)))
    assert outgoing.url == "https://api.ai21.com/studio/v1/chat/completions"


@pytest.mark.parametrize(("base", "required"), [(None, True), ("http://localhost:1", False)])
def test_only_ai21_itself_requires_a_credential(base: str | None, required: bool) -> None:
    assert AI21().requires_credential(_entity(base)) is required


def test_another_task_is_refused() -> None:
    with pytest.raises(BadProviderRequest, match=EMBEDDINGS):
        AI21().encode(_entity(), ModelRequest(EMBEDDINGS, {}, inputs=("a",)))


def test_parts_of_text_become_one_text_and_a_developer_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert _body({"role": "developer", "content": parts})["messages"] == [{"role": "system", "content": "ab"}]


def test_a_schema_is_added_to_the_system_prompt_that_is_there() -> None:
    wanted = ResponseFormat("json_schema", "t", _SCHEMA, True)
    [first, _] = _body({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}, wanted=wanted)[
        "messages"
    ]
    assert first["content"].startswith("Be brief.\n\nAnswer with one JSON object")


def test_a_limit_on_tokens_has_one_name() -> None:
    assert _body(max_completion_tokens=5)["max_tokens"] == 5


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("presence_penalty", 1), ("logprobs", True), ("reasoning_effort", "low")]
)
def test_a_parameter_without_a_place_is_named(name: str, value: Any) -> None:
    with pytest.raises(BadProviderRequest, match=f'"{name}"'):
        _body(**{name: value})
