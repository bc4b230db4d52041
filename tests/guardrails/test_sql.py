from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleming_sql.guardrails import BadConfig, Surroundings, make_guardrail
from fleming_sql.guardrails.base import PASS, Undecided, Verdict
from fleming_sql.guardrails.documents import Document, Part
from fleming_sql.guardrails.sql import SqlPolicy
from fleming_sql.guardrails.sql_check import check_sql
from fleming_sql.jsontext import dumps
from fleming_sql.types import SqlMacro


def _policy(expression: str | None = None, **config: Any) -> SqlPolicy:
    macros = config.pop("macros", {})
    if expression is not None:
        config["expression"] = expression
    made = make_guardrail("sql", "block", dumps(config), Surroundings(macros=macros))
    assert isinstance(made, SqlPolicy)
    return made


def _macros(**definitions: str) -> dict[str, SqlMacro]:
    return {name: SqlMacro(name, ("event",), definition) for name, definition in definitions.items()}


def _refusal(expression: str | None = None, **config: Any) -> str:
    with pytest.raises(BadConfig) as refused:
        _policy(expression, **config)
    return str(refused.value)


def _document(*texts: str) -> Document:
    return Document("input", tuple(Part(text, f"inputs[{n}]", "input") for n, text in enumerate(texts)))


def _read(results: Sequence[Any], *texts: str) -> Verdict:
    """Return what a policy comes to that has all reasons in these results as constants."""
    reasons = {str(result["reason"]) for result in results if isinstance(result, dict) and result.get("reason")}
    listed = ", ".join("'" + reason.replace("'", "''") + "'" for reason in sorted(reasons)) or "''"
    return _policy(f"list_contains([{listed}], event.message)::varchar").read(_document(*texts), results)


@pytest.mark.parametrize(
    "expression",
    [
        "case when event.type = 'request' then {'result': 'DENY', 'reason': 'no'} end",
        "if(event.context.actor.run_as = 'eve' or event.target not in ('chat'), 'DENY', 'ALLOW')",
        "if(list_has_any(event.context.actor.groups, ['a', 'b']) and len(event.message) > 2, 'ASK', 'ALLOW')",
        "{'result': 'MASK', 'message': regexp_replace(event.message, '[0-9]', '#', 'g')}",
        "json_object('result', coalesce(event.arguments ->> '$.do', 'ALLOW'))",
        "if(len(list_filter(['a', 'b'], lambda w: contains(event.message, w))) > 0, 'DENY', 'ALLOW')",
        "if(len([w for w in ['a', 'b'] if contains(event.message, w)]) > 0, 'DENY', 'ALLOW')",
        "if(try_cast(event.message as integer) between 1 and 3, 'DENY', 'ALLOW')",
        "if(now() < timestamp '2030-01-01', 'ALLOW', 'DENY')",
        "if(event.message[1:3] = 'abc' and event['role'] = 'user', 'DENY', 'ALLOW')",
        "if(event.message ^@ 'a' or event.message ~~* '%b%' or event.message !~~ 'c', 'DENY', 'ALLOW')",
        "struct_pack(result := 'DENY', reason := 'it''s \"so\"')",
        "to_json(event) ->> '$.type'",
        "EVENT.Message",
        "{'result': 'DENY', 'reason': {'a': {'b': 1}}::varchar}",
    ],
)
def test_an_expression_over_the_event_is_taken(expression: str) -> None:
    assert _policy(expression).expression == expression


