"""docs/benchmarks.md: the table, the machine, and how each figure is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.table import Row, markdown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

TEXT = """\
# Benchmarks

Written by `python -m benchmarks --save` (`make bench BENCH=--save`); nothing in it is typed by hand. A target
that was missed says `no` and stays in the table.

## Results

{table}
## Machine

{machine}
Everything runs on this one machine: the mock server shares its cores with the gateway, so rows per second are
a floor, and CPU per row, which counts the measuring process alone, is the figure that travels. The load
at the start is that of other work, the one at the end that of other work and the benchmarks.

## How it is measured

Each benchmark runs in a fresh process, and the mock model server (`python -m fleming_sql.testing`) in another:
HTTP over 127.0.0.1, one constant answer of about 300 bytes, no TLS. Databases and stores are files in a
temporary folder, so commits reach the file system.

**throughput.** `SELECT count(v) FROM (SELECT ai_query('chat', prompt) AS v FROM prompts)` over 20,000 distinct
prompts of about 300 characters, three times in one process with new prompts each; the best run is shown, and
every run beside it, because answers kept for reuse can slow later ones. The bare loop, in turns with it, has 512
workers that build the same body, send it through the gateway's own transport and parse the answer, in a process without
DuckDB; the SDKs do the same once with fewer rows.

**in_flight.** One statement over 4,096 rows against answers after a lognormal delay (median 1 s, sigma 0.6),
with `max_concurrency` 1,000. The peak is counted by the server, not by the gateway; the wall time holds the slowest
answer of each vector, because DuckDB hands over 2,048 rows at a time and waits for all of them.

**duplicates.** 400,000 rows hold 5 distinct prompts, with reuse as it is by default. Calls sent are the server's
count, and the log's rows are counted in `fleming.serving.inference` afterwards.

**latency.** 2,000 sequential calls each way after 200 to warm up, in blocks of 20 whose order rotates: straight
through the transport, through `gateway.call`, and as the statement `SELECT ai_query('chat', ?)`; the first two
are timed inside a coroutine on the gateway's event loop. The first call of each block is not counted, logging is
on, and "added" is the difference of the quantiles to the direct call's; the log of the gateway's calls is written
by its tick of once a second or between blocks, outside the time, while a statement's own commit is part of its time.

**memory.** Resident memory of one process, after a garbage collection and `malloc_trim`, after each of four
statements of 50,000 distinct calls (some 340 bytes
of request and 345 of answer, logged), with DuckDB's `memory_limit` at 256 MB so that its buffer pool cannot pass
for a leak or hide one; "flat" is the mean growth per 50,000 calls after the first 100,000, less what that pool grew
by, which holds more of the growing log up to its limit. The first variant keeps answers for reuse, for which
`ReuseCache` allows itself 128 MiB by its own estimate; the second has `cache => false` and keeps none. What DuckDB
(`duckdb_memory()`) and `ReuseCache` hold stands beside each; the rest is Python and the libraries.

**config_read.** The median of 500 times `session.snapshot_for`, each for a statement not seen before and as after a
commit to the store (without one, a look at its files is enough), with nothing in the tables changed in between.
Beside it the one read that finds the added endpoints and records their versions.

**transports.** 1,000 requests at once through a transport by itself, answers as in in_flight, CPU of that process per
request. Then one request is cancelled after half a second, and the server is asked whether its client went away.

**logging.** 16,384 rows with prompts and answers of some 1,400 characters of varied text, `cache => false`, in turns at
three gateways of one process: with the log as it is by default, with `durability` `off`, and with a log whose `add` the
benchmark replaces by one that drops every record. The time includes the last write into the table. The sizes are what
131,072 calls use of the store's file before and after packing, in proportion.

**crash.** Each round is a job of 20,000 rows with new prompts, killed with SIGKILL at random moments, by a seed: while
it opens, asks or closes, some two or three times, and run again until it ends. The mock is a process of its own with a
ledger; the number of a request is in its answer, so each record is compared with what the mock sent. All that the job
had shown is looked for in the log. "Answered, not logged" are requests that were on their way from the mock's socket
to the job when it was killed; they are paid twice.

**delta_export.** Four processes with a store each export to one place for 60 s; two of them are killed with SIGKILL
three times each, and run again at the end. Every call is then looked for in the Delta tables by its id.

**pii.** The guardrail `pii` with all its entities over the labelled corpus in `benchmarks/pii_corpus` (its README says
how it is made and labelled), and the same for Presidio's pattern recognisers, with context words and without a model,
where the extra `bench` is installed. The detector was developed against this corpus, so its figures there say how
well it does what it was made to do; the texts of the source `held_out` were written afterwards and not tuned on.
Presidio was fitted to neither. Times are of the whole guardrail, `examine` of a document with one text, the least of
several batches.

**guardrails.** Statements over 20,000 rows of some 230 characters, one in ten with an e-mail address and a card, at
endpoints that differ in their guardrails, in turns within one process; the share is the median of that of each round.

**faults.** 10,000 rows over an endpoint with two served entities, half of the traffic each, answers after 50 ms,
`max_concurrency` 64 (32 in the last case, so that the rows outlast the outage). The mixed faults are, by seed: 10 %
status 429 with `Retry-After: 1`, 5 % status 500, 1 % without an answer, 1 % cut off in the body, 0.5 % incomplete JSON.
`attempt_timeout_ms` is 2,000; `max_retries` 8 and `retry_on_timeout` true, because with both entities failing
17.5 % of their requests the default of 5 attempts would leave one or two of 10,000 rows without an answer. Requests
are counted by the servers, and so are the faults, except connections that were refused, which only the log knows, and
the answers of the entity that crawls: there a fault is a request whose client did not wait. The ideal is what a healthy
entity alone takes that answers `max_concurrency` requests at once; the difference is mostly the last rows of each of
the five vectors of 2,048, which DuckDB waits for: some hang, some have failed several times. The recovery is counted
from the server's own change to the end of the first answer in `serving.attempts`, less `breaker_open_ms`; it is below
zero where part of that interval had passed when the server recovered. litellm's Router gets two deployments,
`num_retries` 8, `timeout` 2, `simple-shuffle`, and 1,000 rows; by default it leaves a deployment out after a single
429, for as long as that asks or 5 s, and when all are left out it fails the calls: the mixed faults are shown without
its cooldowns too.

**capacity.** A server that answers 8, 32 or 100 requests at once after 100 ms each and refuses the next with 429 at
once; one statement whose rows would take 7 s at that capacity, from a gateway that knows nothing of it. Its goodput
is the answers a second after the first 3 s, to the end of the statement, against those of a bare loop that sends
exactly as many at once as there are places, in a process without DuckDB. The loop knows no vectors; the statement has
places idle for a moment at the end of each.

**pacing.** 2,500 rows under a limit of 6,000 calls a minute with `on_exceeded` `wait`, arrivals as the server saw
them. Then 1,000 rows from 10 connections at once, under a limit of 300 calls with `reject`. Last, CPU of the
gateway's process for each of 10,000 rows, in turns three times each: at an endpoint with nothing configured, and at
one with a rate limit that is never met, two permissions of which the caller's group has one, and two served entities.
"""


def save(about: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Rewrite the page."""
    machine = "".join(f"- {label}: {text}\n" for label, text in about.items())
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(TEXT.format(table=markdown(rows), machine=machine), "utf-8")
