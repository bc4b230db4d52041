"""How much may be called: rows of rate_limits, as they look from SQL. Bounds on time allow for a machine that is busy.

That no window ever holds more than its limit, and how well a limit is used, test_limiter.py shows in a time of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Serve

import fleming_sql
from fleming_sql import Connection
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, echo_chat, embeddings_reply, error_reply

Join = Callable[..., Connection]
USED_BY_EACH = 12
"""Tokens that the mock model says a call came to."""


def limit(con: Any, key: str = "endpoint", principal: str | None = None, **columns: Any) -> None:
    """Add a row to `rate_limits` that refuses, unless the columns say otherwise."""
    row = {"endpoint": "chat", "key": key, "principal": principal, "on_exceeded": "reject", **columns}
    con.execute(
        f"insert into fleming.rate_limits ({', '.join(row)}) values ({', '.join('?' * len(row))})", list(row.values())
    )


def principal(con: Any, name: str, kind: str = "user") -> None:
    con.execute("insert into fleming.principals (name, type) values (?, ?)", [name, kind])


def ask(con: Any, text: str = "x", arguments: str = "") -> Any:
    return con.execute(f"select ai_query('chat', ?{arguments})", [text]).fetchall()[0][0]


def ask_many(con: Any, rows: int, text: str = "q", arguments: str = "") -> tuple[int, list[str]]:
    """Ask `rows` different questions in one statement; return how many were answered, and the other rows' errors."""
    found = con.execute(
        f"select (ai_query('chat', ? || i, failOnError => false{arguments})).errorMessage from range(?) t(i)",
        [text, rows],
    ).fetchall()
    errors = [message for (message,) in found if message is not None]
    return len(found) - len(errors), errors


def refused(con: Any, text: str = "y", arguments: str = "") -> str:
    with pytest.raises(duckdb.Error, match="REQUEST_LIMIT_EXCEEDED") as caught:
        ask(con, text, arguments)
    return str(caught.value)


def used(con: Any, metric: str = "calls") -> int:
    """Return what the one limit on that metric has admitted."""
    rows = con.execute("select used from fleming.serving.rate_limit_usage where metric = ?", [metric]).fetchall()
    return int(rows[0][0])


def until(con: Any, condition: str, timeout_s: float = 10.0) -> None:
    """Ask the live views until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not con.execute(f"select {condition}").fetchall()[0][0]:
        assert time.monotonic() < deadline, condition


WAITING = "exists (from fleming.serving.progress where waiting_for_limit > 0)"


@contextmanager
def in_background(con: Any, sql: str) -> Iterator[Future[Any]]:
    """Run a statement in another thread; it is interrupted at the end."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: con.execute(sql).fetchall())
        try:
            yield running
        finally:
            while not running.done():
                con.interrupt()
                time.sleep(0.01)


@pytest.fixture
def join(request: pytest.FixtureRequest, add_endpoint: AddEndpoint, model: MockModel) -> Iterator[Join]:
    """Connect to one database, as anybody; the endpoint is `model`'s, and keeps no answers."""
    with ExitStack() as opened:

        def connect(user: str, *groups: str) -> Connection:
            return opened.enter_context(fleming_sql.connect(f":memory:{id(request)}", user=user, groups=groups))

        add_endpoint(connect("owner"), base_url=model.url, cache_ttl_seconds=None)
        yield connect


# exact


def test_of_a_thousand_concurrent_calls_exactly_the_limit_is_sent(con: Connection, model: MockModel) -> None:
    limit(con, calls=100)
    cursors = [con.cursor() for _ in range(20)]

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda number: ask_many(cursors[number], 50, f"{number}-"), range(20)))

    assert model.request_count == 100
    assert sum(answered for answered, _ in results) == 100
    assert sum(len(errors) for _, errors in results) == 900


