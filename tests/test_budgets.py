"""What calls may cost: rows of budgets, as they look from SQL. Each answer costs what the mock model says it used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Con

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.policies.budgets import window_of
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, error_reply

Join = Callable[..., Con]
INPUT, OUTPUT = 1000, 200
COST = 0.005
"""US dollars: 1,000 tokens at 1 dollar a million, and 200 at 20."""


class SetClock(Clock):
    """Stands still until it is set."""

    def __init__(self, at: datetime) -> None:
        super().__init__()
        self.at = at

    def now(self) -> datetime:
        return self.at


def answer(_: Received, output: int = OUTPUT) -> Reply:
    return replace(chat_reply("an answer", prompt_tokens=INPUT, completion_tokens=output), delay_s=0.002)


@pytest.fixture
def priced() -> Iterator[MockModel]:
    with MockModel(answer) as model:
        yield model


def set_up(con: Any, add_endpoint: AddEndpoint, model: MockModel, name: str = "chat", **columns: Any) -> None:
    add_endpoint(con, name, base_url=model.url, **{"cache_ttl_seconds": None, **columns})
    con.execute(
        "insert into fleming.model_prices (provider, model, input_per_million, output_per_million) "
        "select 'openai', 'mock', 1, 20 where not exists (from fleming.model_prices where model = 'mock')"
    )


@pytest.fixture
def con(priced: MockModel, add_endpoint: AddEndpoint) -> Iterator[Con]:
    with fleming_sql.connect(user="ada") as con:
        set_up(con, add_endpoint, priced)
        yield con


@pytest.fixture
def join(request: pytest.FixtureRequest, add_endpoint: AddEndpoint, priced: MockModel) -> Iterator[Join]:
    """Connect to one database, as anybody."""
    with ExitStack() as opened:

        def connect(user: str, *groups: str) -> Con:
            return opened.enter_context(fleming_sql.connect(f":memory:{id(request)}", user=user, groups=groups))

        set_up(connect("owner"), add_endpoint, priced)
        yield connect


def budget(con: Any, amount_usd: float, **columns: Any) -> None:
    """Add a budget that blocks, unless the columns say otherwise."""
    row = {"amount_usd": amount_usd, "action": "block", **columns}
    names = ", ".join(f'"{name}"' for name in row)
    con.execute(f"insert into fleming.budgets ({names}) values ({', '.join('?' * len(row))})", list(row.values()))


def ask(con: Any, text: str = "x", arguments: str = ", modelParameters => struct_pack(max_tokens := 200)") -> Any:
    return con.execute(f"select ai_query('chat', ?{arguments})", [text]).fetchall()[0][0]


def ask_many(con: Any, rows: int, text: str = "q", arguments: str = "") -> tuple[int, list[str]]:
    """Ask different questions in one statement; return how many were answered, and the other rows' errors."""
    found = con.execute(
        f"select (ai_query('chat', ? || i, failOnError => false{arguments})).errorMessage from range(?) t(i)",
        [text, rows],
    ).fetchall()
    errors = [message for (message,) in found if message is not None]
    return len(found) - len(errors), errors


BOUNDED = ", modelParameters => struct_pack(max_tokens := 200)"


def refused(con: Any, text: str = "y", arguments: str = BOUNDED) -> str:
    with pytest.raises(duckdb.Error, match="BUDGET_EXCEEDED") as caught:
        ask(con, text, arguments)
    return str(caught.value)


def spent(con: Any, name: str = "global/month") -> float:
    return float(con.execute("select spent_usd from fleming.serving.spend where budget = ?", [name]).fetchall()[0][0])


# exact


def test_a_call_is_made_as_long_as_something_is_left(con: Con, priced: MockModel) -> None:
    budget(con, 3.5 * COST)
    answered, errors = ask_many(con, 10, arguments=BOUNDED)
    assert priced.request_count == answered == 4
    assert len(errors) == 6


def test_a_refusal_has_status_403_and_names_the_budget_and_what_to_do(con: Con, priced: MockModel) -> None:
    budget(con, COST, name="the lab", scope="user")
    ask(con)

    text = refused(con)

    assert 'the budget "the lab" of "ada" is used up: 0.005 of 0.005 US dollars spent since ' in text
    assert "fleming.budgets" in text
    assert "HTTP status 403" in text
    assert con.execute(
        "select status_code, error_code, attempts from fleming.serving.inference where status_code <> 200"
    ).fetchall() == [(403, "BUDGET_EXCEEDED", 0)]


