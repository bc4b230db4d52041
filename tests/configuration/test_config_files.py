"""Configuration files: what is exported, that it comes back, and what becomes of files that are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from random import Random
from typing import Any

import duckdb
import pytest

import fleming_sql
from fleming_sql import Connection
from fleming_sql.configuration import (
    Column,
    ConfigFileError,
    ConfigStore,
    FileFormat,
    Schema,
    compare,
    read_schema,
)
from fleming_sql.configuration.rows import Row, spelled
from fleming_sql.configuration.sql_file import read_sql, write_sql
from fleming_sql.configuration.yaml_file import read_yaml, write_yaml
from fleming_sql.store.config import _TABLES

RICH = """
insert into fleming.endpoints (name, default_parameters, fallback_on, cache_ttl_seconds, description)
values
    ('chat', '{"temperature": 0, "stop": ["no", "on"]}', ['content_policy'], null, 'One' || chr(10) || '# no comment'),
    ('null', '{}', [], 86400, 'true'),
    ('ü 🙂: -', '{}', [], 86400, ' 1.10 ');
insert into fleming.served_entities (endpoint, name, provider, model, traffic_percentage, provider_config, credential)
values
    ('chat', 'a', 'simulated', '4', 60, '{}', null),
    ('chat', 'b', 'simulated', '2026-01-31', 40, '{}', 'team/key'),
    ('ü 🙂: -', 'a', 'simulated', 'no', 100, '{}', null);
insert into fleming.credentials (name, source, reference)
values
    ('team/key', 'env', 'TEAM_KEY'),
    ('command', 'command', 'pass show "team key"');
insert into fleming.principals (name, type) values ('ada', 'user'), ('staff', 'group');
insert into fleming.group_members values ('staff', 'ada');
insert into fleming.permissions (endpoint, principal_type, principal) values ('chat', 'group', 'staff');
insert into fleming.rate_limits (endpoint, calls, tokens) values ('chat', 600, null), ('chat', null, 9000);
insert into fleming.guardrails (endpoint, kind, behavior, config) values ('chat', 'pii', 'mask', '{"restore": true}');
insert into fleming.pii_entities (name, pattern, context_words) values ('EMPLOYEE_ID', 'E[0-9]{6}', ['employee*']);
insert into fleming.budgets (amount_usd, "window") values (0.1, 'day');
insert into fleming.alerts (name, query, threshold, every) values ('slow', 'select 1', 1e-7, interval '90 seconds');
insert into fleming.model_prices (provider, model, input_per_million, output_per_million, valid_from)
values ('openai', 'mine', 1, 2, '2026-01-31 12:00:00.5');
insert into fleming.entity_prices (endpoint, served_entity, per_second) values ('chat', 'a', 0.001);
insert into fleming.settings values ('retention_days', '30');
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Connection, ConfigStore]]:
    with fleming_sql.connect() as con:
        config = ConfigStore(con.duckdb)
        yield con, config
        config.close()


@pytest.fixture
def con(shared: tuple[Connection, ConfigStore]) -> Iterator[Connection]:
    """A store without a row of configuration; one for all tests, since to open one takes longer than most of them."""
    con, config = shared
    yield con
    for table in config.schema.tables.values():
        con.execute(f"delete from fleming.{table.name} where {table.where}")


@pytest.fixture
def config(con: Connection, shared: tuple[Connection, ConfigStore]) -> ConfigStore:
    return shared[1]


@pytest.fixture(scope="module")
def schema(shared: tuple[Connection, ConfigStore]) -> Schema:
    return shared[1].schema


def apply(config: ConfigStore, text: str, form: FileFormat = "yaml", *, prune: bool = False) -> dict[str, Any]:
    plan = config.plan(text, f"gateway.{form}", form, prune=prune)
    config.apply(plan, force=True)
    return plan.as_json()


def names(con: Connection, table: str) -> list[str]:
    return [row[0] for row in con.execute(f"select name from fleming.{table} order by name").fetchall()]


