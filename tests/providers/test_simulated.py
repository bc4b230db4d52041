from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadAnswer, BadProviderRequest
from fleming_sql.providers.simulated import Settings, Simulated, SimulatedTransport
from fleming_sql.types import (
    CHAT,
    COMPLETIONS,
    CUSTOM,
    EMBEDDINGS,
    Answer,
    ModelRequest,
    OutgoingRequest,
    ResponseFormat,
    ServedEntity,
)

_LATE = "My parcel arrived late and damaged, I want my money back."
_ALL_KINDS = ["rate_limit", "server_error", "overloaded", "timeout", "cut", "malformed", "refused"]


def _entity(model: str = "m-1", **parameters: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "main", "simulated", model, None, None, 100, 0, parameters, {})


def _chat(content: Any = "What is a cat?", **more: Any) -> ModelRequest:
    parameters = more.pop("parameters", {})
    return ModelRequest(CHAT, parameters, messages=({"role": "user", "content": content},), **more)


def _with_schema(schema: Mapping[str, Any], content: str = "What is a cat?") -> ModelRequest:
    return _chat(content, response_format=ResponseFormat("json_schema", "answer", schema))


def _http(outgoing: OutgoingRequest, read_timeout_s: float | None = None) -> httpx.Request:
    return httpx.Request(
        outgoing.method,
        outgoing.url,
        headers=outgoing.headers,
        content=outgoing.body,
        extensions={"timeout": {"read": read_timeout_s}},
    )


def _send(
    request: ModelRequest,
    entity: ServedEntity | None = None,
    provider: Simulated | None = None,
    read_timeout_s: float | None = None,
) -> httpx.Response:
    async def exchange() -> httpx.Response:
        made, called = provider or Simulated(), entity or _entity()
        http = _http(made.encode(called, request), read_timeout_s)
        response = await made.transport(called).handle_async_request(http)
        response.request = http
        await response.aread()
        return response

    return asyncio.run(exchange())


def _ask(request: ModelRequest, entity: ServedEntity | None = None, provider: Simulated | None = None) -> Answer:
    return Simulated().decode(request, _send(request, entity, provider).json())


def _fields(request: ModelRequest) -> dict[str, Any]:
    value = loads(_ask(request).content)
    assert isinstance(value, dict)
    return value


def _field(name: str, schema: Mapping[str, Any], content: str) -> Any:
    return _fields(_with_schema({"type": "object", "properties": {name: schema}}, content))[name]


def _embed(*texts: str, entity: ServedEntity | None = None, **parameters: Any) -> list[list[float]]:
    vectors = _ask(ModelRequest(EMBEDDINGS, parameters, inputs=texts), entity).content
    assert isinstance(vectors, list)
    return vectors


def _similarity(first: str, second: str) -> float:
    one, other = _embed(first, second)
    return sum(a * b for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------- answers


def test_the_answer_says_that_it_is_simulated() -> None:
    assert _ask(_chat("What is a cat?")).content == "This is a simulated answer to: What is a cat?"


@pytest.mark.parametrize(("model", "named"), [("m-1", "simulated/m-1"), ("", "simulated")])
def test_the_model_says_that_it_is_simulated(model: str, named: str) -> None:
    assert _ask(_chat(), _entity(model)).model == named


def test_the_same_prompt_gets_the_same_answer_in_another_process() -> None:
    program = "from fleming_sql.providers.simulated.chance import number; print(number(1, 'some prompt', 'é'))"
    runs = {subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout for _ in range(2)}
    assert len(runs) == 1


@pytest.mark.parametrize("change", [{"entity": _entity(seed=2)}, {"entity": _entity("m-2")}])
def test_seed_and_model_decide_what_the_prompt_does_not(change: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in "abcdef"}}
    request = _with_schema(schema)
    assert _ask(request).content != _ask(request, **change).content


def test_a_template_is_filled_in() -> None:
    template = "{model} read {words} words, first {first_words}: {prompt}"
    answer = _ask(_chat("one {words} three"), _entity(template=template)).content
    assert answer == "m-1 read 3 words, first one {words} three: one {words} three"


