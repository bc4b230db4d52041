"""Which entity gets a call: the split is proven at the servers, which count, and in the log."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import AddEndpoint, Con

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, embeddings_reply, error_reply


class Movable(Clock):
    """The time of the test, which may move on at once; pauses between attempts take none."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        self.ahead_s += seconds


@contextmanager
def split(
    shares: Mapping[str, float],
    *,
    seed: int = 1,
    clock: Clock | None = None,
    database: Path | str = ":memory:",
    **columns: Any,
) -> Iterator[tuple[Con, dict[str, MockModel]]]:
    """Open a gateway whose endpoint `chat` has an entity for each share, by position in their order.

    Each entity answers with its own name.
    """
    with ExitStack() as stack:
        servers = {name: stack.enter_context(MockModel(partial(answer, name), record=False)) for name in shares}
        con = stack.enter_context(fleming_sql.connect(database, user="ada", clock=clock or Movable(seed)))
        named = {"name": "chat", "cache_ttl_seconds": None, **columns}
        con.execute(
            f"insert into fleming.endpoints ({', '.join(named)}) values ({', '.join('?' * len(named))})",
            list(named.values()),
        )
        for position, (name, share) in enumerate(shares.items(), start=1):
            add(con, name, servers[name].url, position, share)
        yield con, servers


def answer(text: str, received: Received) -> Reply:
    return chat_reply(text)


def add(con: Con, name: str, url: str, position: int, share: float) -> None:
    con.execute(
        "insert into fleming.served_entities "
        "(endpoint, name, provider, model, base_url, position, traffic_percentage) "
        "values ('chat', ?, 'openai', 'model-' || ?, ?, ?, ?)",
        [name, name, url, position, share],
    )


def ask(con: Con, count: int = 1) -> list[str]:
    """Ask in one statement, and return who answered each row."""
    rows = con.execute(f"select ai_query('chat', 'row ' || i) from range({count}) t(i) order by i").fetchall()
    return [name for (name,) in rows]


def assert_near(count: int, share: float, draws: int) -> None:
    """Within five standard deviations of a binomial: a right split fails once in two million runs."""
    assert abs(count - share * draws) < 5 * math.sqrt(draws * share * (1 - share))


def keys(con: Con, count: int = 400) -> dict[str, str]:
    """Return who serves each customer."""
    rows = con.execute(
        "select k, ai_query('chat', 'x', usageContext => {'customer': k}) from "
        f"(select 'customer-' || i as k from range({count}) t(i))"
    ).fetchall()
    return dict(rows)


def test_the_traffic_is_split_by_percentage() -> None:
    with split({"a": 70, "b": 20, "c": 10}) as (con, servers):
        answers = Counter(ask(con, 6000))

        for name, share in {"a": 0.7, "b": 0.2, "c": 0.1}.items():
            assert_near(answers[name], share, 6000)
            assert servers[name].request_count == answers[name]


def test_percentages_need_not_be_whole() -> None:
    with split({"a": 97.5, "b": 2.5}) as (con, _):
        assert_near(Counter(ask(con, 4000))["b"], 0.025, 4000)


def test_the_choice_does_not_depend_on_what_was_chosen_before() -> None:
    """Pairs of rows, one after the other, fall as independent draws do."""
    with split({"a": 50, "b": 50}) as (con, _):
        con.execute("update fleming.endpoints set max_concurrency = 1")
        answers = ask(con, 2000)

        assert_near(sum(one == other for one, other in itertools.pairwise(answers)), 0.5, 1999)


def test_the_same_seed_gives_the_same_split() -> None:
    splits = []
    for seed in (7, 7, 8):
        with split({"a": 50, "b": 50}, seed=seed, max_concurrency=1) as (con, _):
            splits.append(ask(con, 200))

    assert splits[0] == splits[1] != splits[2]


def test_an_entity_of_0_percent_gets_nothing() -> None:
    with split({"spare": 0, "a": 50, "b": 50}) as (con, servers):
        ask(con, 1000)

        assert servers["spare"].request_count == 0


