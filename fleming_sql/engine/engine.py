"""One thread with one event loop per gateway; other threads hand it work and wait, and can be interrupted."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

from fleming_sql.engine.collector import QuietCollector
from fleming_sql.errors import GatewayClosed

_LOGGER: Final = logging.getLogger("fleming_sql")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

STOP_S: Final = 5.0
"""How long closing waits for the thread; it is a daemon, so the interpreter ends in any case."""
TICK_S: Final = 0.5
"""Longest wait without a look at signals, where the waiting thread is the main one."""


class Run(Protocol[T_co]):
    """Work for the loop that can be broken off."""

    async def run(self) -> T_co:
        """Do the work; called once, on the loop."""
        ...

    def cancel(self) -> None:
        """Break it off; called on the loop, at any time."""
        ...


class Engine:
    """The event-loop thread of one gateway. It starts with the first work and ends with `close`.

    Args:
        tick: Called on the loop's executor every `tick_s` seconds while there is work or was some lately.
        tick_s: How often.
    """

    def __init__(self, tick: Callable[[], None], tick_s: float = 1.0) -> None:
        self._tick = tick
        self._tick_s = tick_s
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may cancel while its own thread starts the loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._closed = False
        self._runs: dict[Run[Any], Hashable] = {}
        self._collector = QuietCollector()

    @property
    def closed(self) -> bool:
        """Whether no more work is taken."""
        return self._closed

    @property
    def foreign(self) -> bool:
        """Whether this is a process forked off the one that made the engine."""
        return os.getpid() != self._pid

    def check_usable(self) -> None:
        """Refuse work that could never be done.

        Raises:
            GatewayClosed: After `close`, or in a process forked off the one that made the engine.
        """
        if self.foreign:
            raise GatewayClosed(
                "[GATEWAY_CLOSED] this process was forked after fleming_sql.connect: threads do not survive a fork, "
                "so start processes with multiprocessing's spawn method and let each open a connection of its own"
            )
        if self._closed:
            raise GatewayClosed(
                "[GATEWAY_CLOSED] the gateway of this connection is closed: open one with fleming_sql.connect or attach"
            )

    @contextmanager
    def owned(self, work: Run[Any], owner: Hashable) -> Iterator[None]:
        """Let `cancel` find `work` under the name of its owner, from before it runs until after."""
        self.check_usable()
        self._runs[work] = owner
        try:
            yield
        finally:
            self._runs.pop(work, None)

    def run(self, work: Run[T]) -> T:
        """Do `work` on the loop and return its result; the calling thread waits.

        Args:
            work: What to do.

        Raises:
            GatewayClosed: The engine takes no more work.
            KeyboardInterrupt: Ctrl-C came while the main thread waited; the work is broken off.
        """
        self.check_usable()
        loop = self._started()
        future = asyncio.run_coroutine_threadsafe(work.run(), loop)
        try:
            with self._collector:
                return self._wait(future)
        except BaseException:
            if not future.done():
                loop.call_soon_threadsafe(work.cancel)
                concurrent.futures.wait([future], STOP_S)
            raise

    def works(self) -> list[Run[Any]]:
        """Return the work that is under way."""
        return list(self._runs)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run one coroutine on the loop and return its result."""
        return self._wait(asyncio.run_coroutine_threadsafe(coroutine, self._started()))

    def soon(self, task: Callable[[], None]) -> None:
        """Run `task` beside the loop, on its executor; its errors are its own affair."""
        loop = self._started()
        loop.call_soon_threadsafe(loop.run_in_executor, None, task)

    def cancel(self, owner: Hashable | None = None) -> None:
        """Break off the work of `owner`, or all of it. Any thread may call it, and a signal handler."""
        loop = self._started() if self._runs and not self._closed else self._loop
        if loop is None or loop.is_closed():
            return
        for work, of in list(self._runs.items()):
            if owner is None or of == owner:
                loop.call_soon_threadsafe(work.cancel)

    def close(self, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Break off all work, run `finish` on the loop and end the thread. A second close does nothing."""
        with self._lock:
            if self._closed or self.foreign:
                self._closed = True
                return
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._collector.settle()
        self.cancel()
        asyncio.run_coroutine_threadsafe(self._finish(finish), loop)
        if thread is not threading.current_thread():
            thread.join(STOP_S)

    async def _finish(self, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop = asyncio.get_running_loop()
        apart = (asyncio.current_task(), self._ticking)
        others = [task for task in asyncio.all_tasks() if task not in apart]
        # The cancelled runs log what they broke off before they end.
        await asyncio.wait(others, timeout=STOP_S / 2) if others else None
        try:
            await finish()
        finally:
            loop.stop()

    def _wait(self, future: concurrent.futures.Future[T]) -> T:
        """Wait in slices: a thread that waits without end does not see signals on every platform."""
        while True:
            try:
                return future.result(TICK_S)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
                if self._thread is None or not self._thread.is_alive():
                    self.check_usable()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            self.check_usable()
            if self._loop is None:
                self._loop = _new_loop()
                self._thread = threading.Thread(target=self._serve, name="fleming-sql", daemon=True)
                self._thread.start()
            return self._loop

    def _serve(self) -> None:
        loop = self._loop
        assert loop is not None  # noqa: S101  made before the thread
        asyncio.set_event_loop(loop)
        self._ticking = loop.create_task(self._keep_ticking())
        try:
            loop.run_forever()
        finally:
            self._ticking.cancel()
            loop.run_until_complete(asyncio.gather(self._ticking, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            self._collector.settle()
            try:
                await asyncio.to_thread(self._tick)
            except Exception as error:
                _LOGGER.debug("the tick of the engine failed", exc_info=error)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
