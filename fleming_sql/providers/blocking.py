"""Calls that block, out of the way of the event loop and of the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


async def in_daemon_thread(call: Callable[[], _T]) -> _T:
    """Return what a call returns, made on a thread of its own that nobody waits for at the end.

    `asyncio.to_thread` takes a thread of a pool, and Python ends only when those have ended: a server that does not
    answer a login would keep the process alive. A task that is cancelled leaves the call to itself.

    Args:
        call: What blocks. It should give up by itself at some time, as nobody can stop it.

    Raises:
        BaseException: What the call raises.

    Example:
        >>> asyncio.run(in_daemon_thread(lambda: 7))
        7
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        def unless_done() -> None:
            if not future.done():  # cancelled meanwhile
                settle()

        with suppress(RuntimeError):  # the loop is closed, and nobody is there to be told
            loop.call_soon_threadsafe(unless_done)

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  it is raised where the call is awaited
            told = error
            tell(lambda: future.set_exception(told))
        else:
            tell(lambda: future.set_result(result))

    threading.Thread(target=run, name="fleming-blocking", daemon=True).start()
    return await future
