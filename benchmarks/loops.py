"""Plain asyncio loops to compare with: many requests, a fixed number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson
import uvloop

from benchmarks.setup import Spent, measured
from fleming_sql.transport import HttpRequest, Transport

Send = Callable[[str], Awaitable[Any]]

CONNECT_TIMEOUT_S = 120.0
MAX_REPLY_BYTES = 1 << 25


async def _nothing() -> None:
    """Close what needs no closing."""


def run(
    make_send: Callable[[], Send],
    asked: Iterable[str],
    concurrency: int,
    close: Callable[[], Awaitable[None]] = _nothing,
) -> Spent:
    """Send every prompt, `concurrency` at a time, on a fresh uvloop, and return what it took."""

    async def work(send: Send, remaining: Iterable[str]) -> None:
        for prompt in remaining:
            await send(prompt)

    async def everything() -> None:
        send, remaining = make_send(), iter(asked)
        await asyncio.gather(*(work(send, remaining) for _ in range(concurrency)))
        await close()

    with measured() as spent:
        uvloop.run(everything())
    return spent


def over(transport: Transport, url: str) -> Send:
    """Return the least that a client must do: the gateway's body, sent; the answer read and parsed."""
    address = f"{url}/v1/chat/completions"
    headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "benchmark"}

    async def send(prompt: str) -> Any:
        body = orjson.dumps({"model": "mock-1", "messages": [{"role": "user", "content": prompt}]})
        request = HttpRequest("POST", address, headers, body, CONNECT_TIMEOUT_S, MAX_REPLY_BYTES)
        reply = await transport.send(request)
        return orjson.loads(reply.body)["choices"][0]["message"]["content"]

    return send


def over_openai(url: str) -> Send:
    """Return a call through the openai SDK.

    Raises:
        ImportError: It is not installed.
    """
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    async def send(prompt: str) -> Any:
        answer = await client.chat.completions.create(model="mock-1", messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content

    return send


def over_litellm(url: str) -> Send:
    """Return a call through litellm.

    Raises:
        ImportError: It is not installed.
    """
    import litellm

    async def send(prompt: str) -> Any:
        answer = await litellm.acompletion(
            model="openai/mock-1",
            messages=[{"role": "user", "content": prompt}],
            api_base=f"{url}/v1",
            api_key="none",
            max_retries=0,
        )
        return answer.choices[0].message.content

    return send
