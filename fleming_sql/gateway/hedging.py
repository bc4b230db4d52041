"""A second request for a straggler: the first answer wins, the other request is broken off, both are logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeAlias

from fleming_sql.gateway.upstream import Cancelled, Exchange, ExchangeFailed
from fleming_sql.types import Attempt

_Task: TypeAlias = asyncio.Task[Exchange]


async def first_of(
    request: Coroutine[Any, Any, Exchange],
    second: Callable[[], Coroutine[Any, Any, Exchange]],
    after_s: float,
    *,
    ignored: type[Exception],
) -> Exchange:
    """Return the answer to `request`, or to a second one made when the first has none after `after_s` seconds.

    Args:
        request: The first.
        second: Makes the second.
        after_s: How long to wait for the first alone.
        ignored: What the second raises where it was not sent after all.

    Raises:
        ExchangeFailed: Of the first request, with the attempts of both, where neither was answered.
        Cancelled: The caller was cancelled while a request was under way.
    """
    tasks: list[_Task] = [asyncio.create_task(request)]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done():
            tasks.append(asyncio.create_task(second()))
            await _until_one_answers(tasks)
    except asyncio.CancelledError:
        attempts, body = await _break_off(tasks)
        if attempts:
            raise Cancelled(attempts, body) from None
        raise
    won = next((task for task in tasks if _answered(task)), None)
    lost = [task for task in tasks if task is not won]
    if won is None:
        raise _failure(tasks, ignored)
    attempts, _ = await _break_off(lost)
    return replace(won.result(), attempts=_in_order(attempts, won.result().attempts))


async def _until_one_answers(tasks: list[_Task]) -> None:
    pending = set(tasks)
    while pending and not any(map(_answered, tasks)):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


def _answered(task: _Task) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _break_off(tasks: list[_Task]) -> tuple[tuple[Attempt, ...], str]:
    """Cancel what is under way; return the attempts of all, and the body of a request that was broken off."""
    for task in tasks:
        task.cancel()
    attempts: tuple[Attempt, ...] = ()
    body = ""
    for task in tasks:
        ended = await _end_of(task)
        if ended is not None:
            attempts = _in_order(attempts, ended.attempts)
            body = ended.request_body or body
    return attempts, body


async def _end_of(task: _Task) -> Exchange | ExchangeFailed | Cancelled | None:
    """Return how a task that was cancelled ended, None where nothing had been sent."""
    await asyncio.wait([task])
    try:
        return task.result()
    except (ExchangeFailed, Cancelled) as ended:  # `gather` would hand out a plain CancelledError
        return ended
    except asyncio.CancelledError:
        return None
    except Exception:  # noqa: BLE001  the other request has answered, or its error is told
        return None


def _failure(tasks: list[_Task], ignored: type[Exception]) -> BaseException:
    """Return what the first request failed with; both have failed."""
    errors = [task.exception() for task in tasks]
    told = next((error for error in errors if isinstance(error, ExchangeFailed)), None)
    if told is None:
        return next((error for error in errors if error is not None), ignored())
    attempts: tuple[Attempt, ...] = ()
    for error in errors:
        if isinstance(error, ExchangeFailed):
            attempts = _in_order(attempts, error.attempts)
    return ExchangeFailed(told.failure, told.request_body, told.response_body, attempts)


def _in_order(some: tuple[Attempt, ...], others: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    return tuple(sorted((*some, *others), key=lambda attempt: attempt.started_at))
