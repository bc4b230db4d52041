"""OpenTelemetry: what it is told of calls, in which spans, and that it is left alone where nobody configured it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Also, Con, Serve
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import fleming_sql
from fleming_sql.observability.conventions import content_attributes, entity_attributes, request_attributes, server_of
from fleming_sql.providers import ProviderRegistry
from fleming_sql.store.catalog import MEMORY
from fleming_sql.testing import MockModel, Reply, chat_reply, echo_chat, error_reply
from fleming_sql.types import Answer, Usage

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class Told:
    """What OpenTelemetry was told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.metering = MeterProvider([self.reader])
        self.tracer = self.tracing.get_tracer("of the user")

    def spans(self, kind: SpanKind | None = None) -> list[ReadableSpan]:
        ours = [span for span in self.exporter.get_finished_spans() if span.name != "mine"]
        return [span for span in ours if kind is None or span.kind is kind]

    def points(self, name: str) -> list[HistogramDataPoint]:
        data = self.reader.get_metrics_data()
        found = [
            metric
            for of_resource in (data.resource_metrics if data else ())
            for scope in of_resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        return [point for metric in found for point in metric.data.data_points]  # type: ignore[misc]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """OpenTelemetry, configured for one test; its API lets a process do so once only."""
    told = Told()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", told.tracing)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", told.metering)
    yield told
    told.tracing.shutdown()
    told.metering.shutdown()


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's API as a process finds it, whatever the machine configures."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", None)


def ask(con: Con, text: str = "hello", endpoint: str = "chat") -> Any:
    return con.execute("select ai_query(?, ?, failOnError => false)", [endpoint, text]).fetchall()[0][0]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def only(spans: Sequence[ReadableSpan]) -> ReadableSpan:
    [span] = spans
    return span


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_a_call_is_a_span_and_below_it_one_for_its_request(told: Told, con: Con, model: MockModel) -> None:
    ask(con)

    call, request = only(told.spans(SpanKind.INTERNAL)), only(told.spans(SpanKind.CLIENT))
    assert (call.name, request.name) == ("ai_query chat", "chat mock")
    assert parent_id(request) == call.context.span_id


def test_the_span_of_a_call_names_it_as_the_log_does(told: Told, con: Con, model: MockModel) -> None:
    ask(con)

    logged = con.execute(
        "select databricks_request_id, statement_id, queue_ms, overhead_us from fleming.serving.inference"
    ).fetchall()[0]
    found = attributes(only(told.spans(SpanKind.INTERNAL)))
    names = ("request_id", "statement_id", "queue_ms", "overhead_us")
    assert tuple(found[f"fleming.{name}"] for name in names) == logged
    assert (found["fleming.endpoint"], found["fleming.cache_hit"], found["fleming.status_code"]) == ("chat", False, 200)


