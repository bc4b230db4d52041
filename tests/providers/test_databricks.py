"""Databricks' serving endpoints, over real sockets: tokens of people, and those lent to service principals."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.providers.base import BadProviderRequest, LoginRefused
from fleming_sql.providers.databricks import Databricks
from fleming_sql.providers.oauth import read_token
from fleming_sql.testing import MockModel, Received, Reply, chat_reply, embeddings_reply
from fleming_sql.types import CHAT, CUSTOM, EMBEDDINGS, ModelRequest, ServedEntity

_PRINCIPAL = {"databricks_client_id": "sp-1", "databricks_client_secret": "{{secrets/team/sp}}"}


class Workspace:
    """A workspace that lends tokens to the service principal `sp-1`, and answers those who show one that holds."""

    def __init__(self, expires_in: Any = 3600) -> None:
        self.lent: list[str] = []
        self.revoked: set[str] = set()
        self.expires_in = expires_in
        self._basic = "Basic " + base64.b64encode(b"sp-1:s3cret").decode()

    def __call__(self, received: Received) -> Reply:
        if received.path == "/oidc/v1/token":
            return self._lend(received)
        token = received.headers.get("authorization", "").removeprefix("Bearer ")
        if token in self.revoked or token not in {"dapi-1", *self.lent}:
            return Reply(401, {"error_code": 401, "message": "Credential was not sent or was of an unsupported type"})
        if received.path != "/serving-endpoints/my%20model/invocations":
            return Reply(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such endpoint"})
        body = received.json()
        if "input" in body:
            return embeddings_reply([[1.0]] * len(body["input"]))
        if "dataframe_records" in body:
            return Reply(body={"predictions": [len(body["dataframe_records"])]})
        return chat_reply("hello", cached_tokens=3, reasoning_tokens=2)

    def _lend(self, received: Received) -> Reply:
        form = parse_qs(received.body.decode())
        if received.headers.get("authorization") != self._basic:
            return Reply(401, {"error": "invalid_client", "error_description": "Client authentication failed"})
        if form != {"grant_type": ["client_credentials"], "scope": ["all-apis"]}:
            return Reply(400, {"error": "invalid_request"})
        self.lent.append(f"token-{len(self.lent) + 1}")
        return Reply(body={"access_token": self.lent[-1], "token_type": "Bearer", "expires_in": self.expires_in})


Start = Callable[..., MockModel]


@pytest.fixture
def start(con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Serve a workspace behind the endpoint `chat`, called by the service principal or with a token."""
    monkeypatch.setenv("SP_SECRET", "s3cret")
    monkeypatch.setenv("PAT", "dapi-1")
    con.execute("insert into fleming.credentials values ('team/sp', 'env', 'SP_SECRET'), ('pat', 'env', 'PAT')")

    def serve_it(workspace: Workspace, **columns: Any) -> MockModel:
        settings = {"provider_config": _PRINCIPAL, "max_retries": 0, "cache_ttl_seconds": None, **columns}
        return serve(workspace, provider="databricks-model-serving", model="my model", **settings)

    return serve_it


def _ask(con: Con, prompt: str = "'hi'", rows: int = 1) -> list[Any]:
    rows_of: list[Any] = con.execute(f"select ai_query('chat', {prompt} || n) from range({rows}) as r(n)").fetchall()
    return rows_of


def test_a_personal_token_is_shown_to_the_serving_endpoint(con: Con, start: Start) -> None:
    server = start(Workspace(), provider_config={}, credential="pat")

    assert _ask(con) == [("hello",)]
    assert [(r.path, r.headers["authorization"]) for r in server.requests] == [
        ("/serving-endpoints/my%20model/invocations", "Bearer dapi-1")
    ]


def test_a_service_principal_logs_in_once_for_many_calls(con: Con, start: Start) -> None:
    workspace = Workspace()
    start(workspace)

    assert len(_ask(con, rows=50)) == 50
    assert _ask(con) == [("hello",)]
    assert workspace.lent == ["token-1"]


def test_a_token_that_is_refused_is_replaced_and_the_request_sent_again(con: Con, start: Start) -> None:
    workspace = Workspace()
    start(workspace)
    _ask(con)
    workspace.revoked.add("token-1")

    assert _ask(con) == [("hello",)]
    attempts = con.execute(
        "select status_code, reason, after_error_code from fleming.serving.attempts order by started_at"
    ).fetchall()
    assert attempts == [(200, "first", None), (401, "first", None), (200, "retry", "UNAUTHENTICATED")]