@pytest.mark.parametrize("routing", ["weighted", "sticky", "priority", "least_latency", "least_cost"])
def test_an_entity_of_0_percent_serves_what_another_fails(routing: str) -> None:
    with (
        MockModel(lambda received: error_reply(500, "down"), record=False) as down,
        split({"spare": 0, "a": 100}, routing=routing, breaker_min_calls=1000) as (con, servers),
    ):
        con.execute(
            "insert into fleming.model_prices (provider, model, input_per_million, output_per_million) "
            "values ('openai', 'model-a', 1, 1), ('openai', 'model-spare', 0, 0)"
        )
        ask(con, 20)
        before = servers["spare"].request_count
        con.execute("update fleming.served_entities set base_url = ? where name = 'a'", [down.url])

        assert before == 0
        assert ask(con, 20) == ["spare"] * 20
        assert down.request_count == 20


def test_an_entity_that_is_left_out_hands_its_share_to_the_others() -> None:
    with (
        MockModel(lambda received: error_reply(500, "down"), record=False) as down,
        split({"a": 50, "b": 30, "c": 20}, breaker_min_calls=5, breaker_open_ms=60_000) as (con, servers),
    ):
        con.execute("update fleming.served_entities set base_url = ? where name = 'a'", [down.url])
        ask(con, 200)
        before = {name: server.request_count for name, server in servers.items()}
        answers = Counter(ask(con, 2000))

        assert_near(answers["b"], 0.6, 2000)
        assert answers["b"] + answers["c"] == 2000
        assert down.request_count < 200
        assert servers["b"].request_count - before["b"] == answers["b"]


def test_a_changed_percentage_is_in_force_at_the_next_statement() -> None:
    with split({"a": 100, "b": 0}) as (con, _):
        before = set(ask(con, 50))
        con.execute("update fleming.served_entities set traffic_percentage = 100 - traffic_percentage")

        assert (before, set(ask(con, 50))) == ({"a"}, {"b"})


def test_embeddings_are_split_too(add_endpoint: AddEndpoint) -> None:
    def embed(number: float) -> Callable[[Received], Reply]:
        return lambda received: embeddings_reply([[number]] * len(received.json()["input"]))

    with (
        MockModel(embed(0)) as a,
        MockModel(embed(1)) as b,
        fleming_sql.connect(user="ada", clock=Movable()) as con,
    ):
        add_endpoint(con, base_url=a.url, task="llm/v1/embeddings", traffic_percentage=30)
        add(con, "b", b.url, 2, 70)

        rows = con.execute("select ai_query('chat', 'row ' || i)[1] from range(3000) t(i)").fetchall()

        assert_near(sum(int(number) for (number,) in rows), 0.7, 3000)
        assert a.request_count + b.request_count < 60


def test_the_entity_that_served_is_in_every_log_row() -> None:
    with split({"a": 60, "b": 40}) as (con, _):
        answers = Counter(ask(con, 500))
        logged = con.execute(
            "select e.served_entity_name, count(*) from fleming.serving.inference i "
            "join fleming.serving.served_entities e using (served_entity_id) group by all"
        ).fetchall()
        used = con.execute(
            "select e.served_entity_name, count(*) from fleming.serving.endpoint_usage u "
            "join fleming.serving.served_entities e using (served_entity_id) group by all"
        ).fetchall()
        tried = con.execute("select served_entity_name, count(*) from fleming.serving.attempts group by all").fetchall()

        assert dict(logged) == dict(used) == dict(tried) == dict(answers)


def test_a_requester_sticks_to_one_entity() -> None:
    with split({"a": 50, "b": 50}, routing="sticky") as (con, _):
        assert len(set(ask(con, 100))) == 1


def test_without_a_sticky_key_labels_play_no_part() -> None:
    with split({"a": 50, "b": 50}, routing="sticky") as (con, _):
        assert len(set(keys(con, 50).values())) == 1


