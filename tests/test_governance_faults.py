"""Faults of permissions, limits, routing and hedging that trying and attacking found, each kept from coming back."""

from __future__ import annotations

import threading
import time
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Serve, add_entity

import fleming_sql
from fleming_sql import Connection
from fleming_sql.clock import Clock
from fleming_sql.policies.concurrency import AdaptiveLimit
from fleming_sql.policies.windows import Pace
from fleming_sql.testing import Capacity, MockModel, Received, Reply, Switch, after, chat_reply, echo_chat, error_reply


def one(con: Any, sql: str) -> Any:
    return con.execute(sql).fetchall()[0]


def test_after_an_outage_the_limit_grows_back_in_rounds() -> None:
    limit = AdaptiveLimit(128)
    for _ in range(3):  # three bursts of which everything is refused
        tickets = [limit.sent(0.0) for _ in range(limit.limit)]
        for ticket in tickets:
            limit.ended(ticket, "refused", 0.1)
    assert limit.limit < 16

    now = 1.0
    for _ in range(14):
        tickets = [limit.sent(now) for _ in range(limit.limit)]
        now += 1.0
        for ticket in tickets:
            limit.ended(ticket, "answered", now)

    assert limit.limit == 128


def test_calls_go_to_an_entity_with_places_while_another_is_throttled(con: Connection, serve: Serve) -> None:
    serve(Capacity(2, reply=after(0.3)), traffic_percentage=50, max_retries=8)
    with MockModel(after(0.01)) as other:
        add_entity(con, base_url=other.url, name="other", traffic_percentage=50, position=2)
        con.execute("select ai_query('chat', 'warm ' || i) from range(100) t(i)").fetchall()
        began = time.monotonic()

        con.execute("select ai_query('chat', 'row ' || i) from range(100) t(i)").fetchall()

    assert time.monotonic() - began < 3  # 50 rows, 2 at once in 0.3 s, would take 7.5 s


def test_an_entity_that_is_switched_off_is_asked_for_nothing(con: Connection, serve: Serve) -> None:
    first = serve(lambda received: error_reply(500, "broken"), traffic_percentage=60, max_retries=0)
    with MockModel(echo_chat) as second:
        add_entity(con, base_url=second.url, name="second", traffic_percentage=40, position=2)
        con.execute("update fleming.served_entities set enabled = false where name = 'chat-1'")

        con.execute("insert into fleming.model_prices (provider, model, input_per_million) values ('openai', '*', 0)")

        assert con.execute("from fleming.config_problems").fetchall() == []
        con.execute("select ai_query('chat', 'row ' || i) from range(50) t(i)").fetchall()
        state = "select state from fleming.serving.entity_health where served_entity_name = 'chat-1'"
        assert one(con, state) == ("disabled",)

    assert (first.request_count, second.request_count) == (0, 50)


def test_an_endpoint_whose_entities_are_all_switched_off_says_so(con: Connection, model: MockModel) -> None:
    con.execute("update fleming.served_entities set enabled = false")

    with pytest.raises(duckdb.Error, match='all served entities of endpoint "chat" are switched off'):
        con.execute("select ai_query('chat', 'x')").fetchall()


def test_a_groups_token_limit_leaves_the_call_limit_of_each_user_in_force(con: Connection, model: MockModel) -> None:
    con.execute("insert into fleming.principals (name, type) values ('ada', 'user'), ('staff', 'group')")
    con.execute("insert into fleming.group_members values ('staff', 'ada')")
    con.execute(
        "insert into fleming.rate_limits (endpoint, key, principal, calls, tokens, on_exceeded) "
        "values ('chat', 'user', null, 3, null, 'reject'), ('chat', 'user_group', 'staff', null, 100000, 'reject')"
    )

    con.execute("select ai_query('chat', 'row ' || i, failOnError => false) from range(9) t(i)").fetchall()

    assert model.request_count == 3


def test_a_key_typed_in_the_place_of_a_variables_name_is_told_of_and_not_repeated(
    con: Connection, serve: Serve
) -> None:
    key = "sk-proj-SECRET1234567890"
    con.execute("insert into fleming.credentials values ('k', 'env', ?)", [key])
    serve(credential="k")

    (message,) = one(con, "select ai_query('chat', 'x', failOnError => false).errorMessage")
    problem = one(con, "select problem, remedy from fleming.config_problems where table_name = 'credentials'")
    kept = con.execute("from fleming.serving.calls").fetchall()
    health = con.execute("from fleming.serving.entity_health").fetchall()

    assert "not the name of an environment variable" in message
    assert key not in f"{message} {problem} {kept} {health}"


