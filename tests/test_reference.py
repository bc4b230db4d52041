"""What the reference is made of: a comment on everything public, and a catalogue of errors that the code bears out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, get_args

import pytest
from conftest import AddEndpoint, Con

import fleming_sql
from fleming_sql.policies.failures import Failure, Kind, code_of, to_call_error
from fleming_sql.policies.fallbacks import judge
from fleming_sql.testing import MockModel, Reply

PACKAGE: Final = Path(fleming_sql.__file__).parent
_SHAPE: Final = re.compile(r"[A-Z]+(?:_[A-Z]+)+(?:\.[A-Z_]+)?|CANCELLED|UNAUTHENTICATED|OVERLOADED")
_IN_BRACKETS: Final = re.compile(r"\[([A-Z]+(?:[_.][A-Z]+)*)\] ")
_FAILING: Final = re.compile(r"ArgumentError|CallError|AnswerMismatch|CallCancelled|\berror_code|logging_error_codes")
"""What a module deals with that has to do with errors of statements and calls."""
_OTHER_WORDS: Final = frozenset(
    {
        "AI_FUNCTION_INVALID_MODEL_PARAMETERS",  # begins others
        "FLEMING_USER",
        "O_BINARY",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
    }
)
_PUT_TOGETHER: Final = frozenset({"INPUT_GUARDRAIL_TRIGGERED", "OUTPUT_GUARDRAIL_TRIGGERED"})
"""Conditions that gateway/blocks.py makes of the phase; tests/test_guardrails.py sees both."""


class Row(NamedTuple):
    """One row of `fleming.error_codes`, less the words."""

    origin: str
    condition: str | None
    error_code: str | None
    status_code: int | None
    is_retried: bool
    falls_back: bool


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The catalogue of errors."""
    with fleming_sql.connect() as con:
        found = con.execute(
            "select origin, condition, error_code, status_code, is_retried, falls_back from fleming.error_codes"
        ).fetchall()
    return [Row(*row) for row in found]


@pytest.mark.parametrize(
    ("what", "listing"),
    [
        ("tables", "select table_name, comment from duckdb_tables() where database_name = 'fleming'"),
        ("views", "select view_name, comment from duckdb_views() where database_name = 'fleming' and not internal"),
        (
            "columns",
            "select table_name || '.' || column_name, comment from duckdb_columns() where database_name = 'fleming'",
        ),
        (
            "functions",
            "select function_name, comment from duckdb_functions() where database_name = 'fleming' and not internal",
        ),
    ],
)
def test_everything_public_has_a_comment(con: Con, what: str, listing: str) -> None:
    named = [row for row in con.execute(listing).fetchall() if not row[0].startswith("__")]

    assert named, what
    assert [name for name, comment in named if not comment] == []


def test_comments_outlive_the_process(tmp_path: Path) -> None:
    for _ in range(2):
        with fleming_sql.connect(tmp_path / "warehouse.duckdb") as con:
            (found,) = con.execute(
                "select count(*) from duckdb_functions() "
                "where database_name = 'fleming' and function_name = 'ai_query' and comment is null"
            ).fetchall()
            assert found == (0,)


def test_each_way_to_fail_is_in_the_catalogue_once(rows: list[Row]) -> None:
    keys = [row[:4] for row in rows]

    assert len(keys) == len(set(keys)) > 40


def test_each_row_of_the_catalogue_says_what_happened_and_what_to_do(con: Con) -> None:
    empty = con.execute("from fleming.error_codes where trim(meaning) = '' or trim(remedy) = ''").fetchall()

    assert empty == []


@pytest.mark.parametrize("status", range(400, 600))
def test_an_error_status_is_coded_and_followed_up_as_the_catalogue_says(status: int, rows: list[Row]) -> None:
    failure = Failure("status", "it said no", status=status)
    row = _row_of(rows, "REMOTE_FUNCTION_HTTP_FAILED_ERROR", failure, status)

    assert (row.is_retried, row.falls_back) == _follow_up(failure)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
