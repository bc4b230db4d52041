from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.openai import OpenAI
from fleming_sql.testing import (
    MockModel,
    Received,
    Reply,
    chat_reply,
    completion_reply,
    embeddings_reply,
    error_reply,
)
from fleming_sql.types import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Answer,
    ModelRequest,
    ResponseFormat,
    Secret,
    ServedEntity,
    Task,
)

_AZURE: dict[str, Any] = {
    "openai_api_type": "azure",
    "openai_api_version": "2024-10-21",
    "openai_deployment_name": "my deployment",
}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
_KEY = {"credential": Secret("k-1")}


def _entity(base_url: str | None = None, model: str = "m-1", **config: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "main", "openai", model, base_url, None, 100, 0, {}, config)


def _chat(*contents: Any, parameters: Mapping[str, Any] | None = None, **more: Any) -> ModelRequest:
    messages = tuple({"role": "user", "content": content} for content in contents or ("hi",))
    return ModelRequest(CHAT, parameters or {}, messages=messages, **more)


def _texts(task: Task, *inputs: str) -> ModelRequest:
    return ModelRequest(task, {}, inputs=inputs)


def _body(request: ModelRequest, entity: ServedEntity | None = None) -> dict[str, Any]:
    body = loads(OpenAI().encode(entity or _entity(), request).body)
    assert isinstance(body, dict)
    return body


def _exchange(
    request: ModelRequest, reply: Reply, secrets: Mapping[str, Secret] | None = None, **config: Any
) -> tuple[Received, Answer]:
    """Send a request over a socket, and return what arrived there and what came back."""
    provider = OpenAI()
    with MockModel(lambda received: reply) as server, httpx.Client() as client:
        entity = _entity(f"{server.url}/v1", **config)
        outgoing = provider.encode(entity, request)
        headers = {**outgoing.headers, **provider.authorize(entity, outgoing, secrets or {})}
        answer = client.request(outgoing.method, outgoing.url, content=outgoing.body, headers=headers)
        return server.requests[0], provider.decode(request, answer.json())


def _decode(payload: Any, request: ModelRequest | None = None) -> Answer:
    return OpenAI().decode(request or _chat(), payload)


def _refusal(payload: Any, request: ModelRequest | None = None) -> str:
    with pytest.raises(BadAnswer) as refused:
        _decode(payload, request)
    return str(refused.value)


def _problem(request: ModelRequest, entity: ServedEntity) -> str:
    with pytest.raises(BadProviderRequest) as problem:
        OpenAI().encode(entity, request)
    return str(problem.value)


def _choice(**choice: Any) -> dict[str, Any]:
    return {"choices": [choice]}


# ---------------------------------------------------------------- requests


def test_a_chat_is_posted_to_chat_completions() -> None:
    received, _ = _exchange(_chat("hi"), chat_reply("hello"))
    assert (received.method, received.path) == ("POST", "/v1/chat/completions")


def test_a_chat_sends_model_and_messages_and_nothing_else() -> None:
    received, _ = _exchange(_chat("hi"), chat_reply("hello"))
    assert received.json() == {"model": "m-1", "messages": [{"role": "user", "content": "hi"}]}


def test_parameters_are_merged_in_flat() -> None:
    body = _body(_chat(parameters={"temperature": 0, "top_k": 3}))
    assert (body["temperature"], body["top_k"]) == (0, 3)


def test_content_parts_pass_through() -> None:
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert _body(_chat(parts))["messages"] == [{"role": "user", "content": parts}]


def test_a_completion_is_posted_to_completions() -> None:
    received, _ = _exchange(_texts(COMPLETIONS, "once"), completion_reply(" upon"))
    assert (received.path, received.json()) == ("/v1/completions", {"model": "m-1", "prompt": "once"})


def test_embeddings_are_posted_to_embeddings() -> None:
    received, _ = _exchange(_texts(EMBEDDINGS, "a", "b"), embeddings_reply([[1.0], [2.0]]))
    assert (received.path, received.json()) == ("/v1/embeddings", {"model": "m-1", "input": ["a", "b"]})


def test_an_agent_is_called_like_a_chat() -> None:
    request = replace(_chat(), task="agent/v1/chat")
    assert OpenAI().encode(_entity(), request).url == "https://api.openai.com/v1/chat/completions"


