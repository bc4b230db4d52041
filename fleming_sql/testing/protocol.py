"""HTTP/1.1 over one connection: keep-alive, bodies by Content-Length, one request at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from fleming_sql.testing.replies import Constant, Received, Reply


@dataclass
class Counters:
    """What a server counts; written by its own thread only."""

    requests: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    connections: int = 0
    abandoned: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)
    """Notified at each change, for tests that wait for one."""

    def connected(self) -> None:
        """Count a connection."""
        with self.changed:
            self.connections += 1
            self.changed.notify_all()

    def arrived(self) -> None:
        """Count a request that is complete and has no answer yet."""
        with self.changed:
            self.requests += 1
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            self.changed.notify_all()

    def left(self, *, abandoned: bool) -> None:
        """Count a request that was answered, or whose client went away before."""
        with self.changed:
            self.in_flight -= 1
            self.abandoned += abandoned
            self.changed.notify_all()

    def stats(self) -> dict[str, int]:
        """Return the answer to `GET /stats`."""
        return {
            "requests": self.requests,
            "peak_in_flight": self.peak_in_flight,
            "in_flight": self.in_flight,
        }


class HttpProtocol(asyncio.Protocol):
    """Reads requests and writes what the answerer says.

    Args:
        reply: Decides on each request; with a `Constant` none is parsed beyond its length.
        record: Appended to with each request; None keeps none.
        counters: Counted into.
        stats: Makes the answer to `GET /stats`, which is not counted; None leaves it to `reply`.
        open_protocols: The server's set of open connections; this one adds and removes itself.
    """

    def __init__(
        self,
        reply: Callable[[Received], Reply] | Constant,
        record: list[Received] | None,
        counters: Counters,
        stats: Callable[[], dict[str, Any]] | None,
        open_protocols: set[HttpProtocol],
    ) -> None:
        self._reply = reply
        self._record = record
        self._counters = counters
        self._stats = stats
        self._open_protocols = open_protocols
        self._buffer = bytearray()
        self._head_end = 0
        self._request_end = 0
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._at_end: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the connection."""
        # uvloop's transports do not inherit from asyncio.Transport: isinstance would refuse them.
        self._transport = cast("asyncio.Transport", transport)
        self._counters.connected()
        self._open_protocols.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Count a request that waited as abandoned."""
        self._open_protocols.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._busy:
            self._done(abandoned=True)

    def data_received(self, data: bytes) -> None:
        """Collect bytes until a request is whole."""
        self._buffer += data
        self._next()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def _next(self) -> None:
        while self._buffer and not self._busy and not self._transport.is_closing():
            if not self._request_end and not self._read_head():
                return
            if len(self._buffer) < self._request_end:
                return
            head = bytes(self._buffer[: self._head_end])
            body = bytes(self._buffer[self._head_end : self._request_end])
            del self._buffer[: self._request_end]
            self._head_end = self._request_end = 0
            self._handle(head, body)

    def _read_head(self) -> bool:
        """Find the end of the head and, with its Content-Length, the end of the request."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._head_end = end + 4
        head = bytes(self._buffer[: self._head_end]).lower()
        start = head.find(b"\r\ncontent-length:")
        length = int(head[start + 17 : head.find(b"\r\n", start + 17)]) if start >= 0 else 0
        self._request_end = self._head_end + length
        if b"\r\ntransfer-encoding:" in head:
            self._transport.write(Reply(411, "this server reads bodies by Content-Length only").wire())
            self._transport.close()
            return False
        if b"\r\nexpect: 100-continue" in head:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _handle(self, head: bytes, body: bytes) -> None:
        if self._stats is not None and head.startswith(b"GET /stats"):
            self._transport.write(Reply(body=self._stats()).wire())
            return
        if isinstance(self._reply, Constant):
            self._handle_constant(self._reply)
            return
        request_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = request_line.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        received = Received(method, path, headers, body, time.monotonic())
        if self._record is not None:
            self._record.append(received)
        self._busy = True
        self._counters.arrived()
        self._schedule(self._reply(received))

    def _handle_constant(self, constant: Constant) -> None:
        self._busy = True
        self._counters.arrived()
        delay = constant.delay_s() if constant.delay_s is not None else 0.0
        if delay <= 0:
            self._done(abandoned=False)
            self._transport.write(constant.wire)
        else:
            self._timer = asyncio.get_running_loop().call_later(delay, self._write_constant, constant.wire)

    def _write_constant(self, wire: bytes) -> None:
        self._done(abandoned=False)
        self._transport.write(wire)
        self._next()

    def _schedule(self, reply: Reply) -> None:
        self._at_end = reply.at_end
        if reply.hang:
            return
        if reply.delay_s <= 0:
            self._write(reply)
        else:
            self._timer = asyncio.get_running_loop().call_later(reply.delay_s, self._write_late, reply)

    def _write_late(self, reply: Reply) -> None:
        self._write(reply)
        self._next()

    def _write(self, reply: Reply) -> None:
        self._done(abandoned=False)
        if not reply.drop:
            self._transport.write(reply.wire())
        if reply.drop or reply.cut_after is not None:
            self._transport.close()

    def _done(self, *, abandoned: bool) -> None:
        self._timer = None
        self._busy = False
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            at_end()
        self._counters.left(abandoned=abandoned)
