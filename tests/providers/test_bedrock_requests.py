from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.providers.bedrock import AmazonBedrock
from fleming_sql.types import (
    CHAT,
    COMPLETIONS,
    CUSTOM,
    EMBEDDINGS,
    ModelRequest,
    OutgoingRequest,
    ResponseFormat,
    ServedEntity,
)

_CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
_SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}}
_WANTED = ResponseFormat("json_schema", "my topic", _SCHEMA, True)
_PNG = "data:image/png;base64,AAAA"


def _entity(model: str = _CLAUDE, **config: Any) -> ServedEntity:
    config = {"aws_region": "us-east-1", **config}
    return ServedEntity("id", "chat", "main", "amazon-bedrock", model, None, None, 100, 0, {}, config)


def _user(content: Any = "hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def _chat(*messages: Mapping[str, Any], **parameters: Any) -> ModelRequest:
    return ModelRequest(CHAT, parameters, messages=messages or (_user(),))


def _encode(request: ModelRequest, model: str = _CLAUDE, **config: Any) -> OutgoingRequest:
    return AmazonBedrock().encode(_entity(model, **config), request)


def _body(request: ModelRequest, model: str = _CLAUDE, **config: Any) -> Any:
    return loads(_encode(request, model, **config).body)


def _problem(request: ModelRequest, model: str = _CLAUDE, **config: Any) -> str:
    with pytest.raises(BadProviderRequest) as problem:
        _encode(request, model, **config)
    return str(problem.value)


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "https://bedrock-runtime.us-east-1.amazonaws.com/"),
        ("us-gov-west-1", "https://bedrock-runtime.us-gov-west-1.amazonaws.com/"),
        ("cn-north-1", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn/"),
    ],
)
def test_the_region_is_in_the_address(region: str, host: str) -> None:
    assert _encode(_chat(), aws_region=region).url.startswith(host)


def test_another_task_is_refused() -> None:
    assert "cannot serve the task custom" in _problem(ModelRequest(CUSTOM, {}, fields="x"))


@pytest.mark.parametrize(("model", "inputs"), [("cohere.embed-v4:0", 96), ("amazon.titan-embed-text-v2:0", 1)])
def test_only_cohere_takes_several_texts(model: str, inputs: int) -> None:
    assert AmazonBedrock().max_inputs(_entity(model)) == inputs


# ---------------------------------------------------------------- messages


def test_system_messages_become_the_system_prompt() -> None:
    body = _body(_chat({"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, _user()))
    assert (body["system"], body["messages"]) == ([{"text": "a"}, {"text": "b"}], [_user([{"text": "hi"}])])


def test_neighbours_of_the_same_role_are_merged() -> None:
    assert _body(_chat(_user("a"), _user("b")))["messages"] == [_user([{"text": "a"}, {"text": "b"}])]


def test_tool_calls_and_their_results_are_told() -> None:
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    call = {"id": "c-1", "type": "function", "function": function}
    turns = _body(
        _chat(
            _user(),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c-1", "content": "21"},
        )
    )["messages"]
    use = {"toolUseId": "c-1", "name": "weather", "input": {"city": "Rome"}}
    result = {"toolUseId": "c-1", "content": [{"text": "21"}]}
    assert turns[1:] == [
        {"role": "assistant", "content": [{"toolUse": use}]},
        {"role": "user", "content": [{"toolResult": result}]},
    ]


@pytest.mark.parametrize(
    ("part", "blocks"),
    [
        ({"type": "text", "text": "a"}, [{"text": "a"}]),
        ({"type": "image_url", "image_url": _PNG}, [{"image": {"format": "png", "source": {"bytes": "AAAA"}}}]),
        (
            {"type": "image_url", "image_url": {"url": "s3://b/a.jpg"}},
            [{"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://b/a.jpg"}}}}],
        ),
        ({"cachePoint": {"type": "default"}, "text": None}, [{"cachePoint": {"type": "default"}}]),
        (
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            [{"text": "a"}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        ),
    ],
)
def test_a_part_becomes_a_block(part: dict[str, Any], blocks: list[Any]) -> None:
    assert _body(_chat(_user([part])))["messages"] == [_user(blocks)]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "critic", "content": "x"}, "'critic'"),
        ({"role": "assistant"}, "a text or a list of parts"),
        (_user([{"type": "input_audio"}]), "'input_audio'"),
        (_user(["x"]), "'str'"),
        (_user([{"type": "image_url", "image_url": "https://example.org/a.png"}]), "Bedrock loads no others"),
        (_user([{"type": "image_url", "image_url": "data:image/tiff;base64,AAAA"}]), "PNG, JPEG, GIF or WebP"),
        ({"role": "system", "content": "x"}, "no user message"),
        ({"role": "system", "content": [{"type": "image_url", "image_url": _PNG}]}, "takes text only"),
        ({"role": "assistant", "tool_calls": ["x"]}, "tool_calls must be"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}, '"f"'),
    ],
)
def test_a_message_without_a_place_is_refused(message: dict[str, Any], words: str) -> None:
    assert words in _problem(_chat(message))


