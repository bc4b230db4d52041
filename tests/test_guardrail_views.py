"""The views about guardrails: their decisions, what they add up to, the entities in effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Con
from deltalake import write_deltalake

from fleming_sql.guardrails import pii
from fleming_sql.testing import MockModel

DAY = "2024-05-06"


def decide(con: Con, *decisions: dict[str, Any], text: str = "x", day: str = DAY) -> None:
    """Make a call, and have guardrails decide about it."""
    con.execute("select ai_query('chat', ?)", [text]).fetchall()
    listed = [
        {
            "guardrail": "names", "phase": "input", "kind": "pii", "action": "none", "reason": None, "entities": None,
            "duration_ms": 1.0, **decision,
        }
        for decision in decisions
    ]  # fmt: skip
    con.execute(
        "update fleming.serving.calls set guardrail_results = ?, request_time = ? "
        "where log_seq = (select max(log_seq) from fleming.serving.calls)",
        [listed, day],
    )


def hits(con: Con, columns: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = con.execute(f"select {columns} from fleming.serving.guardrail_hits").fetchall()
    return rows


def test_without_guardrails_there_are_no_hits(con: Con, model: MockModel) -> None:
    con.execute("select ai_query('chat', 'x')").fetchall()

    assert hits(con, "*") == []


def test_each_decision_counts_as_what_was_done(con: Con, model: MockModel) -> None:
    actions = ("block", "mask", "mask", "log", "none", "none", "none", "allow")
    for number, action in enumerate(actions):
        decide(con, {"action": action}, text=f"x{number}")

    counted = hits(
        con,
        "day::varchar, endpoint_name, phase, guardrail, kind, decisions, blocked, masked, logged, passed, failed_open",
    )

    assert counted == [(DAY, "chat", "input", "names", "pii", 8, 1, 2, 1, 3, 1)]


def test_days_phases_and_guardrails_count_apart(con: Con, model: MockModel) -> None:
    decide(con, {}, {"phase": "output"}, {"guardrail": "words", "kind": "keywords"}, text="a")
    decide(con, {}, text="b", day="2024-05-07")

    assert hits(con, "day::varchar, phase, guardrail, decisions") == [
        (DAY, "input", "names", 1),
        (DAY, "input", "words", 1),
        (DAY, "output", "names", 1),
        ("2024-05-07", "input", "names", 1),
    ]


def test_entities_are_added_up_by_type(con: Con, model: MockModel) -> None:
    spans = '"spans": [{"part": "messages[0].content", "start": 0, "end": 3}]'
    decide(con, {"action": "mask", "entities": f'[{{"type": "EMAIL_ADDRESS", "count": 2, {spans}}}]'}, text="a")
    both = f'[{{"type": "EMAIL_ADDRESS", "count": 1, {spans}}}, {{"type": "US_SSN", "count": 3, {spans}}}]'
    decide(con, {"action": "mask", "entities": both}, text="b")
    decide(con, {}, text="c")

    assert hits(con, "found, decisions") == [({"EMAIL_ADDRESS": 3, "US_SSN": 3}, 3)]


@pytest.mark.parametrize("entities", [None, "[]", '[{"type": "violence", "score": 0.9}]'])
def test_where_nothing_was_counted_the_map_is_empty(con: Con, model: MockModel, entities: str | None) -> None:
    decide(con, {"entities": entities})

    assert hits(con, "found") == [({},)]


def test_durations_are_quantiles_of_the_day(con: Con, model: MockModel) -> None:
    for number in range(1, 22):
        decide(con, {"duration_ms": float(number)}, text=str(number))

    assert hits(con, "p50_duration_ms, p95_duration_ms") == [(11.0, 20.0)]


def test_found_is_a_map_of_numbers(con: Con) -> None:
    described = con.execute("describe fleming.serving.guardrail_hits").fetchall()

    assert dict(row[:2] for row in described)["found"] == "MAP(VARCHAR, BIGINT)"


def test_the_call_of_a_guardrail_says_whose_it_is_and_about_what(con: Con, model: MockModel) -> None:
    con.execute("select ai_query('chat', 'x')").fetchall()
    con.execute("update fleming.serving.calls set guardrail = 'judge', guarded_request_id = 'another call'")

    rows = con.execute("select guardrail, guarded_request_id from fleming.serving.inference").fetchall()

    assert rows == [("judge", "another call")]


def test_a_call_of_anybody_else_says_nothing_of_guardrails(con: Con, model: MockModel) -> None:
    con.execute("select ai_query('chat', 'x')").fetchall()

    assert con.execute("select guardrail, guarded_request_id from fleming.serving.inference").fetchall() == [
        (None, None)
    ]


def test_a_delta_table_from_before_guardrails_gets_their_columns(con: Con, model: MockModel, tmp_path: Path) -> None:
    con.execute("select ai_query('chat', 'x')").fetchall()
    older = con.sql(
        "select * exclude (guardrail, guarded_request_id) replace ('older' as databricks_request_id, "
        "timezone('UTC', request_time) as request_time), 'another' as store_id from fleming.serving.inference"
    ).to_arrow_table()
    instant = pa.field("request_time", pa.timestamp("us", "UTC"))
    older = older.set_column(
        older.schema.get_field_index("request_time"), instant, older["request_time"].cast(instant.type)
    )
    write_deltalake(tmp_path / "inference", older, partition_by=["request_date"])

    con.execute("insert into fleming.settings values ('delta_location', ?)", [str(tmp_path)])
    con.execute("update fleming.serving.calls set guardrail = 'judge'")
    con._session.upkeep.worker.run_now("delta_export")

    rows = con.execute(
        "select databricks_request_id = 'older', guardrail, guarded_request_id from fleming.lake.inference order by all"
    ).fetchall()
    assert rows == [(False, "judge", None), (True, None, None)]


def test_the_entities_in_effect_are_the_built_in_ones_and_ones_own(con: Con) -> None:
    con.execute(
        "insert into fleming.pii_entities (name, pattern, context_words) values ('EMPLOYEE_ID', 'E-1', ['staff'])"
    )
    con.execute("insert into fleming.pii_entities (name, pattern, enabled) values ('OFF', 'x', false)")

    listed = con.execute("select name, source, pattern, context_words from fleming.pii_entities_in_effect").fetchall()

    built_in = [(name, "built-in", None, list(words)) for name, _, _, words in pii.built_in()]
    assert listed == sorted([*built_in, ("EMPLOYEE_ID", "pii_entities", "E-1", ["staff"])])
