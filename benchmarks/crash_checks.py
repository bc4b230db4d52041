"""What must hold after a crash: the user's rows, the model's ledger and the log are compared request by request."""

from __future__ import annotations

import re
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import fleming_sql
from benchmarks.crash_ledger import Entry, is_answer, keys

EXAMPLES: Final = 3
"""Of each violation so many are shown."""
_NUMBER: Final = re.compile(r"request (\d+)$")
_LOGGED: Final = """
select
    i.databricks_request_id,
    i.response::json->>'$.choices[0].message.content' as answer,
    i.cache_hit,
    u.input_token_count + u.output_token_count as tokens
from fleming.serving.inference as i
join fleming.serving.endpoint_usage as u using (databricks_request_id)
where i.status_code = 200 and starts_with(answer, ?)
"""
_TWICE: Final = """
select count(*) - count(distinct databricks_request_id), count(*) - count(distinct log_seq)
from fleming.serving.calls
"""
_RECOVERED: Final = """
select count(*), coalesce(sum(records), 0), coalesce(sum(replayed), 0), coalesce(sum(torn), 0)
from fleming.serving.recoveries
"""


class Logged(NamedTuple):
    """One call in the log that was answered."""

    request_id: str
    answer: str
    cache_hit: bool
    tokens: int

    @property
    def key(self) -> str:
        """The key of its prompt."""
        return self.answer.partition(" ")[0]

    @property
    def number(self) -> int:
        """The number of its request in the ledger."""
        found = _NUMBER.search(self.answer)
        return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Store:
    """What is read from a store by itself."""

    logged: Sequence[Logged]
    twice: tuple[int, int]
    """Rows of `serving.calls` beyond the first with their request id, and with their `log_seq`."""
    journals: int
    """Journal files of killed processes, over the life of the store."""
    records: int
    replayed: int
    torn: int
    open_s: float


def read_store(database: Path, label: str) -> Store:
    """Open the store of a database and read the answered calls of one label.

    Raises:
        StoreError: It does not open.
    """
    began = time.perf_counter()
    with fleming_sql.connect(database) as con:
        open_s = time.perf_counter() - began
        logged = [Logged(*row) for row in con.execute(_LOGGED, [f"{label}-"]).fetchall()]
        [twice] = con.execute(_TWICE).fetchall()
        [(journals, records, replayed, torn)] = con.execute(_RECOVERED).fetchall()
    return Store(logged, twice, journals, int(records), int(replayed), int(torn), open_s)


class Run(NamedTuple):
    """One process of a round."""

    seen: Sequence[tuple[str, str]]
    """Keys and answers that the user got."""
    entries: Sequence[Entry]
    """Its requests."""
    killed_at: float | None
    """In seconds of `time.monotonic`; None for the last run, which came to its end."""


@dataclass(frozen=True, slots=True)
class Round:
    """All that is known of one round: a statement that was killed and run again until it ended."""

    label: str
    rows: int
    runs: Sequence[Run]
    store: Store
    places: int
    """`max_concurrency`: a process has no more requests than that under way when it is killed."""

    @property
    def entries(self) -> list[Entry]:
        """The requests of all runs."""
        return [entry for run in self.runs for entry in run.entries]


@dataclass(slots=True)
class Findings:
    """What the comparison of a round came to."""

    violations: list[str] = field(default_factory=list)
    repeated: int = 0
    """Requests beyond the first for their prompt."""
    seen_not_logged: int = 0
    answered_not_logged: int = 0
    """Answers that the socket took before a kill and that are in no log."""
    lost_at_once: int = 0
    """The most of them that one kill took."""
    lost_age_s: float = 0.0
    """How long before the kill the oldest of them was answered."""
    asked_though_logged: int = 0


def compare(seen: Round, lost_within_s: float | None = None) -> Findings:
    """Compare the three, and say what does not hold.

    Args:
        seen: The round.
        lost_within_s: How old an answer may be at a kill that is in no log afterwards, and the user may have seen
            it: for logs that are not durable. None is for those that are: only what is under way may be lost.
    """
    findings = Findings()
    originals = {call.number: call for call in seen.store.logged if not call.cache_hit}
    for kind, problems in (
        ("the result is not whole", _unfinished(seen)),
        ("seen by the user, not in the log", _unlogged_rows(seen, findings) if lost_within_s is None else ()),
        (
            "answered, and neither logged nor lost by a kill",
            _unlogged_answers(seen, originals, findings, lost_within_s),
        ),
        ("asked more often than once and once a kill", _asked_too_often(seen, findings)),
        ("asked again although its answer was logged", _asked_though_logged(seen, originals, findings)),
        ("logged otherwise than in the ledger", _falsely_logged(seen, originals)),
        ("the totals differ", _totals(seen, originals)),
    ):
        found = list(problems)
        examples = "; ".join(found[:EXAMPLES]) + ("; …" if len(found) > EXAMPLES else "")
        findings.violations += [f"{kind}: {len(found):,} ({examples})"] if found else []
    return findings


