"""Model servers that fail: reply functions for `MockModel`, to see what a configuration makes of a provider's bad day.

Each takes another reply function and spoils some of its answers, so they can be put into one another. All of them are
called in the server's thread only, one request at a time, and `Faults` draws in the order of arrival: the same seed
spoils the same requests.

Example:
    >>> from fleming_sql.testing import Faults, MockModel
    >>> with MockModel(Faults(seed=1, failed=0.5)) as server:
    ...     url = server.url  # for the column base_url of fleming.served_entities

`python -m fleming_sql.testing --help` tells how to have them in a process of their own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fleming_sql.testing.replies import Received, Reply, echo_chat, error_reply

ReplyFunction = Callable[[Received], Reply]
"""Decides on one request."""

Delay = float | Callable[[], float]
"""Seconds, or a function that draws them."""


def after(delay_s: Delay, reply: ReplyFunction = echo_chat) -> ReplyFunction:
    """Return a function that answers as `reply` does, so many seconds later.

    Example:
        >>> crawling = after(5.0)
        >>> uneven = after(lambda: random.lognormvariate(-3, 0.6))
    """

    def answer(received: Received) -> Reply:
        seconds = delay_s() if callable(delay_s) else delay_s
        return reply(received).delayed(seconds)

    return answer


class Faults:
    """Spoils a share of the answers, as providers do under load.

    A 429 comes at once and a hang never; the other faults take as long as the answer that they spoil.

    Args:
        seed: Of the draws, one for each request.
        refused: Share of status 429, with Retry-After.
        failed: Share of status 500.
        hung: Share of requests that are never answered.
        cut: Share of answers that end in the middle of the body, and the connection with them.
        malformed: Share of answers with status 200 whose JSON is incomplete.
        retry_after_s: What a 429 asks for. Where these are no whole seconds, `retry-after-ms` tells it exactly.
        reply: Answers the requests that are not spoilt.
        delay_s: How long an answer takes beyond what `reply` says.

    Raises:
        ValueError: A share is negative, or they sum to more than 1.

    Example:
        >>> faults = Faults(seed=1, refused=0.25)
        >>> with MockModel(faults) as server:
        ...     pass  # make calls
        >>> faults.injected
        0
    """

    KINDS = ("refused", "failed", "hung", "cut", "malformed")
    """Names of the faults, in the order in which a draw falls to them."""

    def __init__(
        self,
        seed: int,
        *,
        refused: float = 0.10,
        failed: float = 0.05,
        hung: float = 0.01,
        cut: float = 0.01,
        malformed: float = 0.005,
        retry_after_s: float = 1.0,
        reply: ReplyFunction = echo_chat,
        delay_s: Delay = 0.0,
    ) -> None:
        shares = (refused, failed, hung, cut, malformed)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"shares of faults are 0 or more and sum to 1 at most, not {shares}")
        self._draw = random.Random(seed).random  # noqa: S311 - faults, not secrets
        self._shares = shares
        self._retry_after = _retry_after(retry_after_s)
        self._reply = after(delay_s, reply) if delay_s else reply
        self._counts = dict.fromkeys(self.KINDS, 0)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many requests met each kind of fault so far."""
        return self._counts.copy()

    @property
    def injected(self) -> int:
        """How many requests met any fault so far."""
        return sum(self._counts.values())

    def __call__(self, received: Received) -> Reply:
        """Answer, or inject a fault."""
        kind = self._kind()
        if kind is None:
            return self._reply(received)
        self._counts[kind] += 1
        if kind == "refused":
            return error_reply(429, "injected: too many requests", headers=self._retry_after)
        if kind == "hung":
            return Reply(hang=True)
        return _spoilt(self._reply(received), kind)

    def _kind(self) -> str | None:
        point = self._draw()
        for kind, share in zip(self.KINDS, self._shares, strict=True):
            point -= share
            if point < 0:
                return kind
        return None


