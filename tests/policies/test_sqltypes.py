from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql import jsontext
from fleming_sql.errors import ArgumentError
from fleming_sql.policies.casts import CastError, cast
from fleming_sql.policies.sqltypes import SqlType
from fleming_sql.policies.type_parser import parse_type


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def _from_json(connection: duckdb.DuckDBPyConnection, type_: SqlType, value: Any) -> Any:
    """Hand a cast value to DuckDB as the package does, and return what SQL would see."""
    row = connection.execute("SELECT from_json(?::VARCHAR, ?)", [jsontext.dumps(value), type_.structure()]).fetchone()
    assert row is not None
    return row[0]


# --- parsing ---


@pytest.mark.parametrize(
    ("text", "duckdb_text"),
    [
        ("STRUCT<a: INT, c: ARRAY<STRING>>", 'STRUCT("a" INTEGER, "c" VARCHAR[])'),
        ("STRUCT(a INT, c VARCHAR[])", 'STRUCT("a" INTEGER, "c" VARCHAR[])'),
        ("struct<a:STRUCT(b UINTEGER)>", 'STRUCT("a" STRUCT("b" UINTEGER))'),
        ("MAP<STRING, STRUCT(a INT[])>", 'MAP(VARCHAR, STRUCT("a" INTEGER[]))'),
        ("MAP(VARCHAR, INT)", "MAP(VARCHAR, INTEGER)"),
        ("ARRAY<ARRAY<DOUBLE>>", "DOUBLE[][]"),
        ("FLOAT[3]", "FLOAT[3]"),
        ("ARRAY<FLOAT>[2]", "FLOAT[][2]"),
        ("ENUM('a','it''s')", "ENUM('a', 'it''s')"),
        ("STRUCT<`a b`: INT NOT NULL COMMENT 'it\\'s', c: INT>", 'STRUCT("a b" INTEGER, "c" INTEGER)'),
        ("STRUCT<`a``b`: INT>", 'STRUCT("a`b" INTEGER)'),
        ('STRUCT("say ""hi""" INT)', 'STRUCT("say ""hi""" INTEGER)'),
        ("STRUCT<order: INT, größe: INT>", 'STRUCT("order" INTEGER, "größe" INTEGER)'),
        ("a INT, b STRING", 'STRUCT("a" INTEGER, "b" VARCHAR)'),
        ("a: INT", 'STRUCT("a" INTEGER)'),
        ("`a b` INT", 'STRUCT("a b" INTEGER)'),
        ("date DATE, comment STRING COMMENT 'x'", 'STRUCT("date" DATE, "comment" VARCHAR)'),
        ("timestamp TIMESTAMP with  time zone", 'STRUCT("timestamp" TIMESTAMP WITH TIME ZONE)'),
        ("DECIMAL(10, 2)", "DECIMAL(10,2)"),
        ("NUMERIC(10)", "DECIMAL(10,0)"),
        ("DECIMAL", "DECIMAL(18,3)"),
        ("VARCHAR(20)", "VARCHAR"),
        ("CHAR(1)", "VARCHAR"),
        ("LONG", "BIGINT"),
        ("SHORT", "SMALLINT"),
        ("BYTE", "TINYINT"),
        ("Double Precision", "DOUBLE"),
        ("TIMESTAMP", "TIMESTAMP"),
        ("TIMESTAMP_NTZ", "TIMESTAMP"),
        ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"),
        ("VARIANT", "JSON"),
        (" int ", "INTEGER"),
    ],
)
def test_both_syntaxes_become_duckdb_text(text: str, duckdb_text: str) -> None:
    assert parse_type(text).duckdb() == duckdb_text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "STRUCT<a: INT",
        "STRUCT<a: INT)",
        "STRUCT(a INT>",
        "INT>",
        "INT[",
        "INT[3",
        "STRUCT<a>",
        "STRUCT<a: INT, b>",
        "STRUCT<a: INT,>",
        "STRUCT<>",
        "STRUCT",
        "ARRAY",
        "ARRAY<>",
        "ARRAY<INT, INT>",
        "MAP<STRING>",
        "MAP<INT, INT>",
        "a INT,",
        "a-b INT",
        '"INT"',
        "STRUCT<a INT, A INT>",
        "STRUCT<`unfinished: INT>",
        "INT[0]",
        "INT[100001]",
        "DECIMAL(0)",
        "DECIMAL(39)",
        "DECIMAL(3,4)",
        "ENUM()",
        "ENUM(a)",
        "ENUM('a','a')",
        "BLOB",
        "BINARY",
        "INTERVAL",
        "TIMESTAMP_NS",
        "StringType",
        "STRUCT<a: ANY>",
        "INT" + "[]" * 70,
        "ARRAY<" * 2000,
    ],
)
def test_what_is_no_return_type_is_refused_with_the_condition(text: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        parse_type(text)
    assert refused.value.condition == "AI_FUNCTION_UNSUPPORTED_RETURN_TYPE"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("StringType", 'use "STRING"'),
        ("STRUCT<a: LongType>", 'use "LONG"'),
        ("STRNG", 'use "STRING"'),
        ("STRUCT<a: INT", "expected '>', found the end of the text"),
        ("BLOB", '"BLOB" is no type'),
        ("BLOB", "accepted are BOOLEAN"),
    ],
)
def test_a_refusal_says_what_was_found_and_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        parse_type(text)
    assert hint in str(refused.value)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse_type(text)
    except ArgumentError as error:
        assert error.condition == "AI_FUNCTION_UNSUPPORTED_RETURN_TYPE"


