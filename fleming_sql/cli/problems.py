"""What a command says when it fails: one message on stderr, or one JSON object there, and the exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import click
import duckdb

from fleming_sql.cli.values import visible
from fleming_sql.errors import FlemingError, StoreLocked

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130

_UDF: Final = re.compile(r"^[A-Za-z ]+ Error: Python exception occurred while executing the UDF: \w+: ")
"""What DuckDB puts before the text of an error that left a Python function."""
_CONDITION: Final = re.compile(r"\[([A-Z][A-Z0-9_.]*)\] ")
_CALL: Final = re.compile(r"request id ([0-9a-f-]{36})(?:, HTTP status (\d{3}))?\)")
_UNKNOWN_ENDPOINT: Final = re.compile(r'(there is no endpoint ".*?" in fleming\.endpoints)(?=; )', re.DOTALL)
_GATEWAY_ARGUMENT: Final = re.compile(r"\bgateway=(['\"]?)")
_PID: Final = re.compile(r"\(PID \d+\)")


class CommandFailed(click.ClickException):
    """A command could not do what was asked for; exit code 1.

    Args:
        message: What was wrong, where to change it and what would be accepted.
        kind: The word for it in the JSON object, such as `NoStore`.
        details: What else the JSON object has.
    """

    exit_code = FAILED

    def __init__(self, message: str, kind: str = "CommandFailed", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = dict(details or {})


def failure_of(error: Exception, store: str) -> CommandFailed | None:
    """Return what a command says of an error, in the words of the command; None for an error that stays as it is.

    Args:
        error: What the command raised.
        store: The path of the gateway store that it worked with.
    """
    if isinstance(error, CommandFailed):
        return CommandFailed(_naming(error.message, store), error.kind, error.details)
    if isinstance(error, FlemingError | duckdb.Error):
        return CommandFailed(told_of(error, store), type(error).__name__, call_details(error))
    return None


def told_of(error: FlemingError | duckdb.Error, store: str) -> str:
    """Return the text of an error, with the options of the command and the store that it speaks of.

    Args:
        error: What a statement, or opening the store, raised.
        store: The path of the gateway store.
    """
    text = message_of(error)
    if isinstance(error, StoreLocked) and "in another process" in text:
        holder = _PID.search(text)
        return (
            f"the gateway store {store} is open in another process{f' {holder[0]}' if holder else ''}, and one process "
            "at a time can work with it: ask there, where fleming.serving.inference has its calls, wait with "
            "`fleming logs --follow` until it has ended, or name another store with --gateway"
        )
    if isinstance(error, FlemingError):
        text = _GATEWAY_ARGUMENT.sub(lambda found: f"--gateway {found[1]}" if found[1] else "--gateway", text)
    return _naming(text, store)


def _naming(text: str, store: str) -> str:
    """Say which store it is that has no such endpoint: the command chose it."""
    return _UNKNOWN_ENDPOINT.sub(lambda found: f"{found[1]} of the gateway store {store}", text, count=1)


def call_details(error: Exception) -> dict[str, Any]:
    """Return what the error of an AI function is known by: `condition`, `status` and `request_id`.

    What it does not have is left out; of other errors there is nothing to return.
    """
    text = str(error)
    prefix = _UDF.match(text)
    return details_in(text[prefix.end() :]) if prefix else {}


def details_in(text: str) -> dict[str, Any]:
    """Return the same for the text of an error that a call ended with."""
    condition, calls = _CONDITION.match(text), _CALL.findall(text)
    details: dict[str, Any] = {"condition": condition[1]} if condition else {}
    if calls:
        request_id, status = calls[-1]  # what a provider said stands before it
        details |= {"request_id": request_id, **({"status": int(status)} if status else {})}
    return details


def report(error: Exception, *, as_json: bool) -> int | None:
    """Write an error to stderr and return the exit code; None for what is a fault of this program.

    Args:
        error: What a command raised.
        as_json: Whether to write `{"error": {"type": …, "message": …, "exit_code": …}}` rather than words; the object
            has the details of a `CommandFailed` too.
    """
    if isinstance(error, click.Abort):
        return _report_abort(error, as_json=as_json)
    described = _described(error)
    if described is None:
        return None
    kind, message, code = described
    if as_json:
        _write_json(kind, message, code, error.details if isinstance(error, CommandFailed) else None)
    elif isinstance(error, click.UsageError):
        error.show()
    else:
        click.echo(f"Error: {visible(message)}", err=True)
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
    if isinstance(error, OSError):
        return type(error).__name__, str(error), FAILED
    return None


def message_of(error: Exception) -> str:
    """Return the text of an error without what DuckDB puts before that of an error from a Python function."""
    return _UDF.sub("", str(error))


def _write_json(kind: str, message: str, code: int, details: Mapping[str, Any] | None = None) -> None:
    described = {"error": {"type": kind, "message": message, "exit_code": code, **(details or {})}}
    click.echo(json.dumps(described, ensure_ascii=False), err=True)
