"""A second request for a straggler: when it goes out, which answer counts, and what the log says of both."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest
from conftest import Also, Con, Serve

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.testing import Received, Reply, chat_reply, echo_chat, embeddings_reply, error_reply

ASK = "select ai_query('chat', 'x', cache => false)"


class Instant(Clock):
    """Pauses between attempts take no time."""

    async def sleep(self, seconds: float) -> None:
        return None


@pytest.fixture
def con() -> Iterator[Con]:
    with fleming_sql.connect(user="ada", clock=Instant(seed=1)) as con:
        yield con


def hang(received: Received) -> Reply:
    return Reply(hang=True)


def late(seconds: float, text: str = "late") -> Callable[[Received], Reply]:
    return lambda received: chat_reply(text).delayed(seconds)


def ask(con: Any, sql: str = ASK) -> Any:
    return con.execute(sql).fetchall()[0][0]


def fail(con: Any, sql: str = ASK) -> str:
    with pytest.raises(duckdb.Error) as caught:
        con.execute(sql).fetchall()
    return str(caught.value)


def attempts(con: Any, columns: str = "served_entity_name, reason, error_code") -> list[Any]:
    rows: list[Any] = con.execute(f"select {columns} from fleming.serving.attempts order by attempt_number").fetchall()
    return rows


def test_it_is_off_by_default(con: Con, serve: Serve, also: Also) -> None:
    serve(late(0.3))
    second = also()

    assert ask(con) == "late"
    assert second.request_count == 0
    assert con.execute("select hedge_after_ms, hedge_percentile from fleming.endpoints").fetchall() == [(None, None)]


def test_a_straggler_is_asked_for_at_another_entity_and_the_first_answer_counts(
    con: Con, serve: Serve, also: Also
) -> None:
    serve(hang, hedge_after_ms=50)
    also(lambda received: chat_reply("the second"))

    began = time.perf_counter()
    answer = ask(con)

    assert answer == "the second"
    assert 0.05 <= time.perf_counter() - began < 1


def test_the_request_that_lost_is_broken_off_at_the_server(con: Con, serve: Serve, also: Also) -> None:
    first = serve(hang, hedge_after_ms=50)
    also()

    ask(con)

    first.wait_until(lambda server: server.abandoned == 1 and server.in_flight == 0)


def test_both_requests_are_in_the_log(con: Con, serve: Serve, also: Also) -> None:
    serve(hang, hedge_after_ms=50)
    also()

    ask(con)

    assert attempts(con, "attempt_number, served_entity_name, reason, status_code, error_code") == [
        (1, "chat-1", "first", 0, "CANCELLED"),
        (2, "chat-2", "hedge", 200, None),
    ]
    [(first_ms, second_ms)] = con.execute(
        "select max(duration_ms) filter (reason = 'first'), max(duration_ms) filter (reason = 'hedge') "
        "from fleming.serving.attempts"
    ).fetchall()
    assert first_ms - second_ms >= 45


def test_a_hedge_did_not_come_of_an_error(con: Con, serve: Serve, also: Also) -> None:
    """It was sent while the first request was under way; that was cancelled because of it, not before it."""
    serve(hang, hedge_after_ms=50)
    also()

    ask(con)

    assert attempts(con, "after_error_code") == [(None,), (None,)]


def test_the_record_names_the_entity_that_answered(con: Con, serve: Serve, also: Also) -> None:
    serve(hang, hedge_after_ms=50)
    also()

    ask(con)

    assert con.execute(
        "select e.served_entity_name, i.status_code, i.error_code, i.attempts from fleming.serving.inference i "
        "join fleming.serving.served_entities e using (served_entity_id)"
    ).fetchall() == [("chat-2", 200, None, 2)]


def test_the_first_request_may_still_win(con: Con, serve: Serve, also: Also) -> None:
    serve(late(0.15, "the first"), hedge_after_ms=50)
    second = also(hang)

    assert ask(con) == "the first"
    assert attempts(con) == [("chat-1", "first", None), ("chat-2", "hedge", "CANCELLED")]
    second.wait_until(lambda server: server.abandoned == 1)


def test_a_fast_answer_sends_one_request_only(con: Con, serve: Serve, also: Also) -> None:
    first = serve(hedge_after_ms=2000)
    second = also()

    con.execute("select ai_query('chat', 'row ' || i) from range(200) t(i)").fetchall()

    assert (first.request_count, second.request_count) == (200, 0)


def test_an_entity_that_is_alone_is_asked_twice(con: Con, serve: Serve) -> None:
    numbers = itertools.count()
    server = serve(lambda received: Reply(hang=True) if next(numbers) == 0 else chat_reply("again"), hedge_after_ms=50)

    assert ask(con) == "again"
    assert attempts(con) == [("chat-1", "first", "CANCELLED"), ("chat-1", "hedge", None)]
    server.wait_until(lambda server: server.abandoned == 1)


def test_without_fallback_the_same_entity_is_asked_twice(con: Con, serve: Serve, also: Also) -> None:
    numbers = itertools.count()
    serve(
        lambda received: Reply(hang=True) if next(numbers) == 0 else chat_reply("again"),
        hedge_after_ms=50,
        fallback_enabled=False,
    )
    second = also()

    assert ask(con) == "again"
    assert second.request_count == 0


def test_a_first_request_that_fails_leaves_it_to_the_hedge(con: Con, serve: Serve, also: Also) -> None:
    first = serve(lambda received: error_reply(500, "broken").delayed(0.1), hedge_after_ms=40)
    also(late(0.15, "the hedge"))

    assert ask(con) == "the hedge"
    assert first.request_count == 1
    assert attempts(con) == [("chat-1", "first", "INTERNAL_ERROR"), ("chat-2", "hedge", None)]


def test_a_hedge_that_fails_leaves_it_to_the_first_request(con: Con, serve: Serve, also: Also) -> None:
    serve(late(0.2, "the first"), hedge_after_ms=40)
    second = also(lambda received: error_reply(500, "broken"))

    assert ask(con) == "the first"
    assert second.request_count == 1
    assert attempts(con) == [("chat-1", "first", None), ("chat-2", "hedge", "INTERNAL_ERROR")]


def test_a_first_request_that_fails_before_its_time_is_an_ordinary_failure(con: Con, serve: Serve, also: Also) -> None:
    serve(lambda received: error_reply(500, "broken"), hedge_after_ms=2000)
    also()

    assert ask(con) == "echo: x"
    assert attempts(con, "reason") == [("first",), ("fallback",)]


def test_when_both_fail_the_call_goes_on_with_a_third(con: Con, serve: Serve, also: Also) -> None:
    serve(lambda received: error_reply(500, "broken").delayed(0.1), hedge_after_ms=40, max_retries=3)
    also(lambda received: error_reply(503, "busy"))
    also(lambda received: chat_reply("the third"))

    assert ask(con) == "the third"


def test_an_entity_whose_hedge_failed_is_not_asked_again_before_one_that_was_not_asked(
    con: Con, serve: Serve, also: Also
) -> None:
    serve(lambda received: error_reply(500, "broken").delayed(0.1), hedge_after_ms=40, max_retries=3)
    second = also(lambda received: error_reply(503, "busy"))
    also(lambda received: chat_reply("the third"))

    ask(con)

    assert second.request_count == 1


def test_an_entity_that_cut_the_hedge_off_is_not_sent_it_again(con: Con, serve: Serve, also: Also) -> None:
    """It may have been billed, and retry_on_timeout is off."""
    serve(
        lambda received: Reply(body=chat_reply("long").body, cut_after=9, delay_s=0.1), hedge_after_ms=40, max_retries=5
    )
    second = also(lambda received: Reply(body=chat_reply("long").body, cut_after=9))

    fail(con)

    assert second.request_count == 1


def test_requests_of_a_call_that_was_hedged_stay_within_the_budget(con: Con, serve: Serve, also: Also) -> None:
    """One hedge goes beside the first attempt; 2 retries make 4 requests at most."""
    first = serve(lambda received: error_reply(500, "broken").delayed(0.1), hedge_after_ms=40, max_retries=2)
    second = also(lambda received: error_reply(500, "broken"))

    fail(con)

    assert first.request_count + second.request_count <= 4
    assert con.execute("select attempts from fleming.serving.inference").fetchall() == [
        (first.request_count + second.request_count,)
    ]


def test_when_both_fail_there_is_one_error(con: Con, serve: Serve, also: Also) -> None:
    serve(lambda received: error_reply(400, "the first is wrong").delayed(0.1), hedge_after_ms=40)
    also(lambda received: error_reply(400, "the second is wrong"))

    assert "is wrong" in fail(con)
    assert con.execute("select status_code, attempts from fleming.serving.inference").fetchall() == [(400, 2)]


def test_a_percentile_needs_20_answers_first(con: Con, serve: Serve, also: Also) -> None:
    numbers = itertools.count()
    serve(
        lambda received: chat_reply("slow").delayed(0.5) if next(numbers) in (10, 40) else echo_chat(received),
        hedge_percentile=90,
    )
    second = also(lambda received: chat_reply("the hedge"))

    early = [ask(con, f"select ai_query('chat', 'e{number}')") for number in range(11)]
    asked_early = second.request_count
    later = [ask(con, f"select ai_query('chat', 'l{number}')") for number in range(35)]

    assert early[10] == "slow"
    assert asked_early == 0
    assert "slow" not in later


def test_a_percentile_follows_what_answers_take(con: Con, serve: Serve, also: Also) -> None:
    numbers = itertools.count()
    serve(
        lambda received: Reply(hang=True) if next(numbers) >= 30 else echo_chat(received).delayed(0.1),
        hedge_percentile=90,
        adaptive_concurrency=False,
    )
    also(lambda received: chat_reply("the hedge"))
    con.execute("select ai_query('chat', 'row ' || i) from range(30) t(i)").fetchall()
    before = con.execute("select count(*) from fleming.serving.attempts where reason = 'hedge'").fetchall()

    began = time.perf_counter()
    answer = ask(con)

    assert answer == "the hedge"
    assert time.perf_counter() - began >= 0.1
    assert before[0][0] <= 15


def test_an_interrupt_during_a_hedge_logs_both_and_ends_soon(con: Con, serve: Serve, also: Also) -> None:
    first = serve(hang, hedge_after_ms=30)
    second = also(hang)
    interrupted_at: list[float] = []

    def interrupt() -> None:
        second.wait_until(lambda server: server.in_flight == 1)
        interrupted_at.append(time.perf_counter())
        con.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    fail(con)
    took_s = time.perf_counter() - interrupted_at[0]
    thread.join()

    assert took_s < 1
    assert attempts(con) == [("chat-1", "first", "CANCELLED"), ("chat-2", "hedge", "CANCELLED")]
    assert con.execute("select status_code, attempts from fleming.serving.inference").fetchall() == [(499, 2)]
    for server in (first, second):
        server.wait_until(lambda server: server.abandoned == 1)


def test_a_hedge_counts_within_max_concurrency(con: Con, serve: Serve) -> None:
    server = serve(hang, hedge_after_ms=20, max_concurrency=4)
    cursor = con.cursor()
    statement = threading.Thread(target=fail, args=(cursor, "select ai_query('chat', 'row ' || i) from range(9) t(i)"))
    statement.start()
    server.wait_until(lambda server: server.in_flight == 4)
    end = time.monotonic() + 0.2  # ten times as long as it takes for hedges to come due
    most = 0
    while time.monotonic() < end:
        [(under_way,)] = con.execute("select in_flight from fleming.serving.entity_health").fetchall()
        most = max(most, under_way, server.request_count)
    cursor.interrupt()
    statement.join()

    assert most == 4


def test_a_hedge_that_waits_for_a_place_is_not_sent_once_the_answer_is_there(con: Con, serve: Serve) -> None:
    server = serve(lambda received: echo_chat(received).delayed(0.1), hedge_after_ms=20, max_concurrency=1)

    assert ask(con) == "echo: x"
    assert server.request_count == 1
    assert attempts(con) == [("chat-1", "first", None)]


def test_waiting_for_a_place_is_not_waiting_for_an_answer(con: Con, serve: Serve, also: Also) -> None:
    """Answers take 40 ms, far less than hedge_after_ms; only the queue is long."""
    serve(
        lambda received: echo_chat(received).delayed(0.04),
        hedge_after_ms=200,
        max_concurrency=2,
        adaptive_concurrency=False,
    )
    second = also()
    cursors = [con.cursor() for _ in range(8)]
    statements = [
        threading.Thread(
            target=lambda cursor=cursor, at=at: cursor.execute(
                f"select ai_query('chat', '{at} row ' || i) from range(4) t(i)"
            ).fetchall()
        )
        for at, cursor in enumerate(cursors)
    ]
    for statement in statements:
        statement.start()
    for statement in statements:
        statement.join()

    assert second.request_count == 0
    assert con.execute("select count(*) from fleming.serving.attempts where reason = 'hedge'").fetchall() == [(0,)]


def test_a_request_that_lost_leaves_no_place_taken(con: Con, serve: Serve, also: Also) -> None:
    serve(hang, hedge_after_ms=20)
    also()

    ask(con)

    assert con.execute(
        "select served_entity_name, in_flight, waiting, state from fleming.serving.entity_health order by all"
    ).fetchall() == [("chat-1", 0, 0, "closed"), ("chat-2", 0, 0, "closed")]


def test_a_batch_with_stragglers_is_answered_row_by_row(con: Con, serve: Serve, also: Also) -> None:
    numbers = itertools.count()
    serve(
        lambda received: Reply(hang=True) if next(numbers) % 20 == 0 else echo_chat(received),
        hedge_after_ms=150,
        breaker_min_calls=1000,
    )
    second = also()

    rows = con.execute("select i, ai_query('chat', 'q' || i) from range(200) t(i)").fetchall()

    assert rows == [(number, f"echo: q{number}") for number in range(200)]
    assert second.request_count >= 10


def test_a_retry_is_not_hedged(con: Con, serve: Serve) -> None:
    numbers = itertools.count()
    server = serve(
        lambda received: error_reply(503, "busy") if next(numbers) == 0 else chat_reply("fine").delayed(0.2),
        hedge_after_ms=50,
    )

    assert ask(con) == "fine"
    assert server.request_count == 2


def test_an_entity_that_is_left_out_gets_no_hedge(con: Con, serve: Serve, also: Also) -> None:
    numbers = itertools.count()

    def half_then_none(received: Received) -> Reply:
        number = next(numbers)
        if number >= 8:
            return Reply(hang=True)
        return error_reply(500, "broken") if number % 2 else echo_chat(received)

    serve(half_then_none, breaker_min_calls=3, breaker_failure_share=0.8, breaker_open_ms=60_000)
    second = also(lambda received: error_reply(500, "broken"))
    also(lambda received: chat_reply("the third"))
    for _ in range(8):
        ask(con)
    con.execute("update fleming.endpoints set hedge_after_ms = 50")

    assert second.request_count == 3
    assert ask(con) == "the third"
    assert second.request_count == 3


def test_the_wait_of_a_hedge_for_its_place_is_no_part_of_the_calls_queueing(con: Con, serve: Serve) -> None:
    serve(lambda received: echo_chat(received).delayed(0.1), hedge_after_ms=20, max_concurrency=1)

    ask(con)

    [(took_ms, queued_ms)] = con.execute(
        "select execution_duration_ms, queue_ms from fleming.serving.inference"
    ).fetchall()
    assert took_ms >= 95
    assert queued_ms < 20


def test_embeddings_are_not_hedged(con: Con, serve: Serve) -> None:
    server = serve(
        lambda received: embeddings_reply([[1.0]] * len(received.json()["input"])).delayed(0.15),
        task="llm/v1/embeddings",
        hedge_after_ms=30,
    )

    con.execute("select ai_query('chat', 'row ' || i) from range(5) t(i)").fetchall()

    assert server.request_count == 1


def test_a_request_that_failed_after_its_statement_had_stopped_is_in_the_log(con: Con, serve: Serve) -> None:
    """Its hedge came due when the statement sent nothing more."""

    def by_question(received: Received) -> Reply:
        if received.json()["messages"][0]["content"] == "slow":
            return error_reply(500, "broken").delayed(0.25)
        return error_reply(400, "wrong").delayed(0.05)

    server = serve(by_question, hedge_after_ms=120, max_retries=0)

    fail(con, "select ai_query('chat', q) from (values ('slow'), ('bad')) t(q)")

    made = con.execute("select status_code from fleming.serving.attempts order by all").fetchall()
    assert server.request_count == 2
    assert made == [(400,), (500,)]


def test_an_answer_that_came_after_its_statement_had_stopped_is_in_the_log(con: Con, serve: Serve) -> None:
    def by_question(received: Received) -> Reply:
        if received.json()["messages"][0]["content"] == "slow":
            return chat_reply("fine").delayed(0.25)
        return error_reply(400, "wrong").delayed(0.05)

    serve(by_question, hedge_after_ms=120, max_retries=0)

    fail(con, "select ai_query('chat', q) from (values ('slow'), ('bad')) t(q)")

    assert con.execute("select status_code from fleming.serving.inference order by all").fetchall() == [(200,), (400,)]
