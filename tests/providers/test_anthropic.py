from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from fleming_sql.jsontext import loads
from fleming_sql.providers.anthropic import Anthropic
from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.testing import MockModel, Received, Reply, anthropic_reply
from fleming_sql.types import CHAT, EMBEDDINGS, Answer, ModelRequest, ResponseFormat, Secret, ServedEntity

_SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
_WANTED = ResponseFormat("json_schema", "my topic", _SCHEMA, True)
_TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "my_topic", "input": {"topic": "tax"}}


def _entity(base_url: str | None = None, **config: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "main", "anthropic", "claude-1", base_url, None, 100, 0, {}, config)


def _chat(*messages: Mapping[str, Any], **parameters: Any) -> ModelRequest:
    return ModelRequest(CHAT, parameters, messages=messages or (_user("hi"),))


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _body(request: ModelRequest) -> dict[str, Any]:
    body = loads(Anthropic().encode(_entity(), request).body)
    assert isinstance(body, dict)
    return body


def _problem(request: ModelRequest, **config: Any) -> str:
    with pytest.raises(BadProviderRequest) as problem:
        Anthropic().encode(_entity(**config), request)
    return str(problem.value)


def _exchange(request: ModelRequest, reply: Reply, **config: Any) -> tuple[Received, Answer]:
    """Send a request over a socket, and return what arrived there and what came back."""
    provider = Anthropic()
    with MockModel(lambda received: reply) as server, httpx.Client() as client:
        entity = _entity(server.url, **config)
        outgoing = provider.encode(entity, request)
        secrets = {"credential": Secret("k-1")}
        headers = {**outgoing.headers, **provider.authorize(entity, outgoing, secrets)}
        answer = client.request(outgoing.method, outgoing.url, content=outgoing.body, headers=headers)
        return server.requests[0], provider.decode(request, answer.json())


def _refusal(payload: Any) -> str:
    with pytest.raises(BadAnswer) as refused:
        Anthropic().decode(_chat(), payload)
    return str(refused.value)


# ---------------------------------------------------------------- requests


def test_a_chat_becomes_a_message_request() -> None:
    received, _ = _exchange(_chat(_user("hi")), anthropic_reply("hello"))
    assert received.json() == {"model": "claude-1", "max_tokens": 4096, "messages": [_user("hi")]}


@pytest.mark.parametrize(
    ("base", "url"),
    [
        (None, "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("http://localhost:1/v1/", "http://localhost:1/v1/messages"),
        ("http://localhost:1/anthropic", "http://localhost:1/anthropic/v1/messages"),
    ],
)
def test_the_url_ends_in_v1_messages(base: str | None, url: str) -> None:
    assert Anthropic().encode(_entity(base), _chat()).url == url


def test_the_credential_is_x_api_key() -> None:
    received, _ = _exchange(_chat(), anthropic_reply("x"))
    assert (received.headers["x-api-key"], "authorization" in received.headers) == ("k-1", False)


def test_anthropic_api_key_stands_in_for_the_credential() -> None:
    outgoing = Anthropic().encode(_entity(), _chat())
    headers = Anthropic().authorize(_entity(), outgoing, {"anthropic_api_key": Secret("k-2")})
    assert headers == {"x-api-key": "k-2"}


def test_the_version_is_sent() -> None:
    received, _ = _exchange(_chat(), anthropic_reply("x"))
    assert received.headers["anthropic-version"] == "2023-06-01"


def test_the_version_can_be_set() -> None:
    received, _ = _exchange(_chat(), anthropic_reply("x"), anthropic_version="2030-01-01")
    assert received.headers["anthropic-version"] == "2030-01-01"


@pytest.mark.parametrize("beta", ["a,b", ["a", "b"]])
def test_beta_features_are_sent(beta: Any) -> None:
    received, _ = _exchange(_chat(), anthropic_reply("x"), anthropic_beta=beta)
    assert received.headers["anthropic-beta"] == "a,b"


def test_a_setting_of_the_wrong_type_is_named() -> None:
    assert '"anthropic_version"' in _problem(_chat(), anthropic_version=3)


def test_another_task_is_refused() -> None:
    assert EMBEDDINGS in _problem(ModelRequest(EMBEDDINGS, {}, inputs=("a",)))


@pytest.mark.parametrize(("base", "required"), [(None, True), ("http://localhost:1", False)])
def test_only_anthropic_itself_requires_a_credential(base: str | None, required: bool) -> None:
    assert Anthropic().requires_credential(_entity(base)) is required


# ---------------------------------------------------------------- messages


def test_system_messages_are_joined_into_the_system_prompt() -> None:
    system = [{"role": role, "content": text} for role, text in (("system", "a"), ("developer", "b"))]
    assert _body(_chat(*system, _user("hi")))["system"] == "a\n\nb"


def test_neighbours_of_the_same_role_are_merged() -> None:
    turns = _body(_chat(_user("a"), _user("b"), {"role": "assistant", "content": "c"}))["messages"]
    assert turns == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
    ]


def test_a_data_url_becomes_an_image_block() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    assert _body(_chat(_user([{"type": "text", "text": "?"}, part])))["messages"] == [
        _user([{"type": "text", "text": "?"}, block])
    ]