def test_requesters_are_spread_over_the_entities(tmp_path: Path) -> None:
    served = Counter[str]()
    with split({"a": 50, "b": 50}, routing="sticky", database=tmp_path / "w.duckdb"):
        for number in range(20):
            with fleming_sql.connect(tmp_path / "w.duckdb", user=f"user-{number}") as other:
                first, *others = ask(other, 3)
                assert set(others) == {first}
                served[first] += 1

    assert_near(served["a"], 0.5, 20)


def test_each_value_of_the_sticky_key_sticks_to_one_entity_and_values_spread_by_percentage() -> None:
    with split({"a": 70, "b": 30}, routing="sticky", sticky_key="customer") as (con, _):
        once = keys(con)
        again = keys(con)

        assert once == again
        assert_near(Counter(once.values())["a"], 0.7, 400)


def test_without_the_label_the_requester_sticks() -> None:
    with split({"a": 50, "b": 50}, routing="sticky", sticky_key="customer") as (con, _):
        unlabelled = set(ask(con, 50))
        other_label = {
            name
            for (name,) in con.execute(
                "select ai_query('chat', 'x', usageContext => {'team': i::varchar}) from range(50) t(i)"
            ).fetchall()
        }
        as_requester = con.execute("select ai_query('chat', 'x', usageContext => {'customer': 'ada'})").fetchall()

        assert len(unlabelled) == 1
        assert other_label == unlabelled == set(*as_requester)


def test_stickiness_outlives_the_gateway() -> None:
    with split({"a": 50, "b": 50}, routing="sticky", sticky_key="customer", seed=1) as (con, _):
        once = keys(con, 100)
    with split({"a": 50, "b": 50}, routing="sticky", sticky_key="customer", seed=2) as (con, _):
        assert keys(con, 100) == once


def test_a_changed_weight_moves_only_its_share() -> None:
    with split({"a": 50, "b": 50, "c": 0}, routing="sticky", sticky_key="customer") as (con, _):
        before = keys(con)
        con.execute("update fleming.served_entities set traffic_percentage = if(name = 'c', 20, 40)")
        after = keys(con)

    moved = {key for key in before if before[key] != after[key]}
    assert {after[key] for key in moved} == {"c"}
    assert_near(len(moved), 0.2, 400)


def test_what_stuck_to_an_entity_that_is_left_out_goes_elsewhere_and_nothing_else_moves() -> None:
    with (
        MockModel(lambda received: error_reply(500, "down"), record=False) as down,
        split(
            {"a": 40, "b": 30, "c": 30},
            routing="sticky",
            sticky_key="customer",
            breaker_min_calls=5,
            breaker_open_ms=60_000,
        ) as (con, _),
    ):
        before = keys(con)
        con.execute("update fleming.served_entities set base_url = ? where name = 'a'", [down.url])
        keys(con)
        after = keys(con)

    assert {before[key] for key in before if before[key] != after[key]} == {"a"}
    assert set(after.values()) == {"b", "c"}


def test_priority_goes_by_position() -> None:
    with split({"a": 10, "b": 90}, routing="priority") as (con, _):
        assert set(ask(con, 100)) == {"a"}


def test_equal_positions_share_by_percentage() -> None:
    with split({"a": 60, "b": 20, "c": 20}, routing="priority") as (con, _):
        con.execute("update fleming.served_entities set position = 1 where name = 'b'")
        answers = Counter(ask(con, 2000))

        assert_near(answers["a"], 0.75, 2000)
        assert answers["c"] == 0


def ask_over_seconds(con: Con, clock: Movable, seconds: int, count: int = 5) -> list[str]:
    """Ask every 1.1 seconds, and return who answered."""
    answers = []
    for _ in range(seconds):
        answers += ask(con, count)
        clock.ahead_s += 1.1
    return answers


def test_least_latency_prefers_the_fast_one() -> None:
    clock = Movable()
    with (
        MockModel(lambda received: chat_reply("slow").delayed(0.06), record=False) as slow,
        split({"slow": 90, "fast": 10}, routing="least_latency", clock=clock, max_concurrency=1) as (con, servers),
    ):
        con.execute("update fleming.served_entities set base_url = ? where name = 'slow'", [slow.url])
        ask_over_seconds(con, clock, 3)
        tried = slow.request_count > 0 and servers["fast"].request_count > 0

        assert tried
        assert set(ask(con, 100)) == {"fast"}