def test_the_span_of_a_request_has_what_the_conventions_ask_for(told: Told, con: Con, serve: Serve) -> None:
    server = serve(
        lambda received: chat_reply("four", prompt_tokens=12, completion_tokens=5, cached_tokens=8, reasoning_tokens=2),
        default_parameters={"max_tokens": 50, "stop": ["."]},
        parameters={"top_p": 0.5},
    )

    con.execute("select ai_query('chat', 'hello', modelParameters => {'temperature': 0.25})").fetchall()

    found = attributes(only(told.spans(SpanKind.CLIENT)))
    assert {key: value for key, value in found.items() if not key.startswith("fleming.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "mock",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.25,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.stop_sequences": (".",),
        "gen_ai.response.model": "mock-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rsplit(":", 1)[1].split("/")[0]),
    }


def test_a_parameter_of_a_single_request_is_told_too(told: Told, con: Con, model: MockModel) -> None:
    con.execute(
        "select ai_query('chat', {'messages': [{'role': 'user', 'content': 'hello'}], 'max_tokens': 7})"
    ).fetchall()

    assert attributes(only(told.spans(SpanKind.CLIENT)))["gen_ai.request.max_tokens"] == 7


def test_each_request_of_a_call_has_a_span_with_its_own_times_and_outcome(
    told: Told, con: Con, serve: Serve, also: Also
) -> None:
    serve(lambda received: error_reply(503, "busy"), max_retries=0)
    also()

    ask(con)

    logged = con.execute(
        "select served_entity_name, reason, error_code, epoch_ns(started_at), duration_ms "
        "from fleming.serving.attempts order by attempt_number"
    ).fetchall()
    spans = told.spans(SpanKind.CLIENT)
    kept = ("fleming.served_entity", "fleming.attempt.reason", "error.type")
    assert [tuple(attributes(span).get(key) for key in kept) for span in spans] == [row[:3] for row in logged]
    assert [span.start_time for span in spans] == [row[3] for row in logged]
    assert [((span.end_time or 0) - (span.start_time or 0)) / 1e6 for span in spans] == pytest.approx(
        [row[4] for row in logged], abs=1e-3
    )
    assert [span.status.status_code for span in spans] == [StatusCode.ERROR, StatusCode.UNSET]
    assert only(told.spans(SpanKind.INTERNAL)).status.status_code is StatusCode.UNSET


def test_an_answer_that_is_reused_has_no_span_of_a_request(told: Told, con: Con, model: MockModel) -> None:
    ask(con)
    ask(con)

    _, reused = told.spans(SpanKind.INTERNAL)
    assert len(told.spans(SpanKind.CLIENT)) == 1
    assert attributes(reused)["fleming.cache_hit"] is True


def test_a_call_that_fails_before_a_request_is_a_failed_span(told: Told, con: Con, model: MockModel) -> None:
    ask(con, endpoint="nowhere")

    call = only(told.spans())
    assert attributes(call)["error.type"] == "RESOURCE_DOES_NOT_EXIST"
    assert call.status.status_code is StatusCode.ERROR


def test_the_users_current_span_is_the_parent_whichever_thread_computes_the_rows(
    told: Told, con: Con, model: MockModel
) -> None:
    con.execute("create table questions as select range as id from range(3000)")
    for number in range(5):
        with told.tracer.start_as_current_span("mine") as mine:
            ask(con, f"one {number}")
            con.execute(f"select ai_query('chat', 'many {number} ' || id % 7) from questions").fetchall()

        calls = told.spans(SpanKind.INTERNAL)
        assert {parent_id(call) for call in calls} == {mine.get_span_context().span_id}
        told.exporter.clear()


def test_each_threads_cursor_has_the_span_of_its_thread(told: Told, con: Con, model: MockModel) -> None:
    expected: dict[str, int] = {}

    def work(name: str, cursor: Con) -> None:
        for number in range(5):
            with told.tracer.start_as_current_span("mine") as mine:
                expected[f"{name} {number}"] = mine.get_span_context().span_id
                cursor.execute("select ai_query('chat', ?, usageContext => map {'n': ?})", [f"{name}", f"{number}"])
                cursor.fetchall()
                statement = told.spans(SpanKind.INTERNAL)
                assert mine.get_span_context().span_id in {parent_id(span) for span in statement}

    threads = [threading.Thread(target=work, args=(name, con.cursor())) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(parent_id(span) or 0 for span in told.spans(SpanKind.INTERNAL)) == sorted(expected.values())


def test_a_call_without_a_current_span_is_a_root(told: Told, con: Con, model: MockModel) -> None:
    with told.tracer.start_as_current_span("mine"):
        ask(con, "within")
    ask(con, "without")

    assert parent_id(told.spans(SpanKind.INTERNAL)[1]) is None


def test_a_connection_that_was_only_attached_has_the_span_of_the_thread_that_asks(
    told: Told, add_endpoint: AddEndpoint
) -> None:
    with duckdb.connect() as bare, MockModel(echo_chat) as server:
        fleming_sql.attach(bare, gateway=MEMORY, user="ada")
        add_endpoint(bare, base_url=server.url)
        for number in range(6):
            with told.tracer.start_as_current_span("mine") as mine:
                bare.execute(f"select ai_query('chat', 'hello {number}')").fetchall()
            assert parent_id(told.spans(SpanKind.INTERNAL)[-1]) == mine.get_span_context().span_id
        fleming_sql.detach(bare)


def test_contents_are_not_told_by_default(told: Told, con: Con, serve: Serve) -> None:
    serve(lambda received: error_reply(400, "cannot read: my secret") if b"bad" in received.body else chat_reply("yes"))

    ask(con, "my secret")
    ask(con, "bad secret")

    assert "secret" not in str([(attributes(span), span.status.description) for span in told.spans()])


def test_contents_are_told_where_the_switch_of_opentelemetry_says_so(
    told: Told, con: Con, model: MockModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, "true")

    ask(con)

    found = attributes(only(told.spans(SpanKind.CLIENT)))
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "hello"}]}
    ]
    assert json.loads(found["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "echo: hello"}], "finish_reason": "stop"}
    ]


def test_contents_are_not_told_of_an_endpoint_that_logs_none(
    told: Told, con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, "true")
    serve(payload_logging=False)

    ask(con)

    assert "hello" not in str(attributes(only(told.spans(SpanKind.CLIENT))))


def test_durations_are_measured_per_request_with_the_conventions_buckets(told: Told, con: Con, serve: Serve) -> None:
    answers = iter([error_reply(503, "busy"), chat_reply("yes")])
    serve(lambda received: next(answers), max_retries=1)

    ask(con)

    points = told.points("gen_ai.client.operation.duration")
    logged = con.execute("select sum(duration_ms) / 1000 from fleming.serving.attempts").fetchall()[0][0]
    assert {(point.attributes or {}).get("error.type") for point in points} == {"TEMPORARILY_UNAVAILABLE", None}
    assert sum(point.sum for point in points) == pytest.approx(logged)
    assert points[0].explicit_bounds == pytest.approx([0.01 * 2**power for power in range(14)])


def test_tokens_are_measured_by_their_kind(told: Told, con: Con, serve: Serve) -> None:
    serve(lambda received: chat_reply("four", prompt_tokens=12, completion_tokens=5))

    for text in ("a", "b", "a"):
        ask(con, text)

    points = told.points("gen_ai.client.token.usage")
    found = {(point.attributes or {})["gen_ai.token.type"]: (point.count, point.sum) for point in points}
    assert found == {"input": (2, 24), "output": (2, 10)}
    assert points[0].explicit_bounds[:4] == (1, 4, 16, 64)


def test_tokens_that_the_provider_did_not_count_are_not_measured(told: Told, con: Con, serve: Serve) -> None:
    serve(lambda received: Reply(body={"choices": [{"message": {"content": "yes"}}]}))

    ask(con)

    assert told.points("gen_ai.client.token.usage") == []


def test_calls_are_measured_reused_and_failed_ones_too(told: Told, con: Con, model: MockModel) -> None:
    ask(con)
    ask(con)
    ask(con, endpoint="nowhere")

    kinds = [dict(point.attributes or {}) for point in told.points("fleming.call.duration")]
    assert sorted(map(str, kinds)) == sorted(
        map(
            str,
            [
                {"fleming.endpoint": "chat", "fleming.cache_hit": False},
                {"fleming.endpoint": "chat", "fleming.cache_hit": True},
                {
                    "fleming.endpoint": "nowhere",
                    "fleming.cache_hit": False,
                    "error.type": "RESOURCE_DOES_NOT_EXIST",
                },
            ],
        )
    )


def test_embeddings_that_share_a_request_have_one_span_of_it_and_all_their_tokens(
    told: Told, con: Con, add_endpoint: AddEndpoint
) -> None:
    add_endpoint(con, "vectors", provider="simulated", task="llm/v1/embeddings")

    con.execute("select ai_query('vectors', 'text ' || range) from range(10)").fetchall()

    logged = con.execute("select sum(input_token_count)::bigint from fleming.serving.endpoint_usage").fetchall()[0][0]
    requests = con.execute("select count(*) from fleming.serving.attempts").fetchall()[0][0]
    assert len(told.spans(SpanKind.INTERNAL)) == 10
    assert len(told.spans(SpanKind.CLIENT)) == requests < 10
    assert sum(point.sum for point in told.points("gen_ai.client.token.usage")) == logged


def test_an_exporter_that_fails_leaves_calls_alone(told: Told, con: Con, model: MockModel) -> None:
    class Broken(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("no collector")

    told.tracing.add_span_processor(Broken(told.exporter))

    assert ask(con)["result"] == "echo: hello"
    assert con.execute("select count(*) from fleming.serving.inference").fetchall() == [(1,)]


def test_what_is_configured_after_connecting_is_found(
    unconfigured: None, monkeypatch: pytest.MonkeyPatch, con: Con, model: MockModel
) -> None:
    ask(con, "before")
    told = Told()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", told.tracing)

    ask(con, "after")

    assert [span.name for span in told.spans()] == ["chat mock", "ai_query chat"]


def test_metrics_alone_may_be_configured(
    unconfigured: None, monkeypatch: pytest.MonkeyPatch, con: Con, model: MockModel
) -> None:
    told = Told()
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", told.metering)

    ask(con)

    assert len(told.points("gen_ai.client.operation.duration")) == 1


def test_a_call_that_is_broken_off_is_told_as_cancelled(told: Told, con: Con, serve: Serve) -> None:
    arrived = threading.Event()

    def hang(received: Any) -> Reply:
        arrived.set()
        return Reply(hang=True)

    serve(hang)

    def work() -> None:
        with contextlib.suppress(duckdb.Error):
            ask(con)

    asking = threading.Thread(target=work)
    asking.start()
    arrived.wait(10)
    con.interrupt()
    asking.join(10)

    assert [attributes(span)["error.type"] for span in told.spans()] == ["CANCELLED", "CANCELLED"]


ASK = """
import sys, fleming_sql
{before}
with fleming_sql.connect(user="ada") as con:
    con.execute("insert into fleming.endpoints (name) values ('chat')")
    con.execute("insert into fleming.served_entities (endpoint, name, provider) values ('chat', 'one', 'simulated')")
    print(con.execute("select ai_query('chat', 'x') is not null").fetchall())
print(any(name.split(".")[0] == "opentelemetry" for name, module in sys.modules.items() if module is not None))
"""


@pytest.mark.parametrize(
    ("before", "imported"),
    [
        ("", False),
        ("sys.modules['opentelemetry'] = None  # as if it were not installed", False),
        ("import opentelemetry.trace", True),
    ],
    ids=["not used", "not installed", "not configured"],
)
def test_calls_work_without_opentelemetry_and_nothing_imports_it(before: str, imported: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(before=before)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout.split(), done.stderr) == (["[(True,)]", str(imported)], "")


def test_an_api_that_nobody_configured_is_told_nothing(unconfigured: None, con: Con, model: MockModel) -> None:
    ask(con)

    assert con._session.gateway.observe is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (None, "openai"),
        ("https://my-resource.openai.azure.com/openai", "azure.ai.openai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://europe-west4-aiplatform.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://aiplatform.eu.rep.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gcp.gemini"),
        ("https://api.x.ai/v1", "x_ai"),
        ("https://notx.ai/v1", "openai"),
        ("http://localhost:8000/v1", "openai"),
    ],
)
def test_the_providers_name_is_the_conventions_own(con: Con, model: MockModel, url: str | None, name: str) -> None:
    con.execute("update fleming.served_entities set base_url = ?", [url])
    endpoint = con._session.snapshot_for(0, 0).endpoints["chat"]
    [entity] = endpoint.entities

    server = server_of(ProviderRegistry(), entity, endpoint)
    assert entity_attributes(entity, endpoint, server)["gen_ai.provider.name"] == name


