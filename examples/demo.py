"""Classify, summarise and extract from support tickets: one SQL statement each, then the log of it all.

`make demo` runs it with the simulated model, which needs no key and no network.
`make demo DEMO='--model auto'` takes what it finds: OpenAI if OPENAI_API_KEY is set, else a local Ollama or
llama.cpp, else the simulated model.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import httpx

import fleming_sql

HERE: Final = Path(__file__).resolve().parent
TICKETS: Final = HERE / "data" / "support_tickets.csv"
WIDTH: Final = 100
PROBE_S: Final = 0.3
LOCAL_ROWS: Final = 40
"""A model on this machine is slow: this many rows unless --rows says otherwise."""
LOCAL: Final = {"ollama": "http://127.0.0.1:11434/v1", "llamacpp": "http://127.0.0.1:8080/v1"}
BOX_TO_ASCII: Final = str.maketrans("─│┌┐└┘├┤┬┴┼·…", "-|+++++++++..")


@dataclass(frozen=True)
class Model:
    """What stands behind the endpoint."""

    kind: str
    provider: str
    name: str
    note: str
    base_url: str | None = None
    credential: str | None = None
    max_concurrency: int = 128
    parameters: dict[str, Any] = field(default_factory=dict)


SIMULATED: Final = Model(
    "simulated",
    "simulated",
    "demo",
    "The model is SIMULATED: simple rules make the answers up, so look at their shape, not their sense.\n"
    "It takes about 40 ms per answer, and fails 3 % of the requests so that there is something to retry.\n"
    "For a real model: --model openai (with OPENAI_API_KEY set), ollama, llamacpp or auto.",
    parameters={
        "latency_ms": {"median_ms": 40, "sigma": 0.5},
        "error_rate": 0.03,
        "errors": ["rate_limit", "overloaded"],
    },
)
OPENAI: Final = Model(
    "openai",
    "openai",
    "gpt-4.1-mini",
    "The model is gpt-4.1-mini at OpenAI. The calls are paid for with the key in OPENAI_API_KEY.",
    credential="openai",
    parameters={"temperature": 0},
)


def main() -> int:
    options = read_arguments()
    model = find_model(options.model)
    if model is None:
        say(f"--model {options.model}: {missing(options.model)}")
        return 2
    limit = options.rows
    if limit is None and model.kind in LOCAL:
        limit = LOCAL_ROWS
    try:
        with fleming_sql.connect(options.database) as con:
            return run(con, model, limit)
    except (KeyboardInterrupt, RuntimeError) as error:  # DuckDB turns Ctrl-C into a RuntimeError
        if isinstance(error, RuntimeError) and "interrupted" not in str(error):
            raise
        say("\nInterrupted: what was under way is broken off and logged.")
        return 130
    except (fleming_sql.FlemingError, duckdb.Error) as error:
        say(f"{type(error).__name__}: {error}")
        return 1


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=["auto", "simulated", "openai", "ollama", "llamacpp"], default="simulated")
    parser.add_argument("--rows", type=int, help=f"how many tickets; all by default, {LOCAL_ROWS} with a local model")
    parser.add_argument("--database", default=":memory:", help="DuckDB file to work in; its endpoint chat is set anew")
    options = parser.parse_args()
    if options.rows is not None and options.rows < 1:
        parser.error("--rows must be 1 or more")
    return options


def find_model(wanted: str) -> Model | None:
    """Return the model to use, None if the one that was asked for cannot be had."""
    if wanted in ("openai", "auto") and os.environ.get("OPENAI_API_KEY"):
        return OPENAI
    for kind, base_url in LOCAL.items():
        if wanted in (kind, "auto") and (name := ask_for_models(base_url)):
            note = f"The model is {name}, served by {kind} on this machine."
            return Model(kind, "openai", name, note, base_url=base_url, max_concurrency=4)
    return SIMULATED if wanted in ("simulated", "auto") else None


def ask_for_models(base_url: str) -> str | None:
    """Return the first chat model of a local server, None if nothing answers in time."""
    try:
        response = httpx.get(f"{base_url}/models", timeout=PROBE_S, trust_env=False)
        names = [str(item["id"]) for item in response.raise_for_status().json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    return next((name for name in names if "embed" not in name), None)


def missing(kind: str) -> str:
    if kind == "openai":
        return "the environment variable OPENAI_API_KEY is not set"
    return f"no server answers at {LOCAL[kind]}/models within {PROBE_S} s"


def run(con: fleming_sql.Connection, model: Model, limit: int | None) -> int:
    say(model.note)
    set_up(con, model, limit)
    started = con.execute("select now() at time zone 'UTC'").fetchall()[0][0]
    failed = [name for name, answers in ANSWERS.items() if not run_statement(con, name, answers)]
    tell_the_log(con, started)
    if "classify" not in failed:
        rerun(con, "classify")
    return 1 if failed else 0


def set_up(con: fleming_sql.Connection, model: Model, limit: int | None) -> None:
    """Load the tickets, and put the model behind the endpoint `chat`: three inserts are the whole set-up."""
    con.execute(
        "create or replace table support_tickets as from read_csv(?) order by ticket_id limit ?",
        [str(TICKETS), limit if limit is not None else 1_000_000],
    )
    con.execute("delete from fleming.served_entities where endpoint = 'chat'")
    con.execute(
        "insert or replace into fleming.endpoints (name, description, max_concurrency) values ('chat', ?, ?)",
        [f"demo ({model.kind})", model.max_concurrency],
    )
    if model.credential:
        con.execute(
            "insert or replace into fleming.credentials (name, source, reference) values (?, 'env', 'OPENAI_API_KEY')",
            [model.credential],
        )
    con.execute(
        "insert into fleming.served_entities "
        "(endpoint, name, provider, model, base_url, credential, parameters) "
        "values ('chat', ?, ?, ?, ?, ?, ?)",
        [
            model.kind,
            model.provider,
            model.name,
            model.base_url,
            model.credential,
            json.dumps(model.parameters),
        ],
    )


def run_statement(con: fleming_sql.Connection, name: str, answers: str) -> bool:
    """Run a file of examples/sql and show the statement, how long it took and some answers."""
    text = read_statement(name)
    say(f"\n=== examples/sql/{name}.sql\n\n{text}\n")
    rows, empty = con.execute("select count(*), count_if(body is null) from support_tickets").fetchall()[0]
    begin = time.perf_counter()
    try:
        con.execute(text)
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except duckdb.Error as error:
        say(f"The statement failed: {error}")
        return False
    seconds = time.perf_counter() - begin
    say(f"{rows} rows in {seconds:.2f} s. {empty} of them have no text: NULL in, NULL out, no call.")
    show_table(con, answers)
    return True


def read_statement(name: str) -> str:
    return (HERE / "sql" / f"{name}.sql").read_text("utf-8").strip()


ANSWERS: Final = {
    "classify": r"""
        select
            case
                when answer.errorMessage is not null then '(failed)'
                else coalesce(lower(answer.result), '(no text)')
            end as category,
            count(*) as tickets,
            regexp_replace(min_by(body, ticket_id), '\s+', ' ', 'g')[:60] as first_of_them
        from ticket_categories inner join support_tickets using (ticket_id)
        group by all order by tickets desc, category limit 16
    """,
    "summarise": r"""
        select ticket_id, regexp_replace(summary, '\s+', ' ', 'g')[:80] as summary
        from ticket_summaries where summary is not null order by ticket_id limit 6
    """,
    "extract": r"""
        select
            ticket_id, ticket.language[:10] as language, ticket.sentiment[:13] as sentiment,
            ticket.order_id[:16] as order_id, ticket.amount, ticket.currency[:9] as currency,
            ticket.wants_refund as refund
        from ticket_facts where ticket is not null
        order by coalesce(regexp_matches(ticket.order_id, '\d{4}'), false) desc, ticket_id limit 6
    """,
}

USAGE: Final = """
    select usage_context['step'] as step, count(*) as calls, count(*) filter (status_code <> 200) as errors,
        count(*) filter (cache_hit) as cache_hits, sum(input_token_count)::bigint as input_tokens,
        sum(output_token_count)::bigint as output_tokens
    from fleming.serving.endpoint_usage where request_time >= ?
    group by all order by min(request_time)