def test_settings_may_stand_under_simulate() -> None:
    assert _ask(_chat(), _entity(simulate={"template": "x"}, template="y")).content == "x"


def test_a_template_may_hold_any_text() -> None:
    assert _ask(_chat(), _entity(template="日本\n€")).content == "日本\n€"


def test_the_last_user_message_is_answered() -> None:
    roles = (("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"))
    messages = tuple({"role": role, "content": text} for role, text in roles)
    answer = _ask(ModelRequest(CHAT, {}, messages=messages), _entity(template="{prompt}"))
    assert answer.content == "d"


def test_the_text_of_content_parts_is_answered() -> None:
    parts = [{"type": "text", "text": "what is it?"}]
    assert _ask(_chat(parts), _entity(template="{prompt}")).content == "what is it?"


def test_usage_is_estimated_from_the_texts() -> None:
    usage = _ask(_chat("x" * 399), _entity(template="y" * 79)).usage
    assert (usage.input_tokens, usage.output_tokens) == (100, 20)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_on_tokens_cuts_the_answer(name: str) -> None:
    answer = _ask(_chat(parameters={name: 2}))
    assert (answer.content, answer.finish_reason) == ("This is ", "length")


def test_a_completion_is_answered() -> None:
    request = ModelRequest(COMPLETIONS, {}, inputs=("Once upon",))
    assert _ask(request).content == "This is a simulated answer to: Once upon"


def test_a_custom_model_predicts_a_number_for_its_record() -> None:
    prediction = _ask(ModelRequest(CUSTOM, {}, fields={"age": 3})).content
    assert 0 <= prediction < 1


def test_a_custom_model_gets_its_fields_as_a_record() -> None:
    outgoing = Simulated().encode(_entity(), ModelRequest(CUSTOM, {}, fields={"age": 3}))
    assert loads(outgoing.body)["dataframe_records"] == [{"age": 3}]


def test_a_custom_answer_without_predictions_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer, match="predictions"):
        Simulated().decode(ModelRequest(CUSTOM, {}, fields={}), {"predictions": []})


def test_no_credential_is_required() -> None:
    assert not Simulated().requires_credential(_entity())


@pytest.mark.parametrize("key", ["temperature", "max_tokens", "seed", "dimensions"])
def test_request_parameters_are_not_its_own(key: str) -> None:
    assert key not in Simulated.own_parameters


@pytest.mark.parametrize("key", ["simulate", "template", "latency_ms", "error_rate", "errors"])
def test_settings_are_its_own(key: str) -> None:
    assert key in Simulated.own_parameters


@pytest.mark.parametrize(
    "setting",
    [
        {"simulate": {"latencies": 3}},
        {"simulate": 3},
        {"latency_ms": "slow"},
        {"latency_ms": {"mean": 3}},
        {"error_rate": 1.5},
        {"error_rate": True},
        {"errors": []},
        {"errors": ["fire"]},
        {"template": 3},
        {"dimensions": 0},
    ],
)
def test_a_wrong_setting_is_named_with_its_place(setting: dict[str, Any]) -> None:
    with pytest.raises(BadProviderRequest, match=r"setting .* table served_entities, column parameters"):
        Simulated().encode(_entity(**setting), _chat())


def test_changed_parameters_change_the_answer() -> None:
    provider = Simulated()
    answers = [_ask(_chat(), _entity(template=text), provider).content for text in "ab"]
    assert answers == ["a", "b"]


# ---------------------------------------------------------------- labels and summaries


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        (f"Classify into one of: praise, refund, question.\n{_LATE}", "refund"),
        (f"Answer in one word: praise, refund or question. {_LATE}", "refund"),
        (f"Classify the ticket as praise, refund or question: {_LATE}", "refund"),
        ("Classify the review as positive, negative or neutral: I love it", "positive"),
        ("Is the review positive, negative or neutral? Answer in one word: positive, negative or neutral. "
         "It was awful.", "negative"),
        ("Classify the review as positive, negative or neutral: It is a chair.", "neutral"),
        ('Labels: "billing", "delivery", "other"\nThe courier never came', "delivery"),
        ("Into one of: billing, delivery, other.\nqwertz", "other"),
        ("Answer with yes or no: yes, it is", "yes"),
    ],
)  # fmt: skip
def test_a_prompt_that_lists_labels_gets_one_that_fits(prompt: str, label: str) -> None:
    assert _ask(_chat(prompt)).content == label


