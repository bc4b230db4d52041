"""Embedding calls that meet within two milliseconds share a request, as far as the provider takes several inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from fleming_sql import jsontext
from fleming_sql.gateway.interrupts import uninterrupted
from fleming_sql.gateway.upstream import Cancelled, Exchange, ExchangeFailed
from fleming_sql.policies.tokens import share_out
from fleming_sql.types import Answer, Attempt, ModelRequest, Usage

LINGER_S: Final = 0.002
MAX_BYTES: Final = 1_000_000
"""Of text in one request; a provider that takes less answers 413, and the batch is halved."""
_TOO_LARGE: Final = 413
_SPOILT: Final = frozenset({400, 422})


class Sender(Protocol):
    """Sends one request; raises ExchangeFailed."""

    async def __call__(self, request: ModelRequest) -> Exchange:
        """Send `request` and return the answer."""
        ...


@dataclass(slots=True)
class _Waiting:
    """One call and its part of the answer to come."""

    request: ModelRequest
    size: int
    share: asyncio.Future[Exchange]
    earlier: tuple[Attempt, ...] = ()
    """Requests made for it before: those that were too large."""


@dataclass(slots=True)
class _Shared:
    """Calls that share a request."""

    send: Sender
    calls: list[_Waiting] = field(default_factory=list)
    inputs: int = 0
    size: int = 0
    sending: asyncio.Task[None] | None = None
    broken_off: Cancelled | None = None
    splits: int = 16
    """How often a request that was refused for what is in it may still be split: 256 texts come down to one by 8."""

    def may_split(self, status: int) -> bool:
        """Return whether the halves of a refused request are to be sent: one text may have spoiled it for the others.

        What all of them share, such as a wrong parameter, is refused just so, and found out at this price.
        """
        if status in _SPOILT and self.splits > 0:
            self.splits -= 1
            return True
        return status == _TOO_LARGE

    def add(self, waiting: _Waiting) -> None:
        self.calls.append(waiting)
        self.inputs += len(waiting.request.inputs)
        self.size += waiting.size

    async def give_up(self) -> None:
        """Cancel the request when nobody waits for it any more; raises what the log has to know of it."""
        if self.sending is None or self.sending.done() or not all(call.share.cancelled() for call in self.calls):
            return
        self.sending.cancel()
        await uninterrupted(_ended(self.sending))
        broken_off, self.broken_off = self.broken_off, None
        if broken_off is not None:  # told once: it was one request
            raise broken_off


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


class EmbeddingBatcher:
    """Collects calls that may share a request, sends them together and hands each its part.

    A batch is sent with the sender of its first call; when all its callers are cancelled, so is the request.
    """

    def __init__(self) -> None:
        self._open: dict[Hashable, _Shared] = {}

    async def call(self, key: Hashable, request: ModelRequest, max_inputs: int, send: Sender) -> Exchange:
        """Send `request` together with others of the same key and return this call's part of the answer.

        Args:
            key: What must be equal for two calls to share a request: target and parameters.
            request: An embeddings request with one or more inputs.
            max_inputs: How many inputs the provider takes in one request.
            send: Sends one request.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, sum(map(len, request.inputs)), loop.create_future())
        shared = self._open.get(key)
        if shared and (shared.inputs + len(request.inputs) > max_inputs or shared.size + waiting.size > MAX_BYTES):
            self._dispatch(key, shared)
            shared = None
        if shared is None:
            shared = self._open[key] = _Shared(send)
            loop.call_later(LINGER_S, self._dispatch, key, shared)
        shared.add(waiting)
        if shared.inputs >= max_inputs:
            self._dispatch(key, shared)
        try:
            return await waiting.share
        except asyncio.CancelledError:
            await shared.give_up()
            raise

    def _dispatch(self, key: Hashable, shared: _Shared) -> None:
        if self._open.get(key) is shared:
            del self._open[key]
            shared.sending = asyncio.get_running_loop().create_task(_send_all(shared, shared.calls))


async def _send_all(shared: _Shared, calls: Sequence[_Waiting]) -> None:
    """Send calls in one request; one that is refused for its size, or for one of its texts, in two halves."""
    calls = [call for call in calls if not call.share.done()]
    if not calls:
        return
    together = replace(calls[0].request, inputs=tuple(text for call in calls for text in call.request.inputs))
    try:
        exchange = await shared.send(together)
    except ExchangeFailed as error:
        if len(calls) > 1 and shared.may_split(error.failure.status):
            calls[0].earlier += error.attempts
            half = len(calls) // 2
            await asyncio.gather(_send_all(shared, calls[:half]), _send_all(shared, calls[half:]))
        else:
            failed = error
            _settle(calls, lambda position, call: call.share.set_exception(_failure(failed, position, calls)))
    except Cancelled as cancelled:
        shared.broken_off = Cancelled(calls[0].earlier + cancelled.attempts, _own_request(calls[0].request))
        raise
    except Exception as error:  # noqa: BLE001  handed on to those who wait, who would wait for ever otherwise
        unexpected = error
        _settle(calls, lambda position, call: call.share.set_exception(unexpected))
    else:
        parts = _parts(exchange, calls)
        _settle(calls, lambda position, call: call.share.set_result(parts[position]))


def _settle(calls: Sequence[_Waiting], give: Callable[[int, _Waiting], None]) -> None:
    for position, call in enumerate(calls):
        if not call.share.done():
            give(position, call)


def _failure(error: ExchangeFailed, position: int, calls: Sequence[_Waiting]) -> ExchangeFailed:
    """Return one call's failure; the attempt stands with the first alone, since it was one request."""
    call = calls[position]
    attempts = call.earlier + (error.attempts if position == 0 else ())
    body = error.request_body if len(calls) == 1 else _own_request(call.request)
    return ExchangeFailed(error.entity, error.failure, body, error.response_body, attempts)


def _parts(exchange: Exchange, calls: Sequence[_Waiting]) -> list[Exchange]:
    if len(calls) == 1:
        return [replace(exchange, attempts=calls[0].earlier + exchange.attempts)]
    answer, parts, start = exchange.answer, [], 0
    tokens = share_out(answer.usage.input_tokens, [call.size for call in calls])
    for position, call in enumerate(calls):
        end = start + len(call.request.inputs)
        usage = Usage(input_tokens=tokens[position], output_tokens=None)
        own = replace(answer, content=answer.content[start:end], usage=usage)
        attempts = call.earlier + (exchange.attempts if position == 0 else ())
        parts.append(Exchange(own, exchange.entity, _own_request(call.request), _own_response(own), attempts))
        start = end
    return parts


def _own_request(request: ModelRequest) -> str:
    return jsontext.dumps({**request.parameters, "input": request.inputs})


def _own_response(answer: Answer) -> str:
    """Return this call's part of a shared answer, in the shape that it would have had by itself."""
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(answer.content)]
    usage = {"prompt_tokens": answer.usage.input_tokens}
    return jsontext.dumps({"object": "list", "model": answer.model, "data": data, "usage": usage})
