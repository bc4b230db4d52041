"""JSON as it arrives from strangers: fast when it is clean, forgiving about broken surrogates."""

from __future__ import annotations

import json
from typing import Any

import orjson


def loads(text: str | bytes) -> Any:
    r"""Parse JSON. Escaped lone surrogates (`"\ud800"`) become U+FFFD, since UTF-8 has no place for them.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if (b"\\u" if isinstance(text, bytes) else "\\u") not in text:  # type: ignore[operator]
            raise ValueError(str(error)) from None
    try:
        return _repair(json.loads(text, parse_constant=_refuse))
    except RecursionError:
        raise ValueError("nested too deep") from None


def dumps(value: Any) -> str:
    """Return compact JSON text with keys in their given order."""
    return dumpb(value).decode()


def dumpb(value: Any) -> bytes:
    """Return compact JSON as UTF-8 bytes. Whole numbers may be of any length."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a number beyond 64 bits, which orjson refuses
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _repair(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_repair(item) for item in value]
    if isinstance(value, dict):
        return {_repair(key): _repair(item) for key, item in value.items()}
    return value
