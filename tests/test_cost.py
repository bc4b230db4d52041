"""What calls cost: the provider's own counts at the price that was valid, or said to be unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest
from conftest import Con, Serve, add_entity
from genai_prices import Usage as ListUsage
from genai_prices import calc_price
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fleming_sql
from fleming_sql.policies.pricing import cost_of
from fleming_sql.store.config import ConfigReader
from fleming_sql.testing import MockModel, Received, Reply, error_reply
from fleming_sql.types import Usage

Counts = dict[str, int]


def anthropic_reply(usage: Counts | dict[str, Any]) -> Reply:
    return Reply(
        body={
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": "fine"}],
            "stop_reason": "end_turn",
            "usage": usage,
        }
    )


def openai_reply(usage: dict[str, Any], tier: str | None = None) -> Reply:
    return Reply(
        body={
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
            "usage": usage,
            "service_tier": tier,
        }
    )


def counted(inputs: int = 1000, outputs: int = 100, cached: int = 0, written: int = 0, reasoning: int = 0) -> Any:
    return {
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


@pytest.fixture
def answers(serve: Serve) -> Callable[[Reply], None]:
    """Make the model behind `chat` give one answer to all."""

    def start(reply: Reply, **columns: Any) -> None:
        serve(lambda received: reply, **{"cache_ttl_seconds": None, "max_retries": 0, **columns})

    return start


def ask(con: Con, prompt: str = "x") -> None:
    con.execute("select ai_query('chat', ?, failOnError => false)", [prompt]).fetchall()


def costs(con: Con) -> list[float | None]:
    rows = con.execute("select cost_usd from fleming.serving.endpoint_usage order by log_seq").fetchall()
    return [cost for (cost,) in rows]


def price(con: Con, **columns: Any) -> None:
    row = {"provider": "openai", "model": "mock", "input_per_million": 2, "output_per_million": 8, **columns}
    marks = ", ".join("?" * len(row))
    con.execute(f"insert into fleming.model_prices ({', '.join(row)}) values ({marks})", list(row.values()))


def own_price(con: Con, **columns: Any) -> None:
    row = {"endpoint": "chat", "served_entity": "chat-1", **columns}
    marks = ", ".join("?" * len(row))
    con.execute(f"insert into fleming.entity_prices ({', '.join(row)}) values ({marks})", list(row.values()))


def test_each_kind_of_token_has_its_price(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(1000, 100, cached=600, written=300, reasoning=40)))
    price(con, cached_input_per_million=0.5, cache_write_per_million=2.5)

    ask(con)

    assert costs(con) == [pytest.approx((100 * 2 + 600 * 0.5 + 300 * 2.5 + 100 * 8) / 1e6)]


def test_the_log_tells_cached_newly_cached_and_reasoning_tokens_apart(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(1000, 100, cached=600, written=300, reasoning=40), "flex"))

    ask(con)

    assert con.execute(
        "select input_token_count, output_token_count, cached_input_token_count, cache_write_token_count, "
        "reasoning_token_count, service_tier from fleming.serving.endpoint_usage"
    ).fetchall() == [(1000, 100, 600, 300, 40, "flex")]


def test_anthropic_input_is_the_sum_of_its_three_counts(con: Con, answers: Any) -> None:
    usage = {
        "input_tokens": 100,
        "cache_read_input_tokens": 600,
        "cache_creation_input_tokens": 300,
        "output_tokens": 100,
        "service_tier": "standard",
    }
    answers(anthropic_reply(usage), provider="anthropic", model="claude-sonnet-4-6")

    ask(con)

    expected = calc_price(
        ListUsage(input_tokens=1000, cache_read_tokens=600, cache_write_tokens=300, output_tokens=100),
        "claude-sonnet-4-6",
        provider_id="anthropic",
    )
    assert costs(con) == [pytest.approx(float(expected.total_price))]


def test_what_anthropic_caches_for_an_hour_has_no_known_cost(con: Con, answers: Any) -> None:
    usage = {
        "input_tokens": 1,
        "cache_creation_input_tokens": 9,
        "cache_creation": {"ephemeral_1h_input_tokens": 9},
        "output_tokens": 1,
    }
    answers(anthropic_reply(usage), provider="anthropic", model="claude-sonnet-4-6")

    ask(con)

    assert costs(con) == [None]


def test_the_fast_mode_of_anthropic_is_charged_like_a_tier(con: Con, answers: Any) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 100, "service_tier": "standard", "speed": "fast"}
    answers(anthropic_reply(usage), provider="anthropic", model="claude-opus-5")

    ask(con)

    expected = calc_price(
        ListUsage(input_tokens=1000, output_tokens=100),
        "claude-opus-5",
        provider_id="anthropic",
        price_context={"speed": "fast"},
    )
    assert costs(con) == [pytest.approx(float(expected.total_price))]


@pytest.mark.parametrize("tier", ["default", None, "batch", "priority"])
def test_a_list_price_gives_what_the_package_calculates(con: Con, answers: Any, tier: str | None) -> None:
    answers(openai_reply(counted(123_457, 6_789, cached=100_000), tier), model="gpt-4o-mini")

    ask(con)

    context = {"batch": {"processing": "batch"}, "priority": {"service_tier": "priority"}}.get(tier or "")
    expected = calc_price(
        ListUsage(input_tokens=123_457, cache_read_tokens=100_000, output_tokens=6_789),
        "gpt-4o-mini",
        provider_id="openai",
        price_context=context,
    )
    assert costs(con) == [pytest.approx(float(expected.total_price))]


@pytest.mark.parametrize("tokens", [272_000, 272_001])
def test_a_long_input_costs_more_from_the_token_on_that_the_list_says(con: Con, answers: Any, tokens: int) -> None:
    answers(openai_reply(counted(tokens, 10)), model="gpt-5.4")

    ask(con)

    expected = calc_price(ListUsage(input_tokens=tokens, output_tokens=10), "gpt-5.4", provider_id="openai")
    assert costs(con) == [pytest.approx(float(expected.total_price))]


def listed(con: Con) -> Any:
    """Return the list's price of input at the entity as it is configured now; nothing is sent."""
    con.execute("update fleming.endpoints set enabled = false")
    ask(con)
    rows = con.execute(
        "select p.input_per_million from fleming.serving.served_entity_prices as p "
        "inner join fleming.serving.served_entities as s using (served_entity_id) "
        "where p.service_tier = 'default' order by s.endpoint_config_version desc limit 1"
    ).fetchall()
    return rows[0][0] if rows else None