def test_a_retry_after_that_is_no_date_on_earth_fails_its_row_only(con: Connection, serve: Serve) -> None:
    absurd = {"retry-after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}
    serve(lambda received: error_reply(429, "later", headers=absurd), max_retries=0)

    rows = con.execute("select ai_query('chat', 'q' || i, failOnError => false) from range(5) t(i)").fetchall()

    assert all("REMOTE_FUNCTION_HTTP" in row["errorMessage"] for (row,) in rows)
    assert one(con, "select count(*), sum(attempts) from fleming.serving.inference") == (5, 5)


def test_an_unexpected_fault_of_the_gateway_fails_its_row_and_is_logged(add_endpoint: AddEndpoint) -> None:
    class Broken(Clock):
        def random(self) -> float:
            raise ZeroDivisionError

    with fleming_sql.connect(clock=Broken()) as con, MockModel(echo_chat) as server:
        add_endpoint(con, base_url=server.url, traffic_percentage=50)
        add_entity(con, base_url=server.url, name="other", traffic_percentage=50, position=2)

        (message,) = one(con, "select ai_query('chat', 'x', failOnError => false).errorMessage")

        assert "INTERNAL_ERROR" in message
        assert one(con, "select status_code from fleming.serving.inference") == (500,)


def test_hedges_that_are_interrupted_again_and_again_are_all_in_the_log(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: Reply(hang=True), hedge_after_ms=1, max_concurrency=60, adaptive_concurrency=False)
    cursor = con.cursor()
    statement = threading.Thread(target=_fails, args=(cursor, "select ai_query('chat', 'q' || i) from range(99) t(i)"))
    statement.start()
    server.wait_until(lambda server: server.in_flight == 60)
    while statement.is_alive():
        cursor.interrupt()
    statement.join()

    logged = one(con, "select count(*) from fleming.serving.attempts")[0]
    assert logged >= server.request_count == 60


def _fails(con: Connection, sql: str) -> None:
    with pytest.raises(duckdb.Error):
        con.execute(sql).fetchall()


def test_a_limit_counts_a_call_from_when_it_goes_out(con: Connection, serve: Serve) -> None:
    slow = Switch(after(0.6))
    server = serve(slow, max_concurrency=1)
    con.execute("insert into fleming.rate_limits (endpoint, calls, on_exceeded) values ('chat', 4, 'reject')")
    threads = [
        threading.Thread(target=lambda at=at: con.cursor().execute(f"select ai_query('chat', 'q{at}')").fetchall())
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    server.wait_until(lambda server: server.request_count == 4)
    sent = time.monotonic()
    for thread in threads:
        thread.join()

    counters = con._session.gateway.limiter._counters.values()
    last = next(counter.window.room_at(4, 4, time.perf_counter()) for counter in counters)
    assert last - time.perf_counter() > 60 - (time.monotonic() - sent) - 0.05


def test_closing_a_connection_breaks_off_the_calls_of_its_cursors(serve: Serve, add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda received: Reply(hang=True)) as server:
        con = fleming_sql.connect()
        add_endpoint(con, base_url=server.url)
        cursor = con.cursor()
        statement = threading.Thread(target=_fails, args=(cursor, "select ai_query('chat', 'x')"))
        statement.start()
        server.wait_until(lambda server: server.in_flight == 1)
        began = time.monotonic()

        con.close()
        statement.join()

        assert time.monotonic() - began < 3


def test_a_pace_never_waits_longer_than_the_window() -> None:
    pace = Pace(60.0)

    pace.took(10, 1000, 0.0)
    pace.gave_back(-1_000_000, 1000, 1.0)

    assert pace.next_at(1.0) == 61.0


def test_a_user_named_like_a_group_has_none_of_its_rights(model: MockModel, con: Connection) -> None:
    con.execute("insert into fleming.principals (name, type) values ('analysts', 'group'), ('staff', 'group')")
    con.execute("insert into fleming.group_members values ('staff', 'analysts')")
    con.execute("insert into fleming.permissions values ('chat', 'group', 'staff', 'CAN_QUERY')")
    fleming_sql.attach(bare := con.duckdb.cursor(), user="analysts")

    with pytest.raises(duckdb.Error, match="PERMISSION_DENIED"):
        bare.execute("select ai_query('chat', 'x')").fetchall()


def test_an_empty_user_is_refused() -> None:
    with pytest.raises(fleming_sql.FlemingError, match="user is an empty text"):
        fleming_sql.connect(user="")


def test_calls_that_wait_for_a_place_show_in_progress(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: Reply(hang=True), max_concurrency=2)
    cursors = [con.cursor() for _ in range(2)]
    threads = [
        threading.Thread(target=_fails, args=(cursor, f"select ai_query('chat', '{at} ' || i) from range(9) t(i)"))
        for at, cursor in enumerate(cursors)
    ]
    for thread in threads:
        thread.start()
    server.wait_until(lambda server: server.in_flight == 2)
    deadline = time.monotonic() + 10
    waiting = "select sum(waiting_for_place), sum(calls_left) from fleming.serving.progress"
    while (shown := one(con, waiting)) != (2, 18) and time.monotonic() < deadline:
        pass
    for cursor in cursors:
        cursor.interrupt()
    for thread in threads:
        thread.join()

    assert shown == (2, 18)


def test_another_users_waiting_call_is_not_answered_with_a_refusal_that_is_not_its_own(
    con: Connection, serve: Serve
) -> None:
    """Identical requests share an answer, not the limits of whoever asked first."""

    def slow(received: Received) -> Reply:
        return chat_reply("same").delayed(0.05)

    serve(slow)
    con.execute("insert into fleming.principals (name) values ('ada'), ('bob')")
    con.execute(
        "insert into fleming.rate_limits (endpoint, key, principal, calls, on_exceeded) "
        "values ('chat', 'user', 'ada', 1, 'reject')"
    )
    con.execute("select ai_query('chat', 'first')").fetchall()
    fleming_sql.attach(bob := con.duckdb.cursor(), user="bob")

    with pytest.raises(duckdb.Error, match="REQUEST_LIMIT_EXCEEDED"):
        con.execute("select ai_query('chat', 'second')").fetchall()
    assert bob.execute("select ai_query('chat', 'second')").fetchall() == [("same",)]
