"""Configuration files on the command line: their format, reading and writing them, and differences for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from fleming_sql.cli.problems import CommandFailed
from fleming_sql.cli.values import text_of, visible
from fleming_sql.configuration import Diff, FileFormat, Problem, TableDiff
from fleming_sql.configuration.values import to_file

_ENDINGS: Final[dict[str, FileFormat]] = {".yaml": "yaml", ".yml": "yaml", ".json": "yaml", ".sql": "sql"}
"""JSON is YAML too."""


def format_of(path: Path, *, default: FileFormat | None = None) -> FileFormat:
    """Return the format of a file by its name.

    Raises:
        CommandFailed: The name says none, and there is no default.
    """
    form = _ENDINGS.get(path.suffix.lower(), default)
    if form is None:
        raise CommandFailed(
            f"the ending of {path} tells no format: call it .yaml or .sql, or say --format yaml or --format sql",
            "UnknownFormat",
        )
    return form


def read_text(path: Path) -> str:
    """Return the text of a file, of the standard input for `-`.

    Raises:
        CommandFailed: It cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise CommandFailed(f"the file {path} cannot be read: {error.strerror}", "UnreadableFile") from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"the file {path} is not UTF-8 text (byte {error.start})", "UnreadableFile") from None


def replace_file(path: Path, text: str) -> None:
    """Write a file as a whole: one that is there stays as it is until the new one is complete.

    Raises:
        CommandFailed: It cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        new.write_text(text, "utf-8")
        if path.exists():
            new.chmod(path.stat().st_mode & 0o777)
        new.replace(path)
    except OSError as error:
        raise CommandFailed(f"the file {path} cannot be written: {error.strerror}", "UnwritableFile") from None
    finally:
        new.unlink(missing_ok=True)


def describe(diff: Diff) -> Text:
    """Return a difference for people: + rows that come, ~ rows that change, column by column, - rows that go.

    A column whose value is in the row's name is not repeated.
    """
    text = Text()
    for found in diff.tables:
        text.append(f"{found.table.name}\n", "bold")
        for line, style in _lines(found):
            text.append(f"{visible(line)}\n", style)
        if found.table.name == "permissions":
            for endpoint in diff.opened:
                text.append(f"  ! {endpoint} will be open to all: its last permission goes\n", "bold red")
    added, changed, removed = diff.count()
    text.append(f"{added} added, {changed} changed, {removed} removed")
    return text


def _lines(found: TableDiff) -> Iterator[tuple[str, str]]:
    table = found.table
    for row in found.added:
        yield f"  + {table.label(row.values)}", "green"
        unlabelled = table.unlabelled(row.values)
        for name, value in found.given(row).items():
            if name in unlabelled:
                yield f"      {name}: {_value(value)}", "green"
    for changed in found.changed:
        yield f"  ~ {table.label(changed.new.values)}", "yellow"
        for name in changed.columns:
            old, new = (to_file(table.columns[name], row.values[name]) for row in (changed.old, changed.new))
            yield f"      {name}: {_value(old)} -> {_value(new)}", "yellow"
    for row in found.removed:
        yield f"  - {table.label(row.values)}", "red"


def _value(value: Any) -> str:
    return "NULL" if value is None else visible(text_of(value)).replace("\n", "\n        ")


def describe_problems(problems: tuple[Problem, ...] | list[Problem]) -> Text:
    """Return problems for people, one paragraph each."""
    text = Text()
    for problem in problems:
        kind, style = ("warning", "yellow") if problem.is_warning else ("problem", "red")
        text.append(f"{kind}: ", style)
        text.append(f"{problem.place}: {problem.problem}\n    {problem.remedy}\n")
    text.rstrip()
    return text