def test_a_refused_call_is_logged_with_its_status_and_no_attempt(con: Connection, model: MockModel) -> None:
    limit(con, calls=1)
    ask(con)
    text = refused(con)

    logged = con.execute(
        "select requester, status_code, error_code, attempts, error_message from fleming.serving.inference "
        "where status_code <> 200"
    ).fetchall()

    assert logged[0][:4] == ("ada", 429, "REQUEST_LIMIT_EXCEEDED", 0)
    assert logged[0][4] in text
    assert model.request_count == 1


def test_a_refusal_tells_the_seconds_to_wait_and_the_row_to_change(con: Connection, model: MockModel) -> None:
    limit(con, calls=1)
    ask(con)

    text = refused(con)

    assert "HTTP status 429" in text
    assert "the limit of 1 calls per minute" in text
    assert "fleming.rate_limits" in text
    seconds = float(text.split("try again in ")[1].split(" s")[0])
    assert 50 < seconds <= 60.2


def test_a_refused_row_fails_the_statement_unless_errors_are_asked_for(con: Connection, model: MockModel) -> None:
    limit(con, calls=3)

    with pytest.raises(duckdb.Error, match="REQUEST_LIMIT_EXCEEDED"):
        con.execute("select ai_query('chat', 'q' || i) from range(10) t(i)").fetchall()
    assert model.request_count <= 3


def test_a_limit_of_another_endpoint_does_not_count(
    con: Connection, model: MockModel, add_endpoint: AddEndpoint
) -> None:
    add_endpoint(con, "other", base_url=model.url)
    limit(con, calls=1, endpoint="other")

    assert ask_many(con, 5)[0] == 5


def test_rows_of_embeddings_count_one_by_one_though_they_share_a_request(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: embeddings_reply([[1.0]] * len(received.json()["input"])), task="llm/v1/embeddings")
    limit(con, calls=5)

    assert ask_many(con, 12)[0] == 5
    assert sum(len(request.json()["input"]) for request in server.requests) == 5


def test_a_call_that_is_sent_again_counts_once(con: Connection, serve: Serve) -> None:
    replies = iter([error_reply(500, "again", headers={"retry-after-ms": "1"}), chat_reply("ok")])
    serve(lambda received: next(replies))
    limit(con, calls=5)

    assert ask(con) == "ok"
    assert used(con) == 1


@pytest.mark.parametrize("task", ["llm/v1/chat", "llm/v1/embeddings"])
def test_limits_go_on_counting_after_reopening(tmp_path: Path, add_endpoint: AddEndpoint, task: str) -> None:
    def answer(received: Received) -> Reply:
        texts = received.json().get("input")
        return echo_chat(received) if texts is None else embeddings_reply([[1.0]] * len(texts))

    with MockModel(answer) as server:
        answered = []
        for number in range(3):
            with fleming_sql.connect(gateway=tmp_path / "g.duckdb", user="ada") as con:
                if number == 0:
                    add_endpoint(con, base_url=server.url, task=task)
                    limit(con, calls=7)
                answered.append(ask_many(con, 5, f"{number}-")[0])

    assert answered == [5, 2, 0]


# whose


def test_the_default_limit_is_each_users_own(join: Join) -> None:
    limit(join("owner"), "user", calls=2)

    assert ask_many(join("ada"), 5)[0] == 2
    assert ask_many(join("bob"), 5)[0] == 2


def test_a_users_connections_share_its_limit(join: Join) -> None:
    limit(join("owner"), "user", calls=3)

    assert ask_many(join("ada"), 2, "a")[0] == 2
    assert ask_many(join("ada"), 2, "b")[0] == 1


def test_a_limit_of_its_name_takes_the_place_of_the_default_and_the_groups(join: Join) -> None:
    owner = join("owner")
    principal(owner, "ada")
    principal(owner, "staff", "group")
    limit(owner, "user", calls=1)
    limit(owner, "user_group", "staff", calls=2)
    limit(owner, "user", "ada", calls=4)

    assert ask_many(join("ada", "staff"), 9)[0] == 4