class Capacity:
    """Serves so many requests at once and refuses the next with 429, at once.

    Args:
        places: How many are served at once; may be set while the server runs.
        reply: Answers those that have a place.
        delay_s: How long an answer takes beyond what `reply` says, its place taken.
        retry_after_s: What a 429 asks for; None says nothing.

    Example:
        >>> capacity = Capacity(8, delay_s=0.1)  # up to 80 answers a second
        >>> capacity.places = 4
    """

    def __init__(
        self,
        places: int,
        *,
        reply: ReplyFunction = echo_chat,
        delay_s: Delay = 0.0,
        retry_after_s: float | None = None,
    ) -> None:
        self.places = places
        self._reply = after(delay_s, reply) if delay_s else reply
        self._retry_after = {} if retry_after_s is None else _retry_after(retry_after_s)
        self._in_service = 0
        self._served = 0
        self._refused = 0

    @property
    def in_service(self) -> int:
        """How many requests have a place now."""
        return self._in_service

    @property
    def served(self) -> int:
        """How many requests got a place so far."""
        return self._served

    @property
    def refused(self) -> int:
        """How many requests got none so far."""
        return self._refused

    def __call__(self, received: Received) -> Reply:
        """Answer, or refuse."""
        if self._in_service >= self.places:
            self._refused += 1
            return error_reply(429, "injected: at capacity", headers=self._retry_after)
        reply = self._reply(received)
        self._in_service += 1
        self._served += 1
        return replace(reply, at_end=lambda: self._leave(reply))

    def _leave(self, reply: Reply) -> None:
        self._in_service -= 1
        if reply.at_end is not None:
            reply.at_end()


class Phases:
    """Changes its ways with the time since the first request.

    Args:
        phases: Pairs of seconds and a reply function, in their order; the last one stays beyond its seconds.

    Raises:
        ValueError: There are none.

    Example:
        >>> recovers = Phases([(10, lambda received: error_reply(500, "down")), (math.inf, echo_chat)])
        >>> slows_down = Phases([(2, after(0.05)), (math.inf, after(5))])
    """

    def __init__(self, phases: Sequence[tuple[float, ReplyFunction]]) -> None:
        if not phases:
            raise ValueError("there must be one phase at least")
        self._phases = tuple(phases)
        self._began_at: float | None = None

    @property
    def began_at(self) -> float | None:
        """When the first request arrived, in seconds of `time.monotonic`; None before it."""
        return self._began_at

    def __call__(self, received: Received) -> Reply:
        """Answer as the phase does that is on."""
        if self._began_at is None:
            self._began_at = received.at
        left = received.at - self._began_at
        for seconds, reply in self._phases:
            if left < seconds:
                return reply(received)
            left -= seconds
        return self._phases[-1][1](received)


class Switch:
    """Answers as it is told to, until it is told otherwise: phases without waiting for them.

    Args:
        reply: Answers at first.

    Example:
        >>> switch = Switch(lambda received: error_reply(500, "down"))
        >>> switch.use(echo_chat)  # from the next request on
    """

    def __init__(self, reply: ReplyFunction = echo_chat) -> None:
        self._reply = reply

    def use(self, reply: ReplyFunction) -> None:
        """Answer as `reply` does from the next request on; from any thread."""
        self._reply = reply

    def __call__(self, received: Received) -> Reply:
        """Answer."""
        return self._reply(received)


def _retry_after(seconds: float) -> dict[str, str]:
    """Return the headers: Retry-After has whole seconds only (RFC 9110, 10.2.3)."""
    whole = math.ceil(seconds)
    headers = {"retry-after": str(whole)}
    return headers if whole == seconds else {**headers, "retry-after-ms": f"{seconds * 1000:g}"}


def _spoilt(answer: Reply, kind: str) -> Reply:
    """Return what becomes of an answer, as late as it would have been."""
    if kind == "failed":
        return error_reply(500, "injected: internal error").delayed(answer.delay_s)
    half = len(answer.content()) // 2
    if kind == "cut":
        return replace(answer, cut_after=half)
    headers = {"content-type": "application/json", **answer.headers}
    return replace(answer, body=answer.content()[:half], headers=headers)
