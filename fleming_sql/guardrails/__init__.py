"""The registry of guardrails: one line per kind, imported on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import jsonschema_rs

from fleming_sql import jsontext
from fleming_sql.guardrails.base import BadConfig, Guardrail, ModelGuardrail, Surroundings
from fleming_sql.types import Behavior, PiiEntity

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "judge": "fleming_sql.guardrails.judge:Judge",
        "keywords": "fleming_sql.guardrails.keywords:Keywords",
        "length": "fleming_sql.guardrails.length:Length",
        "pii": "fleming_sql.guardrails.pii:Pii",
        "regex": "fleming_sql.guardrails.regex:Regex",
        "safety": "fleming_sql.guardrails.safety:Safety",
        "sql": "fleming_sql.guardrails.sql:SqlPolicy",
        "topics": "fleming_sql.guardrails.topics:Topics",
    }
)


def find_kind(kind: str) -> type[Guardrail]:
    """Return the class of a kind.

    Raises:
        KeyError: There is no such kind.
    """
    module, _, attribute = KINDS[kind].partition(":")
    found: type[Guardrail] = getattr(import_module(module), attribute)
    return found


def describe() -> list[tuple[str, str, list[str], list[str], list[str], str]]:
    """Return the rows of the table `guardrail_kinds`."""
    return [
        (
            name,
            kind.description,
            list(kind.phases),
            list(kind.behaviors),
            sorted(kind.tasks) if issubclass(kind, ModelGuardrail) else [],
            jsontext.dumps(schema_of(kind)),
        )
        for name, kind in ((name, find_kind(name)) for name in KINDS)
    ]


def describe_pii_entities() -> Sequence[Sequence[object]]:
    """Return the rows of the table `built_in_pii_entities`."""
    from fleming_sql.guardrails.pii import built_in

    return built_in()


def check_pii_entity(entity: PiiEntity) -> None:
    """Accept a row of `fleming.pii_entities`.

    Raises:
        BadConfig: It cannot be gone by.
    """
    from fleming_sql.guardrails.pii import check_entity

    check_entity(entity)


def schema_of(kind: type[Guardrail]) -> Mapping[str, Any]:
    """Return the JSON Schema of a kind's config."""
    return {"type": "object", "additionalProperties": False, **kind.config_schema}


def make_guardrail(kind: str, behavior: Behavior, config: str, surroundings: Surroundings) -> Guardrail:
    """Return the guardrail that a row describes.

    Args:
        kind: Name in the registry.
        behavior: The row's.
        config: A JSON object.
        surroundings: What the config may refer to.

    Raises:
        KeyError: There is no such kind.
        BadConfig: The config is not what the kind takes.
    """
    found = find_kind(kind)
    try:
        value = jsontext.loads(config)
    except ValueError as error:
        raise BadConfig(f"the config is not valid JSON ({error})", "write a JSON object") from None
    _validate(kind, schema_of(found), value)
    return found(value, behavior, surroundings)


def _validate(kind: str, schema: Mapping[str, Any], value: Any) -> None:
    errors = list(jsonschema_rs.validator_for(dict(schema)).iter_errors(value))
    if not errors:
        return
    keys = ", ".join(_keys(schema))
    told = "; ".join(f"{_place(error.instance_path)}{error.message}" for error in errors[:3])
    raise BadConfig(
        f"the config of kind {kind} is wrong: {told}",
        f"write a JSON object with the keys {keys}, as config_schema in fleming.guardrail_kinds describes them",
    )


def _keys(schema: Mapping[str, Any]) -> Sequence[str]:
    required = schema.get("required", ())
    return [f"{name} (required)" if name in required else name for name in schema.get("properties", {})]


def _place(path: Sequence[str | int]) -> str:
    return f"{'.'.join(map(str, path))}: " if path else ""


__all__ = [
    "KINDS",
    "BadConfig",
    "Guardrail",
    "Surroundings",
    "check_pii_entity",
    "describe",
    "describe_pii_entities",
    "find_kind",
    "make_guardrail",
    "schema_of",
]