def test_a_limit_of_its_group_takes_the_place_of_the_default(join: Join) -> None:
    owner = join("owner")
    principal(owner, "staff", "group")
    limit(owner, "user", calls=1)
    limit(owner, "user_group", "staff", calls=3)

    assert ask_many(join("ada", "staff"), 9)[0] == 3
    assert ask_many(join("bob"), 9)[0] == 1


def test_a_service_principal_has_a_limit_of_its_own(join: Join) -> None:
    owner = join("owner")
    principal(owner, "etl", "service_principal")
    limit(owner, "service_principal", "etl", calls=3)

    assert ask_many(join("etl"), 9)[0] == 3
    assert ask_many(join("ada"), 9)[0] == 9


def test_members_share_the_limit_of_their_group(join: Join) -> None:
    owner = join("owner")
    for name in ("ada", "bob"):
        principal(owner, name)
    principal(owner, "staff", "group")
    owner.execute("insert into fleming.group_members values ('staff', 'bob')")
    limit(owner, "user_group", "staff", calls=5)

    assert ask_many(join("ada", "staff"), 3)[0] == 3
    assert ask_many(join("bob"), 9)[0] == 2
    assert ask_many(join("ada", "staff"), 9)[0] == 0


def test_a_member_of_several_groups_is_held_up_only_when_all_are_used_up(join: Join) -> None:
    owner = join("owner")
    for name, calls in (("red", 2), ("blue", 4)):
        principal(owner, name, "group")
        limit(owner, "user_group", name, calls=calls)

    assert ask_many(join("ada", "red", "blue"), 9)[0] == 4
    assert ask_many(join("bob", "red"), 9)[0] == 0


def test_the_endpoints_limit_holds_whatever_users_have_left(join: Join) -> None:
    owner = join("owner")
    limit(owner, calls=3)
    limit(owner, "user", calls=100)

    assert ask_many(join("ada"), 2)[0] == 2
    assert ask_many(join("bob"), 9)[0] == 1


def test_who_may_not_call_uses_up_no_limit(join: Join) -> None:
    owner = join("owner")
    principal(owner, "owner")
    owner.execute("insert into fleming.permissions (endpoint, principal) values ('chat', 'owner')")
    limit(owner, calls=2)

    assert ask_many(join("ada"), 9)[0] == 0
    assert ask_many(owner, 9)[0] == 2


# several together


@pytest.mark.parametrize(("calls", "tokens", "answered"), [(3, 100_000, 3), (100, 250, 2)])
def test_of_calls_and_tokens_the_stricter_holds(
    con: Connection, serve: Serve, calls: int, tokens: int, answered: int
) -> None:
    serve(lambda received: echo_chat(received).delayed(0.3))
    limit(con, calls=calls)
    limit(con, tokens=tokens)

    assert ask_many(con, 9, arguments=", modelParameters => {'max_tokens': 100}")[0] == answered


@pytest.mark.parametrize(("minute", "hour"), [(3, 5), (5, 3)])
def test_of_minute_and_hour_the_stricter_holds(con: Connection, model: MockModel, minute: int, hour: int) -> None:
    limit(con, calls=minute)
    limit(con, calls=hour, renewal_period="hour")

    answered, errors = ask_many(con, 9)

    assert answered == 3
    assert all(f"3 calls per {'minute' if minute == 3 else 'hour'}" in error for error in errors)


def test_a_changed_amount_is_in_force_at_the_next_statement_and_goes_on_counting(
    con: Connection, model: MockModel
) -> None:
    limit(con, calls=3)
    assert ask_many(con, 9, "a")[0] == 3
    con.execute("update fleming.rate_limits set calls = 5")
    assert ask_many(con, 9, "b")[0] == 2
    con.execute("update fleming.rate_limits set calls = 4")
    assert ask_many(con, 9, "c")[0] == 0
    con.execute("delete from fleming.rate_limits")
    assert ask_many(con, 9, "d")[0] == 9


# what costs nothing


