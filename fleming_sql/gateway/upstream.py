"""One exchange with one provider: credentials, sending, reading within limits, and every way to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import httpx

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.gateway.access import Access, Doorkeeper
from fleming_sql.gateway.logins import LoginFailed
from fleming_sql.policies.clock_skew import told_skew
from fleming_sql.policies.failures import Failure, code_of, shorten
from fleming_sql.policies.retries import read_retry_after
from fleming_sql.providers import BadAnswer, BadProviderRequest, Provider, ProviderRegistry
from fleming_sql.transport import HttpReply, HttpRequest, Transport, TransportFailed
from fleming_sql.transport.over_httpx import HttpxTransport
from fleming_sql.types import (
    Answer,
    Attempt,
    Credential,
    Endpoint,
    ModelRequest,
    OutgoingRequest,
    Refusal,
    ServedEntity,
)

_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {"content-type": "application/json", "accept": "application/json", "user-agent": "fleming-sql"}
)
_MAX_READ_ERROR: Final = 2000
_UNAUTHENTICATED: Final = 401


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that was answered."""

    answer: Answer
    entity: ServedEntity
    """Who answered."""
    request_body: str
    response_body: str
    attempts: tuple[Attempt, ...]
    """The requests made; none where it was another call's that carried this one's inputs too."""


class ExchangeFailed(Exception):
    """A request that was not answered as it should have been."""

    def __init__(
        self,
        entity: ServedEntity,
        failure: Failure,
        request_body: str = "",
        response_body: str | None = None,
        attempts: tuple[Attempt, ...] = (),
        others: tuple[ExchangeFailed, ...] = (),
    ) -> None:
        super().__init__(failure.message)
        self.entity = entity
        self.failure = failure
        self.request_body = request_body
        self.response_body = response_body
        self.attempts = attempts
        self.others = others
        """What was sent at its side and failed too."""


@dataclass(slots=True)
class Target:
    """Where a request goes: the endpoint and entity as one snapshot had them."""

    endpoint: Endpoint
    entity: ServedEntity
    credentials: Mapping[str, Credential]
    may_quote: bool = True
    """Whether errors may quote an answer that cannot be read: guardrails have not looked at it."""


class Why(NamedTuple):
    """Why an attempt is made."""

    reason: str
    """See `types.Attempt`."""
    after_error_code: str | None = None


