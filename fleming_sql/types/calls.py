"""A call on its way: who asks, what goes to the model and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from fleming_sql.types.config import Endpoint, ServedEntity, Task


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made."""

    user: str
    groups: tuple[str, ...] = ()
    """Groups that the caller is in by its own word, besides those of `fleming.group_members`."""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What shape of answer the caller asks for."""

    kind: Literal["text", "json_object", "json_schema"]
    name: str = "response"
    schema: Mapping[str, Any] | None = None
    """JSON Schema of the answer, an object at the top; only for `json_schema`."""
    strict: bool | None = None
    return_type: str | None = None
    """DuckDB type of the result where the format was given as DDL; None leaves JSON text."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The arguments of `ai_query` beside the endpoint and the request, checked."""

    return_type: str | None = None
    """As the caller wrote it; None is the type that the endpoint's task has."""
    fail_on_error: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    response_format: ResponseFormat | None = None
    cache: bool = True
    """False: neither read nor share an answer."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that goes with a prompt."""

    media_type: Literal["image/jpeg", "image/png"]
    data: bytes


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request in the gateway's own terms, before a provider puts it into its wire format."""

    task: Task
    parameters: Mapping[str, Any]
    """Only what the caller, the endpoint or the entity set: some models refuse what they do not know."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Chat: OpenAI-style messages, images included as `image_url` parts with data URLs."""
    inputs: tuple[str, ...] = ()
    """Embeddings: the texts. Completions: one prompt."""
    fields: Any = None
    """Custom models: the value that the caller passed, a mapping for a STRUCT."""
    response_format: ResponseFormat | None = None


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """One HTTP request as it will go out, less its credentials."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    """Part of `input_tokens` that the provider served from its prompt cache."""
    reasoning_tokens: int | None = None
    """Part of `output_tokens` that the caller does not see."""
    cache_write_tokens: int | None = None
    """Part of `input_tokens` that the provider put into its prompt cache, at a price of its own."""
    service_tier: str | None = None
    """The tier that the provider says it charges by, such as `default`, `flex`, `priority` or `batch`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered, read out of its wire format."""

    content: Any
    """Chat and completions: the text. Embeddings: one vector per input. Custom: the predictions."""
    usage: Usage
    model: str | None = None
    """The model that says it answered."""
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An earlier answer to an identical request, as the log holds it."""

    request_id: str
    served_entity_id: str
    request_time: datetime
    request_body: str
    response_body: str


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """An answer that came for a call, whatever became of it."""

    attempt_id: str | None
    """The request that it answered; None where that carried the inputs of several calls and stands with another."""
    entity: ServedEntity
    answer: Answer


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What those who watch calls want to know beside their records."""

    endpoint: Endpoint | None
    """None where there is none of that name."""
    parameters: Mapping[str, Any]
    """The endpoint's and the call's; those of the served entity lie beneath."""
    answers: tuple[AnsweredRequest, ...]
    """In the order in which they came; none for a call that was answered with the answer of another."""