def test_answers_from_the_cache_cost_nothing(con: Connection, serve: Serve) -> None:
    server = serve(cache_ttl_seconds=3600)
    limit(con, calls=2)
    limit(con, tokens=1000)
    ask_many(con, 2)

    assert [ask_many(con, 2)[0] for _ in range(5)] == [2] * 5
    assert server.request_count == 2
    assert (used(con), used(con, "tokens")) == (2, 2 * USED_BY_EACH)


def test_identical_rows_on_their_way_cost_once(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: echo_chat(received).delayed(0.3), cache_ttl_seconds=3600)
    limit(con, calls=1)
    cursors = [con.cursor() for _ in range(4)]
    sql = "select count(*) from (select ai_query('chat', 'same') as a from range(100)) where a = 'echo: same'"

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda cursor: cursor.execute(sql).fetchall()[0][0], cursors))

    assert counts == [100] * 4
    assert server.request_count == 1
    assert used(con) == 1


def test_failed_calls_give_their_tokens_back_and_stay_counted(con: Connection, serve: Serve) -> None:
    serve(lambda received: error_reply(400, "no"))
    limit(con, calls=100)
    limit(con, tokens=100_000)

    ask_many(con, 7)

    assert (used(con), used(con, "tokens")) == (7, 0)


def test_tokens_are_settled_to_what_the_provider_says(con: Connection, serve: Serve) -> None:
    serve(lambda received: chat_reply("ok", prompt_tokens=70, completion_tokens=5))
    limit(con, tokens=1000)

    ask(con, "x", ", modelParameters => {'max_tokens': 900}")

    assert used(con, "tokens") == 75


def test_tokens_are_reserved_while_calls_are_on_their_way(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: echo_chat(received).delayed(0.3))
    limit(con, tokens=1000)

    answered, errors = ask_many(con, 10, arguments=", modelParameters => {'max_tokens': 400}")

    assert (answered, server.request_count) == (2, 2)
    assert all("1000 tokens per minute" in error for error in errors)
    assert used(con, "tokens") == 2 * USED_BY_EACH


def test_what_calls_give_back_is_there_for_those_that_wait(con: Connection, serve: Serve) -> None:
    serve(lambda received: echo_chat(received).delayed(0.05))
    limit(con, tokens=60_000, on_exceeded="wait", max_wait_ms=20_000)

    began = time.monotonic()
    answered, errors = ask_many(con, 6, arguments=", modelParameters => {'max_tokens': 50000}")

    assert (answered, errors) == (6, [])
    assert time.monotonic() - began < 10  # what was reserved for all of them would have taken five minutes


def test_a_call_that_the_limit_can_never_admit_is_refused_at_once_with_advice(
    con: Connection, model: MockModel
) -> None:
    limit(con, tokens=1000, on_exceeded="wait")

    text = refused(con, "x", ", modelParameters => {'max_tokens': 2000}")

    assert "max_tokens" in text
    assert "1000 tokens per minute" in text
    assert model.request_count == 0


def test_a_call_that_was_broken_off_before_it_was_sent_gives_its_room_back(con: Connection, serve: Serve) -> None:
    server = serve(lambda received: Reply(hang=True), max_concurrency=2)
    limit(con, calls=100)

    with in_background(con.cursor(), "select ai_query('chat', 'q' || i) from range(30) t(i)"):
        server.wait_until(lambda server: server.in_flight == 2)

    assert used(con) == server.request_count == 2


# waiting


def test_rows_beyond_max_wait_are_refused_and_those_there_is_room_for_admitted(
    con: Connection, model: MockModel
) -> None:
    limit(con, calls=5, on_exceeded="wait", max_wait_ms=200)
    began = time.monotonic()

    answered, errors = ask_many(con, 10)

    assert (answered, len(errors), model.request_count) == (5, 5, 5)
    assert time.monotonic() - began < 5
    assert all("max_wait_ms" in error for error in errors)


def test_a_batch_is_paced_evenly_at_the_limit(con: Connection, model: MockModel) -> None:
    limit(con, calls=1200, on_exceeded="wait")

    assert ask_many(con, 40)[0] == 40

    times = sorted(request.at for request in model.requests)
    assert 1.9 < times[-1] - times[0] < 4
    for start in times:
        assert sum(start <= at <= start + 0.5 for at in times) <= 16  # 10, and what arrives late