# ---------------------------------------------------------------- parameters


def test_sampling_goes_into_the_inference_config() -> None:
    body = _body(_chat(max_tokens=5, temperature=0.5, top_p=0.9, stop="END"))
    assert body["inferenceConfig"] == {"maxTokens": 5, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]}


def test_what_the_api_does_not_name_goes_to_the_model() -> None:
    body = _body(_chat(top_k=3, additionalModelRequestFields={"thinking": {"type": "adaptive"}}, min_p=None))
    assert body["additionalModelRequestFields"] == {"top_k": 3, "thinking": {"type": "adaptive"}}


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"service_tier": "flex"}, {"serviceTier": {"type": "flex"}}),
        ({"service_tier": "auto"}, {"serviceTier": {"type": "default"}}),
        ({"metadata": {"a": "b"}, "user": "u"}, {"requestMetadata": {"a": "b", "user": "u"}}),
        ({"reasoning_effort": "low"}, {"outputConfig": {"effort": "low"}}),
        ({"performanceConfig": {"latency": "optimized"}}, {"performanceConfig": {"latency": "optimized"}}),
        ({"additionalModelResponseFieldPaths": ["/a"]}, {"additionalModelResponseFieldPaths": ["/a"]}),
        ({"n": 1, "stream": False, "logprobs": False}, {}),
    ],
)
def test_a_parameter_goes_into_its_field(parameters: dict[str, Any], fields: dict[str, Any]) -> None:
    body = _body(_chat(**parameters))
    assert body == {"messages": body["messages"], **fields}


def test_models_of_others_take_the_reasoning_effort_themselves() -> None:
    body = _body(_chat(reasoning_effort="low"), "openai.gpt-oss-120b-1:0")
    assert body["additionalModelRequestFields"] == {"reasoning_effort": "low"}


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("logprobs", True), ("stream", True), ("system", "x")])
def test_a_parameter_without_a_place_is_refused(name: str, value: Any) -> None:
    assert f'"{name}"' in _problem(_chat(**{name: value}))


def test_a_call_cannot_replace_the_guardrail_of_the_entity() -> None:
    guardrail = {"guardrailIdentifier": "gr-1", "guardrailVersion": "1"}
    assert "set by the provider_config" in _problem(_chat(guardrailConfig=guardrail), guardrailConfig=guardrail)


# ---------------------------------------------------------------- tools and formats


def test_tools_are_described() -> None:
    function = {"name": "weather", "description": "Tells it.", "parameters": _SCHEMA}
    config = _body(_chat(tools=[{"type": "function", "function": function}, {"cachePoint": {"type": "default"}}]))
    spec = {"name": "weather", "description": "Tells it.", "inputSchema": {"json": _SCHEMA}}
    assert config["toolConfig"] == {"tools": [{"toolSpec": spec}, {"cachePoint": {"type": "default"}}]}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
    ],
)
def test_the_choice_of_a_tool_is_told(choice: Any, told: Any) -> None:
    body = _body(_chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice=choice))
    assert body["toolConfig"]["toolChoice"] == told


@pytest.mark.parametrize(
    "parameters",
    [
        {"tools": ["f"]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"tool_choice": "required"},
    ],
)
def test_tools_that_cannot_be_told_are_refused(parameters: dict[str, Any]) -> None:
    assert "tool" in _problem(_chat(**parameters))


@pytest.mark.parametrize(
    ("model", "setting", "by_format"),
    [
        (_CLAUDE, "auto", False),
        ("us.amazon.nova-lite-v1:0", "auto", False),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc", "auto", False),
        ("qwen.qwen3-32b-v1:0", "auto", True),
        ("qwen.qwen3-32b-v1:0", "tool", False),
        (_CLAUDE, "output_format", True),
    ],
)
def test_a_schema_becomes_a_tool_or_the_output_format(model: str, setting: str, by_format: bool) -> None:
    body = _body(replace(_chat(), response_format=_WANTED), model, structured_output=setting)
    assert ("outputConfig" in body, "toolConfig" in body) == (by_format, not by_format)


def test_an_object_without_a_schema_is_a_tool_that_takes_any() -> None:
    body = _body(replace(_chat(), response_format=ResponseFormat("json_object")), "qwen.qwen3-32b-v1:0")
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": {"type": "object"}}


