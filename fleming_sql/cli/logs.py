"""`fleming logs`: the newest calls, and those that come."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import click

from fleming_sql.cli.options import Common, examples, reading_options
from fleming_sql.cli.output import Output, numbers_of
from fleming_sql.cli.periods import beginning
from fleming_sql.cli.problems import INTERRUPTED
from fleming_sql.cli.reading import open_log, signature
from fleming_sql.cli.values import json_of, text_of, visible
from fleming_sql.errors import StoreLocked
from fleming_sql.sqltext import quote_identifier

_SHOWN: Final = {
    "request_time": "time",
    "endpoint_name": "endpoint",
    "requester": "user",
    "status_code": "status",
    "execution_duration_ms": "ms",
    "error_message": "error",
}
"""The columns that are shown unless others are named, with what stands above them on a terminal, which is narrow."""
_BODIES: Final = ("request", "response")
_LOOK_EVERY_S: Final = 1.0
_WIDEST: Final = 32
"""Characters that the columns of a followed log are aligned to; what is longer pushes the rest of its line."""
_CALLS: Final = """
with
newest as (
    select *
    from fleming.serving.inference
    where log_seq > $after
        and request_time >= coalesce($since, timestamp '-infinity')
        and ($endpoint is null or endpoint_name = $endpoint)
        and ($user is null or requester = $user)
        and case
            when $status is null then true
            when $status = 'ok' then status_code = 200
            when $status = 'error' then status_code <> 200
            else status_code::varchar = $status or error_code = upper($status)
        end
    order by log_seq desc
    limit $count
),
usage as (
    select
        databricks_request_id,
        input_token_count,
        output_token_count,
        cached_input_token_count,
        reasoning_token_count,
        usage_context,
        cost_usd,
        tokens_estimated
    from fleming.serving.endpoint_usage
    where log_seq >= (select min(log_seq) from newest)
),
calls as (
    select *
    from newest
    left join usage using (databricks_request_id)
)
"""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which calls are wanted, and what of them."""

    columns: tuple[str, ...]
    status: str | None
    endpoint: str | None
    user: str | None
    since: datetime | None
    count: int | None
    """At most so many, the newest; None for all."""
    after: int = -1
    """The place in the log after which they come."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Calls, oldest first."""

    numeric: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    last: int
    """The place in the log of the newest call of all."""


@click.command(
    "logs",
    epilog=examples(
        "fleming logs",
        "fleming logs --status error --since 1h --columns request_time,error_code,error_message",
        "fleming logs -n 1 --bodies --json",
        "fleming logs --follow --endpoint chat",
    ),
)
@click.option("-n", "count", type=click.IntRange(min=0), default=20, show_default=True, help="How many, the newest.")
@click.option("--follow", is_flag=True, help="Go on with the calls that come, until Ctrl-C.")
@click.option("--endpoint", metavar="NAME", help="Only calls of this endpoint.")
@click.option("--status", metavar="[ok|error|CODE]", help="Only these; CODE as 429 or REQUEST_LIMIT_EXCEEDED.")
@click.option("--since", callback=beginning, metavar="WHEN", help="From then on: 1h, 7d, 2026-11-01 (UTC).")
@click.option("--columns", metavar="A,B,…", help="Columns of serving.inference and endpoint_usage to show.")
@click.option("--bodies", is_flag=True, help="Show requests and responses too.")
@reading_options
def logs(
    common: Common,
    count: int,
    follow: bool,
    endpoint: str | None,
    status: str | None,
    since: datetime | None,
    columns: str | None,
    bodies: bool,
) -> None:
    """Show the newest calls.

    Times are UTC, the newest call is at the end. On a terminal an error is cut to its line; --columns error_message
    shows all of it. A store that another process has open cannot be read until that
    process ends; --follow waits for it, and closes the store between its looks so that others can write to it. In the
    process that has it open, the same is read with SQL from fleming.serving.inference.
    """
    shown = tuple(name.strip() for name in columns.split(",")) if columns is not None else tuple(_SHOWN)
    shown += tuple(name for name in _BODIES if bodies and name not in shown)
    choice = _Choice(shown, status, endpoint, common.user, since, count)
    if follow:
        common.check_store()
        _follow(common, choice)
        return
    found = _look(common, choice)
    if common.as_json:
        common.output.rows(shown, found.rows)
    elif shown == tuple(_SHOWN) and columns is None and common.output.is_terminal:
        _show_narrow(common.output, found)
    else:
        rows = [[_short(value) for value in row] for row in found.rows]
        common.output.print(common.output.table(shown, rows, numeric=found.numeric))
    if not found.rows:
        common.output.note("no calls")


