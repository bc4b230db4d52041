from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from fleming_sql.jsontext import loads
from fleming_sql.store.policy_sandbox import BrokenOff, ExpressionFailed, PolicySandbox
from fleming_sql.types import PolicyEvent, SqlMacro

_ENDLESS = (
    "list_sum(list_transform(range(4000), lambda x: list_sum(list_transform(range(4000), lambda y: x * y))))"
    " + length(event.message)"
)


def _event(message: str, user: str = "ada", arguments: str | None = None) -> PolicyEvent:
    return PolicyEvent("request", "chat", user, message, arguments, "user", "messages[0].content", ["staff"])


@pytest.fixture
def sandbox() -> Iterator[PolicySandbox]:
    sandbox = PolicySandbox()
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event.type", "request"),
        ("event.target", "chat"),
        ("event.actor", "ada"),
        ("event.message", "Hello"),
        ("event.arguments", '{"a": 1}'),
        ("event.arguments ->> '$.a'", "1"),
        ("event.role", "user"),
        ("event.path", "messages[0].content"),
        ("event.context.actor.run_as", "ada"),
        ("event.context.actor.groups", ["staff"]),
        ("event.context.actor.context.is_on_behalf_of", False),
        ("event.context.actor.context.is_actor_authenticated", False),
        ("event.context.message", "Hello"),
        ("event.context.tool.arguments", '{"a": 1}'),
        ("json_object('result', 'DENY')", {"result": "DENY"}),
        ("{'result': 'MASK', 'message': upper(event.message)}", {"result": "MASK", "message": "HELLO"}),
    ],
)
def test_a_policy_reads_the_fields_of_the_event(sandbox: PolicySandbox, field: str, value: object) -> None:
    [result] = sandbox.evaluate(field, (), [_event("Hello", arguments='{"a": 1}')])
    assert isinstance(result, str)
    assert loads(result) == value


@pytest.mark.parametrize(
    "field", ["event.arguments", "event.context.tool.name", "event.context.actor.context.client_id", "null"]
)
def test_what_is_not_known_is_null(sandbox: PolicySandbox, field: str) -> None:
    assert sandbox.evaluate(field, (), [_event("Hello")]) == [None]


@pytest.mark.parametrize("count", [0, 1, 2048, 5000])
def test_every_event_gets_its_own_result_in_order(sandbox: PolicySandbox, count: int) -> None:
    assert sandbox.evaluate("event.message", (), [_event(str(n)) for n in range(count)]) == [
        f'"{n}"' for n in range(count)
    ]


def test_texts_of_any_characters_arrive_as_they_are(sandbox: PolicySandbox) -> None:
    text = "a\0b'\"\\ \n\U0001f600 日本"
    [result] = sandbox.evaluate("event.message", (), [_event(text)])
    assert loads(str(result)) == text


def test_macros_are_called(sandbox: PolicySandbox) -> None:
    macros = (
        SqlMacro("has", ("t", "w"), "contains(t, w)"),
        SqlMacro("no secrets", ("e",), "if(has(e.message, 'secret'), 'DENY', 'ALLOW')"),
    )
    events = [_event("a secret"), _event("a")]
    assert sandbox.evaluate('"no secrets"(event)', macros, events) == ['"DENY"', '"ALLOW"']


def test_macros_of_the_same_name_do_not_meet(sandbox: PolicySandbox) -> None:
    for word in ("one", "two", "one"):
        assert sandbox.evaluate("m(event)", (SqlMacro("m", ("e",), f"'{word}'"),), [_event("")]) == [f'"{word}"']


def test_more_policies_than_stay_prepared_all_work(sandbox: PolicySandbox) -> None:
    for number in [*range(70), 0]:
        assert sandbox.evaluate(str(number), (), [_event("")]) == [str(number)]


@pytest.mark.parametrize("count", [1, 2, 2048])
def test_an_error_on_one_event_leaves_the_others_alone(sandbox: PolicySandbox, count: int) -> None:
    events = [*[_event(str(n)) for n in range(count - 1)], _event("a secret")]
    *right, wrong = sandbox.evaluate("event.message::integer", (), events)
    assert right == [str(n) for n in range(count - 1)]
    assert isinstance(wrong, ExpressionFailed)


def test_an_error_does_not_quote_the_event(sandbox: PolicySandbox) -> None:
    assert str(sandbox.evaluate("event.message::integer", (), [_event("secret")])[0]) == "conversion error"


def test_a_null_beside_an_error_stays_null(sandbox: PolicySandbox) -> None:
    events = [_event("a"), _event("1"), _event("")]
    assert sandbox.evaluate("nullif(event.message, '')::integer", (), events)[1:] == ["1", None]


def test_an_error_of_a_volatile_expression_leaves_the_others_alone(sandbox: PolicySandbox) -> None:
    events = [_event(str(n)) for n in range(100)]
    events[57] = _event("secret")
    results = sandbox.evaluate("if(random() < 2, event.message::integer, 1)", (), events)
    assert [n for n, result in enumerate(results) if isinstance(result, Exception)] == [57]