def refusal(config: ConfigStore, text: str, form: FileFormat = "yaml") -> str:
    with pytest.raises(ConfigFileError) as refused:
        config.plan(text, f"gateway.{form}", form)
    return str(refused.value)


def test_every_table_that_the_gateway_reads_as_configuration_is_exported(schema: Schema) -> None:
    assert set(schema.tables) == set(_TABLES)


@pytest.mark.parametrize("form", ["yaml", "sql"])
def test_applying_an_export_changes_nothing(con: Connection, config: ConfigStore, form: FileFormat) -> None:
    con.execute(RICH)

    assert config.plan(config.export(form), "gateway", form).diff.is_empty


@pytest.mark.parametrize("form", ["yaml", "sql"])
def test_an_export_makes_another_store_the_same(con: Connection, config: ConfigStore, form: FileFormat) -> None:
    con.execute(RICH)
    with fleming_sql.connect() as other, closing(ConfigStore(other.duckdb)) as copy:
        copy.apply(copy.plan(config.export(form), "gateway", form), force=True)

        assert copy.export("yaml") == config.export("yaml")
        assert copy.plan(config.export("sql"), "gateway", "sql").diff.is_empty


def test_exported_statements_may_be_run_by_hand_and_again(con: Connection, config: ConfigStore) -> None:
    con.execute(RICH)
    exported = config.export("sql")

    con.execute(exported)
    con.execute(exported)

    assert config.export("sql") == exported


def test_an_export_holds_only_what_is_not_at_its_default(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name, max_retries) values ('chat', 1)")
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('chat', 'a', 'simulated')")

    assert config.export("yaml").partition("\n\n")[2] == (
        "endpoints:\n"
        "  - name: chat\n"
        "    max_retries: 1\n"
        "    served_entities:\n"
        "      - name: a\n"
        "        provider: simulated\n"
    )


def test_rows_of_the_price_list_are_not_exported(con: Connection, config: ConfigStore) -> None:
    assert con.execute("select count(*) from fleming.model_prices").fetchall()[0][0] > 100
    assert "model_prices" not in config.export("yaml")


def test_a_secret_in_a_table_is_not_exported(con: Connection, config: ConfigStore) -> None:
    key = "sk-" + "a1B2" * 8
    con.execute("insert into fleming.endpoints (name) values ('chat')")
    con.execute(
        "insert into fleming.served_entities (endpoint, name, provider, parameters) values ('chat', 'a', 'openai', ?)",
        [json.dumps({"headers": {"authorization": key}})],
    )

    with pytest.raises(ConfigFileError, match='row "chat/a", column parameters') as refused:
        config.export("yaml")
    assert key not in str(refused.value)


def test_a_row_in_the_file_becomes_as_it_stands_there(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name, max_retries, timeout_ms) values ('chat', 1, 5000)")

    done = apply(config, "endpoints:\n  - name: chat\n    timeout_ms: 6000\n")

    assert done["tables"]["endpoints"]["changed"] == [
        {"row": "chat", "columns": {"timeout_ms": {"old": 5000, "new": 6000}, "max_retries": {"old": 1, "new": 4}}}
    ]
    assert con.execute("select max_retries, timeout_ms from fleming.endpoints").fetchall() == [(4, 6000)]


def test_rows_and_tables_that_are_not_in_the_file_stay(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name) values ('old')")
    con.execute("insert into fleming.settings values ('retention_days', '30')")

    apply(config, "endpoints:\n  - name: new\n")

    assert names(con, "endpoints") == ["new", "old"]
    assert names(con, "settings") == ["retention_days"]


def test_prune_removes_what_the_tables_of_the_file_do_not_have(con: Connection, config: ConfigStore) -> None:
    con.execute(RICH)

    done = apply(config, "budgets: []\npermissions: []\n", prune=True)

    assert (done["added"], done["changed"], done["removed"]) == (0, 0, 2)
    assert names(con, "endpoints") == ["chat", "null", "ü 🙂: -"]


def test_an_endpoint_that_is_pruned_takes_its_entities_with_it(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name) values ('old'), ('kept')")
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('old', 'a', 'simulated')")
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('kept', 'b', 'simulated')")

    apply(config, "endpoints:\n  - name: kept\n", prune=True)

    assert names(con, "endpoints") == ["kept"]
    assert names(con, "served_entities") == ["b"]


