"""A JSON value that a JSON Schema accepts, with details of the prompt where they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import lcm
from typing import Any, Final

from fleming_sql.jsontext import dumps
from fleming_sql.providers.simulated.chance import number, pick
from fleming_sql.providers.simulated.details import about_text, find_details, fixed_format, phrase
from fleming_sql.providers.simulated.numbers import choose_number, find_number
from fleming_sql.providers.simulated.words import choose

Schema = Mapping[str, Any]

_DEEP: Final = 6
"""From this depth on, only what a schema demands is made, so that recursive schemas come to an end."""
_DEEPEST: Final = 60
_UNIQUE_TRIES: Final = 50
_SIGN_WORDS: Final = frozenset({"is", "has", "was", "are", "wants", "needs", "should", "contains", "mentions"})


class SchemaFiller:
    """Makes one value for a schema.

    It knows types, properties, items, bounds, lengths, enum, const, common formats, references within the
    schema, allOf, and takes the first fitting branch of anyOf and oneOf. It does not know `pattern`, `not`,
    `if` and `contains`: a schema with those may refuse the value, as with a model that makes a mistake.

    Args:
        schema: The whole schema.
        text: The prompt: words of an enum, e-mail addresses, amounts and the like are taken from it.
        key: Decides what the text does not.

    Example:
        >>> SchemaFiller({"type": "object", "properties": {"topic": {"enum": ["tax", "law"]}}}, "My tax", 1).fill()
        {'topic': 'tax'}
    """

    def __init__(self, schema: Schema, text: str, key: int) -> None:
        self._root = schema
        self._text = text
        self._key = key

    def fill(self) -> Any:
        """Return the value."""
        return self._value(self._root, "answer", ("$",))

    def _value(self, given: Any, name: str, path: tuple[str, ...]) -> Any:
        if not isinstance(given, Mapping) or len(path) > _DEEPEST:
            return f"simulated {name}"
        schema = self._resolve(given, len(path))
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._one_of(schema["enum"], path)
        match self._type(schema, len(path)):
            case "object":
                return self._object(schema, path)
            case "array":
                return self._array(schema, name, path)
            case "integer":
                return self._number(schema, name, path, whole=True)
            case "number":
                return self._number(schema, name, path, whole=False)
            case "boolean":
                return self._boolean(name, path)
            case "null":
                return None
        return self._string(schema, name, path)

    def _resolve(self, schema: Schema, depth: int) -> Schema:
        """Return the schema with its reference, allOf and chosen branch merged into it."""
        for _ in range(_DEEPEST):
            if "$ref" in schema:
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merged(self._target(schema["$ref"]), rest)
            elif schema.get("allOf"):
                parts = schema["allOf"]
                schema = {key: value for key, value in schema.items() if key != "allOf"}
                for part in parts:
                    schema = _merged(schema, part)
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
                schema = _merged(rest, _branch(branches, depth))
            else:
                break
        return schema

    def _target(self, reference: str) -> Schema:
        target: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            plain = step.replace("~1", "/").replace("~0", "~")
            target = target[int(plain)] if isinstance(target, list) else target.get(plain, {})
        return target if isinstance(target, Mapping) else {}

    def _type(self, schema: Schema, depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, str):
            return kind
        if isinstance(kind, Sequence) and kind:
            solid = [item for item in kind if item != "null"]
            return "null" if not solid or (depth > _DEEP and "null" in kind) else str(solid[0])
        guesses = {"properties": "object", "items": "array", "minimum": "number", "maximum": "number"}
        return next((guess for key, guess in guesses.items() if key in schema), "string")

    def _one_of(self, values: Sequence[Any], path: tuple[str, ...]) -> Any:
        solid = [value for value in values if value is not None]
        if solid and all(isinstance(value, str) for value in solid):
            return choose(solid, self._text, self._key, *path)
        return pick(solid or values, self._key, *path)

    def _object(self, schema: Schema, path: tuple[str, ...]) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        made = {
            name: self._value(inner, name, (*path, name))
            for name, inner in properties.items()
            if inner is not False and (len(path) <= _DEEP or name in required)
        }
        others = schema.get("additionalProperties", True)
        for name in required:
            if name not in made:
                made[name] = self._value(others, name, (*path, name))
        is_map = isinstance(others, Mapping) and not properties and len(path) <= _DEEP
        least = max(schema.get("minProperties", 0), 1 if is_map else 0)
        for position in range(1, least - len(made) + 1 if others is not False else 0):
            name = f"key{position}"
            made[name] = self._value(others, name, (*path, name))
        return made

    def _array(self, schema: Schema, name: str, path: tuple[str, ...]) -> list[Any]:
        prefix = list(schema.get("prefixItems") or ())
        items = schema.get("items", {})
        count = self._length(schema, len(prefix), path)
        found = self._found_strings(schema, items, name)
        if found and not prefix:
            most = schema.get("maxItems", 5)
            if len(found) >= schema.get("minItems", 0):
                return [self._fitted(item, items) for item in found[:most]] if most else []
        made: list[Any] = []
        seen: set[str] = set()
        for attempt in range(count + (_UNIQUE_TRIES if schema.get("uniqueItems") else 0)):
            if len(made) >= count:
                break
            inner = prefix[len(made)] if len(made) < len(prefix) else items
            value = self._value(inner, name.removesuffix("s"), (*path, str(attempt)))
            value = self._untaken(inner, value, seen) if schema.get("uniqueItems") else value
            text = dumps(value)
            if not schema.get("uniqueItems") or text not in seen:
                made.append(value)
                seen.add(text)
        return made

    def _untaken(self, inner: Any, value: Any, seen: set[str]) -> Any:
        """Return a value of the same enum that is not there yet, or a string made different by a number."""
        schema = self._resolve(inner, 0) if isinstance(inner, Mapping) else {}
        if dumps(value) not in seen:
            return value
        if "enum" in schema:
            return next((item for item in schema["enum"] if dumps(item) not in seen), value)
        if isinstance(value, str) and "format" not in schema:
            mark = str(len(seen))
            return value[: schema.get("maxLength", len(value) + len(mark)) - len(mark)] + mark
        return value

    def _length(self, schema: Schema, prefix: int, path: tuple[str, ...]) -> int:
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, prefix, 3))
        if schema.get("items") is False:
            most = min(most, prefix)
        wanted = prefix or 1 + number(self._key, "length", *path) % 3
        return int(max(least, min(most, wanted if len(path) <= _DEEP else least)))

    def _found_strings(self, schema: Schema, items: Any, name: str) -> list[str]:
        inner = self._resolve(items, 0) if isinstance(items, Mapping) else {}
        if inner.get("type") != "string" or {"enum", "const", "format"} & inner.keys():
            return []
        found = list(dict.fromkeys(find_details(name.removesuffix("s"), self._text)))
        fitted = [self._fitted(item, inner) for item in found]
        return fitted if len(set(fitted)) == len(fitted) else []

    def _number(self, schema: Schema, name: str, path: tuple[str, ...], *, whole: bool) -> int | float | None:
        found = find_number(name, self._text)
        if found is None and _nullable(schema):
            return None
        return choose_number(schema, name, found, number(self._key, *path), whole=whole)

    def _boolean(self, name: str, path: tuple[str, ...]) -> bool:
        words = [word for word in re.findall(r"[a-z]+", name.lower()) if word not in _SIGN_WORDS]
        if any(re.search(rf"\b{word}", self._text, re.IGNORECASE) for word in words):
            return True
        return number(self._key, *path) % 2 == 1

    def _string(self, schema: Schema, name: str, path: tuple[str, ...]) -> str | None:
        chance = number(self._key, *path)
        made = fixed_format(str(schema.get("format")), self._text, chance)
        if made is not None:
            return made
        found = find_details(name, self._text)
        if not found and _nullable(schema) and not about_text(name):
            return None
        place = int(path[-1]) if path[-1].isdigit() else 0
        return self._fitted(found[place % len(found)] if found else phrase(name, self._text, chance), schema)

    def _fitted(self, text: str, schema: Any) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", 10_000)
        padded = text if len(text) >= least else (text + " ." * least)[:least]
        return padded[:most]


def _nullable(schema: Schema) -> bool:
    kind = schema.get("type")
    return isinstance(kind, Sequence) and not isinstance(kind, str) and "null" in kind


def _branch(branches: Sequence[Any], depth: int) -> Any:
    """Return the first branch that is not null; deep down, null where that is one of them."""
    is_null = [isinstance(branch, Mapping) and branch.get("type") == "null" for branch in branches]
    if depth > _DEEP and any(is_null):
        return branches[is_null.index(True)]
    return branches[is_null.index(False)] if not all(is_null) else branches[0]


def _merged(first: Any, second: Any) -> Schema:
    """Return a schema that demands what both do, as far as their keywords do not contradict each other."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return second if isinstance(second, Mapping) else first if isinstance(first, Mapping) else {}
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    for key, tighter in (
        ("minimum", max),
        ("exclusiveMinimum", max),
        ("minLength", max),
        ("minItems", max),
        ("maximum", min),
        ("exclusiveMaximum", min),
        ("maxLength", min),
        ("maxItems", min),
        ("multipleOf", lcm),
    ):
        if key in first and key in second and (tighter is not lcm or _whole(first[key], second[key])):
            merged[key] = tighter(first[key], second[key])
    return merged


def _whole(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)
