from __future__ import annotations

from typing import Any

import httpx
import pytest

from fleming_sql.jsontext import loads
from fleming_sql.providers import ProviderRegistry
from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.openai_moderation import OpenAIModeration
from fleming_sql.testing import MockModel, error_reply, moderation_reply
from fleming_sql.types import CHAT, CUSTOM, Answer, ModelRequest, Secret, ServedEntity, Usage

_PART = {"type": "text", "text": "hi"}
_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
_RESULT = {"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": 0.1}}


def _entity(base_url: str | None = None, model: str = "omni-1", **config: Any) -> ServedEntity:
    return ServedEntity("id", "guard", "main", "openai-moderation", model, base_url, None, 100, 0, {}, config)


def _request(fields: Any = "hi", **parameters: Any) -> ModelRequest:
    return ModelRequest(CUSTOM, parameters, fields=fields)


def _body(request: ModelRequest, entity: ServedEntity | None = None) -> dict[str, Any]:
    body = loads(OpenAIModeration().encode(entity or _entity(), request).body)
    assert isinstance(body, dict)
    return body


def _problem(request: ModelRequest) -> str:
    with pytest.raises(BadProviderRequest) as problem:
        OpenAIModeration().encode(_entity(), request)
    return str(problem.value)


def _decode(*results: Any, fields: Any = "hi") -> Answer:
    return OpenAIModeration().decode(_request(fields), {"model": "omni-1", "results": list(results)})


def _refusal(payload: Any, fields: Any = "hi") -> str:
    with pytest.raises(BadAnswer) as refused:
        OpenAIModeration().decode(_request(fields), payload)
    return str(refused.value)


def test_a_text_is_judged_over_a_socket() -> None:
    reply = moderation_reply({"hate": 0.9, "sexual": 0.1})
    with MockModel(lambda received: reply) as server, httpx.Client() as client:
        entity = _entity(f"{server.url}/v1")
        outgoing = OpenAIModeration().encode(entity, _request())
        headers = OpenAIModeration().authorize(entity, outgoing, {"credential": Secret("k-1")})
        payload = client.post(outgoing.url, content=outgoing.body, headers=dict(headers)).json()
        received = server.requests[0]
    assert (received.path, received.headers["authorization"]) == ("/v1/moderations", "Bearer k-1")
    assert OpenAIModeration().decode(_request(), payload).content["results"][0]["flagged"] is True


def test_model_and_text_go_out() -> None:
    assert _body(_request()) == {"model": "omni-1", "input": "hi"}


def test_without_a_model_the_server_chooses() -> None:
    assert _body(_request(), _entity(model="")) == {"input": "hi"}


@pytest.mark.parametrize("judged", ["", "hi", ["a"], ["a", "b"], [_PART, _PICTURE]])
def test_texts_and_parts_go_out_bare_and_as_a_field(judged: Any) -> None:
    assert (_body(_request(judged))["input"], _body(_request({"input": judged}))["input"]) == (judged, judged)


def test_null_fields_of_a_struct_do_not_count() -> None:
    assert _body(_request({"input": "hi", "note": None}))["input"] == "hi"


@pytest.mark.parametrize(
    "fields", [None, 3, True, [], [3], ["a", _PART], [{"text": "a"}], {}, {"input": None}, {"text": "a"}]
)
def test_what_is_no_text_has_no_place(fields: Any) -> None:
    assert "moderation endpoint" in _problem(_request(fields))


def test_a_field_beside_input_is_named() -> None:
    assert "the fields input, user" in _problem(_request({"input": "hi", "user": "u"}))


def test_parameters_of_the_entity_go_along() -> None:
    assert _body(_request(user="u")) == {"model": "omni-1", "input": "hi", "user": "u"}


@pytest.mark.parametrize("model", ["omni-1", ""])
@pytest.mark.parametrize("name", ["model", "input"])
def test_what_the_gateway_sets_is_no_parameter(name: str, model: str) -> None:
    with pytest.raises(BadProviderRequest, match=f'the parameter "{name}"'):
        OpenAIModeration().encode(_entity(model=model), _request(**{name: "x"}))


def test_a_chat_has_no_place() -> None:
    assert CHAT in _problem(ModelRequest(CHAT, {}, messages=({"role": "user", "content": "hi"},)))


@pytest.mark.parametrize(
    ("base", "url"),
    [
        (None, "https://api.openai.com/v1/moderations"),
        ("https://api.mistral.ai/v1/", "https://api.mistral.ai/v1/moderations"),
    ],
)
def test_the_url_ends_in_moderations(base: str | None, url: str) -> None:
    assert OpenAIModeration().encode(_entity(base), _request()).url == url


def test_the_organization_is_a_header() -> None:
    outgoing = OpenAIModeration().encode(_entity(openai_organization="org-1"), _request())
    assert outgoing.headers == {"openai-organization": "org-1"}


@pytest.mark.parametrize(
    ("base", "required"), [(None, True), ("https://eu.api.openai.com/v1", True), ("http://localhost:1/v1", False)]
)
def test_openai_itself_requires_a_credential(base: str | None, required: bool) -> None:
    assert OpenAIModeration().requires_credential(_entity(base)) is required


def test_the_answer_is_the_object_with_results() -> None:
    assert _decode(_RESULT) == Answer({"results": [_RESULT]}, Usage(), "omni-1")


@pytest.mark.parametrize(
    ("fields", "count"), [("a", 1), (["a", "b"], 2), ({"input": ["a"]}, 1), ([_PART, _PICTURE], 1)]
)
def test_there_is_a_result_for_each_text(fields: Any, count: int) -> None:
    assert len(_decode(*[_RESULT] * count, fields=fields).content["results"]) == count


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_results_is_a_bad_answer(count: int) -> None:
    assert f"{count} items for 2 inputs" in _refusal({"results": [_RESULT] * count}, ["a", "b"])


def test_a_result_may_have_its_categories_only() -> None:
    assert _decode({"categories": {"pii": True}}).content == {"results": [{"categories": {"pii": True}}]}


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ("no", "results[0]"),
        ({}, "results[0].flagged"),
        ({"flagged": "no"}, "results[0].flagged"),
        ({"flagged": None, "categories": None}, "results[0].flagged"),
        ({"flagged": True, "categories": []}, "results[0].categories"),
        ({"flagged": True, "category_scores": 0.3}, "results[0].category_scores"),
    ],
)
def test_what_is_wrong_with_a_result_is_named(result: Any, field: str) -> None:
    assert _refusal({"results": [result]}).startswith(f"{field} ")


@pytest.mark.parametrize("payload", [None, [], "no", {}, {"results": None}, {"results": {}}])
def test_an_answer_without_results_is_a_bad_answer(payload: Any) -> None:
    assert _refusal(payload)


def test_an_error_with_status_200_is_told() -> None:
    assert "no such model" in _refusal({"error": {"message": "no such model"}})


def test_an_error_is_read_as_openai_writes_it() -> None:
    assert OpenAIModeration().read_error(loads(error_reply(401, "bad key").content())) == "bad key"


def test_the_registry_knows_the_provider() -> None:
    assert isinstance(ProviderRegistry().get("openai-moderation"), OpenAIModeration)