def test_a_changed_limit_is_a_change_and_not_a_second_limit(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name) values ('chat')")
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('chat', 'a', 'simulated')")
    con.execute("insert into fleming.rate_limits (endpoint, calls) values ('chat', 5)")

    done = apply(config, "rate_limits:\n  - {endpoint: chat, calls: 6}\n  - {endpoint: chat, tokens: 70}\n")

    assert (done["added"], done["changed"]) == (1, 1)
    assert con.execute("select calls, tokens from fleming.rate_limits order by all").fetchall() == [
        (6, None),
        (None, 70),
    ]


def test_times_and_intervals_may_be_written_as_duckdb_takes_them(con: Connection, config: ConfigStore) -> None:
    text = (
        "alerts:\n  - {name: slow, query: select 1, threshold: 1, every: 5 minutes}\n"
        "model_prices:\n  - {provider: openai, model: mine, valid_from: 2026-01-31, input_per_million: 1e-3}\n"
    )

    apply(config, text)

    assert config.plan(text, "again", "yaml").diff.is_empty
    prices = con.execute("select valid_from, input_per_million from fleming.model_prices where source = 'user'")
    assert prices.fetchall() == [(datetime(2026, 1, 31), 0.001)]


def test_texts_need_no_quotes_whatever_they_look_like(con: Connection, config: ConfigStore) -> None:
    apply(config, "endpoints:\n  - name: no\n    description: 1.10\nsettings:\n  - {name: retention_days, value: 30}\n")

    assert con.execute("select name, description from fleming.endpoints").fetchall() == [("no", "1.10")]
    assert con.execute("select value from fleming.settings").fetchall() == [("30",)]