def test_least_latency_tries_each_entity_soon() -> None:
    """How fast an entity is has to be measured, and nobody else needs to fail for it."""
    clock = Movable()
    with split(dict.fromkeys("abcd", 25.0), routing="least_latency", clock=clock, max_concurrency=1) as (con, servers):
        ask_over_seconds(con, clock, 5)

        assert all(server.request_count for server in servers.values())


def test_least_latency_tries_the_others_again_later() -> None:
    clock = Movable()
    pace = {"slow": 0.06}
    with (
        MockModel(lambda received: chat_reply("slow").delayed(pace["slow"]), record=False) as slow,
        split({"slow": 50, "b": 50}, routing="least_latency", clock=clock, max_concurrency=1) as (con, _),
        MockModel(lambda received: chat_reply("b").delayed(0.02), record=False) as b,
    ):
        con.execute("update fleming.served_entities set base_url = if(name = 'b', ?, ?)", [b.url, slow.url])
        ask_over_seconds(con, clock, 3)
        before = set(ask(con, 10))
        pace["slow"] = 0.0
        clock.ahead_s += 31
        ask_over_seconds(con, clock, 3)

        assert before == {"b"}
        assert set(ask(con, 10)) == {"slow"}


def test_least_latency_leaves_one_that_becomes_slow() -> None:
    clock = Movable()
    pace = {"a": 0.0, "b": 0.01}
    with (
        MockModel(lambda received: chat_reply("a").delayed(pace["a"]), record=False) as a,
        MockModel(lambda received: chat_reply("b").delayed(pace["b"]), record=False) as b,
        split({"a": 50, "b": 50}, routing="least_latency", clock=clock, max_concurrency=1) as (con, _),
    ):
        con.execute("update fleming.served_entities set base_url = if(name = 'a', ?, ?)", [a.url, b.url])
        ask_over_seconds(con, clock, 3)
        before = set(ask(con, 10))
        pace["a"] = 0.1
        answers = ask(con, 30)

        assert before == {"a"}
        assert answers.count("a") <= 15
        assert answers[-1] == "b"


def price(con: Con, name: str, inputs: float, outputs: float, valid_from: str = "2000-01-01") -> None:
    con.execute(
        "insert into fleming.model_prices (provider, model, input_per_million, output_per_million, valid_from) "
        "values ('openai', 'model-' || ?, ?, ?, ?)",
        [name, inputs, outputs, valid_from],
    )


def test_least_cost_goes_by_the_price() -> None:
    with split({"a": 90, "b": 10}, routing="least_cost") as (con, _):
        price(con, "a", 5, 15)
        price(con, "b", 1, 3)

        assert set(ask(con, 50)) == {"b"}


def test_least_cost_weighs_input_and_output() -> None:
    """A long prompt with a short answer is cheap where input is, and the other way round."""
    with split({"input": 50, "output": 50}, routing="least_cost") as (con, _):
        price(con, "input", 1, 100)
        price(con, "output", 10, 10)

        long_prompt = con.execute(
            "select ai_query('chat', repeat('word ', 5000), modelParameters => {'max_tokens': 5})"
        ).fetchall()
        long_answer = con.execute("select ai_query('chat', 'x', modelParameters => {'max_tokens': 4000})").fetchall()

        assert (long_prompt, long_answer) == ([("input",)], [("output",)])


def test_least_cost_takes_a_new_price_from_its_time_on() -> None:
    clock = Movable()
    with split({"a": 50, "b": 50}, routing="least_cost", clock=clock) as (con, _):
        price(con, "a", 1, 1)
        price(con, "b", 2, 2)
        tomorrow = (clock.now() + timedelta(days=1)).replace(tzinfo=None).isoformat()
        price(con, "b", 0.5, 0.5, tomorrow)

        before = set(ask(con, 20))
        clock.ahead_s += 2 * 86400

        assert (before, set(ask(con, 20))) == ({"a"}, {"b"})


