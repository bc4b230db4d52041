"""Gets one request answered: picks the entity, sends, goes on to others, tries again, hedges.

One deadline and one budget hold for all of it. What to do next is decided in `policies.routing` and
`policies.fallbacks`; here it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.gateway.batching import EmbeddingBatcher
from fleming_sql.gateway.gate import FairGate
from fleming_sql.gateway.health import EntityHealth, HealthBoard
from fleming_sql.gateway.hedging import first_of
from fleming_sql.gateway.records import CallInProgress
from fleming_sql.gateway.upstream import Exchange, ExchangeFailed, Target, Upstream
from fleming_sql.policies.failures import to_call_error
from fleming_sql.policies.fallbacks import Tries
from fleming_sql.policies.routing import first
from fleming_sql.types import EMBEDDINGS, Endpoint, ModelRequest, ServedEntity, Snapshot


class _LeftOut(Exception):
    """The entity was left out while the call waited for a place at it."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt to be made."""

    target: Target
    reason: str
    forced: bool
    """Whether it is made though the entity is left out."""
    patience: int
    """How many attempts may follow, and want some of the time that is left."""


class _Situation:
    """What the choice of the first entity may depend on."""

    __slots__ = ("_board", "_clock", "_endpoint", "_progress", "_snapshot", "chance", "key")

    def __init__(
        self, snapshot: Snapshot, endpoint: Endpoint, board: HealthBoard, progress: CallInProgress, clock: Clock
    ) -> None:
        self._snapshot = snapshot
        self._endpoint = endpoint
        self._board = board
        self._progress = progress
        self._clock = clock
        self.chance = clock.random()
        self.key = progress.label(endpoint.sticky_key)

    def latency_s(self, entity: ServedEntity) -> float | None:
        return self._board.of(self._endpoint, entity).latencies.typical_s(self._clock.monotonic())

    def cost_usd(self, entity: ServedEntity) -> float | None:
        price = self._snapshot.price(entity, self._clock.now())
        if price is None:
            return None
        tokens = self._progress.tokens
        return (tokens.prompt * price.input_per_million + tokens.answer * price.output_per_million) / 1e6


