"""What crosses a layer: frozen values, each field explained once, here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

Task = Literal[
    "llm/v1/chat",
    "llm/v1/completions",
    "llm/v1/embeddings",
    "llm/v1/responses",
    "agent/v1/chat",
    "agent/v1/responses",
    "custom",
]
"""What an endpoint does, in Databricks' and MLflow's words."""

CHAT: Final = "llm/v1/chat"
COMPLETIONS: Final = "llm/v1/completions"
EMBEDDINGS: Final = "llm/v1/embeddings"
CUSTOM: Final = "custom"

Routing = Literal["weighted", "sticky", "priority", "least_latency", "least_cost"]
"""How an endpoint picks the entity that it asks first."""

Refusal = Literal["context_window", "content_policy"]
"""Why a model will not answer a request that is well-formed, where another one might."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One row of `fleming.credentials`: where a secret is found, never the secret."""

    name: str
    source: str
    """`env`, `file`, `keyring` or `command`."""
    reference: str
    """Variable name, path, `service/user` or command line, as `source` says."""


class Secret:
    """A resolved credential. Its value leaves only through `reveal`, never through repr or a log."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the request to its own provider and for nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"


@dataclass(frozen=True, slots=True)
class ServedEntity:
    """One row of `fleming.served_entities`: a model that serves an endpoint."""

    id: str
    """`served_entity_id` of this version of the row; a changed row gets a new one."""
    endpoint: str
    name: str
    provider: str
    """Name in the provider registry: the wire format."""
    model: str
    base_url: str | None
    """Where the provider answers; None is the provider's own address."""
    credential: str | None
    """Name in `fleming.credentials`; None for servers that ask for none."""
    traffic_percentage: float
    """Share of the calls, 0 to 100; 0 is for fallback only."""
    position: int
    """Fallback order, lowest first."""
    parameters: Mapping[str, Any]
    """Sent with each request, beneath what the endpoint and the caller set."""
    provider_config: Mapping[str, Any]
    """What only this provider knows, such as `openai_api_version`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of `fleming.endpoints` with its entities, as one version of the configuration had it."""

    name: str
    task: Task
    enabled: bool
    payload_logging: bool
    usage_tracking: bool
    cache_ttl_seconds: int | None
    """How long an answer may be reused; None switches reuse off."""
    cache_scope: Literal["shared", "user"]
    """Whether the answer to one user's request may be another's."""
    max_concurrency: int
    """Upstream requests under way at once."""
    timeout_ms: int
    """For a whole call, retries and fallbacks included, from its first attempt."""
    connect_timeout_ms: int
    max_retries: int
    """Further attempts after the first, retries and fallbacks together; each entity gets one in any case."""
    max_response_bytes: int
    """A longer answer is refused while it is read."""
    max_logged_bytes: int
    """A longer request or response body is left out of the log, with a logging error code."""
    default_parameters: Mapping[str, Any]
    fallback_enabled: bool
    """Whether the other entities are tried when one fails."""
    fallback_on: tuple[Refusal, ...]
    """Refusals after which another entity is tried too."""
    retry_on_timeout: bool
    """Whether a request that may have been billed is sent to the same entity again."""
    attempt_timeout_ms: int | None
    """For one attempt; None shares what is left with the attempts that may follow."""
    hedge_after_ms: int | None
    """Ask a second time when there is no answer by then; None is off."""
    hedge_percentile: float | None
    """The same, by the latest latencies of the entity, 50 to 99.9; None is off."""
    routing: Routing
    sticky_key: str | None
    """Key of `usageContext` that sticks to an entity; None is the requester."""
    adaptive_concurrency: bool
    """Whether an entity gets as many requests at once as it has been seen to take."""
    breaker_failure_share: float
    """Above 0, up to 1: an entity that fails more often is left out."""
    breaker_min_calls: int
    breaker_window_ms: int
    breaker_open_ms: int
    version: int
    """`endpoint_config_version`: one more at each change of the endpoint or its entities."""
    entities: tuple[ServedEntity, ...]
    problems: tuple[str, ...]
    """Texts of `fleming.config_problems` for this endpoint; a call fails with the first."""


PrincipalType = Literal["user", "service_principal", "group"]


@dataclass(frozen=True, slots=True)
class Principal:
    """One row of `fleming.principals`."""

    name: str
    type: PrincipalType
    enabled: bool


@dataclass(frozen=True, slots=True)
class Permission:
    """One row of `fleming.permissions`: one principal, one endpoint, one privilege."""

    principal_type: PrincipalType
    principal: str
    privilege: Literal["CAN_QUERY", "CAN_MANAGE", "CAN_VIEW"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One row of `fleming.rate_limits`: so many calls or tokens in any period."""

    endpoint: str
    key: Literal["endpoint", "user", "user_group", "service_principal"]
    principal: str | None
    """None for the whole endpoint, and for the limit that each user has who has no other."""
    metric: Literal["calls", "tokens"]
    amount: int
    period: Literal["minute", "hour"]
    waits: bool
    """False refuses what goes beyond."""
    max_wait_s: float | None
    """How long the next call of a statement may wait; None is as long as it takes."""

    @property
    def period_s(self) -> float:
        """Length of the window in seconds."""
        return 60.0 if self.period == "minute" else 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """One row of `fleming.model_prices`, in US dollars for a million tokens."""

    input_per_million: float
    output_per_million: float
    valid_from: datetime


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the gateway as they hold: the view `fleming.settings_in_effect`."""

    durability: Literal["process", "power", "off"] = "process"
    """What a record outlives before its result is handed out."""
    on_log_failure: Literal["fail", "continue"] = "fail"
    retention_days: float | None = None
    retention_rows: float | None = None
    maintenance_minutes: float = 10.0
    delta_location: str | None = None
    delta_storage_options: Mapping[str, str] = field(default_factory=dict)
    """Values may be `{{secrets/scope/key}}`."""
    delta_every_seconds: float = 60.0
    delta_compact_hours: float = 24.0
    delta_vacuum_hours: float = 168.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole configuration as of one moment. Calls of one statement see one snapshot."""

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    permissions: Mapping[str, tuple[Permission, ...]] = field(default_factory=dict)
    """By endpoint. One without an entry is open."""
    rate_limits: Mapping[str, tuple[RateLimit, ...]] = field(default_factory=dict)
    """By endpoint."""
    principals: Mapping[str, Principal] = field(default_factory=dict)
    groups_of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By member: the enabled groups it is in, through others too."""
    prices: Mapping[tuple[str, str], tuple[Price, ...]] = field(default_factory=dict)
    """By provider and model, the latest first."""
    settings: Settings = field(default_factory=Settings)

    def price(self, entity: ServedEntity, at: datetime) -> Price | None:
        """Return what an entity costs at a time, None where that is not known."""
        prices = self.prices.get((entity.provider, entity.model), ())
        return next((price for price in prices if price.valid_from <= at), None)


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


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """What one guardrail decided on one call; never the text that it matched."""

    guardrail: str
    phase: str
    """`input` or `output`."""
    kind: str
    action: str
    """`block`, `mask`, `log` or `none`."""
    reason: str | None
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
