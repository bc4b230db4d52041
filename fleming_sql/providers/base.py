"""The seam to a model: one class per wire format, no network inside.

A provider turns a `ModelRequest` into one HTTP request and the HTTP answer back into an `Answer`. The
gateway does the rest: it resolves credentials, sends, retries, counts and logs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple

import httpx

from fleming_sql.providers.refusals import read_refusal
from fleming_sql.providers.rendering import render_openai
from fleming_sql.sqltext import quote_text
from fleming_sql.types import Answer, ModelRequest, OutgoingRequest, Refusal, Secret, ServedEntity, Task

_MAX_DEPTH: Final = 8
_MESSAGE_KEYS: Final = ("error", "message", "detail", "msg", "error_message", "errors")


class BadAnswer(Exception):
    """The provider's answer is not in its own wire format, or has no content.

    Args:
        message: What is missing or wrong, naming the field.
        refusal: Why the model gave no content, where it said so: another model might.
    """

    def __init__(self, message: str, *, refusal: Refusal | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal


class BadProviderRequest(Exception):
    """The request cannot be put into this wire format, or the entity's row lacks what it needs.

    Args:
        message: What is wrong, naming the table and column or the argument to change.
        column: Of `served_entities`, where a row of that is wrong.
        problem: What is wrong with that column, without saying where it stands; by default the message.
    """

    def __init__(self, message: str, *, column: str | None = None, problem: str | None = None) -> None:
        super().__init__(message)
        self.column = column
        self.problem = problem or message


class LoginRefused(Exception):
    """A provider lends no credentials for those of the entity, or there are none where it looks for them.

    Args:
        message: What is wrong and what to change. No secret is in it.
    """


@dataclass(frozen=True, slots=True)
class Grant:
    """Credentials that a provider lends for a time, in exchange for those of the entity."""

    secrets: Mapping[str, Secret] = field(default_factory=dict)
    """Handed to `Provider.authorize` beside the entity's own, under names that the provider chooses."""
    expires_in_s: float | None = None
    """How long they hold from now on, in seconds; None for as long as the server takes them."""


SendLogin = Callable[[OutgoingRequest], Awaitable[Any]]
"""Sends a request to a token endpoint and returns its answer, parsed JSON; an error answer raises by itself."""


class ProviderFacts(NamedTuple):
    """What `fleming.providers` says of a provider."""

    tasks: frozenset[str]
    description: str
    config_keys: frozenset[str]
    base_url: str | None = None
    credential_variable: str | None = None
    quirks: Mapping[str, object] = MappingProxyType({})
    price_list: str | None = None
    documentation_url: str | None = None


