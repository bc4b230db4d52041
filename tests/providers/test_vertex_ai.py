"""Vertex AI, over real sockets: tokens for service accounts and for this machine, and the models' three forms."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import duckdb
import pytest
from conftest import Con, Serve
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from fleming_sql.jsontext import loads
from fleming_sql.providers.base import BadProviderRequest, LoginRefused
from fleming_sql.providers.google.logins import token_of_key
from fleming_sql.providers.google.vertex_ai import VertexAI
from fleming_sql.testing import MockModel, Received, Reply, anthropic_reply
from fleming_sql.types import CHAT, EMBEDDINGS, ModelRequest, OutgoingRequest, Secret, ServedEntity

_PRIVATE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_PEM = _PRIVATE_KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
_AUDIENCE = "https://oauth2.googleapis.com/token"
_SKEW = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp "
    "values in the JWT claim."
)
_CONFIG = {"project_id": "my-project", "region": "europe-west4"}
_LOCATION = "/v1/projects/my-project/locations/europe-west4/publishers"
_MESSAGES = ({"role": "user", "content": "hi"},)


def _account(**fields: Any) -> dict[str, Any]:
    """Return the file that Google Cloud gives with the key of a service account."""
    return {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "key-7",
        "private_key": _PEM,
        "client_email": "sa@my-project.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
        **fields,
    }


def _decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class Cloud:
    """Lends tokens for assertions that the account's key has signed, and serves models to those who show one."""

    def __init__(self, reply: Reply | None = None, *, ahead_s: float = 0.0) -> None:
        self.lent: list[str] = []
        self.revoked: set[str] = set()
        self.claims: list[dict[str, Any]] = []
        self.reply = reply
        self.ahead_s = ahead_s

    def __call__(self, received: Received) -> Reply:
        if received.path == "/token":
            return self._lend(received)
        token = received.headers.get("authorization", "").removeprefix("Bearer ")
        if token in self.revoked or token not in self.lent:
            error = {"code": 401, "message": "Request had invalid credentials.", "status": "UNAUTHENTICATED"}
            return Reply(401, {"error": error})
        return self.reply or _answer(received)

    def _lend(self, received: Received) -> Reply:
        form = parse_qs(received.body.decode())
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return Reply(400, {"error": "unsupported_grant_type"})
        signed, _, signature = form["assertion"][0].rpartition(".")
        header, claims = (_decoded(part) for part in signed.split("."))
        try:
            raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
            _PRIVATE_KEY.public_key().verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        if (header["alg"], header["kid"], claims["aud"]) != ("RS256", "key-7", _AUDIENCE):
            return Reply(400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {header} {claims['aud']}"})
        now = time.time() + self.ahead_s
        if not claims["iat"] <= now <= claims["exp"] <= claims["iat"] + 3600:
            return Reply(400, {"error": "invalid_grant", "error_description": _SKEW})
        self.claims.append(claims)
        self.lent.append(f"ya29.{len(self.lent) + 1}")
        return Reply(body={"access_token": self.lent[-1], "expires_in": 3599, "token_type": "Bearer"})


def _answer(received: Received) -> Reply:
    body = received.json()
    if received.path == f"{_LOCATION}/google/models/gemini-2.5-flash:generateContent":
        candidate = {"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP"}
        counts = {"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 40, "totalTokenCount": 52}
        usage = {**counts, "cachedContentTokenCount": 6, "trafficType": "ON_DEMAND"}
        return Reply(body={"candidates": [candidate], "usageMetadata": usage})
    if received.path == f"{_LOCATION}/google/models/text-embedding-005:predict" and len(body["instances"]) <= 5:
        predictions = [
            {
                "embeddings": {
                    "values": [float(one["content"][1:])],
                    "statistics": {"token_count": 2, "truncated": False},
                }
            }
            for one in body["instances"]
        ]
        return Reply(body={"predictions": predictions})
    if received.path == f"{_LOCATION}/google/models/gemini-embedding-2:embedContent":
        value = float(body["content"]["parts"][0]["text"][1:])
        return Reply(body={"embedding": {"values": [value]}, "usageMetadata": {"promptTokenCount": 2}})
    if received.path == f"{_LOCATION}/anthropic/models/claude-sonnet-4-5@20250929:rawPredict" and "model" not in body:
        assert body["anthropic_version"] == "vertex-2023-10-16"
        return anthropic_reply("hello from Claude", cache_read=6)
    error = {"code": 404, "message": f"{received.path} was not found", "status": "NOT_FOUND"}
    return Reply(404, {"error": error})


Start = Callable[..., MockModel]


@pytest.fixture
def start(con: Con, serve: Serve, tmp_path: Path) -> Start:
    """Serve a cloud behind the endpoint `chat`; the key of a service account lies in a file."""
    path = tmp_path / "key.json"
    con.execute("insert into fleming.credentials values ('sa', 'file', ?)", [str(path)])

    def serve_it(cloud: Cloud, account: Mapping[str, Any] | str | None = None, **columns: Any) -> MockModel:
        settings = {"model": "gemini-2.5-flash", "credential": "sa", "max_retries": 0, "cache_ttl_seconds": None}
        settings |= {"provider_config": _CONFIG, **columns}
        server = serve(cloud, provider="google-cloud-vertex-ai", **settings)
        given = _account(token_uri=f"{server.url}/token") if account is None else account
        path.write_text(given if isinstance(given, str) else json.dumps(given), "utf-8")
        return server

    return serve_it


def _ask(con: Con, prompt: str = "'hi'", rows: int = 1) -> list[Any]:
    found: list[Any] = con.execute(f"select ai_query('chat', {prompt} || n) from range({rows}) as r(n)").fetchall()
    return found


def _failure(con: Con) -> str:
    with pytest.raises(duckdb.Error) as error:
        _ask(con)
    return str(error.value)


# ---------------------------------------------------------------- logging in


def test_a_service_account_logs_in_once_for_many_calls(con: Con, start: Start) -> None:
    cloud = Cloud()
    start(cloud)

    assert _ask(con, rows=30) == [("hello",)] * 30
    assert [(claims["iss"], claims["scope"]) for claims in cloud.claims] == [
        ("sa@my-project.iam.gserviceaccount.com", "https://www.googleapis.com/auth/cloud-platform")
    ]


def test_a_token_that_holds_no_longer_is_replaced_and_the_request_sent_again(con: Con, start: Start) -> None:
    cloud = Cloud()
    server = start(cloud)
    _ask(con)
    cloud.revoked.add("ya29.1")

    assert _ask(con, "'again'") == [("hello",)]
    assert [one.headers.get("authorization") for one in server.requests if one.path != "/token"] == [
        "Bearer ya29.1",
        "Bearer ya29.1",
        "Bearer ya29.2",
    ]


def test_the_key_may_stand_in_the_provider_config(con: Con, start: Start) -> None:
    con.execute("update fleming.credentials set name = 'team/sa'")
    start(Cloud(), credential=None, provider_config={**_CONFIG, "private_key": "{{secrets/team/sa}}"})

    assert _ask(con) == [("hello",)]


def test_without_a_key_the_machines_own_credentials_are_used(
    con: Con, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    start(cloud, credential=None)

    assert _ask(con, rows=3) == [("hello",)] * 3
    assert len(cloud.lent) == 1


def test_a_machine_without_credentials_is_told_where_they_are_looked_for(
    con: Con, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(Cloud(), credential=None)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))

    message = _failure(con)

    assert "gcloud auth application-default login" in message
    assert "nothing.json was not found" in message


def test_a_refused_key_names_the_token_endpoint_and_what_it_said(con: Con, start: Start) -> None:
    cloud = Cloud()
    server = start(cloud)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _rewrite_key(con, _account(token_uri=f"{server.url}/token", private_key=pem.decode()))

    message = _failure(con)

    assert "answered with HTTP 400: invalid_grant: Invalid JWT Signature." in message
    assert f"127.0.0.1:{server.port}" in message


def _rewrite_key(con: Con, account: Mapping[str, Any]) -> None:
    [(path,)] = con.execute("select reference from fleming.credentials").fetchall()
    Path(path).write_text(json.dumps(account), "utf-8")


@pytest.mark.parametrize("ahead_s", [-4000.0, 4000.0])
def test_a_clock_that_is_off_is_told_in_clear_words(con: Con, start: Start, ahead_s: float) -> None:
    start(Cloud(ahead_s=ahead_s))

    assert "this machine's clock is off by minutes, set it (it says 2" in _failure(con)


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ("ya29.token", "the credential is not JSON, and must be the whole file"),
        ("[1]", "the credential is not JSON"),
        (_account(type="authorized_user"), 'is of type "authorized_user" and must be of type "service_account"'),
        (_account(client_email=None), "lacks client_email"),
        (_account(private_key="-----BEGIN PRIVATE KEY-----\nS3CRET"), "is not a PEM of an RSA key"),
    ],
)
def test_a_wrong_key_says_what_is_wrong_and_nothing_of_its_secret(
    con: Con, start: Start, account: dict[str, Any] | str, words: str
) -> None:
    server = start(Cloud(), account)

    message = _failure(con)

    assert words in message
    assert "S3CRET" not in message
    assert "ya29" not in message
    assert server.request_count == 0


