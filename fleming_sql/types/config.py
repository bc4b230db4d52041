"""What the configuration tables say: frozen rows, and the snapshot of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from fleming_sql.types.guardrails import GuardrailRules

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
RESPONSES: Final = "llm/v1/responses"
AGENT_CHAT: Final = "agent/v1/chat"
AGENT_RESPONSES: Final = "agent/v1/responses"
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

    __slots__ = ("__weakref__", "_value")

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
    log_original: bool
    """Whether the log keeps requests and answers as they were before guardrails masked them."""
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


_EVER_SINCE: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Price:
    """What a served entity costs for some time, at one tier and for some lengths of input.

    It is one row of `fleming.serving.served_entity_prices`, in US dollars; an entity has one for each combination.
    """

    input_per_million: float | None = None
    """For a million input tokens; None where the row lacks it: then no cost is known."""
    output_per_million: float | None = None
    """Reasoning included; None for models that answer with no tokens."""
    cached_input_per_million: float | None = None
    """None is `input_per_million`."""
    cache_write_per_million: float | None = None
    """None is `input_per_million`."""
    service_tier: str | None = "default"
    """None holds for every tier."""
    from_input_tokens: int = 0
    to_input_tokens: int | None = None
    """Exclusive; None is without end."""
    per_second: float = 0.0
    per_call: float = 0.0
    valid_from: datetime = _EVER_SINCE
    valid_to: datetime | None = None
    """Exclusive; None is for ever."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One enabled row of `fleming.budgets`: what calls may cost in a day, week or month."""

    name: str
    """What errors and alerts call it; made of the other columns where the row has none."""
    scope: Literal["global", "endpoint", "user", "group", "context"]
    principal: str | None
    """User, group or value of the context key; None gives each user, or each value, a budget of its own."""
    endpoint: str | None
    """Whose calls count, whatever the scope; None counts those of all."""
    window: Literal["day", "week", "month"]
    amount_usd: float
    action: Literal["alert", "block"]
    context_key: str | None
    """The key of `usageContext`; only for the scope `context`."""
    time_zone: str
    """IANA name: where the day begins."""
    webhook: str | None
    """URL that is told when it is used up, or `{{secrets/scope/key}}`."""


Comparison = Literal[">", ">=", "<", "<=", "=", "<>"]
"""How the number of an alert's query is compared with its threshold."""


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One enabled row of `fleming.alerts`: a question about the log that raises an alert."""

    name: str
    query: str
    comparison: Comparison
    threshold: float
    every_s: float
    """Seconds between two looks."""
    webhook: str | None
    """URL that is told, or `{{secrets/scope/key}}`."""


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
    """By the names of endpoint and served entity."""
    settings: Settings = field(default_factory=Settings)
    alerts: tuple[AlertRule, ...] = ()
    budgets: tuple[Budget, ...] = ()
    guardrails: GuardrailRules = field(default_factory=GuardrailRules)

    def price(self, entity: ServedEntity, at: datetime, tier: str = "default", input_tokens: int = 0) -> Price | None:
        """Return what an entity costs, None where that is not known.

        Args:
            entity: One of the snapshot's.
            at: When the call begins, with its time zone.
            tier: As in `Price.service_tier`.
            input_tokens: Of the call, those from the provider's cache included.
        """
        for price in self.prices.get((entity.endpoint, entity.name), ()):
            if (
                price.service_tier in (None, tier)
                and price.from_input_tokens <= input_tokens
                and (price.to_input_tokens is None or input_tokens < price.to_input_tokens)
                and price.valid_from <= at
                and (price.valid_to is None or at < price.valid_to)
            ):
                return price
        return None
