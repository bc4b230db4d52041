"""Credentials that are lent for a time: asked for once, renewed in time, and clear words where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.clock import Clock
from fleming_sql.credentials import CredentialResolver
from fleming_sql.gateway.logins import LoginFailed, Logins
from fleming_sql.providers.base import Grant, LoginRefused, SendLogin
from fleming_sql.providers.openai import OpenAI
from fleming_sql.testing import MockModel, Received, Reply, chat_reply
from fleming_sql.transport import HttpReply, HttpRequest, Transport, TransportFailed
from fleming_sql.types import Credential, OutgoingRequest, Secret, ServedEntity

_SECRETS = {"credential": Secret("hush")}


class Movable(Clock):
    """A clock that the test moves."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Lender(OpenAI):
    """Lends a token by a request to a token endpoint."""

    def __init__(self, expires_in_s: float | None = 3600.0) -> None:
        self._expires_in_s = expires_in_s
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def log_in(self, entity: ServedEntity, secrets: Mapping[str, Secret], send: SendLogin) -> Grant:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        answer = await send(OutgoingRequest("http://login.invalid/token", b"", {}))
        return Grant({"token": Secret(answer["token"])}, self._expires_in_s)


class Fixed(Transport):
    """Answers each request the same, or fails."""

    def __init__(self, reply: HttpReply | TransportFailed | None = None) -> None:
        self._reply = reply or HttpReply(200, {}, b'{"token": "t"}')

    async def send(self, request: HttpRequest) -> HttpReply:
        if isinstance(self._reply, TransportFailed):
            raise self._reply
        return self._reply

    async def close(self) -> None:
        """Nothing to close."""


def _entity(base_url: str | None = None, **config: Any) -> ServedEntity:
    return ServedEntity("id", "chat", "one", "lender", "m", base_url, "key", 100, 0, {}, config)


def _failure(reply: HttpReply | TransportFailed) -> LoginFailed:
    async def ask() -> LoginFailed:
        with pytest.raises(LoginFailed) as raised:
            await Logins(Fixed(reply), Movable()).grant(Lender(), _entity(), _SECRETS)
        return raised.value

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("expires_in_s", "after_s", "asked"),
    [(3600.0, 3530.0, 1), (3600.0, 3550.0, 2), (10.0, 8.9, 1), (10.0, 9.1, 2), (None, 230.0, 1), (None, 280.0, 2)],
)
def test_a_grant_is_renewed_shortly_before_its_end(expires_in_s: float | None, after_s: float, asked: int) -> None:
    clock, lender = Movable(), Lender(expires_in_s)

    async def ask() -> None:
        logins = Logins(Fixed(), clock)
        await logins.grant(lender, _entity(), _SECRETS)
        clock.at += after_s
        await logins.grant(lender, _entity(), _SECRETS)

    asyncio.run(ask())

    assert lender.asked == asked


