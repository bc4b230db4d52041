"""Values of a result as text: for tables and CSV, and for JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any


def text_of(value: Any) -> str:
    """Return a value as text, as DuckDB writes it; what is nested as JSON. NULL is for the caller to write."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes | bytearray):
        return _bytes(value)
    if isinstance(value, Mapping | list | tuple):
        return json_of(value)
    return str(value)


def json_of(value: Any) -> str:
    """Return a value as JSON: a decimal number as a number, NaN and infinity as null, other things as text."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else text_of(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return text_of(value)


def _bytes(value: bytes | bytearray) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b"\\'\"" else f"\\x{byte:02X}" for byte in value)
