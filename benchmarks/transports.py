"""Why the transport is the one it is: three by themselves, at many requests in flight, and when cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

import httpx
import uvloop

from benchmarks.loops import over, run
from benchmarks.processes import apart
from benchmarks.setup import files_missing, mock, prompts
from benchmarks.table import Row
from fleming_sql.transport import HttpReply, HttpRequest, Transport, TransportFailed
from fleming_sql.transport.over_httpx import HttpxTransport
from fleming_sql.transport.pooled import PooledTransport

CONCURRENCY = 1_000


def measure() -> list[Row]:
    """Measure each transport in a process of its own."""
    missing = files_missing(CONCURRENCY)
    if missing:
        return [Row(f"transports, {CONCURRENCY:,} in flight", missing)]
    made = {"aiohttp (the gateway's)": PooledTransport, "httpx's own pool": _httpx, "pyreqwest": _Pyreqwest}
    return [row for name, make in made.items() for row in apart(_rows, name, make)]


def _rows(name: str, make: Callable[[], Transport]) -> list[Row]:
    title = f"{name}, {CONCURRENCY:,} in flight: CPU per request"
    try:
        transport = make()
    except ImportError:
        return [Row(title, "not installed")]
    failed = 0
    with mock(latency_ms=1000, sigma=0.6) as server:

        def make_send() -> Callable[[str], Any]:
            send = over(transport, server.url)

            async def counting(prompt: str) -> None:
                nonlocal failed
                try:
                    await send(prompt)
                except TransportFailed:
                    failed += 1

            return counting

        spent = run(make_send, prompts(name, CONCURRENCY), CONCURRENCY, transport.aclose)
    shown = f"{spent.cpu / CONCURRENCY * 1000:.2f} ms, {spent.wall:.1f} s in all, {failed} failed"
    broken_off = uvloop.run(_breaks_off(make()))
    return [Row(title, shown), Row(f"{name}: a cancelled request is broken off", "yes" if broken_off else "no")]


async def _breaks_off(transport: Transport) -> bool:
    """Tell whether the server loses its client when the request is cancelled."""
    with mock(latency_ms=3000) as server:
        sending = asyncio.ensure_future(over(transport, server.url)("cancelled"))
        await asyncio.sleep(0.5)
        sending.cancel()
        await asyncio.sleep(0.5)
        broken_off = server.stats() == {"requests": 1, "peak_in_flight": 1, "in_flight": 0}
        await transport.aclose()
    return broken_off


def _httpx() -> Transport:
    return HttpxTransport(httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None)))


class _Pyreqwest(Transport):
    """As plain as it can be, to compare with.

    Raises:
        ImportError: It is not installed.
    """

    def __init__(self) -> None:
        builder: Any = import_module("pyreqwest.client").ClientBuilder()
        self._client = builder.pool_max_idle_per_host(100_000).build()

    async def send(self, request: HttpRequest) -> HttpReply:
        """Send `request` and return the whole answer."""
        asked = self._client.request(request.method, request.url).headers(list(request.headers.items()))
        async with asked.body_bytes(request.body).build_streamed() as response:
            return HttpReply(response.status, {}, bytes(await response.bytes()))
