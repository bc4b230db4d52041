"""The Gemini API, over real sockets: generateContent, batchEmbedContents, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.google.gemini import Gemini
from fleming_sql.testing import MockModel, Received, Reply
from fleming_sql.types import CHAT, COMPLETIONS, EMBEDDINGS, ModelRequest, ResponseFormat, ServedEntity, Task

_PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
_SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
_FORMAT = '{"type": "json_schema", "json_schema": {"name": "t", "strict": true, "schema": {"type": "object", \
"properties": {"topic": {"type": "string"}}, "required": ["topic"]}}}'
_CONTENTS = [{"role": "user", "parts": [{"text": "hi"}]}]


def generated(*parts: Mapping[str, Any], reason: str = "STOP", **counts: Any) -> Reply:
    """Return an answer to generateContent."""
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12, **counts}
    candidate = {"content": {"role": "model", "parts": [*parts]}, "finishReason": reason, "index": 0}
    return Reply(body={"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash-001"})


def failed(status: int, name: str, message: str, *details: Mapping[str, Any]) -> Reply:
    """Return an error in Google's shape."""
    error = {"code": status, "message": message, "status": name, "details": [*details]}
    return Reply(status, {"error": error}, {"retry-after": "0"} if status in (429, 503) else {})


class GeminiApi:
    """Answers who has the key `k-1`, asks for a model that it has and names no field that it does not know."""

    _FIELDS = frozenset({"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "safetySettings"})

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = reply or generated({"text": "hello"})

    def __call__(self, received: Received) -> Reply:
        if received.headers.get("x-goog-api-key") != "k-1" or "authorization" in received.headers:
            reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            return failed(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason)
        body = received.json()
        if received.path == "/v1beta/models/gemini-2.5-flash:generateContent":
            unknown = body.keys() - self._FIELDS
            return failed(400, "INVALID_ARGUMENT", f"Unknown name {unknown}") if unknown else self.reply
        if received.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents":
            return _embed(body)
        return failed(404, "NOT_FOUND", f"{received.path} is not found")


def _embed(body: Any) -> Reply:
    if len(body["requests"]) > 100 or any(one["model"] != "models/gemini-embedding-001" for one in body["requests"]):
        return failed(400, "INVALID_ARGUMENT", "at most 100 requests can be in one batch")
    texts = [one["content"]["parts"][0]["text"] for one in body["requests"]]
    return Reply(body={"embeddings": [{"values": [float(text[1:]), 0.5]} for text in texts]})


Start = Callable[..., MockModel]


@pytest.fixture
def start(con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Serve the API behind the endpoint `chat`."""
    monkeypatch.setenv("GEMINI_KEY", "k-1")
    con.execute("insert into fleming.credentials values ('key', 'env', 'GEMINI_KEY')")

    def serve_it(api: Callable[[Received], Reply] | None = None, **columns: Any) -> MockModel:
        settings = {"model": "gemini-2.5-flash", "credential": "key", "max_retries": 0, "cache_ttl_seconds": None}
        return serve(api or GeminiApi(), provider="gemini", **{**settings, **columns})

    return serve_it


def _one(con: Con, sql: str, *parameters: Any) -> Any:
    [row] = con.execute(sql, [*parameters]).fetchall()
    return row if len(row) > 1 else row[0]


def _usage(con: Con) -> Any:
    return _one(
        con,
        "select input_token_count, output_token_count, cached_input_token_count, reasoning_token_count, service_tier "
        "from fleming.serving.endpoint_usage",
    )


def _entity(model: str = "gemini-2.5-flash", base_url: str | None = None, **config: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "main", "gemini", model, base_url, None, 100, 0, {}, config)


def _body(*messages: Mapping[str, Any], model: str = "gemini-2.5-flash", **parameters: Any) -> dict[str, Any]:
    body = loads(Gemini().encode(_entity(model), _chat(*messages, **parameters)).body)
    assert isinstance(body, dict)
    return body


def _chat(*messages: Mapping[str, Any], **parameters: Any) -> ModelRequest:
    return ModelRequest(CHAT, parameters, messages=messages or ({"role": "user", "content": "hi"},))


def _problem(*messages: Mapping[str, Any], **parameters: Any) -> str:
    with pytest.raises(BadProviderRequest) as problem:
        _body(*messages, **parameters)
    return str(problem.value)


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# ---------------------------------------------------------------- through the front door


def test_a_prompt_is_sent_as_contents_and_answered(con: Con, start: Start) -> None:
    server = start()

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"
    assert server.requests[0].json() == {"contents": _CONTENTS}


def test_the_key_may_stand_in_the_provider_config(con: Con, start: Start) -> None:
    con.execute("update fleming.credentials set name = 'team/key'")
    start(credential=None, provider_config={"gemini_api_key": "{{secrets/team/key}}"})

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"


def test_a_schema_is_sent_as_response_json_schema(con: Con, start: Start) -> None:
    server = start(GeminiApi(generated({"text": '{"topic":"tax"}'})))

    assert _one(con, f"select ai_query('chat', 'hi', responseFormat => '{_FORMAT}')") == '{"topic":"tax"}'
    assert server.requests[0].json()["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": _SCHEMA,
    }


def test_a_picture_is_sent_as_inline_data(con: Con, start: Start) -> None:
    server = start()

    _one(con, "select ai_query('chat', 'what is it', files => ?::blob)", _PNG)

    text, picture = server.requests[0].json()["contents"][0]["parts"]
    assert text == {"text": "what is it"}
    assert picture["inlineData"] == {"mimeType": "image/png", "data": "iVBORw0KGgoAAAAAAAAAAA=="}


def test_texts_share_a_batch_and_get_their_own_vectors(con: Con, start: Start) -> None:
    server = start(model="gemini-embedding-001", task=EMBEDDINGS)

    found = con.execute("select n, ai_query('chat', 't' || n)[1] from range(150) as r(n) order by n").fetchall()

    assert found == [(n, float(n)) for n in range(150)]
    assert sum(len(one.json()["requests"]) for one in server.requests) == 150
    assert server.request_count < 150


def test_thoughts_are_output_and_told_apart(con: Con, start: Start) -> None:
    counts: dict[str, Any] = {"thoughtsTokenCount": 40, "cachedContentTokenCount": 6, "totalTokenCount": 52}
    start(GeminiApi(generated({"text": "hm", "thought": True}, {"text": "hello"}, **counts, serviceTier="flex")))

    assert _one(con, "select ai_query('chat', 'hi')") == "hello"
    assert _usage(con) == (9, 43, 6, 40, "flex")


def test_a_call_costs_what_the_price_list_has_for_google(con: Con, start: Start) -> None:
    start(GeminiApi(generated({"text": "hello"}, thoughtsTokenCount=40, cachedContentTokenCount=6, totalTokenCount=52)))
    _one(con, "select ai_query('chat', 'hi')")

    prices = _one(
        con,
        "select input_per_million, cached_input_per_million, output_per_million from fleming.model_prices "
        "where (provider, model, service_tier) = ('google', 'gemini-2.5-flash', 'default')",
    )
    expected = sum(count * price for count, price in zip((3, 6, 43), prices, strict=True)) / 1e6
    assert _one(con, "select cost_usd from fleming.serving.endpoint_usage") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reply", "status", "requests"),
    [
        (failed(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."), 429, 3),
        (failed(503, "UNAVAILABLE", "The model is overloaded."), 503, 3),
        (failed(500, "INTERNAL", "An internal error has occurred."), 500, 3),
        (failed(400, "INVALID_ARGUMENT", "Unknown name"), 400, 1),
        (failed(403, "PERMISSION_DENIED", "Your API key was reported as leaked."), 403, 1),
        (Reply(429, [failed(429, "RESOURCE_EXHAUSTED", "quota").body], {"retry-after": "0"}), 429, 3),
    ],
)
def test_errors_are_retried_by_their_status(con: Con, start: Start, reply: Reply, status: int, requests: int) -> None:
    server = start(GeminiApi(reply), max_retries=2)

    error = _one(con, "select ai_query('chat', 'hi', failOnError => false).errorMessage")

    assert f"HTTP status {status})" in error
    assert server.request_count == requests
    told = reply.body[0] if isinstance(reply.body, list) else reply.body
    assert isinstance(told, dict)
    assert told["error"]["message"] in error


def test_a_wrong_key_is_told_as_401_though_google_says_400(
    con: Con, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_KEY", "k-2")
    start()

    with pytest.raises(duckdb.Error, match=r"code 401.*API key not valid.*check the credential \"key\""):
        _one(con, "select ai_query('chat', 'hi')")


def test_a_missing_key_is_a_problem_of_the_row(con: Con, add_endpoint: Callable[..., None]) -> None:
    add_endpoint(con, provider="gemini", model="gemini-2.5-flash")

    with pytest.raises(duckdb.Error, match='provider "gemini" needs a credential'):
        _one(con, "select ai_query('chat', 'hi')")


def test_a_blocked_prompt_goes_to_another_model(con: Con, start: Start, also: Callable[..., MockModel]) -> None:
    blocked = Reply(body={"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
    start(GeminiApi(blocked), fallback_on=["content_policy"])
    also()

    assert _one(con, "select ai_query('chat', 'hi')") == "echo: hi"


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("model", "base", "url"),
    [
        ("m", None, "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent"),
        ("m", "http://localhost:1/v1/", "http://localhost:1/v1/models/m:generateContent"),
        ("tunedModels/t", "http://localhost:1", "http://localhost:1/v1beta/tunedModels/t:generateContent"),
    ],
)
def test_the_url_names_version_and_model(model: str, base: str | None, url: str) -> None:
    assert Gemini().encode(_entity(model, base), _chat()).url == url


@pytest.mark.parametrize("task", [COMPLETIONS, "agent/v1/chat"])
def test_another_task_is_refused(task: Task) -> None:
    with pytest.raises(BadProviderRequest, match=task):
        Gemini().encode(_entity(), ModelRequest(task, {}, inputs=("hi",)))


def test_system_messages_become_the_system_instruction() -> None:
    system = [{"role": role, "content": role} for role in ("system", "developer")]
    assert _body(*system, _user("hi")) == {
        "systemInstruction": {"parts": [{"text": "system"}, {"text": "developer"}]},
        "contents": _CONTENTS,
    }


def test_neighbours_of_the_same_role_are_merged() -> None:
    answered = {"role": "assistant", "content": "c"}
    assert _body(_user("a"), _user("b"), answered)["contents"] == [
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
        {"role": "model", "parts": [{"text": "c"}]},
    ]


def test_calls_of_tools_and_their_results_are_translated() -> None:
    call = {"id": "c-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    contents = _body(_user("hi"), called, {"role": "tool", "tool_call_id": "c-1", "content": "3"})["contents"]
    assert contents[1:] == [
        {"role": "model", "parts": [{"functionCall": {"name": "add", "args": {"a": 1}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "add", "response": {"result": 3}}}]},
    ]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("data:image/png;base64,AAAA", {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
        ("gs://b/a.jpg", {"fileData": {"fileUri": "gs://b/a.jpg", "mimeType": "image/jpeg"}}),
        ("https://a.org/a.png?b=1", {"fileData": {"fileUri": "https://a.org/a.png?b=1", "mimeType": "image/png"}}),
    ],
)
def test_an_image_url_becomes_a_part(url: str, part: dict[str, Any]) -> None:
    assert _body(_user([{"type": "image_url", "image_url": {"url": url}}]))["contents"][0]["parts"] == [part]


def test_a_part_in_googles_form_stays_as_it_is() -> None:
    part = {"fileData": {"fileUri": "gs://b/a.mp4", "mimeType": "video/mp4"}, "videoMetadata": {"fps": 1}}
    assert _body(_user([part]))["contents"][0]["parts"] == [part]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "robot", "content": "x"}], "'robot'"),
        ([{"role": "assistant"}], "a text or a list of parts"),
        ([_user([{"type": "input_audio"}])], "'input_audio'"),
        ([_user([{"type": "image_url", "image_url": "https://a.org/a"}])], "must end in what kind it is"),
        ([_user([{"type": "image_url", "image_url": "file:///etc/passwd"}])], "data URL"),
        ([{"role": "system", "content": "x"}], "no user message"),
        ([{"role": "system", "content": [{"type": "image_url", "image_url": "gs://b/a.png"}]}], "text only"),
        ([_user("x"), {"role": "tool", "tool_call_id": "c-9", "content": "x"}], "tool_call_id"),
        ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], "a function with a name"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "must be JSON"),
    ],
)
def test_a_message_without_a_place_is_refused(messages: list[dict[str, Any]], words: str) -> None:
    assert words in _problem(*messages)


def test_settings_are_renamed_and_others_pass_through() -> None:
    config = _body(max_tokens=5, temperature=0, top_p=0.5, top_k=3, seed=1, stop="END", presence_penalty=1, mine=2)
    assert config["generationConfig"] == {
        "maxOutputTokens": 5,
        "temperature": 0,
        "topP": 0.5,
        "topK": 3,
        "seed": 1,
        "stopSequences": ["END"],
        "presencePenalty": 1,
        "mine": 2,
    }


def test_what_stands_beside_the_settings_stays_there() -> None:
    assert _body(safety_settings=[{}], labels={"a": "b"}, service_tier="flex") == {
        "contents": _CONTENTS,
        "safetySettings": [{}],
        "labels": {"a": "b"},
        "serviceTier": "flex",
    }


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "medium", {"thinkingBudget": 8192}),
        ("gemini-3-pro-preview", "low", {"thinkingLevel": "low"}),
        ("gemini-4-argon", "none", {"thinkingLevel": "minimal"}),
    ],
)
def test_the_reasoning_effort_is_a_budget_or_a_level(model: str, effort: str, thinking: dict[str, Any]) -> None:
    assert _body(model=model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": thinking}


@pytest.mark.parametrize("order", [("reasoning_effort", "thinkingConfig"), ("thinkingConfig", "reasoning_effort")])
def test_a_config_of_thoughts_goes_before_the_effort(order: tuple[str, str]) -> None:
    values: dict[str, Any] = {"reasoning_effort": "low", "thinkingConfig": {"thinkingBudget": 7}}
    config = _body(**{name: values[name] for name in order})["generationConfig"]
    assert config == {"thinkingConfig": {"thinkingBudget": 7}}


def test_functions_become_declarations_and_googles_tools_stay() -> None:
    function = {"name": "add", "description": "adds", "parameters": {"type": "object"}, "strict": True}
    body = _body(tools=[{"type": "function", "function": function}, {"googleSearch": {}}], tool_choice="required")
    declaration = {"name": "add", "description": "adds", "parametersJsonSchema": {"type": "object"}}
    assert body["tools"] == [{"functionDeclarations": [declaration]}, {"googleSearch": {}}]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}


def test_a_named_tool_is_the_only_one_allowed() -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    config = _body(tool_choice=choice)["toolConfig"]["functionCallingConfig"]
    assert config == {"mode": "ANY", "allowedFunctionNames": ["add"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("logit_bias", {"1": 2}),
        ("user", "ada"),
        ("stream", True),
        ("reasoning_effort", "extreme"),
        ("tools", {}),
        ("tool_choice", "some"),
        ("contents", []),
        ("responseJsonSchema", {}),
    ],
)
def test_a_parameter_without_a_place_is_named(name: str, value: Any) -> None:
    assert f'"{name}"' in _problem(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("n", 1), ("logprobs", False), ("stream", False), ("temperature", None)])
def test_a_parameter_that_asks_for_nothing_is_left_out(name: str, value: Any) -> None:
    assert _body(**{name: value}) == {"contents": _CONTENTS}


def test_json_object_asks_for_json_alone() -> None:
    request = ModelRequest(CHAT, {}, messages=(_user("hi"),), response_format=ResponseFormat("json_object"))
    body = loads(Gemini().encode(_entity(), request).body)
    assert body["generationConfig"] == {"responseMimeType": "application/json"}


def test_settings_of_embeddings_stand_in_each_request() -> None:
    parameters = {"dimensions": 3, "task_type": "CLUSTERING", "encoding_format": "float"}
    request = ModelRequest(EMBEDDINGS, parameters, inputs=("a",))
    [one] = loads(Gemini().encode(_entity("e"), request).body)["requests"]
    content = {"parts": [{"text": "a"}]}
    assert one == {"model": "models/e", "content": content, "outputDimensionality": 3, "taskType": "CLUSTERING"}


def test_an_unknown_setting_of_embeddings_is_named() -> None:
    with pytest.raises(BadProviderRequest, match='"temperature"'):
        Gemini().encode(_entity("e"), ModelRequest(EMBEDDINGS, {"temperature": 1}, inputs=("a",)))


@pytest.mark.parametrize(("config", "inputs"), [({}, 100), ({"max_inputs_per_request": 7}, 7)])
def test_a_request_carries_a_hundred_texts_or_as_many_as_the_row_says(config: dict[str, Any], inputs: int) -> None:
    assert Gemini().max_inputs(_entity(**config)) == inputs


# ---------------------------------------------------------------- answers


def _decoded(**fields: Any) -> Any:
    return Gemini().decode(_chat(), {"candidates": [{"content": {"parts": [{"text": "x"}]}}], **fields})


@pytest.mark.parametrize(
    ("given", "reason"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SPII", "content_filter"), ("LANGUAGE", "language")],
)
def test_the_finish_reason_is_told_in_the_gateways_words(given: str, reason: str) -> None:
    candidate = {"content": {"parts": [{"text": "x"}]}, "finishReason": given}
    assert _decoded(candidates=[candidate]).finish_reason == reason


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 40, "totalTokenCount": 52}, (9, 43)),
        ({"promptTokenCount": 9, "candidatesTokenCount": 43, "thoughtsTokenCount": 40, "totalTokenCount": 52}, (9, 43)),
        ({"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 40}, (9, 43)),
        ({"promptTokenCount": 9, "toolUsePromptTokenCount": 5, "thoughtsTokenCount": 2}, (14, 2)),
        ({"promptTokenCount": 9, "totalTokenCount": 9}, (9, None)),
        ({}, (None, None)),
    ],
)
def test_input_has_tool_prompts_and_output_has_thoughts_once(
    counts: dict[str, int], expected: tuple[int | None, int | None]
) -> None:
    usage = _decoded(usageMetadata=counts).usage
    assert (usage.input_tokens, usage.output_tokens) == expected


@pytest.mark.parametrize(
    ("key", "value", "tier"),
    [
        ("serviceTier", "standard", "standard"),
        ("serviceTier", "SERVICE_TIER_PRIORITY", "priority"),
        ("trafficType", "ON_DEMAND", "on_demand"),
        ("trafficType", "ON_DEMAND_FLEX", "flex"),
        ("trafficType", "PROVISIONED_THROUGHPUT", "provisioned_throughput"),
    ],
)
def test_the_tier_is_read_in_the_words_of_either_api(key: str, value: str, tier: str) -> None:
    assert _decoded(usageMetadata={key: value}).usage.service_tier == tier


@pytest.mark.parametrize(
    ("payload", "words", "refusal"),
    [
        ("x", "not an object but str", None),
        ({}, "candidates is missing or empty", None),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "the prompt was blocked: blockReason SAFETY", "content_policy"),
        ({"candidates": [{"finishReason": "SAFETY"}]}, "filtered: finishReason SAFETY", "content_policy"),
        ({"candidates": [{"finishReason": "RECITATION"}]}, "finishReason RECITATION", "content_policy"),
        (
            {"candidates": [{"finishReason": "PROHIBITED_CONTENT", "content": {"parts": [{"text": ""}]}}]},
            "filtered",
            "content_policy",
        ),
        (
            {"candidates": [{"finishReason": "MAX_TOKENS", "content": {"parts": [{"text": "h", "thought": True}]}}]},
            "(thought), finishReason MAX_TOKENS; thoughts count as output: raise max_tokens",
            None,
        ),
        (
            {"candidates": [{"finishReason": "STOP", "content": {"parts": [{"functionCall": {}}]}}]},
            "(functionCall), finishReason STOP",
            None,
        ),
        ({"candidates": [{"finishReason": "STOP", "content": {}}]}, "(no parts)", None),
    ],
)
def test_an_answer_without_text_says_what_is_there(payload: Any, words: str, refusal: str | None) -> None:
    with pytest.raises(BadAnswer) as bad:
        Gemini().decode(_chat(), payload)
    assert words in str(bad.value)
    assert bad.value.refusal == refusal


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ([], "not an object but list"),
        ({}, "embeddings is missing"),
        ({"embeddings": []}, "0 embeddings for 1 inputs"),
        ({"embeddings": [{"values": []}]}, "embeddings[0] has no values"),
        ({"predictions": [1]}, "predictions is not a list of objects"),
        ({"predictions": [{"embeddings": {"values": ["a"]}}]}, "predictions[0] has no values"),
    ],
)
def test_embeddings_in_another_shape_are_a_bad_answer(payload: Any, words: str) -> None:
    with pytest.raises(BadAnswer) as bad:
        Gemini().decode(ModelRequest(EMBEDDINGS, {}, inputs=("a",)), payload)
    assert words in str(bad.value)


def test_too_many_tokens_are_a_matter_of_the_context_window() -> None:
    message = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    payload = failed(400, "INVALID_ARGUMENT", message).body
    assert Gemini().read_refusal(400, payload) == "context_window"