class Upstream:
    """Sends requests to providers.

    Args:
        providers: The registry.
        transport: The way to the network, for providers without one of their own.
        clock: Time and ids.
    """

    def __init__(self, providers: ProviderRegistry, transport: Transport, clock: Clock) -> None:
        self._providers = providers
        self._transport = transport
        self._clock = clock
        self._doorkeeper = Doorkeeper(transport, clock)
        self._own_transports: dict[httpx.AsyncBaseTransport, Transport] = {}

    def provider(self, entity: ServedEntity) -> Provider:
        """Return the provider that speaks the entity's wire format."""
        return self._providers.get(entity.provider)

    async def send(self, target: Target, request: ModelRequest, timeout_s: float, why: Why) -> Exchange:
        """Send `request` once and return the answer; twice where the credentials that were lent hold no longer.

        Raises:
            ExchangeFailed: With the failure and what is known of it.
        """
        until = self._clock.monotonic() + timeout_s
        provider = self.provider(target.entity)
        try:
            outgoing = provider.encode(target.entity, request)
        except Exception as error:  # noqa: BLE001  whatever a provider fails by is a failure of this call
            raise _not_built(target.entity, error) from None
        access = await self._access(target, timeout_s)
        try:
            return await self._exchange(target, request, outgoing, access, until, why)
        except ExchangeFailed as error:
            if error.failure.status != _UNAUTHENTICATED or not self._doorkeeper.renews(target.entity, access):
                raise
            return await self._send_again(target, request, outgoing, until, error)

    async def _send_again(
        self, target: Target, request: ModelRequest, outgoing: OutgoingRequest, until: float, first: ExchangeFailed
    ) -> Exchange:
        """Log in anew and send once more; the attempt that was refused is told of in any case."""
        why = Why("retry", first.attempts[-1].error_code)
        try:
            access = await self._access(target, until - self._clock.monotonic())
            exchange = await self._exchange(target, request, outgoing, access, until, why)
        except ExchangeFailed as error:
            error.attempts = first.attempts + error.attempts
            if not error.request_body:  # it was not sent again
                error.request_body, error.response_body = first.request_body, first.response_body
            raise
        except asyncio.CancelledError as error:
            later = error.attempts if isinstance(error, Cancelled) else ()
            raise Cancelled(first.attempts + later, first.request_body) from None
        return replace(exchange, attempts=first.attempts + exchange.attempts)

    async def _exchange(
        self,
        target: Target,
        request: ModelRequest,
        outgoing: OutgoingRequest,
        access: Access,
        until: float,
        why: Why,
    ) -> Exchange:
        provider = self.provider(target.entity)
        try:
            headers = provider.authorize(target.entity, outgoing, access.secrets)
        except Exception as error:  # noqa: BLE001  as above
            raise _not_built(target.entity, error) from None
        exchange = _OneExchange(self._clock, target, request, outgoing, access, why)
        transport = self._transport_for(provider, target.entity)
        http = self._http_request(target, outgoing, headers)
        return await exchange.run(provider, transport, http, until - self._clock.monotonic())

    async def _access(self, target: Target, timeout_s: float) -> Access:
        entity = target.entity
        try:
            return await self._doorkeeper.access(self.provider(entity), entity, target.credentials, timeout_s)
        except LoginFailed as error:
            raise ExchangeFailed(entity, error.failure) from None

    def _http_request(
        self, target: Target, outgoing: OutgoingRequest, secret_headers: Mapping[str, str]
    ) -> HttpRequest:
        return HttpRequest(
            outgoing.method,
            outgoing.url,
            {**_HEADERS, **outgoing.headers, **secret_headers},
            outgoing.body,
            connect_timeout_s=target.endpoint.connect_timeout_ms / 1000,
            max_reply_bytes=target.endpoint.max_response_bytes,
        )

    def _transport_for(self, provider: Provider, entity: ServedEntity) -> Transport:
        own = provider.transport(entity)
        if own is None:
            return self._transport
        if own not in self._own_transports:
            self._own_transports[own] = HttpxTransport(own)
        return self._own_transports[own]


def _not_built(entity: ServedEntity, error: Exception) -> ExchangeFailed:
    """Return what to say of a request that cannot be built."""
    if isinstance(error, BadProviderRequest):
        return ExchangeFailed(entity, Failure("request", str(error)))
    # Its text may hold what it failed on: the request, or the key.
    return ExchangeFailed(entity, Failure("request", f"the request cannot be built ({type(error).__name__})"))