class Provider(ABC):
    """One wire format.

    A subclass is registered with one line in `fleming_sql.providers`; nothing else knows its name.
    """

    tasks: ClassVar[frozenset[str]]
    """The endpoint tasks it can serve."""

    description: ClassVar[str]
    """One line for `fleming.providers`."""

    config_keys: ClassVar[frozenset[str]] = frozenset()
    """The keys of `provider_config` that it reads, `secret_keys` among them."""

    public_url: ClassVar[str | None] = None
    """Where it answers if the entity's `base_url` is NULL; None where that depends on the entity."""

    credential_variable: ClassVar[str | None] = None
    """The environment variable that usually holds its credential."""

    price_list: ClassVar[str | None] = None
    """Its name in the price list, where that is another one than in `fleming.providers`."""

    documentation_url: ClassVar[str | None] = None
    """Where its wire format is documented."""

    secret_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of `provider_config` that may hold the credential, where the entity's row names none."""

    own_parameters: ClassVar[frozenset[str]] = frozenset()
    """Keys of the entity's `parameters` that are settings of the provider: they stay out of requests."""

    def facts(self) -> ProviderFacts:
        """Return what `fleming.providers` says of it."""
        return ProviderFacts(
            self.tasks,
            self.description,
            self.config_keys,
            self.public_url,
            self.credential_variable,
            price_list=self.price_list,
            documentation_url=self.documentation_url,
        )

    @abstractmethod
    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the wire format.

        Raises:
            BadProviderRequest: This wire format has no place for the request.
        """

    def check(self, entity: ServedEntity, task: Task) -> None:
        """Check an entity's row as far as that goes without a request: what is wrong becomes a row of config_problems.

        By default a small request of the task is encoded. A provider adds what it otherwise meets later, such as a
        login that lacks a secret. It is asked whenever the configuration is read, so it asks nobody in its turn.

        Args:
            entity: The entity, without parameters.
            task: Of its endpoint, one of the provider's own.

        Raises:
            BadProviderRequest: The row can never work. No secret is in it.
        """
        asked = ({"role": "user", "content": "x"},)
        outgoing = self.encode(entity, ModelRequest(task, {}, messages=asked, inputs=("x",), fields={"input": "x"}))
        for name, value in outgoing.headers.items():
            if not (value.isascii() and value.isprintable()):
                raise BadProviderRequest(
                    f'the value for the header "{name}" must be printable ASCII on one line', column="provider_config"
                )
        self.max_inputs(entity)

    def authorize(
        self,
        entity: ServedEntity,
        outgoing: OutgoingRequest,
        secrets: Mapping[str, Secret],
    ) -> Mapping[str, str]:
        """Return the headers that carry or prove the credential, for the final bytes of a request.

        Args:
            entity: The entity that is called.
            outgoing: The request as it will go out; a signature covers it.
            secrets: `credential` for the entity's credential; one per `{{secrets/…}}` reference in
                `provider_config` under its key there, `a.b` for a key `b` of an object `a`; and those of the grant
                that `log_in` has returned.
        """
        secret = self.find_secret(secrets)
        return {"authorization": f"Bearer {secret.reveal()}"} if secret else {}

    def logs_in(self, entity: ServedEntity) -> bool:
        """Return whether `log_in` is to be asked before a request. Its answer is kept until it expires."""
        return False

    async def log_in(self, entity: ServedEntity, secrets: Mapping[str, Secret], send: SendLogin) -> Grant:
        """Exchange the entity's credentials for ones that requests carry, such as an OAuth token.

        Called where `logs_in` says so, once for all requests that need the same. What blocks, such as a library that
        asks the machine for its credentials, goes through `blocking.in_daemon_thread` and has timeouts of its own.

        Args:
            entity: The entity that will be called.
            secrets: As for `authorize`.
            send: The way to a token endpoint.

        Raises:
            LoginRefused: There is nothing to exchange, or nothing came of it.
        """
        raise NotImplementedError

    def find_secret(self, secrets: Mapping[str, Secret]) -> Secret | None:
        """Return the entity's credential, else the first of its `secret_keys` that is there."""
        for key in ("credential", *self.secret_keys):
            if key in secrets:
                return secrets[key]
        return None

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return whether the server that the entity names answers nobody without a credential."""
        return False

    def credential_hint(self, entity: ServedEntity) -> str:
        """Return what to do for a credential, as a part of a sentence."""
        variable = self.facts().credential_variable
        if variable is None:
            return "insert one into fleming.credentials"
        row = ", ".join(map(quote_text, (entity.provider, "env", variable)))
        return f"insert into fleming.credentials (name, source, reference) values ({row})"  # noqa: S608  told, not run

    @abstractmethod
    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer with status 2xx, parsed as JSON.

        Raises:
            BadAnswer: The payload is not of this wire format.
        """

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return an answer in this wire format, as if the model had answered so.

        It is what the log keeps of an answer that a guardrail has masked, and what `decode` reads again.
        """
        return render_openai(request.task, answer)

    def read_error(self, payload: Any) -> str:
        """Return the message inside an error answer; `payload` is parsed JSON, or text if it is none."""
        return find_error_message(payload)

    def read_status(self, status: int, payload: Any, headers: Mapping[str, str]) -> int:
        """Return the HTTP status that an error answer means, where a server answers with another one.

        What is retried, and what is advised, goes by it.

        Args:
            status: HTTP status.
            payload: The answer, parsed JSON or text if it is none.
            headers: Of the answer, names in lower case.
        """
        return status

    def read_refusal(self, status: int, payload: Any) -> Refusal | None:
        """Return what an error answer refuses, where another model might not; None for any other error.

        Args:
            status: HTTP status.
            payload: The answer, parsed JSON or text if it is none.
        """
        return read_refusal(status, payload)

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return how many embedding inputs one request may carry; 1 means that they are sent one by one.

        Raises:
            BadProviderRequest: The entity's row says something else than a number.
        """
        return 1

    def transport(self, entity: ServedEntity) -> httpx.AsyncBaseTransport | None:
        """Return a transport of the provider's own; None is the gateway's."""
        return None


def with_parameters(body: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with the parameters beside what it holds.

    Raises:
        BadProviderRequest: A parameter is the gateway's own, or asks for an answer in parts.
    """
    taken = next((key for key in parameters if key in body or key == "model"), None)
    if taken is not None:
        raise BadProviderRequest(f'the parameter "{taken}" is set by the gateway: remove it')
    if parameters.get("stream"):
        raise BadProviderRequest('the parameter "stream" has no place: answers are read whole')
    return {**body, **parameters}


def object_parameter(parameters: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a parameter that is an object, an empty one where it is missing or null.

    Raises:
        BadProviderRequest: It is something else.
    """
    value = parameters.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadProviderRequest(f'the parameter "{key}" must be an object, and is {type(value).__name__}')
    return dict(value)


def find_error_message(payload: Any) -> str:
    """Return the message in any of the error shapes that model servers use.

    Example:
        >>> find_error_message({"error": {"message": "no such model", "type": "not_found"}})
        'no such model'
    """
    for _ in range(_MAX_DEPTH):
        if isinstance(payload, dict):
            inner = next((payload[key] for key in _MESSAGE_KEYS if _may_hold_message(payload.get(key))), None)
        else:
            inner = payload[0] if isinstance(payload, list) and payload else None
        if inner is None:
            break
        payload = inner
    try:
        return str(payload)
    except RecursionError:
        return "no message that can be read"


def _may_hold_message(value: Any) -> bool:
    return bool(value) and isinstance(value, str | dict | list)
