"""From what a model answered to the JSON value that SQL gets, or the reason why it is none."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs

from fleming_sql import jsontext
from fleming_sql.errors import FlemingError
from fleming_sql.policies.casts import CastError, cast
from fleming_sql.policies.formats import compile_schema
from fleming_sql.policies.sqltypes import SqlType
from fleming_sql.policies.type_parser import parse_type
from fleming_sql.types import ResponseFormat

NOT_JSON: Final = "AI_FUNCTION_JSON_PARSE_ERROR"
NOT_CAST: Final = "AI_FUNCTION_HTTP_PARSE_CAST_ERROR"
_FENCE: Final = re.compile(r"^[ \t]*```[\w+.#-]*[ \t]*\r?$", re.MULTILINE)
_LANGUAGE: Final = re.compile(r"^(?:[\w+.#-]*[ \t]*\r?\n|json\b)", re.IGNORECASE)
_FROM_JSON: Final = frozenset({"JSON", "STRUCT", "LIST", "ARRAY", "MAP"})
_MAX_SHOWN: Final = 200


class AnswerMismatch(FlemingError):
    """An answer arrived, but not in the shape that was asked for.

    Args:
        condition: The error condition.
        reason: What does not fit, and where.
        retryable: Whether to ask the model again: it was told the response format and did not keep to it.
    """

    def __init__(self, condition: str, reason: str, *, retryable: bool) -> None:
        super().__init__(f"[{condition}] {reason}")
        self.condition = condition
        self.reason = reason
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """An answer that fits."""

    value: Any
    """The JSON value to return to SQL."""


class AnswerChecker:
    """Checks the answers of one statement.

    Args:
        response_format: What the model was told to keep to.
        return_type: What SQL expects; None leaves text, or the type that came with the response format.

    Example:
        >>> AnswerChecker(None, parse_type("INT")).check("42").value
        42
    """

    def __init__(self, response_format: ResponseFormat | None, return_type: SqlType | None) -> None:
        ddl = response_format.return_type if response_format is not None else None
        self._type = parse_type(ddl) if return_type is None and ddl is not None else return_type
        # A cast to the response format's own type fails because the model did not keep to the format.
        self._type_was_told = self._type is not None and self._type.duckdb() == ddl
        self._json = response_format is not None and response_format.kind != "text"
        schema = response_format.schema if response_format is not None else None
        self._validator = compile_schema(schema) if self._json and schema is not None else None

    def check(self, content: Any) -> CheckedAnswer:
        """Return the value that SQL gets for a model's text, or for a value that came parsed.

        Raises:
            AnswerMismatch: The answer is not JSON, breaks the schema or has no equal in the return type.
        """
        if content is None:
            return CheckedAnswer(None)
        if self._json:
            return CheckedAnswer(self._formatted(content))
        if self._type is None:
            return CheckedAnswer(content)
        if isinstance(content, str):
            return CheckedAnswer(self._from_text(self._type, content))
        return CheckedAnswer(self._cast(self._type, content, content))

    def _formatted(self, content: Any) -> Any:
        text = strip_fences(content) if isinstance(content, str) else jsontext.dumps(content)
        try:
            value = _parse(text)
        except (ValueError, RecursionError) as error:
            raise AnswerMismatch(
                NOT_JSON, f"the answer is not JSON ({error}): {_shown(text)}", retryable=True
            ) from error
        if not isinstance(value, dict):
            raise AnswerMismatch(NOT_JSON, f"the answer is no JSON object: {_shown(text)}", retryable=True)
        self._validate(value)
        if self._type is None or self._type.kind == "VARCHAR":
            # Half of a surrogate pair is JSON to Python, but not to DuckDB; the parsed value has it repaired.
            return jsontext.dumps(value) if "\\ud" in text.lower() else text
        return self._cast(self._type, value, text)

    def _validate(self, value: Any) -> None:
        if self._validator is None:
            return
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            path = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in error.instance_path)
            rule = "/".join(str(step) for step in error.schema_path)
            reason = f"the answer breaks the schema at ${path}: {_shown(error.message)} (rule {rule})"
            raise AnswerMismatch(NOT_JSON, reason, retryable=True) from error
        except ValueError as error:  # nested too deeply for the validator
            raise AnswerMismatch(NOT_JSON, f"the answer cannot be validated: {error}", retryable=True) from error

    def _from_text(self, type_: SqlType, text: str) -> Any:
        if type_.kind == "VARCHAR":
            return text
        bare = strip_fences(text)
        if type_.kind not in _FROM_JSON:
            # Plain text is an answer too, like 2026-01-01; and a long number is exact there, but not parsed.
            with suppress(CastError):
                return cast(type_, bare)
        try:
            value = _parse(bare)
        except (ValueError, RecursionError):
            value = bare
        return self._cast(type_, value, bare)

    def _cast(self, type_: SqlType, value: Any, answer: Any) -> Any:
        try:
            return cast(type_, value)
        except CastError as error:
            shown = _shown(answer if isinstance(answer, str) else json.dumps(answer, default=str))
            reason = f"cannot return the answer as {type_.duckdb()}: {error}; the answer: {shown}"
            raise AnswerMismatch(NOT_CAST, reason, retryable=self._type_was_told) from error


def strip_fences(text: str) -> str:
    r"""Return what is in the one Markdown fence of a text, or the text itself, without surrounding spaces.

    Example:
        >>> strip_fences("Here you are:\n```json\n[1]\n```")
        '[1]'
    """
    bare = text.strip()
    if "```" not in bare or _is_json(bare):
        return bare
    fences = list(_FENCE.finditer(bare))
    if len(fences) == 2:
        return bare[fences[0].end() : fences[1].start()].strip()
    parts = bare.split("```")
    return _LANGUAGE.sub("", parts[1]).strip() if len(parts) == 3 else bare


def _is_json(text: str) -> bool:
    try:
        _parse(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(text: str) -> Any:
    value = jsontext.loads(text)
    if "NaN" in text or "Infinity" in text:  # in a string they are fine, as numbers only Python reads them
        json.dumps(value, allow_nan=False)
    return value


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[: _MAX_SHOWN - 3]}..."
