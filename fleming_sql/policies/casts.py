"""JSON values to the values of a SQL type, at least as strict as DuckDB's own conversion from JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from itertools import repeat
from typing import Any, Final
from uuid import UUID

from fleming_sql import jsontext
from fleming_sql.errors import FlemingError
from fleming_sql.policies.sqltypes import INTEGER_RANGES, SqlType

_FLOATS: Final[Mapping[str, float]] = {"FLOAT": 3.4028234663852886e38, "DOUBLE": 1.7976931348623157e308}
_WORDS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}
# Four digits of exponent: enough for a DOUBLE, and no text can ask for a gigabyte of zeros.
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)


class CastError(FlemingError):
    """A JSON value is not one of the type; `path` says where, like `$.items[2].price`."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {found}")
        self.path, self.found, self.expected = path, found, expected

    def inside(self, step: str | int) -> CastError:
        """Return the same error as seen from the container that holds the value at `step`."""
        shown = f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{json.dumps(step)}]"
        return CastError(f"${shown}{self.path[1:]}", self.found, self.expected)


def cast(type_: SqlType, value: Any) -> Any:
    """Return a JSON value that DuckDB's `from_json` surely turns into this type.

    `from_json` gives NULL for what it cannot convert, and drops the offset of a TIMESTAMP; this refuses
    the one and applies the other. Integers beyond 64 bits and decimals come back as strings: they are
    exact that way.

    Example:
        >>> cast(parse_type("STRUCT<n: INT, price: DECIMAL(5,2)>"), {"N": "42", "price": 1.5})
        {'n': 42, 'price': '1.50'}

    Raises:
        CastError: The value has no equal in this type.
    """
    return None if value is None else _CASTS[type_.kind](type_, value)


def _refused(type_: SqlType, value: Any) -> CastError:
    if isinstance(value, dict):
        found = "an object"
    elif isinstance(value, list):
        found = f"an array of {len(value)}"
    else:
        found = json.dumps(value, ensure_ascii=False, default=str)
    return CastError("$", found if len(found) <= 80 else f"{found[:80]}...", type_.duckdb())


def _number(type_: SqlType, value: Any) -> Decimal:
    if type(value) is int:
        return Decimal(value)
    # A float by its shortest text: the answer said 1e23, not 99999999999999991611392.
    text = repr(value) if type(value) is float else value.strip() if isinstance(value, str) else ""
    if not _NUMBER.fullmatch(text):
        raise _refused(type_, value)
    return Decimal(text)


def _integer(type_: SqlType, value: Any) -> int | str:
    low, high = INTEGER_RANGES[type_.kind]
    number = value if type(value) is int else _number(type_, value)
    if not low <= number <= high or number != int(number):
        raise _refused(type_, value)
    whole = int(number)
    return whole if -(2**63) <= whole < 2**64 else str(whole)


def _float(type_: SqlType, value: Any) -> float:
    number = value if type(value) is float else float(_number(type_, value))
    limit = _FLOATS[type_.kind]
    if not -limit <= number <= limit:  # NaN is on neither side
        raise _refused(type_, value)
    return number


def _decimal(type_: SqlType, value: Any) -> str:
    precision, scale = type_.numbers
    limit = Decimal(10 ** (precision - scale))
    number = _number(type_, value)
    if -limit < number < limit:
        rounding = Context(prec=40, rounding=ROUND_HALF_UP)  # as DuckDB rounds
        number = number.quantize(Decimal((0, (1,), -scale)), context=rounding)
    if not -limit < number < limit:  # asked after rounding, which lifts 999.999 to 1000.00
        raise _refused(type_, value)
    return f"{number:f}"


def _boolean(type_: SqlType, value: Any) -> bool:
    word = str(value).strip().lower() if type(value) in (bool, int, str) else ""
    if word not in _WORDS:
        raise _refused(type_, value)
    return _WORDS[word]


def _iso(type_: SqlType, value: Any) -> str:
    try:
        return _ISO[type_.kind](value.strip())
    except (AttributeError, ValueError, OverflowError) as error:  # no string, no such day, beyond year 9999
        raise _refused(type_, value) from error


def _time(text: str) -> str:
    moment = time.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError("a TIME has no offset")
    return moment.isoformat()


def _utc(text: str) -> str:
    # from_json takes a text without offset for UTC, whatever the session's time zone is.
    moment = datetime.fromisoformat(text)
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)).isoformat()


_ISO: Final[Mapping[str, Callable[[str], str]]] = {
    "DATE": lambda text: date.fromisoformat(text).isoformat(),
    "TIME": _time,
    "TIMESTAMP": lambda text: _utc(text).removesuffix("+00:00"),
    "TIMESTAMP WITH TIME ZONE": _utc,
    "UUID": lambda text: str(UUID(text)),
}


def _enum(type_: SqlType, value: Any) -> str:
    for candidate in (value, value.strip()) if isinstance(value, str) else ():
        if candidate in type_.names:
            return candidate
    raise _refused(type_, value)


def _text(type_: SqlType, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(type_, value) from error


def _json(type_: SqlType, value: Any) -> Any:
    if isinstance(value, str):
        return value
    text = _text(type_, value)
    try:
        # The round trip turns integers beyond 64 bits into floats, and fails on what is nested too deeply.
        return jsontext.loads(jsontext.dumpb(jsontext.loads(text)))
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(type_, value) from error


def _items(type_: SqlType, value: Any) -> list[Any]:
    if not isinstance(value, list) or (type_.numbers and len(value) != type_.numbers[0]):
        raise _refused(type_, value)
    return list(_each(zip(range(len(value)), repeat(type_.parts[0]), value)).values())


def _entries(type_: SqlType, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _refused(type_, value)
    return _each(zip(value, repeat(type_.parts[0]), value.values()))


def _struct(type_: SqlType, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _refused(type_, value)
    folded: dict[str, Any] = {}
    if not value.keys() >= set(type_.names):
        for name, item in value.items():
            folded.setdefault(name.lower(), item)
    items = [value[name] if name in value else folded.get(name.lower()) for name in type_.names]
    return _each(zip(type_.names, type_.parts, items, strict=True))


def _each(items: Iterable[tuple[Any, SqlType, Any]]) -> dict[Any, Any]:
    """Cast each (step, type, value); an error says at which step it was."""
    result: dict[Any, Any] = {}
    for step, part, item in items:
        try:
            result[step] = cast(part, item)
        except CastError as error:
            raise error.inside(step) from error
    return result


_CASTS: Final[Mapping[str, Callable[[SqlType, Any], Any]]] = {
    **dict.fromkeys(INTEGER_RANGES, _integer),
    **dict.fromkeys(_FLOATS, _float),
    **dict.fromkeys(_ISO, _iso),
    "BOOLEAN": _boolean,
    "DECIMAL": _decimal,
    "VARCHAR": _text,
    "JSON": _json,
    "ENUM": _enum,
    "STRUCT": _struct,
    "LIST": _items,
    "ARRAY": _items,
    "MAP": _entries,
}
