"""What follows a failed attempt: the next entity, the same one again, or the end; one budget and one deadline."""

from __future__ import annotations

import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import duckdb
import pytest
from conftest import Also, Con, Serve

import fleming_sql
from fleming_sql.clock import Clock
from fleming_sql.testing import Received, Reply, chat_reply, echo_chat, embeddings_reply, error_reply

ASK = "select ai_query('chat', 'x', cache => false)"
SCHEMA = """{"type": "json_schema", "json_schema": {"name": "s", "schema":
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}"""


class Skipping(Clock):
    """Waits between attempts take no time: the clock goes on instead."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.waits: list[float] = []
        self.skipped_s = 0.0
        self.skips = True

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.skipped_s)

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped_s

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self.skips:
            self.skipped_s += seconds
        else:
            await super().sleep(seconds)


@pytest.fixture
def clock() -> Skipping:
    return Skipping()


@pytest.fixture
def con(clock: Skipping) -> Iterator[Con]:
    with fleming_sql.connect(user="ada", clock=clock) as con:
        yield con


def ask(con: Con, sql: str = ASK) -> Any:
    return con.execute(sql).fetchall()[0][0]


def fail(con: Con, sql: str = ASK) -> str:
    with pytest.raises(duckdb.Error) as caught:
        con.execute(sql).fetchall()
    return str(caught.value)


def attempts(con: Con, columns: str = "served_entity_name, reason") -> list[Any]:
    """Return the attempts of all calls, in their order."""
    rows: list[Any] = con.execute(
        f"select {columns} from fleming.serving.attempts order by "
        "min(started_at) over (partition by databricks_request_id), databricks_request_id, attempt_number"
    ).fetchall()
    return rows


def always(*args: Any, **kwargs: Any) -> Callable[[Received], Reply]:
    """Return a reply function that answers with the same error each time."""
    reply = error_reply(*args, **kwargs)
    return lambda received: reply


def hang(received: Received) -> Reply:
    return Reply(hang=True)


def cut(received: Received) -> Reply:
    return Reply(body=chat_reply("a long answer").body, cut_after=30)


def in_turn(*replies: Reply) -> Callable[[Received], Reply]:
    """Return a reply function that gives these, and the last one from then on."""
    rest = itertools.chain(replies, itertools.repeat(replies[-1]))
    return lambda received: next(rest)


def nobody() -> str:
    """Return an address that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


FAULTS: dict[str, tuple[Reply, int, str]] = {
    "408": (error_reply(408, "too late"), 408, "DEADLINE_EXCEEDED"),
    "429": (error_reply(429, "slow down"), 429, "REQUEST_LIMIT_EXCEEDED"),
    "500": (error_reply(500, "broken"), 500, "INTERNAL_ERROR"),
    "501": (error_reply(501, "not made"), 501, "INTERNAL_ERROR"),
    "502": (error_reply(502, "bad gateway"), 502, "INTERNAL_ERROR"),
    "503": (error_reply(503, "busy"), 503, "TEMPORARILY_UNAVAILABLE"),
    "504": (error_reply(504, "too late"), 504, "DEADLINE_EXCEEDED"),
    "529": (error_reply(529, "overloaded"), 529, "OVERLOADED"),
    "timeout": (Reply(hang=True), 0, "DEADLINE_EXCEEDED"),
    "dropped": (Reply(drop=True), 0, "CONNECTION_LOST"),
    "cut": (Reply(body=chat_reply("a long answer").body, cut_after=30), 0, "CONNECTION_LOST"),
    "malformed": (Reply(body='{"choices": [', headers={"content-type": "application/json"}), 200, "INVALID_RESPONSE"),
    "no completion": (Reply(body={"hello": "world"}), 200, "INVALID_RESPONSE"),
    "redirect": (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}), 302, "REDIRECT_REFUSED"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_goes_on_to_the_next_entity(con: Con, serve: Serve, also: Also, clock: Skipping, fault: str) -> None:
    reply, status, code = FAULTS[fault]
    serve(lambda received: reply, attempt_timeout_ms=100 if reply.hang else None)
    second = also(lambda received: chat_reply("the second"))

    assert ask(con) == "the second"
    assert attempts(con, "served_entity_name, reason, status_code, error_code, after_error_code") == [
        ("chat-1", "first", status, code, None),
        ("chat-2", "fallback", 200, None, code),
    ]
    assert second.request_count == 1
    assert clock.waits == []