def test_a_model_that_the_list_does_not_know_at_its_provider_has_no_price(con: Con, add_endpoint: Any) -> None:
    add_endpoint(con, model="llama-3.3-70b-versatile", base_url="https://models.example.com/v1")

    assert listed(con) is None


def test_the_list_knows_the_server_of_another_provider_by_its_address(con: Con, add_endpoint: Any) -> None:
    add_endpoint(con, model="llama-3.3-70b-versatile", base_url="https://api.groq.com/openai/v1")

    expected = calc_price(ListUsage(input_tokens=10**6), "llama-3.3-70b-versatile", provider_id="groq").total_price
    assert listed(con) == float(expected)


def test_azure_has_the_prices_of_the_providers_whose_models_it_offers(con: Con, add_endpoint: Any) -> None:
    add_endpoint(con, model="o3-pro", provider_config={"openai_api_base": "https://us.openai.azure.com"})

    expected = calc_price(ListUsage(input_tokens=10**6), "o3-pro", provider_id="azure").total_price
    assert listed(con) == float(expected)


@pytest.mark.parametrize("model", ["gpt-4o-mini", "GPT-4o-Mini"])
def test_rows_of_your_own_replace_the_list(con: Con, answers: Any, model: str) -> None:
    answers(openai_reply(counted(1_000_000, 0), "priority"), model=model)
    price(con, model="gpt-4o-*", input_per_million=7)

    ask(con)

    assert costs(con) == [None]  # their tier default, and no other

    price(con, model="gpt-4o-*", input_per_million=9, service_tier="priority")

    assert costs(con) == [9]


def test_the_longest_name_that_fits_counts_and_one_in_full_first(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(1_000_000, 0)), model="mock")
    found: list[float | None] = []
    for name, dollars in (("*", 1), ("m*", 2), ("moc*", 3), ("Mock", 4)):
        price(con, model=name, input_per_million=dollars)
        if not found:
            ask(con)
        found += costs(con)

    assert found == [1, 2, 3, 4]


def test_an_underscore_in_a_name_stands_for_itself(con: Con, answers: Any) -> None:
    answers(openai_reply(counted()), model="my-model")
    price(con, model="my_*")

    ask(con)

    assert costs(con) == [None]


def test_a_price_row_that_comes_later_makes_earlier_costs_known(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(1_000_000, 0)))
    ask(con)
    before = costs(con)

    price(con)

    assert (before, costs(con)) == ([None], [2])


def test_each_call_has_the_price_of_its_time(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(1_000_000, 0)))
    for _ in range(4):
        ask(con)
    con.execute("update fleming.serving.calls set request_time = make_timestamp(2020 + log_seq, 6, 1, 0, 0, 0)")
    [(first,)] = con.execute("select min(year(request_time)) from fleming.serving.calls").fetchall()

    price(con, input_per_million=1, valid_from=f"{first}-01-01")
    price(con, input_per_million=2, valid_from=f"{first + 1}-06-01", valid_to=f"{first + 2}-01-01")
    price(con, input_per_million=3, valid_from=f"{first + 3}-01-01")

    assert costs(con) == [1, 2, None, 3]


