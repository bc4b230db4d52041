"""The command `fleming`: which commands there are, and what becomes of an error.

A command is one line in `COMMANDS` and a module beside this one. The module is imported when its command is run, so
that `fleming --help` answers at once. A command takes `@common_options`, which gives it a `Common`: where the store is,
who asks, and the `Output` to write to.

Exit codes:
    0    done
    1    what was asked for failed: a statement failed, the store cannot be opened, problems were found
    2    wrong usage: an option, argument or value that does not exist
    130  interrupted (Ctrl-C)
    141  the reader of a pipe went away, as `head` does
    143  ended by SIGTERM while a statement ran
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

import click

from fleming_sql import __version__


class Entry(NamedTuple):
    """A command that is loaded when it is used."""

    target: str
    """`module:attribute`, the attribute being a click command or group."""
    summary: str
    """What `fleming --help` says of it: the first line of its own help, which the tests compare."""


COMMANDS: Final[dict[str, Entry]] = {
    "init": Entry("fleming_sql.cli.init:init", "Make a gateway store."),
    "sql": Entry("fleming_sql.cli.sql:sql", "Run SQL statements, with ai_query in them."),
    "shell": Entry("fleming_sql.cli.shell:shell", "Type SQL statements at a prompt."),
    "usage": Entry("fleming_sql.cli.usage:usage", "Show what was used and what it cost."),
    "logs": Entry("fleming_sql.cli.logs:logs", "Show the newest calls."),
    "endpoint": Entry("fleming_sql.cli.endpoint:endpoint", "Look at endpoints, and test one."),
    "check": Entry("fleming_sql.cli.check:check", "Find what is wrong with the configuration."),
    "apply": Entry("fleming_sql.cli.apply:apply", "Make the configuration what a file says."),
    "export": Entry("fleming_sql.cli.export:export", "Write the configuration to a file."),
    "doctor": Entry("fleming_sql.cli.doctor:doctor", "Check the installation and its surroundings."),
}
PIPE_CLOSED: Final = 141


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, and whose errors become one message.

    Args:
        entries: The commands by name, in the order of the help.
    """

    def __init__(self, *args: Any, entries: dict[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are declared."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry.target.split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  an entry of this file
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; when the reader of its output goes away, end quietly, as programs do that a pipe kills."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is left in the buffer must have somewhere to go, or the interpreter complains at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and end the process with its exit code: an error becomes one message."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            _check_streams(given)
            code = super().main(
                given,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except Exception as error:
            from fleming_sql.cli.problems import report

            code = report(error, as_json="--json" in given)
            if code is None:
                raise
        sys.exit(code if isinstance(code, int) else 0)


def _check_streams(arguments: Sequence[str]) -> None:
    """Refuse what no command can work with.

    Raises:
        UsageError: Stdout is closed: a file that is opened would take its place; or an argument is no text.
    """
    if sys.stdout is None:
        raise click.UsageError("stdout is closed (>&-): send it to a file, a pipe or /dev/null")
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise click.UsageError(
                f"the argument {argument!r} is no text in UTF-8: set LC_ALL to a UTF-8 locale, or put it into a file"
            )


@click.group(
    "fleming",
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExamples:\n"
    "  fleming init --example\n"
    "  fleming sql \"select ai_query('chat', 'Hello')\"\n"
    "  fleming usage --by endpoint",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def fleming() -> None:
    """fleming-sql, an AI gateway that lives in DuckDB."""