def test_parsing_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    parse_type("STRUCT<a: INT COMMENT 'x'>")
    assert not caplog.records


def test_structure_is_the_json_text_of_the_type() -> None:
    assert jsontext.loads(parse_type('STRUCT("a""b" INT)').structure()) == 'STRUCT("a""b" INTEGER)'


# --- JSON Schema ---


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("STRING", {"type": "string"}),
        ("INT", {"type": "integer"}),
        ("UHUGEINT", {"type": "integer"}),
        ("DOUBLE", {"type": "number"}),
        ("DECIMAL(5,2)", {"type": "number"}),
        ("BOOLEAN", {"type": "boolean"}),
        ("DATE", {"type": "string", "format": "date"}),
        ("TIME", {"type": "string", "format": "time"}),
        ("TIMESTAMP", {"type": "string", "format": "date-time"}),
        ("TIMESTAMPTZ", {"type": "string", "format": "date-time"}),
        ("UUID", {"type": "string", "format": "uuid"}),
        ("JSON", {}),
        ("ENUM('a','b')", {"type": "string", "enum": ["a", "b"]}),
        ("INT[]", {"type": "array", "items": {"type": "integer"}}),
        ("INT[2]", {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        ("MAP<STRING, INT>", {"type": "object", "additionalProperties": {"type": "integer"}}),
        (
            "STRUCT<a: INT, b: STRING>",
            {
                "type": "object",
                "properties": {"a": {"type": ["integer", "null"]}, "b": {"type": ["string", "null"]}},
                "required": ["a", "b"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_a_type_has_its_json_schema(text: str, schema: dict[str, Any]) -> None:
    assert parse_type(text).json_schema() == schema


# --- casts ---


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("INT", 42, 42),
        ("INT", "42", 42),
        ("INT", " 42 ", 42),
        ("INT", 42.0, 42),
        ("INT", "4.2e1", 42),
        ("HUGEINT", 1e23, "100000000000000000000000"),
        ("HUGEINT", str(-(2**127)), str(-(2**127))),
        ("UBIGINT", 2**64 - 1, 2**64 - 1),
        ("DOUBLE", 1, 1.0),
        ("DOUBLE", "1e3", 1000.0),
        ("FLOAT", 0.1, 0.1),
        ("DECIMAL(5,2)", 1.005, "1.01"),
        ("DECIMAL(5,2)", "999.99", "999.99"),
        ("DECIMAL(5,2)", -1, "-1.00"),
        ("DECIMAL(38,0)", "9" * 38, "9" * 38),
        ("BOOLEAN", True, True),
        ("BOOLEAN", " true ", True),
        ("BOOLEAN", "No", False),
        ("BOOLEAN", 0, False),
        ("STRING", "x", "x"),
        ("STRING", 1.5, "1.5"),
        ("STRING", True, "true"),
        ("STRING", 2**70, str(2**70)),
        ("STRING", {"a": [1, "é"]}, '{"a":[1,"é"]}'),
        ("DATE", " 2026-01-31 ", "2026-01-31"),
        ("TIME", "10:00", "10:00:00"),
        ("TIMESTAMP", "2026-01-01", "2026-01-01T00:00:00"),
        ("TIMESTAMP", "2026-01-01T10:00:00+02:00", "2026-01-01T08:00:00"),
        ("TIMESTAMPTZ", "2026-01-01 10:00:00", "2026-01-01T10:00:00+00:00"),
        ("TIMESTAMPTZ", "2026-01-01T10:00:00+02:00", "2026-01-01T08:00:00+00:00"),
        ("UUID", "{4718382325744bfdb41199ed177d3e43}", "47183823-2574-4bfd-b411-99ed177d3e43"),
        ("JSON", {"a": [1, None]}, {"a": [1, None]}),
        ("JSON", "x", "x"),
        ("JSON", [2**70], [float(2**70)]),
        ("ENUM('a','b')", " b\n", "b"),
        ("STRUCT<a: INT, b: INT>", {"A": "1", "z": 9}, {"a": 1, "b": None}),
        ("STRUCT<a: INT>", {"A": 1, "a": 2}, {"a": 2}),
        ("INT[]", ["1", None], [1, None]),
        ("INT[2]", [1, 2.0], [1, 2]),
        ("MAP<STRING, INT>", {"k": "1"}, {"k": 1}),
    ],
)
def test_a_value_is_cast(text: str, value: Any, expected: Any) -> None:
    result = cast(parse_type(text), value)
    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize("text", ["INT", "STRING", "JSON", "STRUCT<a: INT>", "INT[2]", "MAP<STRING, INT>", "ENUM('a')"])
def test_null_is_null_of_every_type(text: str) -> None:
    assert cast(parse_type(text), None) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("INT", "forty-two"),
        ("INT", ""),
        ("INT", 42.5),
        ("INT", True),
        ("INT", [1]),
        ("INT", "1_000"),
        ("INT", "٤٢"),
        ("INT", "1e9999999999"),
        ("TINYINT", 128),
        ("TINYINT", -129),
        ("UTINYINT", -1),
        ("BIGINT", 2**63),
        ("UHUGEINT", 2**128),
        ("DOUBLE", float("nan")),
        ("DOUBLE", float("inf")),
        ("DOUBLE", "nan"),
        ("DOUBLE", "Infinity"),
        ("DOUBLE", "1e400"),
        ("DOUBLE", 10**400),
        ("FLOAT", 3.5e38),
        ("DECIMAL(5,2)", 1000),
        ("DECIMAL(5,2)", 999.999),
        ("DECIMAL(5,2)", float("nan")),
        ("DECIMAL(5,2)", "sNaN"),
        ("BOOLEAN", 2),
        ("BOOLEAN", 1.0),
        ("BOOLEAN", "maybe"),
        ("BOOLEAN", "on"),
        ("STRING", float("nan")),
        ("STRING", [float("inf")]),
        ("DATE", "2026-02-30"),
        ("DATE", "2026-01-01T10:00:00"),
        ("DATE", "tomorrow"),
        ("DATE", 20260101),
        ("TIME", "25:00"),
        ("TIME", "10:00:00+02:00"),
        ("TIMESTAMP", "infinity"),
        ("TIMESTAMP", "0001-01-01T00:00:00+05:00"),
        ("UUID", "x"),
        ("JSON", {"a": float("nan")}),
        ("ENUM('a','b')", "c"),
        ("ENUM('a','b')", "A"),
        ("ENUM('1')", 1),
        ("STRUCT<a: INT>", [1]),
        ("STRUCT<a: INT>", "{}"),
        ("INT[]", {"a": 1}),
        ("INT[]", "1"),
        ("INT[2]", [1]),
        ("MAP<STRING, INT>", [1]),
    ],
)
def test_a_value_that_is_not_of_the_type_is_refused(text: str, value: Any) -> None:
    with pytest.raises(CastError):
        cast(parse_type(text), value)


@pytest.mark.parametrize(
    ("text", "value", "path"),
    [
        ("INT", "x", "$"),
        (
            "STRUCT<items: ARRAY<STRUCT<price: INT>>>",
            {"items": [{}, None, {"price": "x"}]},
            "$.items[2].price",
        ),
        ("MAP<STRING, INT>", {"a b": "x"}, '$["a b"]'),
        ("STRUCT<Price: INT>", {"price": "x"}, "$.Price"),
    ],
)
def test_a_refusal_names_the_path(text: str, value: Any, path: str) -> None:
    with pytest.raises(CastError) as refused:
        cast(parse_type(text), value)
    assert refused.value.path == path


def test_a_refusal_names_what_was_found_and_expected() -> None:
    with pytest.raises(CastError) as refused:
        cast(parse_type("INT[]"), [1, "x"])
    assert str(refused.value) == '$[1]: expected INTEGER, found "x"'


def test_a_refusal_shortens_a_long_value() -> None:
    with pytest.raises(CastError) as refused:
        cast(parse_type("INT"), "x" * 10_000)
    assert len(str(refused.value)) < 150


# --- what DuckDB makes of it ---

_INTEGERS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64, "HUGEINT": 128}
_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
_WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_DATETIMES = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29))
_ZONES = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))