@pytest.mark.parametrize("callers", [1, 3])
def test_200_rows_in_flight_pass_a_budget_by_no_more_than_a_call_per_caller(
    join: Join, priced: MockModel, callers: int
) -> None:
    connections = [join(f"user{number}") for number in range(callers)]
    connections[0].execute("update fleming.endpoints set max_concurrency = 200")
    budget(connections[0], 100.5 * COST)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(lambda number: ask_many(connections[number], 200, f"{number}-"), range(callers)))

    assert 101 <= priced.request_count <= 100 + callers
    assert spent(connections[0]) == pytest.approx(priced.request_count * COST)


def test_answers_dearer_than_guessed_pass_a_budget_by_no_more_than_a_call(add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda received: answer(received, 20_000)) as dear, fleming_sql.connect() as con:
        set_up(con, add_endpoint, dear, max_concurrency=200)
        budget(con, 30.5 * 0.401)
        ask_many(con, 200)
        assert dear.request_count == 31


def test_many_calls_are_made_at_once_where_the_budget_has_room_for_them(con: Con, priced: MockModel) -> None:
    con.execute("update fleming.endpoints set max_concurrency = 50")
    budget(con, 1000)
    assert ask_many(con, 200)[0] == 200
    assert priced.peak_in_flight > 10


def test_calls_wait_for_those_under_way_and_are_made_when_these_cost_less(con: Con, priced: MockModel) -> None:
    budget(con, 10 * COST)
    # Each reserves a hundred times of what it comes to.
    answered, _ = ask_many(con, 8, arguments=", modelParameters => struct_pack(max_tokens := 20000)")
    assert (answered, priced.request_count) == (8, 8)
    waited = con.execute("select max(limit_wait_ms) from fleming.serving.inference").fetchall()[0][0]
    assert waited > 0


def test_a_call_that_waits_for_a_budget_can_be_interrupted(add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda _: replace(answer(_), delay_s=30)) as slow, fleming_sql.connect() as con:
        set_up(con, add_endpoint, slow)
        budget(con, COST)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ask_many, con, 2)
            slow.wait_until(lambda model: model.in_flight == 1)
            con.interrupt()
            with pytest.raises(duckdb.Error):
                running.result(timeout=10)
        assert slow.request_count == 1


def test_a_call_reserves_at_the_dearest_tier_that_it_may_get(add_endpoint: AddEndpoint) -> None:
    def at_priority(received: Received) -> Reply:
        reply = answer(received)
        assert isinstance(reply.body, dict)
        reply.body["service_tier"] = "priority"
        return replace(reply, delay_s=0.05)

    with MockModel(at_priority) as model, fleming_sql.connect() as con:
        set_up(con, add_endpoint, model, max_concurrency=64, default_parameters={"service_tier": "priority"})
        con.execute(
            "insert into fleming.model_prices (provider, model, input_per_million, output_per_million, service_tier) "
            "values ('openai', 'mock', 0, 200, 'priority')"
        )
        budget(con, 3.5 * 0.04)
        ask_many(con, 30, arguments=BOUNDED)
        assert model.request_count == 4


def test_pictures_are_reserved_for(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda _: replace(chat_reply("x", prompt_tokens=1500, completion_tokens=1), delay_s=0.05)) as model:
        set_up(con, add_endpoint, model, "seen", max_concurrency=64)
        budget(con, 3.5 * 0.00152)
        con.execute(
            "select ai_query('seen', 'q' || i, files => ?::blob, failOnError => false, "
            "modelParameters => struct_pack(max_tokens := 1)) from range(30) t(i)",
            [b"\x89PNG\r\n\x1a\n" + bytes(100)],
        ).fetchall()
        assert model.request_count == 4


def test_text_that_is_not_ascii_is_reserved_for(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda _: replace(chat_reply("x", prompt_tokens=1000, completion_tokens=0), delay_s=0.05)) as model:
        set_up(con, add_endpoint, model, "seen", max_concurrency=64)
        budget(con, 3.5 * 0.001)
        con.execute(
            "select ai_query('seen', repeat('語', 1000) || i, failOnError => false, "
            "modelParameters => struct_pack(max_tokens := 1)) from range(30) t(i)"
        ).fetchall()
        assert model.request_count == 4


def test_attempts_that_may_each_be_billed_are_all_reserved_for(add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda _: Reply(hang=True)) as silent, fleming_sql.connect() as con:
        columns: dict[str, Any] = {"attempt_timeout_ms": 30, "retry_on_timeout": True, "max_retries": 4}
        set_up(con, add_endpoint, silent, max_concurrency=64, breaker_min_calls=1000, **columns)
        budget(con, 10.5 * 0.004)  # 200 tokens at 20 dollars a million
        ask_many(con, 20, arguments=BOUNDED)
        assert 11 <= silent.request_count <= 15


