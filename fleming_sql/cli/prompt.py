"""The prompt of `fleming shell`: history, lines until a semicolon, colours, completion."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer

from fleming_sql.cli.statements import leaves

if TYPE_CHECKING:
    from fleming_sql import Connection

_QUOTED: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$\$.*?\$\$", re.DOTALL)
_OPEN_QUOTE: Final = re.compile(r"['\"]|/\*|\$\$")
_ENDPOINT: Final = re.compile(r"\bai_\w+\s*\(\s*'([^']*)$")
"""Within the first argument of an AI function, which is an endpoint."""
_WORD: Final = re.compile(r"[\w.]+$")
_WORDS: Final = """
select keyword_name as word, 'keyword' as kind from duckdb_keywords()
union
select function_name, 'function' from duckdb_functions() where starts_with(function_name, 'ai_')
union
select table_name, 'table' from duckdb_tables() where not internal
union
select view_name, 'view' from duckdb_views() where not internal
union
select 'fleming.' || if(schema_name = 'main', '', schema_name || '.') || name, 'gateway'
from (
    select schema_name, table_name as name, database_name from duckdb_tables()
    union
    select schema_name, view_name, database_name from duckdb_views() where not internal
)
where database_name = 'fleming' and not starts_with(name, '__')
union
select distinct column_name, 'column' from duckdb_columns() where not internal
order by all
"""


def is_complete(text: str) -> bool:
    """Return whether a text is to be run: a command of the shell, or SQL whose last semicolon is in no quotes."""
    if text.lstrip().startswith(".") or not text.strip() or leaves(text):
        return True
    bare = _QUOTED.sub(" ", text)
    return bare.rstrip().endswith(";") and not _OPEN_QUOTE.search(bare)


def make_prompt(con: Connection, history: Path) -> Callable[[], str]:
    """Return what asks for the next statement.

    Args:
        con: Where names for completion are looked up.
        history: The file of what was typed; made readable for its owner only, since prompts are people's own.
    """
    keys = KeyBindings()
    session: PromptSession[str] = PromptSession(
        "fleming> ",
        history=_history(history),
        multiline=True,
        prompt_continuation=lambda width, _line, _wraps: "...".rjust(width - 1) + " ",
        lexer=PygmentsLexer.from_filename("statement.sql"),
        completer=SqlCompleter(con),
        complete_while_typing=False,
        key_bindings=keys,
        enable_history_search=False,
    )

    @keys.add("enter", filter=Condition(lambda: is_complete(session.default_buffer.text)))
    def _run(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return session.prompt


def _history(path: Path) -> History:
    """Return the history in a file, or for this session only where there can be none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class SqlCompleter(Completer):
    """Completes endpoints within the quotes of an AI function, elsewhere functions, tables, columns and keywords.

    Args:
        con: Where the names are looked up, anew at each completion: a statement may have made some.
    """

    def __init__(self, con: Connection) -> None:
        self._con = con

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what the word at the cursor may become."""
        before = document.text_before_cursor
        if endpoint := _ENDPOINT.search(before):
            yield from _matches(endpoint[1], self._query("select name, task from fleming.endpoints order by name"))
            return
        word = _WORD.search(before)
        if word:
            yield from _matches(word[0], self._query(_WORDS))

    def _query(self, text: str) -> list[tuple[str, str]]:
        """Return words and their kinds; none while a transaction of the user's is broken."""
        cursor = self._con.cursor()
        try:
            return [(str(word), str(kind)) for word, kind in cursor.execute(text).fetchall()]
        except duckdb.Error:
            return []
        finally:
            cursor.close()


def _matches(typed: str, words: Iterable[tuple[str, str]]) -> Iterable[Completion]:
    for word, kind in words:
        if word.lower().startswith(typed.lower()):
            yield Completion(word, start_position=-len(typed), display_meta=kind)
