"""A server of one's own: its address and its way to authenticate are in provider_config, as Databricks has them."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from conftest import AddEndpoint, Con

from fleming_sql.testing import MockModel, Received, Reply, echo_chat, embeddings_reply, error_reply

HEADER = {"key": "X-Own-Key", "value": "{{secrets/team/own}}"}
BEARER = {"token": "{{secrets/team/own}}"}


@pytest.fixture(autouse=True)
def own_key(con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "hush-1")
    con.execute("insert into fleming.credentials values ('team/own', 'env', 'OWN_KEY')")


def one(con: Any, statement: str) -> Any:
    [(value,)] = con.execute(statement).fetchall()
    return value


def refusal(con: Con) -> str:
    with pytest.raises(duckdb.Error) as refused:
        con.execute("select ai_query('chat', 'x')").fetchall()
    return str(refused.value)


def problems(con: Con) -> list[Any]:
    rows: list[Any] = con.execute(
        "select column_name, problem from fleming.config_problems where column_name is not null"
    ).fetchall()
    return rows


def guarded(name: str, value: str) -> Any:
    """Return a server that answers only those who show a header."""

    def reply(received: Received) -> Reply:
        if received.headers.get(name) != value:
            return error_reply(401, f"no valid {name}")
        return echo_chat(received)

    return reply


def test_a_key_goes_into_the_header_of_that_name(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(guarded("x-own-key", "hush-1")) as server:
        config = {"custom_provider_url": f"{server.url}/v1", "api_key_auth": HEADER}
        add_endpoint(con, "chat", provider="custom", provider_config=config)

        assert one(con, "select ai_query('chat', 'x')") == "echo: x"
        assert server.requests[0].path == "/v1/chat/completions"
        assert "authorization" not in server.requests[0].headers


def test_a_token_is_a_bearer_token(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(guarded("authorization", "Bearer hush-1")) as server:
        config = {"custom_provider_url": server.url, "bearer_token_auth": BEARER}
        add_endpoint(con, "chat", provider="custom", provider_config=config)

        assert one(con, "select ai_query('chat', 'x')") == "echo: x"


def test_the_credential_column_is_a_bearer_token_too(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(guarded("authorization", "Bearer hush-1")) as server:
        add_endpoint(con, "chat", provider="custom", base_url=server.url, credential="team/own")

        assert one(con, "select ai_query('chat', 'x')") == "echo: x"


def test_an_address_may_end_with_the_path_of_the_task(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda received: embeddings_reply([[1.0]])) as server:
        config = {"custom_provider_url": f"{server.url}/v1/embeddings/", "bearer_token_auth": BEARER}
        add_endpoint(con, "chat", provider="custom", provider_config=config, task="llm/v1/embeddings")

        assert one(con, "select ai_query('chat', 'x')") == [1.0]
        assert server.requests[0].path == "/v1/embeddings"


def test_a_refused_key_is_told_without_it(con: Con, add_endpoint: AddEndpoint) -> None:
    with MockModel(lambda received: error_reply(401, f"bad key {received.headers['x-own-key']}")) as server:
        config = {"custom_provider_url": server.url, "api_key_auth": HEADER}
        add_endpoint(con, "chat", provider="custom", provider_config=config)

        assert "bad key [REDACTED]" in refusal(con)
        assert server.request_count == 1
        logged = con.execute("from fleming.serving.inference").fetchall()
        assert "hush-1" not in str(logged)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"bearer_token_auth": {"token": "hush-2"}}, "bearer_token_auth.token"),
        ({"api_key_auth": {"key": "x-own-key", "value": "hush-2"}}, "api_key_auth.value"),
    ],
)
def test_a_nested_secret_in_plain_text_is_a_config_problem(
    con: Con, add_endpoint: AddEndpoint, config: dict[str, Any], key: str
) -> None:
    add_endpoint(con, "chat", provider="custom", credential="team/own", provider_config=config)

    found = problems(con)

    assert f'holds a secret in the key "{key}" as plain text' in str(found)
    assert "hush-2" not in str(found) + refusal(con)


def test_a_reference_to_no_credential_is_a_config_problem(con: Con, add_endpoint: AddEndpoint) -> None:
    config = {"custom_provider_url": "http://localhost:1", "bearer_token_auth": {"token": "{{secrets/team/none}}"}}
    add_endpoint(con, "chat", provider="custom", provider_config=config)

    assert "team/none" in problems(con)[0][1]


def test_right_settings_are_no_config_problem(con: Con, add_endpoint: AddEndpoint) -> None:
    config = {"custom_provider_url": "http://localhost:1", "api_key_auth": HEADER}
    add_endpoint(con, "chat", provider="custom", provider_config=config)

    assert problems(con) == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no address": ({"bearer_token_auth": BEARER}, 'key "custom_provider_url" is missing'),
    "two ways": (
        {"custom_provider_url": "http://localhost:1", "bearer_token_auth": BEARER, "api_key_auth": HEADER},
        "one way too many",
    ),
    "no way": ({"custom_provider_url": "http://localhost:1"}, "needs a credential"),
    "token in another key": (
        {"custom_provider_url": "http://localhost:1", "bearer_token_auth": {"value": "{{secrets/team/own}}"}},
        'key "bearer_token_auth" must be an object with token',
    ),
    "no object": (
        {"custom_provider_url": "http://localhost:1", "bearer_token_auth": "{{secrets/team/own}}"},
        'key "bearer_token_auth" must be an object with token',
    ),
    "no header": (
        {"custom_provider_url": "http://localhost:1", "api_key_auth": {**HEADER, "key": "x key"}},
        'key "api_key_auth.key" must be the name of a header',
    ),
    "a header that is not its own": (
        {"custom_provider_url": "http://localhost:1", "api_key_auth": {**HEADER, "key": "Host"}},
        'key "api_key_auth.key" must be the name of a header',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_told(con: Con, add_endpoint: AddEndpoint, case: str) -> None:
    config, words = WRONG[case]
    add_endpoint(con, "chat", provider="custom", provider_config=config)

    assert words in refusal(con)


def test_a_credential_beside_the_settings_is_one_way_too_many(con: Con, add_endpoint: AddEndpoint) -> None:
    config = {"custom_provider_url": "http://localhost:1", "bearer_token_auth": BEARER}
    add_endpoint(con, "chat", provider="custom", credential="team/own", provider_config=config)

    assert "one way too many" in refusal(con)