# what counts


def test_a_reused_answer_is_given_though_the_budget_is_used_up(con: Con, priced: MockModel) -> None:
    con.execute("update fleming.endpoints set cache_ttl_seconds = 3600")
    budget(con, COST)
    ask(con, "same", arguments="")
    refused(con, "other", arguments="")
    assert ask(con, "same", arguments="") == "an answer"
    assert priced.request_count == 1


def test_a_budget_of_each_user_leaves_the_others_theirs(join: Join) -> None:
    ada, bob = join("ada"), join("bob")
    budget(ada, COST, scope="user", window="day")
    ask(ada)
    refused(ada)
    ask(bob)
    assert ada.execute("select subject, spent_usd from fleming.serving.spend order by 1").fetchall() == [
        ("ada", COST),
        ("bob", COST),
    ]


def test_members_share_the_budget_of_their_group(join: Join) -> None:
    ada, bob, eve = join("ada"), join("bob"), join("eve")
    ada.execute("insert into fleming.principals (name, type) values ('lab', 'group'), ('ada', 'user'), ('bob', 'user')")
    ada.execute("insert into fleming.group_members (group_name, member) values ('lab', 'ada'), ('lab', 'bob')")
    budget(ada, 2 * COST, scope="group", principal="lab")
    ask(ada)
    ask(bob)
    refused(ada)
    refused(bob)
    ask(eve)
    assert spent(ada, "group lab/month") == 2 * COST


def test_a_budget_goes_by_a_key_of_the_usage_context(con: Con) -> None:
    budget(con, COST, scope="context", context_key="team")
    blue = BOUNDED + ", usageContext => map {'team': 'blue'}"
    ask(con, arguments=blue)
    assert 'of "blue"' in refused(con, arguments=blue)
    ask(con, arguments=BOUNDED + ", usageContext => map {'team': 'red'}")
    ask(con)


def test_a_budget_of_an_endpoint_leaves_the_others_alone(
    con: Con, priced: MockModel, add_endpoint: AddEndpoint
) -> None:
    set_up(con, add_endpoint, priced, "other")
    budget(con, COST, scope="endpoint", endpoint="chat")
    ask(con)
    refused(con)
    con.execute("select ai_query('other', 'x')").fetchall()


def test_calls_that_usage_tracking_leaves_out_count_too(con: Con) -> None:
    con.execute("update fleming.endpoints set usage_tracking = false")
    budget(con, COST)
    ask(con)
    refused(con)
    assert spent(con) == COST
    assert con.execute("select count(*) from fleming.serving.endpoint_usage").fetchall() == [(0,)]


def test_what_was_spent_before_a_budget_was_made_counts(con: Con) -> None:
    ask(con)
    budget(con, COST)
    refused(con)


@pytest.mark.parametrize("before", [False, True])
def test_calls_under_way_count_for_a_budget_that_is_made_meanwhile(add_endpoint: AddEndpoint, before: bool) -> None:
    with (
        MockModel(lambda received: replace(answer(received), delay_s=1.5)) as model,
        fleming_sql.connect() as con,
        ThreadPoolExecutor(1) as pool,
    ):
        set_up(con, add_endpoint, model, max_concurrency=64, adaptive_concurrency=False)
        if before:
            budget(con, 4.1 * COST)
        running = pool.submit(ask_many, con.cursor(), 5, "q", BOUNDED)
        model.wait_until(lambda model: model.in_flight == 5)
        if before:
            con.execute("update fleming.budgets set time_zone = 'Europe/Berlin'")  # that is another one
        else:
            budget(con, 4.1 * COST)
        assert ask_many(con, 10, "late", BOUNDED)[0] == 0
        assert running.result(timeout=10)[0] == 5
        assert model.request_count == 5


def test_a_tier_of_unknown_price_counts_as_it_was_expected(add_endpoint: AddEndpoint) -> None:
    def elsewhere(received: Received) -> Reply:
        made = answer(received)
        assert isinstance(made.body, dict)
        made.body["service_tier"] = "unheard"
        return made

    with MockModel(elsewhere) as model, fleming_sql.connect() as con:
        set_up(con, add_endpoint, model)
        budget(con, 0.004)
        ask(con)
        refused(con)


