"""The model of the crash benchmark: it keeps a ledger of what it was asked and what it answered.

`python -m benchmarks.crash_ledger` serves from a process of its own, which outlives all that are killed. Each answer
names its number in the ledger, so that the log can be compared with the ledger request by request.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from fleming_sql.testing import MockModel, Received, Reply, chat_reply

ROOT: Final = Path(__file__).resolve().parent.parent
"""Where `python -m benchmarks` finds the benchmarks."""
LATENCY_S: Final = (0.002, 0.020)
SETTLED_S: Final = 10.0
"""How long requests of a process that is gone may stay open."""
_KEY: Final = re.compile(rb"<([^>]+)>")
_FILLER: Final = "The parcel came nine days late and the box was open; what does the customer want us to do?"


class Entry(NamedTuple):
    """One request that arrived. Times are those of `time.monotonic`, which all processes of a machine share."""

    number: int
    key: str
    arrived: float
    answered: float | None
    """When the whole answer was handed to the socket; None where the client went away before."""
    input_tokens: int
    output_tokens: int


def prompt_sql(label: str) -> str:
    """Return the SQL of a prompt, for a column `number`."""
    return f"format('<{label}-{{:06d}}> {_FILLER}', number)"


def keys(label: str, rows: int) -> list[str]:
    """Return the keys of a label's prompts, in their order."""
    return [f"{label}-{number:06d}" for number in range(rows)]


def is_answer(key: str, answer: str) -> bool:
    """Return whether an answer is one to the prompt with this key."""
    return answer.startswith(_opening(key))


def _opening(key: str) -> str:
    return f"{key} means {zlib.crc32(key.encode()):08x}, as request "


@dataclass(slots=True)
class _Request:
    number: int
    key: str
    arrived: float
    answered: float | None = None

    def entry(self) -> Entry:
        return Entry(self.number, self.key, self.arrived, self.answered, *_tokens(self.number))


def _tokens(number: int) -> tuple[int, int]:
    """Return counts that differ from request to request, so that a sum over the wrong ones is another sum."""
    return 20 + number % 17, 5 + number % 11


@dataclass(frozen=True, slots=True)
class _Noted(Reply):
    """An answer that takes down when it goes out."""

    request: _Request = field(kw_only=True)

    def wire(self) -> bytes:
        wire = Reply.wire(self)
        self.request.answered = time.monotonic()
        return wire


class Ledger:
    """Answers chat requests and takes them down; all of it in the server's thread.

    Args:
        seed: Of the latencies.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  latencies, not secrets
        self._count = 0
        self._open: set[int] = set()
        self._over: list[_Request] = []

    def reply(self, received: Received) -> Reply:
        """Answer a request, after a while, with what only its prompt and its number make."""
        self._count += 1
        found = _KEY.search(received.body)
        assert found, "only prompts of this benchmark are sent"
        request = _Request(self._count, found[1].decode(), received.at)
        self._open.add(request.number)

        def at_end() -> None:
            self._open.remove(request.number)
            self._over.append(request)

        tokens_in, tokens_out = _tokens(request.number)
        text = f"{_opening(request.key)}{request.number}"
        plain = chat_reply(text, prompt_tokens=tokens_in, completion_tokens=tokens_out)
        return _Noted(body=plain.body, delay_s=self._random.uniform(*LATENCY_S), at_end=at_end, request=request)

    def settled(self) -> dict[str, Any]:
        """Return the entries that are over, each one once, and how many are not."""
        over, self._over = self._over, []
        return {"entries": [request.entry() for request in over], "open": len(self._open)}


@dataclass(frozen=True, slots=True)
class LedgerModel:
    """The model server with its ledger, in a process of its own."""

    url: str

    def entries(self) -> list[Entry]:
        """Return the entries since the last time; the process that asked is gone.

        Raises:
            TimeoutError: Requests of it stay open.
        """
        entries: list[Entry] = []
        deadline = time.monotonic() + SETTLED_S
        quiet = 0
        while quiet < 2:  # what was sent before the first look has been read at the second
            page = httpx.get(f"{self.url}/stats").json()
            entries += [Entry(*entry) for entry in page["entries"]]
            quiet = 0 if page["open"] or (page["entries"] and quiet) else quiet + 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"{page['open']} requests are open {SETTLED_S} s after their process ended")
            time.sleep(0.005)
        return sorted(entries)


@contextmanager
def ledger_model(seed: int) -> Iterator[LedgerModel]:
    """Run the server for as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.crash_ledger", str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stdin
        yield LedgerModel(process.stdout.readline().strip())
        process.stdin.close()


def main() -> None:
    """Serve until standard input closes."""
    ledger = Ledger(int(sys.argv[1]))
    with MockModel(ledger.reply, record=False, stats=ledger.settled) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
