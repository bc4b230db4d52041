"""Providers of `presets.csv`: asked by name alone, each as it differs from OpenAI."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Con, Serve
from genai_prices.data import providers as listed

import fleming_sql
from fleming_sql.jsontext import loads
from fleming_sql.providers import ProviderRegistry
from fleming_sql.providers.openai_preset import OpenAIPreset, without_thoughts
from fleming_sql.providers.presets import PRESETS, Preset, read_presets
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, echo_chat, embeddings_reply, error_reply
from fleming_sql.transport import HttpReply, HttpRequest
from fleming_sql.transport.pooled import PooledTransport
from fleming_sql.types import CHAT, EMBEDDINGS, ModelRequest, ResponseFormat, ServedEntity, Task

ROOT = Path(__file__).resolve().parent.parent.parent
ALL = list(read_presets().values())
STRUCT = "responseFormat => 'STRUCT<answer: STRUCT<n: INT>>'"
EMBED = "llm/v1/embeddings"
SCHEMA = ResponseFormat("json_schema", "answer", {"type": "object", "properties": {"n": {"type": "integer"}}})


class Detour(PooledTransport):
    """Sends what is meant for a public address to a local server, and keeps where it was meant to go."""

    def __init__(self, server: MockModel) -> None:
        super().__init__()
        self._server = server
        self.urls: list[str] = []

    async def send(self, request: HttpRequest) -> HttpReply:
        self.urls.append(request.url)
        path = request.url.split("/", 3)[3]
        return await super().send(replace(request, url=f"{self._server.url}/{path}"))


@pytest.fixture
def public() -> Iterator[tuple[Con, MockModel, Detour]]:
    """A gateway whose requests to public addresses arrive at a local server."""
    with MockModel(echo_chat) as server:
        detour = Detour(server)
        with fleming_sql.connect(user="ada", transport=detour) as con:
            yield con, server, detour


def one(con: Any, statement: str, *values: Any) -> Any:
    [(value,)] = con.execute(statement, list(values)).fetchall()
    return value


def refusal(con: Con, statement: str = "select ai_query('chat', 'x')") -> str:
    with pytest.raises(duckdb.Error) as refused:
        con.execute(statement).fetchall()
    return str(refused.value)


def add_key(con: Con, monkeypatch: pytest.MonkeyPatch, variable: str = "KEY") -> None:
    monkeypatch.setenv(variable, "k-1")
    con.execute("insert into fleming.credentials values ('key', 'env', ?)", [variable])


# ---------------------------------------------------------------- by name alone


def test_a_name_is_enough(
    public: tuple[Con, MockModel, Detour], add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    con, server, detour = public
    add_key(con, monkeypatch, "GROQ_API_KEY")
    add_endpoint(con, "chat", provider="groq", model="llama-3.3-70b-versatile", credential="key")

    assert one(con, "select ai_query('chat', 'x')") == "echo: x"
    assert detour.urls == ["https://api.groq.com/openai/v1/chat/completions"]
    assert server.requests[0].headers["authorization"] == "Bearer k-1"
    assert server.requests[0].json()["model"] == "llama-3.3-70b-versatile"


@pytest.mark.parametrize("name", ["ollama", "vllm", "llama-cpp", "lm-studio"])
def test_a_server_of_this_machine_needs_no_credential(
    public: tuple[Con, MockModel, Detour], add_endpoint: AddEndpoint, name: str
) -> None:
    con, server, detour = public
    add_endpoint(con, "chat", provider=name)

    assert one(con, "select ai_query('chat', 'x')") == "echo: x"
    assert detour.urls == [f"{read_presets()[name].base_url}/chat/completions"]
    assert "authorization" not in server.requests[0].headers


def test_a_base_url_goes_before_the_presets(con: Con, serve: Serve) -> None:
    server = serve(path="/proxy/v1/", provider="groq")

    assert one(con, "select ai_query('chat', 'x')") == "echo: x"
    assert server.requests[0].path == "/proxy/v1/chat/completions"


def test_a_missing_credential_names_the_usual_variable(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "chat", provider="mistral")

    text = refusal(con)

    assert 'provider "mistral" needs a credential' in text
    assert "values ('mistral', 'env', 'MISTRAL_API_KEY')" in text


def test_the_presets_own_address_in_base_url_needs_the_credential_too(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "chat", provider="groq", base_url="https://api.groq.com/openai/v1")

    assert "values ('groq', 'env', 'GROQ_API_KEY')" in refusal(con)


def test_the_statement_that_the_error_gives_is_all_that_is_missing(
    public: tuple[Con, MockModel, Detour], add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    con, server, _ = public
    monkeypatch.setenv("DEEPSEEK_API_KEY", "k-2")
    add_endpoint(con, "it's", provider="deepseek")

    con.execute(one(con, "select remedy from fleming.config_problems where column_name = 'credential'"))

    assert one(con, "select ai_query('it''s', 'x')") == "echo: x"
    assert server.requests[0].headers["authorization"] == "Bearer k-2"


def test_a_wrong_name_is_told_with_the_likest(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "chat", provider="Grok")

    text = refusal(con)

    assert '"Grok", which does not exist' in text
    assert 'did you mean "groq"?' in text
    assert one(con, "select count(*) from fleming.config_problems where remedy like '%did you mean \"groq\"%'") == 1


def test_a_name_like_no_other_is_told_without_a_guess(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "chat", provider="zzzzzz")

    assert "change the column provider; fleming.providers has all names" in refusal(con)


def test_a_task_that_a_preset_has_not_is_a_config_problem(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "chat", provider="perplexity", task=EMBED)

    assert 'provider "perplexity"' in refusal(con)


def test_what_the_address_lacks_comes_from_provider_config(
    public: tuple[Con, MockModel, Detour], add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    con, _, detour = public
    add_key(con, monkeypatch)
    config = {"account_id": "a/1"}
    add_endpoint(con, "chat", provider="cloudflare-workers-ai", credential="key", provider_config=config)

    one(con, "select ai_query('chat', 'x')")

    assert detour.urls == ["https://api.cloudflare.com/client/v4/accounts/a%2F1/ai/v1/chat/completions"]


def test_a_part_of_the_address_that_is_missing_is_named(
    con: Con, add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_key(con, monkeypatch)
    add_endpoint(con, "chat", provider="cloudflare-workers-ai", credential="key")

    assert 'key "account_id" is missing' in refusal(con)


# ---------------------------------------------------------------- quirks


def answering(content: str) -> Any:
    return lambda received: chat_reply(content)


def test_a_schema_is_told_in_words_where_there_is_only_a_json_mode(con: Con, serve: Serve) -> None:
    server = serve(answering('{"n": 3}'), provider="deepseek")

    assert one(con, f"select ai_query('chat', 'x', {STRUCT})") == {"n": 3}
    body = server.requests[0].json()
    assert body["response_format"] == {"type": "json_object"}
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert '"n"' in body["messages"][0]["content"]


def test_a_schema_is_told_in_words_where_there_is_no_form_at_all(con: Con, serve: Serve) -> None:
    server = serve(answering('{"n": 3}'), provider="nvidia")

    assert one(con, f"select ai_query('chat', 'x', {STRUCT})") == {"n": 3}
    body = server.requests[0].json()
    assert "response_format" not in body
    assert "JSON Schema" in body["messages"][0]["content"]


def test_a_model_that_does_not_keep_to_a_told_schema_is_asked_again(con: Con, serve: Serve) -> None:
    answers = iter(['{"m": 3}', '{"n": 4}'])
    server = serve(lambda received: chat_reply(next(answers)), provider="deepseek")

    assert one(con, f"select ai_query('chat', 'x', {STRUCT})") == {"n": 4}
    assert server.request_count == 2


def test_a_server_with_schemas_gets_the_schema(con: Con, serve: Serve) -> None:
    server = serve(answering('{"n": 3}'), provider="groq")

    one(con, f"select ai_query('chat', 'x', {STRUCT})")

    body = server.requests[0].json()
    assert body["response_format"]["type"] == "json_schema"
    assert len(body["messages"]) == 1


def test_a_json_object_is_told_in_words_where_there_are_only_schemas(con: Con, serve: Serve) -> None:
    server = serve(answering('{"n": 3}'), provider="lm-studio")

    one(con, """select ai_query('chat', 'x', responseFormat => '{"type": "json_object"}')""")

    body = server.requests[0].json()
    assert "response_format" not in body
    assert body["messages"][0] == {"role": "system", "content": "Answer with one JSON object and nothing else."}


@pytest.mark.parametrize("content", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_what_is_told_goes_into_the_instructions_that_are_there(content: Any) -> None:
    messages = ({"role": "system", "content": content}, {"role": "user", "content": "x"})
    request = ModelRequest(CHAT, {}, messages=messages, response_format=SCHEMA)

    sent = encoded("nvidia", request)["messages"]

    assert [message["role"] for message in sent] == ["system", "user"]
    assert "Be brief." in str(sent[0]["content"])
    assert "JSON Schema" in str(sent[0]["content"])


def test_an_entity_can_overrule_the_forms(con: Con, serve: Serve) -> None:
    config = {"response_formats": "json_schema"}
    server = serve(answering('{"n": 3}'), provider="deepseek", provider_config=config)

    one(con, f"select ai_query('chat', 'x', {STRUCT})")

    assert server.requests[0].json()["response_format"]["type"] == "json_schema"


def test_a_wrong_form_is_named(con: Con, serve: Serve) -> None:
    serve(provider="deepseek", provider_config={"response_formats": "xml"})

    assert 'key "response_formats" is "xml"' in refusal(con, f"select ai_query('chat', 'x', {STRUCT})")


@pytest.mark.parametrize(("name", "sent"), [("mistral", "max_tokens"), ("cerebras", "max_completion_tokens")])
@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
def test_the_limit_on_tokens_has_the_name_that_the_server_knows(
    con: Con, serve: Serve, name: str, sent: str, given: str
) -> None:
    server = serve(provider=name)

    one(con, f"select ai_query('chat', 'x', modelParameters => {{'{given}': 9}})")

    body = server.requests[0].json()
    assert {key: value for key, value in body.items() if key.startswith("max_")} == {sent: 9}


def test_a_parameter_that_the_server_ignores_is_refused_before_it_is_sent(con: Con, serve: Serve) -> None:
    server = serve(provider="minimax")

    text = refusal(con, "select ai_query('chat', 'x', modelParameters => {'logit_bias': {'5': 1}})")

    assert '"minimax" does not know the parameter "logit_bias"' in text
    assert server.request_count == 0


def test_one_choice_is_asked_for_where_several_cannot_be(con: Con, serve: Serve) -> None:
    serve(provider="groq")

    assert one(con, "select ai_query('chat', 'x', modelParameters => {'n': 1})") == "echo: x"


def test_embeddings_go_in_the_batches_that_the_server_takes(con: Con, serve: Serve) -> None:
    def embed(received: Received) -> Reply:
        texts = received.json()["input"]
        if len(texts) > 10:
            return error_reply(400, "batch size is invalid, it should not be larger than 10")
        return embeddings_reply([[float(text)] for text in texts])

    server = serve(embed, name="embed", task=EMBED, provider="dashscope")

    rows = con.execute("select i, ai_query('embed', i::varchar) from range(25) as t(i)").fetchall()

    assert sorted(rows) == [(number, [float(number)]) for number in range(25)]
    assert sorted(len(request.json()["input"]) for request in server.requests) == [5, 10, 10]


def test_headers_of_a_provider_come_from_provider_config(con: Con, serve: Serve) -> None:
    server = serve(provider="openrouter", provider_config={"x_title": "Nightly", "http_referer": "https://a.example"})

    one(con, "select ai_query('chat', 'x')")

    headers = server.requests[0].headers
    assert (headers["x-title"], headers["http-referer"]) == ("Nightly", "https://a.example")


def test_headers_that_nobody_set_are_not_sent(con: Con, serve: Serve) -> None:
    server = serve(provider="openrouter")

    one(con, "select ai_query('chat', 'x')")

    assert "x-title" not in server.requests[0].headers


def test_what_a_model_thinks_aloud_is_no_part_of_the_answer(con: Con, serve: Serve) -> None:
    serve(answering("<think>\nA number, then.\n</think>\n\n7"), provider="perplexity")

    assert one(con, "select ai_query('chat', 'x', returnType => 'INT')") == 7
    assert "A number, then." in one(con, "select response from fleming.serving.inference")


def test_a_provider_without_that_quirk_is_taken_by_its_word(con: Con, serve: Serve) -> None:
    serve(answering("<think>a</think>b"), provider="mistral")

    assert one(con, "select ai_query('chat', 'x')") == "<think>a</think>b"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("7", "7"),
        ("<think>a</think>7", "7"),
        ("\n<think></think>\n7 ", "7 "),
        ("<think>a</think><think>b</think>7", "7"),
        ("<think>cut off in the mid", ""),
        ("7 <think>a</think>", "7 <think>a</think>"),
    ],
)
def test_thoughts_are_left_out_where_they_stand_first(text: str, rest: str) -> None:
    assert without_thoughts(text) == rest


USAGE: dict[str, tuple[str, Mapping[str, Any], tuple[int, int, int | None, int | None]]] = {
    "reasoning apart, as xAI counts": (
        "xai",
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {"cached_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        (32, 103, 6, 94),
    ),
    "reasoning within, as others do": (
        "groq",
        {
            "prompt_tokens": 32,
            "completion_tokens": 103,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        (32, 103, None, 94),
    ),
    "cache hits of DeepSeek": (
        "deepseek",
        {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 25,
            "prompt_cache_hit_tokens": 12,
            "prompt_cache_miss_tokens": 8,
        },
        (20, 5, 12, None),
    ),
    "cache hits of Moonshot": (
        "moonshot",
        {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, "cached_tokens": 12},
        (20, 5, 12, None),
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_is_read_where_the_provider_puts_it(con: Con, serve: Serve, case: str) -> None:
    name, usage, counts = USAGE[case]
    body = loads(chat_reply("x").content())
    serve(lambda received: Reply(body={**body, "usage": usage}), provider=name)

    one(con, "select ai_query('chat', 'x')")

    assert con.execute(
        "select input_token_count, output_token_count, cached_input_token_count, reasoning_token_count "
        "from fleming.serving.endpoint_usage"
    ).fetchall() == [counts]


@pytest.mark.parametrize(("status", "code", "sent"), [(401, "UNAUTHENTICATED", 1), (429, "REQUEST_LIMIT_EXCEEDED", 2)])
def test_errors_mean_what_they_mean_in_openais_format(
    con: Con, serve: Serve, status: int, code: str, sent: int
) -> None:
    server = serve(lambda received: error_reply(status, "no"), provider="together", max_retries=1, timeout_ms=20_000)

    assert "no" in refusal(con)
    assert one(con, "select error_code from fleming.serving.attempts limit 1") == code
    assert server.request_count == sent


# ---------------------------------------------------------------- the table and the file


def test_the_table_shows_thirty_and_more_with_all_that_one_needs(con: Con) -> None:
    shown = con.execute(
        "select name from fleming.providers where base_url is not null and documentation_url like 'https://%' "
        "and len(tasks) > 0 and (credential_variable is not null or not needs_credential)"
    ).fetchall()

    assert {preset.name for preset in ALL} <= {name for (name,) in shown}
    assert len(ALL) > 30


def test_quirks_can_be_asked_for(con: Con) -> None:
    query = "select name from fleming.providers where quirks ->> 'response_formats' = 'json_object'"

    assert ("deepseek",) in con.execute(query).fetchall()


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
def test_each_row_of_the_file_makes_requests(preset: Preset) -> None:
    config = dict.fromkeys(preset.url_keys, "x")
    task: Task = CHAT if CHAT in preset.tasks else EMBEDDINGS
    request = ModelRequest(task, {}, messages=({"role": "user", "content": "hi"},), inputs=("a",))

    outgoing = OpenAIPreset(preset).encode(_entity(preset.name, config), request)

    assert outgoing.url.startswith(preset.base_url.format_map(config))
    assert "//" not in outgoing.url.split("://", 1)[1]


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
def test_each_row_of_the_file_is_plausible(preset: Preset) -> None:
    known = {"max_tokens_parameter", "max_inputs_per_request", "response_formats", "refused_parameters", "think_tags"}

    assert preset.base_url.startswith(("https://", "http://localhost"))
    assert not preset.base_url.endswith("/")
    assert preset.documentation_url.startswith("https://")
    assert {key for key in preset.quirks if not key.startswith("header.")} <= known
    assert preset.tasks


@pytest.mark.parametrize("preset", [preset for preset in ALL if preset.price_list], ids=lambda preset: preset.name)
def test_the_price_list_has_the_provider_that_a_row_names(preset: Preset) -> None:
    assert preset.price_list in {provider.id for provider in listed}


def test_the_rows_are_in_order_and_each_name_is_there_once() -> None:
    with PRESETS.open(encoding="utf-8", newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]

    assert names == sorted(set(names))
    assert len(ProviderRegistry().names) == len(set(ProviderRegistry().names))


def test_a_preset_has_the_prices_of_its_own_list(
    public: tuple[Con, MockModel, Detour], add_endpoint: AddEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    con, _, _ = public
    add_key(con, monkeypatch)
    model = one(
        con,
        "select min(model) from fleming.model_prices where provider = 'x-ai' and not contains(model, '*') "
        "and valid_to is null and service_tier = 'default'",
    )
    add_endpoint(con, "chat", provider="xai", model=model, credential="key")

    one(con, "select ai_query('chat', 'x')")

    assert one(con, "select cost_usd from fleming.serving.endpoint_usage") > 0


def test_one_more_row_in_the_file_is_one_more_provider(tmp_path: Path) -> None:
    for folder in ("fleming_sql", "sql"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "fleming_sql" / "providers" / "presets.csv").open("a", encoding="utf-8") as file:
        file.write("acme,ACME,http://localhost:9/v1,,chat,max_tokens_parameter=max_tokens,,https://acme.example\n")
    script = (
        "import fleming_sql\n"
        "from fleming_sql.testing import MockModel, echo_chat\n"
        "con = fleming_sql.connect()\n"
        "with MockModel(echo_chat) as server:\n"
        "    con.execute(\"insert into fleming.endpoints (name) values ('chat')\")\n"
        '    con.execute("insert into fleming.served_entities (endpoint, name, provider, model, base_url) "\n'
        "                \"values ('chat', 'one', 'acme', 'm', ?)\", [server.url])\n"
        "    print(con.execute(\"select ai_query('chat', 'x', modelParameters => {'max_tokens': 5})\").fetchone())\n"
        "    print(server.requests[0].json()['max_tokens'])\n"
        "print(con.execute(\"select description from fleming.providers where name = 'acme'\").fetchone())\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )

    assert (done.stdout, done.stderr) == ("('echo: x',)\n5\n('ACME',)\n", "")


# ---------------------------------------------------------------- pieces


def encoded(name: str, request: ModelRequest) -> Any:
    return loads(OpenAIPreset(read_presets()[name]).encode(_entity(name, {}), request).body)


def _entity(provider: str, config: Mapping[str, Any]) -> ServedEntity:
    return ServedEntity("id", "chat", "one", provider, "m-1", None, None, 100, 0, {}, config)