def test_where_requests_go_is_told_with_the_schemes_port(con: Con, model: MockModel) -> None:
    con.execute("update fleming.served_entities set base_url = null")
    endpoint = con._session.snapshot_for(0, 0).endpoints["chat"]

    assert server_of(ProviderRegistry(), endpoint.entities[0], endpoint) == ("api.openai.com", 443)


def test_parameters_that_are_no_numbers_are_left_out(con: Con, model: MockModel) -> None:
    [entity] = con._session.snapshot_for(0, 0).endpoints["chat"].entities

    assert request_attributes(entity, {"temperature": "hot", "stop": "END", "tools": []}) == {
        "gen_ai.request.stop_sequences": ["END"]
    }


def test_pictures_are_told_by_their_type_alone_and_system_prompts_apart() -> None:
    body = {
        "system": "Be short",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "data": "AAAA"}]}
        ],
    }

    found = content_attributes(json.dumps(body), Answer([[0.5]], Usage()))

    assert json.loads(str(found["gen_ai.input.messages"]))[0]["parts"] == [
        {"type": "text", "content": "What?"},
        {"type": "image"},
    ]
    assert json.loads(str(found["gen_ai.system_instructions"])) == [{"type": "text", "content": "Be short"}]
    assert "gen_ai.output.messages" not in found
