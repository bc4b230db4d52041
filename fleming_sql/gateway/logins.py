"""Credentials that providers lend for a time: asked for once, kept until shortly before they expire."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.gateway.redaction import SHORTEST_IN_CONTENT, Redactor
from fleming_sql.policies.clock_skew import told_skew
from fleming_sql.policies.failures import Failure, Kind, shorten
from fleming_sql.policies.retries import read_retry_after
from fleming_sql.providers import BadProviderRequest, Provider
from fleming_sql.providers.base import Grant, LoginRefused, find_error_message
from fleming_sql.transport import HttpRequest, Transport, TransportFailed
from fleming_sql.types import OutgoingRequest, Secret, ServedEntity

LOGIN_S: Final = 30.0
"""How long an exchange of credentials may take."""
_CONNECT_S: Final = 10.0
_MAX_REPLY_BYTES: Final = 1_000_000
_EARLY_S: Final = 60.0
"""A grant is renewed so long before its end, or after nine tenths of its time where that is short."""
_KEPT: Final = 1024
_KEPT_S: Final = 300.0
"""How long a grant without an end is kept: what it was made of, such as variables of the environment, may change."""
_PAUSE_S: Final = 0.25
"""Whoever asks so shortly after a refusal gets the same one: a thousand calls need not ask a thousand times."""
_MAX_PAUSE_S: Final = 30.0
_KNOWN: Final = frozenset({"client_credentials", "all-apis"})
"""Values of forms that are no secrets."""
_HEADERS: Final = {"accept": "application/json", "user-agent": "fleming-sql"}


class LoginFailed(Exception):
    """There are no credentials to call a provider with; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class _Key:
    """Whose grant it is. Two entities with the same credentials and settings share one."""

    provider: str
    base_url: str | None
    config: bytes
    secrets: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"_Key({self.provider})"  # the secrets stay where they are