def _show_narrow(output: Output, found: _Found) -> None:
    """Show a line for each call: times to the second, and as much of its error as fits."""
    rows = [[_brief(name, value) for name, value in zip(_SHOWN, row, strict=True)] for row in found.rows]
    numeric = [_SHOWN[name] for name in found.numeric]
    output.print(output.table(tuple(_SHOWN.values()), rows, numeric=numeric, one_line=("error",)))


def _look(common: Common, choice: _Choice) -> _Found:
    """Open the store, read the calls and close it.

    Raises:
        BadParameter: A column, or a status, does not exist.
        StoreError: The store cannot be opened.
    """
    with open_log(common) as con:
        [(last,)] = con.execute("select coalesce(max(log_seq), -1) from fleming.serving.inference").fetchall()
        values = {
            "after": choice.after,
            "since": choice.since,
            "endpoint": choice.endpoint,
            "user": choice.user,
            "status": choice.status,
            "count": choice.count,
        }
        con.execute(f"{_CALLS} from calls limit 0", values)
        types = {str(column[0]): str(column[1]) for column in con.description}
        _check_columns(choice.columns, list(types))
        _check_status(con, choice.status)
        names = ", ".join(map(quote_identifier, choice.columns))
        rows = con.execute(f"{_CALLS} select {names} from calls order by log_seq", values).fetchall()  # noqa: S608  quoted
    return _Found(numbers_of(choice.columns, [types[name] for name in choice.columns]), rows, last)


def _check_columns(wanted: Sequence[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            raise click.BadParameter(
                f"there is no column {name!r}; there are: {', '.join(sorted(known))}", param_hint="--columns"
            )


def _check_status(con: Any, status: str | None) -> None:
    """Refuse what can be the status of no call, so that a slip is not taken for a quiet log."""
    if status is None or status in ("ok", "error") or status.isdecimal():
        return
    found = con.execute(
        "select error_code from fleming.error_codes union select error_code from fleming.serving.inference"
    ).fetchall()
    known = sorted(str(code) for (code,) in found if code is not None)
    if status.upper() in known:
        return
    near = difflib.get_close_matches(status.upper(), known, n=3, cutoff=0.5) or known
    told = f"{status!r} is the status of no call: give ok, error, an HTTP status (429) or a code: {', '.join(near)}"
    raise click.BadParameter(told, param_hint="--status")


def _follow(common: Common, choice: _Choice) -> None:
    """Write the calls as they come, until Ctrl-C. The store is opened when somebody has written to it."""
    lines = _Lines(common.output, choice.columns)
    seen: object = None
    waits = False
    try:
        while True:
            now = signature(common.store)
            if now != seen:
                try:
                    found = _look(common, choice)
                except StoreLocked:
                    if not waits:
                        common.output.note(
                            f"{common.store} is open in another process; its calls are shown when it has closed it",
                            "dim",
                        )
                    waits = True
                else:
                    lines.write(found)
                    choice = replace(choice, after=found.last, count=None)
                    seen, waits = now, False
            time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        click.get_current_context().exit(INTERRUPTED)


class _Lines:
    """A table whose end is not known: a line for each call, columns as wide as what has been in them."""

    def __init__(self, output: Output, columns: Sequence[str]) -> None:
        self._output = output
        self._columns = columns
        self._widths = [len(column) for column in columns]
        self._begun = False

    def write(self, found: _Found) -> None:
        """Write calls, with a header before the first."""
        if self._output.as_json:
            for call in found.rows:
                click.echo(json_of(dict(zip(self._columns, call, strict=True))))
            return
        rows = [[_short(value).replace("\n", "\\n") for value in row] for row in found.rows]
        for row in rows:
            self._widths = [max(width, min(len(cell), _WIDEST)) for width, cell in zip(self._widths, row, strict=True)]
        if not self._begun:
            self._line(list(self._columns), found.numeric)
            self._begun = True
        for cells in rows:
            self._line(cells, found.numeric)

    def _line(self, cells: Sequence[str], numeric: Sequence[str]) -> None:
        aligned = [
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, cell, width in zip(self._columns, cells, self._widths, strict=True)
        ]
        self._output.print("  ".join(aligned).rstrip())


def _brief(column: str, value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    text = _short(value)
    return " ".join(text.split()) if column == "error_message" else text


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds")
    if isinstance(value, float):
        return f"{value:.6g}"
    return visible(text_of(value))
