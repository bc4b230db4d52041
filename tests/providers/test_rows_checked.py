"""Rows of served_entities that can never work show in `config_problems`, in words that hold no secret."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import duckdb
import pytest
from conftest import AddEndpoint, Con

from fleming_sql.testing import MockModel, chat_reply

SECRET = "SeCrEt-42"  # noqa: S105  none
DATABRICKS = "databricks-model-serving"
REGION = {"aws_region": "us-east-1"}
AZURE = {"openai_api_type": "azure", "openai_api_base": "https://a.example", "openai_api_version": "1"}
ENTRA = {
    **AZURE,
    "openai_api_type": "azuread",
    "openai_deployment_name": "d",
    "microsoft_entra_tenant_id": "t",
    "microsoft_entra_client_id": "c",
}


class Row(NamedTuple):
    """A row, and what is said of it."""

    provider: str
    config: dict[str, Any]
    words: str
    columns: Mapping[str, Any] = MappingProxyType({})
    column: str = "provider_config"


def address(provider: str, key: str, value: str, words: str) -> Row:
    return Row(provider, {key: value}, f'"{key}" {words}', {"credential": "k"})


def base_url(value: str, words: str) -> Row:
    return Row("openai", {}, f"base_url {words}", {"base_url": value, "credential": "k"}, "base_url")


def model(provider: str, value: str, **config: Any) -> Row:
    return Row(provider, config, f'model is "{value}"', {"model": value, "credential": "k"}, "model")


NO_ADDRESS = "is not an http or https address"
USER = "holds a user name or password"
WRONG = {
    "query": base_url(f"https://h/v1?api_key={SECRET}", "has a query"),
    "fragment": base_url("https://h/v1#x", "has a fragment"),
    "user": base_url(f"https://me:{SECRET}@h/v1", USER),
    "scheme": base_url(f"ftp://me:{SECRET}@h/v1", NO_ADDRESS),
    "no host": base_url("https://", NO_ADDRESS),
    "bracket": base_url("http://[::1", NO_ADDRESS),
    "port": base_url("http://h:99999", NO_ADDRESS),
    "blank": base_url("http://h /v1", NO_ADDRESS),
    "custom url": address("custom", "custom_provider_url", f"https://h?key={SECRET}", "has a query"),
    "custom without scheme": address("custom", "custom_provider_url", f"me:{SECRET}@h/v1", NO_ADDRESS),
    "openai base": address("openai", "openai_api_base", f"https://me:{SECRET}@h", USER),
    "cohere base": address("cohere", "cohere_api_base", f"https://h?key={SECRET}", "has a query"),
    "workspace with a user": address(DATABRICKS, "databricks_workspace_url", f"https://me:{SECRET}@h", USER),
    "workspace with a key": address(DATABRICKS, "databricks_workspace_url", f"https://h?key={SECRET}", "has a query"),
    "authority": Row("openai", {**ENTRA, "microsoft_entra_authority": "https://[x"}, NO_ADDRESS, {"credential": "k"}),
    "plain authority": Row(
        "openai", {**ENTRA, "microsoft_entra_authority": "http://h"}, "must begin with https", {"credential": "k"}
    ),
    "region": Row("amazon-bedrock", {"aws_region": "evil.com/#"}, "is no region of AWS"),
    "region number": Row("amazon-bedrock", {"aws_region": 7}, '"aws_region" must be a text'),
    "half a key": Row("amazon-bedrock", {**REGION, "aws_access_key_id": "AKIA"}, '"aws_secret_access_key" is missing'),
    "deployment": Row("openai", AZURE, '"openai_deployment_name" is missing', {"credential": "k"}),
    "api type": Row("openai", {"openai_api_type": ["azure"]}, "must be a text", {"credential": "k"}),
    "entra without a secret": Row("openai", ENTRA, "needs a secret beside it"),
    "client without a secret": Row(
        DATABRICKS,
        {"databricks_client_id": "x", "databricks_workspace_url": "h"},
        "needs a secret beside it",
    ),
    "input format": Row(
        "mlflow-model-serving", {"input_format": "csv"}, "must be one of", {"base_url": "http://h", "task": "custom"}
    ),
    "header": Row(
        "custom",
        {"custom_provider_url": "https://h", "api_key_auth": {"key": ["x"], "value": "{{secrets/k}}"}},
        "must be the name of a header",
    ),
    "header's value": Row("openai", {"openai_organization": "a\r\nx: 1"}, "printable ASCII", {"credential": "k"}),
    "vertex region": Row("google-cloud-vertex-ai", {"project_id": "p", "region": "us-central1 "}, "must be like"),
    "token as text": Row(
        "custom",
        {"custom_provider_url": "https://h", "bearer_token_auth": SECRET},
        'a secret in the key "bearer_token_auth" as plain text',
    ),
    **{
        f"inputs {value}": Row(
            "openai", {"max_inputs_per_request": value}, "a whole number from 1 up", {"credential": "k"}
        )
        for value in ("16", -5, 0, 1.5, True)
    },
    "databricks model": model(DATABRICKS, "..", databricks_workspace_url="h"),
    "gemini model": model("gemini", "../../x/y"),
    "vertex model": model("google-cloud-vertex-ai", "a//b", project_id="p", region="us"),
    "bedrock model": model("amazon-bedrock", ".", **REGION),
    "project": Row("google-cloud-vertex-ai", {"project_id": "..", "region": "us"}, '"project_id" is ".."'),
    "account": Row("cloudflare-workers-ai", {"account_id": ".."}, '"account_id" is ".."', {"credential": "k"}),
    "azure deployment": Row(
        "openai", {**AZURE, "openai_deployment_name": ".."}, '"openai_deployment_name" is ".."', {"credential": "k"}
    ),
}


@pytest.fixture(autouse=True)
def key(con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "hush-1")
    con.execute("insert into fleming.credentials values ('k', 'env', 'A_KEY')")


def problems(con: Con) -> list[Any]:
    rows: list[Any] = con.execute(
        "select column_name, problem || ' ' || remedy from fleming.config_problems where column_name is not null"
    ).fetchall()
    return rows


def told(con: Con) -> str:
    with pytest.raises(duckdb.Error) as refused:
        con.execute("select ai_query('chat', 'x')").fetchall()
    return str(refused.value)


@pytest.mark.parametrize("case", WRONG)
def test_a_row_that_can_never_work_is_a_config_problem_without_a_secret(
    con: Con, add_endpoint: AddEndpoint, case: str
) -> None:
    row = WRONG[case]
    add_endpoint(con, "chat", provider=row.provider, provider_config=row.config, **row.columns)

    found = problems(con)

    assert [column for column, words in found if row.words in words] == [row.column]
    assert SECRET not in str(found)


def test_calls_meet_the_same_words(con: Con, add_endpoint: AddEndpoint) -> None:
    add_endpoint(con, "chat", credential="k", provider_config={"openai_api_base": f"http://me:{SECRET}@127.0.0.1:1"})

    words = told(con)

    assert "[CONFIG_PROBLEM]" in words
    assert 'its key "openai_api_base" holds a user name or password' in words
    assert "row chat/chat-1, column provider_config" in words
    assert SECRET not in words


@pytest.mark.parametrize(
    ("provider", "config"),
    [
        (DATABRICKS, {"databricks_client_id": None, "databricks_client_secret": None}),
        ("openai", {"microsoft_entra_tenant_id": None, "openai_api_key": None, "max_inputs_per_request": None}),
        ("custom", {"bearer_token_auth": None, "api_key_auth": None}),
        ("vllm", {"max_tokens_parameter": None, "response_formats": None, "max_inputs_per_request": None}),
    ],
)
def test_null_in_the_provider_config_is_as_good_as_nothing(
    con: Con, add_endpoint: AddEndpoint, provider: str, config: dict[str, Any]
) -> None:
    with MockModel(lambda received: chat_reply("ok")) as server:
        add_endpoint(con, "chat", provider=provider, base_url=server.url, credential="k", provider_config=config)

        assert problems(con) == []
        assert con.execute("select ai_query('chat', 'x')").fetchall() == [("ok",)]
        assert server.requests[0].headers["authorization"] == "Bearer hush-1"


def test_null_leaves_what_a_preset_says(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda received: chat_reply("ok")) as server:
        config = {"max_tokens_parameter": None}
        add_endpoint(con, "chat", provider="ollama", base_url=server.url, provider_config=config)
        con.execute("select ai_query('chat', 'x', modelParameters => {'max_completion_tokens': 5})").fetchall()

        assert server.requests[0].json()["max_tokens"] == 5


@pytest.mark.parametrize("page", ["/?o=123", "/browse?o=1#x", "/", "/ml/endpoints/", "#notebook/7"])
def test_a_workspace_may_be_copied_from_the_browser(con: Con, add_endpoint: AddEndpoint, page: str) -> None:
    with MockModel(lambda received: chat_reply("ok")) as server:
        config = {"databricks_workspace_url": server.url + page}
        add_endpoint(con, "chat", provider=DATABRICKS, model="m", credential="k", provider_config=config)
        con.execute("select ai_query('chat', 'x')").fetchall()

        assert server.requests[0].path == "/serving-endpoints/m/invocations"


@pytest.mark.parametrize(
    ("provider", "task", "parameters", "words"),
    [
        ("cohere", "llm/v1/chat", {"reasoning_effort": ["high"]}, "must be none or high"),
        ("amazon-bedrock", "llm/v1/chat", {"inferenceConfig": "x", "max_tokens": 4}, '"inferenceConfig" must be an'),
        ("amazon-bedrock", "llm/v1/chat", {"tools": 7}, '"tools" must be a list'),
        ("openai", "llm/v1/responses", {"reasoning": "high", "reasoning_effort": "low"}, '"reasoning" must be an'),
        ("openai", "llm/v1/responses", {"text": "high", "verbosity": "low"}, '"text" must be an object'),
        (
            "mlflow-model-serving",
            "agent/v1/chat",
            {"databricks_options": "x", "return_trace": True},
            '"databricks_options" must be an object',
        ),
    ],
)
def test_a_parameter_of_a_wrong_type_is_named_with_what_it_takes(
    con: Con, add_endpoint: AddEndpoint, provider: str, task: str, parameters: dict[str, Any], words: str
) -> None:
    config = REGION if provider == "amazon-bedrock" else {}
    add_endpoint(
        con,
        "chat",
        provider=provider,
        task=task,
        base_url="http://127.0.0.1:1",
        credential="k",
        parameters=parameters,
        provider_config=config,
    )

    assert f'the parameter "{next(iter(parameters))}"' in (said := told(con))
    assert words in said
