"""`fleming export`: the configuration as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from fleming_sql.cli.options import Common, common_options, examples


@click.command(
    "export",
    epilog=examples(
        "fleming export",
        "fleming export -o gateway.yaml",
        "fleming export --format sql -o gateway.sql",
    ),
)
@click.option("-o", "--output", "target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(["yaml", "sql"]), help="Default: by the ending of FILE, else yaml.")
@common_options
def export(common: Common, target: Path | None, form: Literal["yaml", "sql"] | None) -> None:
    """Write the configuration to a file.

    Only what differs from the defaults is written, in a stable order, so that the file can be kept under version
    control. Secrets are not in it, only where they are found; rows of the price list are not in it either.
    """
    from fleming_sql.cli.config_files import format_of, replace_file
    from fleming_sql.cli.formats import stdout_bytes
    from fleming_sql.configuration import ConfigStore

    chosen = form or (format_of(target, default="yaml") if target is not None else "yaml")
    with common.connect() as con:
        text = ConfigStore(con.duckdb).export(chosen)
    if target is None and common.as_json:
        common.output.json({"format": chosen, "configuration": text})
    elif target is None:
        with stdout_bytes() as out:  # not click.echo, which drops the terminal's sequences
            out.write(text.encode())
    else:
        replace_file(target, text)
        if common.as_json:
            common.output.json({"format": chosen, "file": str(target)})
        else:
            common.output.note(f"written to {target}")
