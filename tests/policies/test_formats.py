from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.errors import ArgumentError
from fleming_sql.policies.formats import compile_schema, parse_response_format
from fleming_sql.policies.type_parser import parse_type
from fleming_sql.types import ResponseFormat

_INVALID = "AI_FUNCTION_INVALID_RESPONSE_FORMAT_TYPE"
_UNSUPPORTED = "AI_FUNCTION_UNSUPPORTED_RESPONSE_FORMAT"
_DDL = "AI_FUNCTION_UNSUPPORTED_RESPONSE_FORMAT.DDL_STRING"
_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}


def _envelope(**inner: Any) -> str:
    return json.dumps({"type": "json_schema", "json_schema": inner})


def _refusal(text: str) -> ArgumentError:
    with pytest.raises(ArgumentError) as refused:
        parse_response_format(text)
    return refused.value


def test_no_format_is_none() -> None:
    assert parse_response_format(None) is None


@pytest.mark.parametrize("kind", ["text", "json_object"])
@pytest.mark.parametrize("form", ["{}", " {} ", '{{"type": "{}"}}'])
def test_a_word_and_its_json_object_mean_the_same(form: str, kind: str) -> None:
    found = parse_response_format(form.format(kind))
    assert found is not None
    assert (found.kind, found.schema, found.return_type) == (kind, None, None)


def test_the_envelope_gives_name_schema_and_strict() -> None:
    found = parse_response_format(_envelope(name="price", schema=_SCHEMA, strict=True))
    assert found == ResponseFormat("json_schema", name="price", schema=_SCHEMA, strict=True)


def test_name_and_strict_of_the_envelope_may_be_absent() -> None:
    found = parse_response_format(_envelope(schema=_SCHEMA))
    assert found == ResponseFormat("json_schema", name="response", schema=_SCHEMA, strict=None)


@pytest.mark.parametrize(
    "text",
    [
        "STRUCT<result: STRUCT<a: INT, b: ARRAY<STRING>>>",
        "STRUCT(result STRUCT(a INT, b VARCHAR[]))",
        "result STRUCT<a: INT, b: ARRAY<STRING>>",
    ],
)
def test_a_ddl_text_is_a_strict_schema_of_its_inner_struct(text: str) -> None:
    inner = parse_type("STRUCT<a: INT, b: ARRAY<STRING>>")
    assert parse_response_format(text) == ResponseFormat(
        "json_schema",
        name="result",
        schema=inner.json_schema(),
        strict=True,
        return_type='STRUCT("a" INTEGER, "b" VARCHAR[])',
    )


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (json.dumps(_SCHEMA), _UNSUPPORTED),
        ('{"properties": {}}', _UNSUPPORTED),
        ('{"type": ["object", "null"]}', _UNSUPPORTED),
        ("STRUCT<a: STRUCT<x: INT>, b: STRUCT<x: INT>>", _DDL),
        ("STRUCT<a: ARRAY<INT>>", _DDL),
        ("ARRAY<STRING>", _DDL),
        ("STRING", _DDL),
        ("", _INVALID),
        ("xml", _INVALID),
        ("STRUCT<a: STRUCT<x: INT>", _INVALID),
        ("STRUCT<a: STRUCT<x: BLOB>>", _INVALID),
        ('{"type": "text"', _INVALID),
        ('{"type": "xml"}', _INVALID),
        ('{"type": 1}', _INVALID),
        ("{}", _INVALID),
        ("[]", _INVALID),
        ('"text"', _INVALID),
        ('{"type": "json_schema"}', _INVALID),
        ('{"type": "json_schema", "name": "flat", "schema": {"type": "object"}}', _INVALID),
        (_envelope(), _INVALID),
        (_envelope(name=1, schema=_SCHEMA), _INVALID),
        (_envelope(name="", schema=_SCHEMA), _INVALID),
        (_envelope(name="a", schema=_SCHEMA, strict="yes"), _INVALID),
        (_envelope(name="a", schema={"type": "array"}), _INVALID),
        (_envelope(name="a", schema={"properties": {}}), _INVALID),
        (_envelope(name="a", schema=[]), _INVALID),
        (_envelope(name="a", schema={"type": "object", "properties": {"a": {"type": "objekt"}}}), _INVALID),
        (_envelope(name="a", schema={"type": "object", "required": "a"}), _INVALID),
        (_envelope(name="a", schema={"type": "object", "$ref": "#/$defs/nowhere"}), _INVALID),
        (_envelope(name="a", schema={"type": "object", "$ref": "file:///etc/hostname"}), _INVALID),
    ],
)
def test_what_is_no_response_format_is_refused_with_its_condition(text: str, condition: str) -> None:
    assert _refusal(text).condition == condition


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (json.dumps(_SCHEMA), f'"json_schema": {{"name": "response", "schema": {json.dumps(_SCHEMA)}'),
        ("STRUCT<a: STRUCT<x: INT>, b: STRING>", "Only one field is allowed on the top-level."),
        (
            "STRUCT<x: ARRAY<INT>>",
            "The top-level field `x` should be StructType, but found: ArrayType",
        ),
        ("STRUCT<x: LONG>", "should be StructType, but found: LongType"),
        ("STRUCT<a: STRUCT<x: BLOB>>", '"BLOB" is no type'),
        ('{"type": "xml"}', '"xml"'),
        ("xml", "accepted are"),
        (_envelope(name="a", schema={"type": "object", "required": "a"}), "array"),
    ],
)
def test_a_refusal_says_what_to_write_instead(text: str, hint: str) -> None:
    assert hint in str(_refusal(text))


def test_a_reference_out_of_the_schema_is_not_followed() -> None:
    with pytest.raises(ValueError, match="outside the schema"):
        compile_schema({"$ref": "https://example.invalid/schema.json"})


@given(st.text(max_size=40))
def test_any_text_is_a_format_or_refused_with_a_known_condition(text: str) -> None:
    try:
        parse_response_format(text)
    except ArgumentError as error:
        assert error.condition in (_INVALID, _UNSUPPORTED, _DDL)
