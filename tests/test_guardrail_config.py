"""Rows of the tables of guardrails: what is read of them, and what is told of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
from conftest import AddEndpoint, Con

import fleming_sql
from fleming_sql import guardrails
from fleming_sql.connection.config_checks import ConfigChecks
from fleming_sql.guardrails import pii
from fleming_sql.guardrails.judge import Judge
from fleming_sql.testing import MockModel, echo_chat
from fleming_sql.types import GuardrailRules, PiiEntity, Snapshot, SqlMacro

RIGHT = """
insert into fleming.endpoints (name, task) values
    ('chat', 'llm/v1/chat'), ('guard', 'llm/v1/chat'), ('vectors', 'llm/v1/embeddings');
insert into fleming.served_entities (endpoint, name, provider, model) values
    ('chat', 'one', 'simulated', 'm'), ('guard', 'one', 'simulated', 'm'), ('vectors', 'one', 'simulated', 'm');
insert into fleming.guardrails (endpoint, phase, rank, kind, behavior, config, on_error, name, timeout_ms) values
    ('chat', 'output', 1, 'judge', 'log', '{"endpoint": "guard", "prompt": "Is it rude?"}', 'allow', 'rude', 5000),
    ('chat', 'input', 1, 'length', 'block', '{"max_chars": 1000}', 'block', null, 30000),
    (null, 'input', 2, 'pii', 'mask', '{}', null, null, 30000),
    (null, 'input', 3, 'sql', 'block', '{"macro": "policy"}', null, null, 30000);
insert into fleming.pii_entities (name, pattern, validator, context_words) values
    ('EMPLOYEE_ID', 'E-\\d{5}', null, ['employee']), ('BONUS_CARD', '\\d{16}', 'luhn', []);
