"""The default transport: aiohttp's pool of kept-alive connections.

Chosen by measurement (docs/benchmarks.md) over httpx's own pool, which collapses under concurrency, and over
pyreqwest, which takes less CPU but does not break off a request that is cancelled (0.15.1), so that an interrupted
statement would be billed to its end.
"""

from __future__ import annotations

import socket
import ssl
from functools import lru_cache
from io import BytesIO
from typing import Final
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from fleming_sql.transport.base import HttpReply, HttpRequest, Transport, TransportFailed, too_large

KEEP_ALIVE_S: Final = 30.0
DNS_CACHE_S: Final = 60
_CHUNK: Final = 1 << 16
_LARGE: Final = 1 << 20
"""Bytes from which aiohttp wants a body as a file, to send it in pieces."""


class PooledTransport(Transport):
    """Sends over as many kept-alive connections as are under way; `HTTP(S)_PROXY` and `NO_PROXY` are heeded."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._target = lru_cache(1024)(_target)
        self._timeout = lru_cache(64)(_timeout)

    async def send(self, request: HttpRequest) -> HttpReply:
        """Send `request` and return the whole answer."""
        session = self._session or self._open()
        try:
            url, proxy = self._target(request.url)
            async with session.request(
                request.method,
                url,
                data=request.body if len(request.body) < _LARGE else BytesIO(request.body),
                headers=request.headers,
                proxy=proxy,
                timeout=self._timeout(request.connect_timeout_s),
                allow_redirects=False,
            ) as response:
                body = await _read(response, request.max_reply_bytes)
                headers = {name.lower(): value for name, value in response.headers.items()}
                return HttpReply(response.status, headers, body)
        except aiohttp.ClientError as error:
            raise _translate(error) from None
        except (TimeoutError, ValueError, OSError) as error:
            raise TransportFailed("connect", f"the request could not be sent ({type(error).__name__})") from None

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=DNS_CACHE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    length = response.content_length
    if length is not None and length > limit:
        raise too_large(limit, response.status)
    if length is not None and length <= _CHUNK and "Content-Encoding" not in response.headers:
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise too_large(limit, response.status)
        chunks.append(chunk)
    return b"".join(chunks)


def _target(url: str) -> tuple[URL, str | None]:
    """Return the parsed address and the proxy that the environment names for it."""
    parsed = URL(url)
    host = parsed.host or ""
    proxy = None if proxy_bypass(host) else getproxies().get(parsed.scheme)
    return parsed, proxy


def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=connect_s, connect=connect_s)


def _translate(error: aiohttp.ClientError) -> TransportFailed:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TransportFailed(
            "connect", f"the host {error.host} is not known: {error.os_error.strerror or ''}".strip(": ")
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return TransportFailed("connect", f"TLS with {error.host}: {_tls_reason(error.certificate_error)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return TransportFailed("connect", f"no connection to {error.host}:{error.port}: {_os_reason(error.os_error)}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TransportFailed("connect", "the connection was not made in time (connect_timeout_ms)")
    if isinstance(error, aiohttp.InvalidURL):
        return TransportFailed("connect", f"the address {error} is not a valid URL")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return TransportFailed("timeout", "the server did not answer in time")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return TransportFailed("connect", f"the proxy answered with HTTP {error.status}")
    return TransportFailed("cut", f"the connection was lost: {_lost_reason(error)}")


def _lost_reason(error: aiohttp.ClientError) -> str:
    """Say why in words of our own: aiohttp's may show the address of a proxy with its password."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed it before it answered"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the server closed it before the answer was whole, or sent a broken one"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def _os_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {_tls_reason(error)}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    return error.strerror or str(error) or type(error).__name__


def _tls_reason(error: Exception) -> str:
    return getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
