"""Settings: rows of `fleming.settings` hold from the next statement; wrong ones are told, and stop what they must."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest
from conftest import Con
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleming_sql.store.settings import read_settings
from fleming_sql.testing import MockModel
from fleming_sql.types import Settings


def set_to(con: Con, name: str, value: str | None) -> None:
    con.execute("insert or replace into fleming.settings values (?, ?)", [name, value])


def problems(con: Con) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = con.execute(
        "select row_key, column_name, problem || ': ' || remedy from fleming.config_problems "
        "where table_name = 'settings'"
    ).fetchall()
    return found


def in_effect(con: Con) -> Settings:
    cursor = con.duckdb.cursor()
    cursor.execute("use fleming.main")
    return read_settings(lambda sql: cursor.execute(sql).fetchall())


def ask(con: Con) -> Any:
    return con.execute("select ai_query('chat', 'x')").fetchall()[0][0]


def test_without_rows_all_settings_are_at_their_defaults_and_there_is_no_problem(con: Con) -> None:
    changed = con.execute(
        "select name from fleming.settings_in_effect where value is distinct from default_value"
    ).fetchall()

    assert (changed, problems(con), in_effect(con)) == ([], [], Settings())


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("durability", "power", "power"),
        ("on_log_failure", "continue", "continue"),
        ("retention_days", "30", 30.0),
        ("retention_rows", "1e6", 1e6),
        ("maintenance_minutes", "0.5", 0.5),
        ("delta_location", "s3://bucket/log", "s3://bucket/log"),
        ("delta_storage_options", '{"aws_region": "eu-central-1"}', {"aws_region": "eu-central-1"}),
        ("delta_every_seconds", "0.1", 0.1),
        ("delta_compact_hours", "0", 0.0),
        ("delta_vacuum_hours", None, 168.0),
    ],
)
def test_a_right_value_holds_and_shows(con: Con, name: str, value: str | None, read: Any) -> None:
    set_to(con, name, value)

    shown = con.execute("select value from fleming.settings_in_effect where name = ?", [name]).fetchall()
    assert problems(con) == []
    assert getattr(in_effect(con), name) == read
    assert shown == [(value if value is not None else "168",)]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("durability", "Process", "one of process, power, off, or to NULL for the default, process"),
        ("on_log_failure", "", "one of fail, continue"),
        ("retention_days", "0", "a number of at least 1 and at most 36500, or to NULL for none"),
        ("retention_rows", "many", '"many", not a number'),
        ("maintenance_minutes", "nan", "a number of at least 0.01"),
        ("delta_every_seconds", "inf", "a number of at least 0.1"),
        ("delta_vacuum_hours", "-1", "0, or a number of at least 168"),
        ("retention_days", "36501", "at most 36500"),
        ("retention_rows", "1e16", "at most 1e15"),
        ("delta_location", " ", "a text that is not empty"),
        ("delta_location", "/a[1]", "a folder or URL without [, ]"),
        ("delta_location", "C:\\lake", "a folder or URL without [, ]"),
        ("delta_location", "a%20b", "a folder or URL without [, ]"),
        ("delta_location", "~/lake", "a ~ at its beginning"),
        ("delta_location", "a\x00b", "NUL"),
        ("delta_storage_options", "[]", "a JSON object with texts as values"),
        ("delta_storage_options", '{"a": 1}', "a JSON object with texts as values"),
        ("delta_storage_options", '{"a": "b",}', "a JSON object with texts as values"),
    ],
)
def test_a_value_of_another_kind_is_told_with_what_would_be_accepted(
    con: Con, name: str, value: str, told: str
) -> None:
    set_to(con, name, value)

    [(row, column, text)] = problems(con)
    assert (row, column) == (name, "value")
    assert told in text


def test_an_unknown_name_is_told_with_the_nearest(con: Con) -> None:
    set_to(con, "retention_day", "30")

    assert problems(con) == [
        (
            "retention_day",
            "name",
            'there is no setting "retention_day": set the column name to "retention_days", or delete the row',
        )
    ]


def test_a_name_like_no_other_is_told_with_all_there_are(con: Con) -> None:
    set_to(con, "colour", "blue")

    [(_, _, text)] = problems(con)
    assert all(name in text for (name,) in con.execute("select name from fleming.settings_in_effect").fetchall())


def test_storage_options_are_not_repeated_since_they_may_hold_a_key(con: Con) -> None:
    set_to(con, "delta_storage_options", '{"secret": "hunter2"')

    [(_, _, text)] = problems(con)
    assert "hunter2" not in text


@pytest.mark.parametrize("name", ["durability", "on_log_failure"])
def test_a_setting_that_decides_about_records_stops_all_endpoints(con: Con, model: MockModel, name: str) -> None:
    con.execute("insert into fleming.endpoints (name) values ('other')")
    set_to(con, name, "perhaps")

    stopped = con.execute(
        "select endpoint from fleming.config_problem_endpoints where table_name = 'settings'"
    ).fetchall()
    with pytest.raises(duckdb.Error, match=f'the setting "{name}" is "perhaps"'):
        ask(con)
    assert stopped == [("chat",), ("other",)]


@pytest.mark.parametrize(
    ("name", "value"), [("retention_days", "x"), ("delta_storage_options", "x"), ("no_such_thing", "x")]
)
def test_other_wrong_settings_stop_nothing(con: Con, model: MockModel, name: str, value: str) -> None:
    set_to(con, name, value)

    assert ask(con) == "echo: x"


def test_putting_a_setting_right_lets_calls_through_again(con: Con, model: MockModel) -> None:
    set_to(con, "durability", "perhaps")
    with pytest.raises(duckdb.Error, match="durability"):
        ask(con)

    con.execute("delete from fleming.settings")

    assert ask(con) == "echo: x"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["durability", "retention_days", "delta_storage_options", "delta_compact_hours"]),
    st.one_of(
        st.sampled_from(["off", "power", "{}", "1", "0", "-1", "1e400", "0x1", "1 2", '{"a":"\\u00e9"}', '{"a":NaN}']),
        st.text(st.characters(codec="ascii"), max_size=6),
        st.floats().map(str),
        st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2).map(json.dumps),
    ),
)
def test_what_is_no_problem_can_be_read(con: Con, name: str, value: str) -> None:
    """The view and the reader judge alike: a value without a problem never falls back to the default unseen."""
    con.execute("delete from fleming.settings")
    set_to(con, name, value)
    if problems(con):
        return

    expected: Any = value
    if name == "delta_storage_options":
        expected = json.loads(value)
    elif name != "durability":
        expected = float(value)
    assert getattr(in_effect(con), name) == expected
