from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.jsontext import dumpb, loads
from fleming_sql.providers.base import BadAnswer
from fleming_sql.providers.bedrock import AmazonBedrock
from fleming_sql.types import CHAT, COMPLETIONS, EMBEDDINGS, Answer, ModelRequest, ResponseFormat, Usage

_CHAT = ModelRequest(CHAT, {}, messages=({"role": "user", "content": "hi"},))
_PROMPT = ModelRequest(COMPLETIONS, {}, inputs=("hi",))
_TEXTS = ModelRequest(EMBEDDINGS, {}, inputs=("a", "b"))


def _converse(*blocks: dict[str, Any], reason: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {"output": {"message": {"role": "assistant", "content": list(blocks)}}, "stopReason": reason, **more}


def _decode(payload: Any, request: ModelRequest = _CHAT) -> Answer:
    return AmazonBedrock().decode(request, payload)


def _refused(payload: Any, request: ModelRequest = _CHAT) -> BadAnswer:
    with pytest.raises(BadAnswer) as refused:
        _decode(payload, request)
    return refused.value


# ---------------------------------------------------------------- Converse


def test_texts_are_joined_and_reasoning_is_dropped() -> None:
    reasoning = {"reasoningContent": {"reasoningText": {"text": "hmm"}}}
    assert _decode(_converse(reasoning, {"text": "hel"}, {"text": "lo"})).content == "hello"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "stop"),
        ("max_tokens", "length"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "malformed_model_output"),
    ],
)
def test_the_stop_reason_is_told_in_the_gateways_words(reason: str, told: str) -> None:
    assert _decode(_converse({"text": "x"}, reason=reason)).finish_reason == told


@pytest.mark.parametrize(
    ("more", "tier"),
    [
        ({"serviceTier": {"type": "flex"}}, "flex"),
        ({"performanceConfig": {"latency": "optimized"}}, "optimized"),
        ({"performanceConfig": {"latency": "standard"}}, None),
        ({"usage": {"inputTokens": 1, "cacheDetails": [{"ttl": "1h", "inputTokens": 3}]}}, "cache_1h"),
        ({"usage": None}, None),
    ],
)
def test_what_the_price_depends_on_is_the_tier(more: dict[str, Any], tier: str | None) -> None:
    assert _decode(_converse({"text": "x"}, **more)).usage.service_tier == tier


@pytest.mark.parametrize(
    ("payload", "words", "refusal"),
    [
        ("x", "the answer is not an object but str", None),
        ({}, "no model that this provider knows (fields: none)", None),
        ({"output": {}}, "output.message.content is not a list of blocks", None),
        (_converse(), "no text (no blocks), stopReason end_turn", None),
        (_converse({"toolUse": {"name": "f", "input": {}}}, reason="tool_use"), "no text (toolUse)", None),
        (_converse({"text": 3}), "no text (text)", None),
        (_converse(reason="malformed_tool_use"), "stopReason malformed_tool_use", None),
        (_converse(reason="content_filtered"), "was filtered", "content_policy"),
        (_converse({"text": "Sorry."}, reason="guardrail_intervened"), "guardrail of Bedrock", "content_policy"),
        (_converse(reason="model_context_window_exceeded"), "no room to answer", "context_window"),
    ],
)
def test_an_answer_without_a_text_is_none(payload: Any, words: str, refusal: str | None) -> None:
    error = _refused(payload)
    assert (words in str(error), error.refusal) == (True, refusal)


# ---------------------------------------------------------------- InvokeModel


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (
            {"inputTextTokenCount": 7, "results": [{"tokenCount": 5, "outputText": "x", "completionReason": "LENGTH"}]},
            Answer("x", Usage(7, 5), None, "length"),
        ),
        (
            {"completions": [{"data": {"text": "x"}, "finishReason": {"reason": "endoftext"}}]},
            Answer("x", Usage(), None, "stop"),
        ),
        ({"generations": [{"text": "x", "finish_reason": "MAX_TOKENS"}]}, Answer("x", Usage(), None, "length")),
        ({"text": "x", "finish_reason": "COMPLETE"}, Answer("x", Usage(), None, "stop")),
        ({"completion": "x", "stop_reason": "stop_sequence"}, Answer("x", Usage(), None, "stop")),
        (
            {
                "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": 7,
                    "completion_tokens": 5,
                    "completion_tokens_details": {"reasoning_tokens": 2},
                },
                "model": "grok-4",
            },
            Answer("x", Usage(7, 5, reasoning_tokens=2), "grok-4", "stop"),
        ),
    ],
)
def test_each_makers_text_is_read(payload: dict[str, Any], answer: Answer) -> None:
    assert _decode(payload, _PROMPT) == answer


