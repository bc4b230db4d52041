"""Tells webhooks of alerts, on a thread of its own: one that hangs holds up neither calls nor closing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from types import MappingProxyType
from typing import Final

import orjson

from fleming_sql.clock import Clock
from fleming_sql.credentials import CredentialResolver, secret_reference
from fleming_sql.errors import CredentialError
from fleming_sql.transport.base import HttpRequest, Transport, TransportFailed
from fleming_sql.types import Alert, Credential

DEADLINE_S: Final = 10.0
"""For all tries together."""
TRIES: Final = 3
BACK_OFF_S: Final = 0.5
"""Wait after the first try; twice as long after the second."""
CLOSE_S: Final = 2.0
"""How long closing waits for what is under way."""
CLOSED: Final = "not told: the gateway was closed"
_MAX_REPLY_BYTES: Final = 1 << 16
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_SUCCESS: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)


class Webhooks:
    """Posts alerts as JSON. The address may be a secret in itself, so no text of this class repeats it.

    Args:
        transport: The way to the network, for this object alone.
        credentials: Returns the credentials as they hold, by name.
        clock: Time.
        told: Called with an alert's id and what came of it, on a thread of this object.
        deadline_s: For all tries of one alert together.
    """

    def __init__(
        self,
        transport: Transport,
        credentials: Callable[[], Mapping[str, Credential]],
        clock: Clock,
        told: Callable[[str, str], None],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._transport = transport
        self._credentials = credentials
        self._resolver = CredentialResolver(clock.monotonic)
        self._clock = clock
        self._told = told
        self._deadline_s = deadline_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._under_way: set[Future[None]] = set()

    def send(self, alert: Alert, webhook: str) -> None:
        """Tell a webhook; return at once.

        Args:
            alert: What to tell.
            webhook: Its URL, or `{{secrets/scope/key}}`.
        """
        future = asyncio.run_coroutine_threadsafe(self._deliver(alert, webhook), self._started())
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)

    def close(self) -> None:
        """Wait at most `CLOSE_S` for what is under way, break off the rest and end the thread."""
        if self._loop is None or self._thread is None:
            return
        _, late = wait(self._under_way.copy(), CLOSE_S)
        for future in late:
            future.cancel()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        self._thread.join(CLOSE_S)
        self._loop = self._thread = None

    async def _finish(self) -> None:
        loop = asyncio.get_running_loop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=CLOSE_S / 2) if others else None
        await self._transport.aclose()
        loop.stop()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._serve, args=(loop,), name="fleming-sql-webhooks", daemon=True)
            self._thread.start()
        return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def _deliver(self, alert: Alert, webhook: str) -> None:
        status = CLOSED
        try:
            async with asyncio.timeout(self._deadline_s):
                status = await self._post(alert, webhook)
        except TimeoutError:
            status = f"no answer within {self._deadline_s:g} s"
        except CredentialError as error:
            status = str(error)
        except Exception as error:  # noqa: BLE001  its text may hold the address, which may hold a key
            status = f"not told: {type(error).__name__}"
        finally:
            self._told(alert.alert_id, status)

    async def _post(self, alert: Alert, webhook: str) -> str:
        url = await self._resolve(webhook)
        if not url.startswith(("https://", "http://")):
            return "not told: the webhook is not an http or https URL"
        request = HttpRequest(
            "POST", url, {"Content-Type": "application/json"}, _body(alert), self._deadline_s, _MAX_REPLY_BYTES
        )
        for number in range(1, TRIES):
            status, again = await self._try(request)
            if not again:
                return status
            await asyncio.sleep(BACK_OFF_S * number)
        status, again = await self._try(request)
        return f"{status} after {TRIES} tries" if again else status

    async def _try(self, request: HttpRequest) -> tuple[str, bool]:
        """Send once; return what came of it, and whether another try may do better."""
        try:
            code = (await self._transport.send(request)).status
        except TransportFailed as failure:
            if not failure.status:
                return _FAILURES[failure.kind], True
            code = failure.status
        if code in _SUCCESS:
            return str(code), False
        if code in _REDIRECT:
            return f"HTTP {code}: redirects are not followed", False
        return f"HTTP {code}", code >= _SERVER_ERROR or code == _TOO_MANY

    async def _resolve(self, webhook: str) -> str:
        name = secret_reference(webhook)
        if name is None:
            return webhook
        # On the executor: reading the configuration may have to wait for the store.
        credentials = await asyncio.to_thread(self._credentials)
        return (await self._resolver.resolve(name, credentials)).reveal()


_FAILURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "connect": "no connection",
        "timeout": "no answer",
        "cut": "the connection was lost",
        "too_large": "an answer that is too long",
    }
)


def _body(alert: Alert) -> bytes:
    return orjson.dumps(alert, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC)
