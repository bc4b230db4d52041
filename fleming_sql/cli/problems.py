"""What a command says when it fails: one message on stderr, or one JSON object there, and the exit code."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import click
import duckdb

from fleming_sql.errors import FlemingError

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130

_UDF: Final = re.compile(r"^[A-Za-z ]+ Error: Python exception occurred while executing the UDF: \w+: ")
"""What DuckDB puts before the text of an error that left a Python function."""


class CommandFailed(click.ClickException):
    """A command could not do what was asked for; exit code 1.

    Args:
        message: What was wrong, where to change it and what would be accepted.
        kind: The word for it in the JSON object, such as `NoStore`.
    """

    exit_code = FAILED

    def __init__(self, message: str, kind: str = "CommandFailed") -> None:
        super().__init__(message)
        self.kind = kind


def report(error: Exception, *, as_json: bool) -> int | None:
    """Write an error to stderr and return the exit code; None for what is a fault of this program.

    Args:
        error: What a command raised.
        as_json: Whether to write `{"error": {"type": …, "message": …, "exit_code": …}}` rather than words.
    """
    if isinstance(error, click.Abort):
        return _report_abort(error, as_json=as_json)
    described = _described(error)
    if described is None:
        return None
    kind, message, code = described
    if as_json:
        _write_json(kind, message, code)
    elif isinstance(error, click.UsageError):
        error.show()
    else:
        click.echo(f"Error: {message}", err=True)
    return code


def _report_abort(error: click.Abort, *, as_json: bool) -> int:
    interrupted = isinstance(error.__cause__, KeyboardInterrupt)
    kind, code = ("Interrupted", INTERRUPTED) if interrupted else ("Aborted", FAILED)
    if as_json:
        _write_json(kind, kind.lower(), code)
    else:
        click.echo(kind.lower(), err=True)
    return code


def _described(error: Exception) -> tuple[str, str, int] | None:
    if isinstance(error, CommandFailed):
        return error.kind, error.message, error.exit_code
    if isinstance(error, click.ClickException):
        return type(error).__name__, error.format_message(), error.exit_code
    if isinstance(error, FlemingError | duckdb.Error):
        return type(error).__name__, message_of(error), FAILED
    if isinstance(error, OSError):
        return type(error).__name__, str(error), FAILED
    return None


def message_of(error: Exception) -> str:
    """Return the text of an error without what DuckDB puts before that of an error from a Python function."""
    return _UDF.sub("", str(error))


def _write_json(kind: str, message: str, code: int) -> None:
    described: dict[str, Any] = {"error": {"type": kind, "message": message, "exit_code": code}}
    click.echo(json.dumps(described, ensure_ascii=False), err=True)
