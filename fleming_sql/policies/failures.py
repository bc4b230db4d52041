"""How a failed exchange is told: condition, code, status and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from fleming_sql.errors import CallError
from fleming_sql.policies.retries import RETRIED_STATUSES
from fleming_sql.types import Refusal, ServedEntity

Kind = Literal[
    "status",  # the provider answered with an error status
    "connect",  # no connection: refused, unknown host, TLS
    "timeout",  # no answer in time
    "cut",  # the connection broke before the answer was whole
    "answer",  # the answer is not in the wire format
    "too_large",  # the answer is longer than max_response_bytes
    "redirect",  # the provider pointed elsewhere
    "credential",  # the secret cannot be had
    "request",  # the request does not fit the wire format
]

_MAX_MESSAGE: Final = 600


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in one exchange with a provider."""

    kind: Kind
    message: str
    status: int = 0
    """HTTP status; 0 where none arrived."""
    retry_after_s: float | None = None
    refusal: Refusal | None = None
    """Why the model will not answer, where it says so and another one might."""
    chance: float = 0.5
    """In [0, 1), the jitter of the pause that follows: one for all calls that shared the request, to share the next."""


_CODES: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "BAD_REQUEST",
        401: "UNAUTHENTICATED",
        402: "PAYMENT_REQUIRED",
        403: "PERMISSION_DENIED",
        404: "RESOURCE_DOES_NOT_EXIST",
        408: "DEADLINE_EXCEEDED",
        413: "REQUEST_TOO_LARGE",
        422: "UNPROCESSABLE_ENTITY",
        425: "TEMPORARILY_UNAVAILABLE",
        429: "REQUEST_LIMIT_EXCEEDED",
        500: "INTERNAL_ERROR",
        503: "TEMPORARILY_UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
        529: "OVERLOADED",
    }
)
_KINDS: Final[Mapping[str, tuple[str, str, int, str]]] = MappingProxyType(
    {
        # kind: condition, code, status that stands for it, advice
        "connect": (
            "AI_FUNCTION_HTTP_REQUEST_ERROR",
            "CONNECTION_FAILED",
            503,
            "check that the server runs and that the column base_url of the served entity is right",
        ),
        "timeout": (
            "AI_FUNCTION_HTTP_REQUEST_ERROR",
            "DEADLINE_EXCEEDED",
            504,
            "raise fleming.endpoints.timeout_ms if the model needs longer",
        ),
        "cut": (
            "AI_FUNCTION_HTTP_REQUEST_ERROR",
            "CONNECTION_LOST",
            502,
            "it may have been billed, so it is not sent to the same served entity again: run the statement again, or "
            "set fleming.endpoints.retry_on_timeout",
        ),
        "answer": (
            "AI_FUNCTION_INVALID_HTTP_RESPONSE",
            "INVALID_RESPONSE",
            502,
            "check that the columns provider and base_url of the served entity fit together",
        ),
        "too_large": (
            "AI_FUNCTION_INVALID_HTTP_RESPONSE",
            "MAX_RESPONSE_SIZE_EXCEEDED",
            502,
            "lower max_tokens or raise fleming.endpoints.max_response_bytes",
        ),
        "redirect": (
            "AI_FUNCTION_INVALID_HTTP_RESPONSE",
            "REDIRECT_REFUSED",
            502,
            "redirects are not followed: set the column base_url of the served entity to the final address",
        ),
        "credential": ("CREDENTIAL_ERROR", "CREDENTIAL_ERROR", 400, ""),
        "request": ("AI_FUNCTION_UNSUPPORTED_REQUEST", "BAD_REQUEST", 400, ""),
    }
)


def code_of(failure: Failure) -> str:
    """Return the short error code of a failure, as it stands in the log."""
    if failure.kind == "status":
        return _CODES.get(failure.status, "INTERNAL_ERROR" if failure.status >= 500 else "BAD_REQUEST")
    return _KINDS[failure.kind][1]


def to_call_error(failure: Failure, entity: ServedEntity, request_id: str, attempts: int) -> CallError:
    """Return the error that the caller sees for the failure that ended a call.

    Args:
        failure: The last one.
        entity: The served entity it happened with.
        request_id: Of the call.
        attempts: How many were made.
    """
    message = shorten(failure.message)
    if failure.kind == "status":
        condition, status, advice = _for_status(failure, entity, attempts)
        told = _told(failure.status, message, attempts, condition)
    else:
        condition, _, status, advice = _KINDS[failure.kind]
        told = message if attempts < 2 else f"{message} (after {attempts} attempts)"
    text = (
        f'[{condition}] endpoint "{entity.endpoint}", served entity "{entity.name}": {told}'
        f"{': ' + advice if advice else ''} (request id {request_id}, HTTP status {status})"
    )
    return CallError(condition, text, status=status, code=code_of(failure))


def _told(status: int, message: str, attempts: int, condition: str) -> str:
    if condition == "REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT":
        return (
            f"The remote request failed after retrying {attempts - 1} times; the last failed HTTP error code "
            f"was {status}, and the error message '{message}'"
        )
    return f"The remote HTTP request failed with code {status}, and error message '{message}'"


def _for_status(failure: Failure, entity: ServedEntity, attempts: int) -> tuple[str, int, str]:
    retried = failure.status in RETRIED_STATUSES and attempts > 1
    condition = "REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT" if retried else "REMOTE_FUNCTION_HTTP_FAILED_ERROR"
    return condition, failure.status, _advice(failure.status, entity)


def _advice(status: int, entity: ServedEntity) -> str:
    if status in (401, 403):
        named = f'the credential "{entity.credential}"' if entity.credential else "the column credential"
        return f"check {named} of the served entity and what its key may do"
    if status == 404:
        return "check the columns base_url and model of the served entity"
    if status == 413:
        return "shorten the request"
    if status == 429:
        return "lower fleming.endpoints.max_concurrency, or raise max_retries or timeout_ms"
    if status >= 500:
        return "the fault is the provider's; run the statement again, or raise fleming.endpoints.max_retries"
    return "check the request, modelParameters and responseFormat against what this model accepts"


def shorten(message: str) -> str:
    """Return a provider's message, cut where it is longer than anybody reads."""
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…"
