"""How each served entity is doing: whether it is left out, how much it takes at once, how fast it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from fleming_sql.clock import Clock
from fleming_sql.credentials import credentials_of
from fleming_sql.gateway.gate import FairGate
from fleming_sql.policies.breaker import Breaker, BreakerSettings
from fleming_sql.policies.concurrency import AdaptiveLimit, Ticket
from fleming_sql.policies.failures import Failure, code_of
from fleming_sql.policies.fallbacks import THROTTLED, is_of_credential, outcome
from fleming_sql.policies.latency import Latencies
from fleming_sql.types import Credential, Endpoint, ServedEntity

CREDENTIAL_PAUSE_S: Final = 30.0
"""How long a key that was refused is not tried where there is another way."""
EXPLORE_S: Final = 1.0
"""How often one request finds out how fast an entity is of which that is not known."""
SLOW_FACTOR: Final = 10.0
SLOW_S: Final = 1.0
"""An answer counts as a failure when it takes longer than a second and ten times what another entity takes now."""

_VERSIONS_KEPT: Final = 4
_Backend: TypeAlias = tuple[str, str, str, str, str | None, str | None]


@dataclass(slots=True)
class LastFailure:
    """The latest failure of an entity."""

    code: str
    message: str
    at: datetime


class EntityHealth:
    """What is known of one served entity.

    Args:
        endpoint: Its settings.
        entity: Which.
    """

    __slots__ = ("_explored_at", "breaker", "endpoint", "entity", "gate", "last_failure", "latencies", "limit")

    def __init__(self, endpoint: Endpoint, entity: ServedEntity) -> None:
        self.breaker = Breaker(_settings(endpoint))
        self.limit = AdaptiveLimit(endpoint.max_concurrency)
        self.gate = FairGate(endpoint.max_concurrency)
        self.latencies = Latencies()
        self.last_failure: LastFailure | None = None
        self._explored_at = float("-inf")
        self.configure(endpoint, entity)

    def configure(self, endpoint: Endpoint, entity: ServedEntity) -> None:
        """Take over settings that may have changed."""
        self.entity = entity
        self.endpoint = endpoint
        self.breaker.settings = _settings(endpoint)
        self.limit.ceiling = endpoint.max_concurrency
        self.resize()

    def latency_s(self, now: float) -> float | None:
        """Return how fast it answers; None where that is to be found out, by one request at a time."""
        typical_s = self.latencies.typical_s(now)
        if typical_s is None and now - self._explored_at < EXPLORE_S:
            return self.latencies.baseline_s or float("inf")
        return typical_s

    def explore(self, now: float) -> None:
        """Take down that it is asked for the sake of its latency, or not."""
        if self.latencies.typical_s(now) is None:
            self._explored_at = now

    @property
    def is_full(self) -> bool:
        """Whether its provider takes no more at present, fewer than the endpoint would send."""
        return self.gate.inside >= self.gate.limit < self.endpoint.max_concurrency

    def resize(self) -> None:
        """Let as many in as the entity has been seen to take."""
        endpoint = self.endpoint
        self.gate.limit = self.limit.limit if endpoint.adaptive_concurrency else endpoint.max_concurrency
        self.gate.admit()


@dataclass(slots=True)
class Sent:
    """A request under way."""

    health: EntityHealth
    ticket: Ticket
    claimed: bool
    """Whether it is the probe of an entity that was left out."""


class HealthBoard:
    """The health of all entities of one gateway, as its own requests found it.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[_Backend, EntityHealth] = {}
        self._refused_keys: dict[Credential, float] = {}
        self._credentials: Mapping[str, Credential] = {}

    def of(self, endpoint: Endpoint, entity: ServedEntity) -> EntityHealth:
        """Return the health of an entity. A row that points elsewhere begins anew."""
        key = (endpoint.name, entity.name, entity.provider, entity.model, entity.base_url, entity.credential)
        health = self._known.get(key)
        if health is None:
            self._forget_oldest(key)
            health = self._known[key] = EntityHealth(endpoint, entity)
        elif health.endpoint is not endpoint:
            health.configure(endpoint, entity)
        return health

    def allowed(self, endpoint: Endpoint, credentials: Mapping[str, Credential]) -> Sequence[ServedEntity]:
        """Return the entities of an endpoint that are not left out, by position; an only one never is."""
        if len(endpoint.entities) == 1:
            return endpoint.entities
        now = self._clock.monotonic()
        self._credentials = credentials
        return [
            entity
            for entity in endpoint.entities
            if self.of(endpoint, entity).breaker.allows(now) and not self._is_refused(entity, credentials, now)
        ]

    def with_places(self, endpoint: Endpoint, entities: Sequence[ServedEntity]) -> Sequence[ServedEntity]:
        """Return those of the entities with traffic that have places left, all of `entities` where none has."""
        free = [e for e in entities if e.traffic_percentage > 0 and not self.of(endpoint, e).is_full]
        return free or entities

    def best(self, endpoint: Endpoint, entities: Sequence[ServedEntity]) -> ServedEntity:
        """Return whom of these to ask when all are left out: who failed least, then who is let in again first."""
        now = self._clock.monotonic()

        def badness(entity: ServedEntity) -> tuple[float, float, int]:
            breaker = self.of(endpoint, entity).breaker
            return breaker.failure_share(now), breaker.opens_until or 0.0, entity.position

        return min(entities, key=badness)

    def claim(self, health: EntityHealth, *, forced: bool) -> Sent | None:
        """Count a request that is about to go out; None where the entity has been left out in the meantime."""
        now = self._clock.monotonic()
        was_closed = health.breaker.state(now) == "closed"
        claimed = not was_closed and health.breaker.claim(now)
        if not (was_closed or claimed or forced or len(health.endpoint.entities) == 1):
            return None
        return Sent(health, health.limit.sent(now), claimed)

    def answered(self, sent: Sent, took_s: float) -> None:
        """Count an answer."""
        now = self._clock.monotonic()
        health = sent.health
        is_slow = took_s > SLOW_S and self._is_crawling(health, took_s, now)
        health.latencies.add(took_s, now)
        if is_slow:
            self._fell_short(health, "SLOW", f"answers take {took_s:.1f} s, and those of others a tenth of that")
        health.breaker.record("failed" if is_slow else "answered", now, claimed=sent.claimed)
        health.limit.ended(sent.ticket, "answered", now)
        health.resize()
        if self._refused_keys:
            names = credentials_of(health.entity)
            self._refused_keys = {key: until for key, until in self._refused_keys.items() if key.name not in names}

    def failed(self, sent: Sent, failure: Failure, credentials: Mapping[str, Credential]) -> None:
        """Count a failure."""
        now = self._clock.monotonic()
        health, found = sent.health, outcome(failure)
        if is_of_credential(failure):
            self._credentials = credentials
            for name in credentials_of(health.entity):
                if name in credentials:
                    self._refused_keys[credentials[name]] = now + CREDENTIAL_PAUSE_S
        if found == "unsent":
            self._let_go(sent, now)
            return
        if found == "refused" and sent.ticket.rank == 1:  # nothing else was under way: not too much, but nothing at all
            found = "failed"
        if found != "answered":
            self._fell_short(health, code_of(failure), failure.message)
        health.breaker.record(found, now, claimed=sent.claimed)
        health.limit.ended(sent.ticket, "refused" if failure.status in THROTTLED else "other", now)
        health.resize()

    def broken_off(self, sent: Sent) -> None:
        """Forget a request that was cancelled: it says nothing of the entity."""
        self._let_go(sent, self._clock.monotonic())

    def is_key_refused(self, health: EntityHealth) -> bool:
        """Return whether a key that the entity uses, by its row as it is now, was refused lately."""
        return self._is_refused(health.entity, self._credentials, self._clock.monotonic())

    def __iter__(self) -> Iterator[EntityHealth]:
        """Return the health of each entity that has been asked, as its row is now."""
        latest: dict[tuple[str, str], EntityHealth] = {}
        for health in self._known.values():
            name = health.entity.endpoint, health.entity.name
            if name not in latest or latest[name].endpoint.version <= health.endpoint.version:
                latest[name] = health
        return iter(latest.values())

    def _forget_oldest(self, key: _Backend) -> None:
        """Keep few versions of an entity: statements that began before a change go on with the row as it was."""
        same = [known for known in self._known if known[:2] == key[:2]]
        if len(same) >= _VERSIONS_KEPT:
            del self._known[min(same, key=lambda known: self._known[known].endpoint.version)]

    def _is_refused(self, entity: ServedEntity, credentials: Mapping[str, Credential], now: float) -> bool:
        if not self._refused_keys:
            return False
        used = (credentials[name] for name in credentials_of(entity) if name in credentials)
        return any(self._refused_keys.get(key, now) > now for key in used)

    def _is_crawling(self, health: EntityHealth, took_s: float, now: float) -> bool:
        others = (
            self.of(health.endpoint, entity).latencies.typical_s(now)
            for entity in health.endpoint.entities
            if entity.name != health.entity.name
        )
        return any(typical_s is not None and took_s > SLOW_FACTOR * typical_s for typical_s in others)

    def _fell_short(self, health: EntityHealth, code: str, message: str) -> None:
        health.last_failure = LastFailure(code, message, self._clock.now())

    def _let_go(self, sent: Sent, now: float) -> None:
        if sent.claimed:
            sent.health.breaker.release(now)
        sent.health.limit.ended(sent.ticket, "other", now)
        sent.health.resize()


def _settings(endpoint: Endpoint) -> BreakerSettings:
    return BreakerSettings(
        failure_share=endpoint.breaker_failure_share,
        min_calls=endpoint.breaker_min_calls,
        window_s=endpoint.breaker_window_ms / 1000,
        open_s=endpoint.breaker_open_ms / 1000,
    )