def test_counters_that_hold_nothing_any_more_are_dropped(add_endpoint: AddEndpoint, priced: MockModel) -> None:
    clock = SetClock(datetime(2026, 11, 2, tzinfo=UTC))
    with fleming_sql.connect(clock=clock) as con:
        set_up(con, add_endpoint, priced, max_concurrency=64)
        budget(con, 1, scope="context", context_key="ticket", window="day")
        for day in range(3):
            con.execute(
                "select count(ai_query('chat', 'q' || i, usageContext => map {'ticket': 't' || i}, "
                "modelParameters => struct_pack(max_tokens := 1))) from range(?, ?) t(i)",
                [day * 1100, (day + 1) * 1100],
            ).fetchall()
            clock.at += timedelta(days=1)
        assert len(con._session.gateway.ledger._counters) <= 2200


def test_another_amount_holds_from_the_next_statement_on_and_keeps_what_was_spent(con: Con) -> None:
    budget(con, COST)
    ask(con)
    refused(con)
    con.execute("update fleming.budgets set amount_usd = ?", [2 * COST])
    ask(con, "z")
    refused(con)


def test_a_request_that_may_have_been_billed_counts_as_it_was_expected(add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda _: replace(answer(_), delay_s=30)) as slow, fleming_sql.connect() as con:
        set_up(con, add_endpoint, slow, timeout_ms=200)
        budget(con, 0.004)  # 200 tokens at 20 dollars a million
        with pytest.raises(duckdb.Error, match="HTTP status 504"):
            ask(con)
        refused(con)


def test_a_failure_that_is_not_billed_costs_nothing(add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda _: error_reply(400, "no")) as failing, fleming_sql.connect() as con:
        set_up(con, add_endpoint, failing)
        budget(con, 0.0001)
        assert ask_many(con, 3)[0] == 0
        assert failing.request_count == 3


def test_a_budget_that_alerts_lets_all_calls_through(con: Con, priced: MockModel) -> None:
    budget(con, COST, action="alert")
    assert ask_many(con, 5)[0] == priced.request_count == 5


def test_a_budget_that_is_used_up_raises_one_alert(con: Con) -> None:
    budget(con, COST, action="alert", name="the lab")
    ask_many(con, 5)
    deadline = time.monotonic() + 10
    while not (alerts := con.execute("select name, threshold from fleming.serving.alerts").fetchall()):
        assert time.monotonic() < deadline
    assert alerts == [("the lab", COST)]


# time


def test_a_new_window_begins_with_nothing_spent(add_endpoint: AddEndpoint, priced: MockModel) -> None:
    clock = SetClock(datetime(2026, 11, 30, 22, 59, tzinfo=UTC))
    with fleming_sql.connect(clock=clock) as con:
        set_up(con, add_endpoint, priced)
        budget(con, COST, time_zone="Europe/Berlin")
        ask(con)
        assert "begins at 2026-11-30 23:00 UTC" in refused(con)
        clock.at += timedelta(minutes=1)
        ask(con)
        refused(con)


def test_a_clock_that_goes_backwards_opens_no_earlier_window(add_endpoint: AddEndpoint, priced: MockModel) -> None:
    clock = SetClock(datetime(2026, 11, 2, tzinfo=UTC))
    with fleming_sql.connect(clock=clock) as con:
        set_up(con, add_endpoint, priced)
        budget(con, COST, window="day")
        ask(con)
        clock.at -= timedelta(days=3)
        refused(con)


def test_a_clock_that_goes_backwards_opens_no_earlier_window_for_others_either(
    add_endpoint: AddEndpoint, priced: MockModel
) -> None:
    clock = SetClock(datetime(2026, 11, 2, tzinfo=UTC))
    with fleming_sql.connect(clock=clock) as con:
        set_up(con, add_endpoint, priced)
        budget(con, COST, window="day", scope="context", context_key="team")
        ask(con, arguments=BOUNDED + ", usageContext => map {'team': 'red'}")
        clock.at -= timedelta(days=3)
        blue = BOUNDED + ", usageContext => map {'team': 'blue'}"
        ask(con, arguments=blue)
        assert "since 2026-11-02 00:00 UTC" in refused(con, arguments=blue)


@pytest.mark.parametrize("days", [0, -3])
def test_what_was_spent_counts_in_the_next_process_whatever_its_clock(
    tmp_path: Path, add_endpoint: AddEndpoint, priced: MockModel, days: int
) -> None:
    clock = SetClock(datetime(2026, 11, 2, tzinfo=UTC))
    with fleming_sql.connect(tmp_path / "a.duckdb", clock=clock) as con:
        set_up(con, add_endpoint, priced)
        budget(con, COST, window="day")
        ask(con)
    with fleming_sql.connect(tmp_path / "a.duckdb", clock=SetClock(clock.at + timedelta(days=days))) as con:
        refused(con)
    assert priced.request_count == 1


