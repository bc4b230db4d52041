"""Embedding calls that meet within two milliseconds share a request, as far as the provider takes several inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from fleming_sql import jsontext
from fleming_sql.gateway.upstream import Exchange, ExchangeFailed
from fleming_sql.policies.tokens import share_out
from fleming_sql.types import Answer, ModelRequest, Usage

LINGER_S: Final = 0.002
MAX_BYTES: Final = 1_000_000
"""Of text in one request; a provider that takes less answers 413, and the batch is halved."""
_TOO_LARGE: Final = 413


class Sender(Protocol):
    """Sends one request; raises ExchangeFailed."""

    async def __call__(self, request: ModelRequest) -> Exchange:
        """Send `request` and return the answer."""
        ...


@dataclass(slots=True)
class _Waiting:
    request: ModelRequest
    size: int
    share: asyncio.Future[Exchange]


class _Batch:
    def __init__(self, send: Sender) -> None:
        self.send = send
        self.calls: list[_Waiting] = []
        self.inputs = 0
        self.size = 0


class EmbeddingBatcher:
    """Collects calls that may share a request, sends them together and hands each its part.

    A batch is sent with the sender of its first call; when all its callers are cancelled, so is the request.
    """

    def __init__(self) -> None:
        self._open: dict[Hashable, _Batch] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def call(self, key: Hashable, request: ModelRequest, max_inputs: int, send: Sender) -> Exchange:
        """Send `request` together with others of the same key and return this call's part of the answer.

        Args:
            key: What must be equal for two calls to share a request: target and parameters.
            request: An embeddings request with one or more inputs.
            max_inputs: How many inputs the provider takes in one request.
            send: Sends one request.
        """
        loop = asyncio.get_running_loop()
        size = sum(map(len, request.inputs))
        batch = self._open.get(key)
        if batch and (batch.inputs + len(request.inputs) > max_inputs or batch.size + size > MAX_BYTES):
            self._dispatch(key)
            batch = None
        if batch is None:
            batch = self._open[key] = _Batch(send)
            loop.call_later(LINGER_S, self._dispatch_if_open, key, batch)
        waiting = _Waiting(request, size, loop.create_future())
        batch.calls.append(waiting)
        batch.inputs += len(request.inputs)
        batch.size += size
        if batch.inputs >= max_inputs:
            self._dispatch(key)
        return await waiting.share

    def _dispatch_if_open(self, key: Hashable, batch: _Batch) -> None:
        if self._open.get(key) is batch:
            self._dispatch(key)

    def _dispatch(self, key: Hashable) -> None:
        batch = self._open.pop(key)
        task = asyncio.get_running_loop().create_task(_send_all(batch.send, batch.calls))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        left = len(batch.calls)

        def one_done(share: asyncio.Future[Exchange]) -> None:
            nonlocal left
            left -= share.cancelled()
            if left == 0:
                task.cancel()

        for waiting in batch.calls:
            waiting.share.add_done_callback(one_done)


async def _send_all(send: Sender, calls: Sequence[_Waiting]) -> None:
    """Send the calls in one request; one that is too large for the provider in two halves."""
    calls = [call for call in calls if not call.share.done()]
    if not calls:
        return
    together = replace(calls[0].request, inputs=tuple(text for call in calls for text in call.request.inputs))
    try:
        exchange = await send(together)
    except ExchangeFailed as error:
        if error.failure.status == _TOO_LARGE and len(calls) > 1:
            half = len(calls) // 2
            await asyncio.gather(_send_all(send, calls[:half]), _send_all(send, calls[half:]))
        else:
            _fail(calls, error)
    except asyncio.CancelledError:
        _settle(calls, lambda position, share: share.cancel())
        raise
    except Exception as error:  # noqa: BLE001  handed on to those who wait, who would wait for ever otherwise
        unexpected = error
        _settle(calls, lambda position, share: share.set_exception(unexpected))
    else:
        parts = _parts(exchange, calls)
        _settle(calls, lambda position, share: share.set_result(parts[position]))


def _fail(calls: Sequence[_Waiting], error: ExchangeFailed) -> None:
    """Give each call the failure; the attempt stands with the first alone, since it was one request."""

    def give(position: int, share: asyncio.Future[Exchange]) -> None:
        attempt = error.attempt if position == 0 else None
        own_body = error.request_body if len(calls) == 1 else _own_request(calls[position].request)
        share.set_exception(ExchangeFailed(error.failure, own_body, error.response_body, attempt))

    _settle(calls, give)


def _settle(calls: Sequence[_Waiting], give: Callable[[int, asyncio.Future[Exchange]], object]) -> None:
    for position, call in enumerate(calls):
        if not call.share.done():
            give(position, call.share)


def _parts(exchange: Exchange, calls: Sequence[_Waiting]) -> list[Exchange]:
    if len(calls) == 1:
        return [exchange]
    answer, parts, start = exchange.answer, [], 0
    tokens = share_out(answer.usage.input_tokens, [call.size for call in calls])
    for position, call in enumerate(calls):
        end = start + len(call.request.inputs)
        vectors = answer.content[start:end]
        own = replace(answer, content=vectors, usage=Usage(input_tokens=tokens[position], output_tokens=None))
        parts.append(
            Exchange(
                own,
                _own_request(call.request),
                _own_response(own),
                exchange.attempt if position == 0 else None,
            )
        )
        start = end
    return parts


def _own_request(request: ModelRequest) -> str:
    return jsontext.dumps({**request.parameters, "input": request.inputs})


def _own_response(answer: Answer) -> str:
    """Return this call's part of a shared answer, in the shape that it would have had by itself."""
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(answer.content)]
    usage = {"prompt_tokens": answer.usage.input_tokens}
    return jsontext.dumps({"object": "list", "model": answer.model, "data": data, "usage": usage})
