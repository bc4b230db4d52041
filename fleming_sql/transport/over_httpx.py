"""Lets any `httpx.AsyncBaseTransport` send the gateway's requests: a mock, a recorder, a company's own."""

from __future__ import annotations

import httpx

from fleming_sql.transport.base import (
    FailureKind,
    HttpReply,
    HttpRequest,
    Transport,
    TransportFailed,
    too_large,
)


class HttpxTransport(Transport):
    """Sends through an httpx transport, called directly and not through `httpx.AsyncClient`.

    Example:
        >>> HttpxTransport(httpx.MockTransport(lambda request: httpx.Response(200, json={})))
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(self, request: HttpRequest) -> HttpReply:
        """Send `request` and return the whole answer."""
        asked = httpx.Request(
            request.method,
            request.url,
            headers=dict(request.headers),
            content=request.body,
            extensions={"timeout": {"connect": request.connect_timeout_s}},
        )
        try:
            response = await self._transport.handle_async_request(asked)
            body = await _read(response, request.max_reply_bytes)
        except httpx.TransportError as error:
            raise _translate(error) from None
        return HttpReply(response.status_code, dict(response.headers.items()), body)

    async def aclose(self) -> None:
        """Close the httpx transport."""
        await self._transport.aclose()


async def _read(response: httpx.Response, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > limit:
                raise too_large(limit, response.status_code)
            chunks.append(chunk)
    finally:
        await response.aclose()
    return b"".join(chunks)


def _translate(error: httpx.TransportError) -> TransportFailed:
    told = str(error) or type(error).__name__
    connecting = httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol
    if isinstance(error, connecting):
        return TransportFailed("connect", told)
    kind: FailureKind = "timeout" if isinstance(error, httpx.TimeoutException) else "cut"
    return TransportFailed(kind, told if kind == "timeout" else f"the connection was lost: {told}")
