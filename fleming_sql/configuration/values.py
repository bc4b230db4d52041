"""Values of cells: as a file writes them, as they are compared, and as SQL spells them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import yaml

from fleming_sql.configuration.schema import Column, Value
from fleming_sql.sqltext import quote_text

_WHOLE: Final = re.compile(r"[-+]?[0-9]+")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "false": False}
_WANTED: Final = {
    "BOOLEAN": "true or false",
    "SMALLINT": "a whole number up to 32767",
    "INTEGER": "a whole number up to 2147483647",
    "BIGINT": "a whole number",
    "FLOAT": "a number",
    "DOUBLE": "a number",
    "VARCHAR[]": "a list of texts, such as [one, two]",
    "JSON": "an object, such as {key: value}, or JSON text",
    "TIMESTAMP": "a time, such as 2026-01-31 00:00:00",
    "INTERVAL": "an interval, such as 5 minutes",
}
_WHOLE_TYPES: Final = {"SMALLINT": 2**15, "INTEGER": 2**31, "BIGINT": 2**63}
"""With the first number that is too large."""
_FRACTIONAL_TYPES: Final = frozenset({"FLOAT", "DOUBLE"})

_EXACT_DIGITS: Final = 15
_CONTROL: Final = re.compile(r"([\x00-\x08\x0b-\x1f\x7f-\x9f])")
"""What a terminal obeys, what editors change, and the NUL up to which DuckDB 1.5 reads a statement."""


class WrongType(ValueError):
    """A value is not of its column's type. The text says what would be."""


def comparable(column: Column, value: Value) -> object:
    """Return what two values have to have in common to be the same: JSON is compared by what it says."""
    if column.type == "JSON" and isinstance(value, str):
        parsed = parse_json(value)
        return value if parsed is None else json.dumps(parsed, sort_keys=True)
    if isinstance(value, float):
        return repr(value + 0.0)  # NaN is not equal to itself, and -0.0 is 0.0
    return tuple(value) if isinstance(value, list) else value


def parse_json(text: str) -> Any:
    """Return the object or list that a JSON text is, None where it is neither and a file has the text itself."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def to_file(column: Column, value: Value) -> Any:
    """Return a value as a YAML file writes it."""
    if column.type == "JSON" and isinstance(value, str):
        parsed = parse_json(value)
        return value if parsed is None else parsed
    return value


def from_node(column: Column, node: yaml.Node, nested: Any) -> Value:
    """Return the value that a YAML node gives a column.

    A text column takes the text as the file has it, so `no`, `1.10` and `2026-01-31` need no quotes there.

    Args:
        column: Whose.
        node: Of the file.
        nested: What is in it, in plain Python objects.

    Raises:
        WrongType: It does not fit.
    """
    if isinstance(node, yaml.ScalarNode):
        if node.style is None and node.value in _NULLS:
            return None
        return _from_text(column, node.value)
    if column.type == "JSON":
        try:
            return json.dumps(nested, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (ValueError, RecursionError, TypeError) as error:
            raise WrongType(f"it cannot be JSON ({error})") from None
    if column.type == "VARCHAR[]" and isinstance(node, yaml.SequenceNode):
        return [_item(column, item) for item in node.value]
    return _refuse(column)


def _item(column: Column, node: yaml.Node) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        raise WrongType(f"the column takes {wanted(column)}")
    return None if node.style is None and node.value in _NULLS else str(node.value)


def _from_text(column: Column, text: str) -> Value:
    kind = column.type
    if kind == "BOOLEAN" and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if kind in _WHOLE_TYPES and _WHOLE.fullmatch(text) and len(text) <= 20:
        number, bound = int(text), _WHOLE_TYPES[kind]
        return number if -bound <= number < bound else _refuse(column)
    if kind in _FRACTIONAL_TYPES:
        try:
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return _refuse(column)
    if kind in ("BOOLEAN", "VARCHAR[]") or kind in _WHOLE_TYPES:
        return _refuse(column)
    return text


def wanted(column: Column) -> str:
    """Return what a column takes, in words."""
    return _WANTED.get(column.type, "text")


def _refuse(column: Column) -> Any:
    raise WrongType(f"the column takes {wanted(column)}")


def sql_literal(value: Value) -> str:
    """Return a value as SQL spells it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(sql_literal, value))}]"
    if isinstance(value, float):
        # A literal is a decimal first, which holds fewer digits, and no infinity.
        is_plain = value - value == 0 and len(repr(value)) <= _EXACT_DIGITS
        return repr(value) if is_plain else f"{quote_text(repr(value))}::double"
    return str(value) if isinstance(value, int) else _text_literal(value)


def _text_literal(text: str) -> str:
    parts = _CONTROL.split(text)
    if len(parts) == 1:
        return quote_text(text)
    return f"({' || '.join(f'chr({ord(part)})' if _CONTROL.fullmatch(part) else quote_text(part) for part in parts)})"