@pytest.mark.parametrize("base", ["http://localhost:8000/v1", "http://localhost:8000/v1/"])
def test_a_slash_at_the_end_of_the_base_url_makes_no_difference(base: str) -> None:
    assert OpenAI().encode(_entity(base), _chat()).url == "http://localhost:8000/v1/chat/completions"


def test_openai_api_base_stands_in_for_the_base_url() -> None:
    url = OpenAI().encode(_entity(openai_api_base="http://localhost:1/v1"), _chat()).url
    assert url == "http://localhost:1/v1/chat/completions"


def test_an_empty_model_is_left_out() -> None:
    assert "model" not in _body(_chat(), _entity(model=""))


@pytest.mark.parametrize("key", ["model", "messages"])
def test_a_parameter_cannot_replace_what_the_gateway_sets(key: str) -> None:
    assert f'"{key}"' in _problem(_chat(parameters={key: "x"}), _entity())


def test_streaming_is_refused() -> None:
    assert '"stream"' in _problem(_chat(parameters={"stream": True}), _entity())


def test_another_task_is_refused() -> None:
    assert "custom" in _problem(replace(_chat(), task="custom"), _entity())


# ---------------------------------------------------------------- max_tokens


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_passes_as_given(name: str) -> None:
    assert _body(_chat(parameters={name: 5}))[name] == 5


@pytest.mark.parametrize("wanted", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_parameter_names_the_limit(given: str, wanted: str) -> None:
    body = _body(_chat(parameters={given: 5}), _entity(max_tokens_parameter=wanted))
    assert {key: value for key, value in body.items() if key.startswith("max_")} == {wanted: 5}


@pytest.mark.parametrize("model", ["o1", "o3-mini", "o4-mini", "gpt-5.1"])
def test_openai_models_that_refuse_max_tokens_get_the_other_name(model: str) -> None:
    body = _body(_chat(parameters={"max_tokens": 5}), _entity(model=model))
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 5)


def test_other_servers_keep_max_tokens_whatever_the_model() -> None:
    body = _body(_chat(parameters={"max_tokens": 5}), _entity("http://localhost:1/v1", model="gpt-5"))
    assert body["max_tokens"] == 5


def test_a_wrong_max_tokens_parameter_is_named() -> None:
    problem = _problem(_chat(parameters={"max_tokens": 5}), _entity(max_tokens_parameter="tokens"))
    assert 'key "max_tokens_parameter"' in problem


# ---------------------------------------------------------------- response formats


@pytest.mark.parametrize("wanted", [None, ResponseFormat("text")])
def test_text_is_not_asked_for(wanted: ResponseFormat | None) -> None:
    assert "response_format" not in _body(_chat(response_format=wanted))


def test_json_object_is_asked_for() -> None:
    body = _body(_chat(response_format=ResponseFormat("json_object")))
    assert body["response_format"] == {"type": "json_object"}