"""
LATENCY: Final = """
    select endpoint_name, status_code, count(*) as calls, max(attempts) as most_attempts,
        round(quantile_cont(execution_duration_ms, 0.5))::bigint as p50_ms,
        round(quantile_cont(execution_duration_ms, 0.99))::bigint as p99_ms
    from fleming.serving.inference where request_time >= ? and not cache_hit
    group by all order by status_code
"""
ATTEMPTS: Final = """
    select
        reason, status_code, error_code, count(*) as requests,
        round(median(duration_ms))::bigint as median_ms
    from fleming.serving.attempts where started_at >= ?
    group by all order by reason, status_code
"""


def tell_the_log(con: fleming_sql.Connection, started: datetime) -> None:
    say("\n=== What the log says\n")
    say("fleming.serving.endpoint_usage: one row per call")
    show_table(con, USAGE, started)
    say("fleming.serving.inference: one row per call, with bodies and timings")
    show_table(con, LATENCY, started)
    say("fleming.serving.attempts: one row per request that was sent")
    show_table(con, ATTEMPTS, started)
    retries = con.execute(
        "select count(*) from fleming.serving.attempts where started_at >= ? and reason = 'retry'", [started]
    ).fetchall()[0][0]
    say(f"{retries} requests were retries.")


def rerun(con: fleming_sql.Connection, name: str) -> None:
    """Run a statement again and count what it sent."""
    say(f"\n=== examples/sql/{name}.sql once more\n")
    before = count_attempts(con)
    begin = time.perf_counter()
    con.execute(read_statement(name))
    seconds = time.perf_counter() - begin
    sent = count_attempts(con) - before
    why = "calls that had failed were made again" if sent else "the cache had all answers"
    say(f"The re-run took {seconds:.2f} s and sent {sent} requests: {why}.")


def count_attempts(con: fleming_sql.Connection) -> int:
    return int(con.execute("select count(*) from fleming.serving.attempts").fetchall()[0][0])


def show_table(con: fleming_sql.Connection, query: str, *parameters: object) -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        con.sql(query, params=list(parameters)).show(max_width=WIDTH, max_rows=40)
    say(text.getvalue().rstrip("\n"))


def say(text: str) -> None:
    """Print, in plain characters where the terminal has no others."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(BOX_TO_ASCII).encode(encoding, "replace").decode(encoding)
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
