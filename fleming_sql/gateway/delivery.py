"""Gets one request answered: picks the entity, sends, goes on to others, tries again, hedges.

One deadline and one budget hold for all of it. What to do next is decided in `policies.routing` and
`policies.fallbacks`; here it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from fleming_sql import jsontext
from fleming_sql.clock import Clock
from fleming_sql.gateway.batching import EmbeddingBatcher
from fleming_sql.gateway.gate import FairGate
from fleming_sql.gateway.health import EntityHealth, HealthBoard
from fleming_sql.gateway.hedging import first_of
from fleming_sql.gateway.records import CallInProgress
from fleming_sql.gateway.upstream import Exchange, ExchangeFailed, Target, Upstream, Why
from fleming_sql.policies.failures import code_of, to_call_error
from fleming_sql.policies.fallbacks import Step, Tries
from fleming_sql.policies.pricing import cost_of
from fleming_sql.policies.routing import first
from fleming_sql.types import EMBEDDINGS, Endpoint, ModelRequest, ServedEntity, Snapshot, Usage

_MOST_PATIENCE: Final = 2
"""An attempt gets a third of the time that is left at least, however many entities there are."""


class _LeftOut(Exception):
    """The entity was left out while the call waited for a place at it."""


@dataclass(slots=True)
class _Attempt:
    """One attempt to be made."""

    target: Target
    why: Why
    forced: bool
    """Whether it is made though the entity is left out."""
    patience: int
    """How many attempts may follow, and want some of the time that is left."""
    on_sent: Callable[[], object] | None = None
    """Called when its request goes out."""
    is_needed: Callable[[], bool] | None = None
    """Of a hedge: whether the first request still has no answer."""


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
        return self._board.of(self._endpoint, entity).latency_s(self._clock.monotonic())

    def cost_usd(self, entity: ServedEntity) -> float | None:
        tokens = self._progress.tokens
        usage = Usage(input_tokens=tokens.prompt, output_tokens=tokens.answer)
        return cost_of(self._snapshot, entity, usage, self.latency_s(entity) or 0.0, self._clock.now())


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
        step = self._first(snapshot, endpoint, progress)
        after = None if progress.entity is None else "INVALID_RESPONSE"
        if progress.trace is not None:
            progress.trace.note_route(endpoint, self.board.allowed(endpoint, snapshot.credentials), step)
        while True:
            entity = progress.entity = step.entity
            allowed = self.board.allowed(endpoint, snapshot.credentials)
            target = Target(endpoint, entity, snapshot.credentials, progress.shows_answers)
            attempt = _Attempt(target, Why(step.reason, after), step.forced, tries.ahead(allowed, entity))
            try:
                exchange = await self._attempt(attempt, self._for_entity(entity, request), allowed, progress)
            except _LeftOut:
                step = self._instead(snapshot, endpoint, step, progress, tries)
            except ExchangeFailed as error:
                progress.failed_with(error)
                self._trace(request, error, progress)
                for failed in (error, *error.others):
                    tries.failed(failed.entity, failed.failure, self._clock.monotonic())
                after = code_of(error.failure)
                progress.last_error = to_call_error(error.failure, entity, progress.request_id, progress.failures)
                following = self._next(snapshot, endpoint, progress, tries)
                if progress.trace is not None:
                    progress.trace.note_next(following)
                if following is None:
                    raise progress.last_error from None
                step = following
                if step.wait_s:
                    await progress.idle(self._clock.sleep(step.wait_s))
            else:
                progress.tried(exchange)
                self._trace(request, exchange, progress)
                progress.entity = exchange.entity
                return exchange

    def _trace(self, request: ModelRequest, exchange: Exchange | ExchangeFailed, progress: CallInProgress) -> None:
        """Take down what was sent, for those who trace the call."""
        if progress.trace is None:
            return
        entity, url = exchange.entity, ""
        with suppress(Exception):  # what cannot be built has no address
            url = self._upstream.provider(entity).encode(entity, self._for_entity(entity, request)).url
        failure = exchange.failure.message if isinstance(exchange, ExchangeFailed) else None
        progress.trace.note_attempts(exchange.attempts, entity, url, failure)

    def waiting(self, statement: str) -> int:
        """Return how many calls of a statement wait for a place at an endpoint or an entity."""
        gates = [*self._gates.values(), *(health.gate for health in self.board)]
        return sum(gate.waiting_by_statement().get(statement, 0) for gate in gates)

    def _first(self, snapshot: Snapshot, endpoint: Endpoint, progress: CallInProgress) -> Step:
        """Return whom to ask first."""
        if progress.entity is not None:  # it has answered, only not in the asked-for format
            return Step(progress.entity, 0.0, "schema_mismatch", forced=True)
        allowed = self.board.allowed(endpoint, snapshot.credentials)
        asked_first = endpoint.entities
        if not endpoint.fallback_enabled:
            asked_first = tuple(entity for entity in asked_first if entity.traffic_percentage > 0)
            allowed = [entity for entity in allowed if entity in asked_first]
        if not allowed:
            return Step(self.board.best(endpoint, asked_first), 0.0, "first", forced=True)
        if len(allowed) > 1 and endpoint.fallback_enabled and endpoint.routing != "sticky":
            allowed = self.board.with_places(endpoint, allowed)  # what it refused would come here anyway
        situation = _Situation(snapshot, endpoint, self.board, progress, self._clock)
        entity = first(endpoint.routing, allowed, situation)
        if endpoint.routing == "least_latency":
            self.board.of(endpoint, entity).explore(self._clock.monotonic())
        return Step(entity, 0.0, "first")

    def _next(self, snapshot: Snapshot, endpoint: Endpoint, progress: CallInProgress, tries: Tries) -> Step | None:
        """Return whom to ask after a failure, None where the call has to end with it."""
        allowed = self.board.allowed(endpoint, snapshot.credentials)
        return tries.next(allowed, self._clock.monotonic(), progress.remaining_s)

    def _instead(
        self, snapshot: Snapshot, endpoint: Endpoint, step: Step, progress: CallInProgress, tries: Tries
    ) -> Step:
        """Return whom to ask in the place of an entity that was left out while the call waited for it."""
        if progress.failures == 0:
            progress.entity = None
            return self._first(snapshot, endpoint, progress)
        other = self._next(snapshot, endpoint, progress, tries)
        return replace(step, forced=True) if other is None or other.wait_s else other

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
        if hedge_s is None or attempt.why.reason != "first":  # one budget: a call has one hedge at most
            return await self._alone(attempt, request, progress)
        others = [entity for entity in allowed if entity.name != attempt.target.entity.name]
        entity = others[0] if others and attempt.target.endpoint.fallback_enabled else attempt.target.entity
        second = replace(
            attempt, target=replace(attempt.target, entity=entity), why=Why("hedge"), forced=False, patience=0
        )
        progress.permit()
        try:
            return await first_of(
                lambda on_sent: self._alone(replace(attempt, on_sent=on_sent), request, progress),
                lambda is_needed: self._alone(
                    replace(second, is_needed=is_needed), self._for_entity(entity, request), progress
                ),
                hedge_s,
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
        key = (progress.flow, target.entity.id, attempt.why, attempt.forced, jsontext.dumpb(request.parameters))
        try:
            return await self._batcher.call(key, request, max_inputs, send)
        finally:
            progress.rest()

    async def _alone(self, attempt: _Attempt, request: ModelRequest, progress: CallInProgress) -> Exchange:
        """Send one request, when there is a place for it at the entity and at the endpoint."""
        target = attempt.target
        health = self.board.of(target.endpoint, target.entity)
        gate = self._gate(target.endpoint)
        await self._enter(health.gate, attempt, progress)
        try:
            await self._enter(gate, attempt, progress)
            try:
                progress.permit()
                return await self._send(attempt, health, request, progress)
            finally:
                progress.rest()
                gate.leave()
        finally:
            health.gate.leave()

    async def _enter(self, gate: FairGate, attempt: _Attempt, progress: CallInProgress) -> None:
        if gate.try_enter():
            return
        waiting = gate.enter(progress.flow)
        # A hedge waits while its call is being answered, so its wait is none of the call's.
        await (progress.queued(waiting) if attempt.is_needed is None else waiting)

    async def _send(
        self, attempt: _Attempt, health: EntityHealth, request: ModelRequest, progress: CallInProgress
    ) -> Exchange:
        if attempt.is_needed is not None and not attempt.is_needed():
            raise _LeftOut
        sent = self.board.claim(health, forced=attempt.forced)
        if sent is None:
            raise _LeftOut
        if attempt.on_sent is not None:
            attempt.on_sent()
        began = self._clock.monotonic()
        try:
            exchange = await self._upstream.send(
                attempt.target, request, self._timeout_s(attempt, progress.goes_out()), attempt.why
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
        return remaining_s / (1 + min(attempt.patience, _MOST_PATIENCE))

    def _gate(self, endpoint: Endpoint) -> FairGate:
        gate = self._gates.get(endpoint.name)
        if gate is None:
            gate = self._gates[endpoint.name] = FairGate(endpoint.max_concurrency)
        gate.limit = endpoint.max_concurrency
        return gate