def test_a_schema_goes_into_its_envelope() -> None:
    body = _body(_chat(response_format=ResponseFormat("json_schema", "person", _SCHEMA, True)))
    envelope = {"name": "person", "schema": _SCHEMA, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": envelope}


def test_strict_is_left_out_where_nobody_set_it() -> None:
    body = _body(_chat(response_format=ResponseFormat("json_schema", "person", _SCHEMA)))
    assert body["response_format"]["json_schema"] == {"name": "person", "schema": _SCHEMA}


# ---------------------------------------------------------------- credentials and Azure


def test_the_credential_is_a_bearer_token() -> None:
    received, _ = _exchange(_chat(), chat_reply("x"), _KEY)
    assert received.headers["authorization"] == "Bearer k-1"


def test_openai_api_key_stands_in_for_the_credential() -> None:
    received, _ = _exchange(_chat(), chat_reply("x"), {"openai_api_key": Secret("k-2")})
    assert received.headers["authorization"] == "Bearer k-2"


def test_no_credential_sends_no_header() -> None:
    received, _ = _exchange(_chat(), chat_reply("x"))
    assert "authorization" not in received.headers


def test_the_organization_is_a_header() -> None:
    received, _ = _exchange(_chat(), chat_reply("x"), openai_organization="org-1")
    assert received.headers["openai-organization"] == "org-1"


def test_azure_has_the_deployment_in_its_url() -> None:
    url = OpenAI().encode(_entity("https://r.openai.azure.com/", **_AZURE), _chat()).url
    assert url == (
        "https://r.openai.azure.com/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21"
    )


def test_azure_takes_the_key_in_api_key() -> None:
    received, _ = _exchange(_chat(), chat_reply("x"), _KEY, **_AZURE)
    assert (received.headers["api-key"], "authorization" in received.headers) == ("k-1", False)


def test_azuread_takes_a_bearer_token() -> None:
    received, _ = _exchange(_chat(), chat_reply("x"), _KEY, **{**_AZURE, "openai_api_type": "azuread"})
    assert (received.headers["authorization"], "api-key" in received.headers) == ("Bearer k-1", False)


def test_azure_gets_no_model() -> None:
    received, _ = _exchange(_chat(), chat_reply("x"), **_AZURE)
    assert received.json() == {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("key", ["openai_api_version", "openai_deployment_name", "openai_api_base"])
def test_a_missing_piece_of_azure_is_named_with_its_place(key: str) -> None:
    config = {**_AZURE, "openai_api_base": "https://r.openai.azure.com"}
    problem = _problem(_chat(), _entity(**{name: value for name, value in config.items() if name != key}))
    assert (f'"{key}"' in problem, "served_entities" in problem, "provider_config" in problem) == (True,) * 3


def test_an_unknown_api_type_is_named() -> None:
    assert '"gcp"' in _problem(_chat(), _entity(openai_api_type="gcp"))


def test_a_setting_of_the_wrong_type_is_named() -> None:
    assert '"openai_organization" must be a text' in _problem(_chat(), _entity(openai_organization=3))


@pytest.mark.parametrize(
    ("entity", "required"),
    [
        (_entity(), True),
        (_entity("https://eu.api.openai.com/v1"), True),
        (_entity("http://localhost:8000/v1"), False),
        (_entity("https://api.openai.com.example.org/v1"), False),
        (_entity("https://r.openai.azure.com", **_AZURE), True),
    ],
)
def test_only_openai_and_azure_require_a_credential(entity: ServedEntity, required: bool) -> None:
    assert OpenAI().requires_credential(entity) is required


@pytest.mark.parametrize(("value", "inputs"), [(None, 256), (10, 10), (10.0, 10)])
def test_max_inputs_come_from_the_provider_config(value: Any, inputs: int) -> None:
    entity = _entity() if value is None else _entity(max_inputs_per_request=value)
    assert OpenAI().max_inputs(entity) == inputs


# ---------------------------------------------------------------- answers


def test_a_chat_answers_with_its_text() -> None:
    _, answer = _exchange(_chat(), chat_reply("hello"))
    assert answer.content == "hello"


def test_the_model_that_answered_is_kept() -> None:
    _, answer = _exchange(_chat(), chat_reply("hello", model="m-1-2025"))
    assert answer.model == "m-1-2025"


def test_the_finish_reason_is_kept() -> None:
    _, answer = _exchange(_chat(), chat_reply("hel", finish_reason="length"))
    assert answer.finish_reason == "length"


def test_an_empty_text_is_a_text() -> None:
    assert _exchange(_chat(), chat_reply(""))[1].content == ""


def test_of_several_choices_the_first_counts() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("a", "b")]
    assert _decode({"choices": choices}).content == "a"


def test_text_parts_are_joined_and_reasoning_is_dropped() -> None:
    parts = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hmm"}]},
        {"type": "text", "text": "hel"},
        {"type": "text", "text": "lo", "thoughtSignature": "x"},
    ]
    assert _exchange(_chat(), chat_reply(parts))[1].content == "hello"


def test_a_completion_answers_with_its_text() -> None:
    assert _exchange(_texts(COMPLETIONS, "once"), completion_reply(" upon"))[1].content == " upon"


def test_usage_is_read_with_cached_and_reasoning_tokens() -> None:
    reply = chat_reply("x", prompt_tokens=100, completion_tokens=50, cached_tokens=64, reasoning_tokens=40)
    usage = _exchange(_chat(), reply)[1].usage
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens)
    assert counts == (100, 50, 64, 40)


