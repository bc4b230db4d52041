"""A second request for a straggler: the first answer wins, the other request is broken off, both are logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from fleming_sql.gateway.interrupts import uninterrupted
from fleming_sql.gateway.upstream import Cancelled, Exchange, ExchangeFailed
from fleming_sql.types import Attempt

_Task: TypeAlias = asyncio.Task[Exchange]
_End: TypeAlias = Exchange | ExchangeFailed | Cancelled | BaseException


async def first_of(
    request: Callable[[Callable[[], None]], Coroutine[Any, Any, Exchange]],
    second: Callable[[Callable[[], bool]], Coroutine[Any, Any, Exchange]],
    after_s: float,
) -> Exchange:
    """Return the answer to a request, or to a second one made when the first has none after `after_s` seconds.

    Args:
        request: Makes the first; calls its argument when it goes out, since waiting for a place is no straggling.
        second: Makes the second; asks its argument before it goes out whether it is still needed.
        after_s: How long to wait for the first alone.

    Raises:
        ExchangeFailed: Of the first request, with the second's among its `others`, where neither was answered.
        Cancelled: The caller was cancelled while a request was under way.
    """
    went_out = asyncio.Event()
    first = asyncio.create_task(request(went_out.set))
    tasks: list[_Task] = [first]
    try:
        await _until_out_or_done(went_out, first)
        await asyncio.wait([first], timeout=after_s)
        if not first.done():
            tasks.append(asyncio.create_task(second(lambda: not first.done())))
            await _until_one_answers(tasks)
        won = next((task for task in tasks if _answered(task)), None)
        is_cancelled = False
    except asyncio.CancelledError:
        won, is_cancelled = None, True
    ends, was_cancelled = await uninterrupted(_ends_of(tasks))
    if is_cancelled or was_cancelled:
        raise Cancelled(_all_attempts(ends), _body(ends)) if any(map(_attempts, ends)) else asyncio.CancelledError
    if won is None:
        raise _failure(ends)
    return replace(won.result(), attempts=_all_attempts(ends))


async def _until_out_or_done(went_out: asyncio.Event, task: _Task) -> None:
    waiting = asyncio.create_task(went_out.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _until_one_answers(tasks: list[_Task]) -> None:
    pending = set(tasks)
    while pending and not any(map(_answered, tasks)):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


def _answered(task: _Task) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _ends_of(tasks: Sequence[_Task]) -> list[_End]:
    return [await _end_of(task) for task in tasks]


async def _end_of(task: _Task) -> _End:
    """Break a task off if it runs, and return its answer or its error; `gather` would hide what was broken off."""
    task.cancel()
    await asyncio.wait([task])
    try:
        return task.result()
    except BaseException as error:  # noqa: BLE001  returned: one of them is raised, if none has answered
        return error


def _failure(ends: Sequence[_End]) -> BaseException:
    """Return what to raise where no request was answered: what the provider said, rather than what was not sent."""
    failed = [end for end in ends if isinstance(end, ExchangeFailed)]
    if not failed:
        return next(end for end in ends if isinstance(end, BaseException))
    told = failed[0]
    return ExchangeFailed(
        told.entity, told.failure, told.request_body, told.response_body, _all_attempts(ends), tuple(failed[1:])
    )


def _attempts(end: _End) -> tuple[Attempt, ...]:
    return end.attempts if isinstance(end, Exchange | ExchangeFailed | Cancelled) else ()


def _all_attempts(ends: Sequence[_End]) -> tuple[Attempt, ...]:
    return tuple(sorted((a for end in ends for a in _attempts(end)), key=lambda attempt: attempt.started_at))


def _body(ends: Sequence[_End]) -> str:
    return next((end.request_body for end in ends if isinstance(end, ExchangeFailed | Cancelled)), "")
