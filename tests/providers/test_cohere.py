"""Cohere's API, version 2, over real sockets: chat, embed, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.cohere import Cohere
from fleming_sql.testing import MockModel, Received, Reply
from fleming_sql.types import CHAT, COMPLETIONS, EMBEDDINGS, ModelRequest, ResponseFormat, ServedEntity

_PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
_SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
_FORMAT = '{"type": "json_schema", "json_schema": {"name": "t", "strict": true, "schema": {"type": "object", \
"properties": {"topic": {"type": "string"}}, "required": ["topic"]}}}'
_MESSAGES = [{"role": "user", "content": "hi"}]


def written(*parts: Mapping[str, Any], reason: str = "COMPLETE", **usage: Any) -> Reply:
    """Return an answer of `/v2/chat`."""
    counts = {"billed_units": {"input_tokens": 9, "output_tokens": 3}, "tokens": {"input_tokens": 70}, **usage}
    message = {"role": "assistant", "content": [*parts]}
    return Reply(body={"id": "c-1", "finish_reason": reason, "message": message, "usage": counts})


class CohereApi:
    """Answers who has the key `k-1` and asks as the reference says."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = reply or written({"type": "text", "text": "hello"})

    def __call__(self, received: Received) -> Reply:
        if received.headers.get("authorization") != "Bearer k-1":
            return Reply(401, {"id": "e-1", "message": "invalid api token"})
        body = received.json()
        if received.path == "/v2/chat":
            needed = body.keys() >= {"model", "messages"}
            return self.reply if needed else Reply(400, {"message": "invalid request: messages is missing"})
        if received.path == "/v2/embed":
            return _embed(body)
        return Reply(404, {"message": f"{received.path} not found"})


def _embed(body: Any) -> Reply:
    if body.get("input_type") not in ("search_document", "search_query") or body["embedding_types"] != ["float"]:
        return Reply(400, {"message": "invalid request: valid input_type must be provided with the provided model"})
    if len(body["texts"]) > 96:
        return Reply(400, {"message": "invalid request: total number of texts must be at most 96"})
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2 * len(body["texts"])}}
    vectors = [[float(text[1:]), 0.5] for text in body["texts"]]
    return Reply(body={"id": "e-1", "embeddings": {"float": vectors}, "texts": body["texts"], "meta": meta})


Start = Callable[..., MockModel]