def test_a_limit_is_used_to_98_percent(con: Connection, model: MockModel) -> None:
    limit(con, calls=6000, on_exceeded="wait")

    ask_many(con, 200)

    times = sorted(request.at for request in model.requests)
    assert 1.9 < times[-1] - times[0] < 2.03 * 1.5  # 1.99 s by the limit; the rest is for a busy machine


def test_statements_of_one_row_are_not_paced_while_there_is_room(con: Connection, model: MockModel) -> None:
    limit(con, calls=6, on_exceeded="wait")
    began = time.monotonic()

    for number in range(6):
        ask(con, f"q{number}")

    assert time.monotonic() - began < 8  # one in 10 s would be the pace


def test_a_statement_of_one_row_does_not_wait_for_the_pace_of_a_batch(join: Join) -> None:
    ada, bob = join("ada"), join("bob")
    limit(ada, calls=6, on_exceeded="wait")  # one in 10 s

    with in_background(ada, "select ai_query('chat', 'q' || i) from range(3) t(i)"):
        until(bob, WAITING)
        began = time.monotonic()
        assert ask(bob) == "echo: x"
        assert time.monotonic() - began < 4


def test_one_call_of_bob_does_not_wait_for_adas_500_rows(join: Join) -> None:
    ada, bob = join("ada"), join("bob")
    limit(ada, calls=600, on_exceeded="wait")

    with in_background(ada, "select ai_query('chat', 'q' || i) from range(500) t(i)") as running:
        until(bob, WAITING)
        assert ask(bob) == "echo: x"
        assert not running.done()

    ((waited_ms,),) = bob.execute(
        "select limit_wait_ms from fleming.serving.inference where requester = 'bob'"
    ).fetchall()
    assert waited_ms < 2000


def test_two_batches_of_two_users_share_the_limit(join: Join) -> None:
    ada, bob = join("ada"), join("bob")
    limit(ada, calls=1200, on_exceeded="wait")

    with in_background(ada, "select ai_query('chat', 'q' || i) from range(500) t(i)"):
        until(bob, WAITING)
        assert ask_many(bob, 10)[0] == 10
        ((of_ada,),) = bob.execute(
            "select count(*) from fleming.serving.inference where requester = 'ada' and status_code = 200 and "
            "request_time >= (select min(request_time) from fleming.serving.inference where requester = 'bob')"
        ).fetchall()

    assert of_ada <= 20


def test_an_interrupt_ends_the_wait_and_takes_nothing_of_the_limit(con: Connection, model: MockModel) -> None:
    limit(con, calls=2, on_exceeded="wait")
    worker = con.cursor()
    ask(con, "1")
    ask(con, "2")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask_many, worker, 50)
        until(con, WAITING)
        began = time.monotonic()
        worker.interrupt()
        with pytest.raises(duckdb.Error):
            running.result()

    assert time.monotonic() - began < 1
    assert (used(con), model.request_count) == (2, 2)
    assert con.execute("select count(*) from fleming.serving.progress").fetchall() == [(0,)]
    assert con.execute("select count(*) from fleming.serving.inference").fetchall() == [(2,)]


def test_closing_a_connection_ends_the_wait(con: Connection, model: MockModel) -> None:
    limit(con, calls=1, on_exceeded="wait")
    worker = con.cursor()
    ask(con)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask_many, worker, 5)
        until(con, WAITING)
        began = time.monotonic()
        worker.close()
        with pytest.raises(duckdb.Error):
            running.result()

    assert time.monotonic() - began < 5
    assert (used(con), model.request_count) == (1, 1)


