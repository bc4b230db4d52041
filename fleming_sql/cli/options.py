"""The options that all commands share, and what they come to: a store, a user, an output."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fleming_sql.cli.output import Output

if TYPE_CHECKING:
    from fleming_sql import Connection

GATEWAY_VARIABLE: Final = "FLEMING_GATEWAY"
DEFAULT_GATEWAY: Final = "fleming.duckdb"
MEMORY: Final = ":memory:"


@dataclass(frozen=True, slots=True)
class Common:
    """The shared options of one run of a command."""

    gateway: str | None
    """The store that was named, by option or environment; None if none was."""
    database: str | None
    """The DuckDB file that statements run on; None for one in memory."""
    user: str | None
    """Who asks; None for the default of `fleming_sql.connect`."""
    output: Output
    """Where results and notes go."""

    @property
    def as_json(self) -> bool:
        """Whether stdout is for a program."""
        return self.output.as_json

    @property
    def store(self) -> str:
        """The path of the store: the one that was named, else that beside the database, else that of this folder.

        That of this folder serves a database too which has none beside it; where there is neither, it is the one
        beside the database that would be made.
        """
        new = self.new_store
        if self.gateway is not None or new == DEFAULT_GATEWAY or Path(new).exists():
            return new
        return DEFAULT_GATEWAY if self._is_in_folder() else new

    @property
    def new_store(self) -> str:
        """The path of the store that `fleming init` makes."""
        if self.gateway is not None:
            return self.gateway
        if self.database in (None, MEMORY):
            return DEFAULT_GATEWAY
        database = Path(str(self.database))
        return str(database.with_name(f"{database.stem}.fleming.duckdb"))

    def _is_in_folder(self) -> bool:
        """Whether this folder has a store, and not only a database of that name."""
        here = Path(DEFAULT_GATEWAY)
        return here.exists() and here.resolve() != Path(str(self.database)).resolve()

    def connect(self, *, may_create: bool = False) -> Connection:
        """Open the database with the store.

        Args:
            may_create: Whether a store that does not exist is made; one that nobody named is told of.

        Raises:
            CommandFailed: There is no store.
            FlemingError: It cannot be opened.
            duckdb.Error: The database cannot be opened.
        """
        import fleming_sql

        if not may_create:
            self.check_store()
        store = self.store
        is_made = self.gateway is None and not Path(store).exists()
        con = fleming_sql.connect(self.database or MEMORY, store, self.user)
        if is_made:
            self.output.note(f"made the gateway store {store}; --gateway names another", "yellow")
        return con

    def check_store(self) -> None:
        """Refuse a store that does not exist.

        Raises:
            CommandFailed: With the command that makes one.
        """
        from fleming_sql.cli.problems import CommandFailed

        store = self.store
        if store == MEMORY or "://" in store or Path(store).exists():
            return  # an address is refused by `connect`, with its reason
        made_by = "fleming init" if store == DEFAULT_GATEWAY else f"fleming init {_shell_word(store)}"
        raise CommandFailed(
            f"there is no gateway store {store}: make one with `{made_by}`, or name another with --gateway or "
            f"the environment variable {GATEWAY_VARIABLE}",
            "NoStore",
        )


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command, which gets them as its first argument, a `Common`.

    Example:
        >>> @click.command("endpoints", epilog=examples("fleming endpoints"))
        ... @common_options
        ... def endpoints(common: Common) -> None:
        ...     with common.connect() as con:
        ...         common.output.relation(con.sql("from fleming.endpoints"))
    """
    return _with_options(command, "Who asks. Default: FLEMING_USER, else the system's user.")


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command that only reads the log: `--user` there says whose calls to show."""
    return _with_options(command, "Only calls of this user.")


def _with_options(command: Callable[..., Any], user_help: str) -> Callable[..., Any]:
    @functools.wraps(command)
    def with_common(
        *args: Any,
        gateway: str | None,
        database: str | None,
        user: str | None,
        as_json: bool,
        no_color: bool,
        **rest: Any,
    ) -> Any:
        common = Common(gateway or None, database, user, Output(as_json=as_json, color=not no_color))
        try:
            return command(common, *args, **rest)
        except Exception as error:
            from fleming_sql.cli.problems import failure_of

            failed = failure_of(error, common.store)
            if failed is None:
                raise
            raise failed from error

    options = (
        click.option(
            "--gateway",
            metavar="PATH",
            envvar=GATEWAY_VARIABLE,
            help=f"The gateway store. Default: that beside --database, else {DEFAULT_GATEWAY} in this folder.",
            show_envvar=True,
        ),
        click.option("--database", metavar="PATH", help="The DuckDB file to work on. Default: one in memory."),
        click.option("--user", metavar="NAME", help=user_help),
        click.option("--json", "as_json", is_flag=True, help="JSON on stdout; all else goes to stderr."),
        click.option("--no-color", is_flag=True, help="No colours and styles."),
    )
    for option in reversed(options):
        with_common = option(with_common)
    return with_common


def examples(*lines: str) -> str:
    """Return the end of a help text: how the command is used, one line each."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _shell_word(text: str) -> str:
    import shlex

    return shlex.quote(text) if os.name != "nt" else f'"{text}"'
