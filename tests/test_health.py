"""What the gateway makes of an entity's health: who is left out and tried again, and how much each gets at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Also, Con, Serve

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.testing import Capacity, MockModel, Received, Reply, Switch, chat_reply, echo_chat, error_reply


class Movable(Clock):
    """The time of the test, which may move on at once; waits take none."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        self.ahead_s += seconds


@pytest.fixture
def clock() -> Movable:
    return Movable()


@pytest.fixture
def con(clock: Movable) -> Iterator[Con]:
    with fleming_sql.connect(user="ada", clock=clock) as con:
        yield con


def broken(received: Received) -> Reply:
    return error_reply(500, "broken by the question")


def full(received: Received) -> Reply:
    return error_reply(429, "full", headers={"retry-after-ms": "0"})


def ask(con: Any, count: int = 1) -> list[str | None]:
    """Ask one question after another, and return the answers; None for failures."""
    return [
        con.execute("select ai_query('chat', 'q', failOnError => false, cache => false).result").fetchall()[0][0]
        for _ in range(count)
    ]


def health(con: Any, columns: str = "state", name: str = "chat-1") -> Any:
    row = con.execute(
        f"select {columns} from fleming.serving.entity_health where served_entity_name = ?", [name]
    ).fetchall()[0]
    return row[0] if len(row) == 1 else row


def test_an_entity_that_was_never_asked_is_closed(con: Con, serve: Serve) -> None:
    serve()

    columns = "state, recent_calls, failure_share, probe_in_ms, last_error_code, credential_refused, in_flight, waiting"
    assert health(con, columns) == ("closed", 0, 0, None, None, False, 0, 0)
    assert health(con, "concurrency_limit, latency_ms") == (None, None)


def test_below_min_calls_a_failing_entity_is_asked(con: Con, serve: Serve, also: Also) -> None:
    first = serve(broken, breaker_min_calls=5)
    also()

    ask(con, 4)

    assert (first.request_count, health(con, "state, recent_calls, failure_share")) == (4, ("closed", 4, 1.0))


def test_from_min_calls_on_a_failing_entity_is_left_out(con: Con, serve: Serve, also: Also) -> None:
    first = serve(broken, breaker_min_calls=5)
    also()

    answers = ask(con, 20)

    assert answers == ["echo: q"] * 20
    assert (first.request_count, health(con)) == (5, "open")


def test_an_entity_below_the_share_of_failures_is_asked(con: Con, serve: Serve, also: Also) -> None:
    numbers = iter(range(1000))
    first = serve(
        lambda received: broken(received) if next(numbers) % 3 == 0 else echo_chat(received),
        breaker_min_calls=4,
        breaker_failure_share=0.6,
    )
    also()

    ask(con, 30)

    assert (first.request_count, health(con)) == (30, "closed")


def test_failures_that_are_older_than_the_window_do_not_count(
    con: Con, serve: Serve, also: Also, clock: Movable
) -> None:
    first = serve(broken, breaker_min_calls=5, breaker_window_ms=1000)
    also()

    ask(con, 4)
    clock.ahead_s += 2
    ask(con, 4)

    assert (first.request_count, health(con, "state, recent_calls")) == (8, ("closed", 4))


def test_an_open_entity_says_when_it_is_tried_again(con: Con, serve: Serve, also: Also) -> None:
    serve(broken, breaker_min_calls=2, breaker_open_ms=60_000)
    also()

    ask(con, 3)

    assert 50_000 < health(con, "probe_in_ms") <= 60_000


def test_after_its_time_one_call_tries_it_and_success_closes_it(
    con: Con, serve: Serve, also: Also, clock: Movable
) -> None:
    switch = Switch(broken)
    first = serve(switch, breaker_min_calls=2, breaker_open_ms=60_000)
    also(lambda received: chat_reply("the second"))
    ask(con, 3)
    switch.use(echo_chat)

    clock.ahead_s += 59
    before = ask(con)
    clock.ahead_s += 2
    half_open = health(con)

    assert before == ["the second"]
    assert half_open == "half_open"
    assert ask(con, 2) == ["echo: q", "echo: q"]
    assert first.request_count == 4
    assert health(con, "state, recent_calls, probe_in_ms") == ("closed", 1, None)


