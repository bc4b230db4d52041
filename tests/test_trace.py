"""The trace of one call: each step in its order, whatever it decided, without a word of secrets."""

from __future__ import annotations

import json

import pytest
from conftest import AddEndpoint, Con, Serve

from fleming_sql.connection.tracing import TracedCall
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, error_reply


def steps(traced: TracedCall) -> list[str]:
    return [step.name for step in traced.steps]


def decision(traced: TracedCall, name: str) -> str:
    return " | ".join(step.decision for step in traced.steps if step.name == name)


def test_the_steps_stand_in_the_order_of_the_pipeline(con: Con, serve: Serve) -> None:
    serve()

    traced = con.trace("chat", "Hello")

    assert (traced.status, traced.error) == (200, None)
    assert steps(traced) == [
        "configuration", "permission", "reuse", "budgets", "rate limits", "route", "attempt", "usage", "log",
    ]  # fmt: skip


def test_times_do_not_go_back(con: Con, serve: Serve) -> None:
    serve()

    times = [step.at_ms for step in con.trace("chat", "Hello").steps]

    assert times == sorted(times)


def test_a_traced_call_is_in_the_log_as_any_other(con: Con, serve: Serve) -> None:
    serve()

    traced = con.trace("chat", "Hello", usage_context={"team": "growth"})

    logged = con.execute(
        "select databricks_request_id, requester, usage_context['team'] from fleming.serving.endpoint_usage"
    ).fetchall()
    assert logged == [(traced.request_id, "ada", "growth")]


def test_the_answer_is_that_of_ai_query(con: Con, serve: Serve) -> None:
    serve()

    asked = con.execute("select ai_query('chat', 'Hello')").fetchall()[0][0]

    assert con.trace("chat", "Hello").answer == asked


def test_the_row_that_grants_a_call_is_told(con: Con, serve: Serve) -> None:
    serve()
    con.execute("insert into fleming.principals (name, type) values ('staff', 'group'), ('ada', 'user')")
    con.execute("insert into fleming.group_members values ('staff', 'ada')")
    con.execute(
        "insert into fleming.permissions (endpoint, principal_type, principal) values ('chat', 'group', 'staff')"
    )

    traced = con.trace("chat", "Hello")

    granted = next(step for step in traced.steps if step.name == "permission")
    assert granted.facts["granted_by"] == "chat/group/staff/CAN_QUERY"


def test_a_call_that_is_denied_ends_at_its_permission(con: Con, serve: Serve) -> None:
    server = serve()
    con.execute("insert into fleming.principals (name) values ('zoe')")
    con.execute("insert into fleming.permissions (endpoint, principal) values ('chat', 'zoe')")

    traced = con.trace("chat", "Hello")

    assert (traced.status, traced.error_code) == (403, "PERMISSION_DENIED")
    assert steps(traced) == ["configuration", "permission", "usage", "log"]
    assert len(server.requests) == 0


def test_an_unknown_endpoint_fails_by_the_configuration(con: Con) -> None:
    traced = con.trace("chatt", "Hello")

    assert traced.status == 404
    assert steps(traced) == ["configuration", "usage", "log"]


def test_a_found_answer_is_told_and_nothing_is_sent(con: Con, serve: Serve) -> None:
    server = serve()
    first = con.trace("chat", "Hello")

    traced = con.trace("chat", "Hello")

    assert f"the answer of call {first.request_id} is given again" in decision(traced, "reuse")
    assert "attempt" not in steps(traced)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("change", "cache", "why"),
    [
        ("select 1", False, "cache => false"),
        ("update fleming.endpoints set cache_ttl_seconds = null", True, "cache_ttl_seconds of the endpoint is NULL"),
        ("""update fleming.endpoints set default_parameters = '{"temperature": 1}'""", True, "temperature is above 0"),
    ],
)
def test_why_no_answer_is_looked_for_is_told(con: Con, serve: Serve, change: str, cache: bool, why: str) -> None:
    serve()
    con.execute(change)

    assert why in decision(con.trace("chat", "Hello", cache=cache), "reuse")


def test_guardrails_are_told_in_their_order_without_what_they_found(con: Con, serve: Serve) -> None:
    serve()
    con.execute("""
        insert into fleming.guardrails (endpoint, phase, kind, behavior, rank, config) values
            ('chat', 'input', 'pii', 'mask', 1, '{}'),
            ('chat', 'input', 'length', 'block', 2, '{"max_chars": 1000}'),
            ('chat', 'output', 'keywords', 'log', 1, '{"keywords": ["nothing"]}')
    """)

    traced = con.trace("chat", "Mail ada@example.com")

    results = [step.facts for step in traced.steps if step.name == "guardrails"]
    looked = [(facts["phase"], facts["kind"], facts["action"]) for facts in results]
    assert looked == [("input", "pii", "mask"), ("input", "length", "none"), ("output", "keywords", "none")]
    assert "ada@example.com" not in json.dumps([step.decision for step in traced.steps])


