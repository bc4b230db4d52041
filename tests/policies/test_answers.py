from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.policies.answers import AnswerChecker, AnswerMismatch, strip_fences
from fleming_sql.policies.formats import parse_response_format
from fleming_sql.policies.type_parser import parse_type
from fleming_sql.types import ResponseFormat

_NOT_JSON = "AI_FUNCTION_JSON_PARSE_ERROR"
_NOT_CAST = "AI_FUNCTION_HTTP_PARSE_CAST_ERROR"
_OBJECT = ResponseFormat("json_object")
_SCHEMA = ResponseFormat(
    "json_schema",
    schema={
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"type": "integer"}}},
        "required": ["items"],
    },
)
_DDL = parse_response_format("STRUCT<result: STRUCT<day: DATE, n: INT>>")


def _value(content: Any, response_format: ResponseFormat | None = None, return_type: str | None = None) -> Any:
    type_ = None if return_type is None else parse_type(return_type)
    return AnswerChecker(response_format, type_).check(content).value


def _mismatch(
    content: Any, response_format: ResponseFormat | None = None, return_type: str | None = None
) -> AnswerMismatch:
    with pytest.raises(AnswerMismatch) as mismatch:
        _value(content, response_format, return_type)
    return mismatch.value


# --- fences ---


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("```\nx\n```", "x"),
        ("```json\n[1]\n```", "[1]"),
        ("```JSON\r\n[1]\r\n```\r\n", "[1]"),
        ("  ```json\n  [1]\n  ```  ", "[1]"),
        ("Here you are:\n```json\n[1]\n```\nAnything else?", "[1]"),
        ("```json [1]```", "[1]"),
        ("```[1]```", "[1]"),
        ("```true```", "true"),
        ("```json\n[1]```", "[1]"),
        ('```json\n{"code": "```x```"}\n```', '{"code": "```x```"}'),
        ("```\n\n```", ""),
        (" [1]\n", "[1]"),
        ("plain text", "plain text"),
        ("", ""),
    ],
)
def test_one_fenced_block_is_taken_out_of_its_fence(text: str, inner: str) -> None:
    assert strip_fences(text) == inner


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "```\\nx\\n```"}',
        "```\na\n```\nor\n```\nb\n```",
        "```json\n[1]",
        "a ``` b",
    ],
)
def test_what_is_not_one_fenced_block_is_left_as_it_is(text: str) -> None:
    assert strip_fences(text) == text


@given(st.dictionaries(st.text(), st.text()))
def test_any_json_survives_its_fence(value: dict[str, str]) -> None:
    text = json.dumps(value)
    assert strip_fences(f"Sure!\n```json\n{text}\n```") == text


# --- no format ---


@pytest.mark.parametrize("content", ["  text as is\n", "```json\n{}\n```", "", None, [0.1, 0.2], {"a": 1}])
@pytest.mark.parametrize("response_format", [None, ResponseFormat("text")])
def test_without_format_and_type_the_answer_is_the_value(content: Any, response_format: ResponseFormat | None) -> None:
    assert _value(content, response_format) == content


@pytest.mark.parametrize(
    ("return_type", "content", "value"),
    [
        ("STRING", " as is\n", " as is\n"),
        ("STRING", "42", "42"),
        ("STRING", {"a": 1}, '{"a":1}'),
        ("BOOLEAN", "true", True),
        ("BOOLEAN", " Yes\n", True),
        ("INT", "42", 42),
        ("INT", '"42"', 42),
        ("INT", "```\n42\n```", 42),
        ("INT", "null", None),
        ("INT", None, None),
        ("DOUBLE", "4.5", 4.5),
        (
            "DECIMAL(38,10)",
            "1234567890123456789012345678.1234567891",
            "1234567890123456789012345678.1234567891",
        ),
        ("DATE", "2026-01-01", "2026-01-01"),
        ("DATE", '"2026-01-01"', "2026-01-01"),
        ("ENUM('a','b')", "a\n", "a"),
        ("ENUM('1','2')", "1", "1"),
        ("ENUM('a','b')", '"b"', "b"),
        ("JSON", '{"a": 1}', {"a": 1}),
        ("JSON", "no JSON", "no JSON"),
        ("INT[]", 'Here:\n```json\n["1", 2]\n```', [1, 2]),
        ("STRUCT<a: INT, b: INT>", '{"A": 1}', {"a": 1, "b": None}),
        ("ARRAY<FLOAT>", [0.25, 1], [0.25, 1.0]),
    ],
)
def test_a_return_type_casts_the_answer(return_type: str, content: Any, value: Any) -> None:
    assert _value(content, None, return_type) == value


