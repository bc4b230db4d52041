"""`fleming endpoint`: which endpoints there are, how one is configured, and one call with all that was decided."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click
import duckdb

from fleming_sql.cli.options import Common, common_options, examples

if TYPE_CHECKING:
    from fleming_sql import Connection
    from fleming_sql.connection.tracing import TracedCall

_SHOWN: Final = 400
"""Characters of an answer."""
_LIST: Final = """
select
    e.name,
    e.task,
    e.enabled,
    coalesce(s.entities, '') as served_by,
    coalesce(p.problems, 0) as problems,
    coalesce(c.calls, 0) as calls_today,
    coalesce(c.errors, 0) as errors_today
from fleming.endpoints as e
left join (
    select endpoint, string_agg(name, ', ' order by position, name) as entities
    from fleming.served_entities
    where enabled
    group by endpoint
) as s on s.endpoint = e.name
left join (
    select endpoint, count(*) as problems
    from fleming.config_problem_endpoints
    group by endpoint
) as p on p.endpoint = e.name
left join (
    select endpoint_name, count(*) as calls, count(*) filter (where status_code <> 200) as errors
    from fleming.serving.inference
    where request_time >= (now() at time zone 'UTC')::date
    group by endpoint_name
) as c on c.endpoint_name = e.name
order by e.name
"""
_TODAY: Final = """
select
    count(*) as calls,
    count(*) filter (where status_code <> 200) as errors,
    count(*) filter (where cache_hit) as cache_hits,
    round(median(execution_duration_ms) filter (where not cache_hit and status_code = 200), 1) as median_ms
from fleming.serving.inference
where endpoint_name = ? and request_time >= (now() at time zone 'UTC')::date
"""
_NUMBERS: Final = ("problems", "calls_today", "errors_today")


@click.group(
    "endpoint",
    epilog=examples(
        "fleming endpoint list",
        "fleming endpoint show chat",
        'fleming endpoint test chat "Say hello"',
    ),
)
def endpoint() -> None:
    """Look at endpoints, and test one."""


@endpoint.command("list", epilog=examples("fleming endpoint list", "fleming endpoint list --json"))
@common_options
def list_endpoints(common: Common) -> None:
    """List the endpoints, with their problems and today's calls (UTC)."""
    with common.connect() as con:
        result = con.execute(_LIST)
        columns = [column[0] for column in result.description or ()]
        rows = result.fetchall()
    if not rows and not common.as_json:
        common.output.note("there are no endpoints yet: insert them into fleming.endpoints, or use `fleming apply`")
        return
    common.output.rows(columns, rows, numeric=_NUMBERS)


@endpoint.command("show", epilog=examples("fleming endpoint show chat", "fleming endpoint show chat --json"))
@click.argument("name")
@common_options
def show(common: Common, name: str) -> None:
    """Show how an endpoint is configured, what is wrong with it, and today's calls (UTC).

    The configuration is shown as `fleming export` writes it: what is not there has its default. With --json it is
    shown in full.
    """
    from fleming_sql.cli.config_files import describe_problems
    from fleming_sql.configuration import ConfigStore

    with common.connect() as con:
        _check_known(con.duckdb, name)
        config = ConfigStore(con.duckdb)
        text, rows = config.export("yaml", endpoint=name), config.rows_of(name)
        problems = [problem for problem in config.problems() if problem.endpoint == name]
        result = con.execute(_TODAY, [name])
        columns, today = [column[0] for column in result.description or ()], result.fetchall()[0]
    if common.as_json:
        common.output.json(
            {
                "endpoint": name,
                "configuration": rows,
                "problems": [problem.as_json() for problem in problems],
                "today": dict(zip(columns, today, strict=True)),
            }
        )
        return
    common.output.print(text.partition("\n\n")[2])
    common.output.rows([f"{column} today" for column in columns], [today], numeric=[f"{c} today" for c in columns])
    if problems:
        common.output.out.print(describe_problems(problems), soft_wrap=True)


@endpoint.command(
    "test",
    epilog=examples(
        "fleming endpoint test chat",
        'fleming endpoint test chat "Say hello" --user ada',
        "fleming endpoint test forecast '{\"inputs\": [1, 2]}'",
        "fleming endpoint test chat --json | jq '.steps[].decision'",
    ),
)
@click.argument("name")
@click.argument("prompt", default="Answer in one word: are you there?")
@click.option("--cache", is_flag=True, help="Take an earlier answer to the same prompt, as statements do.")
@common_options
def test(common: Common, name: str, prompt: str, cache: bool) -> None:
    """Make one call, and show what each step decided.

    It is a real call: it is paid for, counts for limits and budgets, and is in the log. PROMPT that is a JSON object
    is taken as the request itself, such as one with messages, or with the inputs of a custom model. The exit code is 1
    if the call fails.
    """
    from fleming_sql.cli.problems import CommandFailed, details_in

    with common.connect() as con:
        _warm_up(con, name)
        traced = con.trace(name, _request(prompt), cache=cache)
    if common.as_json:
        common.output.json(traced.as_json())
    else:
        _show_trace(common, traced)
    if traced.error is not None:
        details = {**details_in(traced.error), "status": traced.status, "request_id": traced.request_id}
        raise CommandFailed(traced.error, traced.error_code or "CallFailed", details)


def _warm_up(con: Connection, name: str) -> None:
    """Have done what only the first call of a process needs, such as imports, so that the times are those of a call."""
    with suppress(duckdb.Error):  # the call itself tells what is wrong
        con.execute("select ai_query(?, word) from (select 'word' as word) where false", [name]).fetchall()


def _show_trace(common: Common, traced: TracedCall) -> None:
    rows = [
        [
            step.name,
            f"{step.at_ms:.1f}",
            f"{step.took_ms:.1f}",
            "failed" if "condition" in step.facts else step.decision,
        ]
        for step in traced.steps
    ]
    common.output.rows(["step", "at ms", "took ms", "decision"], rows, numeric=["at ms", "took ms"])
    if traced.error is None:
        common.output.print(f"\n{_answer(traced.answer)}")


def _answer(answer: Any) -> str:
    if isinstance(answer, list) and answer and isinstance(answer[0], float):
        return f"{len(answer)} numbers, the first are {', '.join(f'{number:.4f}' for number in answer[:4])}"
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _request(prompt: str) -> Any:
    try:
        value = json.loads(prompt)
    except ValueError:
        return prompt
    return value if isinstance(value, dict) else prompt


def _check_known(con: duckdb.DuckDBPyConnection, name: str) -> None:
    from fleming_sql.cli.problems import CommandFailed
    from fleming_sql.gateway.plan import unknown_endpoint

    names = [row[0] for row in con.execute("select name from fleming.endpoints").fetchall()]
    if name not in names:
        raise CommandFailed(unknown_endpoint(name, names), "UnknownEndpoint")
