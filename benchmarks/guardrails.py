"""What guardrails cost a statement: endpoints with and without them, in turns."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from benchmarks.setup import Mock, Spent, add_endpoint, gateway, measured, mock, value
from benchmarks.table import Row
from fleming_sql import Connection

ROWS: Final = 20_000
RUNS: Final = 5
CONCURRENCY: Final = 512
_WITH_PII: Final = 10
"""One row in so many has an e-mail address and a card."""
POLICY: Final = (
    "case when event.message ilike '%confidential%' then 'DENY' "
    "when event.context.actor.run_as = 'nobody' then 'ASK' else 'ALLOW' end"
)


def measure() -> list[Row]:
    """Run the same rows through an endpoint without guardrails and others with them, each time in another order."""
    keywords = {"keywords": _words(1000)}
    guards: dict[str, list[tuple[str, str, str, Mapping[str, Any]]]] = {
        "none": [],
        "pii": [("input", "pii", "mask", {})],
        "keywords": [("input", "keywords", "block", keywords)],
        "sql": [("input", "sql", "block", {"expression": POLICY})],
        "all": [
            ("input", "pii", "mask", {}),
            ("input", "keywords", "block", keywords),
            ("input", "sql", "block", {"expression": POLICY}),
        ],
        "both": [
            (phase, kind, behavior, config)
            for phase in ("input", "output")
            for kind, behavior, config in (
                ("pii", "mask", {}),
                ("keywords", "block", keywords),
                ("sql", "block", {"expression": POLICY}),
            )
        ],
    }
    spent: dict[str, list[Spent]] = {name: [] for name in guards}
    with mock() as server, gateway(server, CONCURRENCY) as con:
        for name, rows in guards.items():
            _add(con, server, name, rows)
        names = list(guards)
        for number in range(RUNS + 1):
            for turn in range(len(names)):
                name = names[(number + turn) % len(names)]
                spent[name].append(_run(con, name, f"run {number}"))
    return _rows({name: runs[1:] for name, runs in spent.items()})


def _rows(spent: Mapping[str, list[Spent]]) -> list[Row]:
    labels = {
        "none": "without guardrails",
        "pii": "pii mask",
        "keywords": "1,000 keywords",
        "sql": "one SQL policy",
        "all": "pii mask, 1,000 keywords and one SQL policy",
        "both": "the same three on the answers too",
    }
    title = f"{ROWS:,} rows, {CONCURRENCY} at a time, median of {RUNS}"
    rows = []
    for name, runs in spent.items():
        rate = ROWS / median(run.wall for run in runs)
        cpu_us = median(run.cpu for run in runs) / ROWS * 1e6
        share = median(bare.wall / run.wall for bare, run in zip(spent["none"], runs, strict=True))
        target, met = (">= 0.80", share >= 0.8) if name == "all" else ("", None)
        told = f"{rate:,.0f} rows/s, {cpu_us:.0f} us CPU per row, {share:.2f} of those without"
        rows.append(Row(f"{title}: {labels[name]}", told, target, met))
    return rows


def _add(con: Connection, server: Mock, endpoint: str, guards: list[tuple[str, str, str, Mapping[str, Any]]]) -> None:
    add_endpoint(con, endpoint, server, CONCURRENCY)
    for rank, (phase, kind, behavior, config) in enumerate(guards, 1):
        con.execute(
            "insert into fleming.guardrails (endpoint, phase, rank, kind, behavior, config) values (?, ?, ?, ?, ?, ?)",
            [endpoint, phase, rank, kind, behavior, json.dumps(config)],
        )


def _run(con: Connection, endpoint: str, label: str) -> Spent:
    con.execute(
        "create or replace table prompts as select format('{} {:07d} ', ?::varchar, i) || ?::varchar"
        f" || if(i % {_WITH_PII} = 0, 'write to ada@example.com, card 4111 1111 1111 1111', 'nothing else') as prompt"
        " from range(?::bigint) as r(i)",
        [label, _TEXT, ROWS],
    )
    with measured() as spent:
        count = value(con, f"select count(v) from (select ai_query('{endpoint}', prompt) as v from prompts)")
        assert count == ROWS
    return spent


_TEXT: Final = (
    "The parcel for order 88213-4 came nine days late on 2026-03-14 at 17:45 and the box was open. The shop answered "
    "within an hour and sent version 2.4.1 of the manual. What does the customer want us to do? "
)


def _words(count: int) -> list[str]:
    source = random.Random(7)  # noqa: S311  words, not secrets
    return ["".join(source.choices(string.ascii_lowercase, k=source.randint(7, 14))) for _ in range(count)]