Case = tuple[SqlType, Any, Any]
"""A type, a JSON value of it, and the Python value that DuckDB should give for it."""


def _scalar(type_: SqlType, values: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[Case]:
    return values.map(lambda pair: (type_, *pair))


def _whole(bits: int, signed: bool) -> st.SearchStrategy[tuple[Any, Any]]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    number = st.integers(low, high)
    return st.one_of(number.map(lambda n: (n, n)), number.map(lambda n: (str(n), n)))


@st.composite
def _decimals(draw: st.DrawFn) -> Case:
    precision = draw(st.integers(1, 38))
    scale = draw(st.integers(0, precision))
    value = Decimal(
        (
            draw(st.integers(0, 1)),
            tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=precision))),
            -scale,
        )
    )
    return SqlType("DECIMAL", numbers=(precision, scale)), f"{value:f}", value


@st.composite
def _enums(draw: st.DrawFn) -> Case:
    values = draw(st.lists(_NAMES, min_size=1, max_size=3, unique=True))
    value = draw(st.sampled_from(values))
    return SqlType("ENUM", names=tuple(values)), value, value


_SCALARS = st.one_of(
    *[_scalar(parse_type(name), _whole(bits, signed=True)) for name, bits in _INTEGERS.items()],
    *[_scalar(parse_type(f"U{name}"), _whole(bits, signed=False)) for name, bits in _INTEGERS.items()],
    _scalar(parse_type("FLOAT"), st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda x: (x, x))),
    _scalar(parse_type("DOUBLE"), st.floats(allow_nan=False, allow_infinity=False).map(lambda x: (x, x))),
    _scalar(parse_type("BOOLEAN"), st.booleans().map(lambda b: (b, b))),
    _scalar(parse_type("STRING"), _WORDS.map(lambda s: (s, s))),
    _scalar(parse_type("DATE"), st.dates().map(lambda d: (d.isoformat(), d))),
    _scalar(parse_type("TIME"), st.times().map(lambda t: (t.isoformat(), t))),
    _scalar(parse_type("TIMESTAMP"), _DATETIMES.map(lambda t: (t.isoformat(), t))),
    _scalar(
        parse_type("TIMESTAMP"),
        st.tuples(_DATETIMES, _ZONES).map(
            lambda p: (p[0].replace(tzinfo=p[1]).isoformat(), (p[0] - p[1].utcoffset(None)))
        ),
    ),
    _scalar(parse_type("UUID"), st.uuids().map(lambda u: (str(u), u))),
    _decimals(),
    _enums(),
)


