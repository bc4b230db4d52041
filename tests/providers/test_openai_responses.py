"""The Responses API, over real sockets."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.openai import OpenAI
from fleming_sql.providers.openai_responses import read_response, responses_body
from fleming_sql.testing import MockModel, Reply
from fleming_sql.types import RESPONSES, ModelRequest, ResponseFormat, ServedEntity

_TEXT = {"type": "output_text", "text": "fine", "annotations": []}
_USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 29,
}


def _reply(*items: dict[str, Any], status: str = "completed", **others: Any) -> Reply:
    output = items or ({"type": "message", "role": "assistant", "content": [_TEXT]},)
    return Reply(
        body={"object": "response", "status": status, "model": "m-1", "output": list(output), "usage": _USAGE, **others}
    )


def _ask(con: Con, request: str = "'hi'", options: str = "") -> Any:
    return con.execute(f"select ai_query('chat', {request}{options})").fetchall()[0][0]


def _serve(serve: Serve, reply: Reply | None = None) -> MockModel:
    answer = reply or _reply()
    return serve(
        lambda received: answer if received.path == "/v1/responses" else Reply(404, {"error": "no such path"}),
        path="/v1",
        task=RESPONSES,
        max_retries=0,
    )


def test_a_prompt_becomes_one_input_item_and_the_text_comes_back(con: Con, serve: Serve) -> None:
    server = _serve(serve)

    assert _ask(con) == "fine"
    assert server.requests[0].json() == {"model": "mock", "input": [{"role": "user", "content": "hi"}]}


def test_cached_and_reasoning_tokens_are_logged(con: Con, serve: Serve) -> None:
    _serve(serve)
    _ask(con)

    usage = con.execute(
        "select input_token_count, output_token_count, cached_input_token_count, reasoning_token_count "
        "from fleming.serving.endpoint_usage"
    ).fetchall()
    assert usage == [(20, 9, 5, 4)]


def test_a_response_format_becomes_a_text_format(con: Con, serve: Serve) -> None:
    content = [{**_TEXT, "text": '{"stars": 5}'}]
    server = _serve(serve, _reply({"type": "message", "content": content}))

    assert _ask(con, options=", responseFormat => 'STRUCT<r: STRUCT<stars: INT>>'") == {"stars": 5}
    sent = server.requests[0].json()["text"]["format"]
    assert (sent["type"], sent["name"], sent["schema"]["properties"]) == (
        "json_schema",
        "r",
        {"stars": {"type": ["integer", "null"]}},
    )


def test_a_struct_brings_items_and_settings_of_its_own(con: Con, serve: Serve) -> None:
    server = _serve(serve)

    _ask(con, "{'input': [{'role': 'user', 'content': 'a'}], 'instructions': 'be short', 'previous': NULL}")

    assert server.requests[0].json() == {
        "model": "mock",
        "input": [{"role": "user", "content": "a"}],
        "instructions": "be short",
    }


def test_a_picture_goes_as_an_input_image(con: Con, serve: Serve) -> None:
    server = _serve(serve)

    _ask(con, options=r", files => '\x89PNG\x0D\x0A\x1A\x0A'::blob")

    [item] = server.requests[0].json()["input"]
    assert [part["type"] for part in item["content"]] == ["input_text", "input_image"]
    assert item["content"][1]["image_url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("given", ["42", "[]", "[{'role': 'user'}]"])
def test_input_that_is_none_is_refused_in_words(con: Con, serve: Serve, given: str) -> None:
    server = _serve(serve)

    with pytest.raises(duckdb.Error, match="input must be a text, or a list with at least one"):
        _ask(con, f"{{'input': {given}}}")
    assert server.requests == []


@pytest.mark.parametrize(
    ("parameters", "sent"),
    [
        ({"max_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_output_tokens": 5}, {"max_output_tokens": 5}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ({"reasoning_effort": "low", "reasoning": {"a": 1}}, {"reasoning": {"effort": "low", "a": 1}}),
        ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
        ({"temperature": 0.0, "top_p": 0.5}, {"temperature": 0.0, "top_p": 0.5}),
    ],
)  # fmt: skip
def test_parameters_have_the_names_of_this_api(parameters: dict[str, Any], sent: dict[str, Any]) -> None:
    body = responses_body(ModelRequest(RESPONSES, parameters, messages=({"role": "user", "content": "a"},)))

    assert body == {"input": [{"role": "user", "content": "a"}], **sent}


@pytest.mark.parametrize("name", ["input", "stream", "model"])
def test_parameters_of_the_gateways_own_are_refused(name: str) -> None:
    with pytest.raises(BadProviderRequest, match=name):
        responses_body(ModelRequest(RESPONSES, {name: True}, messages=({"role": "user", "content": "a"},)))


def test_json_objects_are_asked_for() -> None:
    request = ModelRequest(RESPONSES, {}, messages=(), response_format=ResponseFormat("json_object"))

    assert responses_body(request)["text"] == {"format": {"type": "json_object"}}


def test_a_chat_with_tools_becomes_items() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: tuple[dict[str, Any], ...] = (
        {"role": "assistant", "content": [{"type": "text", "text": "wait"}], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        {"type": "reasoning", "id": "r1"},
    )

    assert responses_body(ModelRequest(RESPONSES, {}, messages=messages))["input"] == [
        {"role": "assistant", "content": [{"type": "output_text", "text": "wait"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {"type": "reasoning", "id": "r1"},
    ]


def _entity(base_url: str | None = None, **config: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "one", "openai", "m", base_url, None, 100, 0, {}, config)


_HI = ModelRequest(RESPONSES, {}, messages=({"role": "user", "content": "hi"},))


def test_openai_is_asked_not_to_keep_what_it_answers() -> None:
    assert b'"store":false' in OpenAI().encode(_entity(), _HI).body


def test_what_is_kept_can_be_asked_for() -> None:
    request = ModelRequest(RESPONSES, {"store": True}, messages=_HI.messages)

    assert b'"store":true' in OpenAI().encode(_entity(), request).body


def test_other_servers_are_not_told_what_they_may_not_know() -> None:
    assert b"store" not in OpenAI().encode(_entity("http://127.0.0.1:1/v1"), _HI).body


def test_azure_has_the_deployment_in_the_body() -> None:
    entity = _entity(
        openai_api_type="azure",
        openai_api_base="https://x.openai.azure.com",
        openai_api_version="2024-10-21",
        openai_deployment_name="gpt",
    )

    outgoing = OpenAI().encode(entity, _HI)

    assert outgoing.url == "https://x.openai.azure.com/openai/v1/responses"
    assert b'"model":"gpt"' in outgoing.body


@pytest.mark.parametrize(
    ("answer", "told", "refusal"),
    [
        ({"output": [{"content": [{"type": "refusal", "refusal": "no"}]}]}, "refused: no", "content_policy"),
        ({"output": [], "incomplete_details": {"reason": "content_filter"}}, "filtered", "content_policy"),
        ({"output": [{"type": "function_call"}], "status": "completed"}, r"no text \(function_call\)", None),
        ({"output": [], "status": "in_progress"}, "status in_progress", None),
        ({"output": "x"}, "output is not a list", None),
        ({"error": {"code": "server_error", "message": "broken"}, "status": "failed"}, "failed: broken", None),
        ({"error": {"code": "context_length_exceeded", "message": "x"}}, "failed: x", "context_window"),
    ],
)  # fmt: skip
def test_answers_without_text_say_why(answer: dict[str, Any], told: str, refusal: str | None) -> None:
    with pytest.raises(BadAnswer, match=told) as raised:
        read_response(answer)
    assert raised.value.refusal == refusal


@pytest.mark.parametrize(
    ("details", "reason"), [(None, "stop"), ({"reason": "max_output_tokens"}, "length"), ({"reason": "other"}, "other")]
)
def test_the_finish_reason_is_in_the_words_of_chats(details: dict[str, str] | None, reason: str) -> None:
    payload = {"status": "completed", "output": [{"content": [_TEXT]}], "incomplete_details": details}

    assert read_response(payload) == ("fine", reason)


def test_an_error_answer_is_told_with_its_status(con: Con, serve: Serve) -> None:
    _serve(serve, Reply(400, {"error": {"message": "no such tool", "type": "invalid_request_error"}}))

    with pytest.raises(duckdb.Error, match="code 400, and error message 'no such tool'"):
        _ask(con)


def test_guardrails_look_at_items(con: Con, serve: Serve) -> None:
    server = _serve(serve)
    con.execute(
        "insert into fleming.guardrails (endpoint, name, phase, kind, behavior, config) "
        "values ('chat', 'mail', 'input', 'pii', 'mask', '{}')"
    )

    _ask(con, "{'input': [{'type': 'function_call_output', 'call_id': 'c1', 'output': 'ada@example.com'}]}")

    assert b"ada@example.com" not in server.requests[0].body


def test_the_simulated_model_speaks_it_too(con: Con, add_endpoint: Any) -> None:
    add_endpoint(con, task=RESPONSES, provider="simulated")

    assert "hi" in _ask(con)
    assert _ask(con, options=", responseFormat => 'STRUCT<r: STRUCT<stars: INT>>'").keys() == {"stars"}
