"""SQL type text -> a type tree that knows its DuckDB text, its JSON Schema and its values.

The parser is written here because sqlglot 30 loses types without a word: its DuckDB dialect drops the
field types of `STRUCT<a: INT>`, its Databricks dialect those of `STRUCT<a: STRUCT(b UINTEGER)>`, and both
accept `STRUCT<a: INT`. A return type that lost a field would turn answers into NULL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from difflib import get_close_matches
from itertools import repeat
from typing import Any, Final
from uuid import UUID

from fleming_sql import jsontext
from fleming_sql.errors import ArgumentError, FlemingError

_ACCEPTED: Final = (
    "accepted are BOOLEAN, TINYINT to HUGEINT and their U... forms, FLOAT, DOUBLE, DECIMAL(p, s), STRING, "
    "DATE, TIME, TIMESTAMP, TIMESTAMPTZ, UUID, JSON, ENUM('a', 'b'), STRUCT<name: type>, ARRAY<type>, "
    "type[3] and MAP<STRING, type>"
)
_ALIASES: Final[Mapping[str, str]] = {
    alias: kind
    for kind, aliases in {
        "BOOLEAN": "BOOLEAN,BOOL,LOGICAL",
        "TINYINT": "TINYINT,BYTE,INT1",
        "SMALLINT": "SMALLINT,SHORT,INT2,INT16",
        "INTEGER": "INT,INTEGER,INT4,INT32,SIGNED",
        "BIGINT": "BIGINT,LONG,INT8,INT64",
        "HUGEINT": "HUGEINT,INT128",
        "UTINYINT": "UTINYINT,UINT8",
        "USMALLINT": "USMALLINT,UINT16",
        "UINTEGER": "UINTEGER,UINT32",
        "UBIGINT": "UBIGINT,UINT64",
        "UHUGEINT": "UHUGEINT,UINT128",
        "FLOAT": "FLOAT,REAL,FLOAT4",
        "DOUBLE": "DOUBLE,DOUBLE PRECISION,FLOAT8",
        "DECIMAL": "DECIMAL,NUMERIC,DEC",
        "VARCHAR": "STRING,VARCHAR,TEXT,CHAR,BPCHAR,CHARACTER",
        "DATE": "DATE",
        "TIME": "TIME",
        "TIMESTAMP": "TIMESTAMP,TIMESTAMP_NTZ,DATETIME,TIMESTAMP WITHOUT TIME ZONE",
        "TIMESTAMP WITH TIME ZONE": "TIMESTAMP WITH TIME ZONE,TIMESTAMPTZ,TIMESTAMP_LTZ",
        "UUID": "UUID,GUID",
        "JSON": "JSON,VARIANT",
        "ENUM": "ENUM",
        "STRUCT": "STRUCT",
        "LIST": "ARRAY,LIST",
        "MAP": "MAP",
    }.items()
    for alias in aliases.split(",")
}
_FORMATS: Final[Mapping[str, str]] = {
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP": "date-time",
    "TIMESTAMP WITH TIME ZONE": "date-time",
    "UUID": "uuid",
}
_BITS: Final = (("TINYINT", 8), ("SMALLINT", 16), ("INTEGER", 32), ("BIGINT", 64), ("HUGEINT", 128))
_INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    **{name: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for name, bits in _BITS},
    **{f"U{name}": (0, 2**bits - 1) for name, bits in _BITS},
}
_FLOATS: Final[Mapping[str, float]] = {"FLOAT": 3.4028234663852886e38, "DOUBLE": 1.7976931348623157e308}
_WORDS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}
# Four digits of exponent: enough for a DOUBLE, and no text can ask for a gigabyte of zeros.
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|NOT\s+NULL\b|COMMENT\s*(?:'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"))
    |(?P<word>TIMESTAMP\s+WITH(?:OUT)?\s+TIME\s+ZONE\b|DOUBLE\s+PRECISION\b|[^\W\d]\w*)
    |(?P<name>"(?:[^"]|"")+"|`(?:[^`]|``)+`)|(?P<string>'(?:[^']|'')*')|(?P<number>\d{1,6}\b)
    |(?P<sign>[<>()\[\],:])""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_MAX_DEPTH: Final = 64
_TOO_DEEP: Final = f"nested more than {_MAX_DEPTH} levels deep"
_MAX_ARRAY: Final = 100_000
"""DuckDB's own limit for fixed arrays."""