def test_a_label_without_a_hint_is_one_of_the_list() -> None:
    assert _ask(_chat("One word: red, green or blue. xyz")).content in {"red", "green", "blue"}


def test_a_summary_has_the_first_words_of_the_text() -> None:
    assert _ask(_chat(f"Summarise in a sentence: {_LATE}")).content == f"Simulated summary: {_LATE}"


@pytest.mark.parametrize("prompt", ["", " ", ",", "one of: ,,,", "Labels: a", "a" * 100_000, "as a, " * 5_000])
def test_an_odd_prompt_is_answered(prompt: str) -> None:
    assert isinstance(_ask(_chat(prompt)).content, str)


# ---------------------------------------------------------------- schemas


def test_json_object_is_answered_with_an_object() -> None:
    request = _chat("What is a cat?", response_format=ResponseFormat("json_object"))
    assert _fields(request) == {"answer": "This is a simulated answer to: What is a cat?"}


@pytest.mark.parametrize(
    ("name", "schema", "value"),
    [
        ("topic", {"enum": ["delivery", "invoice", "praise"]}, "invoice"),
        ("email", {"type": "string"}, "ann.lee@example.org"),
        ("contact", {"type": "string", "format": "email"}, "ann.lee@example.org"),
        ("order_id", {"type": "string"}, "AB-1234"),
        ("customer_name", {"type": "string"}, "Ann Lee"),
        ("due_date", {"type": "string", "format": "date"}, "2026-03-01"),
        ("amount", {"type": "number"}, 1049.5),
        ("amount", {"type": "string"}, "$1,049.50"),
        ("language", {"type": "string"}, "English"),
        ("mentions_invoice", {"type": "boolean"}, True),
        ("emails", {"type": "array", "items": {"type": "string"}}, ["ann.lee@example.org"]),
    ],
)
def test_details_of_the_prompt_are_found(name: str, schema: dict[str, Any], value: Any) -> None:
    text = "The invoice for order AB-1234, $1,049.50, is due on 2026-03-01. Ann Lee <ann.lee@example.org>"
    assert _field(name, schema, text) == value


def test_a_detail_out_of_bounds_is_not_taken() -> None:
    assert 0 <= _field("amount", {"type": "integer", "minimum": 0, "maximum": 5}, "it costs $90") <= 5