@st.composite
def _containers(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    type_, value, expected = draw(inner)
    match draw(st.sampled_from(["LIST", "ARRAY", "MAP", "STRUCT"])):
        case "LIST":
            return SqlType("LIST", parts=(type_,)), [value, None, value], [expected, None, expected]
        case "ARRAY":
            return SqlType("ARRAY", parts=(type_,), numbers=(2,)), [value, value], (expected, expected)
        case "MAP":
            key = draw(_WORDS)
            return SqlType("MAP", parts=(type_,)), {key: value}, {key: expected}
    others = draw(st.lists(inner, max_size=3))
    fields = [(type_, value, expected), *others]
    names = draw(st.lists(_NAMES, min_size=len(fields), max_size=len(fields), unique_by=lambda name: name.casefold()))
    parts = tuple(field[0] for field in fields)
    values = dict(zip(names, (field[1] for field in fields), strict=True))
    return (
        SqlType("STRUCT", names=tuple(names), parts=parts),
        values,
        dict(zip(names, (field[2] for field in fields), strict=True)),
    )


_CASES = st.recursive(_SCALARS, _containers, max_leaves=6)
_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        _WORDS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_WORDS, inner, max_size=3)),
    max_leaves=5,
)
_SLOPPY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-3, 300),
    st.floats(),
    _WORDS,
    st.sampled_from(["T", "no", " 1 ", "1e3", "+.5", "5.", "2026-W01-1", "20260101T101112,5Z", "24:00", "1E-9"]),
    st.integers().map(str),
    st.floats().map(str),
    st.decimals(allow_nan=False).map(str),
    st.dates().map(str),
    _DATETIMES.map(str),
    st.uuids().map(lambda uuid: f"urn:uuid:{uuid.hex.upper()}"),
    st.lists(st.integers(), max_size=2),
)
"""Scalars as a careless model writes them."""