@pytest.mark.parametrize(
    ("return_type", "content"),
    [
        ("INT", "about 42"),
        ("INT", ""),
        ("DOUBLE", "NaN"),
        ("JSON", [float("nan")]),
        ("STRUCT<a: INT>", "I cannot help with that."),
        ("STRUCT<a: INT>", '{"a": "x"}'),
        ("ARRAY<FLOAT>", "[1, NaN]"),
        ("ARRAY<FLOAT>", ["x"]),
    ],
)
def test_an_answer_without_an_equal_in_the_type_is_a_cast_error(return_type: str, content: Any) -> None:
    assert _mismatch(content, None, return_type).condition == _NOT_CAST


def test_a_cast_error_is_not_worth_asking_again() -> None:
    assert not _mismatch("x", None, "INT").retryable


@pytest.mark.parametrize("fact", ["INTEGER", "the answer: about 42", "$: expected INTEGER", 'found "about 42"'])
def test_a_cast_error_names_type_answer_and_reason(fact: str) -> None:
    assert fact in _mismatch("about 42", None, "INT").reason


def test_a_cast_error_shortens_the_answer() -> None:
    assert len(_mismatch("x" * 100_000, None, "INT").reason) < 500


# --- formats ---


@pytest.mark.parametrize("response_format", [_OBJECT, _SCHEMA])
@pytest.mark.parametrize("return_type", [None, "STRING"])
def test_a_format_gives_the_json_text_without_its_fence(
    response_format: ResponseFormat, return_type: str | None
) -> None:
    assert _value('```json\n{"items": [1]}\n```', response_format, return_type) == '{"items": [1]}'


def test_a_format_with_a_return_type_gives_the_cast_value() -> None:
    assert _value('{"items": [1, 2]}', _SCHEMA, "STRUCT<items: ARRAY<STRING>>") == {"items": ["1", "2"]}


def test_a_ddl_format_brings_its_own_return_type() -> None:
    assert _value('{"day": "2026-01-01", "n": 1.0}', _DDL) == {"day": "2026-01-01", "n": 1}


def test_a_parsed_answer_passes_a_format_as_its_text() -> None:
    assert _value({"items": []}, _SCHEMA) == '{"items":[]}'


def test_a_null_answer_is_null_in_every_format() -> None:
    assert _value(None, _SCHEMA) is None


def test_half_a_surrogate_pair_is_replaced_in_json_text() -> None:
    assert _value(r'{"a": "\ud800"}', _OBJECT) == '{"a":"\N{REPLACEMENT CHARACTER}"}'


@pytest.mark.parametrize(
    ("content", "response_format"),
    [
        ("Sorry, no.", _OBJECT),
        ("", _OBJECT),
        ('{"a": 1', _OBJECT),
        ('{"a": NaN}', _OBJECT),
        ("[1]", _OBJECT),
        ("null", _OBJECT),
        ("[" * 100_000, _OBJECT),
        ("{}", _SCHEMA),
        ('{"items": ["x"]}', _SCHEMA),
    ],
)
@pytest.mark.parametrize("return_type", [None, "JSON"])
def test_an_answer_that_breaks_its_format_is_worth_asking_again(
    content: str, response_format: ResponseFormat, return_type: str | None
) -> None:
    mismatch = _mismatch(content, response_format, return_type)
    assert (mismatch.condition, mismatch.retryable) == (_NOT_JSON, True)


@pytest.mark.parametrize("fact", ["$.items[1]", '"x" is not of type "integer"', "properties/items/items/type"])
def test_a_broken_schema_is_named_by_path_and_rule(fact: str) -> None:
    assert fact in _mismatch('{"items": [1, "x"]}', _SCHEMA).reason


def test_nan_in_a_text_is_no_number() -> None:
    assert _value('{"a": "NaN"}', _OBJECT) == '{"a": "NaN"}'


def test_a_cast_to_another_type_than_the_format_is_not_worth_asking_again() -> None:
    mismatch = _mismatch('{"items": [1]}', _SCHEMA, "STRUCT<items: STRUCT<a: INT>>")
    assert (mismatch.condition, mismatch.retryable) == (_NOT_CAST, False)


@pytest.mark.parametrize("return_type", [None, "STRUCT<day: DATE, n: INT>"])
def test_a_cast_to_the_type_of_the_format_is_worth_asking_again(return_type: str | None) -> None:
    mismatch = _mismatch('{"day": "soon", "n": 1}', _DDL, return_type)
    assert (mismatch.condition, mismatch.retryable) == (_NOT_CAST, True)


@given(st.text(), st.sampled_from([None, _OBJECT, _SCHEMA]), st.sampled_from([None, "INT", "DATE", "JSON[]"]))
def test_any_text_gives_a_value_or_a_mismatch(
    text: str, response_format: ResponseFormat | None, return_type: str | None
) -> None:
    try:
        _value(text, response_format, return_type)
    except AnswerMismatch as mismatch:
        assert mismatch.condition in (_NOT_JSON, _NOT_CAST)
