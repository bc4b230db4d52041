"""The mock model server as a process of its own, for benchmarks and for trying out a configuration.

Prints its URL on the first line, then serves until its standard input closes or SIGTERM arrives. `GET /stats` tells
its counters.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from fleming_sql.testing import Capacity, Constant, Faults, MockModel, Phases, after, chat_reply
from fleming_sql.testing.faults import ReplyFunction

_ANSWER = chat_reply("The order arrived late, the customer asks for a refund.")


def main() -> None:
    """Serve one constant chat completion of about 300 bytes, after a lognormal delay, with the faults asked for."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _leave)
    delay = lognormal(options.latency_ms, options.sigma, options.seed) if options.latency_ms > 0 else None
    try:
        server = _failing(options, delay) if _spoils(options) else _plain(options, delay)
    except ValueError as error:
        sys.exit(str(error))
    with server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


def lognormal(median_ms: float, sigma: float, seed: int) -> Callable[[], float]:
    """Return a function that draws delays in seconds."""
    source = random.Random(seed)  # noqa: S311 - latencies, not secrets
    mu = math.log(median_ms / 1000)
    return lambda: source.lognormvariate(mu, sigma)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fleming_sql.testing", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="median delay of an answer")
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of the delay; 0 makes it constant")
    parser.add_argument("--seed", type=int, default=1, help="of the delays and the faults")
    faults = parser.add_argument_group("faults", "shares of the requests, 0 to 1")
    faults.add_argument("--refused", type=float, default=0.0, metavar="SHARE", help="status 429 with Retry-After")
    faults.add_argument("--failed", type=float, default=0.0, metavar="SHARE", help="status 500")
    faults.add_argument("--hung", type=float, default=0.0, metavar="SHARE", help="never answered")
    faults.add_argument("--cut", type=float, default=0.0, metavar="SHARE", help="cut off in the middle of the body")
    faults.add_argument("--malformed", type=float, default=0.0, metavar="SHARE", help="incomplete JSON")
    faults.add_argument("--retry-after-ms", type=float, default=1000.0, help="what a 429 asks for")
    phases = parser.add_argument_group("phases", "counted from the first request")
    one = phases.add_mutually_exclusive_group()
    one.add_argument("--down-for-s", type=float, metavar="S", help="status 500 until then, recovered afterwards")
    one.add_argument("--slow-after-s", type=float, metavar="S", help="each answer takes --slow-ms from then on")
    phases.add_argument("--slow-ms", type=float, default=5000.0, help="delay of an answer that crawls")
    parser.add_argument("--places", type=int, metavar="N", help="serve so many at once and answer 429 beyond")
    return parser


def _spoils(options: argparse.Namespace) -> bool:
    """Tell whether any fault is asked for; without one the server takes its fast path."""
    changes = (options.down_for_s, options.slow_after_s, options.places)
    return any(change is not None for change in changes) or any(getattr(options, kind) for kind in Faults.KINDS)


def _plain(options: argparse.Namespace, delay: Callable[[], float] | None) -> MockModel:
    return MockModel(Constant(_ANSWER, delay), record=False, port=options.port)


def _failing(options: argparse.Namespace, delay: Callable[[], float] | None) -> MockModel:
    """Put the faults around the answer: single ones first, then phases, and the places around it all."""
    faults = Faults(
        options.seed,
        **{kind: getattr(options, kind) for kind in Faults.KINDS},
        retry_after_s=options.retry_after_ms / 1000,
        reply=lambda received: _ANSWER,
        delay_s=delay or 0.0,
    )
    down = Faults(options.seed, failed=1.0, refused=0.0, hung=0.0, cut=0.0, malformed=0.0)
    phases = Phases(_phases(options, faults, down))
    capacity = None if options.places is None else Capacity(options.places, reply=phases)

    def stats() -> Mapping[str, Any]:
        return {
            **faults.counts,
            "down": down.injected,
            "abandoned": server.abandoned,
            "served": capacity.served if capacity else None,
            "over_capacity": capacity.refused if capacity else None,
            "age_s": None if phases.began_at is None else time.monotonic() - phases.began_at,
        }

    server = MockModel(capacity or phases, record=False, port=options.port, stats=stats)
    return server


def _phases(
    options: argparse.Namespace, reply: ReplyFunction, down: ReplyFunction
) -> list[tuple[float, ReplyFunction]]:
    if options.down_for_s is not None:
        return [(options.down_for_s, down), (math.inf, reply)]
    if options.slow_after_s is not None:
        return [(options.slow_after_s, reply), (math.inf, after(options.slow_ms / 1000, reply))]
    return [(math.inf, reply)]


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