@pytest.mark.parametrize(
    "payload",
    [
        {"embeddings": [[1.0], [2.0]]},
        {"embeddings": {"float": [[1.0], [2.0]]}, "response_type": "embeddings_by_type"},
    ],
)
def test_vectors_of_cohere_are_read(payload: dict[str, Any]) -> None:
    assert _decode(payload, _TEXTS).content == [[1.0], [2.0]]


@pytest.mark.parametrize("payload", [{"embedding": [1.0]}, {"embeddingsByType": {"float": [1.0]}}])
def test_the_vector_of_titan_is_read(payload: dict[str, Any]) -> None:
    request = ModelRequest(EMBEDDINGS, {}, inputs=("a",))
    answer = _decode({**payload, "inputTextTokenCount": 3}, request)
    assert answer == Answer([[1.0]], Usage(input_tokens=3))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "neither embedding nor embeddings"),
        ({"embedding": [1.0]}, "1 embeddings for 2 inputs"),
        ({"embeddings": [[1.0], ["a"]]}, "embeddings[1] is not a list of numbers"),
        ({"embeddings": [[1.0], []]}, "embeddings[1] is not a list of numbers"),
    ],
)
def test_vectors_that_are_none_are_told(payload: dict[str, Any], words: str) -> None:
    assert words in str(_refused(payload, _TEXTS))


@pytest.mark.parametrize(
    ("payload", "refusal"),
    [
        ({"results": []}, None),
        ({"results": [{"outputText": None}]}, None),
        ({"results": [{"outputText": "", "completionReason": "CONTENT_FILTERED"}]}, "content_policy"),
        ({"completion": "x", "amazon-bedrock-guardrailAction": "INTERVENED"}, "content_policy"),
    ],
)
def test_a_completion_without_a_text_is_none(payload: dict[str, Any], refusal: str | None) -> None:
    assert _refused(payload, _PROMPT).refusal == refusal


# ---------------------------------------------------------------- rendering

_COUNTS = st.none() | st.integers(0, 10**12)


@st.composite
def _usages(draw: st.DrawFn) -> Usage:
    fresh, cached, written = draw(_COUNTS), draw(_COUNTS), draw(_COUNTS)
    parts = [count for count in (fresh, cached, written) if count is not None]
    tier = draw(st.none() | st.text(min_size=1, max_size=64))
    return Usage(sum(parts) if parts else None, draw(_COUNTS), cached, draw(_COUNTS), written, tier)


_ANSWERS = st.builds(
    Answer,
    st.text(min_size=1, max_size=40),
    _usages(),
    st.none() | st.text(max_size=20),
    st.sampled_from([None, "stop", "length", "content_filter", "some_other"]),
)


@pytest.mark.parametrize("request_", [_CHAT, _PROMPT])
@given(answer=_ANSWERS, wanted=st.sampled_from([None, ResponseFormat("json_object")]))
def test_a_rendered_text_is_read_again(request_: ModelRequest, answer: Answer, wanted: ResponseFormat | None) -> None:
    request = ModelRequest(request_.task, {}, request_.messages, request_.inputs, response_format=wanted)
    assert _decode(loads(dumpb(AmazonBedrock().render(request, answer))), request) == answer


@given(
    vectors=st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=3), min_size=2, max_size=2),
    tokens=_COUNTS,
)
def test_rendered_vectors_are_read_again(vectors: list[list[float]], tokens: int | None) -> None:
    answer = Answer(vectors, Usage(input_tokens=tokens))
    assert _decode(loads(dumpb(AmazonBedrock().render(_TEXTS, answer))), _TEXTS) == answer


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("payload", "headers", "status"),
    [
        ({"message": "x"}, {"x-amzn-errortype": "ThrottlingException"}, 429),
        ({"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "x"}, {}, 401),
        ({"__type": "UnrecognizedClientException"}, {}, 401),
        ({"code": "ModelTimeoutException"}, {}, 408),
        ({"Message": "x"}, {}, 400),
        ("no JSON", {}, 400),
    ],
)
def test_the_kind_of_an_error_is_found(payload: Any, headers: dict[str, str], status: int) -> None:
    assert AmazonBedrock().read_status(400, payload, headers) == status


@pytest.mark.parametrize("payload", [{"message": "x"}, {"Message": "x"}, {"error": {"message": "x"}}, "x"])
def test_the_message_of_an_error_is_found(payload: Any) -> None:
    assert AmazonBedrock().read_error(payload) == "x"


def test_a_model_that_is_served_by_profiles_only_is_told() -> None:
    told = "Invocation of model ID anthropic.x with on-demand throughput isn\u2019t supported."
    assert "inference profile, such as us." in AmazonBedrock().read_error({"message": told})


def test_what_the_model_itself_refuses_is_a_refusal() -> None:
    payload = {"message": "Output blocked by content filtering policy"}
    assert AmazonBedrock().read_refusal(424, payload) == "content_policy"