def test_a_token_endpoint_without_a_token_is_told() -> None:
    async def send(_: OutgoingRequest) -> Any:
        return {"token_type": "Bearer"}

    with pytest.raises(LoginRefused, match="access_token"):
        asyncio.run(token_of_key(Secret(json.dumps(_account())), send))


def test_without_the_extra_the_install_command_is_named() -> None:
    code = (
        "import asyncio, sys\n"
        "sys.modules['google.auth'] = None\n"
        "from fleming_sql.providers.base import LoginRefused\n"
        "from fleming_sql.providers.google import logins\n"
        "from fleming_sql.providers.google.vertex_ai import VertexAI\n"
        "from fleming_sql.types import Secret\n"
        'key = Secret(\'{"private_key": "x", "client_email": "x", "token_uri": "x"}\')\n'
        "for login in (logins.token_of_machine(), logins.token_of_key(key, None)):\n"
        "    try:\n"
        "        asyncio.run(login)\n"
        "    except LoginRefused as error:\n"
        "        sys.stdout.write(f'{error}\\n')\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == 2
    assert all("pip install 'fleming-sql[google]'" in line for line in told)


def test_neither_key_nor_token_is_in_the_log(con: Con, start: Start) -> None:
    error = {"code": 400, "message": "the token ya29.1 is strange", "status": "INVALID_ARGUMENT"}
    start(Cloud(Reply(400, {"error": error})))

    message = _failure(con)

    logged = con.execute("select * from fleming.serving.inference").fetchall()
    assert "ya29" not in message
    assert "ya29" not in str(logged)
    assert "PRIVATE KEY" not in str(logged)


# ---------------------------------------------------------------- models


def test_usage_of_a_gemini_model_has_cached_tokens_and_thoughts(con: Con, start: Start) -> None:
    start(Cloud())
    _ask(con)

    columns = "input_token_count, output_token_count, cached_input_token_count, reasoning_token_count, service_tier"
    found = con.execute(f"select {columns}, cost_usd > 0 from fleming.serving.endpoint_usage").fetchall()
    assert found == [(9, 43, 6, 40, "on_demand", True)]


def test_a_claude_model_is_asked_in_anthropics_words(con: Con, start: Start) -> None:
    start(Cloud(), model="claude-sonnet-4-5@20250929")

    assert _ask(con) == [("hello from Claude",)]
    counts = "select input_token_count, cached_input_token_count, cost_usd > 0 from fleming.serving.endpoint_usage"
    assert con.execute(counts).fetchall() == [(15, 6, True)]


def test_texts_are_embedded_five_at_a_time(con: Con, start: Start) -> None:
    server = start(Cloud(), model="text-embedding-005", task=EMBEDDINGS)

    found = con.execute("select n, ai_query('chat', 't' || n)[1] from range(12) as r(n) order by n").fetchall()

    assert found == [(n, float(n)) for n in range(12)]
    bodies = [one.json()["instances"] for one in server.requests if one.path != "/token"]
    assert sum(map(len, bodies)) == 12
    assert con.execute("select sum(input_token_count) from fleming.serving.endpoint_usage").fetchall() == [(24,)]


def test_newer_embedding_models_take_one_text(con: Con, start: Start) -> None:
    server = start(Cloud(), model="gemini-embedding-2", task=EMBEDDINGS)

    assert con.execute("select ai_query('chat', 't' || n)[1] from range(3) as r(n)").fetchall() == [(0,), (1,), (2,)]
    assert server.request_count == 4


@pytest.mark.parametrize(
    ("status", "name", "requests"),
    [(429, "RESOURCE_EXHAUSTED", 3), (503, "UNAVAILABLE", 3), (400, "FAILED_PRECONDITION", 1), (403, "DENIED", 1)],
)
def test_errors_are_retried_by_their_status(con: Con, start: Start, status: int, name: str, requests: int) -> None:
    error = {"error": {"code": status, "message": "the reason", "status": name}}
    server = start(Cloud(Reply(status, [error], {"retry-after": "0"})), max_retries=2)

    message = _failure(con)

    assert "the reason" in message
    assert f"HTTP status {status})" in message
    assert sum(one.path != "/token" for one in server.requests) == requests


# ---------------------------------------------------------------- addresses


def _entity(model: str = "gemini-2.5-flash", base_url: str | None = None, **config: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "main", "google-cloud-vertex-ai", model, base_url, None, 100, 0, {}, config)


def _sent(entity: ServedEntity, **parameters: Any) -> OutgoingRequest:
    return VertexAI().encode(entity, ModelRequest(CHAT, parameters, messages=_MESSAGES))


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-central1", "us-central1-aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_the_region_decides_the_host(region: str, host: str) -> None:
    url = _sent(_entity(project_id="p", region=region)).url
    model = "publishers/google/models/gemini-2.5-flash"
    assert url == f"https://{host}/v1/projects/p/locations/{region}/{model}:generateContent"


@pytest.mark.parametrize(
    ("model", "base", "tail"),
    [
        ("endpoints/123", None, "/v1/projects/p/locations/global/endpoints/123:generateContent"),
        ("m", "http://localhost:1/v1beta1/", ":1/v1beta1/projects/p/locations/global/publishers/google/models/m"),
    ],
)
def test_a_tuned_model_and_another_version_have_their_place(model: str, base: str | None, tail: str) -> None:
    assert tail in _sent(_entity(model, base, project_id="p", region="global")).url


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, '"project_id" is missing'),
        ({"project_id": "p"}, '"region" is missing'),
        ({"project_id": "p", "region": "evil.example/"}, '"region" is "evil.example/" and must be like us-central1'),
        ({"project_id": 1, "region": "eu"}, '"project_id" must be a text'),
    ],
)
def test_a_config_that_cannot_work_is_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BadProviderRequest, match=re.escape(words)):
        _sent(_entity(**config))


