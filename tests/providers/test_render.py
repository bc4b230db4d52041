"""What the log keeps of an answer that a guardrail has changed is read again as that answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.jsontext import dumpb, loads
from fleming_sql.providers.anthropic import Anthropic
from fleming_sql.providers.base import BadAnswer, Provider
from fleming_sql.providers.cohere import Cohere
from fleming_sql.providers.databricks import Databricks
from fleming_sql.providers.google.gemini import Gemini
from fleming_sql.providers.google.vertex_ai import VertexAI
from fleming_sql.providers.mlflow import MlflowModelServing
from fleming_sql.providers.openai import OpenAI
from fleming_sql.providers.openai_moderation import OpenAIModeration
from fleming_sql.providers.openai_preset import OpenAIPreset
from fleming_sql.providers.presets import read_presets
from fleming_sql.providers.simulated import Simulated
from fleming_sql.testing import Reply, anthropic_reply, chat_reply
from fleming_sql.types import (
    AGENT_CHAT,
    AGENT_RESPONSES,
    CHAT,
    COMPLETIONS,
    CUSTOM,
    EMBEDDINGS,
    RESPONSES,
    Answer,
    ModelRequest,
    ResponseFormat,
    Task,
    Usage,
)

_THINKING = OpenAIPreset(read_presets()["ollama"])
_COUNTS = st.none() | st.integers(0, 10**12)
_NAMES = st.none() | st.text(max_size=20)
_TIERS = st.none() | st.text(min_size=1, max_size=64)
_REASONS = st.sampled_from([None, "stop", "length", "tool_calls", "some_other"])
_TEXTS = st.text(max_size=40)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_FORMATS = st.sampled_from([None, ResponseFormat("text"), ResponseFormat("json_object")])


def _again(provider: Provider, request: ModelRequest, answer: Answer) -> Answer:
    """Return what is read out of an answer that was put down as JSON."""
    return provider.decode(request, loads(dumpb(provider.render(request, answer))))


def _texts(usage: st.SearchStrategy[Usage], texts: st.SearchStrategy[str] = _TEXTS) -> st.SearchStrategy[Answer]:
    plain = st.builds(Answer, texts, usage, _NAMES, _REASONS)
    # An empty text that was filtered is no answer, so it cannot become one.
    return plain | st.builds(Answer, st.text(min_size=1), usage, _NAMES, st.just("content_filter"))


@st.composite
def _anthropic_usages(draw: st.DrawFn) -> Usage:
    """Return counts as they are read: what the cache gave and took is a part of the input."""
    fresh, cached, written = draw(_COUNTS), draw(_COUNTS), draw(_COUNTS)
    parts = [count for count in (fresh, cached, written) if count is not None]
    return Usage(sum(parts) if parts else None, draw(_COUNTS), cached, draw(_COUNTS), written, draw(_TIERS))


@st.composite
def _google_usages(draw: st.DrawFn) -> Usage:
    """Return counts as they are read: thoughts are a part of the output."""
    written, thoughts = draw(_COUNTS), draw(_COUNTS)
    parts = [count for count in (written, thoughts) if count is not None]
    tier = draw(st.sampled_from([None, "standard", "flex", "provisioned_throughput"]))
    return Usage(draw(_COUNTS), sum(parts) if parts else None, draw(_COUNTS), thoughts, None, tier)


@st.composite
def _cohere_usages(draw: st.DrawFn) -> Usage:
    """Return counts as they are read: no more of the input was found in the cache than there is."""
    given = draw(_COUNTS)
    cached = draw(_COUNTS if given is None else st.none() | st.integers(0, given))
    return Usage(given, None if given is None else draw(_COUNTS), cached)


_USAGES = st.builds(Usage, _COUNTS, _COUNTS, _COUNTS, _COUNTS, _COUNTS, _TIERS)
_VECTORS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4)
_MESSAGES = ({"role": "user", "content": "hi"},)


@pytest.mark.parametrize("provider", [OpenAI(), Simulated(), MlflowModelServing(), Databricks(), _THINKING])
@pytest.mark.parametrize("task", [CHAT, AGENT_CHAT, COMPLETIONS, RESPONSES, AGENT_RESPONSES])
@given(answer=_texts(_USAGES), wanted=_FORMATS)
def test_a_text_in_openais_format_is_read_again(
    provider: Provider, task: Task, answer: Answer, wanted: ResponseFormat | None
) -> None:
    request = ModelRequest(task, {}, messages=_MESSAGES, inputs=("hi",), response_format=wanted)
    assert _again(provider, request, answer) == answer


@pytest.mark.parametrize("provider", [OpenAI(), Simulated()])
@given(answer=st.builds(Answer, st.lists(_VECTORS, min_size=1, max_size=3), _USAGES, _NAMES))
def test_embeddings_are_read_again(provider: Provider, answer: Answer) -> None:
    request = ModelRequest(EMBEDDINGS, {}, inputs=("text",) * len(answer.content))
    assert _again(provider, request, answer) == answer


@given(answer=_texts(_anthropic_usages()), wanted=_FORMATS)
def test_a_text_in_anthropics_format_is_read_again(answer: Answer, wanted: ResponseFormat | None) -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES, response_format=wanted)
    assert _again(Anthropic(), request, answer) == answer


@pytest.mark.parametrize("task", [AGENT_CHAT, AGENT_RESPONSES])
@given(text=st.text(min_size=1), outputs=st.dictionaries(st.text(max_size=5), _JSON, min_size=1, max_size=2))
def test_what_an_agent_gives_beside_its_text_is_read_again(task: Task, text: str, outputs: dict[str, Any]) -> None:
    request = ModelRequest(task, {"databricks_options": {"return_trace": True}}, messages=_MESSAGES)
    answer = Answer({"text": text, "custom_outputs": outputs, "databricks_output": {"trace": {}}}, Usage(1, 2))
    assert _again(Databricks(), request, answer) == answer


@pytest.mark.parametrize("provider", [Gemini(), VertexAI()])
@given(answer=_texts(_google_usages()), wanted=_FORMATS)
def test_a_text_in_googles_format_is_read_again(
    provider: Provider, answer: Answer, wanted: ResponseFormat | None
) -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES, response_format=wanted)
    assert _again(provider, request, answer) == answer


@given(answer=_texts(_cohere_usages()))
def test_a_text_in_coheres_format_is_read_again_but_for_the_model(answer: Answer) -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES)
    assert _again(Cohere(), request, answer) == replace(answer, model=None)


@pytest.mark.parametrize("provider", [Gemini(), VertexAI(), Cohere()])
@given(vectors=st.lists(_VECTORS, min_size=1, max_size=3), tokens=_COUNTS)
def test_embeddings_of_google_and_cohere_are_read_again(
    provider: Provider, vectors: list[list[float]], tokens: int | None
) -> None:
    request = ModelRequest(EMBEDDINGS, {}, inputs=("text",) * len(vectors))
    answer = Answer(vectors, Usage(input_tokens=tokens))
    assert _again(provider, request, answer) == answer


@pytest.mark.parametrize("fields", [{"a": 1}, "text", {"inputs": [1, 2]}])
@given(answer=st.builds(Answer, _JSON, st.just(Usage()), _NAMES))
def test_what_a_custom_model_predicts_is_read_again(fields: Any, answer: Answer) -> None:
    assert _again(MlflowModelServing(), ModelRequest(CUSTOM, {}, fields=fields), answer) == answer


@given(answer=st.builds(Answer, _JSON, st.just(Usage()), _NAMES))
def test_what_a_simulated_model_predicts_is_read_again(answer: Answer) -> None:
    assert _again(Simulated(), ModelRequest(CUSTOM, {}, fields={"a": 1}), answer) == answer


@given(flags=st.lists(st.booleans(), min_size=1, max_size=4), model=_NAMES)
def test_moderation_results_are_read_again(flags: list[bool], model: str | None) -> None:
    results = [{"flagged": flag, "categories": {"hate": flag}, "category_scores": {"hate": 0.25}} for flag in flags]
    answer = Answer({"results": results}, Usage(), model)
    request = ModelRequest(CUSTOM, {}, fields=["text"] * len(flags))
    assert _again(OpenAIModeration(), request, answer) == answer


def _body(reply: Reply) -> Any:
    return loads(reply.content())


def test_a_chat_completion_has_the_shape_that_the_server_gave() -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES)
    given_body = _body(chat_reply("hello", cached_tokens=4, reasoning_tokens=2))
    rendered = OpenAI().render(request, OpenAI().decode(request, given_body))
    del given_body["id"], given_body["created"], given_body["choices"][0]["logprobs"]
    assert rendered == given_body


def test_a_message_has_the_shape_that_anthropic_gave() -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES)
    given_body = _body(anthropic_reply("hello", cache_read=5, cache_creation=7))
    rendered = Anthropic().render(request, Anthropic().decode(request, given_body))
    del given_body["id"], given_body["stop_sequence"]
    assert rendered == given_body


def test_a_tools_input_becomes_a_text_that_is_read_as_the_answer() -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES, response_format=ResponseFormat("json_object"))
    blocks = [{"type": "tool_use", "id": "t", "name": "x", "input": {"mail": "<EMAIL_ADDRESS>"}}]
    answer = Anthropic().decode(request, _body(anthropic_reply(blocks, stop_reason="tool_use")))
    assert _again(Anthropic(), request, answer) == answer


@pytest.mark.parametrize("stop_reason", ["end_turn", "max_tokens", "tool_use", "stop_sequence", "pause_turn"])
def test_each_stop_reason_means_the_same_again(stop_reason: str) -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES)
    answer = Anthropic().decode(request, _body(anthropic_reply("hello", stop_reason=stop_reason)))
    assert _again(Anthropic(), request, answer).finish_reason == answer.finish_reason


@pytest.mark.parametrize("extra", [{"speed": "fast"}, {"cache_creation": {"ephemeral_1h_input_tokens": 3}}])
def test_what_anthropic_charges_by_is_read_again(extra: dict[str, Any]) -> None:
    request = ModelRequest(CHAT, {}, messages=_MESSAGES)
    body = _body(anthropic_reply("hello", cache_creation=3))
    answer = Anthropic().decode(request, {**body, "usage": {**body["usage"], **extra}})
    assert answer.usage.service_tier is not None
    assert _again(Anthropic(), request, answer).usage == answer.usage


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic(), Gemini(), Cohere()])
def test_an_empty_text_that_was_filtered_stays_no_answer(provider: Provider) -> None:
    with pytest.raises(BadAnswer):
        _again(provider, ModelRequest(CHAT, {}, messages=_MESSAGES), Answer("", Usage(), None, "content_filter"))
