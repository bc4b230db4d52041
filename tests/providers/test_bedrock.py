"""Amazon Bedrock through the front door, against a server that checks signatures and bodies as AWS does."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Also, Con, Serve
from providers.bedrock_server import (
    ACCESS_KEY,
    API_KEY,
    REGION,
    SECRET_KEY,
    Bedrock,
    converse_reply,
    error,
)

from fleming_sql.testing import Received, Reply, anthropic_reply, chat_reply, echo_chat

MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)
KEYS = {
    "aws_region": REGION,
    "aws_access_key_id": ACCESS_KEY,
    "aws_secret_access_key": "{{secrets/aws/secret}}",
}

ServeBedrock = Callable[..., Any]


@pytest.fixture
def bedrock(serve: Serve, con: Con, tmp_path: Path) -> ServeBedrock:
    """Start a Bedrock behind the endpoint `chat`; keywords go to the provider_config, where None takes a key away."""
    add_credential(con, tmp_path, "aws/secret", SECRET_KEY)

    def start(answer: Any, columns: dict[str, Any] | None = None, **config: Any) -> Any:
        server = answer if isinstance(answer, Bedrock) else Bedrock(answer)
        given = {key: value for key, value in {**KEYS, **config}.items() if value is not None}
        row = {"provider": "amazon-bedrock", "model": MODEL, "provider_config": given}
        return serve(server, **{**row, **(columns or {})})

    return start


def add_credential(con: Con, folder: Path, name: str, value: str) -> None:
    path = folder / name.replace("/", "-")
    path.write_text(value)
    path.chmod(0o600)
    con.execute("insert into fleming.credentials (name, source, reference) values (?, 'file', ?)", [name, str(path)])


def ask(con: Con, sql: str = "select ai_query('chat', 'hi')", *values: Any) -> Any:
    return con.execute(sql, list(values)).fetchall()[0][0]


def refusal(con: Con, sql: str = "select ai_query('chat', 'hi')") -> str:
    with pytest.raises(duckdb.Error) as caught:
        con.execute(sql).fetchall()
    return str(caught.value)


def logged(con: Con, columns: str) -> Any:
    return con.execute(f"select {columns} from fleming.serving.inference").fetchall()


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("amazon.nova-lite-v1:0", "/model/amazon.nova-lite-v1:0/converse"),
        (MODEL, f"/model/{MODEL}/converse"),
        (
            "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/abc123",
            "/model/arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile%2Fabc123/converse",
        ),
    ],
)
def test_a_chat_is_signed_whatever_the_model_id(bedrock: ServeBedrock, con: Con, model: str, path: str) -> None:
    server = bedrock(converse_reply("hello"), {"model": model})
    assert (ask(con), server.requests[0].path) == ("hello", path)


def test_a_session_token_is_sent_and_signed(bedrock: ServeBedrock, con: Con, tmp_path: Path) -> None:
    add_credential(con, tmp_path, "aws/token", "a-token")
    answer = Bedrock(converse_reply("hello"), tokens={ACCESS_KEY: "a-token"})
    config = {"aws_session_token": "{{secrets/aws/token}}"}
    bedrock(answer, **config)
    assert ask(con) == "hello"


def test_a_wrong_secret_is_refused_once_and_told(bedrock: ServeBedrock, con: Con) -> None:
    server = bedrock(Bedrock(converse_reply("hello"), secrets={ACCESS_KEY: "another"}))
    assert "check aws_secret_access_key" in refusal(con)
    assert (server.request_count, logged(con, "status_code, error_code")) == (1, [(401, "UNAUTHENTICATED")])


def test_an_api_key_is_a_bearer_token_and_needs_no_botocore(
    serve: Serve, con: Con, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    add_credential(con, tmp_path, "key", API_KEY)
    serve(Bedrock(converse_reply("hello"), secrets={}), provider="amazon-bedrock", model=MODEL, credential="key")
    assert ask(con) == "hello"


def test_a_missing_botocore_is_told_with_its_install_command(
    bedrock: ServeBedrock, con: Con, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    server = bedrock(converse_reply("hello"))
    assert "pip install 'fleming-sql[bedrock]'" in refusal(con)
    assert server.request_count == 0


@pytest.mark.parametrize(("minutes", "words"), [(20, "20 minutes behind"), (-20, "20 minutes ahead of")])
def test_a_clock_that_is_off_is_told(bedrock: ServeBedrock, con: Con, minutes: int, words: str) -> None:
    bedrock(Bedrock(converse_reply("hello"), off=timedelta(minutes=minutes)))
    assert f"this machine's clock is {words}" in refusal(con)


def test_an_expired_session_token_is_told(bedrock: ServeBedrock, con: Con) -> None:
    told = "The security token included in the request is expired"
    server = bedrock(error(403, "ExpiredTokenException", told))
    assert "the session token has run out: renew" in refusal(con)
    assert (server.request_count, logged(con, "status_code")) == (1, [(401,)])


def test_no_secret_is_logged(bedrock: ServeBedrock, con: Con) -> None:
    bedrock(error(403, "AccessDeniedException", f"no, {SECRET_KEY}"))
    assert SECRET_KEY not in refusal(con) + str(con.execute("from fleming.serving.inference").fetchall())


# ---------------------------------------------------------------- chat


def test_structured_output_of_claude_is_the_input_of_a_forced_tool(bedrock: ServeBedrock, con: Con) -> None:
    def answer(received: Received) -> Reply:
        tool = received.json()["toolConfig"]["toolChoice"]["tool"]["name"]
        use = {"toolUse": {"toolUseId": "t-1", "name": tool, "input": {"topic": "tax"}}}
        return converse_reply([use], stop_reason="tool_use")

    bedrock(answer)
    sql = "select ai_query('chat', 'hi', responseFormat => 'STRUCT<r: STRUCT<topic: STRING>>')"
    assert ask(con, sql) == {"topic": "tax"}


def test_structured_output_of_other_models_is_the_apis_own_format(bedrock: ServeBedrock, con: Con) -> None:
    def answer(received: Received) -> Reply:
        wanted = received.json()["outputConfig"]["textFormat"]
        schema = json.loads(wanted["structure"]["jsonSchema"]["schema"])
        return converse_reply(json.dumps(dict.fromkeys(schema["properties"], "tax")))

    bedrock(answer, {"model": "qwen.qwen3-32b-v1:0"})
    sql = "select ai_query('chat', 'hi', responseFormat => 'STRUCT<r: STRUCT<topic: STRING>>')"
    assert ask(con, sql) == {"topic": "tax"}


def test_a_picture_is_sent_in_base64(bedrock: ServeBedrock, con: Con) -> None:
    server = bedrock(converse_reply("a dot"))
    assert ask(con, "select ai_query('chat', 'what is it', files => ?::blob)", PNG) == "a dot"
    image = server.requests[0].json()["messages"][0]["content"][1]["image"]
    assert (image["format"], base64.b64decode(image["source"]["bytes"])) == ("png", PNG)


def test_a_guardrail_of_the_entity_goes_with_every_chat(bedrock: ServeBedrock, con: Con) -> None:
    guardrail = {"guardrailIdentifier": "gr-1", "guardrailVersion": "2"}
    server = bedrock(converse_reply("hello"), guardrailConfig=guardrail, performanceConfig={"latency": "optimized"})
    ask(con)
    body = server.requests[0].json()
    assert (body["guardrailConfig"], body["performanceConfig"]) == (guardrail, {"latency": "optimized"})


@pytest.mark.parametrize("reason", ["guardrail_intervened", "content_filtered"])
def test_a_refusal_goes_to_the_next_entity(bedrock: ServeBedrock, also: Also, con: Con, reason: str) -> None:
    text = "Sorry, no." if reason == "guardrail_intervened" else ""
    columns = {"fallback_on": ["content_policy"]}
    bedrock(converse_reply(text, stop_reason=reason), columns)
    also(echo_chat)
    assert ask(con) == "echo: hi"


def test_cached_input_is_counted_as_a_part_of_the_input(bedrock: ServeBedrock, con: Con) -> None:
    usage = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 1115, "cacheReadInputTokens": 100}
    bedrock(converse_reply("hello", usage={**usage, "cacheWriteInputTokens": 1000}))
    ask(con)
    columns = "input_token_count, output_token_count, cached_input_token_count, cache_write_token_count"
    assert con.execute(f"select {columns} from fleming.serving.endpoint_usage").fetchall() == [(1110, 5, 100, 1000)]


def test_the_price_is_that_of_aws(bedrock: ServeBedrock, con: Con) -> None:
    usage = {"inputTokens": 1_000_000, "outputTokens": 0, "totalTokens": 1_000_000}
    bedrock(converse_reply("hello", usage=usage), {"model": "amazon.nova-lite-v1:0"})
    ask(con)
    assert con.execute("select cost_usd from fleming.serving.endpoint_usage").fetchall() == [(0.06,)]


# ---------------------------------------------------------------- InvokeModel


def test_titan_embeds_one_text_a_request(bedrock: ServeBedrock, con: Con) -> None:
    def answer(received: Received) -> Reply:
        text = received.json()["inputText"]
        return Reply(body={"embedding": [float(len(text)), 0.5], "inputTextTokenCount": 4})

    server = bedrock(answer, {"model": "amazon.titan-embed-text-v2:0", "task": "llm/v1/embeddings"})
    rows = con.execute("select ai_query('chat', t) from unnest(['a', 'bb', 'ccc']) as u(t) order by t").fetchall()
    assert [row[0][0] for row in rows] == [1.0, 2.0, 3.0]
    assert [request.path for request in server.requests] == ["/model/amazon.titan-embed-text-v2:0/invoke"] * 3
    counts = "select sum(input_token_count) from fleming.serving.endpoint_usage"
    assert con.execute(counts).fetchall() == [(12,)]


def test_cohere_embeds_several_texts_a_request(bedrock: ServeBedrock, con: Con) -> None:
    def answer(received: Received) -> Reply:
        body = received.json()
        assert body["input_type"] == "search_document"
        vectors = [[float(len(text)), 0.5] for text in body["texts"]]
        return Reply(body={"embeddings": vectors, "id": "1", "response_type": "embeddings_floats"})

    server = bedrock(answer, {"model": "cohere.embed-multilingual-v3", "task": "llm/v1/embeddings"})
    rows = con.execute("select ai_query('chat', t) from unnest(['a', 'bb', 'ccc']) as u(t) order by t").fetchall()
    assert ([row[0][0] for row in rows], server.request_count) == ([1.0, 2.0, 3.0], 1)


def test_titan_completes_a_prompt(bedrock: ServeBedrock, con: Con) -> None:
    result = {"tokenCount": 5, "outputText": "once", "completionReason": "FINISH"}
    reply = Reply(body={"inputTextTokenCount": 7, "results": [result]})
    server = bedrock(reply, {"model": "amazon.titan-text-express-v1", "task": "llm/v1/completions"})
    assert ask(con, "select ai_query('chat', 'tell', modelParameters => {'max_tokens': 9})") == "once"
    assert server.requests[0].json() == {"inputText": "tell", "textGenerationConfig": {"maxTokenCount": 9}}
    counts = "select input_token_count, output_token_count from fleming.serving.endpoint_usage"
    assert con.execute(counts).fetchall() == [(7, 5)]


def test_claude_can_be_asked_in_its_own_format(bedrock: ServeBedrock, con: Con) -> None:
    server = bedrock(anthropic_reply("hello", cache_read=5), bedrock_api="invoke")
    assert ask(con) == "hello"
    body = server.requests[0].json()
    assert (server.requests[0].path, body["anthropic_version"]) == (f"/model/{MODEL}/invoke", "bedrock-2023-05-31")
    assert con.execute("select input_token_count from fleming.serving.endpoint_usage").fetchall() == [(14,)]


def test_grok_is_asked_in_the_format_of_chat_completions(bedrock: ServeBedrock, con: Con) -> None:
    arn = "arn:aws:bedrock:eu-central-1:123456789012:imported-model/abc123"
    server = bedrock(
        chat_reply("hello", reasoning_tokens=2), {"model": arn}, bedrock_api="invoke", bedrock_provider="Grok"
    )
    assert ask(con) == "hello"
    assert server.requests[0].json() == {"messages": [{"role": "user", "content": "hi"}]}


def test_a_guardrail_of_invoke_is_a_pair_of_signed_headers(bedrock: ServeBedrock, con: Con) -> None:
    guardrail = {"guardrailIdentifier": "gr-1", "guardrailVersion": "2"}
    intervened = anthropic_reply("Sorry.").body
    assert isinstance(intervened, dict)
    reply = Reply(body={**intervened, "amazon-bedrock-guardrailAction": "INTERVENED"})
    server = bedrock(reply, bedrock_api="invoke", guardrailConfig=guardrail)
    assert "guardrail of Bedrock intervened" in refusal(con)
    headers = server.requests[0].headers
    assert (headers["x-amzn-bedrock-guardrailidentifier"], headers["x-amzn-bedrock-guardrailversion"]) == ("gr-1", "2")
    assert "x-amzn-bedrock-guardrailidentifier" in headers["authorization"].lower()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("status", "kind", "logged_as", "requests"),
    [
        (429, "ThrottlingException", 429, 2),
        (400, "ThrottlingException", 429, 2),
        (408, "ModelTimeoutException", 408, 2),
        (429, "ModelNotReadyException", 429, 2),
        (503, "ServiceUnavailableException", 503, 2),
        (500, "InternalServerException", 500, 2),
        (403, "AccessDeniedException", 403, 1),
        (404, "ResourceNotFoundException", 404, 1),
        (400, "ValidationException", 400, 1),
        (400, "ServiceQuotaExceededException", 400, 1),
        (424, "ModelErrorException", 424, 1),
        (403, "UnrecognizedClientException", 401, 1),
    ],
)
def test_each_error_has_its_status_and_is_retried_where_that_helps(
    bedrock: ServeBedrock, con: Con, status: int, kind: str, logged_as: int, requests: int
) -> None:
    server = bedrock(error(status, kind, "what AWS says"), {"max_retries": 1})
    assert "what AWS says" in refusal(con)
    assert (server.request_count, logged(con, "status_code")) == (requests, [(logged_as,)])


def test_an_error_of_the_model_has_the_models_status(bedrock: ServeBedrock, con: Con) -> None:
    server = bedrock(error(424, "ModelErrorException", "oh", originalStatusCode=500), {"max_retries": 1})
    refusal(con)
    assert (server.request_count, logged(con, "status_code")) == (2, [(500,)])


@pytest.mark.parametrize(
    "told",
    [
        "Input is too long for requested model.",
        "The model returned the following errors: prompt is too long: 200049 tokens > 200000 maximum",
        "Too many input tokens. Max input tokens: 8192, request input token count: 9000",
        "The model returned the following errors: Input Tokens Exceeded: Number of input tokens exceeds the length.",
    ],
)
def test_what_is_too_long_goes_to_the_next_entity(bedrock: ServeBedrock, also: Also, con: Con, told: str) -> None:
    bedrock(error(400, "ValidationException", told), {"fallback_on": ["context_window"]})
    also(echo_chat)
    assert ask(con) == "echo: hi"


# ---------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("columns", "config", "words"),
    [
        ({}, {"aws_region": None}, 'key "aws_region" is missing'),
        ({}, {"aws_region": "Frankfurt"}, '"Frankfurt", which is no region of AWS'),
        ({"model": "claude 4"}, {}, 'the model "claude 4" is neither a model id'),
        ({}, {"bedrock_provider": "openai"}, 'key "bedrock_provider" is "openai" and must be one of'),
        ({}, {"bedrock_api": "chat"}, 'key "bedrock_api" is "chat"'),
        ({"model": "arn:aws:bedrock:x:1:imported-model/a"}, {"bedrock_api": "invoke"}, "does not tell whose it is"),
        ({"model": "cohere.command-r-v1:0"}, {"bedrock_api": "invoke"}, "remove bedrock_api"),
        ({}, {"structured_output": "yes"}, 'key "structured_output" is "yes"'),
        ({}, {"guardrailConfig": {"guardrailIdentifier": "x"}}, "lacks guardrailVersion"),
        ({}, {"uc_service_credential_name": "c"}, "which Databricks alone can use"),
        ({}, {"aws_secret_access_key": None}, 'key "aws_secret_access_key" is missing: the two keys go together'),
        ({}, {"aws_session_token": "plain"}, "plain text"),
        ({}, {"aws_profile": "work"}, 'key "aws_access_key_id" cannot go with aws_profile'),
        ({}, {"unknown": 1}, "does not know"),
    ],
)
def test_a_row_that_cannot_work_is_told_before_anything_is_sent(
    bedrock: ServeBedrock, con: Con, columns: dict[str, Any], config: dict[str, Any], words: str
) -> None:
    server = bedrock(converse_reply("hello"), columns, **config)
    sql = "select ai_query('chat', 'hi', responseFormat => 'STRUCT<r: STRUCT<topic: STRING>>')"
    assert words in refusal(con, sql)
    assert server.request_count == 0


def test_an_api_key_beside_other_keys_is_refused(bedrock: ServeBedrock, con: Con, tmp_path: Path) -> None:
    add_credential(con, tmp_path, "key", API_KEY)
    bedrock(converse_reply("hello"), {"credential": "key"})
    assert "clear one of the two" in refusal(con)