def test_json_is_compared_by_what_it_says(con: Connection, config: ConfigStore) -> None:
    con.execute("""insert into fleming.endpoints (name, tags) values ('chat', '{ "b": 1,  "a": [2] }')""")

    assert config.plan("endpoints:\n  - {name: chat, tags: {a: [2], b: 1}}\n", "gateway", "yaml").diff.is_empty


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("endpoint:\n  - name: a\n", 'gateway.yaml:1: there is no table "endpoint" in the configuration; did you mean'),
        ("endpoints:\n  - name: a\n    max_retry: 1\n", 'gateway.yaml:3: table endpoints, row "a": there is no column'),
        ("endpoints:\n  - name: a\n    max_retry: 1\n", "did you mean max_retries"),
        ("endpoints:\n  - name: a\n    enabled: maybe\n", "gateway.yaml:3: .* column enabled: .* true or false"),
        ("endpoints:\n  - name: a\n    max_retries: many\n", '"many" is of the wrong type: .* a whole number'),
        ("endpoints:\n  - name: a\n    timeout_ms: 99999999999\n", "up to 2147483647"),
        ("endpoints:\n  - name: a\n    default_parameters: [1\n", "gateway.yaml:[34]: this is not YAML"),
        (
            "endpoints:\n  - name: a\n    default_parameters: hot\n",
            "column default_parameters: the column takes an object",
        ),
        (
            "endpoints:\n  - name: a\n    max_concurrency: 0\n",
            "gateway.yaml:2: .*column max_concurrency: it is not within",
        ),
        ("endpoints:\n  - name: a\n    task: talk\n", "column task: it is not within .*llm/v1/chat"),
        ("endpoints:\n  - name: a\n  - name: a\n", 'gateway.yaml:3: .*"a" is there twice, first at gateway.yaml:2'),
        ("endpoints:\n  - name: a\n    name: b\n", 'gateway.yaml:3: .* has "name" twice'),
        ("endpoints:\n  - description: a\n", "gateway.yaml:2: table endpoints: the row needs name"),
        ("endpoints:\n  - name: a\n    task: null\n", "column task: it must not be empty"),
        ("endpoints: {a: 1}\n", "takes a list of rows"),
        ("permissions:\n", r"gateway.yaml:\d: the list of table permissions has nothing in it: write \[\] for no rows"),
        ("endpoints:\n  - name: a\n    served_entities: null\n", "gateway.yaml:3: .*write \\[\\] for no rows"),
        ("endpoints: [{name: a}, {name: a}]\n", "is there twice"),
        ("endpoints:\n  - a\n", "a row of table endpoints is columns and values"),
        ("- endpoints\n", "the file holds lists of rows by table"),
        ("a: &a [*a]\n", "there is no table"),
        ("endpoints:\n  - name: a\n    tags: {a: &a [*a]}\n", "nested too deep"),
        ("endpoints:\n  - name: a\n---\nendpoints:\n", "this is not YAML: .*single document"),
        ("endpoints: \x01\n", "this is not YAML"),
        (
            "endpoints:\n  - name: a\n    served_entities:\n      - {endpoint: b, name: x, provider: simulated}\n",
            "gateway.yaml:4: .* endpoint follows from where the row stands",
        ),
        ("alerts:\n  - {name: a, query: select 1, threshold: 1, every: often}\n", "column every: .* such as 5 minutes"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(con: Connection, config: ConfigStore, text: str, told: str) -> None:
    with pytest.raises(ConfigFileError, match=told):
        config.plan(text, "gateway.yaml", "yaml")
    assert names(con, "endpoints") == []


def test_all_faults_of_a_file_are_told_at_once(config: ConfigStore) -> None:
    told = refusal(config, "endpoints:\n  - name: a\n    enabled: x\n  - nam: b\nmodels: []\n")

    assert [line.partition(": ")[0] for line in told.splitlines()] == [
        "gateway.yaml:3",
        "gateway.yaml:4",
        "gateway.yaml:5",
    ]


def test_a_row_that_is_there_twice_is_told_though_it_is_wrong_in_other_ways(config: ConfigStore) -> None:
    told = refusal(config, "endpoints:\n  - name: a\n    enabled: x\n  - name: a\n")

    assert "gateway.yaml:3: " in told
    assert 'gateway.yaml:4: table endpoints, row "a" is there twice, first at gateway.yaml:2' in told


KEY = "sk-proj-" + "a1B2" * 8


@pytest.mark.parametrize(
    "text",
    [
        f"credentials:\n  - {{name: openai, value: {KEY}}}\n",
        f"credentials:\n  - {{name: openai, reference: {KEY}}}\n",
        "credentials:\n  - {name: openai, reference: hunter2-hunter2}\n",
        f"endpoints:\n  - name: a\n    description: {KEY}\n",
        f"endpoints:\n  - name: a\n    default_parameters: {{user: [{KEY}]}}\n",
        f"endpoints:\n  - name: a\n    max_retries: {KEY}\n",
        f"endpoints:\n  - name: a\n    {KEY}: 1\n",
        "served_entities:\n  - {endpoint: a, name: a, provider: o, provider_config: {x_api_key: hunter2}}\n",
        "endpoints:\n  - name: a\n    served_entities:\n      - {name: a, provider: o, base_url: 'http://u:p@host/v1'}\n",
    ],
)
def test_a_secret_in_a_file_is_refused_and_not_repeated(config: ConfigStore, text: str) -> None:
    told = refusal(config, text)

    assert "gateway.yaml:" in told
    assert KEY not in told
    assert "hunter2" not in told


def test_a_reference_to_a_secret_is_no_secret(config: ConfigStore) -> None:
    text = (
        "endpoints:\n  - name: a\n    served_entities:\n      - name: a\n        provider: openai\n"
        "        provider_config: {openai_api_key: '{{secrets/team/openai}}'}\n"
    )

    assert config.plan(text, "gateway.yaml", "yaml").diff.count() == (2, 0, 0)


def test_a_file_that_makes_new_problems_is_not_applied(con: Connection, config: ConfigStore) -> None:
    plan = config.plan("rate_limits:\n  - {endpoint: chatt, calls: 5}\n", "gateway.yaml", "yaml")

    assert [problem.row_key for problem in plan.problems] == ["chatt/endpoint/-/calls/minute"]
    with pytest.raises(ConfigFileError, match="chatt"):
        config.apply(plan)
    assert con.execute("select count(*) from fleming.rate_limits").fetchall() == [(0,)]


def test_a_new_problem_names_the_line_of_its_row(config: ConfigStore) -> None:
    text = "settings:\n  - {name: retention_days, value: '30'}\nrate_limits:\n  - {endpoint: chatt, calls: 5}\n"

    [problem] = config.plan(text, "gateway.yaml", "yaml").problems

    assert problem.place.startswith("gateway.yaml:4: table rate_limits, row chatt/endpoint/-/calls/minute, column ")


@pytest.mark.parametrize(
    "row",
    [
        "served_entities: [{endpoint: a, name: b, provider: none}]",
        "group_members: [{group_name: a, member: b}]",
        "permissions: [{endpoint: a, principal: b}]",
        "rate_limits: [{endpoint: a, key: user, principal: b, tokens: 5, renewal_period: hour}]",
        "rate_limits: [{endpoint: a, calls: 1, tokens: 5}]",
        "guardrails: [{endpoint: a, kind: pii, phase: output, rank: 3}]",
        "guardrails: [{kind: none, name: mine}]",
        "budgets: [{scope: endpoint, endpoint: a, amount_usd: 1}]",
        "budgets: [{scope: context, context_key: team, principal: x, endpoint: a, amount_usd: 1}]",
        "budgets: [{name: mine, amount_usd: -1}]",
        "model_prices: [{provider: openai, model: m, service_tier: Flex, from_input_tokens: 9, input_per_million: -1}]",
        "model_prices: [{provider: openai, model: m, service_tier: auto, input_per_million: -1}]",
        "entity_prices: [{endpoint: a, served_entity: b, per_second: 1}]",
        "pii_entities: [{name: A, pattern: '('}]",
        "settings: [{name: none, value: 1}]",
    ],
)
def test_a_difference_and_a_problem_call_a_row_the_same(config: ConfigStore, row: str) -> None:
    plan = config.plan(row, "gateway.yaml", "yaml")

    [rows] = plan.diff.as_json().values()
    assert {problem.row_key for problem in plan.problems} == {rows["added"][0]["row"]}


def test_endpoints_that_lose_their_last_permission_are_told(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name) values ('shut'), ('both'), ('gone'), ('open')")
    con.execute("insert into fleming.principals (name, type) values ('ada', 'user'), ('bob', 'user')")
    con.execute(
        "insert into fleming.permissions (endpoint, principal) "
        "values ('shut', 'ada'), ('both', 'ada'), ('both', 'bob'), ('gone', 'ada')"
    )
    text = (
        "endpoints:\n  - name: shut\n  - name: both\n  - name: open\n"
        "permissions:\n  - {endpoint: both, principal: bob}\n"
    )

    plan = config.plan(text, "gateway.yaml", "yaml", prune=True)

    assert plan.as_json()["opened_to_all"] == ["shut"]
    assert config.plan(text, "gateway.yaml", "yaml").diff.opened == ()
    by_sql = config.plan("delete from permissions where endpoint = 'shut'", "gateway.sql", "sql")
    assert by_sql.diff.opened == ("shut",)


def test_problems_that_were_there_before_do_not_stand_in_the_way(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.rate_limits (endpoint, calls) values ('gone', 5)")

    config.apply(config.plan("settings:\n  - {name: retention_days, value: '30'}\n", "gateway.yaml", "yaml"))

    assert names(con, "settings") == ["retention_days"]


def test_a_price_that_is_not_known_is_a_warning(config: ConfigStore) -> None:
    text = "endpoints:\n  - name: a\n    served_entities:\n      - {name: a, provider: openai, model: x, base_url: 'http://h'}\n"

    plan = config.plan(text, "gateway.yaml", "yaml")

    assert not plan.problems
    assert [warning.row_key for warning in plan.warnings] == ["a/a"]


def test_a_plan_is_void_once_the_configuration_has_changed(con: Connection, config: ConfigStore) -> None:
    plan = config.plan("endpoints:\n  - name: a\n", "gateway.yaml", "yaml")
    con.execute("insert into fleming.endpoints (name) values ('b')")

    with pytest.raises(ConfigFileError, match="changed meanwhile"):
        config.apply(plan, force=True)
    assert names(con, "endpoints") == ["b"]


def test_planning_changes_nothing(con: Connection, config: ConfigStore) -> None:
    config.plan("endpoints:\n  - name: a\n", "gateway.yaml", "yaml")

    assert names(con, "endpoints") == []


def test_a_row_that_the_store_refuses_leaves_the_others_out_too(con: Connection, config: ConfigStore) -> None:
    refusal(config, "endpoints:\n  - name: a\n  - name: b\n    max_concurrency: 0\n")

    assert names(con, "endpoints") == []


def test_sql_updates_and_deletes_are_shown_as_a_difference(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name) values ('a'), ('b')")

    done = apply(
        config,
        "-- fewer retries\nupdate fleming.endpoints set max_retries = 1 where name = 'a';\n"
        "delete from endpoints where name = 'b';\nmerge into endpoints using (select 'c' as n) on name = n\n"
        "when not matched then insert (name) values (n);",
        "sql",
    )

    assert (done["added"], done["changed"], done["removed"]) == (1, 1, 1)
    assert names(con, "endpoints") == ["a", "c"]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("drop table endpoints", "drop is not accepted"),
        ("create table x (a integer)", "create is not accepted"),
        ("copy endpoints to 'x.csv'", "copy is not accepted"),
        ("attach 'x.duckdb'", "attach is not accepted"),
        ("set threads = 1", "set is not accepted"),
        ("from endpoints", "select is not accepted"),
        ("insert into providers (name) values ('x')", '"providers" is no table of the configuration'),
        ("delete from fleming.serving.calls", '"calls" is no table of the configuration'),
        ("delete from other.endpoints", '"endpoints" is no table of the configuration'),
        ("insert into endpoints (name) select a from 'x.csv'", '"x.csv" is no table'),
        ("insert into endpoints (name) select a from read_csv('x.csv')", "a table function is no table"),
        ("with x as (select 1) from x", "select is not accepted"),
        ("begin", "transaction is not accepted"),
    ],
)
def test_sql_that_does_anything_else_is_refused_before_it_runs(
    con: Connection, config: ConfigStore, statement: str, told: str
) -> None:
    with pytest.raises(ConfigFileError, match=f"gateway.sql:2: {told}"):
        config.plan(f"insert into endpoints (name) values ('a');\n{statement};\n", "gateway.sql", "sql")
    assert names(con, "endpoints") == []