def test_a_blocking_guardrail_ends_the_trace(con: Con, serve: Serve) -> None:
    serve()
    con.execute("insert into fleming.guardrails (endpoint, kind, behavior) values ('chat', 'pii', 'block')")

    traced = con.trace("chat", "Mail ada@example.com")

    assert steps(traced) == ["configuration", "permission", "guardrails", "guardrails", "usage", "log"]
    assert "block" in decision(traced, "guardrails")


def test_what_is_left_of_a_limit_is_told(con: Con, serve: Serve) -> None:
    serve()
    con.execute("insert into fleming.rate_limits (endpoint, calls) values ('chat', 5)")
    con.trace("chat", "One")

    limits = [step.facts["left"] for step in con.trace("chat", "Two").steps if step.name == "rate limits"]

    assert limits == [3]


def test_a_limit_without_room_ends_the_call(con: Con, serve: Serve) -> None:
    serve()
    con.execute("insert into fleming.rate_limits (endpoint, calls, on_exceeded) values ('chat', 1, 'reject')")
    con.trace("chat", "One")

    traced = con.trace("chat", "Two")

    assert traced.error_code == "REQUEST_LIMIT_EXCEEDED"
    assert "rate limits" in steps(traced)
    assert "attempt" not in steps(traced)


def test_budgets_are_told_with_what_was_spent(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, provider="simulated", model="dear")
    con.execute("""
        insert into fleming.model_prices (provider, model, input_per_million, output_per_million)
        values ('simulated', 'dear', 1e6, 1e6);
        insert into fleming.budgets (name, amount_usd, action) values ('all', 1000, 'block');
    """)
    first = con.trace("chat", "One")
    cost_usd = next(step.facts["cost_usd"] for step in first.steps if step.name == "usage")

    spent = [step.facts["spent_usd"] for step in con.trace("chat", "Two").steps if step.name == "budgets"]

    assert cost_usd > 0
    assert spent == [cost_usd]


def test_each_attempt_is_told_with_host_status_and_reason(con: Con, serve: Serve, add_endpoint: AddEndpoint) -> None:
    def first_fails(request: Received) -> Reply:
        return error_reply(429, "slow down") if len(seen) == 1 else chat_reply("Hello")

    seen: list[Received] = []

    def reply(request: Received) -> Reply:
        seen.append(request)
        return first_fails(request)

    server = serve(reply)

    traced = con.trace("chat", "Hello")

    attempts = [step.facts for step in traced.steps if step.name == "attempt"]
    assert [(facts["status_code"], facts["reason"]) for facts in attempts] == [(429, "first"), (200, "retry")]
    assert {facts["host"] for facts in attempts} == {server.url.split("/")[2]}
    assert "is asked next" in decision(traced, "retry")


def test_a_missing_credential_is_told_and_nothing_is_sent(con: Con, serve: Serve) -> None:
    server = serve()
    con.execute("insert into fleming.credentials (name, reference) values ('key', 'NOWHERE_SET')")
    con.execute("update fleming.served_entities set credential = 'key'")

    traced = con.trace("chat", "Hello")

    assert "NOWHERE_SET is not set" in decision(traced, "attempt")
    assert len(server.requests) == 0


def test_no_secret_is_in_a_trace(con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "very-secret-key")
    server = serve(lambda request: error_reply(401, "the key very-secret-key is wrong"))
    con.execute("insert into fleming.credentials (name, reference) values ('key', 'THE_KEY')")
    con.execute("update fleming.served_entities set credential = 'key'")

    traced = con.trace("chat", "Hello")

    assert server.requests[0].headers["authorization"] == "Bearer very-secret-key"
    assert "very-secret-key" not in json.dumps(traced.as_json(), default=str)


def test_the_route_tells_the_candidates(con: Con, serve: Serve) -> None:
    serve()
    con.execute("""
        insert into fleming.served_entities (endpoint, name, provider, traffic_percentage, position)
        values ('chat', 'spare', 'simulated', 0, 2)
    """)

    route = next(step.facts for step in con.trace("chat", "Hello").steps if step.name == "route")

    assert (route["chosen"], route["routing"]) == ("chat-1", "weighted")
    assert [candidate["entity"] for candidate in route["candidates"]] == ["chat-1", "spare"]


def test_calls_of_statements_have_no_trace(con: Con, serve: Serve) -> None:
    server: MockModel = serve()
    traced = con.trace("chat", "Hello")
    count = len(traced.steps)

    con.execute("select ai_query('chat', 'Another')").fetchall()

    assert len(server.requests) == 2
    assert len(traced.steps) == count
