"""Credentials that are lent for a time: asked for once, renewed in time, and clear words where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import duckdb
import pytest
from conftest import Con, Serve

from fleming_sql.clock import Clock
from fleming_sql.gateway.logins import LoginFailed, Logins
from fleming_sql.providers.base import Grant, LoginRefused, SendLogin
from fleming_sql.providers.openai import OpenAI
from fleming_sql.testing import MockModel, Received, Reply
from fleming_sql.transport import HttpReply, HttpRequest, Transport, TransportFailed
from fleming_sql.types import OutgoingRequest, Secret, ServedEntity

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
    [(3600.0, 3530.0, 1), (3600.0, 3550.0, 2), (10.0, 8.9, 1), (10.0, 9.1, 2), (None, 1e9, 1)],
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
        (HttpReply(200, {}, b"<html>"), "credential", "HTTP 200: <html>"),
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