def test_comments_are_left_out() -> None:
    assert _policy("if(event.message = '--x', -- what\n 'DENY', /* a /* b */ */ 'ALLOW')").expression == (
        "if(event.message = '--x',\n'DENY', 'ALLOW')"
    )


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("(select 'ALLOW')", "a subquery"),
        ("(from t)", "a subquery"),
        ("(values ('a'))", "a subquery"),
        ("exists(select 1)", "a subquery"),
        ("event.message in (select 'a')", "a subquery"),
        ("event.message = any(select 'a')", "a subquery"),
        ("array(select 1)", "a subquery"),
        ("(with a as (select 1) select * from a)", "a subquery"),
        ("'ALLOW'; drop table t", "second statement"),
        ("$1", "parameter"),
        ("?", "parameter"),
        (":name", "a parameter"),
        ("#1", "'#'"),
        ("$$ALLOW$$", "'$'"),
        ("e'ALLOW'", '"\'"'),
        ("U&'ALLOW'", "U"),
        ("x'41'", "the prefix x"),
        ("`event`", "'`'"),
        ("event.*", "a star"),
        ("*", "a star"),
        ("columns('x')", "columns()"),
        ("message", "'message', which is none of its names"),
        ("policy_events.message", "'policy_events'"),
        ("other.f(event)", "'other'"),
        ("sum(event.message::int) over ()", "sum()"),
        ("count(*)", "count()"),
        ("row_number() over ()", "row_number()"),
        ("lower(event.message) over ()", "a window function"),
        ("max(event.message)", "max(), which looks at several rows"),
        ("event.message.first()", "first()"),
        ("string_agg(event.message order by event.role)", "string_agg()"),
        ("unnest(['a', 'b'])", "unnest(), which returns several rows"),
        ("read_text('/etc/passwd')", "read_text()"),
        ("\"read_text\"('/etc/passwd')", "read_text()"),
        ("ReAd_CsV /* */ ('/etc/passwd')", "read_csv()"),
        ("glob('/*')", "glob()"),
        ("getenv('HOME')", "getenv()"),
        ("current_setting('secret_directory')", "current_setting()"),
        ("'x'.current_setting()", "current_setting()"),
        ("getvariable('x')", "getvariable()"),
        ("current_user", "current_user, which tells"),
        ("duckdb_secrets()", "duckdb_secrets()"),
        ("pg_sleep(10)", "pg_sleep()"),
        ("sleep_ms(1000)", "sleep_ms(), which writes, waits"),
        ("write_log('x')", "write_log()"),
        ("nextval('s')", "nextval()"),
        ("json_execute_serialized_sql('x')", "json_execute_serialized_sql()"),
        ("query('select 1')", "query()"),
        ("repeat('x', 3000000000)", "repeat(), which makes values of any size"),
        ("list_sum(range(100000000000))", "range()"),
        ("list_reduce(['a'], lambda x, y: x || x)", "list_reduce()"),
        ("lpad(event.message, 1000000000, 'x')", "lpad()"),
        ("attach 'x.db'", "cannot be read"),
        ("copy t to 'x'", "cannot be read"),
        ("set threads = 1", "cannot be read"),
        ("create table t (a int)", "cannot be read"),
        ("'ALLOW') from t --", "cannot be read"),
        ("'ALLOW'), (select 1", "cannot be read"),
        ("'ALLOW' as x", "cannot be read"),
        ("('ALLOW' as x)", "AS"),
        ("'a', 'b'", "cannot be read"),
        ("case when", "cannot be read"),
        ("'open", "cannot be read"),
        ("-- nothing", "cannot be read"),
        ("((lambda x: 1)", "cannot be read"),
        ("f((lambda x: 1", "a parenthesis"),
        ("event.message = \u2018a\u2019", "the sign"),
        ("'\0'", "sign"),
        ("(" * 3000 + "1" + ")" * 3000, "recursion"),
    ],
)
def test_what_a_policy_may_not_do_is_refused(expression: str, told: str) -> None:
    assert told in _refusal(expression)


def test_a_refusal_says_what_is_allowed() -> None:
    assert "one SQL expression" in _refusal("(select 1)")


