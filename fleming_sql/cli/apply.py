"""`fleming apply`: the configuration becomes what a file says, after the difference was shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fleming_sql.cli.options import Common, common_options, examples

if TYPE_CHECKING:
    from fleming_sql.configuration import Plan


@click.command(
    "apply",
    epilog=examples(
        "fleming apply gateway.yaml --dry-run",
        "fleming apply gateway.yaml",
        "fleming apply gateway.yaml --yes --prune",
        "fleming export | ssh host fleming apply - --yes",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--prune", is_flag=True, help="Remove rows that FILE does not have, of the tables that it has.")
@click.option("--force", is_flag=True, help="Apply it though it makes new problems.")
@click.option("--format", "form", type=click.Choice(["yaml", "sql"]), help="Default: by the ending of FILE.")
@common_options
def apply(
    common: Common,
    file: Path,
    dry_run: bool,
    yes: bool,
    prune: bool,
    force: bool,
    form: Literal["yaml", "sql"] | None,
) -> None:
    """Make the configuration what a file says.

    FILE is YAML, or SQL of the kind that `fleming export --format sql` writes; - is the standard input. The difference
    is shown first; then all of it is applied, or nothing. A row that is in FILE becomes as it stands there: a column
    that it does not have gets its default. Rows that are not in FILE stay, unless --prune is given; tables that are not
    in FILE stay in any case.

    A file that makes new problems, as `fleming check` would show them, is refused without --force.
    """
    from fleming_sql.cli.config_files import format_of, read_text
    from fleming_sql.cli.problems import CommandFailed
    from fleming_sql.configuration import ConfigStore

    chosen = form or format_of(file, default="yaml" if str(file) == "-" else None)
    if prune and chosen == "sql":
        raise CommandFailed("--prune is for YAML files: a SQL file removes rows with delete statements", "WrongOption")
    text = read_text(file)
    with common.connect() as con:
        config = ConfigStore(con.duckdb)
        plan = config.plan(text, str(file), chosen, prune=prune)
        if not common.as_json:
            _show(common, plan)
        refusal = None if plan.diff.is_empty else _refusal(plan, dry_run=dry_run, force=force)
        if refusal is None and not (plan.diff.is_empty or dry_run or yes):
            refusal = _ask(common, is_file=str(file) != "-")
        applied = refusal is None and not dry_run and not plan.diff.is_empty
        if applied:
            config.apply(plan, force=force)
    if common.as_json:
        common.output.json({"applied": applied, **plan.as_json()})
    if refusal is not None:
        raise CommandFailed(refusal, "NotApplied")
    if applied and not common.as_json:
        common.output.note("applied")


def _show(common: Common, plan: Plan) -> None:
    from fleming_sql.cli.config_files import describe, describe_problems

    if plan.diff.is_empty:
        common.output.note("nothing to change")
        return
    common.output.out.print(describe(plan.diff), soft_wrap=True)
    if plan.problems or plan.warnings:
        common.output.err.print(describe_problems([*plan.problems, *plan.warnings]), soft_wrap=True)


def _ask(common: Common, *, is_file: bool) -> str | None:
    """Ask whether to go on; return why not, None for yes."""
    if common.as_json or not is_file or not sys.stdin.isatty():
        return "nothing was applied: give --yes to apply it without being asked"
    return None if click.confirm("Apply?", err=True) else "nothing was applied"


def _refusal(plan: Plan, *, dry_run: bool, force: bool) -> str | None:
    """Return why the plan may not be carried out, None where it may."""
    if not plan.problems or force:
        return None
    count = len(plan.problems)
    what = "a new problem" if count == 1 else f"{count} new problems"
    would = "it would be refused" if dry_run else "nothing was applied"
    first = plan.problems[0]
    return f"the file makes {what} ({first.place}: {first.problem}), so {would}: change it, or give --force"