class Delivery:
    """Makes the attempts of calls.

    Args:
        upstream: Makes one exchange.
        clock: Time and chance.
    """

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._batcher = EmbeddingBatcher()
        self._gates: dict[str, FairGate] = {}
        self.board = HealthBoard(clock)

    def route(self, snapshot: Snapshot, endpoint: Endpoint, progress: CallInProgress) -> tuple[ServedEntity, bool]:
        """Return whom to ask first, and whether it is asked though it is left out, as all others are."""
        allowed = self.board.allowed(endpoint, snapshot.credentials)
        if not endpoint.fallback_enabled:
            allowed = [entity for entity in allowed if entity.traffic_percentage > 0]
        if not allowed:
            return self.board.best(endpoint), True
        return first(
            endpoint.routing, allowed, _Situation(snapshot, endpoint, self.board, progress, self._clock)
        ), False

    async def deliver(
        self, snapshot: Snapshot, endpoint: Endpoint, request: ModelRequest, progress: CallInProgress, tries: Tries
    ) -> Exchange:
        """Send a request until it is answered.

        Args:
            snapshot: The configuration.
            endpoint: Of it.
            request: Less the parameters of the entity.
            progress: Takes down what is tried. Its entity, where it has one, is asked first.
            tries: What the call has tried before.

        Raises:
            CallError: Of the last attempt, when there is none left.
        """
        reason: str = "first"
        if progress.entity is None:
            entity, forced = self.route(snapshot, endpoint, progress)
        else:  # it has answered, only not in the asked-for format
            entity, forced, reason = progress.entity, True, "schema_mismatch"
        while True:
            progress.entity = entity
            allowed = self.board.allowed(endpoint, snapshot.credentials)
            target = Target(endpoint, entity, snapshot.credentials)
            attempt = _Attempt(target, reason, forced, tries.ahead(allowed, entity))
            try:
                exchange = await self._attempt(attempt, self._for_entity(entity, request), allowed, progress)
            except _LeftOut:
                entity, forced = self._elsewhere(snapshot, endpoint, entity, progress, tries)
                continue
            except ExchangeFailed as error:
                progress.failed_with(error)
                now = self._clock.monotonic()
                tries.failed(entity, error.failure, now, self._clock.random())
                told = to_call_error(error.failure, entity, progress.request_id, progress.failures)
                allowed = self.board.allowed(endpoint, snapshot.credentials)
                step = tries.next(allowed, now, progress.remaining_s)
                if step is None:
                    raise told from None
                progress.last_error = told
                if step.wait_s:
                    await progress.idle(self._clock.sleep(step.wait_s))
                entity, forced, reason = step.entity, step.forced, step.reason
            else:
                progress.tried(exchange)
                progress.entity = exchange.entity
                return exchange

    def _elsewhere(
        self, snapshot: Snapshot, endpoint: Endpoint, entity: ServedEntity, progress: CallInProgress, tries: Tries
    ) -> tuple[ServedEntity, bool]:
        """Return whom to ask in the place of an entity that has just been left out; the reason stays what it was."""
        if progress.failures == 0:
            return self.route(snapshot, endpoint, progress)
        now = self._clock.monotonic()
        step = tries.next(self.board.allowed(endpoint, snapshot.credentials), now, progress.remaining_s)
        if step is None or step.wait_s:
            return entity, True
        return step.entity, step.forced

    def _for_entity(self, entity: ServedEntity, request: ModelRequest) -> ModelRequest:
        own = self._upstream.provider(entity).own_parameters
        beneath = {key: value for key, value in entity.parameters.items() if key not in own}
        return replace(request, parameters={**beneath, **request.parameters}) if beneath else request

    async def _attempt(
        self, attempt: _Attempt, request: ModelRequest, allowed: Sequence[ServedEntity], progress: CallInProgress
    ) -> Exchange:
        """Make one attempt: by itself, with others in one request, or with a second one to its side."""
        if request.task == EMBEDDINGS:
            return await self._shared(attempt, request, progress)
        hedge_s = self._hedge_after_s(attempt.target)
        if hedge_s is None or attempt.reason != "first":  # one budget: a call has one hedge at most
            return await self._alone(attempt, request, progress)
        others = [entity for entity in allowed if entity.name != attempt.target.entity.name]
        entity = others[0] if others and attempt.target.endpoint.fallback_enabled else attempt.target.entity
        second = replace(
            attempt, target=replace(attempt.target, entity=entity), reason="hedge", forced=False, patience=0
        )
        progress.permit()
        try:
            return await first_of(
                self._alone(attempt, request, progress),
                lambda: self._alone(second, self._for_entity(entity, request), progress),
                hedge_s,
                ignored=_LeftOut,
            )
        finally:
            progress.rest()

    def _hedge_after_s(self, target: Target) -> float | None:
        endpoint = target.endpoint
        if endpoint.hedge_after_ms is not None:
            return endpoint.hedge_after_ms / 1000
        if endpoint.hedge_percentile is None:
            return None
        return self.board.of(endpoint, target.entity).latencies.percentile_s(endpoint.hedge_percentile)

    async def _shared(self, attempt: _Attempt, request: ModelRequest, progress: CallInProgress) -> Exchange:
        """Send embeddings, together with those of other calls as far as the provider takes several inputs."""
        target = attempt.target

        async def send(request: ModelRequest) -> Exchange:
            return await self._alone(attempt, request, progress)

        max_inputs = self._upstream.provider(target.entity).max_inputs(target.entity)
        if max_inputs <= len(request.inputs):
            return await send(request)
        progress.permit()
        progress.start_clock()  # this call's own, whichever call's request carries its inputs
        key = (progress.flow, target.entity.id, attempt.reason, attempt.forced, jsontext.dumpb(request.parameters))
        try:
            return await self._batcher.call(key, request, max_inputs, send)
        finally:
            progress.rest()

    async def _alone(self, attempt: _Attempt, request: ModelRequest, progress: CallInProgress) -> Exchange:
        """Send one request, when there is a place for it at the entity and at the endpoint."""
        target = attempt.target
        health = self.board.of(target.endpoint, target.entity)
        gate = self._gate(target.endpoint)
        if not health.gate.try_enter():
            await progress.queued(health.gate.enter(progress.flow))
        try:
            if not gate.try_enter():
                await progress.queued(gate.enter(progress.flow))
            try:
                progress.permit()
                return await self._send(attempt, health, request, progress)
            finally:
                progress.rest()
                gate.leave()
        finally:
            health.gate.leave()

    async def _send(
        self, attempt: _Attempt, health: EntityHealth, request: ModelRequest, progress: CallInProgress
    ) -> Exchange:
        sent = self.board.claim(health, forced=attempt.forced)
        if sent is None:
            raise _LeftOut
        began = self._clock.monotonic()
        try:
            exchange = await self._upstream.send(
                attempt.target, request, self._timeout_s(attempt, progress.start_clock()), attempt.reason
            )
        except ExchangeFailed as error:
            self.board.failed(sent, error.failure, attempt.target.credentials)
            raise
        except BaseException:
            self.board.broken_off(sent)
            raise
        self.board.answered(sent, self._clock.monotonic() - began)
        return exchange

    def _timeout_s(self, attempt: _Attempt, remaining_s: float) -> float:
        own_ms = attempt.target.endpoint.attempt_timeout_ms
        if own_ms is not None:
            return min(own_ms / 1000, remaining_s)
        return remaining_s / (1 + attempt.patience)

    def _gate(self, endpoint: Endpoint) -> FairGate:
        gate = self._gates.get(endpoint.name)
        if gate is None:
            gate = self._gates[endpoint.name] = FairGate(endpoint.max_concurrency)
        gate.limit = endpoint.max_concurrency
        return gate