def test_tools_beside_a_forced_tool_are_refused() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert '"tools"' in _problem(replace(_chat(tools=tools), response_format=_WANTED))


# ---------------------------------------------------------------- InvokeModel


@pytest.mark.parametrize(
    ("model", "parameters", "body"),
    [
        ("amazon.titan-embed-text-v1", {}, {"inputText": "a"}),
        (
            "amazon.titan-embed-text-v2:0",
            {"dimensions": 256, "normalize": True, "encoding_format": "float"},
            {"inputText": "a", "dimensions": 256, "normalize": True},
        ),
        ("cohere.embed-english-v3", {}, {"texts": ["a"], "input_type": "search_document"}),
        (
            "eu.cohere.embed-v4:0",
            {"dimensions": 256, "input_type": "clustering"},
            {"texts": ["a"], "input_type": "clustering", "output_dimension": 256},
        ),
    ],
)
def test_texts_to_embed(model: str, parameters: dict[str, Any], body: dict[str, Any]) -> None:
    assert _body(ModelRequest(EMBEDDINGS, parameters, inputs=("a",)), model) == body


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (
            "amazon.titan-text-lite-v1",
            {"inputText": "a", "textGenerationConfig": {"maxTokenCount": 5, "topP": 0.5, "stopSequences": ["END"]}},
        ),
        ("ai21.j2-ultra-v1", {"prompt": "a", "maxTokens": 5, "topP": 0.5, "stopSequences": ["END"]}),
        (
            "ai21.jamba-1-5-large-v1:0",
            {"messages": [_user("a")], "max_tokens": 5, "top_p": 0.5, "stop": "END"},
        ),
        ("cohere.command-text-v14", {"prompt": "a", "max_tokens": 5, "p": 0.5, "stop_sequences": ["END"]}),
        ("cohere.command-r-plus-v1:0", {"message": "a", "max_tokens": 5, "p": 0.5, "stop_sequences": ["END"]}),
        (
            "anthropic.claude-v2:1",
            {
                "anthropic_version": "bedrock-2023-05-31",
                "prompt": "\n\nHuman: a\n\nAssistant:",
                "max_tokens_to_sample": 5,
                "top_p": 0.5,
                "stop_sequences": ["END"],
            },
        ),
        (
            _CLAUDE,
            {
                "anthropic_version": "bedrock-2023-05-31",
                "messages": [_user("a")],
                "max_tokens": 5,
                "top_p": 0.5,
                "stop_sequences": ["END"],
            },
        ),
    ],
)
def test_a_prompt_to_complete(model: str, body: dict[str, Any]) -> None:
    parameters = {"max_tokens": 5, "top_p": 0.5, "stop": "END"}
    assert _body(ModelRequest(COMPLETIONS, parameters, inputs=("a",)), model) == body


@pytest.mark.parametrize(
    ("task", "model", "parameters", "words"),
    [
        (COMPLETIONS, "amazon.titan-text-lite-v1", {"seed": 1}, 'the parameter "seed" has no place'),
        (EMBEDDINGS, "amazon.titan-embed-text-v1", {"encoding_format": "base64"}, '"encoding_format"'),
        (EMBEDDINGS, "cohere.embed-english-v3", {"texts": ["b"]}, "set by the gateway"),
        (EMBEDDINGS, _CLAUDE, {}, "InvokeModel serves llm/v1/embeddings for amazon and cohere only"),
        (COMPLETIONS, "meta.llama3-1-8b-instruct-v1:0", {}, "does not tell whose it is"),
    ],
)
def test_what_a_maker_has_no_place_for_is_refused(
    task: Any, model: str, parameters: dict[str, Any], words: str
) -> None:
    assert words in _problem(ModelRequest(task, parameters, inputs=("a",)), model)


def test_a_schema_goes_into_the_format_of_chat_completions() -> None:
    request = replace(_chat(), response_format=_WANTED)
    body = _body(request, "xai.grok-4-v1:0", bedrock_api="invoke")
    schema = {"name": "my topic", "schema": _SCHEMA, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_latency_and_trace_are_headers_of_invoke() -> None:
    guardrail = {"guardrailIdentifier": "gr-1", "guardrailVersion": "1", "trace": "enabled"}
    config: dict[str, Any] = {"guardrailConfig": guardrail, "performanceConfig": {"latency": "optimized"}}
    headers = _encode(_chat(), bedrock_api="invoke", **config).headers
    assert headers["X-Amzn-Bedrock-Trace"] == "ENABLED"
    assert headers["X-Amzn-Bedrock-PerformanceConfig-Latency"] == "optimized"