@pytest.mark.parametrize(
    "schema",
    [
        {"const": {"a": 1}},
        {"enum": [None]},
        {"enum": [1, 2.5, None, "x"]},
        {"type": ["null", "string"]},
        {"type": "null"},
        {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 4, "minimum": 1}]},
        {"$ref": "#/$defs/tree"},
        {"$ref": "#"},
        {"type": "string", "minLength": 50, "maxLength": 50},
        {"type": "string", "maxLength": 0},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
        {"type": "integer", "exclusiveMinimum": 3, "maximum": 4},
        {"type": "integer", "multipleOf": 7, "minimum": 100},
        {"type": "number", "multipleOf": 0.25, "maximum": -3},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        {"type": "array", "items": {"type": "string"}, "minItems": 7, "uniqueItems": True},
        {"type": "array", "items": {"type": "string"}, "maxItems": 0},
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
        {"type": "object", "required": ["undeclared"]},
        {"type": "object", "properties": {"gone": False}},
        {},
    ],
)
def test_a_schema_is_kept_to(schema: dict[str, Any]) -> None:
    tree = {"type": "object", "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}}
    whole = {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
        "$defs": {"tree": {**tree, "required": ["left"]}},
    }
    if schema == {"$ref": "#"}:
        del whole["required"]
    jsonschema_rs.validate(whole, _fields(_with_schema(whole)))


@pytest.mark.parametrize(
    "name", ["date", "date-time", "time", "duration", "uuid", "email", "uri", "hostname", "ipv4", "ipv6"]
)
def test_a_format_is_kept_to(name: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": name}}, "required": ["a"]}
    jsonschema_rs.validate(schema, _fields(_with_schema(schema)), validate_formats=True)


_NAMES = st.sampled_from(
    ["a", "email", "order_id", "amount", "language", "is_late", "due_date", "summary", "tags", "score", "ünï"]
)


def _numbers(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    fractions = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
    bound: st.SearchStrategy[float] = st.integers(-1000, 1000) if kind == "integer" else fractions

    def bounded(low: Any, width: int, keys: tuple[str, str]) -> dict[str, Any]:
        return {"type": kind, keys[0]: low, keys[1]: low + width}

    keys = st.sampled_from([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")])
    return st.just({"type": kind}) | st.builds(bounded, bound, st.integers(2, 500), keys)


def _strings() -> st.SearchStrategy[dict[str, Any]]:
    lengths = st.tuples(st.integers(0, 30), st.integers(0, 30))
    return lengths.map(lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[0] + pair[1]})


def _arrays(items: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda inner, least, more: {
            "type": "array",
            "items": inner,
            "minItems": least,
            "maxItems": least + more,
        },
        items,
        st.integers(0, 4),
        st.integers(0, 3),
    )


def _objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(_NAMES, inner, min_size=1, max_size=4).map(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            "additionalProperties": False,
        }
    )


_WHOLE = st.integers(-(2**63), 2**63 - 1)
_ENUMS: st.SearchStrategy[list[Any]] = st.lists(st.text(max_size=8) | _WHOLE, min_size=1, max_size=4)
_PLAIN: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}]
)
_LEAVES = st.one_of(
    _strings(),
    _numbers("integer"),
    _numbers("number"),
    _PLAIN,
    st.builds(lambda values: {"enum": values}, _ENUMS),
    st.builds(lambda value: {"const": value}, _WHOLE),
)
_SCHEMAS = _objects(
    st.recursive(
        _LEAVES,
        lambda inner: (
            _arrays(inner) | _objects(inner) | st.lists(inner, min_size=1, max_size=2).map(lambda b: {"anyOf": b})
        ),
        max_leaves=8,
    )
)


@given(_SCHEMAS, st.text(max_size=60) | st.just(f"{_LATE} AB-1234, $5.50, ann@example.org"))
def test_any_reasonable_schema_is_kept_to(schema: dict[str, Any], text: str) -> None:
    jsonschema_rs.validate(schema, _fields(_with_schema(schema, text)))


# ---------------------------------------------------------------- embeddings


def test_a_vector_has_the_default_length() -> None:
    assert len(_embed("hello")[0]) == 64


def test_a_vector_has_the_length_that_the_entity_sets() -> None:
    assert len(_embed("hello", entity=_entity(dimensions=8))[0]) == 8


def test_a_vector_has_the_length_that_the_caller_sets() -> None:
    assert len(_embed("hello", entity=_entity(dimensions=8), dimensions=16)[0]) == 16


@pytest.mark.parametrize("text", ["hello", "the cat sat on the mat", "", "?", "日本"])
def test_a_vector_has_length_one(text: str) -> None:
    assert math.isclose(math.hypot(*_embed(text)[0]), 1)


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    assert _embed("a cat", "a dog") == [_embed("a cat")[0], _embed("a dog")[0]]


def test_packed_vectors_are_the_same_vectors() -> None:
    plain, packed = _embed("a cat")[0], _embed("a cat", encoding_format="base64")[0]
    assert packed == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("the parcel arrived late", "my parcel is late", "how do I reset my password"),
        ("resetting passwords", "how do I reset my password", "the invoice has a wrong total"),
        ("refund for a broken lamp", "the lamp came broken, refund please", "opening hours on sunday"),
    ],
)
def test_similar_texts_are_near(text: str, near: str, far: str) -> None:
    assert _similarity(text, near) > _similarity(text, far) + 0.1


# ---------------------------------------------------------------- failures


def _failing(kind: str, **more: Any) -> ServedEntity:
    return _entity(error_rate=1, errors=[kind], **more)


