"""A SQL type as a tree that knows its DuckDB text and its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_FORMATS: Final[Mapping[str, str]] = {
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP": "date-time",
    "TIMESTAMP WITH TIME ZONE": "date-time",
    "UUID": "uuid",
}
_BITS: Final = (("TINYINT", 8), ("SMALLINT", 16), ("INTEGER", 32), ("BIGINT", 64), ("HUGEINT", 128))
INTEGER_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    **{name: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for name, bits in _BITS},
    **{f"U{name}": (0, 2**bits - 1) for name, bits in _BITS},
}
"""Least and greatest value of each kind of integer."""


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type that an answer can be returned as."""

    kind: str
    """DuckDB's name without arguments; `LIST` for `T[]`, `ARRAY` for `T[3]`."""
    names: tuple[str, ...] = ()
    """STRUCT: the field names. ENUM: the values."""
    parts: tuple[SqlType, ...] = ()
    """STRUCT: the field types. LIST, ARRAY and MAP: the one type of the items."""
    numbers: tuple[int, ...] = ()
    """DECIMAL: precision and scale. ARRAY: the length."""

    def duckdb(self) -> str:
        """Return DuckDB's text of the type, field names always quoted: the reserved words vary by version."""
        parts = [part.duckdb() for part in self.parts]
        match self.kind:
            case "STRUCT":
                fields = zip(self.names, parts, strict=True)
                return f"STRUCT({', '.join(f'{_quote(name, chr(34))} {part}' for name, part in fields)})"
            case "ENUM":
                return f"ENUM({', '.join(_quote(name, chr(39)) for name in self.names)})"
            case "DECIMAL":
                return f"DECIMAL({self.numbers[0]},{self.numbers[1]})"
            case "LIST" | "ARRAY":
                return f"{parts[0]}[{''.join(map(str, self.numbers))}]"
            case "MAP":
                return f"MAP(VARCHAR, {parts[0]})"
        return self.kind

    def structure(self) -> str:
        """Return the second argument of DuckDB's `from_json` for this type."""
        return json.dumps(self.duckdb(), ensure_ascii=False)

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema that describes the values of the type.

        Fields of a STRUCT may be null, as they may in SQL: else a model has to invent what a text does not say.
        """
        parts = [part.json_schema() for part in self.parts]
        match self.kind:
            case "STRUCT":
                fields = dict(zip(self.names, map(_nullable, parts), strict=True))
                closed = {"required": list(self.names), "additionalProperties": False}
                return {"type": "object", "properties": fields, **closed}
            case "MAP":
                return {"type": "object", "additionalProperties": parts[0]}
            case "LIST" | "ARRAY":
                limits = {key: size for size in self.numbers for key in ("minItems", "maxItems")}
                return {"type": "array", "items": parts[0], **limits}
            case "ENUM":
                return {"type": "string", "enum": list(self.names)}
            case "JSON":
                return {}
            case "BOOLEAN":
                return {"type": "boolean"}
            case "FLOAT" | "DOUBLE" | "DECIMAL":
                return {"type": "number"}
        if self.kind in INTEGER_RANGES:
            return {"type": "integer"}
        return {"type": "string"} | ({"format": _FORMATS[self.kind]} if self.kind in _FORMATS else {})


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **values} if "type" in schema else schema


def _quote(name: str, mark: str) -> str:
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"
