"""Azure OpenAI as a service principal of Microsoft Entra: its secret becomes a token, and the token opens the model.

The server plays both sides and checks what it is sent:
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import duckdb
import pytest
from conftest import AddEndpoint, Con

from fleming_sql.testing import MockModel, Received, Reply, echo_chat, error_reply

SECRET = "hush~1/+="  # noqa: S105  made up


class Azure:
    """Microsoft's token endpoint and one deployment, at one address."""

    def __init__(self) -> None:
        self.logins: list[dict[str, str]] = []
        self.refused_tokens: set[str] = set()
        self.scope = "https://cognitiveservices.azure.com/.default"

    def __call__(self, received: Received) -> Reply:
        if received.path == "/tenant-1/oauth2/v2.0/token":
            return self._token(received)
        if received.path != "/openai/deployments/mini/chat/completions?api-version=2024-10-21":
            return error_reply(404, f"no such path: {received.path}")
        token = received.headers.get("authorization", "").removeprefix("Bearer ")
        if "api-key" in received.headers or token in self.refused_tokens or not token.startswith("token-"):
            return Reply(401, {"error": {"code": "401", "message": "Access denied due to invalid or expired token."}})
        return echo_chat(received)

    def _token(self, received: Received) -> Reply:
        form = {key: values[0] for key, values in parse_qs(received.body.decode(), strict_parsing=True).items()}
        self.logins.append(form)
        wanted = {
            "grant_type": "client_credentials",
            "client_id": "client-1",
            "client_secret": SECRET,
            "scope": self.scope,
        }
        if received.headers["content-type"] != "application/x-www-form-urlencoded" or form != wanted:
            told = "AADSTS7000215: Invalid client secret provided."
            return Reply(401, {"error": "invalid_client", "error_description": told})
        return Reply(body={"token_type": "Bearer", "expires_in": 3599, "access_token": f"token-{len(self.logins)}"})


@pytest.fixture
def azure() -> Azure:
    return Azure()


@pytest.fixture
def server(azure: Azure) -> Iterator[MockModel]:
    with MockModel(azure) as server:
        yield server


@pytest.fixture(autouse=True)
def secret(con: Con, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRA_SECRET", SECRET)
    con.execute("insert into fleming.credentials values ('entra', 'env', 'ENTRA_SECRET')")


def settings(url: str, **more: Any) -> dict[str, Any]:
    return {
        "openai_api_type": "azuread",
        "openai_api_base": url,
        "openai_api_version": "2024-10-21",
        "openai_deployment_name": "mini",
        "microsoft_entra_tenant_id": "tenant-1",
        "microsoft_entra_client_id": "client-1",
        "microsoft_entra_client_secret": "{{secrets/entra}}",
        "microsoft_entra_authority": url,
        **more,
    }


def ask(con: Con, prompt: str = "x") -> Any:
    [(answer,)] = con.execute("select ai_query('chat', ?)", [prompt]).fetchall()
    return answer


def refusal(con: Con) -> str:
    with pytest.raises(duckdb.Error) as refused:
        ask(con)
    return str(refused.value)


def test_the_secret_becomes_a_token_that_opens_the_deployment(
    con: Con, add_endpoint: AddEndpoint, server: MockModel
) -> None:
    add_endpoint(con, "chat", provider_config=settings(server.url))

    assert ask(con) == "echo: x"
    assert con.execute("select problem from fleming.config_problems where column_name is not null").fetchall() == []


def test_one_token_serves_many_calls(con: Con, add_endpoint: AddEndpoint, server: MockModel, azure: Azure) -> None:
    add_endpoint(con, "chat", provider_config=settings(server.url))

    con.execute("select ai_query('chat', i::varchar) from range(50) as t(i)").fetchall()

    assert len(azure.logins) == 1
    assert server.request_count == 51


def test_an_expired_token_is_renewed_once_and_the_call_answered(
    con: Con, add_endpoint: AddEndpoint, server: MockModel, azure: Azure
) -> None:
    add_endpoint(con, "chat", provider_config=settings(server.url))
    ask(con)
    azure.refused_tokens.add("token-1")

    assert ask(con, "y") == "echo: y"
    assert len(azure.logins) == 2
    reasons = con.execute("select status_code from fleming.serving.attempts order by started_at").fetchall()
    assert reasons == [(200,), (401,), (200,)]


def test_tokens_that_are_never_taken_end_after_one_renewal(
    con: Con, add_endpoint: AddEndpoint, server: MockModel, azure: Azure
) -> None:
    azure.refused_tokens |= {"token-1", "token-2", "token-3"}
    add_endpoint(con, "chat", provider_config=settings(server.url))

    assert "expired token" in refusal(con)
    assert len(azure.logins) == 2


def test_the_credential_column_can_hold_the_secret(con: Con, add_endpoint: AddEndpoint, server: MockModel) -> None:
    config = settings(server.url)
    del config["microsoft_entra_client_secret"]
    add_endpoint(con, "chat", credential="entra", provider_config=config)

    assert ask(con) == "echo: x"


def test_a_sovereign_cloud_has_its_own_scope(
    con: Con, add_endpoint: AddEndpoint, server: MockModel, azure: Azure
) -> None:
    azure.scope = "https://cognitiveservices.azure.us/.default"
    add_endpoint(con, "chat", provider_config=settings(server.url, microsoft_entra_scope=azure.scope))

    assert ask(con) == "echo: x"


def test_a_wrong_secret_is_told_in_microsofts_words_and_not_repeated(
    con: Con,
    add_endpoint: AddEndpoint,
    server: MockModel,
    azure: Azure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENTRA_SECRET", "hush-of-yesterday")
    add_endpoint(con, "chat", provider_config=settings(server.url), max_retries=3)

    text = refusal(con)

    assert "AADSTS7000215: Invalid client secret provided." in text
    assert "hush-of-yesterday" not in text
    assert len(azure.logins) == 1


def test_a_ready_token_goes_as_it_is(
    con: Con, add_endpoint: AddEndpoint, server: MockModel, azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTRA_SECRET", "token-of-mine")
    config = {key: value for key, value in settings(server.url).items() if not key.startswith("microsoft_entra")}
    add_endpoint(con, "chat", credential="entra", provider_config=config)

    assert ask(con) == "echo: x"
    assert azure.logins == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no tenant": ({"microsoft_entra_tenant_id": None}, 'key "microsoft_entra_tenant_id" is missing'),
    "no client": ({"microsoft_entra_client_id": None}, 'key "microsoft_entra_client_id" is missing'),
    "another type": ({"openai_api_type": "azure"}, 'goes with openai_api_type "azuread"'),
    "a secret over the open net": (
        {"microsoft_entra_authority": "http://login.example.com"},
        'key "microsoft_entra_authority" must begin with https://',
    ),
    "a secret in plain text": ({"microsoft_entra_client_secret": "hush"}, "as plain text"),
    "no secret": ({"microsoft_entra_client_secret": None}, "needs a secret beside it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_told_and_nothing_is_sent(
    con: Con, add_endpoint: AddEndpoint, server: MockModel, case: str
) -> None:
    changes, words = WRONG[case]
    config = {key: value for key, value in settings(server.url, **changes).items() if value is not None}
    add_endpoint(con, "chat", provider_config=config)

    assert words in refusal(con)
    assert server.request_count == 0