def test_a_refused_connection_goes_on_to_the_next_entity(con: Con, serve: Serve, also: Also) -> None:
    serve()
    con.execute("update fleming.served_entities set base_url = ?", [nobody()])
    also()

    assert ask(con) == "echo: x"
    assert attempts(con, "status_code, error_code") == [(0, "CONNECTION_FAILED"), (200, None)]


def test_success_after_a_fallback_is_a_success(con: Con, serve: Serve, also: Also) -> None:
    serve(always(500, "broken"))
    also()

    ask(con)

    assert con.execute(
        "select i.status_code, i.error_code, i.error_message, i.attempts, e.served_entity_name "
        "from fleming.serving.inference i join fleming.serving.served_entities e using (served_entity_id)"
    ).fetchall() == [(200, None, None, 2, "chat-2")]


def test_entities_are_tried_by_their_position_and_each_once_before_any_is_asked_again(
    con: Con, serve: Serve, also: Also
) -> None:
    serve(always(500, "broken"), max_retries=5, position=2)
    also(always(500, "broken"), position=9, name="last")
    also(always(500, "broken"), position=1, name="one")
    also(always(500, "broken"), position=3, name="three")

    fail(con)
    made = [name for (name,) in attempts(con, "served_entity_name")]

    assert made[:4] == ["chat-1", "one", "three", "last"]
    assert len(made) == 6


def test_the_last_error_is_returned_when_all_fail(con: Con, serve: Serve, also: Also) -> None:
    serve(always(503, "first is busy"), max_retries=0)
    also(always(429, "second is full"))
    also(always(500, "third is broken"))

    text = fail(con)

    assert "third is broken" in text
    assert "HTTP status 500" in text
    assert 'served entity "chat-3"' in text
    assert "busy" not in text
    assert con.execute("select status_code, error_code, attempts from fleming.serving.inference").fetchall() == [
        (500, "INTERNAL_ERROR", 3)
    ]


def test_the_log_shows_every_attempt_and_why_the_next_was_made(con: Con, serve: Serve, also: Also) -> None:
    serve(always(503, "busy"), max_retries=3)
    also(always(429, "full"), position=2)
    also(cut, position=3)

    fail(con)
    rows = attempts(
        con, "attempt_number, served_entity_name, reason, status_code, error_code, error_message, after_error_code"
    )

    assert rows[:3] == [
        (1, "chat-1", "first", 503, "TEMPORARILY_UNAVAILABLE", "busy", None),
        (2, "chat-2", "fallback", 429, "REQUEST_LIMIT_EXCEEDED", "full", "TEMPORARILY_UNAVAILABLE"),
        (3, "chat-3", "fallback", 0, "CONNECTION_LOST", rows[2][5], "REQUEST_LIMIT_EXCEEDED"),
    ]
    assert rows[3][:3] in [(4, "chat-1", "retry"), (4, "chat-2", "retry")]
    assert rows[3][6] == "CONNECTION_LOST"
    assert len(rows) == 4


def test_without_fallback_only_one_entity_is_asked(con: Con, serve: Serve, also: Also) -> None:
    first = serve(always(500, "broken"), fallback_enabled=False, max_retries=2)
    second = also()

    assert "broken" in fail(con)
    assert (first.request_count, second.request_count) == (3, 0)
    assert attempts(con) == [("chat-1", "first"), ("chat-1", "retry"), ("chat-1", "retry")]


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 422])
def test_what_is_wrong_with_the_request_is_neither_retried_nor_fallen_back_on(
    con: Con, serve: Serve, also: Also, status: int
) -> None:
    first = serve(always(status, "wrong"), max_retries=5, retry_on_timeout=True)
    second = also()

    assert f"HTTP status {status}" in fail(con)
    assert (first.request_count, second.request_count) == (1, 0)


