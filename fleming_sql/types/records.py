"""What the log keeps of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One upstream request made for a call."""

    attempt_id: str
    served_entity_id: str
    served_entity_name: str
    started_at: datetime
    duration_ms: float
    status_code: int
    """HTTP status; 0 where none arrived."""
    error_code: str | None
    error_message: str | None
    reason: str
    """Why it was made: `first`, `retry`, `fallback`, `hedge` or `schema_mismatch`."""
    inputs: int
    """How many inputs the request carried; more than one where embeddings were batched."""
    after_error_code: str | None = None
    """Error that led to it, where it is not the first."""


@dataclass(slots=True)  # not frozen: several are made for each call, and a frozen one takes twice as long to make
class GuardrailResult:
    """What one guardrail decided on one call; never the text that it matched."""

    guardrail: str
    phase: str
    """`input` or `output`."""
    kind: str
    action: str
    """`block`, `mask`, `log`, `none` where it found nothing, or `allow` where it failed and lets pass."""
    reason: str | None
    """Why, without the text that it matched."""
    entities: str | None
    """JSON array: what was found, by type, with counts and offsets."""
    duration_ms: float


@dataclass(slots=True)
class CallRecord:
    """Everything the log keeps of one call: one row of `serving.calls`."""

    databricks_request_id: str
    client_request_id: str | None
    request_time: datetime
    endpoint_name: str
    config_version: int | None
    served_entity_id: str | None
    requester: str
    statement_id: str | None
    usage_context: Mapping[str, str]
    request_hash: str
    payload_logging: bool
    usage_tracking: bool
    status_code: int = 200
    error_code: str | None = None
    error_message: str | None = None
    execution_duration_ms: float = 0.0
    queue_ms: float = 0.0
    limit_wait_ms: float = 0.0
    overhead_us: float = 0.0
    cache_hit: bool = False
    reused_request_id: str | None = None
    request: str | None = None
    response: str | None = None
    logging_error_codes: tuple[str, ...] = ()
    input_token_count: int | None = None
    output_token_count: int | None = None
    cached_input_token_count: int | None = None
    cache_write_token_count: int | None = None
    reasoning_token_count: int | None = None
    service_tier: str | None = None
    tokens_estimated: bool = False
    input_character_count: int = 0
    output_character_count: int = 0
    request_streaming: bool = False
    attempts: tuple[Attempt, ...] = ()
    guardrail_results: tuple[GuardrailResult, ...] = ()
    guardrail: str | None = None
    """The guardrail that made the call; None for everybody else's."""
    guarded_request_id: str | None = None
    """The call that it was made about."""