def test_a_probe_that_fails_opens_it_again(con: Con, serve: Serve, also: Also, clock: Movable) -> None:
    first = serve(broken, breaker_min_calls=2, breaker_open_ms=60_000)
    also()
    ask(con, 3)

    clock.ahead_s += 61
    answers = ask(con, 5)

    assert answers == ["echo: q"] * 5
    assert (first.request_count, health(con)) == (3, "open")
    assert health(con, "probe_in_ms") > 50_000


def test_of_many_calls_at_once_exactly_one_is_the_probe(con: Con, serve: Serve, also: Also, clock: Movable) -> None:
    switch = Switch(broken)
    first = serve(switch, breaker_min_calls=2, breaker_open_ms=60_000)
    second = also()
    ask(con, 3)
    switch.use(lambda received: Reply(hang=True))
    clock.ahead_s += 61

    cursor = con.cursor()
    sql = "select ai_query('chat', 'row ' || i) from range(200) t(i)"
    statement = threading.Thread(target=lambda: _until_broken_off(cursor, sql))
    statement.start()
    second.wait_until(lambda server: server.request_count >= 3 + 199)
    probes = first.request_count - 2
    cursor.interrupt()
    statement.join()

    assert probes == 1


def test_a_probe_that_is_broken_off_gives_its_place_to_the_next_call(
    con: Con, serve: Serve, also: Also, clock: Movable
) -> None:
    switch = Switch(broken)
    first = serve(switch, breaker_min_calls=2, breaker_open_ms=60_000)
    also(lambda received: chat_reply("the second"))
    ask(con, 3)
    switch.use(lambda received: Reply(hang=True))
    clock.ahead_s += 61

    def interrupt() -> None:
        first.wait_until(lambda server: server.in_flight == 1)
        con.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(duckdb.Error):
        con.execute("select ai_query('chat', 'q', cache => false)").fetchall()
    thread.join()
    switch.use(echo_chat)

    assert ask(con) == ["echo: q"]
    assert health(con) == "closed"


def test_refusals_do_not_open_it_while_other_requests_are_answered(con: Con, serve: Serve, also: Also) -> None:
    capacity = Capacity(4, delay_s=0.005)
    serve(capacity, adaptive_concurrency=False, max_concurrency=16, breaker_min_calls=10)
    also()

    con.execute("select ai_query('chat', 'row ' || i) from range(400) t(i)").fetchall()

    assert capacity.refused > 100
    assert health(con) == "closed"


def test_an_entity_that_answers_nothing_but_429_is_left_out(con: Con, serve: Serve, also: Also) -> None:
    first = serve(full, breaker_min_calls=5)
    also()

    assert ask(con, 20) == ["echo: q"] * 20
    assert (first.request_count, health(con)) == (5, "open")


def test_when_all_are_left_out_the_best_is_tried_and_its_success_returned(con: Con, serve: Serve, also: Also) -> None:
    switch = Switch(broken)
    first = serve(broken, breaker_min_calls=3, max_retries=0)
    second = also(switch)
    ask(con, 3)
    assert (health(con), health(con, name="chat-2")) == ("open", "open")
    switch.use(lambda received: chat_reply("well again"))
    before = first.request_count + second.request_count

    answers = ask(con, 3)

    assert answers == ["well again"] * 3
    assert first.request_count + second.request_count <= before + 6


def test_when_all_are_left_out_and_the_best_fails_the_others_are_tried(con: Con, serve: Serve, also: Also) -> None:
    switch, other = Switch(broken), Switch(broken)
    serve(switch, breaker_min_calls=3, max_retries=2, retry_on_timeout=False)
    also(other)
    ask(con, 6)
    assert (health(con), health(con, name="chat-2")) == ("open", "open")
    switch.use(lambda received: chat_reply("well again"))

    assert ask(con) == ["well again"]
    switch.use(broken)
    other.use(lambda received: chat_reply("well again"))
    assert ask(con) == ["well again"]


def test_a_single_entity_is_asked_though_its_breaker_is_open(con: Con, serve: Serve) -> None:
    switch = Switch(broken)
    serve(switch, breaker_min_calls=3, max_retries=0)
    ask(con, 5)
    switch.use(echo_chat)

    assert health(con) == "open"
    assert ask(con) == ["echo: q"]