def test_least_cost_takes_entities_of_equal_price_by_percentage() -> None:
    with split({"a": 75, "b": 25}, routing="least_cost") as (con, _):
        price(con, "a", 1, 2)
        price(con, "b", 1, 2)

        assert_near(Counter(ask(con, 1500))["a"], 0.75, 1500)


def usage(con: Con, columns: str = "cost_usd") -> list[Any]:
    rows: list[Any] = con.execute(
        f"select {columns} from fleming.serving.endpoint_usage order by request_time, databricks_request_id"
    ).fetchall()
    return rows


@pytest.fixture
def counted() -> Iterator[Con]:
    """A gateway whose only entity counts 1,000 input tokens, 400 of them cached, and 50 output tokens."""

    def reply(received: Received) -> Reply:
        return chat_reply("fine", prompt_tokens=1000, completion_tokens=50, cached_tokens=400)

    with MockModel(reply) as server, fleming_sql.connect(user="ada") as con:
        con.execute("insert into fleming.endpoints (name) values ('chat')")
        add(con, "a", server.url, 1, 100)
        yield con


def test_without_a_price_the_cost_is_unknown(counted: Con) -> None:
    ask(counted)

    assert usage(counted) == [(None,)]


def test_a_cost_is_the_tokens_at_their_price(counted: Con) -> None:
    price(counted, "a", 2, 8)

    ask(counted)

    assert usage(counted)[0][0] == pytest.approx((1000 * 2 + 50 * 8) / 1e6)


def test_cached_input_has_its_own_price(counted: Con) -> None:
    price(counted, "a", 2, 8)
    counted.execute("update fleming.model_prices set cached_input_per_million = 0.5")

    ask(counted)

    assert usage(counted)[0][0] == pytest.approx((600 * 2 + 400 * 0.5 + 50 * 8) / 1e6)


def test_an_answer_that_was_reused_costs_nothing(counted: Con) -> None:
    price(counted, "a", 2, 8)

    ask(counted)
    ask(counted)

    assert [cost for (cost,) in usage(counted)] == [pytest.approx(0.0024), 0]


def test_a_reused_answer_costs_nothing_where_there_is_no_price_too(counted: Con) -> None:
    ask(counted)
    ask(counted)

    assert usage(counted) == [(None,), (0,)]


def test_the_price_is_that_of_the_time_of_the_call(counted: Con) -> None:
    price(counted, "a", 1, 0, "2000-01-01")
    price(counted, "a", 5, 0, "2020-01-01")
    price(counted, "a", 9, 0, "2999-01-01")

    ask(counted)

    assert usage(counted)[0][0] == pytest.approx(1000 * 5 / 1e6)


def test_a_price_of_another_provider_is_no_price(counted: Con) -> None:
    counted.execute(
        "insert into fleming.model_prices (provider, model, input_per_million, output_per_million) "
        "values ('anthropic', 'model-a', 1, 1), ('openai', 'model-b', 1, 1)"
    )

    ask(counted)

    assert usage(counted) == [(None,)]


@pytest.fixture(scope="module")
def compared() -> Iterator[tuple[Con, Counter[str], Counter[str]]]:
    """400 calls over `a` (60 %, always well) and `b` (40 %, every fourth request fails); who was first is counted."""
    numbers = itertools.count()

    def b(received: Received) -> Reply:
        if next(numbers) % 4 == 3:
            return error_reply(500, "broken")
        return chat_reply("b", prompt_tokens=20, completion_tokens=10).delayed(0.04)

    def a(received: Received) -> Reply:
        return chat_reply("a", prompt_tokens=10, completion_tokens=5)

    with (
        MockModel(a) as server_a,
        MockModel(b) as server_b,
        fleming_sql.connect(user="ada", clock=Movable()) as con,
    ):
        con.execute(
            "insert into fleming.endpoints (name, breaker_min_calls, max_concurrency) values ('chat', 10000, 8)"
        )
        add(con, "a", server_a.url, 1, 60)
        add(con, "b", server_b.url, 2, 40)
        price(con, "a", 1, 2)
        answers = Counter(ask(con, 400))
        yield con, answers, Counter(a=server_a.request_count, b=server_b.request_count)


