"""SQL type text, in DuckDB's or Databricks' syntax, to a type tree.

The parser is written here because sqlglot 30 loses types without a word: its DuckDB dialect drops the
field types of `STRUCT<a: INT>`, its Databricks dialect those of `STRUCT<a: STRUCT(b UINTEGER)>`, and both
accept `STRUCT<a: INT`. A return type that lost a field would turn answers into NULL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from fleming_sql.errors import ArgumentError
from fleming_sql.policies.sqltypes import SqlType

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


def parse_type(text: str) -> SqlType:
    """Parse a type in DuckDB's or Databricks' syntax, or a column list, which is a STRUCT.

    Example:
        >>> parse_type("STRUCT<a: INT, c: ARRAY<STRING>>").duckdb()
        'STRUCT("a" INTEGER, "c" VARCHAR[])'

    Raises:
        ArgumentError: The text is no type, or one that an answer cannot have.
    """
    return _Parser(text).parse()


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