def test_the_last_error_is_told(con: Con, serve: Serve, also: Also) -> None:
    serve(broken)
    also()

    ask(con)
    code, message, seconds = health(
        con,
        "last_error_code, last_error_message, "
        "abs(epoch(now()::timestamptz at time zone 'UTC') - epoch(last_error_time))",
    )

    assert (code, message) == ("INTERNAL_ERROR", "broken by the question")
    assert seconds < 10


def test_the_last_errors_text_is_not_told_where_payloads_are_not_logged(con: Con, serve: Serve, also: Also) -> None:
    serve(broken, payload_logging=False)
    also()

    ask(con)

    assert health(con, "last_error_code, last_error_message") == ("INTERNAL_ERROR", None)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_entity_that_refuses_requests_is_well(con: Con, serve: Serve, status: int) -> None:
    serve(lambda received: error_reply(status, "wrong"), breaker_min_calls=2)

    ask(con, 5)

    assert health(con, "state, failure_share, last_error_code") == ("closed", 0, None)


def test_a_row_that_points_elsewhere_begins_anew(con: Con, serve: Serve, also: Also) -> None:
    serve(broken, breaker_min_calls=3, breaker_open_ms=60_000)
    also(lambda received: chat_reply("the second"))
    ask(con, 5)
    with MockModel(echo_chat) as moved:
        con.execute("update fleming.served_entities set base_url = ? where name = 'chat-1'", [moved.url])

        assert ask(con) == ["echo: q"]
        assert health(con, "state, recent_calls, last_error_code") == ("closed", 1, None)


def test_a_statement_that_still_goes_to_the_old_address_does_not_touch_the_health_of_the_new_one(
    con: Con, serve: Serve, also: Also
) -> None:
    old = serve(
        lambda received: echo_chat(received).delayed(0.02),
        breaker_min_calls=3,
        breaker_open_ms=60_000,
        adaptive_concurrency=False,
    )
    also()
    cursor = con.cursor()
    con.execute("update fleming.endpoints set max_concurrency = 2")
    statement = threading.Thread(
        target=_until_broken_off, args=(cursor, "select ai_query('chat', 'row ' || i) from range(2000) t(i)")
    )
    statement.start()
    old.wait_until(lambda server: server.request_count > 10)
    with MockModel(broken) as moved:
        con.execute("update fleming.served_entities set base_url = ? where name = 'chat-1'", [moved.url])
        ask(con, 12)
        still_running = statement.is_alive()
        cursor.interrupt()
        statement.join()

    assert still_running
    assert moved.request_count == 3


def test_a_change_of_its_parameters_does_not_let_an_entity_in_again(con: Con, serve: Serve, also: Also) -> None:
    first = serve(broken, breaker_min_calls=3, breaker_open_ms=60_000)
    also()
    ask(con, 5)

    con.execute("update fleming.served_entities set parameters = '{\"temperature\": 0}'")
    ask(con, 5)

    assert (first.request_count, health(con)) == (3, "open")


def test_changed_settings_are_in_force_at_the_next_call(con: Con, serve: Serve, also: Also) -> None:
    first = serve(broken, breaker_min_calls=100)
    also()
    ask(con, 10)

    con.execute("update fleming.endpoints set breaker_min_calls = 5")
    ask(con, 10)

    assert (first.request_count, health(con)) == (11, "open")


def test_without_fallback_an_entity_for_fallback_only_is_not_asked_though_the_other_is_left_out(
    con: Con, serve: Serve, also: Also
) -> None:
    serve(broken, breaker_min_calls=3, max_retries=0, fallback_enabled=False)
    spare = also()

    assert ask(con, 6) == [None] * 6
    assert spare.request_count == 0


def test_without_fallback_the_others_take_the_share_of_one_that_is_left_out(con: Con, serve: Serve, also: Also) -> None:
    serve(broken, breaker_min_calls=3, max_retries=0, fallback_enabled=False, traffic_percentage=50)
    also(traffic_percentage=50)

    ask(con, 30)

    assert health(con) == "open"
    assert ask(con, 10) == ["echo: q"] * 10


