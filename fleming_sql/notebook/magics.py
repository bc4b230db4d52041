"""The magics: `%fleming` chooses a connection, `%%ai_sql` runs SQL on it."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, Final

import click
import duckdb
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from fleming_sql.connection import Connection, attach
from fleming_sql.errors import FlemingError
from fleming_sql.notebook.cell import run_cell
from fleming_sql.notebook.connections import Found, find, is_connection
from fleming_sql.notebook.errors import CellError, explained

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from fleming_sql.notebook.result import AiResult

_OPTION: Final = re.compile(r"\s*(--?[A-Za-z][\w-]*)(?:[ =]\s*(\S+))?\s*")
_NAMES: Final = {"--connection": "connection", "-c": "connection", "--out": "out", "-o": "out"}
_HELP: Final = ("--help", "-h")


@magics_class
class FlemingMagics(Magics):
    """What `%load_ext fleming_sql` adds."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._variables: dict[str, Any] = shell.user_ns
        self._chosen: str | None = None

    def welcome(self) -> None:
        """Give the notebook's connection a gateway and say which one it is."""
        found = self._attached()
        click.echo(f"ai_query works on {found.name}{_hint(found)}")

    @no_var_expand
    @line_magic
    def fleming(self, line: str) -> None:
        """Choose the connection that `%%ai_sql` uses: `%fleming --connection con`; without one, say which it is."""
        options, rest = _options(line)
        if "help" in options:
            click.echo(inspect.getdoc(type(self).fleming))
            return
        if rest or "out" in options:
            raise CellError(f"%fleming takes --connection and the name of a variable, not {rest or '--out'!r}")
        wanted = options.get("connection")
        if wanted is not None:
            find(self._variables, wanted)
            self._chosen = wanted
        self.welcome()

    @no_var_expand  # IPython would paste variables into the line, and what is in them would be SQL
    @line_cell_magic
    def ai_sql(self, line: str, cell: str | None = None) -> AiResult | None:
        """Run SQL and show the rows with what they cost.

        `%%ai_sql [--connection NAME] [--out NAME]` with the SQL below, or `%ai_sql [--connection NAME] select …`.
        `$name` in the SQL is the value of the notebook's variable; `--out` stores the result under a name.
        """
        options, rest = _options(line)
        if "help" in options:
            click.echo(inspect.getdoc(type(self).ai_sql))
            return None
        if cell is not None and rest:
            raise CellError(f"the SQL of %%ai_sql starts on the second line; in the first one stands {rest!r}")
        text = rest if cell is None else cell
        if not text.strip():
            raise CellError("there is no SQL: write it below %%ai_sql, or behind %ai_sql in the same line")
        out = options.get("out")
        if out is not None and not out.isidentifier():
            raise CellError(f"--out {out}: that cannot be the name of a variable")
        if out is not None and is_connection(self._variables.get(out)):
            raise CellError(f"--out {out}: the variable {out} holds a connection, which it would replace; name another")
        result = run_cell(self._find(options.get("connection")).con, text, self._variables)
        if out is not None:
            self._variables[out] = result
        return result

    def _find(self, wanted: str | None = None) -> Found:
        return find(self._variables, wanted or self._chosen)

    def _attached(self) -> Found:
        found = self._find()
        try:
            if not isinstance(found.con, Connection):
                attach(found.con)
        except (duckdb.Error, FlemingError) as error:
            raise CellError(f"{found.name}: {explained(error)}") from None
        return found


def _options(line: str) -> tuple[dict[str, str], str]:
    """Return the options in front of a line, and the rest; `help` ends them.

    Raises:
        CellError: An option is not known, or has no value.
    """
    options: dict[str, str] = {}
    while match := _OPTION.match(line):
        name, value = match.groups()
        if name in _HELP:
            return {**options, "help": ""}, ""
        if name not in _NAMES:
            raise CellError(f"{name} is no option: there are --connection NAME and --out NAME")
        if value is None:
            raise CellError(f"{name} needs the name of a variable behind it")
        options[_NAMES[name]] = value
        line = line[match.end() :]
    return options, line.strip()


def _hint(found: Found) -> str:
    if not found.is_default:
        return ""
    return (
        ", in memory: duckdb.sql(…) and %%ai_sql use it, since no variable of this notebook holds a connection yet. "
        "A later variable con or conn is used instead; %fleming --connection NAME chooses"
    )
