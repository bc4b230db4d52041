"""Values of a result as text: for tables and CSV, and for JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

_UNSEEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""C0 and C1 control characters but tab and newline, and halves of characters, which no terminal takes."""


def visible(text: str) -> str:
    r"""Return a text for people, with its control characters written out: a terminal would obey them.

    Answers of models and errors of providers are written by others. What is for programs stays as it is.

    Example:
        >>> visible("\x1b[2Jhi")
        '\\x1b[2Jhi'
    """
    return _UNSEEN.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


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
    """Return a value as JSON: a decimal number with all its digits, NaN and infinity as null, other things as text."""
    if value is None or isinstance(value, str | bool | int):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return json.dumps(value) if math.isfinite(value) else "null"
    if isinstance(value, Decimal):  # not by way of a float, which holds 15 digits of 38
        return format(value, "f") if value.is_finite() else "null"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_name(name)}: {json_of(one)}' for name, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json_of, value))}]"
    if isinstance(value, datetime | date | time):
        return json.dumps(value.isoformat())
    return json.dumps(text_of(value), ensure_ascii=False)


def _name(key: Any) -> str:
    return json.dumps(key if isinstance(key, str) else text_of(key), ensure_ascii=False)


def _bytes(value: bytes | bytearray) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b"\\'\"" else f"\\x{byte:02X}" for byte in value)