def test_a_status_that_was_tried_again_has_a_row_of_its_own(status: int, rows: list[Row]) -> None:
    failure = Failure("status", "it said no", status=status)

    assert _told(failure, attempts=2).condition == "REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT"
    assert _row_of(rows, "REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT", failure, status).is_retried


@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind != "status"])
def test_a_failure_without_a_status_is_coded_and_followed_up_as_the_catalogue_says(kind: Kind, rows: list[Row]) -> None:
    failure = Failure(kind, "it went wrong")
    told = _told(failure, attempts=1)
    row = _row_of(rows, told.condition, failure, told.status)

    assert (row.is_retried, row.falls_back) == _follow_up(failure)


def test_every_code_in_the_package_is_in_the_catalogue(rows: list[Row]) -> None:
    listed = {text for row in rows for text in (row.condition, row.error_code)}

    unlisted = {(module, word) for module, word in _words() if word not in listed | _OTHER_WORDS}
    assert unlisted == set(), "add a row to sql/objects/017-error-codes.sql"


def test_the_catalogue_has_no_code_that_nothing_raises(rows: list[Row]) -> None:
    raised = {word for _, word in _words()} | _PUT_TOGETHER

    assert {text for row in rows for text in (row.condition, row.error_code) if text} - raised == set()


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_a_failed_call_joins_its_row_of_the_catalogue(con: Con, add_endpoint: AddEndpoint, status: int) -> None:
    with MockModel(lambda _: Reply(status, {"error": {"message": "no"}})) as server:
        add_endpoint(con, base_url=server.url, max_retries=0)
        told = con.execute("select ai_query('chat', 'Hello', failOnError => false).errorMessage").fetchall()[0][0]

    found = con.execute("""
        select condition
        from fleming.serving.inference
        join fleming.error_codes using (error_code, status_code)
    """).fetchall()
    assert any(told.startswith(f"[{condition}] ") for (condition,) in found)


def _row_of(rows: list[Row], condition: str, failure: Failure, status: int) -> Row:
    """Return the row of a failure: with its status, else the one for all others of its code."""
    matching = [
        row
        for row in rows
        if row.origin == "provider" and (row.condition, row.error_code) == (condition, code_of(failure))
    ]
    exact = [row for row in matching if row.status_code == status]
    (row,) = exact or [row for row in matching if row.status_code is None]
    return row


def _follow_up(failure: Failure) -> tuple[bool, bool]:
    """Return whether the same entity may be asked again, and whether others are."""
    endpoint: Any = SimpleNamespace(fallback_on=(), retry_on_timeout=False)
    verdict = judge(failure, endpoint)
    return verdict == "again", verdict != "final"


def _told(failure: Failure, attempts: int) -> fleming_sql.errors.CallError:
    entity: Any = SimpleNamespace(endpoint="chat", name="one", credential=None)
    return to_call_error(failure, entity, "some-id", attempts)


@cache
def _words() -> frozenset[tuple[str, str]]:
    """Return the texts in the package that look like a condition or a code, each with its module."""
    return frozenset(
        (name, word)
        for path in PACKAGE.rglob("*.py")
        for name in [".".join(("fleming_sql", *path.relative_to(PACKAGE).with_suffix("").parts))]
        for word in _words_in(name, path.read_text("utf-8"))
    )


def _words_in(module: str, source: str) -> Iterator[str]:
    if module.startswith("fleming_sql.testing") or not _FAILING.search(source):
        return
    for node in ast.walk(ast.parse(source)):
        text = None
        if isinstance(node, ast.Constant):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = _evaluated(node, module)
        if isinstance(text, str):
            if _SHAPE.fullmatch(text):
                yield text
            elif found := _IN_BRACKETS.match(text):
                yield found[1]


def _evaluated(node: ast.JoinedStr, module: str) -> str | None:
    """Return a text that is put together from the constants of its module, None for any other."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    known = vars(import_module(module)) if names else {}
    if not names <= known.keys():
        return None
    return str(eval(compile(ast.Expression(node), module, "eval"), dict(known)))  # noqa: S307  the package's own text