class CastError(FlemingError):
    """A JSON value is not one of the type; `path` says where, like `$.items[2].price`."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {found}")
        self.path, self.found, self.expected = path, found, expected

    def inside(self, step: str | int) -> CastError:
        """Return the same error as seen from the container that holds the value at `step`."""
        shown = f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{json.dumps(step)}]"
        return CastError(f"${shown}{self.path[1:]}", self.found, self.expected)


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
        if self.kind in _INTEGERS:
            return {"type": "integer"}
        return {"type": "string"} | ({"format": _FORMATS[self.kind]} if self.kind in _FORMATS else {})

    def cast(self, value: Any) -> Any:
        """Return a JSON value that DuckDB's `from_json` surely turns into this type.

        `from_json` gives NULL for what it cannot convert, and drops the offset of a TIMESTAMP; this refuses
        the one and applies the other. Integers beyond 64 bits and decimals come back as strings: they are
        exact that way.

        Example:
            >>> parse_type("STRUCT<n: INT, price: DECIMAL(5,2)>").cast({"N": "42", "price": 1.5})
            {'n': 42, 'price': '1.50'}

        Raises:
            CastError: The value has no equal in this type.
        """
        return None if value is None else _CASTS[self.kind](self, value)


def parse_type(text: str) -> SqlType:
    """Parse a type in DuckDB's or Databricks' syntax, or a column list, which is a STRUCT.

    Example:
        >>> parse_type("STRUCT<a: INT, c: ARRAY<STRING>>").duckdb()
        'STRUCT("a" INTEGER, "c" VARCHAR[])'

    Raises:
        ArgumentError: The text is no type, or one that an answer cannot have.
    """
    return _Parser(text).parse()


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **values} if "type" in schema else schema


def _quote(name: str, mark: str) -> str:
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"


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
    low, high = _INTEGERS[type_.kind]
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
            result[step] = part.cast(item)
        except CastError as error:
            raise error.inside(step) from error
    return result


_CASTS: Final[Mapping[str, Callable[[SqlType, Any], Any]]] = {
    **dict.fromkeys(_INTEGERS, _integer),
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


class _Parser:
    """Recursive descent over the tokens; every method consumes what it names or raises."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tokens = [*self._split(), ("end", "")]

    def parse(self) -> SqlType:
        """Return the type of the whole text."""
        first = self._tokens[0][0]
        second, sign = self._tokens[1] if len(self._tokens) > 1 else ("end", "")
        columns = first == "name" or (first == "word" and (second in ("word", "name") or sign == ":"))
        result = self._fields(0) if columns else self._type(0)
        self._take("end", expected="nothing more")
        layers, layer = 0, [result]
        while layer := [part for type_ in layer for part in type_.parts]:
            layers += 1
        if layers > _MAX_DEPTH:
            raise self._error(_TOO_DEEP)
        return result

    def _split(self) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None or found.lastgroup is None:
                raise self._error(f"cannot read {self._text[at : at + 20]!r}")
            at = found.end()
            if found.lastgroup != "skip":
                yield found.lastgroup, found.group()

    def _error(self, problem: str) -> ArgumentError:
        shown = self._text if len(self._text) <= 200 else f"{self._text[:200]}..."
        return ArgumentError("AI_FUNCTION_UNSUPPORTED_RETURN_TYPE", f"Type {shown!r}: {problem}; {_ACCEPTED}.")

    def _is(self, sign: str) -> bool:
        """Consume the next token if it is this sign."""
        found = self._tokens[self._at] == ("sign", sign)
        self._at += found
        return found

    def _take(self, kind: str, text: str = "", expected: str = "") -> str:
        """Consume and return a token of this kind, with this text if one is given."""
        found, shown = self._tokens[self._at]
        if found != kind or (text and shown != text):
            raise self._error(f"expected {expected or repr(text)}, found {shown or 'the end of the text'}")
        self._at += 1
        return shown

    def _type(self, depth: int) -> SqlType:
        if depth > _MAX_DEPTH:
            raise self._error(_TOO_DEEP)
        word = " ".join(self._take("word", expected="a type").split())
        kind = _ALIASES.get(word.upper())
        if kind is None:
            raise self._error(_unknown(word))
        result = self._arguments(kind, word, depth)
        while self._is("["):
            numbers = () if self._is("]") else (self._size(1, _MAX_ARRAY),)
            if numbers:
                self._take("sign", "]")
            result = SqlType("ARRAY" if numbers else "LIST", parts=(result,), numbers=numbers)
        return result

    def _arguments(self, kind: str, word: str, depth: int) -> SqlType:
        """The rest of a type after its name."""
        if kind in ("STRUCT", "LIST", "MAP", "ENUM"):
            close = ")" if self._is("(") else ">" if self._is("<") else self._missing(word)
            read = {"STRUCT": self._fields, "LIST": self._item, "MAP": self._map, "ENUM": self._enum}[kind]
            result = read(depth + 1)
            self._take("sign", close)
            return result
        numbers: tuple[int, ...] = (18, 3) if kind == "DECIMAL" else ()  # DuckDB's DECIMAL without arguments
        if kind in ("DECIMAL", "VARCHAR") and self._is("("):
            first = self._size(1, 38 if kind == "DECIMAL" else 999_999)
            if kind == "DECIMAL":
                numbers = (first, self._size(0, first) if self._is(",") else 0)
            self._take("sign", ")")
        return SqlType(kind, numbers=numbers)

    def _missing(self, word: str) -> str:
        raise self._error(f"{word.upper()} says nothing of what is in it")

    def _size(self, low: int, high: int) -> int:
        number = int(self._take("number", expected=f"a number from {low} to {high}"))
        if not low <= number <= high:
            raise self._error(f"expected a number from {low} to {high}, found {number}")
        return number

    def _fields(self, depth: int) -> SqlType:
        fields: dict[str, SqlType] = {}
        while not fields or self._is(","):
            kind = "name" if self._tokens[self._at][0] == "name" else "word"
            name = self._take(kind, expected="a field name")
            if kind == "name":
                name = name[1:-1].replace(name[0] * 2, name[0])
            if name.lower() in {known.lower() for known in fields}:
                raise self._error(f"two fields are named {name!r}")
            self._is(":")
            fields[name] = self._type(depth)
        return SqlType("STRUCT", names=tuple(fields), parts=tuple(fields.values()))

    def _item(self, depth: int) -> SqlType:
        return SqlType("LIST", parts=(self._type(depth),))

    def _map(self, depth: int) -> SqlType:
        if self._type(depth).kind != "VARCHAR":
            raise self._error("the keys of a MAP must be STRING, as those of a JSON object are")
        self._take("sign", ",")
        return SqlType("MAP", parts=(self._type(depth),))

    def _enum(self, depth: int) -> SqlType:
        values: list[str] = []
        while not values or self._is(","):
            value = self._take("string", expected="a value in single quotes")[1:-1].replace("''", "'")
            if value in values:
                raise self._error(f"ENUM has {value!r} twice")
            values.append(value)
        return SqlType("ENUM", names=tuple(values))


def _unknown(word: str) -> str:
    near = get_close_matches(re.sub("(?i)type$", "", word).upper(), _ALIASES, n=1, cutoff=0.85)
    return f'"{word}" is no type that an answer can have' + (f', use "{near[0]}"' if near else "")
