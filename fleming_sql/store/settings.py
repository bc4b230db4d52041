"""The settings of a store, as they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final

import orjson

from fleming_sql.types import Settings

_IN_EFFECT: Final = (
    "select k.name, k.kind, k.default_value, s.value from __settings() as k left join settings as s using (name)"
)
_NUMBER: Final = re.compile(r"number>=(?P<least>.+)")


def read_settings(rows: Callable[[str], list[tuple[Any, ...]]]) -> Settings:
    """Read the settings. A value that config_problems complains of is left at its default: calls fail by it.

    Args:
        rows: Runs a query.
    """
    values = {}
    for name, kind, default, value in rows(_IN_EFFECT):
        try:
            values[name] = _read(kind, default if value is None else value)
        except ValueError:
            values[name] = _read(kind, default)
    return Settings(**{field.name: values[field.name] for field in fields(Settings)})


def _read(kind: str, text: str | None) -> Any:
    """Return the value behind a text.

    Raises:
        ValueError: It is none of this kind.
    """
    if text is None or kind == "text":
        return text
    if kind == "json":
        return _object(text)
    number = _NUMBER.fullmatch(kind)
    if number is None:
        if text not in kind.split("|"):
            raise ValueError(text)
        return text
    value = float(text)
    if not float(number["least"]) <= value < float("inf"):
        raise ValueError(text)
    return value


def _object(text: str) -> Mapping[str, str]:
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return {key: item if isinstance(item, str) else orjson.dumps(item).decode() for key, item in value.items()}