def test_a_text_that_is_not_unicode_leaves_the_others_alone(sandbox: PolicySandbox) -> None:
    first, second = sandbox.evaluate("event.message", (), [_event("\ud800"), _event("b")])
    assert (str(first), second) == ("the text is not valid Unicode", '"b"')


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("event.mesage", "mesage"),
        ("no_such_function(event.message)", "no_such_function"),
        ("event.message + ", "yntax"),
    ],
)
def test_what_cannot_be_bound_is_told_with_duckdbs_words(sandbox: PolicySandbox, expression: str, told: str) -> None:
    with pytest.raises(ExpressionFailed, match=told):
        sandbox.check(expression, ())
    [result] = sandbox.evaluate(expression, (), [_event("a")])
    assert told in str(result)


def test_a_check_passes_what_works(sandbox: PolicySandbox) -> None:
    sandbox.check("m(event)", (SqlMacro("m", ("e",), "e.message"),))


@pytest.mark.parametrize("expression", ["count(*)", "max(event.message)", "unnest([event.message, 'b'])"])
def test_another_number_of_results_than_events_is_no_result(sandbox: PolicySandbox, expression: str) -> None:
    results = sandbox.evaluate(expression, (), [_event("a"), _event("b"), _event("c")])
    assert all(isinstance(result, ExpressionFailed) for result in results)


@pytest.mark.parametrize(
    "expression",
    [
        "(select content from read_text('{file}'))",
        "(select count(*) from read_csv('{file}'))",
        "(select count(*) from read_blob('{file}'))",
        "(select count(*) from glob('{folder}/*'))",
        "(select count(*) from '{file}')",
        "(select count(*) from '{folder}/x.parquet')",
        "getenv('HOME')",
        "(select count(*) from query('copy (select 1) to ''{file}'''))",
        "(select count(*) from events)",
    ],
)
def test_the_instance_itself_reads_nothing(sandbox: PolicySandbox, tmp_path: Path, expression: str) -> None:
    (tmp_path / "a.txt").write_text("secret")
    text = expression.format(file=tmp_path / "a.txt", folder=tmp_path)
    [result] = sandbox.evaluate(text, (), [_event("a")])
    assert isinstance(result, ExpressionFailed)


@pytest.mark.parametrize(
    "statement",
    [
        "copy (select 1) to '{folder}/b.csv'",
        "attach '{folder}/b.db'",
        "export database '{folder}/b'",
        "install httpfs",
        "load httpfs",
        "set threads = 4",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "reset memory_limit",
        "pragma threads = 4",
    ],
)
def test_the_instance_itself_writes_and_changes_nothing(sandbox: PolicySandbox, tmp_path: Path, statement: str) -> None:
    with pytest.raises(duckdb.Error):
        sandbox._cursor().execute(statement.format(folder=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "value"),
    [("enable_external_access", "False"), ("lock_configuration", "True"), ("temp_directory", ""), ("threads", "1")],
)
def test_the_instance_is_locked_down(sandbox: PolicySandbox, setting: str, value: str) -> None:
    [row] = sandbox._cursor().execute(f"select current_setting('{setting}')").fetchall()
    assert str(row[0]) == value


def test_no_variable_of_the_process_is_read_as_a_table(sandbox: PolicySandbox) -> None:
    with pytest.raises(duckdb.Error, match="sandbox"):
        sandbox._cursor().execute("select * from sandbox")


def _interrupt_until(ended: threading.Event, sandbox: PolicySandbox) -> None:
    while not ended.wait(0.01):
        sandbox.interrupt()


def test_an_endless_query_is_broken_off_and_the_sandbox_works_on(sandbox: PolicySandbox) -> None:
    ended = threading.Event()
    nagging = threading.Thread(target=_interrupt_until, args=(ended, sandbox))
    nagging.start()
    with pytest.raises(BrokenOff):
        sandbox.evaluate(_ENDLESS, (), [_event(str(n)) for n in range(2048)])
    ended.set()
    nagging.join()
    assert sandbox.evaluate("event.message", (), [_event("a")]) == ['"a"']


def test_a_list_beyond_all_memory_fails_and_the_sandbox_works_on(sandbox: PolicySandbox) -> None:
    [result] = sandbox.evaluate("list_sum(range(100000000000 + length(event.message)))", (), [_event("a")])
    assert isinstance(result, ExpressionFailed)
    assert sandbox.evaluate("event.message", (), [_event("a")]) == ['"a"']


def test_a_closed_sandbox_opens_again(sandbox: PolicySandbox) -> None:
    sandbox.evaluate("event.message", (), [_event("a")])
    sandbox.close()
    assert sandbox.evaluate("event.message", (), [_event("a")]) == ['"a"']


def test_no_text_stays_behind(sandbox: PolicySandbox) -> None:
    sandbox.evaluate("event.message", (), [_event("secret")])
    assert sandbox._events.table.num_rows == 0