def test_a_quota_project_is_a_header() -> None:
    sent = _sent(_entity(project_id="p", region="eu", quota_project_id="billed"))
    assert sent.headers == {"x-goog-user-project": "billed"}


def test_settings_of_embeddings_stand_where_each_method_has_them() -> None:
    request = ModelRequest(EMBEDDINGS, {"dimensions": 3, "task_type": "CLUSTERING"}, inputs=("a",))
    config = {"project_id": "p", "region": "eu"}
    predict, embed = (
        loads(VertexAI().encode(_entity(model, **config), request).body)
        for model in ("gemini-embedding-001", "gemini-embedding-2")
    )
    assert predict == {
        "instances": [{"content": "a", "task_type": "CLUSTERING"}],
        "parameters": {"outputDimensionality": 3},
    }
    assert embed == {
        "content": {"parts": [{"text": "a"}]},
        "embedContentConfig": {"outputDimensionality": 3, "taskType": "CLUSTERING"},
    }


@pytest.mark.parametrize(
    ("model", "config", "inputs"),
    [
        ("text-embedding-005", {}, 5),
        ("text-embedding-005", {"max_inputs_per_request": 250}, 250),
        ("gemini-embedding-001", {}, 1),
        ("gemini-embedding-2", {"max_inputs_per_request": 250}, 1),
    ],
)
def test_a_request_carries_as_many_texts_as_the_model_takes(model: str, config: dict[str, Any], inputs: int) -> None:
    assert VertexAI().max_inputs(_entity(model, **config)) == inputs
