from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.errors import ArgumentError
from fleming_sql.policies.parameters import check_parameters, is_reusable
from fleming_sql.types import CHAT, COMPLETIONS, CUSTOM, EMBEDDINGS

_PREFIX = "AI_FUNCTION_INVALID_MODEL_PARAMETERS"


def _refusal(name: str, value: Any) -> ArgumentError:
    with pytest.raises(ArgumentError) as refused:
        check_parameters({name: value})
    return refused.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 2.0),
        ("top_p", 0.5),
        ("max_tokens", 1),
        ("max_completion_tokens", 100_000),
        ("top_k", 40),
        ("n", 1),
        ("seed", -7),
        ("presence_penalty", -2),
        ("frequency_penalty", 2),
        ("stop", "END"),
        ("stop", ["END", "STOP"]),
        ("stop", []),
        ("reasoning_effort", "low"),
        ("logprobs", True),
        ("top_logprobs", 0),
        ("user", "ada"),
        ("min_p", {"anything": [True]}),
        ("Temperature", "a name that is not known"),
    ],
)
def test_a_good_parameter_passes_unchanged(name: str, value: Any) -> None:
    assert check_parameters({name: value}) == {name: value}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "top_k", "n", "seed", "top_logprobs"])
def test_a_whole_float_becomes_an_integer_where_one_is_due(name: str) -> None:
    assert repr(check_parameters({name: 16.0})[name]) == "16"


def test_a_whole_float_stays_a_float_elsewhere() -> None:
    assert repr(check_parameters({"temperature": 1.0})) == "{'temperature': 1.0}"


@pytest.mark.parametrize("name", ["temperature", "stop", "min_p"])
def test_a_null_is_left_out(name: str) -> None:
    assert check_parameters({name: None}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.5"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", []),
        ("max_tokens", 1.5),
        ("max_tokens", "256"),
        ("max_tokens", True),
        ("n", {}),
        ("seed", 0.1),
        ("stop", 1),
        ("stop", ["END", 1]),
        ("reasoning_effort", 3),
        ("logprobs", 1),
        ("logprobs", "true"),
        ("top_logprobs", 1.5),
        ("user", 7),
    ],
)
def test_a_wrong_type_is_refused(name: str, value: Any) -> None:
    assert _refusal(name, value).condition == f"{_PREFIX}.INVALID_PARAMETER_DATA_TYPE"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 1.01),
        ("max_tokens", 0),
        ("max_completion_tokens", -1),
        ("top_k", 0),
        ("n", 0.0),
        ("presence_penalty", -3),
        ("frequency_penalty", 2.5),
        ("top_logprobs", 21),
    ],
)
def test_a_number_out_of_its_range_is_refused(name: str, value: Any) -> None:
    assert _refusal(name, value).condition == f"{_PREFIX}.INVALID_NUMERIC_PARAMETER"


@pytest.mark.parametrize("name", ["model", "messages", "prompt", "input", "stream", "response_format", "files"])
@pytest.mark.parametrize("value", ["x", None])
def test_a_reserved_name_is_refused(name: str, value: Any) -> None:
    assert _refusal(name, value).condition == f"{_PREFIX}.FOUND_RESERVED_PARAMETER_NAME"


@pytest.mark.parametrize(
    ("name", "value", "fact"),
    [
        ("temperature", "0.5", '"temperature" in modelParameters must be of type number, found string "0.5"'),
        ("stop", 1, "must be of type string or array of strings, found number 1"),
        ("temperature", 3, '"temperature" in modelParameters must be from 0 to 2, found number 3'),
        ("max_tokens", 0, "must be 1 or more, found number 0"),
        ("response_format", {}, "goes into the argument responseFormat"),
        ("files", [], "goes into the argument files"),
    ],
)
def test_a_refusal_names_the_parameter_and_what_is_expected(name: str, value: Any, fact: str) -> None:
    assert fact in str(_refusal(name, value))


@given(st.dictionaries(st.sampled_from(["temperature", "max_tokens", "stop", "x"]), st.from_type(object)))
def test_any_value_passes_or_is_refused_with_a_condition(raw: dict[str, object]) -> None:
    try:
        check_parameters(raw)
    except ArgumentError as error:
        assert error.condition.startswith(_PREFIX)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"temperature": 0},
        {"temperature": 0.0},
        {"temperature": None},
        {"n": 1},
        {"top_p": 0.5, "seed": 1},
    ],
)
@pytest.mark.parametrize("task", [CHAT, COMPLETIONS, EMBEDDINGS, "llm/v1/responses"])
def test_an_answer_is_reusable_where_no_variety_is_asked_for(task: str, parameters: dict[str, Any]) -> None:
    assert is_reusable(task, parameters)


@pytest.mark.parametrize("parameters", [{"temperature": 0.1}, {"temperature": "0"}, {"n": 2}])
def test_an_answer_is_not_reusable_where_variety_is_asked_for(parameters: dict[str, Any]) -> None:
    assert not is_reusable(CHAT, parameters)


@pytest.mark.parametrize("task", [CUSTOM, "agent/v1/chat", "agent/v1/responses"])
def test_answers_of_custom_models_and_agents_are_not_reusable(task: str) -> None:
    assert not is_reusable(task, {})
