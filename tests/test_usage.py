"""The views on usage, latency, errors and fallbacks; and Databricks' own queries on its usage tables, unchanged."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from conftest import AddEndpoint, Also, Con, Serve

from fleming_sql.testing import MockModel, Received, Reply, chat_reply, error_reply

PRICE = (
    "insert into fleming.model_prices (provider, model, input_per_million, output_per_million) "
    "values ('openai', 'mock', 1000000, 2000000)"
)
USAGE_VIEWS = ("usage_by_day", "usage_by_user", "usage_by_endpoint", "usage_by_context")

# From Databricks' dashboard and pages on usage tracking, and as people use the two tables there. Only the catalog's
# name differs, and that of the inference table, which is a parameter there.
DATABRICKS_QUERIES = {
    "tokens by requester and endpoint": """
        SELECT u.requester, e.endpoint_name, COUNT(*) AS calls,
               SUM(u.input_token_count) AS tin, SUM(u.output_token_count) AS tout
        FROM system.serving.endpoint_usage u
        JOIN system.serving.served_entities e ON u.served_entity_id = e.served_entity_id
        WHERE e.endpoint_name = 'chat' AND u.request_time >= '2020-01-01T09:00:00Z'
        GROUP BY 1, 2
    """,
    "usage with the payloads, as in the dashboard": """
        SELECT endpoint_usage.databricks_request_id, served_entities.endpoint_id, served_entities.endpoint_name,
               served_entities.served_entity_id, served_entities.entity_name, served_entities.served_entity_name,
               inference_table.sampling_fraction, inference_table.status_code, inference_table.requester,
               inference_table.request_time,
               inference_table.execution_duration_ms / 1000.0 AS execution_duration_seconds,
               endpoint_usage.input_token_count, endpoint_usage.output_token_count, endpoint_usage.request_streaming,
               endpoint_usage.status_code, (input_token_count + output_token_count) AS total_token_count
        FROM system.serving.endpoint_usage AS endpoint_usage
        JOIN system.serving.served_entities AS served_entities
          ON served_entities.served_entity_id = endpoint_usage.served_entity_id
        JOIN system.serving.inference AS inference_table
          ON endpoint_usage.databricks_request_id = inference_table.databricks_request_id
    """,
    "chargeback by a label": """
        SELECT eu.usage_context['team'] AS team, se.endpoint_name, DATE(eu.request_time) AS day,
               SUM(eu.input_token_count + eu.output_token_count) AS total_tokens, COUNT(*) AS turns
        FROM system.serving.endpoint_usage eu
          JOIN system.serving.served_entities se ON eu.served_entity_id = se.served_entity_id
        WHERE eu.usage_context['team'] = 'support' AND se.endpoint_name IS NOT NULL
          AND DATE(eu.request_time) >= CURRENT_DATE() - INTERVAL 90 DAYS
        GROUP BY 1, 2, 3
    """,
    "usage by the hour, errors too": """
        SELECT date_trunc('hour', eu.request_time) AS hour, COUNT(*) AS total_requests,
               SUM(eu.input_token_count) AS input_tokens,
               ROUND(AVG(eu.input_token_count + eu.output_token_count), 0) AS avg_tokens_per_req,
               COUNT(CASE WHEN eu.status_code != 200 THEN 1 END) AS errors
        FROM system.serving.endpoint_usage eu
        JOIN system.serving.served_entities se ON eu.served_entity_id = se.served_entity_id
        WHERE se.endpoint_name = 'chat' AND eu.request_time >= CURRENT_DATE - INTERVAL 7 DAYS
        GROUP BY 1 ORDER BY 1
    """,
    "by any of several labels": """
        SELECT COALESCE(eu.usage_context['app'], eu.usage_context['team'], 'unallocated') AS app,
               COALESCE(se.entity_name, '') AS entity_name, COALESCE(se.entity_type, '') AS entity_type,
               SUM(CASE WHEN TRY_CAST(eu.status_code AS INT) >= 400 THEN 1 ELSE 0 END) AS errors
        FROM system.serving.endpoint_usage eu
        LEFT JOIN system.serving.served_entities se ON eu.served_entity_id = se.served_entity_id
        GROUP BY 1, 2, 3
    """,
    "the entities that serve an endpoint now": """
        SELECT account_id, workspace_id, created_by, endpoint_name, endpoint_id, served_entity_name, entity_type,
               entity_name, entity_version, endpoint_config_version, task, external_model_config.Provider,
               foundation_model_config.max_provisioned_throughput, custom_model_config.compute_type,
               feature_spec_config, change_time
        FROM system.serving.served_entities
        WHERE endpoint_delete_time IS NULL
        QUALIFY endpoint_config_version = MAX(endpoint_config_version) OVER (PARTITION BY workspace_id, endpoint_id)
    """,
}


def prompt_of(received: Received) -> str:
    return str(received.json()["messages"][-1]["content"])


def rows(con: Con, view: str, columns: str = "*") -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = con.execute(f"select {columns} from fleming.serving.{view}").fetchall()
    return found


def ask(con: Con, text: str = "x", context: dict[str, str] | None = None, endpoint: str = "chat") -> None:
    labels = f"map {context}" if context else "null"
    con.execute(f"select ai_query(?, ?, failOnError => false, usageContext => {labels})", [endpoint, text]).fetchall()


def date_back(con: Con) -> None:
    """Make what was asked until now of the day before New Year."""
    con.execute("update fleming.serving.calls set request_time = '2025-12-31 23:59:59' where year(request_time) > 2025")


@pytest.mark.parametrize("query", DATABRICKS_QUERIES.values(), ids=DATABRICKS_QUERIES)
def test_a_query_written_for_databricks_runs_with_the_catalogs_name_changed(
    con: Con, model: MockModel, query: str
) -> None:
    ask(con, context={"team": "support"})

    assert len(con.execute(query.replace("system.serving", "fleming.serving")).fetchall()) == 1


def test_served_entities_has_the_columns_that_it_has_on_databricks(con: Con) -> None:
    names = {
        name for (name,) in con.execute("select column_name from (describe fleming.serving.served_entities)").fetchall()
    }

    assert names >= {
        "served_entity_id", "account_id", "workspace_id", "created_by", "endpoint_name", "endpoint_id",
        "served_entity_name", "entity_type", "entity_name", "entity_version", "endpoint_config_version", "task",
        "external_model_config", "foundation_model_config", "custom_model_config", "feature_spec_config",
        "change_time", "endpoint_delete_time",
    }  # fmt: skip


def test_an_endpoint_keeps_its_id_when_it_changes_and_shares_it_with_no_other(
    con: Con, model: MockModel, add_endpoint: AddEndpoint
) -> None:
    add_endpoint(con, "other", base_url=model.url)
    ask(con)
    con.execute("update fleming.served_entities set model = 'second' where endpoint = 'chat'")
    ask(con, "y")

    ids = rows(con, "served_entities", "endpoint_name, endpoint_id, endpoint_config_version")
    assert {version for name, _, version in ids if name == "chat"} == {1, 2}
    assert len({endpoint_id for _, endpoint_id, _ in ids}) == 2


@pytest.mark.parametrize(
    ("view", "key"),
    [
        ("usage_by_day", "day"),
        ("usage_by_user", "day, requester"),
        ("usage_by_endpoint", "day, endpoint_name"),
        ("usage_by_context", "context_key, context_value, day"),
    ],
)
def test_a_usage_view_adds_up_calls_tokens_and_cost(con: Con, serve: Serve, view: str, key: str) -> None:
    serve(
        lambda received: chat_reply("four", prompt_tokens=12, completion_tokens=5, cached_tokens=8, reasoning_tokens=2)
    )
    con.execute(PRICE)
    for text in ("a", "b", "a"):
        ask(con, text, {"team": "support"})

    sums = "calls, errors, cache_hits, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens"
    assert rows(con, view, sums) == [(3, 0, 1, 24, 10, 16, 4)]
    [(cost, unpriced)] = rows(con, view, "cost_usd, unpriced_calls")
    [(expected,)] = rows(con, "endpoint_usage", "sum(cost_usd)")
    assert (cost, unpriced) == (expected, 0)
    assert len(rows(con, view, key)) == 1


@pytest.mark.parametrize("view", USAGE_VIEWS)
def test_what_is_not_known_is_null_and_not_nothing(con: Con, serve: Serve, view: str) -> None:
    serve(lambda received: error_reply(400, "no"))

    ask(con)

    columns = "calls, errors, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens"
    assert rows(con, view, columns) == [(1, 1, None, None, None, None)]


@pytest.mark.parametrize("view", USAGE_VIEWS)
def test_calls_without_a_price_are_counted_beside_the_cost_of_the_others(
    con: Con, model: MockModel, add_endpoint: AddEndpoint, view: str
) -> None:
    add_endpoint(con, "other", base_url=model.url, model="unpriced")
    con.execute(PRICE)
    ask(con, "known")
    ask(con, "unknown", endpoint="other")

    totals = "sum(calls), sum(cost_usd), sum(unpriced_calls)"
    [(known_cost,)] = rows(con, "endpoint_usage", "sum(cost_usd)")
    assert known_cost > 0
    assert rows(con, view, totals) == [(2, known_cost, 1)]


@pytest.mark.parametrize("view", USAGE_VIEWS)
def test_reused_answers_do_not_make_unknown_cost_look_like_none(con: Con, serve: Serve, view: str) -> None:
    serve(model="unpriced")
    ask(con)
    ask(con)

    assert rows(con, "endpoint_usage", "sum(cost_usd)") == [(0.0,)]
    assert rows(con, view, "calls, cost_usd, unpriced_calls") == [(2, None, 1)]


def test_each_day_each_user_and_each_endpoint_has_a_row_of_its_own(
    con: Con, model: MockModel, add_endpoint: AddEndpoint
) -> None:
    add_endpoint(con, "other", base_url=model.url)
    ask(con)
    date_back(con)
    ask(con, "y")
    ask(con, "y", endpoint="other")

    assert rows(con, "usage_by_day", "calls") == [(1,), (2,)]
    assert rows(con, "usage_by_user", "requester, calls") == [("ada", 1), ("ada", 2)]
    assert rows(con, "usage_by_endpoint", "endpoint_name, calls") == [("chat", 1), ("chat", 1), ("other", 1)]


def test_a_call_counts_for_each_of_its_labels_and_one_without_labels_under_none(con: Con, model: MockModel) -> None:
    ask(con, "a", {"team": "support", "project": "p1"})
    ask(con, "b", {"team": "sales", "project": "p1"})
    ask(con, "c")

    assert rows(con, "usage_by_context", "context_key, context_value, calls") == [
        ("project", "p1", 2),
        ("team", "sales", 1),
        ("team", "support", 1),
        (None, None, 1),
    ]


@pytest.mark.parametrize("view", USAGE_VIEWS)
def test_calls_that_usage_tracking_leaves_out_are_in_no_usage_view(con: Con, serve: Serve, view: str) -> None:
    serve(usage_tracking=False)

    ask(con)

    assert rows(con, view) == []


def test_latency_keeps_reused_answers_apart_and_leaves_failures_out(con: Con, serve: Serve) -> None:
    serve(lambda received: error_reply(400, "no") if prompt_of(received) == "bad" else chat_reply("yes"))
    for text in ("a", "b", "b", "bad"):
        ask(con, text)

    assert rows(con, "latency", "endpoint_name, served_entity_name, cache_hit, calls") == [
        ("chat", "chat-1", False, 2),
        ("chat", "chat-1", True, 1),
    ]


def test_latency_has_the_percentiles_of_each_measure(con: Con, model: MockModel) -> None:
    for text in "abc":
        ask(con, text)
    con.execute(
        "update fleming.serving.calls set execution_duration_ms = n * 100, queue_ms = n * 10, limit_wait_ms = n, "
        "overhead_us = n * 50 from (select log_seq as seq, row_number() over (order by log_seq) as n "
        "from fleming.serving.calls) where seq = log_seq"
    )

    measures = ("duration_ms", "queue_ms", "limit_wait_ms", "overhead_us")
    columns = ", ".join(f"p{share}_{measure}" for measure in measures for share in (50, 90, 99))
    [found] = rows(con, "latency", columns)
    assert found == pytest.approx([200, 280, 298, 20, 28, 29.8, 2, 2.8, 2.98, 100, 140, 149])


def test_errors_tell_each_kind_with_its_share_and_its_last_message(con: Con, serve: Serve) -> None:
    serve(lambda received: error_reply(400, prompt_of(received)) if "bad" in prompt_of(received) else chat_reply("yes"))
    for text in ("good", "bad 1", "bad 2"):
        ask(con, text)
    ask(con, endpoint="nowhere")

    columns = "endpoint_name, served_entity_name, error_code, status_code, calls, round(share, 3)"
    assert rows(con, "errors", columns) == [
        ("chat", "chat-1", "BAD_REQUEST", 400, 2, 0.667),
        ("nowhere", None, "RESOURCE_DOES_NOT_EXIST", 404, 1, 1.0),
    ]
    [(message, at), _] = rows(con, "errors", "last_message, last_time")
    assert "bad 2" in message
    assert isinstance(at, datetime)


def test_errors_of_two_versions_of_an_entity_are_one_row(con: Con, serve: Serve) -> None:
    serve(lambda received: error_reply(400, "no"))
    ask(con, "1")
    con.execute("update fleming.served_entities set model = 'second'")
    ask(con, "2")

    assert rows(con, "errors", "served_entity_name, calls") == [("chat-1", 2)]


def test_fallbacks_tell_who_stood_in_for_whom_and_whether_it_helped(con: Con, serve: Serve, also: Also) -> None:
    serve(lambda received: error_reply(503, "busy") if "fail" in prompt_of(received) else chat_reply("one"))
    also(lambda received: error_reply(500, "no") if "both" in prompt_of(received) else chat_reply("two"))
    con.execute("update fleming.endpoints set max_retries = 0, breaker_min_calls = 1000")
    for text in ("fine", "fail", "fail both"):
        ask(con, text)

    assert rows(con, "fallbacks", "* exclude (day)") == [
        ("chat", "chat-1", "chat-2", "TEMPORARILY_UNAVAILABLE", 2, 1, 1, 2, 3)
    ]


def test_a_fallback_after_a_missing_key_came_from_no_request(con: Con, serve: Serve, also: Also) -> None:
    serve()
    also()
    con.execute("insert into fleming.credentials values ('missing', 'env', 'NO_SUCH_KEY')")
    con.execute("update fleming.served_entities set credential = 'missing' where name = 'chat-1'")

    ask(con)

    assert rows(con, "fallbacks", "from_entity, to_entity, after_error_code, rescued_calls") == [
        (None, "chat-2", "CREDENTIAL_ERROR", 1)
    ]


def test_an_endpoint_that_needs_no_fallback_is_not_in_fallbacks(con: Con, serve: Serve) -> None:
    answers = iter([error_reply(503, "busy"), chat_reply("yes")])
    serve(lambda received: next(answers), max_retries=1)

    ask(con)

    assert rows(con, "inference", "status_code, attempts") == [(200, 2)]
    assert rows(con, "fallbacks") == []


def test_answers_without_counts_are_added_up_as_estimated(con: Con, serve: Serve) -> None:
    serve(lambda received: Reply(body={"choices": [{"message": {"content": "a" * 39}}]}))

    ask(con, "b" * 79)

    assert rows(con, "usage_by_day", "input_tokens, output_tokens, reasoning_tokens") == [(20, 10, None)]