@pytest.mark.parametrize("window", ["day", "week", "month"])
@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "America/Havana", "America/Nuuk", "Asia/Beirut", "Asia/Tokyo"]
)
def test_sql_has_the_windows_of_the_ledger(con: Con, window: Any, zone: str) -> None:
    budget(con, 1, window=window, time_zone=zone)
    moments = [datetime(2023, 1, 1, 0, 30) + timedelta(hours=7 * step) for step in range(1800)]
    con.execute("use fleming.main")
    found = con.execute(
        "select m, date_trunc(?, __local_time(m, ?)) as day, __day_begin(day, ?) "
        "from (select unnest(?::timestamp[]) as m)",
        [window, zone, zone, moments],
    ).fetchall()
    for moment, _, start in found:
        assert start.replace(tzinfo=UTC) == window_of(window, zone, moment.replace(tzinfo=UTC)).start
    [(start, end)] = con.execute("select window_start, window_end from fleming.serving.spend").fetchall()
    assert (start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)) == window_of(window, zone, datetime.now(UTC))


# what is wrong


@pytest.mark.parametrize(
    ("columns", "column", "stops"),
    [
        ({"amount_usd": 0}, "amount_usd", True),
        ({"amount_usd": -1}, "amount_usd", True),
        ({"amount_usd": float("nan")}, "amount_usd", True),
        ({"amount_usd": float("inf")}, "amount_usd", True),
        ({"amount_usd": 0, "action": "alert"}, "amount_usd", False),
        ({"window": "year"}, "window", True),
        ({"scope": "team"}, "scope", True),
        ({"action": "stop"}, "action", True),
        ({"time_zone": "Berlin"}, "time_zone", True),
        ({"scope": "endpoint"}, "endpoint", True),
        ({"endpoint": "nowhere"}, "endpoint", False),
        ({"scope": "group"}, "principal", True),
        ({"scope": "user", "principal": "nobody"}, "principal", True),
        ({"principal": "ada"}, "principal", True),
        ({"scope": "context"}, "context_key", True),
        ({"context_key": "team"}, "context_key", True),
    ],
)
def test_a_wrong_budget_is_named_and_stops_what_it_may_block(
    con: Con, columns: dict[str, Any], column: str, stops: bool
) -> None:
    budget(con, **{"amount_usd": 1, **columns})
    found = con.execute(
        "select column_name, remedy from fleming.config_problems where table_name = 'budgets'"
    ).fetchall()
    assert [name for name, _ in found] == [column]
    stopped = con.execute("select endpoint from fleming.config_problem_endpoints").fetchall()
    assert stopped == ([("chat",)] if stops else [])
    if stops:
        with pytest.raises(duckdb.Error, match="CONFIG_PROBLEM"):
            ask(con)


def test_two_budgets_of_one_name_are_named(con: Con) -> None:
    budget(con, 1)
    budget(con, 2)
    assert con.execute("select row_key, column_name from fleming.config_problems").fetchall() == [
        ("global/month", "name")
    ]


def test_a_budget_that_cannot_count_stops_the_endpoint_without_a_price(con: Con, priced: MockModel) -> None:
    budget(con, 1)
    con.execute("delete from fleming.model_prices where model = 'mock'")
    with pytest.raises(duckdb.Error, match="cannot count what calls cost"):
        ask(con)
    con.execute("update fleming.budgets set action = 'alert'")
    ask(con)
    assert con.execute("select unpriced_calls from fleming.serving.spend").fetchall() == [(1,)]


@pytest.mark.parametrize("amount", ["nan", "inf", "-1", "1e308"])
def test_an_amount_that_cannot_be_charged_is_no_price_for_a_budget(con: Con, priced: MockModel, amount: str) -> None:
    con.execute("update fleming.model_prices set output_per_million = ?::double where model = 'mock'", [amount])
    budget(con, 1)
    with pytest.raises(duckdb.Error, match="cannot count what"):
        ask(con)
    assert priced.request_count == 0


def test_a_budget_that_is_switched_off_does_nothing(con: Con) -> None:
    budget(con, 0, enabled=False)
    ask(con)
    assert con.execute("from fleming.serving.spend").fetchall() == []