def test_many_that_need_the_same_grant_ask_once_though_the_first_gives_up() -> None:
    lender = Lender()

    async def ask() -> list[Grant]:
        lender.gate = asyncio.Event()
        logins = Logins(Fixed(), Movable())
        waiting = [asyncio.create_task(logins.grant(lender, _entity(), _SECRETS)) for _ in range(10)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        lender.gate.set()
        return await asyncio.gather(*waiting[1:])

    grants = asyncio.run(ask())

    assert lender.asked == 1
    assert len({id(grant) for grant in grants}) == 1


@pytest.mark.parametrize(
    "other",
    [(_entity("http://other"), _SECRETS), (_entity(region="x"), _SECRETS), (_entity(), {"credential": Secret("b")})],
)
def test_other_settings_and_other_secrets_are_other_grants(other: tuple[ServedEntity, Mapping[str, Secret]]) -> None:
    lender = Lender()

    async def ask() -> None:
        logins = Logins(Fixed(), Movable())
        await logins.grant(lender, _entity(), _SECRETS)
        await logins.grant(lender, *other)

    asyncio.run(ask())

    assert lender.asked == 2


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        (HttpReply(401, {}, b'{"error": "no", "error_description": "a hush"}'), "credential", "no: a [REDACTED]"),
        (HttpReply(403, {}, b"plain hush"), "credential", "HTTP 403: plain [REDACTED]"),
        (HttpReply(400, {"date": "Sat, 01 Jan 2000 00:00:00 GMT"}, b"{}"), "credential", "ahead of"),
        (HttpReply(429, {"retry-after": "7"}, b"{}"), "status", "logging in"),
        (HttpReply(200, {}, b"access_token=abc"), "credential", "HTTP 200, and not with JSON (16 bytes)"),
        (HttpReply(200, {}, b'{"no": 1}'), "credential", "it failed with KeyError"),
        (TransportFailed("connect", "refused"), "connect", "refused"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_told_without_secrets(reply: HttpReply | TransportFailed, kind: str, told: str) -> None:
    failure = _failure(reply).failure

    assert (failure.kind, told in failure.message, "hush" in failure.message) == (kind, True, False)


def test_a_server_that_asks_for_patience_gets_it() -> None:
    assert _failure(HttpReply(429, {"retry-after": "7"}, b"{}")).failure.retry_after_s == 7


def test_what_a_provider_refuses_is_told_in_its_words() -> None:
    class Refusing(Lender):
        async def log_in(self, entity: ServedEntity, secrets: Mapping[str, Secret], send: SendLogin) -> Grant:
            raise LoginRefused("there is no key called hush")

    async def ask() -> str:
        with pytest.raises(LoginFailed) as raised:
            await Logins(Fixed(), Movable()).grant(Refusing(), _entity(), _SECRETS)
        return str(raised.value)

    assert asyncio.run(ask()) == 'provider "lender", logging in: there is no key called [REDACTED]'


@pytest.mark.parametrize(("minutes", "told"), [(-20, "20 minutes ahead of"), (20, "20 minutes behind"), (1, None)])
def test_a_clock_that_is_off_is_told_where_a_signature_is_refused(
    con: Con, serve: Serve, minutes: int, told: str | None
) -> None:
    def reply(received: Received) -> Reply:
        date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
        return Reply(403, {"message": "Signature expired"}, {"date": date})

    serve(reply, max_retries=0)

    with pytest.raises(duckdb.Error) as raised:
        con.execute("select ai_query('chat', 'hi')").fetchall()

    assert ("this machine's clock is" in str(raised.value)) == (told is not None)
    assert told is None or told in str(raised.value)


def test_a_provider_that_does_not_log_in_sends_nothing_before_its_request(con: Con, model: MockModel) -> None:
    con.execute("select ai_query('chat', 'hi')").fetchall()

    assert [request.path for request in model.requests] == ["/chat/completions"]


def test_a_thousand_calls_that_are_told_to_wait_ask_a_few_times(
    con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SP_SECRET", "a-long-secret")
    con.execute("insert into fleming.credentials values ('team/sp', 'env', 'SP_SECRET')")
    config = {"databricks_client_id": "sp", "databricks_client_secret": "{{secrets/team/sp}}"}
    server = serve(
        lambda received: Reply(429, {"error": "slow_down"}, {"retry-after": "0.2"}),
        provider="databricks-model-serving",
        model="m",
        provider_config=config,
        max_retries=1,
    )

    con.execute("select ai_query('chat', 'q' || n, failOnError => false) from range(1000) as r(n)").fetchall()

    assert len(server.requests) < 30


@pytest.mark.parametrize(
    "echo",
    [
        lambda received: received.headers["authorization"],
        lambda received: f"not base64: {received.headers['authorization'].split()[1]}",
        lambda received: "the secret Zx8~Q%2Bab%2Fcd%3D is wrong",
    ],
)
def test_secrets_that_a_token_endpoint_repeats_are_not_told(
    con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch, echo: Any
) -> None:
    monkeypatch.setenv("SP_SECRET", "Zx8~Q+ab/cd=")
    con.execute("insert into fleming.credentials values ('team/sp', 'env', 'SP_SECRET')")
    config = {"databricks_client_id": "sp", "databricks_client_secret": "{{secrets/team/sp}}"}
    serve(
        lambda received: Reply(400, {"error_description": echo(received), "error": "invalid"}),
        provider="databricks-model-serving",
        model="m",
        provider_config=config,
        max_retries=0,
    )

    with pytest.raises(duckdb.Error, match="REDACTED") as raised:
        con.execute("select ai_query('chat', 'q')").fetchall()

    kept = str(con.execute("from fleming.serving.calls").fetchall())
    for form in ("Zx8~Q+ab/cd=", "Zx8~Q%2Bab", "c3A6Wng4"):
        assert form not in str(raised.value)
        assert form not in kept


@pytest.mark.parametrize("key", ["EMPTY", "test", "a"])
def test_the_dummy_key_of_a_local_server_is_a_word_like_others_in_answers(
    con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("DUMMY", key)
    con.execute("insert into fleming.credentials values ('dummy', 'env', 'DUMMY')")
    serve(lambda received: chat_reply(f"this is a {key} of a model"), credential="dummy")

    assert con.execute("select ai_query('chat', 'q')").fetchall() == [(f"this is a {key} of a model",)]


def test_an_answer_with_a_token_that_is_no_json_is_not_quoted() -> None:
    failure = _failure(HttpReply(200, {}, b'{"access_token":"tok-123456789","expires_in":36')).failure

    assert "tok-" not in failure.message


def test_a_secret_that_was_changed_behind_a_command_is_asked_for_again(con: Con, serve: Serve, tmp_path: Path) -> None:
    valid = tmp_path / "valid"
    valid.write_text("first-key-1")

    def reply(received: Received) -> Reply:
        is_valid = received.headers["authorization"] == f"Bearer {valid.read_text()}"
        return chat_reply("fine") if is_valid else Reply(401, {"error": {"message": "revoked"}})

    now = Movable()
    resolver = CredentialResolver(now.monotonic)
    credentials = {"key": Credential("key", "command", f"cat {valid}")}
    first = asyncio.run(resolver.resolve("key", credentials))
    valid.write_text("second-key-2")

    assert resolver.forget(first) is False  # it is fresh
    now.at += 60
    assert resolver.forget(first) is True
    assert asyncio.run(resolver.resolve("key", credentials)).reveal() == "second-key-2"
    assert resolver.forget(first) is True  # what came for it meanwhile may do
    serve(reply, credential="key")
    con.execute("insert into fleming.credentials values ('key', 'command', ?)", [f"cat {valid}"])
    assert con.execute("select ai_query('chat', 'q')").fetchall() == [("fine",)]


def test_a_call_interrupted_while_it_logs_in_anew_keeps_the_attempt_that_was_refused(
    con: Con, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SP_SECRET", "a-long-secret")
    con.execute("insert into fleming.credentials values ('team/sp', 'env', 'SP_SECRET')")
    config = {"databricks_client_id": "sp", "databricks_client_secret": "{{secrets/team/sp}}"}
    lent: list[str] = []

    def reply(received: Received) -> Reply:
        if "/oidc/" not in received.path:
            return Reply(401, {"message": "expired"})
        lent.append("one")
        return Reply(body={"access_token": "tok-12345678", "expires_in": 3600}) if len(lent) == 1 else Reply(hang=True)

    serve(
        reply,
        provider="databricks-model-serving",
        model="m",
        provider_config=config,
        max_retries=0,
        timeout_ms=1000,
    )

    with pytest.raises(duckdb.Error, match="no credentials could be had"):
        con.execute("select ai_query('chat', 'hello')").fetchall()

    assert con.execute("select status_code from fleming.serving.attempts").fetchall() == [(401,)]
    [(request,)] = con.execute("select request from fleming.serving.inference").fetchall()
    assert "hello" in request