def test_a_workspace_that_refuses_each_token_is_asked_twice_and_no_more(con: Con, start: Start) -> None:
    workspace = Workspace()
    server = start(workspace)
    workspace.revoked |= {"token-1", "token-2", "token-3"}

    with pytest.raises(duckdb.Error, match="code 401"):
        _ask(con)
    assert [request.path.split("/")[1] for request in server.requests] == ["oidc", "serving-endpoints"] * 2


def test_a_token_is_renewed_before_it_expires(con: Con, start: Start) -> None:
    workspace = Workspace(expires_in=0)
    start(workspace)

    _ask(con)
    _ask(con)

    assert workspace.lent == ["token-1", "token-2"]


def test_a_login_that_is_refused_says_so_without_the_secret(
    con: Con, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(Workspace())
    monkeypatch.setenv("SP_SECRET", "wrong-s3cret")

    with pytest.raises(duckdb.Error) as raised:
        _ask(con)

    assert "HTTP 401: invalid_client: Client authentication failed" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert len(server.requests) == 1


def test_a_login_that_is_too_busy_is_tried_again(con: Con, start: Start) -> None:
    workspace = Workspace()
    busy = iter([Reply(503, {"error": "temporarily_unavailable"}, {"retry-after": "0"})])
    server = start(lambda received: next(busy, None) or workspace(received), max_retries=1)

    assert _ask(con) == [("hello",)]
    assert [request.path for request in server.requests][:2] == ["/oidc/v1/token"] * 2


@pytest.mark.parametrize("answer", [{}, {"access_token": ""}, {"access_token": "a\nb"}, [], {"access_token": 3}])
def test_an_answer_without_a_token_is_refused(answer: Any) -> None:
    with pytest.raises(LoginRefused, match="no access_token"):
        read_token(answer, "token")


def test_an_id_without_a_secret_is_told(con: Con, start: Start) -> None:
    start(Workspace(), provider_config={"databricks_client_id": "sp-1"})

    with pytest.raises(duckdb.Error, match=r"needs a credential|needs a secret beside it"):
        _ask(con)


def test_embeddings_go_many_to_a_request(con: Con, start: Start) -> None:
    server = start(Workspace(), task=EMBEDDINGS, provider_config={}, credential="pat")

    assert len(_ask(con, rows=200)) == 200
    assert sorted(len(r.json()["input"]) for r in server.requests) == [50, 150]


def test_a_custom_model_takes_records(con: Con, start: Start) -> None:
    start(Workspace(), task=CUSTOM, provider_config={}, credential="pat")

    assert con.execute("select ai_query('chat', {'a': 1}, returnType => 'INT')").fetchall() == [(1,)]


def test_cached_and_reasoning_tokens_are_logged(con: Con, start: Start) -> None:
    start(Workspace(), provider_config={}, credential="pat")
    _ask(con)

    counts = "select cached_input_token_count, reasoning_token_count from fleming.serving.endpoint_usage"
    assert con.execute(counts).fetchall() == [(3, 2)]


def _url(base_url: str | None, model: str = "m", **config: Any) -> str:
    entity = ServedEntity("id", "e", "one", "databricks-model-serving", model, base_url, None, 100, 0, {}, config)
    return Databricks().encode(entity, ModelRequest(CHAT, {}, messages=({"role": "user", "content": "hi"},))).url


@pytest.mark.parametrize(
    "address", ["https://w.example.com", "w.example.com", "https://w.example.com/", "https://w.example.com/serving-endpoints"]
)  # fmt: skip
def test_the_workspace_is_taken_as_people_copy_it(address: str) -> None:
    assert _url(None, databricks_workspace_url=address) == "https://w.example.com/serving-endpoints/m/invocations"


@pytest.mark.parametrize(
    ("base_url", "model", "told"), [(None, "m", "workspace_url"), ("https://w", "", "column model")]
)
def test_what_is_missing_is_named(base_url: str | None, model: str, told: str) -> None:
    with pytest.raises(BadProviderRequest, match=told):
        _url(base_url, model)