class Logins:
    """The grants in use, of one gateway. To be used on its event loop only.

    Args:
        transport: The way to token endpoints.
        clock: Time.
    """

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._grants: OrderedDict[_Key, tuple[Grant, float]] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[Grant]] = {}
        self._failures: dict[_Key, tuple[LoginFailed, float]] = {}

    async def grant(self, provider: Provider, entity: ServedEntity, secrets: Mapping[str, Secret]) -> Grant:
        """Return credentials that hold, asking for them where none are known.

        Raises:
            LoginFailed: There are none to be had.
        """
        key = _key(entity, secrets)
        known = self._grants.get(key)
        if known is not None and self._clock.monotonic() < known[1]:
            return known[0]
        failed = self._failures.get(key)
        if failed is not None and self._clock.monotonic() < failed[1]:
            raise LoginFailed(failed[0].failure)
        task = self._asking.get(key)
        if task is None:
            # A task of its own: the call that asked first may be cancelled, and others wait for the same.
            task = asyncio.create_task(self._ask(key, provider, entity, secrets))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    def forget(self, entity: ServedEntity, secrets: Mapping[str, Secret], grant: Grant) -> None:
        """Ask anew for what a server has refused, unless that has been done already."""
        key = _key(entity, secrets)
        known = self._grants.get(key)
        if known is not None and known[0] is grant:
            del self._grants[key]

    def _asked(self, key: _Key, task: asyncio.Task[Grant]) -> None:
        self._asking.pop(key, None)
        self._failures.pop(key, None)
        error = None if task.cancelled() else task.exception()  # seen, though all who waited may be gone
        if isinstance(error, LoginFailed):
            wait_s = _PAUSE_S if error.failure.retry_after_s is None else min(error.failure.retry_after_s, _MAX_PAUSE_S)
            self._failures[key] = error, self._clock.monotonic() + wait_s

    async def _ask(self, key: _Key, provider: Provider, entity: ServedEntity, secrets: Mapping[str, Secret]) -> Grant:
        told = _Told(f'provider "{entity.provider}", logging in', [secret.reveal() for secret in secrets.values()])
        try:
            async with asyncio.timeout(LOGIN_S):
                grant = await provider.log_in(entity, secrets, lambda request: self._send(request, told.sent(request)))
        except LoginRefused as error:
            raise told.failed("credential", str(error)) from None
        except BadProviderRequest as error:
            raise told.failed("request", str(error)) from None
        except TimeoutError:
            raise told.failed("timeout", f"no answer came within {LOGIN_S:g} s") from None
        except LoginFailed:
            raise
        except Exception as error:  # noqa: BLE001  its text may hold what it failed on: a key
            raise told.failed("credential", f"it failed with {type(error).__name__}") from None
        self._keep(key, grant)
        return grant

    def _keep(self, key: _Key, grant: Grant) -> None:
        holds_s = _KEPT_S if grant.expires_in_s is None else grant.expires_in_s
        self._grants[key] = grant, self._clock.monotonic() + max(holds_s - _EARLY_S, holds_s * 0.9)
        self._grants.move_to_end(key)
        if len(self._grants) > _KEPT:
            self._grants.popitem(last=False)
        if len(self._failures) > _KEPT:
            self._failures.clear()

    async def _send(self, request: OutgoingRequest, told: _Told) -> Any:
        http = HttpRequest(
            request.method,
            request.url,
            {**_HEADERS, **request.headers},
            request.body,
            connect_timeout_s=_CONNECT_S,
            max_reply_bytes=_MAX_REPLY_BYTES,
        )
        try:
            reply = await self._transport.send(http)
        except TransportFailed as error:
            raise told.failed(error.kind, error.message) from None
        try:
            payload: Any = jsontext.loads(reply.body)
        except (ValueError, RecursionError):
            payload = None
        if 200 <= reply.status < 300 and payload is not None:
            return payload
        where = f"{_host(request.url)} answered with HTTP {reply.status}"
        if 200 <= reply.status < 300:  # it may hold a token, which nobody knows yet
            raise told.failed("credential", f"{where}, and not with JSON ({len(reply.body)} bytes)")
        message = told.read_error(payload, reply.body)
        if reply.status == 429 or reply.status >= 500:
            wait_s = read_retry_after(reply.headers, self._clock.now())
            raise LoginFailed(Failure("status", told.clean(message), status=reply.status, retry_after_s=wait_s))
        message += told_skew(reply.status, reply.headers, self._clock.now())
        raise told.failed("credential", f"{where}: {message}")


class _Told:
    """What is said of a login that failed, with no secret in it."""

    def __init__(self, what: str, secrets: Iterable[str]) -> None:
        self._what = what
        self._secrets = tuple(secrets)
        self._redactor = Redactor(self._secrets)

    def sent(self, request: OutgoingRequest) -> _Told:
        """Return the same for a request, whose header and form carry secrets in forms of their own."""
        header = request.headers.get("authorization", "").rpartition(" ")[2]
        form = parse_qsl(request.body.decode("utf-8", "replace"))
        long = [value for _, value in form if len(value) >= SHORTEST_IN_CONTENT and value not in _KNOWN]
        return _Told(self._what, (*self._secrets, header, *long))

    def failed(self, kind: Kind, message: str) -> LoginFailed:
        return LoginFailed(Failure(kind, self.clean(message)))

    def clean(self, message: str) -> str:
        return shorten(f"{self._what}: {self._redactor.clean(message)}")

    def read_error(self, payload: Any, body: bytes) -> str:
        """Return what a token endpoint says, in RFC 6749's words where it has them."""
        if isinstance(payload, dict) and isinstance(payload.get("error_description"), str):
            return f"{payload.get('error')}: {payload['error_description']}"
        if payload is not None:
            return find_error_message(payload)
        return body[:200].decode("utf-8", "replace") or "(no message)"


def _host(url: str) -> str:
    return url.split("/", 3)[2] if url.count("/") >= 2 else url


def _key(entity: ServedEntity, secrets: Mapping[str, Secret]) -> _Key:
    revealed = tuple(sorted((name, secret.reveal()) for name, secret in secrets.items()))
    return _Key(entity.provider, entity.base_url, jsontext.dumpb(entity.provider_config), revealed)
