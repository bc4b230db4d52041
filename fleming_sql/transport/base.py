"""The seam to the network. A transport sends one request and returns the whole answer, or says how it failed.

Why not httpx's own interface: building its request and response objects costs as much CPU per call as sending
does. People's httpx transports (`httpx.MockTransport`, their own) still plug in, through `over_httpx`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["connect", "timeout", "cut", "too_large"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, ready to go out, credentials included."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    connect_timeout_s: float
    """For opening a connection; the time for the whole exchange is the caller's to limit, by cancelling."""
    max_reply_bytes: int
    """A longer body is refused while it is read."""

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.url}, {len(self.body)} bytes)"  # headers hold credentials


@dataclass(frozen=True, slots=True)
class HttpReply:
    """One answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class TransportFailed(Exception):
    """There is no whole answer.

    Args:
        kind: `connect` before anything was sent, `timeout`, `cut` afterwards, `too_large` for a refused body.
        message: What happened, in words for the caller.
        status: HTTP status, if one arrived.
    """

    def __init__(self, kind: FailureKind, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status


class Transport(ABC):
    """Sends requests. Redirects are returned, never followed, and cookies are not kept."""

    @abstractmethod
    async def send(self, request: HttpRequest) -> HttpReply:
        """Send `request` and return the whole answer; cancelling breaks the connection off.

        Raises:
            TransportFailed: With the kind of failure.
        """

    async def aclose(self) -> None:
        """Close all connections."""
        return


def too_large(limit: int, status: int) -> TransportFailed:
    """Return the failure for a body longer than `limit`."""
    return TransportFailed("too_large", f"the answer is longer than {limit} bytes", status)