def test_how_long_a_call_waited_for_a_limit_is_logged(con: Connection, model: MockModel) -> None:
    limit(con, calls=600, on_exceeded="wait")
    ask_many(con, 4)

    rows = con.execute(
        "select limit_wait_ms, queue_ms, execution_duration_ms from fleming.serving.inference order by request_time"
    ).fetchall()

    assert max(waited for waited, _, _ in rows) >= 250
    assert all(queued >= waited for waited, queued, _ in rows)
    assert min(waited for waited, _, _ in rows) < 50


def test_without_limits_no_call_waits_for_one(con: Connection, model: MockModel) -> None:
    ask_many(con, 4)

    assert con.execute("select max(limit_wait_ms) from fleming.serving.inference").fetchall() == [(0.0,)]


def test_a_call_that_waits_for_a_limit_is_not_timed_out(con: Connection, serve: Serve) -> None:
    serve(timeout_ms=300)
    limit(con, calls=600, on_exceeded="wait")

    assert ask_many(con, 9) == (9, [])


# what is seen


def test_usage_shows_each_counter_that_calls_have_met(join: Join) -> None:
    ada = join("ada")
    principal(ada, "ada")
    limit(ada, calls=10)
    limit(ada, tokens=1000, renewal_period="hour")
    limit(ada, "user", "ada", calls=5)
    limit(ada, "user", calls=3)
    ask_many(ada, 2)
    ask_many(join("bob"), 1)

    assert ada.execute("from fleming.serving.rate_limit_usage").fetchall() == [
        ("chat", "endpoint", None, "calls", "minute", 10, 3, 7),
        ("chat", "endpoint", None, "tokens", "hour", 1000, 3 * USED_BY_EACH, 1000 - 3 * USED_BY_EACH),
        ("chat", "user", "ada", "calls", "minute", 5, 2, 3),
        ("chat", "user", "bob", "calls", "minute", 3, 1, 2),
    ]


def test_usage_shows_no_limit_that_is_gone(con: Connection, model: MockModel) -> None:
    limit(con, calls=10)
    ask(con, "1")
    con.execute("delete from fleming.rate_limits")
    ask(con, "2")

    assert con.execute("from fleming.serving.rate_limit_usage").fetchall() == []


def test_usage_shows_a_changed_amount(con: Connection, model: MockModel) -> None:
    limit(con, calls=10)
    ask(con, "1")
    con.execute("update fleming.rate_limits set calls = 20")
    ask(con, "2")

    assert con.execute("select amount, used from fleming.serving.rate_limit_usage").fetchall() == [(20, 2)]


def test_progress_shows_what_a_statement_waits_for(con: Connection, model: MockModel) -> None:
    limit(con, calls=2, on_exceeded="wait")
    watcher = con.cursor()
    ask(con, "1")

    with in_background(con, "select ai_query('chat', 'q' || i) from range(2000) t(i)"):
        until(watcher, f"{WAITING} and (select max(calls_done) from fleming.serving.progress) = 1")
        rows = watcher.execute(
            "select requester, calls_done, calls_failed, calls_left, limit_reached, "
            "next_call_in_ms from fleming.serving.progress"
        ).fetchall()

    assert len(rows) == 1
    requester, done, failed, left, reached, next_ms = rows[0]
    assert (requester, done, failed, left) == ("ada", 1, 0, 1999)
    assert "the limit of 2 calls per minute" in reached
    assert 40_000 < next_ms <= 60_200


def test_progress_is_empty_when_nothing_runs(con: Connection, model: MockModel) -> None:
    ask_many(con, 5)

    assert con.execute("from fleming.serving.progress").fetchall() == []


def test_statement_ids_of_progress_are_those_of_the_log(con: Connection, model: MockModel) -> None:
    limit(con, calls=1, on_exceeded="wait")
    watcher = con.cursor()

    with in_background(con, "select ai_query('chat', 'q' || i) from range(5) t(i)"):
        until(watcher, f"{WAITING} and (select max(calls_done) from fleming.serving.progress) = 1")
        ((shown,),) = watcher.execute("select statement_id from fleming.serving.progress").fetchall()

    assert con.execute("select distinct statement_id from fleming.serving.inference").fetchall() == [(shown,)]