def test_sql_of_a_file_calls_no_model(con: Connection, config: ConfigStore) -> None:
    con.execute("insert into fleming.endpoints (name) values ('chat')")
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('chat', 'a', 'simulated')")

    told = refusal(config, "insert into endpoints (name) select fleming.ai_query('chat', 'x')", "sql")

    assert "ai_query" in told
    assert con.execute("select count(*) from fleming.serving.calls").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("selec", "this is not SQL"),
        ("\n-- a\n\ninsert into endpoints (name) values ('a'), ('a')", "gateway.sql:4: table endpoints"),
        ("insert into endpoints (name, max_concurrency) values ('a', 0)", "column max_concurrency: it is not within"),
        ("insert into model_prices (provider, model, source) values ('a', 'b', 'list')", "come from the package alone"),
        (f"insert into credentials (name, reference) values ('a', '{KEY}')", "the secret itself"),
    ],
)
def test_wrong_sql_is_refused_with_its_line(config: ConfigStore, text: str, told: str) -> None:
    refused = refusal(config, text, "sql")

    assert told in refused
    assert KEY not in refused


AWKWARD = [
    "no",
    "null",
    "~",
    "1.10",
    "0x1F",
    "1e3",
    "12:30:00",
    "2026-01-31",
    "a: b",
    "- a",
    "x\ny",
    " a\n",
    "\n",
    "a\n\nb\n",
]
AWKWARD += [
    "#",
    "{a}",
    "'",
    '"',
    "\\n",
    "*a",
    "&a",
    "!a",
    "%",
    "@",
    "`",
    "|",
    ">",
    "<<",
    "=",
    "?",
    "\t",
    "\r\n",
    "\x85",
    "\u2028",
    "\x00",
]