@pytest.mark.parametrize(("kind", "status"), [("rate_limit", 429), ("server_error", 500), ("overloaded", 529)])
def test_an_error_has_its_status(kind: str, status: int) -> None:
    assert _send(_chat(), _failing(kind)).status_code == status


def test_an_error_has_its_message() -> None:
    response = _send(_chat(), _failing("server_error", error_message="out of order"))
    assert Simulated().read_error(response.json()) == "out of order"


def test_a_rate_limit_says_when_to_come_back() -> None:
    assert _send(_chat(), _failing("rate_limit", retry_after_s=1.5)).headers["retry-after"] == "1.5"


def test_a_malformed_answer_is_no_json() -> None:
    with pytest.raises(ValueError, match="expected a JSON value"):
        loads(_send(_chat(), _failing("malformed")).content)


def test_a_refused_connection_is_a_connect_error() -> None:
    with pytest.raises(httpx.ConnectError):
        _send(_chat(), _failing("refused"))


def test_a_cut_connection_breaks_off_in_mid_answer() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        _send(_chat(), _failing("cut"))


def test_a_timeout_ends_with_the_read_timeout() -> None:
    with pytest.raises(httpx.ReadTimeout):
        _send(_chat(), _failing("timeout"), read_timeout_s=0.01)


def test_a_timeout_can_be_cancelled() -> None:
    async def cancel() -> bool:
        provider, entity = Simulated(), _failing("timeout")
        http = _http(provider.encode(entity, _chat()))
        task = asyncio.ensure_future(provider.transport(entity).handle_async_request(http))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancel())


def test_an_answer_after_the_read_timeout_is_a_timeout() -> None:
    with pytest.raises(httpx.ReadTimeout):
        _send(_chat(), _entity(latency_ms=60_000), read_timeout_s=0.01)


@pytest.mark.parametrize("latency", [20, {"median_ms": 20, "sigma": 0}])
def test_an_answer_takes_its_latency(latency: Any) -> None:
    async def elapsed() -> float:
        provider, entity = Simulated(), _entity(latency_ms=latency)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await provider.transport(entity).handle_async_request(_http(provider.encode(entity, _chat())))
        return loop.time() - started

    assert asyncio.run(elapsed()) >= 0.019


def test_a_spread_latency_is_answered() -> None:
    assert _ask(_chat(), _entity(latency_ms={"median_ms": 1, "sigma": 0.5})).content


def _statuses(prompts: list[str], provider: Simulated, **settings: Any) -> list[int]:
    entity = _entity(error_rate=0.5, errors=["server_error"], **settings)
    return [_send(_chat(prompt), entity, provider).status_code for prompt in prompts]


def test_the_same_prompts_fail_each_time() -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    assert _statuses(prompts, Simulated()) == _statuses(prompts, Simulated())


def test_other_prompts_fail_with_another_seed() -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    assert _statuses(prompts, Simulated()) != _statuses(prompts, Simulated(), seed=1)


def test_about_as_many_fail_as_the_error_rate_says() -> None:
    statuses = _statuses([f"prompt {number}" for number in range(400)], Simulated())
    assert 160 <= statuses.count(500) <= 240


def test_a_retry_of_the_same_prompt_may_succeed() -> None:
    assert set(_statuses(["prompt"] * 20, Simulated())) == {200, 500}


def test_several_kinds_of_errors_are_mixed() -> None:
    entity = _entity(error_rate=1, errors=["rate_limit", "server_error", "overloaded"])
    statuses = {_send(_chat(f"prompt {number}"), entity).status_code for number in range(40)}
    assert statuses == {429, 500, 529}


def test_an_unknown_path_is_an_error() -> None:
    async def post() -> int:
        async with httpx.AsyncClient(transport=SimulatedTransport()) as client:
            return (await client.post("http://simulated.invalid/v2/x", json={})).status_code

    assert asyncio.run(post()) == 400


def test_all_kinds_are_accepted() -> None:
    assert Settings.read({"errors": _ALL_KINDS}).errors == tuple(_ALL_KINDS)
