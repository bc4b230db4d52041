"""What the gateway knows of itself at this moment, as rows for the live views of `serving`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from fleming_sql.clock import Clock
from fleming_sql.gateway.batch import Batch
from fleming_sql.gateway.delivery import Delivery
from fleming_sql.gateway.limiter import RateLimiter

Row: TypeAlias = Mapping[str, Any]


class Reporter:
    """Answers the live views. Called on the gateway's event loop, where nothing changes meanwhile.

    Args:
        delivery: Knows the health of the served entities.
        limiter: Rate limits.
        batches: The vectors at work.
        clock: Time.
    """

    def __init__(
        self, delivery: Delivery, limiter: RateLimiter, batches: Callable[[], Iterable[Batch]], clock: Clock
    ) -> None:
        self._delivery = delivery
        self._board = delivery.board
        self._limiter = limiter
        self._batches = batches
        self._clock = clock

    async def report(self, view: str) -> list[Row]:
        """Return the rows of a view.

        Raises:
            KeyError: There is no such view.
        """
        return list(_VIEWS[view](self))

    def _entity_health(self) -> Iterator[Row]:
        now = self._clock.monotonic()
        for health in self._board:
            breaker, failure = health.breaker, health.last_failure
            until, typical_s = breaker.opens_until, health.latencies.typical_s(now)
            quoted = failure is not None and health.endpoint.payload_logging
            yield {
                "endpoint_name": health.entity.endpoint,
                "served_entity_name": health.entity.name,
                "state": breaker.state(now),
                "recent_calls": breaker.calls(now),
                "failure_share": breaker.failure_share(now),
                "probe_in_ms": None if until is None else max(0.0, until - now) * 1000,
                "last_error_code": failure.code if failure else None,
                "last_error_message": failure.message if failure and quoted else None,
                "last_error_time": failure.at.replace(tzinfo=None).isoformat() if failure else None,
                "credential_refused": self._board.is_key_refused(health),
                "concurrency_limit": health.gate.limit,
                "in_flight": health.gate.inside,
                "waiting": health.gate.waiting,
                "latency_ms": None if typical_s is None else typical_s * 1000,
            }

    def _rate_limit_usage(self) -> Iterator[Row]:
        for bound, used in self._limiter.usage():
            limit = bound.limit
            yield {
                "endpoint_name": limit.endpoint,
                "key": limit.key,
                "principal": bound.counted,
                "metric": limit.metric,
                "renewal_period": limit.period,
                "amount": limit.amount,
                "used": used,
            }

    def _progress(self) -> Iterator[Row]:
        waiting = self._limiter.waiting()
        for batch in self._batches():
            held = waiting.get(batch.statement.id)
            yield {
                "statement_id": batch.statement.id,
                "requester": batch.statement.caller.user,
                "start_time": batch.tally.started_at.replace(tzinfo=None).isoformat(),
                "calls_done": batch.tally.done,
                "calls_failed": batch.tally.failed,
                "calls_left": batch.left,
                "waiting_for_place": self._delivery.waiting(batch.statement.id),
                "waiting_for_limit": held.calls if held else 0,
                "limit_reached": held.bound.describe() if held and held.bound else None,
                "next_call_in_ms": max(0.0, held.ready_in_s) * 1000 if held else None,
            }


_VIEWS: Final[Mapping[str, Callable[[Reporter], Iterator[Row]]]] = MappingProxyType(
    {
        "entity_health": Reporter._entity_health,
        "rate_limit_usage": Reporter._rate_limit_usage,
        "progress": Reporter._progress,
    }
)