def any_text(chance: Random) -> str:
    if chance.random() < 0.5:
        return chance.choice(AWKWARD)
    letters = (
        chr(chance.choice([chance.randrange(0x20, 0x7F), chance.randrange(0xA0, 0xD7FF), 0x1F642])) for _ in range(9)
    )
    return "".join(letters)


def any_json(chance: Random, depth: int = 3) -> Any:
    kind = chance.randrange(7 if depth else 5)
    if kind == 5:
        return [any_json(chance, depth - 1) for _ in range(chance.randrange(3))]
    if kind == 6 or depth == 3:
        return {any_text(chance): any_json(chance, depth - 1) for _ in range(chance.randrange(3))}
    return [None, chance.random() < 0.5, chance.randrange(-(2**70), 2**70), chance.gauss(0, 1e9), any_text(chance)][
        kind
    ]


def any_value(chance: Random, column: Column) -> Any:
    if column.nullable and chance.random() < 0.2:
        return None
    makers: dict[str, Callable[[], Any]] = {
        "VARCHAR": lambda: any_text(chance),
        "BOOLEAN": lambda: chance.random() < 0.5,
        "INTEGER": lambda: chance.randrange(-(2**31), 2**31),
        "BIGINT": lambda: chance.randrange(-(2**63), 2**63),
        "DOUBLE": lambda: chance.choice([0.1, 1e-7, 1e300, -0.0, float("inf"), float("nan"), chance.gauss(0, 1)]),
        "VARCHAR[]": lambda: [chance.choice([None, any_text(chance)]) for _ in range(chance.randrange(3))],
        "JSON": lambda: chance.choice(['"a"', "1", "null", json.dumps(any_json(chance))]),
        "TIMESTAMP": lambda: str(datetime(2026, 1, 31) + timedelta(seconds=chance.gauss(0, 1e9))),
        "INTERVAL": lambda: f"{chance.randrange(10**6)} seconds",
    }
    return makers[column.type]()