def test_a_length_without_a_row_at_that_time_falls_back_to_the_shorter_one(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(1_000_000, 0)))
    price(con, input_per_million=1)
    price(con, input_per_million=5, from_input_tokens=1000, valid_to="2021-01-01")

    ask(con)

    assert costs(con) == [1]


def test_an_own_price_is_by_time_and_call(con: Con, answers: Any) -> None:
    answers(openai_reply(counted()))
    price(con)
    own_price(con, per_second=3600, per_call=5)

    ask(con)

    [(took,)] = con.execute("select sum(duration_ms) / 1000 from fleming.serving.attempts").fetchall()
    assert costs(con) == [pytest.approx(3600 * took + 5)]


def test_an_own_price_holds_for_every_tier(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(), "flex"))
    own_price(con, per_call=5)

    ask(con)

    assert costs(con) == [5]


def test_a_refused_call_of_an_own_price_costs_its_time_only(con: Con, answers: Any) -> None:
    answers(error_reply(400, "no"))
    own_price(con, per_second=3600, per_call=5)

    ask(con)

    [(took,)] = con.execute("select sum(duration_ms) / 1000 from fleming.serving.attempts").fetchall()
    assert costs(con) == [pytest.approx(3600 * took)]


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_request_that_the_server_refused_costs_nothing(con: Con, answers: Any, status: int) -> None:
    answers(error_reply(status, "no"))

    ask(con)

    assert costs(con) == [0]


def test_a_call_that_sent_nothing_costs_nothing(con: Con, answers: Any) -> None:
    answers(openai_reply(counted()), credential="nowhere")

    ask(con)

    assert costs(con) == [0]


@pytest.mark.parametrize("reply", [Reply(body="{"), Reply(body={"choices": []}), Reply(drop=True)])
def test_an_answer_that_is_none_may_be_billed(con: Con, answers: Any, reply: Reply) -> None:
    answers(reply)

    ask(con)

    assert costs(con) == [None]


def test_a_timeout_may_be_billed(con: Con, answers: Any) -> None:
    answers(Reply(hang=True), timeout_ms=100)
    price(con)

    ask(con)

    assert costs(con) == [None]


def test_a_server_that_cannot_be_reached_bills_nothing(con: Con, add_endpoint: Any) -> None:
    add_endpoint(con, base_url="http://127.0.0.1:9", max_retries=0)

    ask(con)

    assert costs(con) == [0]


def test_an_answer_from_the_cache_costs_nothing(con: Con, answers: Any) -> None:
    answers(openai_reply(counted(1_000_000, 0)), cache_ttl_seconds=100)
    price(con)

    ask(con)
    ask(con)

    assert costs(con) == [2, 0]


def test_the_simulated_model_costs_nothing(con: Con, add_endpoint: Any) -> None:
    add_endpoint(con, provider="simulated", model="anything")

    ask(con)

    assert costs(con) == [0]


def test_a_price_that_is_not_known_is_a_problem_with_the_row_to_insert(con: Con, answers: Any) -> None:
    answers(openai_reply(counted()), model="o'hara")

    [(row, remedy)] = con.execute("select row_key, remedy from fleming.config_problems").fetchall()
    statement = remedy.split(", or a row")[0].replace("<US dollars>", "1")
    con.execute(statement)

    assert row == "chat/chat-1"
    assert con.execute("from fleming.config_problems").fetchall() == []


def test_a_price_that_is_not_known_stops_no_call(con: Con, answers: Any) -> None:
    answers(openai_reply(counted()))

    assert con.execute("select ai_query('chat', 'x')").fetchall() == [("fine",)]


def test_a_new_list_replaces_its_rows_and_keeps_your_own(tmp_path: Path) -> None:
    store = str(tmp_path / "store.duckdb")
    with fleming_sql.connect(gateway=store, user="ada") as con:
        [(before,)] = con.execute("select count(*) from fleming.model_prices").fetchall()
        price(con)
        con.execute("update fleming.price_list_providers set list_version = '0.0.1'")
        con.execute("delete from fleming.model_prices where provider = 'openai' and source <> 'user'")
        con.execute("insert into fleming.model_prices (provider, model, source) values ('gone', 'gone', 'old list')")

    with fleming_sql.connect(gateway=store, user="ada") as con:
        rows = con.execute("select count(*), count_if(source = 'user') from fleming.model_prices").fetchall()

    assert rows == [(before + 1, 1)]


def test_a_list_of_the_same_version_is_left_alone(tmp_path: Path) -> None:
    store = str(tmp_path / "store.duckdb")
    with fleming_sql.connect(gateway=store, user="ada") as con:
        con.execute("delete from fleming.model_prices")

    with fleming_sql.connect(gateway=store, user="ada") as con:
        assert con.execute("select count(*) from fleming.model_prices").fetchall() == [(0,)]