def comparison(con: Con, columns: str) -> dict[str, Any]:
    rows = con.execute(
        f"select served_entity_name, {columns} from fleming.serving.entity_comparison order by all"
    ).fetchall()
    return {row[0]: row[1] if len(row) == 2 else row[1:] for row in rows}


Compared = tuple[Con, Counter[str], Counter[str]]


def test_the_comparison_counts_calls_and_their_shares(compared: Compared) -> None:
    con, answers, _ = compared

    assert comparison(con, "calls") == dict(answers)
    assert comparison(con, "share_of_calls") == {name: count / 400 for name, count in answers.items()}
    assert set(comparison(con, "failed_calls").values()) == {0}


def test_the_comparison_counts_requests_and_errors(compared: Compared) -> None:
    con, answers, requests = compared
    failed = requests["b"] - answers["b"]

    assert failed == requests["b"] // 4
    assert comparison(con, "requests, request_errors, fallback_requests") == {
        "a": (requests["a"], 0, failed),
        "b": (requests["b"], failed, 0),
    }
    assert comparison(con, "error_share") == {"a": 0, "b": pytest.approx(failed / requests["b"])}


def test_the_comparison_shows_latencies_of_answers(compared: Compared) -> None:
    con, _, _ = compared
    latencies = comparison(con, "p50_latency_ms, p95_latency_ms")

    assert latencies["a"][0] < 40 <= latencies["b"][0] <= latencies["b"][1]
    assert latencies["a"][0] <= latencies["a"][1]


def test_the_comparison_sums_tokens_and_cost(compared: Compared) -> None:
    con, answers, _ = compared

    assert comparison(con, "input_tokens, output_tokens") == {
        "a": (10 * answers["a"], 5 * answers["a"]),
        "b": (20 * answers["b"], 10 * answers["b"]),
    }
    assert comparison(con, "cost_usd") == {"a": pytest.approx(answers["a"] * 20 / 1e6), "b": None}
    assert comparison(con, "cost_usd_per_1000_calls") == {"a": pytest.approx(0.02), "b": None}


def test_the_comparison_begins_anew_with_a_change_of_the_endpoint() -> None:
    with split({"a": 50, "b": 50}) as (con, _):
        ask(con, 40)
        con.execute("update fleming.served_entities set traffic_percentage = case name when 'a' then 10 else 90 end")
        ask(con, 60)

        rows = con.execute(
            "select config_version, sum(calls)::int, sum(share_of_calls) from fleming.serving.entity_comparison "
            "group by all order by all"
        ).fetchall()

        assert [row[1:] for row in rows] == [(40, pytest.approx(1)), (60, pytest.approx(1))]


def test_the_comparison_counts_calls_that_failed_with_the_last_that_was_asked() -> None:
    with (
        MockModel(lambda received: error_reply(400, "wrong"), record=False) as server,
        split({"a": 100, "b": 0}) as (con, _),
    ):
        con.execute("update fleming.served_entities set base_url = ? where name = 'a'", [server.url])
        con.execute("select ai_query('chat', 'row ' || i, failOnError => false) from range(10) t(i)").fetchall()

        assert comparison(con, "calls, failed_calls, requests, request_errors") == {"a": (10, 10, 10, 10)}


def test_the_comparison_does_not_count_answers_that_were_reused() -> None:
    with split({"a": 100}, cache_ttl_seconds=3600) as (con, _):
        ask(con, 5)
        ask(con, 5)

        assert comparison(con, "calls, requests") == {"a": (5, 5)}


def test_two_statements_at_once_are_split_alike() -> None:
    with split({"a": 70, "b": 30}) as (con, servers):
        cursors = [con.cursor() for _ in range(2)]
        sql = "select ai_query('chat', 'row ' || i) from range(1500) t(i)"
        threads = [threading.Thread(target=lambda cursor=cursor: cursor.execute(sql).fetchall()) for cursor in cursors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert_near(servers["a"].request_count, 0.7, 3000)