@given(st.text(max_size=30))
def test_a_string_constant_stays_one_whatever_is_in_it(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    if "\0" in text:
        return
    checked = check_sql(f"contains(event.message, {quoted})", {"event"})
    assert checked.literals == {text}


@given(st.text(alphabet="'\"-/*;$()eEuU&\\ \n#a1.,", max_size=25))
def test_a_text_is_refused_or_read_the_same_again(text: str) -> None:
    try:
        checked = check_sql(text, {"event"})
    except BadConfig:
        return
    assert check_sql(checked.text, {"event"}) == checked


@pytest.mark.parametrize("config", [{}, {"expression": "'ALLOW'", "macro": "m"}])
def test_either_an_expression_or_a_macro_is_needed(config: dict[str, str]) -> None:
    assert "expression and macro" in _refusal(**config)


def test_other_keys_are_refused() -> None:
    assert "expression, macro" in _refusal("'ALLOW'", mode="x")


def test_an_expression_of_another_type_is_refused() -> None:
    with pytest.raises(BadConfig, match="expression"):
        make_guardrail("sql", "block", '{"expression": 1}', Surroundings())


def test_a_macro_is_called_with_the_event() -> None:
    assert _policy(macro="No_Secrets", macros=_macros(no_secrets="'ALLOW'")).expression == '"no_secrets"(event)'


def test_macros_come_after_those_that_they_use() -> None:
    macros = _macros(c="'ALLOW'", b="c(event)", a="if(b(event) = 'x', 'DENY', c(event))", unused="'ALLOW'")
    assert [macro.name for macro in _policy(macro="a", macros=macros).macros] == ["c", "b", "a"]


def test_an_expression_brings_its_macros_along() -> None:
    assert [macro.name for macro in _policy("A(event)", macros=_macros(a="'ALLOW'")).macros] == ["a"]


def test_a_macro_inside_a_macro_may_take_more() -> None:
    macros = {
        "has": SqlMacro("has", ("t", "w"), "contains(t, w)"),
        **_macros(p="if(has(event.message, 'a'), 'DENY', 'ALLOW')"),
    }
    assert [macro.name for macro in _policy(macro="p", macros=macros).macros] == ["has", "p"]


def test_a_macro_as_duckdb_writes_it_down_is_taken() -> None:
    definition = (
        'CASE  WHEN ((("event"."type" = \'request\') AND ("event".message !~~* \'%x%\'))) THEN '
        "(main.struct_pack(result := 'DENY', reason := main.list_transform(main.list_value('a'), "
        '(lambda w: contains("event".message, w)))::varchar)) ELSE NULL END'
    )
    [macro] = _policy(macro="p", macros=_macros(p=definition)).macros
    assert "list_transform(list_value('a'), lambda w: contains" in macro.definition


@pytest.mark.parametrize(
    ("macros", "told"),
    [
        (_macros(other="'ALLOW'"), "no macro 'p' in the store"),
        ({"p": SqlMacro("p", ("a", "b"), "a")}, "takes 2 parameters (a, b)"),
        ({"p": SqlMacro("p", (), "'ALLOW'")}, "takes 0 parameters"),
        (_macros(p="q(event)", q="p(event)"), "calls itself (p -> q -> p)"),
        (_macros(p="P(event)"), "calls itself"),
        (_macros(p="q(event)", q="(select max(reference) from credentials)"), "in the macro q"),
        (_macros(p="getenv('HOME')"), "in the macro p: a SQL policy may not have getenv()"),
        ({"p": SqlMacro("p", ("e",), "event.message")}, "'event', which is none of its names"),
    ],
)
def test_a_macro_that_cannot_work_is_refused(macros: dict[str, SqlMacro], told: str) -> None:
    assert told in _refusal(macro="p", macros=macros)


@pytest.mark.parametrize(
    "result", ["ALLOW", "allow", {"result": "ALLOW", "reason": ""}, {"Result": "Allow"}, '{"result": "ALLOW"}']
)
def test_allow_lets_pass(result: Any) -> None:
    assert _read([result], "text") == PASS


@pytest.mark.parametrize(
    "result", ["DENY", "deny", {"result": "DENY"}, {"result": "Deny", "reason": None}, '{"result":"DENY"}']
)
def test_deny_objects(result: Any) -> None:
    assert _read([result], "text").reason == "denied by the policy"


def test_a_denial_says_where_it_lies() -> None:
    [finding] = _read(["ALLOW", "DENY"], "a", "text").findings
    assert (finding.entity, finding.part, finding.start, finding.end) == ("DENY", 1, 0, 4)


def test_ask_objects_since_there_is_nobody_to_ask() -> None:
    assert _read([{"result": "ASK", "reason": "a transfer"}], "text").reason == "needs approval: a transfer"


@pytest.mark.parametrize("field", ["message", "text"])
def test_mask_puts_the_new_text_in_the_place_of_the_old(field: str) -> None:
    verdict = _read(["ALLOW", {"result": "MASK", field: "t***"}], "a", "text")
    assert (verdict.masks, verdict.texts, verdict.reason) == (True, ["a", "t***"], "masked by the policy")


def test_a_mask_that_changes_nothing_objects_to_nothing() -> None:
    assert _read([{"result": "MASK", "message": "text"}], "text") == PASS


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        (["ALLOW", {"result": "MASK", "message": "x"}, "ASK", "DENY"], "denied by the policy"),
        (["ALLOW", {"result": "MASK", "message": "x"}, "ASK", "ALLOW"], "needs approval"),
        (["ALLOW", {"result": "MASK", "message": "x"}, "ALLOW", "ALLOW"], "masked by the policy"),
        (["ALLOW", Undecided("failed"), "DENY", None], "denied by the policy"),
    ],
)
def test_the_strongest_wins(results: list[Any], reason: str) -> None:
    assert _read(results, "a", "b", "c", "d").reason == reason


