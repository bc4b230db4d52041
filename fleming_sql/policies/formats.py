"""The `responseFormat` argument: a word, OpenAI's JSON envelope or a DDL text -> ResponseFormat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import jsonschema_rs

from fleming_sql import jsontext
from fleming_sql.errors import ArgumentError
from fleming_sql.policies.sqltypes import SqlType
from fleming_sql.policies.type_parser import parse_type
from fleming_sql.types import ResponseFormat

_INVALID: Final = "AI_FUNCTION_INVALID_RESPONSE_FORMAT_TYPE"
_UNSUPPORTED: Final = "AI_FUNCTION_UNSUPPORTED_RESPONSE_FORMAT"
_DDL: Final = f"{_UNSUPPORTED}.DDL_STRING"
_ACCEPTED: Final = (
    'accepted are {"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": '
    '{"name": ..., "schema": {...}, "strict": true}} and a DDL text such as '
    "STRUCT<result: STRUCT<name: STRING, price: DOUBLE>>"
)
_PLAIN: Final[Mapping[str, ResponseFormat]] = {
    "text": ResponseFormat("text"),
    "json_object": ResponseFormat("json_object"),
}
_SCHEMA_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_SCHEMA_WORDS: Final = frozenset({"properties", "items", "$schema", "$ref", "$defs", "anyOf", "oneOf", "allOf", "enum"})
_SPARK_NAMES: Final[Mapping[str, str]] = {
    "LIST": "ArrayType",
    "ARRAY": "ArrayType",
    "MAP": "MapType",
    "VARCHAR": "StringType",
    "TINYINT": "ByteType",
    "SMALLINT": "ShortType",
    "INTEGER": "IntegerType",
    "BIGINT": "LongType",
    "TIMESTAMP": "TimestampNTZType",
    "TIMESTAMP WITH TIME ZONE": "TimestampType",
    "JSON": "VariantType",
}
"""Where Databricks' name of a type is not `DuckdbnameType`."""


def parse_response_format(text: str | None) -> ResponseFormat | None:
    """Read what shape of answer the caller asks for.

    Example:
        >>> parse_response_format("STRUCT<result: STRUCT<price: DOUBLE>>").return_type
        'STRUCT("price" DOUBLE)'

    Raises:
        ArgumentError: The text is none of the accepted forms, or its schema is wrong.
    """
    if text is None:
        return None
    bare = text.strip()
    if bare.lower() in _PLAIN:
        return _PLAIN[bare.lower()]
    return _from_json(bare) if bare[:1] in ("{", "[", '"') else _from_ddl(bare)


def compile_schema(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """Compile a JSON Schema. References out of it are errors: nothing is fetched and no file is read.

    Raises:
        ValueError: The schema is not valid.
    """
    return jsonschema_rs.validator_for(dict(schema), retriever=_no_retrieval)


def _no_retrieval(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is outside the schema")


def _from_json(text: str) -> ResponseFormat:
    try:
        envelope = jsontext.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(_INVALID, f"responseFormat is not JSON: {error}; {_ACCEPTED}.") from error
    if not isinstance(envelope, dict):
        raise ArgumentError(_INVALID, f"responseFormat is JSON but no object: {text[:80]}; {_ACCEPTED}.")
    match envelope.get("type"):
        case "text" | "json_object" as plain:
            return _PLAIN[plain]
        case "json_schema":
            return _from_envelope(envelope.get("json_schema"))
        case kind if _is_schema(envelope, kind):
            shown = text if len(text) <= 400 else "{...}"
            raise ArgumentError(
                _UNSUPPORTED,
                'responseFormat is a bare JSON Schema. Put it into its envelope: {"type": "json_schema", '
                f'"json_schema": {{"name": "response", "schema": {shown}, "strict": true}}}}',
            )
        case kind:
            shown = jsontext.dumps(kind)[:80] if "type" in envelope else "none"
            raise ArgumentError(_INVALID, f'responseFormat has the "type" {shown}; {_ACCEPTED}.')


def _is_schema(envelope: Mapping[str, Any], kind: Any) -> bool:
    named = kind in _SCHEMA_TYPES if isinstance(kind, str) else not _SCHEMA_WORDS.isdisjoint(envelope)
    return named or isinstance(kind, list)


def _from_envelope(inner: Any) -> ResponseFormat:
    if not isinstance(inner, dict):
        raise ArgumentError(_INVALID, f'responseFormat lacks an object "json_schema"; {_ACCEPTED}.')
    name, schema, strict = inner.get("name", "response"), inner.get("schema"), inner.get("strict")
    if not isinstance(name, str) or not name:
        raise ArgumentError(_INVALID, f'"name" in responseFormat must be a text, not {jsontext.dumps(name)[:80]}.')
    if strict is not None and not isinstance(strict, bool):
        raise ArgumentError(
            _INVALID, f'"strict" in responseFormat must be true or false, not {jsontext.dumps(strict)[:80]}.'
        )
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise ArgumentError(
            _INVALID,
            '"schema" in responseFormat must describe an object: it needs "type": "object" at its top.',
        )
    try:
        compile_schema(schema)
    except ValueError as error:
        reason = getattr(error, "message", str(error))
        raise ArgumentError(_INVALID, f'"schema" in responseFormat is no JSON Schema: {reason[:300]}') from error
    return ResponseFormat("json_schema", name=name, schema=schema, strict=strict)


def _from_ddl(text: str) -> ResponseFormat:
    try:
        outer = parse_type(text)
    except ArgumentError as error:
        found = str(error).removeprefix(f"[{error.condition}] ") if "<" in text or "(" in text else repr(text[:80])
        raise ArgumentError(
            _INVALID, f"responseFormat is neither JSON nor a DDL text: {found}; {_ACCEPTED}."
        ) from error
    if outer.kind != "STRUCT":
        raise ArgumentError(
            _DDL, f"The top level should be STRUCT<name: STRUCT<...>>, but found: {_spark_name(outer)}."
        )
    if len(outer.names) > 1:
        raise ArgumentError(
            _DDL,
            f"Only one field is allowed on the top-level. Found {len(outer.names)}: "
            f"{', '.join(outer.names)[:200]}. Put them into one STRUCT: STRUCT<result: STRUCT<...>>.",
        )
    (name,), (inner,) = outer.names, outer.parts
    if inner.kind != "STRUCT":
        raise ArgumentError(
            _DDL, f"The top-level field `{name}` should be StructType, but found: {_spark_name(inner)}."
        )
    schema = inner.json_schema()
    return ResponseFormat("json_schema", name=name, schema=schema, strict=True, return_type=inner.duckdb())


def _spark_name(type_: SqlType) -> str:
    return _SPARK_NAMES.get(type_.kind, f"{type_.kind.capitalize()}Type")
