"""The seam to a model: one class per wire format, no network inside.

A provider turns a `ModelRequest` into one HTTP request and the HTTP answer back into an `Answer`. The
gateway does the rest: it resolves credentials, sends, retries, counts and logs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import httpx

from fleming_sql.providers.refusals import read_refusal
from fleming_sql.providers.rendering import render_openai
from fleming_sql.types import Answer, ModelRequest, OutgoingRequest, Refusal, Secret, ServedEntity, Usage

MAX_TOKENS: Final = 10**12
"""A count beyond it is no count; the gateway estimates instead."""
_MAX_DEPTH: Final = 8
_MAX_TEXT: Final = 64
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
    """


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

    secret_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of `provider_config` that may hold the credential, where the entity's row names none."""

    own_parameters: ClassVar[frozenset[str]] = frozenset()
    """Keys of the entity's `parameters` that are settings of the provider: they stay out of requests."""

    @abstractmethod
    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the wire format.

        Raises:
            BadProviderRequest: This wire format has no place for the request.
        """

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
            secrets: `credential` for the entity's credential, and one per `{{secrets/…}}` reference
                in `provider_config`, under its key there.
        """
        secret = self.find_secret(secrets)
        return {"authorization": f"Bearer {secret.reveal()}"} if secret else {}

    def find_secret(self, secrets: Mapping[str, Secret]) -> Secret | None:
        """Return the entity's credential, else the first of its `secret_keys` that is there."""
        for key in ("credential", *self.secret_keys):
            if key in secrets:
                return secrets[key]
        return None

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return whether the server that the entity names answers nobody without a credential."""
        return False

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

    def read_refusal(self, status: int, payload: Any) -> Refusal | None:
        """Return what an error answer refuses, where another model might not; None for any other error.

        Args:
            status: HTTP status.
            payload: The answer, parsed JSON or text if it is none.
        """
        return read_refusal(status, payload)

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return how many embedding inputs one request may carry; 1 means that they are sent one by one."""
        return 1

    def transport(self, entity: ServedEntity) -> httpx.AsyncBaseTransport | None:
        """Return a transport of the provider's own; None is the gateway's."""
        return None


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


def read_usage(usage: Any, service_tier: Any = None) -> Usage:
    """Read an OpenAI-style `usage` object; a missing or odd one gives empty counts.

    Args:
        usage: The object.
        service_tier: What stands beside it in the answer.
    """
    tier = read_text({"service_tier": service_tier}, "service_tier")
    if not isinstance(usage, dict):
        return Usage(service_tier=tier)
    inputs = _mapping(usage, "prompt_tokens_details", "input_tokens_details")
    return Usage(
        input_tokens=read_count(usage, "prompt_tokens", "input_tokens"),
        output_tokens=read_count(usage, "completion_tokens", "output_tokens"),
        cached_input_tokens=read_count(inputs, "cached_tokens"),
        reasoning_tokens=read_count(
            _mapping(usage, "completion_tokens_details", "output_tokens_details"), "reasoning_tokens"
        ),
        cache_write_tokens=read_count(inputs, "cache_write_tokens"),
        service_tier=tier,
    )


def _mapping(source: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = source.get(key)
        if isinstance(value, dict):
            return value
    return {}


def read_count(source: Mapping[str, Any], *keys: str) -> int | None:
    """Return the first of the counts called `keys`; None where there is none, or one that cannot be true."""
    for key in keys:
        value = source.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
            return value
    return None


def read_text(source: Mapping[str, Any], key: str) -> str | None:
    """Return the short text called `key`; None where there is none."""
    value = source.get(key)
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT else None
