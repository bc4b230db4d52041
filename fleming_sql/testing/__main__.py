"""The mock model server as a process of its own, for benchmarks.

Prints its URL on the first line, then serves until its standard input closes or SIGTERM arrives.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import sys
from collections.abc import Callable
from types import FrameType

from fleming_sql.testing import Constant, MockModel, chat_reply


def main() -> None:
    """Serve one constant chat completion of about 300 bytes, after a lognormal delay."""
    parser = argparse.ArgumentParser(prog="python -m fleming_sql.testing", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="median delay of an answer")
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of the delay; 0 makes it constant")
    parser.add_argument("--seed", type=int, default=1, help="of the delays")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    delay = lognormal(options.latency_ms, options.sigma, options.seed) if options.latency_ms > 0 else None
    answer = Constant(chat_reply("The order arrived late, the customer asks for a refund."), delay)
    with MockModel(answer, record=False, port=options.port) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


def lognormal(median_ms: float, sigma: float, seed: int) -> Callable[[], float]:
    """Return a function that draws delays in seconds."""
    source = random.Random(seed)  # noqa: S311 - latencies, not secrets
    mu = math.log(median_ms / 1000)
    return lambda: source.lognormvariate(mu, sigma)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