def test_missing_usage_is_unknown() -> None:
    usage = _decode(_choice(message={"content": "x"})).usage
    assert (usage.input_tokens, usage.output_tokens) == (None, None)


def test_embeddings_come_in_the_order_of_the_inputs() -> None:
    data = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    assert _decode({"data": data}, _texts(EMBEDDINGS, "a", "b")).content == [[1.0], [2.0]]


def test_embeddings_without_an_index_come_in_their_own_order() -> None:
    data = [{"embedding": [1.0]}, {"embedding": [2.0]}]
    assert _decode({"data": data}, _texts(EMBEDDINGS, "a", "b")).content == [[1.0], [2.0]]


def test_base64_embeddings_are_unpacked() -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.5, -1.0, 2.0)).decode()
    _, answer = _exchange(_texts(EMBEDDINGS, "a"), embeddings_reply([packed]))
    assert answer.content == [[0.5, -1.0, 2.0]]


# ---------------------------------------------------------------- answers that are none


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ([], "the answer is not an object but list"),
        ({}, "choices is missing"),
        ({"choices": None}, "choices is null"),
        ({"choices": []}, "choices is empty"),
        ({"choices": ["x"]}, "choices[0] is not an object"),
        ({"error": {"message": "no credits"}}, "the server says: no credits"),
        (_choice(finish_reason="stop"), "choices[0].message is missing, finish_reason stop"),
        (
            _choice(message={"content": None}, finish_reason="length"),
            "choices[0].message.content is null, finish_reason length",
        ),
        (_choice(message={"content": 3}), "choices[0].message.content is of type int"),
        (_choice(message={"content": None, "refusal": "I will not."}), "the model refused: I will not."),
        (
            _choice(message={"content": [{"type": "refusal", "refusal": "I will not."}]}),
            "the model refused: I will not.",
        ),
        (
            _choice(message={"content": [{"type": "reasoning"}]}, finish_reason="length"),
            "choices[0].message.content has no part of type text, finish_reason length",
        ),
    ],
)
def test_a_chat_without_text_is_a_bad_answer(payload: Any, words: str) -> None:
    assert words in _refusal(payload)


def test_a_completion_without_text_is_a_bad_answer() -> None:
    assert "choices[0].text is null" in _refusal(_choice(text=None), _texts(COMPLETIONS, "x"))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "data is not a list of objects"),
        ({"data": [3, 4]}, "data is not a list of objects"),
        ({"data": [{"embedding": [1.0]}]}, "data has 1 embeddings for 2 inputs"),
        ({"data": [{"index": 0, "embedding": [1.0]}] * 2}, "data[1].index is 0"),
        ({"data": [{"index": 5, "embedding": [1.0]}] * 2}, "data[0].index is 5"),
        ({"data": [{"embedding": []}] * 2}, "data[0].embedding is not a list of numbers"),
        ({"data": [{"embedding": [1.0, "2"]}] * 2}, "data[0].embedding is not a list of numbers"),
        ({"data": [{"embedding": None}] * 2}, "data[0].embedding is not a list of numbers"),
        ({"data": [{"embedding": "AAA="}] * 2}, "not base64 of 32-bit floats"),
        ({"data": [{"embedding": "?"}] * 2}, "not base64 of 32-bit floats"),
    ],
)
def test_embeddings_that_do_not_fit_the_inputs_are_a_bad_answer(payload: Any, words: str) -> None:
    assert words in _refusal(payload, _texts(EMBEDDINGS, "a", "b"))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (error_reply(400, "no such model").body, "no such model"),
        ({"error": "no such model"}, "no such model"),
        ({"error": {"code": "DeploymentNotFound", "message": "no such model"}}, "no such model"),
        ({"object": "error", "message": "no such model", "type": "NotFoundError"}, "no such model"),
        ({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}, "no such model"),
        ({"detail": "no such model"}, "no such model"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ([{"error": {"message": "no such model"}}], "no such model"),
        ({"error": True, "message": "no such model"}, "no such model"),
        ("Bad Gateway", "Bad Gateway"),
        ({"unknown": 1}, "{'unknown': 1}"),
    ],
)
def test_the_message_of_an_error_is_found(payload: Any, message: str) -> None:
    assert OpenAI().read_error(payload) == message
