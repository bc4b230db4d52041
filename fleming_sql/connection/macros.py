"""Makes `ai_query` known without a schema name, where people work: in their own database."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import duckdb

from fleming_sql.connection.registry import REGISTRY
from fleming_sql.connection.session import Session
from fleming_sql.sqltext import quote_identifier
from fleming_sql.store.files import read_files

_FUNCTION_FILES: Final = "-functions"


def make_visible(con: duckdb.DuckDBPyConnection, session: Session) -> None:
    """Create the functions in the connection's own database, or as temporary ones where that is read-only."""
    cursor = con.cursor()  # a transaction of its own, that the user's ROLLBACK does not undo
    try:
        database, readonly = cursor.execute(
            "select database_name, readonly from duckdb_databases() where database_name = current_database()"
        ).fetchall()[0]
        functions = [file.text for file in read_files("objects") if file.name.endswith(_FUNCTION_FILES)]
        with REGISTRY.lock:  # two threads that create one function at a time are a conflict to DuckDB
            temporary = session.visible.get(database)
            if temporary is None:
                temporary = functions if readonly else [text for text in functions if not _created(cursor, text)]
                session.visible[database] = temporary
        for text in temporary:
            con.execute(text.replace("create or replace macro", "create or replace temp macro"))
    finally:
        cursor.close()


def _created(cursor: duckdb.DuckDBPyConnection, text: str) -> bool:
    try:
        cursor.execute(text)
    except duckdb.BinderException:  # the file's storage version is too old for typed parameters
        return False
    return True


def drop(con: duckdb.DuckDBPyConnection, cursor: duckdb.DuckDBPyConnection) -> None:
    """Take the macros out of the database behind `cursor`, and the temporary ones out of `con`."""
    own = quote_identifier(cursor.execute("select current_database()").fetchall()[0][0])
    for name in ("ai_query", "ai_cache_clear"):
        with suppress(duckdb.Error):  # it has none, or is busy
            con.execute(f"drop macro if exists temp.main.{name}")
        with suppress(duckdb.Error):  # a read-only database has temporary ones, which end with their connections
            cursor.execute(f"drop macro if exists {own}.main.{name}")