def _sloppy(type_: SqlType) -> st.SearchStrategy[Any]:
    match type_.kind:
        case "STRUCT":
            parts = zip(type_.names, type_.parts, strict=True)
            return st.fixed_dictionaries({}, optional={name: _sloppy(part) for name, part in parts})
        case "LIST" | "ARRAY":
            return st.lists(_sloppy(type_.parts[0]), min_size=2, max_size=2)
        case "MAP":
            return st.dictionaries(_WORDS, _sloppy(type_.parts[0]), max_size=2)
        case "ENUM":
            return st.one_of(_SLOPPY, st.sampled_from(type_.names).map(lambda name: f" {name} "))
    return _SLOPPY


def _nulls(value: Any) -> Any:
    """The value with everything but its nulls and its shape left out."""
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}
    return [_nulls(item) for item in value] if isinstance(value, (list, tuple)) else value is None


@given(_CASES)
def test_duckdb_text_parses_back_to_the_same_type(case: Case) -> None:
    assert parse_type(case[0].duckdb()) == case[0]


@given(_CASES)
def test_duckdb_knows_the_type_text(connection: duckdb.DuckDBPyConnection, case: Case) -> None:
    assert connection.execute(f"SELECT CAST(NULL AS {case[0].duckdb()})").fetchone() == (None,)


@given(_CASES)
def test_a_value_of_the_type_arrives_in_sql_unchanged(connection: duckdb.DuckDBPyConnection, case: Case) -> None:
    type_, value, expected = case
    assert _from_json(connection, type_, cast(type_, value)) == expected


@given(_CASES, st.data())
def test_from_json_makes_no_null_of_what_cast_let_through(
    connection: duckdb.DuckDBPyConnection, case: Case, data: st.DataObject
) -> None:
    type_ = case[0]
    try:
        result = cast(type_, data.draw(_sloppy(type_)))
    except CastError:
        return
    assert _nulls(_from_json(connection, type_, result)) == _nulls(result)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
@pytest.mark.parametrize("text", ["2026-01-01T10:00:00", "2026-01-01T12:00:00+02:00", "2026-01-01 10:00Z"])
def test_a_timestamp_with_time_zone_is_the_same_moment_in_every_session(
    connection: duckdb.DuckDBPyConnection, zone: str, text: str
) -> None:
    type_ = parse_type("TIMESTAMPTZ")
    connection.execute(f"SET TimeZone = '{zone}'")
    moment = connection.execute(
        "SELECT epoch_ms(from_json(?::VARCHAR, ?))", [jsontext.dumps(cast(type_, text)), type_.structure()]
    ).fetchone()
    assert moment == (datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp() * 1000,)


@given(_JSON)
def test_any_json_arrives_in_sql_as_json(connection: duckdb.DuckDBPyConnection, value: Any) -> None:
    type_ = parse_type("STRUCT<a: JSON>")
    text = _from_json(connection, type_, cast(type_, {"a": value}))["a"]
    assert (None if text is None else jsontext.loads(text)) == value