def _unfinished(seen: Round) -> Iterator[str]:
    rows = seen.runs[-1].seen
    result = dict(rows)
    if len(rows) != len(result):
        yield f"{len(rows) - len(result)} rows twice"
    for key in keys(seen.label, seen.rows):
        if key not in result:
            yield f"{key} is missing"
        elif not is_answer(key, result[key]):
            yield f"{key} has the answer {result[key]!r}"


def _unlogged_rows(seen: Round, findings: Findings) -> Iterator[str]:
    """Each time that the user saw an answer is a call, made or served from the cache, and has a row of its own."""
    logged = Counter(call.answer for call in seen.store.logged)
    shown = Counter(answer for run in seen.runs for _, answer in run.seen)
    for answer, times in shown.items():
        if times > logged[answer]:
            findings.seen_not_logged += times - logged[answer]
            yield f"{answer!r} {times} times, {logged[answer]} in the log"


def _unlogged_answers(
    seen: Round, originals: dict[int, Logged], findings: Findings, lost_within_s: float | None
) -> Iterator[str]:
    """An answer may go under that was on its way, or in the hands of the process, when the kill came."""
    for number, run in enumerate(seen.runs, 1):
        until = float("inf") if run.killed_at is None else run.killed_at
        answered = [(e.answered, e) for e in run.entries if e.answered is not None and e.answered < until]
        lost = [(at, entry) for at, entry in answered if entry.number not in originals]
        logged_at = sorted(at for at, entry in answered if entry.number in originals)
        findings.answered_not_logged += len(lost)
        findings.lost_at_once = max(findings.lost_at_once, len(lost))
        if run.killed_at is None and lost:
            yield f"{len(lost):,} in run {number}, which was not killed"
        elif lost_within_s is None and len(lost) > seen.places:
            yield f"{len(lost):,} by kill {number}, where {seen.places} can be under way"
        for at, entry in lost:
            age_s, overtaken = until - at, len(logged_at) - bisect(logged_at, at)
            findings.lost_age_s = max(findings.lost_age_s, age_s)
            if (age_s > lost_within_s) if lost_within_s is not None else (overtaken > seen.places):
                yield (
                    f"{entry.key}, request {entry.number}, {age_s * 1000:.0f} ms before kill {number}; "
                    f"{overtaken:,} later answers are logged"
                )


def _asked_too_often(seen: Round, findings: Findings) -> Iterator[str]:
    asked = Counter(entry.key for entry in seen.entries)
    findings.repeated = sum(asked.values()) - len(asked)
    for key, times in asked.items():
        if times > len(seen.runs):
            yield f"{key} {times} times"


def _asked_though_logged(seen: Round, originals: dict[int, Logged], findings: Findings) -> Iterator[str]:
    first = {entry.key: entry.number for entry in reversed(seen.entries) if entry.number in originals}
    for entry in seen.entries:
        if entry.number > first.get(entry.key, entry.number):
            findings.asked_though_logged += 1
            yield f"{entry.key}, request {entry.number}"


def _falsely_logged(seen: Round, originals: dict[int, Logged]) -> Iterator[str]:
    known = {entry.number: entry for entry in seen.entries}
    for number, call in originals.items():
        entry = known.get(number)
        if entry is None or entry.answered is None or entry.key != call.key:
            yield f"{call.answer!r} of call {call.request_id}"
        elif call.tokens != entry.input_tokens + entry.output_tokens:
            yield f"{call.answer!r} with {call.tokens} tokens"
    hits = sum(call.cache_hit for call in seen.store.logged)
    if (again := len(seen.store.logged) - hits - len(originals)) > 0:
        yield f"{again} requests in two calls each"


def _totals(seen: Round, originals: dict[int, Logged]) -> Iterator[str]:
    billed = sum(e.input_tokens + e.output_tokens for e in seen.entries if e.answered is not None)
    unlogged = sum(
        e.input_tokens + e.output_tokens
        for e in seen.entries
        if e.answered is not None and e.number not in originals
    )  # fmt: skip
    logged = sum(call.tokens for call in seen.store.logged if not call.cache_hit)
    if logged != billed - unlogged:
        yield f"{logged:,} tokens logged, {billed:,} billed, {unlogged:,} of them in no log"
    if len({call.key for call in originals.values()}) != seen.rows:
        yield f"{len(originals):,} prompts with an answer in the log, of {seen.rows:,}"
    ids, sequence = seen.store.twice
    if ids or sequence:
        yield f"{ids} request ids and {sequence} values of log_seq are in the log twice"