@pytest.mark.parametrize(
    "result",
    [
        None,
        True,
        1,
        [],
        "MASK",
        "perhaps",
        "{",
        {},
        {"result": None},
        {"result": "MASK"},
        {"result": "MASK", "text": 1},
    ],
)
def test_anything_else_is_no_decision(result: Any) -> None:
    with pytest.raises(Undecided, match="a policy returns"):
        _read([result, "ALLOW"], "text", "b")


def test_an_unreadable_result_is_not_repeated() -> None:
    with pytest.raises(Undecided) as undecided:
        _read(["my secret"], "my secret")
    assert "secret" not in str(undecided.value).split(";")[0]


def test_a_failure_is_raised_where_nothing_is_denied() -> None:
    with pytest.raises(Undecided, match="its expression failed"):
        _read([{"result": "MASK", "message": "x"}, Undecided("its expression failed")], "text", "b")


def test_a_reason_that_stands_in_the_policy_is_told_whatever_the_text() -> None:
    policy = _policy("{'result': 'DENY', 'reason': 'no secret text'}")
    assert (
        policy.read(_document("my secret text"), [{"result": "DENY", "reason": "no secret text"}]).reason
        == "no secret text"
    )


def test_a_reason_that_stands_in_a_macro_is_told() -> None:
    policy = _policy(macro="p", macros=_macros(p="{'result': 'DENY', 'reason': 'no secret text'}"))
    assert (
        policy.read(_document("my secret text"), [{"result": "DENY", "reason": "no secret text"}]).reason
        == "no secret text"
    )


def test_a_macro_may_be_named_with_its_catalog() -> None:
    assert _policy(macro="fleming.p", macros=_macros(p="'ALLOW'")).expression == '"p"(event)'


def test_a_query_is_refused_with_what_to_leave_out() -> None:
    assert "may not have SELECT, which makes it a query and no expression" in _refusal("select 'ALLOW'")


@pytest.mark.parametrize("reason", ["found my secret text", "17 characters", "eltil"])
def test_a_reason_that_is_computed_is_not_told(reason: str) -> None:
    verdict = _policy("'ALLOW'").read(_document("my secret text"), [{"result": "DENY", "reason": reason}])
    assert verdict.reason == "denied by the policy"


def test_a_long_reason_is_shortened() -> None:
    reason = _read([{"result": "DENY", "reason": "no " * 200}], "text").reason
    assert reason is not None
    assert len(reason) == 200