class _OneExchange:
    """The state of one exchange, so that each way to fail can tell all that is known of it."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        request: ModelRequest,
        outgoing: OutgoingRequest,
        access: Access,
        why: Why,
    ) -> None:
        self._clock = clock
        self._target = target
        self._request = request
        self._errors = access.errors
        self._content = access.content
        self._why = why
        self._request_body = self._content.clean(outgoing.body.decode("utf-8", "replace"))
        self._response_body: str | None = None
        self._status = 0
        self._started_at = clock.now()
        self._started = clock.monotonic()

    async def run(self, provider: Provider, transport: Transport, http: HttpRequest, timeout_s: float) -> Exchange:
        try:
            async with asyncio.timeout(timeout_s):
                reply = await transport.send(http)
        except TimeoutError:
            raise self._failed("timeout", f"no whole answer came within {timeout_s:.1f} s") from None
        except TransportFailed as error:
            self._status = error.status
            raise self._failed(error.kind, error.message) from None
        except asyncio.CancelledError:
            raise Cancelled((self._attempt("CANCELLED", "the call was cancelled"),), self._request_body) from None
        except Exception as error:  # noqa: BLE001  a transport of the user's may raise anything; its text may hold the key
            raise self._failed("cut", f"the transport failed with {type(error).__name__}") from None
        self._status = reply.status
        try:
            payload = self._read_body(reply.body)
        except RecursionError:
            raise self._failed("answer", "the answer is nested too deep") from None
        return self._answered(provider, reply, payload)

    def _read_body(self, body: bytes) -> Any:
        """Return the body as JSON, None where it is none, and keep its text for the log, secrets taken out of both."""
        text = body.decode("utf-8", "replace")
        redactor = self._content if 200 <= self._status < 300 else self._errors
        try:
            payload: Any = jsontext.loads(body)
        except ValueError:
            self._response_body = redactor.clean(text)
            return None
        # A secret may be written with escapes, so a text with any is looked at as it reads without them.
        plain = jsontext.dumps(payload) if redactor and "\\" in text else text
        if redactor.clean(plain) == plain:
            self._response_body = text
            return payload
        payload = redactor.clean_value(payload)
        self._response_body = redactor.clean(jsontext.dumps(payload))
        return payload

    def _answered(self, provider: Provider, reply: HttpReply, payload: Any) -> Exchange:
        status = reply.status
        if 300 <= status < 400:
            raise self._failed("redirect", f"the server answered with a redirect (HTTP {status})")
        if not 200 <= status < 300:
            raise self._refused(provider, reply, payload)
        if payload is None:
            raise self._failed("answer", f"the answer is not JSON: {self._beginning()}")
        try:
            answer = provider.decode(self._request, payload)
        except BadAnswer as error:
            # The words of a refusal are the model's, and those of the error may be too.
            unquoted = "the model refused" if error.refusal else "the answer is not in the provider's wire format"
            told = f"{error}; the answer begins" if self._target.may_quote else unquoted
            raise self._failed("answer", f"{told} {self._beginning()}", error.refusal) from None
        except Exception as error:  # noqa: BLE001  whatever a model sends must end in a logged failure of its row
            raise self._failed("answer", f"the answer cannot be read ({type(error).__name__})") from None
        attempts = (self._attempt(None, None),)
        return Exchange(answer, self._target.entity, self._request_body, self._response_body or "", attempts)

    def _refused(self, provider: Provider, reply: HttpReply, payload: Any) -> ExchangeFailed:
        told = (self._response_body or "")[:_MAX_READ_ERROR] if payload is None else payload
        now = self._clock.now()
        message = shorten(provider.read_error(told) or "(no message)")
        message += told_skew(reply.status, reply.headers, now)
        self._status = provider.read_status(reply.status, told, reply.headers)
        return self._fail_with(
            Failure(
                "status",
                message,
                status=self._status,
                retry_after_s=read_retry_after(reply.headers, now),
                refusal=provider.read_refusal(self._status, told),
            )
        )

    def _failed(self, kind: Any, message: str, refusal: Refusal | None = None) -> ExchangeFailed:
        return self._fail_with(
            Failure(kind, shorten(self._errors.clean(message)), status=self._status, refusal=refusal)
        )

    def _fail_with(self, failure: Failure) -> ExchangeFailed:
        failure = replace(failure, chance=self._clock.random())
        attempt = self._attempt(code_of(failure), failure.message)
        return ExchangeFailed(self._target.entity, failure, self._request_body, self._response_body, (attempt,))

    def _attempt(self, error_code: str | None, error_message: str | None) -> Attempt:
        return Attempt(
            attempt_id=self._clock.new_id(),
            served_entity_id=self._target.entity.id,
            served_entity_name=self._target.entity.name,
            started_at=self._started_at,
            duration_ms=(self._clock.monotonic() - self._started) * 1000,
            status_code=self._status,
            error_code=error_code,
            error_message=error_message,
            reason=self._why.reason,
            inputs=max(1, len(self._request.inputs)),
            after_error_code=self._why.after_error_code,
        )

    def _beginning(self) -> str:
        if not self._target.may_quote:
            return "(not shown, since guardrails look at answers)"
        text = self._response_body or ""
        return jsontext.dumps(text[:200]) if text else "(empty)"


class Cancelled(asyncio.CancelledError):
    """The call was cancelled while its request was under way; carries what the log needs to know of it."""

    def __init__(self, attempts: tuple[Attempt, ...], request_body: str) -> None:
        super().__init__()
        self.attempts = attempts
        self.request_body = request_body