CONTEXT_WINDOW = {
    "OpenAI": Reply(
        status=400,
        body={
            "error": {
                "message": "This model's maximum context length is 128000 tokens. However, your messages resulted in "
                "150001 tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    "Anthropic": Reply(
        status=400,
        body={
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "prompt is too long: 201234 tokens > 200000 maximum",
            },
        },
    ),
    "Anthropic's size": Reply(
        status=413,
        body={
            "type": "error",
            "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"},
        },
    ),
}
CONTENT_POLICY = {
    "Azure OpenAI": Reply(
        status=400,
        body={
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
                "policy. Please modify your prompt and retry.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
    ),
    "OpenAI": Reply(
        status=400,
        body={
            "error": {
                "message": "Your request was rejected as a result of our safety system.",
                "type": "invalid_request_error",
                "param": None,
                "code": "content_policy_violation",
            }
        },
    ),
    "Anthropic": Reply(
        status=400,
        body={
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "Output blocked by content filtering policy",
            },
        },
    ),
}
REFUSALS = {
    **{f"context_window {name}": ("context_window", reply) for name, reply in CONTEXT_WINDOW.items()},
    **{f"content_policy {name}": ("content_policy", reply) for name, reply in CONTENT_POLICY.items()},
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_that_fallback_on_names_goes_on_to_the_next_entity(
    con: Con, serve: Serve, also: Also, case: str
) -> None:
    kind, reply = REFUSALS[case]
    provider = "anthropic" if "Anthropic" in case else "openai"
    first = serve(lambda received: reply, provider=provider, fallback_on=[kind], max_retries=5)
    also()
    con.execute("update fleming.endpoints set default_parameters = '{\"max_tokens\": 9}'")

    assert ask(con) == "echo: x"
    assert first.request_count == 1


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_that_fallback_on_does_not_name_is_the_end(con: Con, serve: Serve, also: Also, case: str) -> None:
    kind, reply = REFUSALS[case]
    other = "content_policy" if kind == "context_window" else "context_window"
    provider = "anthropic" if "Anthropic" in case else "openai"
    serve(lambda received: reply, provider=provider, fallback_on=[other], max_retries=5)
    second = also()

    assert f"HTTP status {reply.status}" in fail(con)
    assert second.request_count == 0


def test_a_model_that_declines_in_a_good_answer_is_fallen_back_on_where_that_is_named(
    con: Con, serve: Serve, also: Also
) -> None:
    serve(lambda received: chat_reply(None, refusal="I cannot help with that."), fallback_on=["content_policy"])
    also()

    assert ask(con) == "echo: x"


@pytest.fixture
def keys(con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("good", "bad"):
        monkeypatch.setenv(f"FLEMING_TEST_{name.upper()}", f"key-{name}")
        con.execute("insert into fleming.credentials values (?, 'env', ?)", [name, f"FLEMING_TEST_{name.upper()}"])


def refused_keys(con: Con) -> list[Any]:
    rows = con.execute(
        "select served_entity_name from fleming.serving.entity_health where credential_refused order by all"
    )
    return [name for (name,) in rows.fetchall()]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_goes_on_at_once_past_all_entities_that_use_it(
    con: Con, serve: Serve, also: Also, clock: Skipping, status: int
) -> None:
    serve(always(status, "no", headers={"retry-after": "5"}), credential="bad")
    same_key = also(credential="bad")
    also(lambda received: chat_reply("the third"), credential="good")

    assert ask(con) == "the third"
    assert same_key.request_count == 0
    assert clock.waits == []


@pytest.mark.usefixtures("keys")
def test_a_refused_key_is_not_tried_by_the_next_calls_for_30_seconds(
    con: Con, serve: Serve, also: Also, clock: Skipping
) -> None:
    first = serve(always(401, "no"), credential="bad")
    also(credential="good")

    for _ in range(5):
        ask(con)
    within = first.request_count
    clock.skipped_s += 29
    ask(con)
    at_29 = first.request_count
    clock.skipped_s += 2
    ask(con)

    assert (within, at_29, first.request_count) == (1, 1, 2)


@pytest.mark.usefixtures("keys")
def test_entity_health_shows_whose_key_was_refused(con: Con, serve: Serve, also: Also, clock: Skipping) -> None:
    serve(always(403, "no"), credential="bad")
    also(credential="good")
    ask(con)

    before = refused_keys(con)
    clock.skipped_s += 31

    assert (before, refused_keys(con)) == (["chat-1"], [])


@pytest.mark.usefixtures("keys")
def test_a_changed_credential_is_tried_at_once(
    con: Con, serve: Serve, also: Also, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_key(received: Received) -> Reply:
        return echo_chat(received) if received.headers["authorization"] == "Bearer new" else error_reply(401, "no")

    first = serve(by_key, credential="bad")
    also(lambda received: chat_reply("the second"))
    ask(con)
    monkeypatch.setenv("FLEMING_TEST_NEW", "new")
    con.execute("update fleming.credentials set reference = 'FLEMING_TEST_NEW' where name = 'bad'")

    assert ask(con) == "echo: x"
    assert first.request_count == 2
    assert refused_keys(con) == []


@pytest.mark.usefixtures("keys")
def test_a_single_entity_is_tried_though_its_key_was_refused(con: Con, serve: Serve) -> None:
    server = serve(in_turn(error_reply(401, "no"), chat_reply("fine")), credential="bad", max_retries=5)

    assert "HTTP status 401" in fail(con)
    assert server.request_count == 1
    assert ask(con) == "fine"


def test_a_secret_that_cannot_be_had_goes_on_to_the_next_entity(con: Con, serve: Serve, also: Also) -> None:
    con.execute("insert into fleming.credentials values ('gone', 'env', 'FLEMING_TEST_NO_SUCH_VARIABLE')")
    first = serve(credential="gone")
    also()

    assert ask(con) == "echo: x"
    assert first.request_count == 0


MAY_BE_BILLED = {"timeout": hang, "cut": cut, "malformed": lambda received: Reply(body="{")}


@pytest.mark.parametrize("fault", MAY_BE_BILLED)
def test_what_may_have_been_billed_is_not_sent_to_the_same_entity_again(con: Con, serve: Serve, fault: str) -> None:
    server = serve(MAY_BE_BILLED[fault], attempt_timeout_ms=100, max_retries=5)

    fail(con)

    assert server.request_count == 1


@pytest.mark.parametrize("fault", MAY_BE_BILLED)
def test_what_may_have_been_billed_is_sent_again_where_retry_on_timeout_says_so(
    con: Con, serve: Serve, fault: str
) -> None:
    serve(MAY_BE_BILLED[fault], attempt_timeout_ms=50, max_retries=3, retry_on_timeout=True)

    fail(con)

    assert [reason for (reason,) in attempts(con, "reason")] == ["first", "retry", "retry", "retry"]


def test_after_a_cut_the_budget_goes_to_the_entity_that_only_failed(con: Con, serve: Serve, also: Also) -> None:
    first = serve(cut, max_retries=3)
    second = also(always(500, "broken"))

    fail(con)

    assert (first.request_count, second.request_count) == (1, 3)


@pytest.mark.parametrize(("retries", "entities", "requests"), [(0, 1, 1), (0, 3, 3), (1, 3, 3), (4, 2, 5), (3, 1, 4)])
def test_retries_and_fallbacks_have_one_budget(
    con: Con, serve: Serve, also: Also, retries: int, entities: int, requests: int
) -> None:
    servers = [serve(always(500, "broken"), max_retries=retries)]
    servers += [also(always(500, "broken")) for _ in range(entities - 1)]

    fail(con)

    assert sum(server.request_count for server in servers) == requests
    assert con.execute("select attempts from fleming.serving.inference").fetchall() == [(requests,)]


def test_one_deadline_holds_for_several_entities_that_hang(con: Con, serve: Serve, also: Also) -> None:
    servers = [serve(hang, timeout_ms=600), also(hang), also(hang)]

    began = time.perf_counter()
    text = fail(con)
    took_s = time.perf_counter() - began

    assert [server.request_count for server in servers] == [1, 1, 1]
    assert took_s > 0.5
    assert "AI_FUNCTION_HTTP_REQUEST_ERROR" in text


def test_attempt_timeout_ms_holds_within_the_deadline_only(con: Con, serve: Serve, also: Also) -> None:
    servers = [serve(hang, timeout_ms=300, attempt_timeout_ms=200), also(hang), also(hang)]

    fail(con)

    assert [server.request_count for server in servers] == [1, 1, 0]


def test_a_hanging_entity_leaves_time_for_the_next(con: Con, serve: Serve, also: Also) -> None:
    serve(hang, timeout_ms=500)
    also()

    assert ask(con) == "echo: x"


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(con: Con, serve: Serve, clock: Skipping) -> None:
    server = serve(always(429, "later", headers={"retry-after": "60"}), timeout_ms=5000, max_retries=5)

    assert "HTTP status 429" in fail(con)
    assert server.request_count == 1
    assert clock.waits == []


def date_in(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


ASKED_WAITS: dict[str, tuple[Callable[[], dict[str, str]], float, float]] = {
    "seconds": (lambda: {"retry-after": "7"}, 6.5, 7.0),
    "retry-after-ms": (lambda: {"retry-after-ms": "1500"}, 1.0, 1.5),
    "retry-after-ms before seconds": (lambda: {"retry-after": "20", "retry-after-ms": "1500"}, 1.0, 1.5),
    "HTTP date": (lambda: {"retry-after": date_in(10)}, 8.0, 10.0),
    "a date that is past": (lambda: {"retry-after": date_in(-10)}, 0.0, 0.0),
}


@pytest.mark.parametrize("form", ASKED_WAITS)
def test_a_retry_waits_as_long_as_the_provider_asks(con: Con, serve: Serve, clock: Skipping, form: str) -> None:
    headers, least, most = ASKED_WAITS[form]
    serve(in_turn(error_reply(429, "later", headers=headers()), chat_reply("fine")), timeout_ms=60_000)

    assert ask(con) == "fine"
    assert least <= sum(clock.waits) <= most


def test_waits_without_a_word_from_the_provider_grow_by_backoff_with_jitter(
    con: Con, serve: Serve, clock: Skipping
) -> None:
    serve(always(500, "broken"), timeout_ms=600_000, max_retries=8)

    fail(con)

    assert len(clock.waits) == 8
    assert all(wait <= min(20.0, 0.5 * 2.0**number) for number, wait in enumerate(clock.waits))
    assert len(set(clock.waits)) == 8


def test_the_retry_after_of_one_entity_does_not_hold_up_another(
    con: Con, serve: Serve, also: Also, clock: Skipping
) -> None:
    first = serve(always(429, "later", headers={"retry-after": "30"}), max_retries=2)
    second = also(in_turn(error_reply(500, "broken"), chat_reply("fine")))

    assert ask(con) == "fine"
    assert (first.request_count, second.request_count) == (1, 2)
    assert sum(clock.waits) < 2


def test_a_wait_counts_against_the_deadline(con: Con, serve: Serve, clock: Skipping) -> None:
    server = serve(always(429, "later", headers={"retry-after": "4"}), timeout_ms=10_000, max_retries=9)

    fail(con)

    assert server.request_count == 3
    assert sum(clock.waits) < 10


def test_an_answer_that_breaks_the_schema_is_asked_for_again_at_the_same_entity(
    con: Con, serve: Serve, also: Also
) -> None:
    first = serve(in_turn(chat_reply("no json"), chat_reply('{"n": 1}')), max_retries=1)
    second = also(lambda received: chat_reply('{"n": 2}'))

    con.execute("select ai_query('chat', 'x', responseFormat => ?)", [SCHEMA]).fetchall()

    assert (first.request_count, second.request_count) == (2, 0)
    assert attempts(con) == [("chat-1", "first"), ("chat-1", "schema_mismatch")]


def test_asking_again_for_the_schema_counts_against_the_budget(con: Con, serve: Serve) -> None:
    server = serve(
        in_turn(error_reply(500, "broken"), chat_reply("no json"), error_reply(500, "broken")), max_retries=2
    )

    with pytest.raises(duckdb.Error):
        con.execute("select ai_query('chat', 'x', responseFormat => ?)", [SCHEMA]).fetchall()

    assert server.request_count == 3


def test_without_a_budget_an_answer_that_breaks_the_schema_is_not_asked_for_again(con: Con, serve: Serve) -> None:
    server = serve(lambda received: chat_reply("no json"), max_retries=0)

    with pytest.raises(duckdb.Error, match="AI_FUNCTION_JSON_PARSE_ERROR"):
        con.execute("select ai_query('chat', 'x', responseFormat => ?)", [SCHEMA]).fetchall()

    assert server.request_count == 1


def test_a_schema_mismatch_that_then_fails_goes_on_to_the_next_entity(con: Con, serve: Serve, also: Also) -> None:
    serve(in_turn(chat_reply("no json"), error_reply(500, "broken")))
    also(lambda received: chat_reply('{"n": 2}'))

    [(answer,)] = con.execute("select ai_query('chat', 'x', responseFormat => ?)", [SCHEMA]).fetchall()

    assert '"n"' in answer
    assert attempts(con, "served_entity_name, reason, after_error_code") == [
        ("chat-1", "first", None),
        ("chat-1", "schema_mismatch", "INVALID_RESPONSE"),
        ("chat-2", "fallback", "INTERNAL_ERROR"),
    ]


def embed(received: Received) -> Reply:
    return embeddings_reply([[float(len(text))] for text in received.json()["input"]])


EMBED = "select ai_query('chat', repeat('x', i::int + 1)) from range(40) t(i)"


def test_embeddings_that_share_a_request_fall_back_together(con: Con, serve: Serve, also: Also) -> None:
    first = serve(always(500, "broken"), task="llm/v1/embeddings", max_retries=0)
    second = also(embed)

    vectors = con.execute(EMBED).fetchall()

    assert vectors == [([float(number + 1)],) for number in range(40)]
    assert (first.request_count, second.request_count) == (1, 1)


def test_each_attempt_of_embeddings_that_share_a_request_is_logged_once(con: Con, serve: Serve, also: Also) -> None:
    serve(always(500, "broken"), task="llm/v1/embeddings", max_retries=0)
    also(embed)

    con.execute(EMBED).fetchall()

    assert attempts(con, "served_entity_name, reason, status_code, inputs") == [
        ("chat-1", "first", 500, 40),
        ("chat-2", "fallback", 200, 40),
    ]
    assert con.execute("select count(*) from fleming.serving.inference where status_code = 200").fetchall() == [(40,)]


def test_embeddings_that_share_a_request_are_retried_together(con: Con, serve: Serve, clock: Skipping) -> None:
    clock.skips = False
    arrived = itertools.count()
    server = serve(
        lambda received: error_reply(500, "broken") if next(arrived) == 0 else embed(received),
        task="llm/v1/embeddings",
    )

    con.execute(EMBED).fetchall()

    assert 2 <= server.request_count <= 6  # timers may fire apart on a busy machine, but not 40 of them


def test_a_wait_between_attempts_is_neither_overhead_nor_queueing(con: Con, serve: Serve) -> None:
    serve(in_turn(error_reply(429, "later", headers={"retry-after": "3"}), chat_reply("fine")))

    ask(con)

    [(took_ms, queued_ms, overhead_us)] = con.execute(
        "select execution_duration_ms, queue_ms, overhead_us from fleming.serving.inference"
    ).fetchall()
    assert took_ms >= 2900
    assert queued_ms < 100
    assert overhead_us < 1e6


def test_each_row_of_a_batch_gets_its_answer_while_one_entity_works(con: Con, serve: Serve, also: Also) -> None:
    serve(always(503, "down"), traffic_percentage=50)
    also(traffic_percentage=50)

    rows = con.execute("select i, ai_query('chat', 'q' || i) from range(500) t(i)").fetchall()

    assert rows == [(number, f"echo: q{number}") for number in range(500)]


def test_rows_that_fail_everywhere_are_row_errors_with_their_own_attempts(con: Con, serve: Serve, also: Also) -> None:
    def odd_fails(received: Received) -> Reply:
        number = int(received.json()["messages"][0]["content"])
        return error_reply(500, f"no {number}") if number % 2 else echo_chat(received)

    serve(odd_fails, max_retries=1, breaker_min_calls=1000)
    also(odd_fails)

    rows = con.execute(
        "select a.errorMessage from (select ai_query('chat', i::varchar, failOnError => false) as a "
        "from range(20) t(i))"
    ).fetchall()
    made = Counter(con.execute("select attempts, status_code from fleming.serving.inference").fetchall())

    assert [f"no {number}" in (message or "") for number, (message,) in enumerate(rows)] == [False, True] * 10
    assert made == {(1, 200): 10, (2, 500): 10}