@pytest.fixture
def start(con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Serve the API behind the endpoint `chat`."""
    monkeypatch.setenv("COHERE_KEY", "k-1")
    con.execute("insert into fleming.credentials values ('team/key', 'env', 'COHERE_KEY')")

    def serve_it(api: Callable[[Received], Reply] | None = None, **columns: Any) -> MockModel:
        settings = {"model": "command-a-03-2025", "credential": "team/key", "max_retries": 0}
        return serve(api or CohereApi(), provider="cohere", **{**settings, "cache_ttl_seconds": None, **columns})

    return serve_it


def _one(con: Con, sql: str, *parameters: Any) -> Any:
    [row] = con.execute(sql, [*parameters]).fetchall()
    return row if len(row) > 1 else row[0]


def _entity(base_url: str | None = None, **config: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "main", "cohere", "m-1", base_url, None, 100, 0, {}, config)


def _chat(**parameters: Any) -> ModelRequest:
    return ModelRequest(CHAT, parameters, messages=({"role": "user", "content": "hi"},))


def _settings(request: ModelRequest) -> dict[str, Any]:
    """Return what a request sends beside model and messages."""
    body = loads(Cohere().encode(_entity(), request).body)
    return {key: value for key, value in body.items() if key not in ("model", "messages")}


# ---------------------------------------------------------------- through the front door


def test_a_prompt_is_sent_to_v2_chat_and_answered(con: Con, start: Start) -> None:
    server = start()

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"
    assert server.requests[0].json() == {"model": "command-a-03-2025", "messages": _MESSAGES}


def test_key_and_address_may_stand_in_the_provider_config(con: Con, start: Start) -> None:
    server = start()
    con.execute(
        "update fleming.served_entities set base_url = null, credential = null, provider_config = "
        f'\'{{"cohere_api_base": "{server.url}/v1", "cohere_api_key": "{{{{secrets/team/key}}}}"}}\''
    )

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"


def test_a_schema_is_sent_as_json_schema(con: Con, start: Start) -> None:
    server = start(CohereApi(written({"type": "text", "text": '{"topic":"tax"}'})))

    assert _one(con, f"select ai_query('chat', 'hi', responseFormat => '{_FORMAT}')") == '{"topic":"tax"}'
    assert server.requests[0].json()["response_format"] == {"type": "json_object", "json_schema": _SCHEMA}


def test_a_picture_is_sent_as_image_url(con: Con, start: Start) -> None:
    server = start()

    _one(con, "select ai_query('chat', 'what is it', files => ?::blob)", _PNG)

    text, picture = server.requests[0].json()["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is it"}
    assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def test_texts_share_a_request_and_get_their_own_vectors(con: Con, start: Start) -> None:
    server = start(model="embed-v4.0", task=EMBEDDINGS)

    found = con.execute("select n, ai_query('chat', 't' || n)[1] from range(150) as r(n) order by n").fetchall()

    assert found == [(n, float(n)) for n in range(150)]
    assert {one.json()["input_type"] for one in server.requests} == {"search_document"}
    assert server.request_count < 150
    assert _one(con, "select sum(input_token_count) from fleming.serving.endpoint_usage") == 300


def test_the_input_type_can_be_set(con: Con, start: Start) -> None:
    server = start(model="embed-v4.0", task=EMBEDDINGS, parameters={"input_type": "search_query"})

    _one(con, "select ai_query('chat', 't1')[1]")

    assert server.requests[0].json()["input_type"] == "search_query"


def test_billed_tokens_count_and_thinking_is_no_text(con: Con, start: Start) -> None:
    parts = ({"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hello"})
    start(CohereApi(written(*parts, cached_tokens=6.0)))

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"
    columns = "input_token_count, output_token_count, cached_input_token_count"
    assert _one(con, f"select {columns} from fleming.serving.endpoint_usage") == (9, 3, 6)


@pytest.mark.parametrize(
    ("status", "message", "requests"),
    [
        (400, "invalid request: message must be at least 1 token long", 1),
        (402, "Please add or update your payment method", 1),
        (422, "invalid type: parameter messages is of type string", 1),
        (429, "You are using a Trial key, which is limited to 20 API calls / minute", 3),
        (500, "internal server error", 3),
        (503, "service is temporarily unavailable", 3),
    ],
)
def test_errors_are_retried_by_their_status(con: Con, start: Start, status: int, message: str, requests: int) -> None:
    reply = Reply(status, {"id": "e-1", "message": message}, {"retry-after": "0"})
    server = start(CohereApi(reply), max_retries=2)

    error = _one(con, "select ai_query('chat', 'hi', failOnError => false).errorMessage")

    assert message in error
    assert f"HTTP status {status})" in error
    assert server.request_count == requests


def test_a_wrong_key_is_told(con: Con, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHERE_KEY", "k-2")
    start()

    with pytest.raises(duckdb.Error, match=r"code 401.*invalid api token.*check the credential"):
        _one(con, "select ai_query('chat', 'hi')")


def test_too_many_tokens_go_to_another_model(con: Con, start: Start, also: Callable[..., MockModel]) -> None:
    message = "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292."
    start(CohereApi(Reply(400, {"message": message})), fallback_on=["context_window"])
    also()

    assert _one(con, "select ai_query('chat', 'hi')") == "echo: hi"


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("base", "url"),
    [
        (None, "https://api.cohere.com/v2/chat"),
        ("https://api.cohere.ai/v1", "https://api.cohere.ai/v2/chat"),
        ("http://localhost:1/", "http://localhost:1/v2/chat"),
    ],
)
def test_the_url_ends_in_v2_whatever_version_the_base_names(base: str | None, url: str) -> None:
    assert Cohere().encode(_entity(base), _chat()).url == url


@pytest.mark.parametrize(("base", "required"), [(None, True), ("http://localhost:1", False)])
def test_only_cohere_itself_requires_a_credential(base: str | None, required: bool) -> None:
    assert Cohere().requires_credential(_entity(base)) is required


def test_another_task_is_refused() -> None:
    with pytest.raises(BadProviderRequest, match=COMPLETIONS):
        Cohere().encode(_entity(), ModelRequest(COMPLETIONS, {}, inputs=("hi",)))


def test_a_developer_is_the_system() -> None:
    request = ModelRequest(CHAT, {}, messages=({"role": "developer", "content": "be brief"},))
    body = loads(Cohere().encode(_entity(), request).body)
    assert body["messages"] == [{"role": "system", "content": "be brief"}]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"top_p": 0.5, "top_k": 3}, {"p": 0.5, "k": 3}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"seed": 1, "temperature": 0, "safety_mode": "OFF"}, {"seed": 1, "temperature": 0, "safety_mode": "OFF"}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "high"}, {"thinking": {"type": "enabled"}}),
        ({"tool_choice": "required"}, {"tool_choice": "REQUIRED"}),
        ({"tool_choice": "auto", "n": 1, "logit_bias": {}}, {}),
    ],
)
def test_parameters_are_told_in_coheres_words(given: dict[str, Any], sent: dict[str, Any]) -> None:
    assert _settings(_chat(**given)) == sent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("user", "ada"),
        ("logit_bias", {"1": 2}),
        ("reasoning_effort", "low"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("model", "m-2"),
        ("messages", []),
        ("stream", True),
    ],
)
def test_a_parameter_without_a_place_is_named(name: str, value: Any) -> None:
    with pytest.raises(BadProviderRequest, match=f'"{name}"'):
        _settings(_chat(**{name: value}))


def test_json_object_asks_for_json_alone() -> None:
    request = ModelRequest(CHAT, {}, messages=(_MESSAGES[0],), response_format=ResponseFormat("json_object"))
    assert _settings(request) == {"response_format": {"type": "json_object"}}


def test_dimensions_are_the_output_dimension() -> None:
    request = ModelRequest(EMBEDDINGS, {"dimensions": 256, "encoding_format": "float"}, inputs=("a",))
    assert _settings(request)["output_dimension"] == 256


def test_another_type_of_embeddings_is_refused() -> None:
    with pytest.raises(BadProviderRequest, match='"embedding_types"'):
        _settings(ModelRequest(EMBEDDINGS, {"embedding_types": ["int8"]}, inputs=("a",)))


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("COMPLETE", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("TOOL_CALL", "tool_calls"),
        ("TIMEOUT", "timeout"),
    ],
)
def test_the_finish_reason_is_told_in_the_gateways_words(given: str, reason: str) -> None:
    answer = Cohere().decode(_chat(), written({"type": "text", "text": "x"}, reason=given).body)
    assert answer.finish_reason == reason


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"billed_units": {"input_tokens": 5.0, "output_tokens": 2}, "tokens": {"input_tokens": 70}}, (5, 2, None)),
        ({"tokens": {"input_tokens": 70, "output_tokens": 8}}, (70, 8, None)),
        ({"billed_units": {"input_tokens": 5}, "cached_tokens": 66}, (5, None, 5)),
        ({}, (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_what_is_billed_counts_before_what_was_read(usage: Any, counts: tuple[Any, ...]) -> None:
    payload = {"message": {"content": [{"type": "text", "text": "x"}]}, "usage": usage}
    found = Cohere().decode(_chat(), payload).usage
    assert (found.input_tokens, found.output_tokens, found.cached_input_tokens) == counts


@pytest.mark.parametrize(
    ("payload", "words", "refusal"),
    [
        ("x", "not an object but str", None),
        ({}, "message is missing", None),
        ({"message": {"content": []}, "finish_reason": "ERROR"}, "(no parts), finish_reason ERROR", None),
        ({"message": {"content": [{"type": "thinking"}]}}, "(thinking)", None),
        ({"message": {"content": []}, "finish_reason": "ERROR_TOXIC"}, "the answer was filtered", "content_policy"),
    ],
)
def test_an_answer_without_text_says_what_is_there(payload: Any, words: str, refusal: str | None) -> None:
    with pytest.raises(BadAnswer) as bad:
        Cohere().decode(_chat(), payload)
    assert words in str(bad.value)
    assert bad.value.refusal == refusal


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "embeddings.float is missing"),
        ({"embeddings": {"float": []}}, "0 embeddings for 1 inputs"),
        ({"embeddings": {"float": [["a"]]}}, "embeddings.float[0] is not a list of numbers"),
    ],
)
def test_embeddings_in_another_shape_are_a_bad_answer(payload: Any, words: str) -> None:
    with pytest.raises(BadAnswer) as bad:
        Cohere().decode(ModelRequest(EMBEDDINGS, {}, inputs=("a",)), payload)
    assert words in str(bad.value)