def test_one_endpoints_trouble_is_not_anothers(con: Con, serve: Serve, add_endpoint: AddEndpoint) -> None:
    server = serve(broken, breaker_min_calls=3, max_retries=0)
    add_endpoint(con, "other", base_url=server.url)

    ask(con, 5)

    assert (health(con), health(con, name="other-1")) == ("open", "closed")


def test_requests_under_way_and_calls_that_wait_are_shown(con: Con, serve: Serve) -> None:
    server = serve(lambda received: Reply(hang=True), max_concurrency=3, adaptive_concurrency=False)
    cursors = [con.cursor() for _ in range(2)]
    statements = [
        threading.Thread(
            target=_until_broken_off, args=(cursor, f"select ai_query('chat', '{at} ' || i) from range(9) t(i)")
        )
        for at, cursor in enumerate(cursors)
    ]
    for statement in statements:
        statement.start()
    _until(lambda: health(con, "in_flight + waiting") >= 6)
    shown = health(con, "in_flight, waiting, concurrency_limit")
    for cursor in cursors:
        cursor.interrupt()
    for statement in statements:
        statement.join()

    assert shown == (3, 3, 3)
    assert server.request_count == 3


def _until(condition: Callable[[], bool]) -> None:
    """Ask a live view again until it has come to say what is about to happen, within five seconds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not happen"


def _until_broken_off(con: Any, sql: str) -> None:
    with pytest.raises(duckdb.Error):
        con.execute(sql).fetchall()


def test_a_fixed_concurrency_is_kept_whatever_the_provider_says(con: Con, serve: Serve) -> None:
    numbers = itertools.count()
    server = serve(
        lambda received: (full(received) if next(numbers) % 4 == 0 else echo_chat(received)).delayed(0.005),
        max_concurrency=16,
        adaptive_concurrency=False,
        max_retries=100,
    )

    rows = con.execute("select count(ai_query('chat', 'row ' || i)) from range(400) t(i)").fetchall()

    assert rows == [(400,)]
    assert server.peak_in_flight == 16
    assert health(con, "concurrency_limit") == 16


def test_an_adaptive_concurrency_finds_the_providers_places(con: Con, serve: Serve) -> None:
    capacity = Capacity(12, delay_s=0.008)
    serve(capacity, max_concurrency=64, max_retries=20)

    rows = con.execute("select count(ai_query('chat', 'row ' || i)) from range(3000) t(i)").fetchall()
    refused, served = capacity.refused, capacity.served

    assert rows == [(3000,)]
    assert served == 3000
    assert refused < 0.08 * served
    assert health(con, "concurrency_limit") <= 20


def test_an_adaptive_concurrency_never_goes_beyond_max_concurrency(con: Con, serve: Serve) -> None:
    server = serve(lambda received: echo_chat(received).delayed(0.002), max_concurrency=7)

    con.execute("select ai_query('chat', 'row ' || i) from range(500) t(i)").fetchall()

    assert server.peak_in_flight == 7


def test_the_usual_latency_is_shown(con: Con, serve: Serve) -> None:
    serve(lambda received: echo_chat(received).delayed(0.03))

    ask(con, 3)

    assert 30 <= health(con, "latency_ms") < 100


def test_an_entity_that_recovers_is_asked_again_soon_after_its_time(con: Con, serve: Serve, also: Also) -> None:
    switch = Switch(broken)
    first = serve(switch, breaker_min_calls=5, breaker_open_ms=100, traffic_percentage=50)
    second = also(lambda received: echo_chat(received).delayed(0.002), traffic_percentage=50)
    done = threading.Event()

    def run() -> None:
        con.cursor().execute("select ai_query('chat', 'row ' || i) from range(6000) t(i)").fetchall()
        done.set()

    statement = threading.Thread(target=run)
    statement.start()
    second.wait_until(lambda server: server.request_count > 500)
    switch.use(echo_chat)
    before = first.request_count
    first.wait_until(lambda server: server.request_count > before + 100, timeout_s=5)
    still_running = not done.is_set()
    statement.join()

    assert still_running
    assert health(con) == "closed"