def any_rows(chance: Random, schema: Schema) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for table in schema.tables.values():
        rows = [Row({name: any_value(chance, at) for name, at in table.columns.items()}) for _ in range(5)]
        known = {table.key_of(row.values): row for row in rows}
        found[table.name] = list(known.values()) if table.is_unique else [*rows, rows[0]]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_in_the_tables_comes_back_from_a_yaml_file(schema: Schema, seed: int) -> None:
    with duckdb.connect() as cursor:
        rows = spelled(cursor, schema, any_rows(Random(seed), schema))  # noqa: S311  rows, not secrets

        read = spelled(cursor, schema, read_yaml(schema, write_yaml(schema, rows), "gateway.yaml"))

    assert compare(schema, rows, read, prune=True).as_json() == {}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_in_the_tables_comes_back_from_a_sql_file(
    shared: tuple[Connection, ConfigStore], schema: Schema, seed: int
) -> None:
    cursor = shared[0].duckdb.cursor()
    cursor.execute("use fleming.main")
    rows = spelled(cursor, schema, any_rows(Random(seed), schema))  # noqa: S311  rows, not secrets
    for name in ("endpoints", "credentials"):
        rows[name] = []  # these have checks, which random values do not meet

    empty: dict[str, list[Row]] = {name: [] for name in schema.tables}
    read = read_sql(cursor, schema, empty, write_sql(schema, rows), "gateway.sql")

    assert compare(schema, rows, read, prune=True).as_json() == {}


def test_the_schema_follows_the_catalog(con: Connection) -> None:
    cursor = con.duckdb.cursor()
    cursor.execute("use fleming.main")
    cursor.execute("begin")
    cursor.execute("alter table budgets add column owner varchar default 'nobody'")
    found = read_schema(cursor)
    cursor.execute("rollback")

    assert found.tables["budgets"].columns["owner"].default == "nobody"
