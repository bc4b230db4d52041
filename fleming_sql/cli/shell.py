"""`fleming shell`: statements typed at a prompt, or read from stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import duckdb

from fleming_sql.cli import formats
from fleming_sql.cli.interrupts import run_interruptible
from fleming_sql.cli.options import MEMORY, Common, common_options, examples
from fleming_sql.cli.problems import CommandFailed, told_of
from fleming_sql.cli.sql import MAX_ROWS, show
from fleming_sql.cli.statements import Changed, Statement, leaves, read_statements
from fleming_sql.cli.summary import Stopwatch
from fleming_sql.errors import FlemingError

if TYPE_CHECKING:
    from fleming_sql import Connection

_MODES: Final = ("table", "csv", "json", "jsonl", "markdown")
HISTORY_FILE: Final = "shell_history"
_TABLES: Final = """
select
    table_catalog as database,
    table_schema as schema,
    table_name as name,
    lower(table_type) as type
from information_schema.tables
where table_name not like '\\_\\_%' escape '\\'
order by all
"""
_ENDPOINTS: Final = """
select
    e.name as endpoint,
    e.task as task,
    string_agg(s.provider || coalesce('/' || s.model, ''), ', ' order by s.position) as models,
    e.enabled as enabled
from fleming.endpoints as e
left join fleming.served_entities as s on s.endpoint = e.name
group by all
order by e.name
"""


@click.command(
    "shell",
    epilog=examples(
        "fleming shell",
        "fleming shell --database shop.duckdb",
        "fleming shell < report.sql",
    ),
)
@common_options
def shell(common: Common) -> None:
    """Type SQL statements at a prompt.

    A statement ends with a semicolon and may have several lines. Tab completes endpoints, functions, tables and
    columns. Ctrl-C stops the running statement, Ctrl-D leaves; .help lists what else there is. The history is kept in
    the user's state folder. Without a terminal, statements are read from stdin, and the first that fails is the last.
    """
    with common.connect(may_create=common.database not in (None, MEMORY)) as con:
        mode = "json" if common.as_json else "table"
        session = _Session(common, con, mode)
        if sys.stdin.isatty():
            _at_prompt(session)
        else:
            _from_stdin(session)


@dataclass(slots=True)
class _Session:
    """What lasts from one statement to the next."""

    common: Common
    con: Connection
    mode: str
    timer: bool = True
    ended: bool = False
    commands: Mapping[str, tuple[str, Callable[[_Session, str], None]]] = field(default_factory=lambda: _COMMANDS)

    def run(self, text: str) -> None:
        """Run statements, or one dot-command.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            FlemingError: A statement failed.
            duckdb.Error: A statement failed.
            ClickException: A dot-command is wrong.
        """
        if leaves(text):
            self.ended = True
            return
        if text.startswith("."):
            name, _, argument = text.rstrip(";").strip().partition(" ")
            if name not in self.commands:
                raise CommandFailed(f"there is no command {name}; .help lists them", "NoSuchCommand")
            self.commands[name][1](self, argument.strip())
            return
        statements = read_statements(self.con, text, {})
        run_interruptible(self.con, lambda: list(map(self._run, statements)))

    def query(self, text: str) -> None:
        """Show the result of a statement of the shell's own."""
        self.common.output.relation(self.con.sql(text))

    def _run(self, statement: Statement) -> None:
        stopwatch = Stopwatch()
        result = statement.run()
        if isinstance(result, Changed):
            count, changed = result.rows, True
        elif self.mode == "table":
            count, changed = show(self.common.output, result, MAX_ROWS), False
        else:
            with formats.stdout_bytes() as out:
                count, changed = formats.write_text(self.mode, result, out), False
        if self.timer:
            self.common.output.note(stopwatch.summary(self.con, count, changed=changed), "dim")


def _at_prompt(session: _Session) -> None:
    from fleming_sql.cli.prompt import make_prompt

    session.common.output.note(
        f"fleming-sql on the gateway {session.common.store}. Statements end with ;  .help helps, exit leaves."
    )
    prompt = make_prompt(session.con, history_path())
    while not session.ended:
        try:
            text = prompt().strip()
        except KeyboardInterrupt:  # clears the line
            continue
        except EOFError:
            return
        if text:
            _run_and_tell(session, text)


def _run_and_tell(session: _Session, text: str) -> None:
    """Run what was typed; an error is told and does not end the shell."""
    output = session.common.output
    try:
        session.run(text)
    except KeyboardInterrupt:
        output.note("interrupted", "yellow")
    except click.ClickException as error:
        output.note(f"Error: {error.format_message()}", "red")
    except (FlemingError, duckdb.Error) as error:
        output.note(f"Error: {told_of(error, session.common.store)}", "red")


def _from_stdin(session: _Session) -> None:
    for text in _pieces(sys.stdin.read()):
        session.run(text)
        if session.ended:
            return


def _pieces(text: str) -> Iterator[str]:
    """Yield dot-commands and the words that leave, which are lines of their own, and the SQL between them."""
    sql = ""
    for line in text.splitlines(keepends=True):
        is_command = line.startswith(".") or leaves(line)
        if is_command and (not sql.strip() or sql.rstrip().endswith(";")):
            if sql.strip():
                yield sql
            sql = ""
            yield line
        else:
            sql += line
    if sql.strip():
        yield sql


def history_path() -> Path:
    """Return the file of the history, in the folder where programs keep their state on this system."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a name has no folder, and so no history
        home = Path(os.devnull)
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "fleming"
    elif sys.platform == "darwin":
        folder = home / "Library" / "Application Support" / "fleming"
    else:
        folder = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "fleming"
    return folder / HISTORY_FILE


def _help(session: _Session, _argument: str) -> None:
    session.common.output.print(
        "\n".join(f"{name:<12} {words}" for name, (words, _) in session.commands.items())
        + "\nAll else is SQL, up to a semicolon."
    )


def _mode(session: _Session, argument: str) -> None:
    if argument not in _MODES:
        raise CommandFailed(f".mode takes one of {', '.join(_MODES)}, not {argument!r}", "BadArgument")
    session.mode = argument


def _timer(session: _Session, argument: str) -> None:
    if argument not in ("on", "off", ""):
        raise CommandFailed(f".timer takes on or off, not {argument!r}", "BadArgument")
    session.timer = argument == "on" if argument else not session.timer


def _quit(session: _Session, _argument: str) -> None:
    session.ended = True


_COMMANDS: Final[Mapping[str, tuple[str, Callable[[_Session, str], None]]]] = {
    ".help": ("this list", _help),
    ".tables": ("the tables and views", lambda session, _: session.query(_TABLES)),
    ".endpoints": ("the endpoints and the models behind them", lambda session, _: session.query(_ENDPOINTS)),
    ".timer": ("on or off: calls, cost and time below each result", _timer),
    ".mode": (f"the form of results: {', '.join(_MODES)}", _mode),
    ".quit": ("leaves, as exit, quit and Ctrl-D do", _quit),
}
