"""`fleming usage`: calls, tokens and cost, added up, as a table and as bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import click

from fleming_sql.cli.charts import bars
from fleming_sql.cli.formats import stdout_bytes, write_text
from fleming_sql.cli.options import Common, examples, reading_options
from fleming_sql.cli.output import numbers_of
from fleming_sql.cli.periods import beginning, end
from fleming_sql.cli.reading import open_log
from fleming_sql.cli.statements import Rows
from fleming_sql.cli.summary import dollars
from fleming_sql.sqltext import quote_identifier

_DIMENSIONS: Final = {
    "day": "u.request_time::date",
    "user": "u.requester",
    "endpoint": "u.endpoint_name",
    "model": "e.entity_name",
    "entity": "u.endpoint_name || '/' || e.served_entity_name",
}
_CONTEXT: Final = "context:"
_CHARTS: Final = {"cost": "cost_usd", "calls": "calls", "tokens": "tokens"}
# What is not known stays NULL, as in the views serving.usage_by_…, which know only one way of grouping each.
_QUERY: Final = """
select
    {dimensions},
    count(*) as calls,
    count(*) filter (where u.status_code <> 200) as errors,
    count(*) filter (where u.cache_hit) as cache_hits,
    sum(u.input_token_count) filter (where u.input_token_count > 0 or u.cache_hit)::bigint as input_tokens,
    sum(u.output_token_count) filter (where u.input_token_count > 0 or u.cache_hit)::bigint as output_tokens,
    fleming.__known_cost(sum(u.cost_usd), count(u.cost_usd) = count(*)) as cost_usd,
    count(*) filter (where u.cost_usd is null) as unpriced_calls
from fleming.serving.endpoint_usage as u
left join fleming.serving.served_entities as e on e.served_entity_id = u.served_entity_id
where u.request_time >= coalesce($since, timestamp '-infinity')
    and u.request_time < coalesce($until, timestamp 'infinity')
    and ($endpoint is null or u.endpoint_name = $endpoint)
    and ($user is null or u.requester = $user)
group by all
order by all
"""


def _dimensions(_ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    for text in given:
        if text not in _DIMENSIONS and (not text.startswith(_CONTEXT) or text == _CONTEXT):
            raise click.BadParameter(
                f"{text!r} is nothing to group by: use {', '.join(_DIMENSIONS)}, or context:KEY with a key of "
                "usageContext"
            )
    return given


@click.command(
    "usage",
    epilog=examples(
        "fleming usage",
        "fleming usage --by endpoint --since 7d",
        "fleming usage --by day --by model --since 2026-11-01 --until 2026-11-30 --format csv > november.csv",
        "fleming usage --by context:team --chart calls",
    ),
)
@click.option(
    "--by",
    "by",
    multiple=True,
    default=("day",),
    callback=_dimensions,
    metavar=f"[{'|'.join(_DIMENSIONS)}|context:KEY]",
    help="What to group by. Repeatable. Default: day.",
)
@click.option(
    "--since",
    callback=beginning,
    metavar="WHEN",
    help="From then on: 7d, 12h, 2026-11-01, 2026-11-01T12:30 (UTC).",
)
@click.option("--until", callback=end, metavar="WHEN", help="Until then; a date counts with its whole day.")
@click.option("--endpoint", metavar="NAME", help="Only calls of this endpoint.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "jsonl", "markdown"]),
    help="Form of the result. Default: table.",
)
@click.option(
    "--chart",
    type=click.Choice([*_CHARTS, "none"]),
    help="Bars of this below the table. Default: cost, or calls where nothing cost anything; none in a pipe.",
)
@reading_options
def usage(
    common: Common,
    by: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    endpoint: str | None,
    kind: str | None,
    chart: str | None,
) -> None:
    """Show what was used and what it cost.

    Calls, failed calls, answers that were reused, tokens and US dollars, from fleming.serving.endpoint_usage; days are
    those of UTC. cost_usd is NULL where nothing is known of it, and unpriced_calls says how many calls it leaves out.
    """
    if common.as_json and kind not in (None, "json"):
        raise click.UsageError(f"--json and --format {kind} contradict each other: give one of them")
    kind = kind or ("json" if common.as_json else "table")
    with open_log(common) as con:
        con.execute(
            _query(by), {"since": since, "until": until, "endpoint": endpoint, "user": common.user, **_keys(by)}
        )
        rows = Rows(con, tuple(column[0] for column in con.description), tuple(str(c[1]) for c in con.description))
        if kind != "table":
            with stdout_bytes() as out:
                write_text(kind, rows, out)
            return
        found = con.fetchall()
    output = common.output
    output.print(output.table(rows.columns, found, numeric=numbers_of(rows.columns, rows.types)))
    if not found:
        output.note("no calls")
    elif chart != "none" and (chart is not None or output.is_terminal):
        _draw(common, rows.columns, found, chart, len(by))


def _query(by: Sequence[str]) -> str:
    columns = [
        f"{_DIMENSIONS.get(name, f'u.usage_context[$key_{number}]')} as {quote_identifier(name)}"
        for number, name in enumerate(by)
    ]
    return _QUERY.format(dimensions=",\n    ".join(columns))


def _keys(by: Sequence[str]) -> dict[str, str]:
    return {f"key_{number}": name.removeprefix(_CONTEXT) for number, name in enumerate(by) if name not in _DIMENSIONS}


def _draw(
    common: Common, columns: Sequence[str], found: Sequence[Sequence[Any]], chart: str | None, dimensions: int
) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in found]
    for row in rows:
        row["tokens"] = (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
    if chart is None:
        chart = "cost" if any(row["cost_usd"] for row in rows) else "calls"
    labels = [" ".join("-" if value is None else str(value) for value in row[:dimensions]) for row in found]
    values = [row[_CHARTS[chart]] for row in rows]
    told = [dollars(value) if chart == "cost" else f"{value:,}" for value in values]
    common.output.print(f"\n{chart}")
    common.output.print(bars(labels, [float(value or 0) for value in values], told, common.output.out.width))