def test_an_https_address_becomes_an_image_block() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    block = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    assert _body(_chat(_user([part])))["messages"] == [_user([block])]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "x"}, "'tool'"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "with tool_calls"),
        ({"role": "assistant"}, "a text or a list of parts"),
        (_user([{"type": "input_audio"}]), "'input_audio'"),
        (_user(["x"]), "'str'"),
        (_user([{"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}]), "https address"),
        ({"role": "system", "content": "x"}, "no user message"),
        (
            {"role": "system", "content": [{"type": "image_url", "image_url": "https://example.org/a"}]},
            "text only",
        ),
    ],
)
def test_a_message_without_a_place_is_refused(message: dict[str, Any], words: str) -> None:
    assert words in _problem(_chat(message))


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_is_max_tokens(name: str) -> None:
    body = _body(_chat(**{name: 5}))
    assert (body["max_tokens"], "max_completion_tokens" in body) == (5, False)


@pytest.mark.parametrize("stop", ["END", ["END"]])
def test_stop_becomes_stop_sequences(stop: Any) -> None:
    body = _body(_chat(stop=stop))
    assert (body["stop_sequences"], "stop" in body) == (["END"], False)


def test_user_becomes_a_field_of_metadata() -> None:
    assert _body(_chat(user="u-1"))["metadata"] == {"user_id": "u-1"}


def test_other_parameters_pass_through() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = _body(_chat(top_k=3, thinking=thinking))
    assert (body["top_k"], body["thinking"]) == (3, thinking)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("presence_penalty", 1),
        ("frequency_penalty", 0.5),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 2}),
        ("seed", 1),
        ("stream", True),
        ("model", "claude-2"),
        ("messages", []),
    ],
)
def test_a_parameter_without_a_place_is_named(name: str, value: Any) -> None:
    assert f'"{name}"' in _problem(_chat(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"), [("n", 1), ("presence_penalty", 0), ("logprobs", False), ("logit_bias", {})]
)
def test_a_parameter_that_asks_for_nothing_is_left_out(name: str, value: Any) -> None:
    assert name not in _body(_chat(**{name: value}))


# ---------------------------------------------------------------- structured output


def test_a_schema_becomes_a_forced_tool() -> None:
    body = _body(replace(_chat(), response_format=_WANTED))
    (tool,) = body["tools"]
    assert (tool["name"], tool["input_schema"], body["tool_choice"]) == (
        "my_topic",
        _SCHEMA,
        {"type": "tool", "name": "my_topic"},
    )


def test_json_object_becomes_a_tool_that_takes_any_object() -> None:
    body = _body(replace(_chat(), response_format=ResponseFormat("json_object")))
    assert body["tools"][0]["input_schema"] == {"type": "object"}


def test_text_needs_no_tool() -> None:
    assert "tools" not in _body(replace(_chat(), response_format=ResponseFormat("text")))


@pytest.mark.parametrize("name", ["tools", "tool_choice"])
def test_tools_beside_a_response_format_are_refused(name: str) -> None:
    assert f'"{name}"' in _problem(replace(_chat(**{name: [{}]}), response_format=_WANTED))


def test_the_tools_input_is_the_answer() -> None:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "Here it is."}, _TOOL_USE]
    request = replace(_chat(), response_format=_WANTED)
    _, answer = _exchange(request, anthropic_reply(blocks, stop_reason="tool_use"))
    assert answer.content == '{"topic":"tax"}'


def test_text_in_place_of_the_tool_is_the_answer() -> None:
    request = replace(_chat(), response_format=_WANTED)
    assert _exchange(request, anthropic_reply("no"))[1].content == "no"


# ---------------------------------------------------------------- answers


def test_text_blocks_are_joined_and_thinking_is_dropped() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hmm", "signature": "s"},
        {"type": "text", "text": "hel"},
        {"type": "text", "text": "lo"},
    ]
    assert _exchange(_chat(), anthropic_reply(blocks))[1].content == "hello"


def test_the_model_that_answered_is_kept() -> None:
    assert _exchange(_chat(), anthropic_reply("x", model="claude-1-2025"))[1].model == "claude-1-2025"


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [("end_turn", "stop"), ("max_tokens", "length"), ("tool_use", "stop"), ("pause_turn", "pause_turn")],
)
def test_the_stop_reason_is_told_in_the_gateways_words(stop_reason: str, finish_reason: str) -> None:
    assert _exchange(_chat(), anthropic_reply("x", stop_reason=stop_reason))[1].finish_reason == finish_reason


def test_cached_input_counts_as_input() -> None:
    reply = anthropic_reply("x", input_tokens=10, output_tokens=5, cache_read=100, cache_creation=1000)
    usage = _exchange(_chat(), reply)[1].usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (1110, 100, 5)


def test_usage_without_a_cache_is_read() -> None:
    usage = _exchange(_chat(), anthropic_reply("x", input_tokens=10))[1].usage
    assert (usage.input_tokens, usage.cached_input_tokens) == (10, None)


def test_thinking_tokens_are_reasoning_tokens() -> None:
    counts = {"input_tokens": 1, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 7}}
    payload = {"content": [{"type": "text", "text": "x"}], "usage": counts}
    assert Anthropic().decode(_chat(), payload).usage.reasoning_tokens == 7


def test_missing_usage_is_unknown() -> None:
    answer = Anthropic().decode(_chat(), {"content": [{"type": "text", "text": "x"}]})
    assert answer.usage.input_tokens is None


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("x", "the answer is not an object but str"),
        ({}, "content is not a list of blocks"),
        ({"content": ["x"]}, "content is not a list of blocks"),
        ({"content": [], "stop_reason": "end_turn"}, "(no blocks), stop_reason end_turn"),
        ({"content": [], "stop_reason": "refusal"}, "the model refused"),
        (
            {"content": [{"type": "thinking", "thinking": "x"}], "stop_reason": "max_tokens"},
            "no block of type text (thinking), stop_reason max_tokens",
        ),
        ({"content": [{"type": "text", "text": None}]}, "no block of type text"),
    ],
)
def test_a_message_without_text_is_a_bad_answer(payload: Any, words: str) -> None:
    assert words in _refusal(payload)


def test_the_message_of_an_error_is_found() -> None:
    payload = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert Anthropic().read_error(payload) == "Overloaded"
