"""A real HTTP/1.1 server on 127.0.0.1, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from fleming_sql.testing.protocol import Counters, HttpProtocol
from fleming_sql.testing.replies import Constant, Received, Reply, error_reply


class MockModel:
    """A model server for tests and benchmarks.

    Args:
        reply: Decides on each request, in the server's thread; a `Constant` is the fast path.
        record: Whether `requests` keeps what arrived.
        port: Port to listen on; 0 takes a free one.
        stats: What `GET /stats` answers beside the server's own counters, called in the server's thread. Without it
            that path is a request like others, except for a `Constant`.

    Example:
        >>> import httpx
        >>> with MockModel(lambda received: Reply(body="hello")) as server:
        ...     httpx.get(server.url).text
        'hello'
    """

    def __init__(
        self,
        reply: Callable[[Received], Reply] | Constant,
        *,
        record: bool = True,
        port: int = 0,
        stats: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._reply = reply
        self._record = record
        self._stats = dict if stats is None and isinstance(reply, Constant) else stats
        self._port = port
        self._counters = Counters()
        self._received: list[Received] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._protocols: set[HttpProtocol] = set()

    @property
    def url(self) -> str:
        """The address, without a trailing slash; the port is known from entering on."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port."""
        return self._port

    @property
    def requests(self) -> list[Received]:
        """What arrived so far, in order; empty with `record=False`."""
        return self._received.copy()

    @property
    def request_count(self) -> int:
        """How many requests arrived, recorded or not."""
        return self._counters.requests

    @property
    def in_flight(self) -> int:
        """How many requests wait for their answer now."""
        return self._counters.in_flight

    @property
    def peak_in_flight(self) -> int:
        """The most requests that waited at once."""
        return self._counters.peak_in_flight

    @property
    def connections(self) -> int:
        """How many connections were accepted in all."""
        return self._counters.connections

    @property
    def abandoned(self) -> int:
        """How many requests lost their client before they had an answer."""
        return self._counters.abandoned

    def wait_until(self, condition: Callable[[Self], bool], timeout_s: float = 10.0) -> None:
        """Wait until `condition(self)` holds; it is asked again at each event of the server.

        Raises:
            TimeoutError: It did not hold in time.
        """
        with self._counters.changed:
            if not self._counters.changed.wait_for(lambda: condition(self), timeout_s):
                raise TimeoutError(f"the condition did not hold within {timeout_s} s: {self._counters}")

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="mock-model", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        self._loop = loop = _new_loop()
        try:
            server = loop.run_until_complete(loop.create_server(self._protocol, "127.0.0.1", self._port))
        except OSError as error:
            self._failure = error
            self._started.set()
            loop.close()
            return
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        loop.run_forever()
        server.close()
        loop.run_until_complete(self._close_connections())
        loop.run_until_complete(server.wait_closed())
        loop.close()

    def _protocol(self) -> HttpProtocol:
        reply = self._reply if isinstance(self._reply, Constant) else self._guarded
        record = self._received if self._record else None
        stats = self._all_stats if self._stats is not None else None
        return HttpProtocol(reply, record, self._counters, stats, self._protocols)

    def _all_stats(self) -> dict[str, Any]:
        return {**self._counters.stats(), **(self._stats() if self._stats else {})}

    def _guarded(self, received: Received) -> Reply:
        assert not isinstance(self._reply, Constant)  # noqa: S101 - narrows the type
        try:
            return self._reply(received)
        except Exception as error:  # noqa: BLE001 - the test's own function; its client shall see why
            return error_reply(500, f"the reply function raised {error!r}")

    async def _close_connections(self) -> None:
        for protocol in tuple(self._protocols):
            protocol.abort()
        while self._protocols:
            await asyncio.sleep(0)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ModuleNotFoundError:  # not made for Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
