"""The simulated model as a transport: requests come in and answers, or failures, go out as from a server."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from statistics import NormalDist
from typing import Any, Final

import httpx

from fleming_sql.jsontext import dumpb, loads
from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.providers.simulated.chance import number, pick, share
from fleming_sql.providers.simulated.model import Prompt, answer, read_prompt
from fleming_sql.providers.simulated.settings import HEADER, Settings

_MAX_REMEMBERED: Final = 10_000
_STATUSES: Final = {"rate_limit": 429, "server_error": 500, "overloaded": 529}
_MESSAGES: Final = {
    "rate_limit": "simulated: too many requests",
    "server_error": "simulated: the server had an error",
    "overloaded": "simulated: the model is overloaded",
    "refused": "simulated: connection refused",
    "cut": "simulated: the connection was lost",
}
_JSON: Final = [("content-type", "application/json")]


class SimulatedTransport(httpx.AsyncBaseTransport):
    """Answers what `Simulated` encodes; the settings come with each request, in its header `x-simulate`.

    Example:
        >>> client = httpx.AsyncClient(transport=SimulatedTransport())
        >>> await client.post("http://simulated.invalid/v1/embeddings", json={"input": ["a", "b"]})
        <Response [200 OK]>
    """

    def __init__(self) -> None:
        self._settings: dict[str | None, Settings] = {}
        self._sends: OrderedDict[int, int] = OrderedDict()
        self._normal = NormalDist()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, or fail it.

        Raises:
            httpx.TransportError: A failure was drawn, or the answer would come after the read timeout.
        """
        try:
            settings = self._read_settings(request.headers.get(HEADER))
            prompt = read_prompt(request.url.path, loads(await request.aread()), settings)
        except (BadProviderRequest, ValueError) as error:
            return _error(400, str(error))
        is_drawn = settings.error_rate > 0 or settings.sigma > 0
        sends = self._count(prompt) if is_drawn else 0
        failure = _draw_failure(settings, prompt, sends)
        if failure == "timeout":
            await _wait(request, None)
        if settings.latency_ms > 0:
            await _wait(request, self._latency_s(settings, prompt, sends))
        if failure is not None:
            return _fail(failure, settings, prompt, request)
        return httpx.Response(200, headers=_JSON, content=dumpb(answer(prompt, settings)))

    def _read_settings(self, header: str | None) -> Settings:
        settings = self._settings.get(header)
        if settings is None:
            if len(self._settings) >= _MAX_REMEMBERED:
                self._settings.clear()
            settings = self._settings[header] = Settings.of_header(header)
        return settings

    def _count(self, prompt: Prompt) -> int:
        """Return how often this prompt was sent before; of the prompts sent last, that is known."""
        key = number(prompt.seed, prompt.key)
        sends = self._sends.pop(key, 0)
        self._sends[key] = sends + 1
        if len(self._sends) > _MAX_REMEMBERED:
            self._sends.popitem(last=False)
        return sends

    def _latency_s(self, settings: Settings, prompt: Prompt, sends: int) -> float:
        if settings.sigma <= 0:
            return settings.latency_ms / 1000
        chance = share("latency", prompt.seed, prompt.key, sends)
        deviation = self._normal.inv_cdf(min(max(chance, 1e-9), 1 - 1e-9))
        return float(settings.latency_ms / 1000 * 2.718281828459045 ** (settings.sigma * deviation))


class _CutStream(httpx.AsyncByteStream):
    """The first half of a body, and then the connection is lost."""

    def __init__(self, body: bytes, error: httpx.TransportError) -> None:
        self._body = body
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body[: len(self._body) // 2]
        raise self._error


def _draw_failure(settings: Settings, prompt: Prompt, sends: int) -> str | None:
    rate = settings.error_rate
    if rate <= 0 or share("fails", prompt.seed, prompt.key, sends) >= rate:
        return None
    return pick(settings.errors, "kind", prompt.seed, prompt.key, sends)


async def _wait(request: httpx.Request, seconds: float | None) -> None:
    """Wait like for a server that answers after `seconds`, or never, within the request's read timeout."""
    timeout: dict[str, Any] = request.extensions.get("timeout") or {}
    limit = timeout.get("read")
    if limit is not None and (seconds is None or seconds > limit):
        await asyncio.sleep(limit)
        raise httpx.ReadTimeout("simulated: no answer in time", request=request)
    if seconds is None:
        await asyncio.Event().wait()
    else:
        await asyncio.sleep(seconds)


def _fail(kind: str, settings: Settings, prompt: Prompt, request: httpx.Request) -> httpx.Response:
    if kind == "malformed":
        return httpx.Response(200, headers=_JSON, content=b"<html>simulated: this is not JSON</html>")
    message = settings.error_message or _MESSAGES[kind]
    if kind == "refused":
        raise httpx.ConnectError(message, request=request)
    if kind == "cut":
        body = dumpb(answer(prompt, settings))
        stream = _CutStream(body, httpx.RemoteProtocolError(message, request=request))
        return httpx.Response(200, headers=[*_JSON, ("content-length", str(len(body)))], stream=stream)
    retry_after = settings.retry_after_s if kind == "rate_limit" else None
    return _error(_STATUSES[kind], message, retry_after)


def _error(status: int, message: str, retry_after_s: float | None = None) -> httpx.Response:
    error = {"message": message, "type": "simulated", "param": None, "code": None}
    headers = [*_JSON] if retry_after_s is None else [*_JSON, ("retry-after", f"{retry_after_s:g}")]
    return httpx.Response(status, headers=headers, content=dumpb({"error": error}))
