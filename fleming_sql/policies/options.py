"""The optional arguments of `ai_query`, checked, and the type of the result that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.errors import ArgumentError
from fleming_sql.policies.formats import parse_response_format
from fleming_sql.policies.parameters import check_parameters
from fleming_sql.policies.sqltypes import SqlType
from fleming_sql.policies.type_parser import parse_type
from fleming_sql.types import EMBEDDINGS, CallOptions

MAX_USAGE_CONTEXT_BYTES: Final = 10 * 1024
_NULL: Final = '"NULL"'
_BAD_PARAMETERS: Final = "AI_FUNCTION_INVALID_MODEL_PARAMETERS"
_BAD_ARGUMENT: Final = "DATATYPE_MISMATCH"


@lru_cache(512)
def read_options(text: str) -> CallOptions:
    """Read the arguments that the macro packs into one JSON object.

    Raises:
        ArgumentError: An argument has the wrong type or value; it is named.
    """
    try:
        raw = jsontext.loads(text)
    except ValueError as error:
        raise ArgumentError(
            f"{_BAD_PARAMETERS}.INVALID_NUMERIC_PARAMETER", f"modelParameters must be finite numbers: {error}"
        ) from None
    parameters = raw.get("modelParameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise ArgumentError(
            f"{_BAD_PARAMETERS}.INVALID_PARAMETER_DATA_TYPE",
            f"modelParameters takes a STRUCT such as {{'temperature': 0.0, 'max_tokens': 100}}, not "
            f"{jsontext.dumps(parameters)[:80]}",
        )
    return CallOptions(
        return_type=_text(raw, "returnType"),
        fail_on_error=_boolean(raw, "failOnError"),
        parameters=check_parameters(parameters or {}),
        response_format=parse_response_format(_text(raw, "responseFormat")),
        cache=_boolean(raw, "cache"),
    )


@lru_cache(4096)
def read_usage_context(text: str | None) -> Mapping[str, str]:
    """Read the argument usageContext, given as JSON: labels that go with one call into the usage table.

    Raises:
        ArgumentError: It is not an object of texts, or longer than Databricks takes.
    """
    value = jsontext.loads(text) if text else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ArgumentError(
            _BAD_ARGUMENT,
            f"the argument usageContext takes a MAP or STRUCT of texts, not {jsontext.dumps(value)[:80]}",
        )
    context = {}
    for key, item in value.items():
        if isinstance(item, dict | list):
            raise ArgumentError(
                _BAD_ARGUMENT, f"usageContext takes texts, and its key {key} has {jsontext.dumps(item)[:80]}"
            )
        if item is not None:
            context[key] = item if isinstance(item, str) else jsontext.dumps(item)
    if len(jsontext.dumpb(context)) > MAX_USAGE_CONTEXT_BYTES:
        raise ArgumentError(_BAD_ARGUMENT, f"usageContext takes at most {MAX_USAGE_CONTEXT_BYTES} bytes")
    return context


def result_type(task: str | None, options: CallOptions, *, is_list: bool) -> SqlType:
    """Return the type of one answer, before `failOnError` wraps it.

    Args:
        task: Of the endpoint; None where it does not exist.
        options: The call's own.
        is_list: Whether the request is a list of texts.
    """
    if options.return_type is not None:
        return parse_type(options.return_type)
    if options.response_format is not None and options.response_format.return_type is not None:
        return parse_type(options.response_format.return_type)
    if task == EMBEDDINGS:
        return parse_type("FLOAT[][]" if is_list else "FLOAT[]")
    return parse_type("VARCHAR")


def structure(kind: SqlType, fail_on_error: bool) -> str:
    r"""Return the second argument of DuckDB's `from_json` for results of a type.

    Example:
        >>> structure(parse_type("INT"), fail_on_error=False)
        '"STRUCT(\\"result\\" INTEGER, \\"errorMessage\\" VARCHAR)"'
    """
    wrapped = SqlType("STRUCT", names=("result", "errorMessage"), parts=(kind, SqlType("VARCHAR")))
    return (kind if fail_on_error else wrapped).structure()


def check_argument_types(types: Mapping[str, str]) -> None:
    """Refuse what the statement's own text shows to be wrong, before any row is read.

    Args:
        types: Argument name to DuckDB's name of its type; `"NULL"` where it was not given.

    Raises:
        ArgumentError: It names the argument, what was found and what would be accepted.
    """
    for name, (accepts, wanted) in _ARGUMENT_TYPES.items():
        found = types[name]
        if found != _NULL and not any(found.startswith(start) for start in accepts):
            raise ArgumentError(_BAD_ARGUMENT, f"the argument {name} takes {wanted}, not {found}")
    if types["request"] in ("BLOB", "BIT"):
        raise ArgumentError(
            "AI_FUNCTION_UNSUPPORTED_REQUEST",
            f"the argument request takes text, a STRUCT, JSON or a list, not {types['request']}: "
            "pass pictures with files => …",
        )


_ARGUMENT_TYPES: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "modelParameters": (("STRUCT", "JSON", "MAP"), "a STRUCT such as {'temperature': 0.0}"),
    "usageContext": (("MAP", "STRUCT", "JSON"), "a MAP or STRUCT such as {'team': 'growth'}"),
    "files": (("BLOB",), "a BLOB with the content of a JPEG or PNG image"),
    "cache": (("BOOLEAN",), "true or false"),
}


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise ArgumentError(_BAD_ARGUMENT, f"the argument {name} takes text, not {jsontext.dumps(value)[:80]}")
    return value


def _boolean(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    if not isinstance(value, bool):
        raise ArgumentError(_BAD_ARGUMENT, f"the argument {name} takes true or false, not {jsontext.dumps(value)[:80]}")
    return value