create macro fleming.main.policy(event) as if(contains(event.message, 'secret'), 'DENY', 'ALLOW');
"""
EVERYWHERE = ("chat", "guard", "vectors")
JUDGE = "kind = 'judge'"
LENGTH = "kind = 'length'"


class Wrong(NamedTuple):
    """A change that makes one row wrong, and what `config_problems` then says."""

    change: str
    row: str
    column: str | None
    problem: str
    remedy: str
    stops: tuple[str, ...] = ("chat",)
    table: str = "guardrails"


def judge(assignment: str, column: str, problem: str, remedy: str, stops: tuple[str, ...] = ("chat",)) -> Wrong:
    change = f"update fleming.guardrails set {assignment} where {JUDGE}"
    return Wrong(change, "chat/rude", column, problem, remedy, stops)


def config(value: str, problem: str, remedy: str) -> Wrong:
    return judge(f"config = '{value}'", "config", problem, remedy)


def entity(assignment: str, column: str, problem: str) -> Wrong:
    change = f"update fleming.pii_entities set {assignment} where name = 'EMPLOYEE_ID'"
    return Wrong(change, "EMPLOYEE_ID", column, problem, "", EVERYWHERE, "pii_entities")


KEYS = "write a JSON object with the keys"
WRONG = {
    "endpoint": Wrong(
        f"update fleming.guardrails set endpoint = 'ghost' where {JUDGE}",
        "ghost/rude",
        "endpoint",
        'the guardrail "rude" of endpoint "ghost" names an endpoint that does not exist',
        "insert it into fleming.endpoints, change the column endpoint, or set it to NULL for all endpoints",
        (),
    ),
    "kind": judge("kind = 'jury'", "kind", 'has the kind "jury", which does not exist', "one of: judge, keywords, "),
    "phase": judge("phase = 'during'", "phase", 'the phase "during", which does not exist', "one of: input, output"),
    "behavior": judge(
        "behavior = 'blok'", "behavior", 'the behavior "blok", which does not exist', "one of: block, mask, log, none"
    ),
    "behavior of another kind": Wrong(
        f"update fleming.guardrails set behavior = 'mask' where {LENGTH}",
        "chat/input-length-1",
        "behavior",
        'the behavior "mask", which the kind length does not have',
        "change the column behavior to one of: block, log, none",
    ),
    "on_error": judge(
        "on_error = 'ignore'",
        "on_error",
        'has "ignore" as on_error, which does not exist',
        "one of: block, allow; or to NULL",
    ),
    "timeout": judge("timeout_ms = 0", "timeout_ms", "the timeout_ms 0, which is not above 0", "1 or more, such as"),
    "timeout below 0": judge("timeout_ms = -1", "timeout_ms", "the timeout_ms -1, which is not", "1 or more, such as"),
    "endpoint to ask": config(
        '{"endpoint": "ghost", "prompt": "x"}',
        'asks the endpoint "ghost", which does not exist',
        "insert it into fleming.endpoints, or change endpoint in the column config",
    ),
    "task of the endpoint to ask": config(
        '{"endpoint": "vectors", "prompt": "x"}',
        'asks the endpoint "vectors", which is for the task llm/v1/embeddings',
        "change endpoint in the column config to one for: llm/v1/chat",
    ),
    "unknown key": config(
        '{"endpoint": "guard", "prompt": "x", "promt": "y"}',
        "the config of kind judge is wrong: Additional properties are not allowed ('promt' was unexpected)",
        KEYS,
    ),
    "missing key": config('{"endpoint": "guard"}', '"prompt" is a required property', KEYS),
    "wrong type": config('{"endpoint": "guard", "prompt": 5}', 'prompt: 5 is not of type "string"', KEYS),
    "name of another type": config('{"endpoint": 5, "prompt": "x"}', 'endpoint: 5 is not of type "string"', KEYS),
    "list": config("[]", '[] is not of type "object"', KEYS),
    "JSON null": config("null", 'null is not of type "object"', KEYS),
    "number": config("5", '5 is not of type "object"', KEYS),
    "text": config('"x"', '"x" is not of type "object"', KEYS),
    "JSON that only DuckDB takes": config(
        '{"endpoint": "guard", "prompt": "x",}', "the config is not valid JSON", "write a JSON object"
    ),
    "the same name twice": Wrong(
        "insert into fleming.guardrails (endpoint, name, kind, config) "
        "values ('chat', 'n', 'length', '{\"min_chars\": 1}'), ('chat', 'n', 'length', '{\"min_chars\": 2}')",
        "chat/n",
        "name",
        'endpoint "chat" has 2 guardrails called "n" in the phase input',
        "give each of them a name of its own in the column name, or delete all but one",
    ),
    "a name that all endpoints have": Wrong(
        "insert into fleming.guardrails (endpoint, name, kind, config) "
        "values ('guard', 'n', 'length', '{\"min_chars\": 1}'), (null, 'n', 'length', '{\"min_chars\": 2}')",
        "guard/n",
        "name",
        'endpoint "guard" has 2 guardrails called "n" in the phase input, those of all endpoints included',
        "give each of them a name of its own",
        ("guard",),
    ),
    "the same name for all endpoints": Wrong(
        "insert into fleming.guardrails (name, kind) values ('n', 'pii'), ('n', 'pii')",
        "*/n",
        "name",
        'all endpoints have 2 guardrails called "n" in the phase input',
        "give each of them a name of its own",
        EVERYWHERE,
    ),
    "for all endpoints": Wrong(
        "update fleming.guardrails set on_error = 'maybe' where kind = 'pii'",
        "*/input-pii-2",
        "on_error",
        'the guardrail "input-pii-2" of all endpoints has "maybe" as on_error',
        "change the column on_error",
        EVERYWHERE,
    ),
    "macro that is not there": Wrong(
        "drop macro fleming.main.policy",
        "*/input-sql-3",
        "config",
        "policy",
        "",
        EVERYWHERE,
    ),
    "pattern": entity("pattern = 'E-('", "pattern", 'the entity "EMPLOYEE_ID" of pii_entities: '),
    "empty context word": entity("context_words = ['']", "context_words", "is empty"),
    "validator": entity("validator = 'magic'", "validator", "magic"),
}


@pytest.fixture
def configured(con: Con) -> Con:
    """A gateway with guardrails of every shape, and nothing wrong."""
    con.execute(RIGHT)
    return con


def problems(con: Any) -> list[tuple[Any, ...]]:
    """Return each row of `config_problems` with all its columns."""
    rows: list[tuple[Any, ...]] = con.execute("from fleming.config_problems").fetchall()
    return rows


def snapshot(con: Con) -> Snapshot:
    return con._session._config.snapshot()


def rules(con: Con) -> GuardrailRules:
    return snapshot(con).guardrails


# what is wrong


def test_a_right_configuration_has_no_problem(configured: Con) -> None:
    assert problems(configured) == []


@pytest.mark.parametrize("case", WRONG)
def test_one_wrong_row_is_exactly_one_problem_with_its_place_and_remedy(configured: Con, case: str) -> None:
    wrong = WRONG[case]

    configured.execute(wrong.change)
    rows = problems(configured)

    assert [row[:3] for row in rows] == [(wrong.table, wrong.row, wrong.column)]
    [(_, _, _, problem, remedy, named)] = rows
    assert wrong.problem in problem
    assert wrong.remedy in remedy
    assert named == (None if wrong.row[0] == "*" or "/" not in wrong.row else wrong.row.split("/")[0])


@pytest.mark.parametrize("case", WRONG)
def test_a_problem_stops_the_endpoints_that_would_meet_it(configured: Con, case: str) -> None:
    configured.execute(WRONG[case].change)

    stopped = configured.execute("select endpoint from fleming.config_problem_endpoints").fetchall()

    assert stopped == [(endpoint,) for endpoint in WRONG[case].stops]


@pytest.mark.parametrize("case", [case for case, wrong in WRONG.items() if "chat" in wrong.stops])
def test_a_call_that_would_meet_a_wrong_row_fails_with_the_words_of_its_problem(configured: Con, case: str) -> None:
    configured.execute(WRONG[case].change)
    [(table, row, column, problem, remedy, _)] = problems(configured)

    with pytest.raises(duckdb.Error) as caught:
        configured.execute("select ai_query('chat', 'x')").fetchall()

    assert f"{problem}: {remedy} (table fleming.{table}, row {row}, column {column})" in str(caught.value)


def test_a_wrong_row_of_one_endpoint_leaves_the_others_alone(configured: Con) -> None:
    configured.execute(WRONG["kind"].change)

    assert snapshot(configured).endpoints["guard"].problems == ()


@pytest.mark.parametrize("off", ["enabled = false", "behavior = 'none'"])
def test_a_guardrail_that_is_switched_off_may_be_wrong(configured: Con, off: str) -> None:
    configured.execute(f"update fleming.guardrails set config = '[]', phase = '?', timeout_ms = 0, {off} where {JUDGE}")

    assert problems(configured) == []


def test_a_guardrail_that_is_switched_off_takes_no_name_away(configured: Con) -> None:
    configured.execute("insert into fleming.guardrails (rank, kind, enabled) values (2, 'pii', false)")

    assert problems(configured) == []


def test_one_name_may_be_that_of_an_input_and_an_output_guardrail(configured: Con) -> None:
    configured.execute("update fleming.guardrails set name = 'rude' where kind = 'length'")

    assert problems(configured) == []


def test_a_wrong_entity_stops_no_endpoint_without_a_guardrail_that_looks_for_it(configured: Con) -> None:
    configured.execute("update fleming.guardrails set endpoint = 'guard' where kind = 'pii'")
    configured.execute(WRONG["pattern"].change)

    assert configured.execute("select endpoint from fleming.config_problem_endpoints").fetchall() == [("guard",)]


def test_a_wrong_entity_that_a_guardrail_lists_is_told_once(configured: Con) -> None:
    configured.execute("""update fleming.guardrails set config = '{"entities": ["EMPLOYEE_ID"]}' where kind = 'pii'""")
    configured.execute(WRONG["pattern"].change)

    assert [row[:3] for row in problems(configured)] == [("pii_entities", "EMPLOYEE_ID", "pattern")]


@pytest.mark.parametrize("name", ["employee id", "EMAIL_ADDRESS", ""])
def test_an_entity_that_cannot_have_its_name_is_told_once(configured: Con, name: str) -> None:
    configured.execute("insert into fleming.pii_entities (name, pattern) values (?, 'x')", [name])

    assert [row[:3] for row in problems(configured)] == [("pii_entities", name, "name")]


def test_an_entity_that_is_switched_off_may_be_wrong(configured: Con) -> None:
    configured.execute("update fleming.pii_entities set pattern = '(', enabled = false")

    assert problems(configured) == []


def test_all_that_is_wrong_with_a_row_is_told(configured: Con) -> None:
    configured.execute(
        "update fleming.guardrails set phase = '?', on_error = '?', timeout_ms = 0, config = '[]' where kind = 'length'"
    )

    assert [row[2] for row in problems(configured)] == ["config", "on_error", "phase", "timeout_ms"]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, RecursionError, GeneratorExit])
def test_whatever_a_kind_raises_is_a_problem_of_the_row(
    configured: Con, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*given: Any) -> None:
        raise error("out of order")

    monkeypatch.setattr(Judge, "__init__", fail)

    [(_, row, column, problem, remedy, _)] = problems(configured)

    assert (row, column) == ("chat/rude", "config")
    assert error.__name__ in problem
    assert "out of order" in problem
    assert "enabled = false" in remedy


def test_a_kind_whose_module_cannot_be_loaded_is_a_problem_of_the_row(
    configured: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardrails, "KINDS", {**guardrails.KINDS, "judge": "fleming_sql.guardrails.missing:Judge"})

    [(_, row, column, problem, _, _)] = problems(configured)

    assert (row, column) == ("chat/rude", "config")
    assert "ModuleNotFoundError" in problem


@pytest.mark.parametrize(
    ("subject", "row", "surroundings"),
    [("ghost", "{}", "{}"), ("guardrail", "{}", "{}"), ("guardrail", "not JSON", None), ("pii_entity", "[]", "[]")],
)
def test_the_check_never_raises(subject: str, row: str, surroundings: str | None) -> None:
    assert "it cannot be checked" in (ConfigChecks().check(subject, row, surroundings) or "")


def test_a_value_of_any_length_is_told_in_short(configured: Con) -> None:
    words = "x" * 100_000
    configured.execute(
        f'update fleming.guardrails set config = \'{{"endpoint": ["{words}"], "prompt": "x"}}\' where {JUDGE}'
    )

    [(_, _, _, problem, _, _)] = problems(configured)

    assert len(problem) < 1200


# what is read


def test_the_guardrails_of_an_endpoint_are_its_own_and_those_of_all_in_their_order(configured: Con) -> None:
    read = rules(configured).by_endpoint

    assert {endpoint: [rule.name for rule in listed] for endpoint, listed in read.items()} == {
        "chat": ["input-length-1", "input-pii-2", "input-sql-3", "rude"],
        "guard": ["input-pii-2", "input-sql-3"],
        "vectors": ["input-pii-2", "input-sql-3"],
    }


def test_guardrails_of_one_rank_are_in_the_order_of_their_names(configured: Con) -> None:
    configured.execute("update fleming.guardrails set rank = 1")

    assert [rule.name for rule in rules(configured).by_endpoint["guard"]] == ["input-pii-1", "input-sql-1"]


def test_a_guardrail_is_read_with_all_its_columns(configured: Con) -> None:
    rule = rules(configured).by_endpoint["chat"][-1]

    assert (rule.phase, rule.rank, rule.kind, rule.behavior) == ("output", 1, "judge", "log")
    assert rule.config == '{"endpoint": "guard", "prompt": "Is it rude?"}'
    assert rule.timeout_s == 5.0


@pytest.mark.parametrize(
    ("on_error", "endpoint_says", "fails_open"),
    [
        ("null", False, False),
        ("null", True, True),
        ("'block'", True, False),
        ("'allow'", False, True),
    ],
)
def test_a_guardrail_fails_open_where_its_row_says_so_or_else_its_endpoint(
    configured: Con, on_error: str, endpoint_says: bool, fails_open: bool
) -> None:
    configured.execute(f"update fleming.guardrails set on_error = {on_error}")
    configured.execute("update fleming.endpoints set guardrails_fail_open = ?", [endpoint_says])

    assert {rule.fails_open for rule in rules(configured).by_endpoint["chat"]} == {fails_open}


def test_an_empty_name_is_none(configured: Con) -> None:
    configured.execute("update fleming.guardrails set name = '' where kind = 'judge'")

    assert rules(configured).by_endpoint["chat"][-1].name == "output-judge-1"


def test_a_row_that_cannot_be_held_is_left_out(configured: Con) -> None:
    configured.execute("update fleming.guardrails set phase = 'during' where kind = 'pii'")
    configured.execute("update fleming.guardrails set behavior = 'blok' where kind = 'sql'")
    configured.execute("update fleming.guardrails set timeout_ms = 0 where kind = 'length'")

    assert [rule.name for rule in rules(configured).by_endpoint["chat"]] == ["rude"]


def test_entities_are_read_for_the_guardrails_that_look_for_them(configured: Con) -> None:
    configured.execute("update fleming.pii_entities set context_words = ['staff', null] where name = 'EMPLOYEE_ID'")

    assert rules(configured).pii_entities == (
        PiiEntity("BONUS_CARD", r"\d{16}", "luhn"),
        PiiEntity("EMPLOYEE_ID", r"E-\d{5}", None, ("staff",)),
    )


def test_a_store_without_guardrails_reads_neither_entities_nor_macros(configured: Con) -> None:
    configured.execute("delete from fleming.guardrails")

    assert rules(configured) == GuardrailRules()


def test_macros_of_ones_own_are_read_and_those_of_the_package_are_not(configured: Con) -> None:
    configured.execute("create macro fleming.main.twice(a, b) as a || b")
    configured.execute("create macro fleming.main.__hidden(a) as a")
    configured.execute("create macro fleming.main.rows(a) as table select a")
    configured.execute("create macro fleming.main.several(a) as a, (a, b) as a + b")
    configured.execute("create macro elsewhere(a) as a")

    macros = rules(configured).macros

    assert list(macros) == ["policy", "twice"]
    assert macros["twice"] == SqlMacro("twice", ("a", "b"), "(a || b)")


def test_a_change_of_a_row_is_seen(configured: Con) -> None:
    before = rules(configured)
    configured.execute("update fleming.guardrails set rank = 9 where kind = 'pii'")
    between = rules(configured)
    configured.execute("update fleming.pii_entities set enabled = false")

    assert before.by_endpoint != between.by_endpoint
    assert rules(configured).pii_entities == ()


def test_a_changed_macro_is_seen_as_a_changed_row_is(configured: Con) -> None:
    snapshot(configured)
    configured.execute("create or replace macro fleming.main.policy(event) as 'DENY'")

    assert rules(configured).macros["policy"].definition == "'DENY'"


def test_the_configuration_is_the_same_while_no_macro_changes(configured: Con) -> None:
    assert snapshot(configured) is snapshot(configured)


def test_a_macro_that_was_missing_is_seen_once_it_is_there(configured: Con) -> None:
    configured.execute("drop macro fleming.main.policy")
    assert snapshot(configured).endpoints["chat"].problems

    configured.execute("create macro fleming.main.policy(event) as 'ALLOW'")

    assert not snapshot(configured).endpoints["chat"].problems


@pytest.mark.parametrize(("value", "read"), [("true", True), ("false", False), ("null", False)])
def test_log_original_is_read(configured: Con, value: str, read: bool) -> None:
    configured.execute(f"update fleming.endpoints set log_original = {value}")

    assert snapshot(configured).endpoints["chat"].log_original is read


def test_a_change_of_log_original_makes_a_new_version_of_the_endpoint(configured: Con) -> None:
    before = snapshot(configured).endpoints["chat"].version

    configured.execute("update fleming.endpoints set log_original = true")

    assert snapshot(configured).endpoints["chat"].version == before + 1


# what this version knows


def test_the_kinds_that_there_are_can_be_looked_up(con: Con) -> None:
    kinds = con.execute("select kind from fleming.guardrail_kinds order by kind").fetchall()

    assert kinds == [(kind,) for kind in sorted(guardrails.KINDS)]


def test_a_kind_says_what_its_endpoint_may_be_for(con: Con) -> None:
    asked = dict(con.execute("select kind, asks_tasks from fleming.guardrail_kinds").fetchall())

    assert asked["judge"] == ["llm/v1/chat"]
    assert asked["length"] == []


def test_the_tables_of_what_is_known_are_those_of_this_version_after_each_attach(tmp_path: Path) -> None:
    path = tmp_path / "w.fleming.duckdb"
    with fleming_sql.connect(gateway=path) as con:
        before = con.execute("from fleming.guardrail_kinds order by kind").fetchall()
        con.execute("update fleming.guardrail_kinds set description = 'of an older version' where kind = 'judge'")
        con.execute("delete from fleming.guardrail_kinds where kind = 'length'")
        con.execute("insert into fleming.built_in_pii_entities values ('GONE', 'x', null, [])")

    with fleming_sql.connect(gateway=path) as con:
        assert con.execute("from fleming.guardrail_kinds order by kind").fetchall() == before
        assert con.execute("select name from fleming.built_in_pii_entities order by name").fetchall() == sorted(
            (name,) for name, *_ in pii.built_in()
        )


def test_a_policy_with_a_function_that_does_not_exist_is_a_problem(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con)
    con.execute(
        "insert into fleming.guardrails (endpoint, kind, config) "
        "values ('chat', 'sql', '{\"expression\": \"no_such(event.message)\"}')"
    )

    [(problem,)] = con.execute("select problem from fleming.config_problems where table_name = 'guardrails'").fetchall()

    assert "DuckDB does not take the policy" in problem
    assert "no_such" in problem


@pytest.mark.parametrize("expression", ["event.message like '%x%'", "1", "[event.message]"])
def test_a_policy_that_returns_no_verdict_is_a_problem(con: Con, add_endpoint: AddEndpoint, expression: str) -> None:
    add_endpoint(con)
    con.execute(
        "insert into fleming.guardrails (endpoint, kind, config) values ('chat', 'sql', ?)",
        [json.dumps({"expression": expression})],
    )

    [(problem,)] = con.execute("select problem from fleming.config_problems where table_name = 'guardrails'").fetchall()

    assert "which is no verdict" in problem


def test_a_policy_is_right_once_its_macro_is_there(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(echo_chat) as model:
        add_endpoint(con, base_url=model.url)
        con.execute(
            "insert into fleming.guardrails (endpoint, kind, config) values ('chat', 'sql', '{\"macro\": \"policy\"}')"
        )
        with pytest.raises(duckdb.Error, match="CONFIG_PROBLEM"):
            con.execute("select ai_query('chat', 'hello')").fetchall()

        con.execute("create macro fleming.policy(event) as 'ALLOW'")

        assert con.execute("select ai_query('chat', 'hello')").fetchall() == [("echo: hello",)]