def test_prices_that_change_in_the_course_of_a_day_are_left_unknown(con: Con) -> None:
    assert con.execute(
        "select count(input_per_million) from fleming.model_prices where provider = 'deepseek' "
        "and model = 'deepseek-chat'"
    ).fetchall() == [(0,)]


tokens = st.integers(0, 3000)
dollars = st.one_of(st.none(), st.sampled_from([0.0, 0.15, 2.5, 30.0]))
years = st.integers(2024, 2028)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["mock", "mo*", "*"]),
            "input_per_million": dollars,
            "output_per_million": dollars,
            "cached_input_per_million": dollars,
            "cache_write_per_million": dollars,
            "service_tier": st.sampled_from(["default", "flex"]),
            "from_input_tokens": st.sampled_from([0, 500, 2000]),
            "valid_from": years.map(lambda year: f"{year}-01-01"),
            "valid_to": st.one_of(st.none(), years.map(lambda year: f"{year}-07-01")),
        }
    ),
    max_size=6,
)
usages = st.builds(
    Usage,
    input_tokens=tokens,
    output_tokens=tokens,
    cached_input_tokens=st.one_of(st.none(), tokens),
    reasoning_tokens=st.none(),
    cache_write_tokens=st.one_of(st.none(), tokens),
    service_tier=st.sampled_from([None, "auto", "flex", "batch"]),
)


@pytest.fixture(scope="module")
def answered() -> Iterator[tuple[Con, ConfigReader]]:
    """A gateway with one call, whose counts and prices a test sets."""

    def reply(received: Received) -> Reply:
        return openai_reply(counted())

    with MockModel(reply) as server, fleming_sql.connect(user="ada") as con:
        con.execute("insert into fleming.endpoints (name) values ('chat')")
        con.execute(
            "insert into fleming.served_entities (endpoint, name, provider, model, base_url) "
            "values ('chat', 'chat-1', 'openai', 'mock', ?)",
            [server.url],
        )
        ask(con)
        cursor = con.cursor()
        cursor.execute("use fleming.main")
        yield con, ConfigReader(cast(duckdb.DuckDBPyConnection, cursor), "ada", None)


@given(rows=rows, usage=usages, own=st.sampled_from([None, 0.25]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_budgets_reckon_with_the_cost_that_the_log_shows(
    answered: tuple[Con, ConfigReader], rows: list[dict[str, Any]], usage: Usage, own: float | None
) -> None:
    con, reader = answered
    con.execute("delete from fleming.model_prices; delete from fleming.entity_prices")
    for row in rows:
        price(con, **row)
    if own is not None:
        own_price(con, per_call=own, per_second=1)
    con.execute(
        "update fleming.serving.calls set request_time = '2026-03-01', input_token_count = ?, output_token_count = ?, "
        "cached_input_token_count = ?, cache_write_token_count = ?, service_tier = ?",
        [
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.service_tier,
        ],
    )
    [(seconds,)] = con.execute("select sum(duration_ms) / 1000 from fleming.serving.attempts").fetchall()
    snapshot = reader.snapshot()
    [entity] = snapshot.endpoints["chat"].entities

    reckoned = cost_of(snapshot, entity, usage, seconds, datetime(2026, 3, 1, tzinfo=UTC))

    assert costs(con) == [reckoned if reckoned is None else pytest.approx(reckoned)]


def test_requests_of_two_entities_that_both_answered_have_no_known_cost(con: Con, answers: Any) -> None:
    answers(openai_reply(counted()))
    with MockModel(lambda received: openai_reply(counted())) as other:
        add_entity(con, base_url=other.url)
        price(con)
        ask(con)
        con.execute(
            "update fleming.serving.calls set attempts = list_concat(attempts, "
            "[struct_update(attempts[1], served_entity_id := 'another')])"
        )

        assert costs(con) == [None]


@pytest.mark.parametrize("amount", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize(
    "column", ["input_per_million", "output_per_million", "cached_input_per_million", "cache_write_per_million"]
)
def test_an_amount_that_cannot_be_charged_is_no_price(con: Con, answers: Any, column: str, amount: str) -> None:
    answers(openai_reply(counted(1000, 100, cached=600, written=300)))
    price(con, **{column: float(amount)})
    price(con, model="m*")

    ask(con)

    assert costs(con) == [None]


@pytest.mark.parametrize("amount", ["nan", "inf", "-1"])
@pytest.mark.parametrize("column", ["per_second", "per_call"])
def test_an_own_amount_that_cannot_be_charged_is_no_price(con: Con, answers: Any, column: str, amount: str) -> None:
    answers(openai_reply(counted()))
    price(con)
    own_price(con, **{column: float(amount)})

    ask(con)

    assert costs(con) == [None]
