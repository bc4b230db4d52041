"""Brings a store to this version's schema: each migration once, in its own transaction, recorded by name."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

import duckdb

from fleming_sql.errors import StoreError, StoreTooNew
from fleming_sql.store.files import SqlFile, read_files, sql_folder

_CREATE_RECORD = """
create table if not exists migrations (
    name varchar primary key,
    applied_at timestamp not null default (now() at time zone 'UTC')
);
comment on table migrations is 'One row is one file of sql/migrations that was applied to this store';
"""


def applied(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names of the applied migrations, in order; empty for a new store."""
    cursor.execute(
        "select 1 from duckdb_tables() where database_name = current_database() and table_name = 'migrations'"
    )
    if not cursor.fetchall():
        return []
    return [name for (name,) in cursor.execute("select name from migrations order by name").fetchall()]


def migrate(cursor: duckdb.DuckDBPyConnection, files: Sequence[SqlFile] | None = None) -> list[str]:
    """Apply what is pending to the current catalog and return the names of what was applied.

    Args:
        cursor: A cursor whose current catalog is the store.
        files: The migrations to have; by default all that ship with the package.

    Raises:
        StoreTooNew: The store has migrations that this version does not know.
        StoreError: A migration failed; the store is as it was before it.
    """
    files = read_files("migrations") if files is None else files
    done = applied(cursor)
    unknown = sorted(set(done) - {file.name for file in files})
    if unknown:
        raise StoreTooNew(
            f"the store has the migrations {', '.join(unknown)}, which this version of fleming-sql does not know: "
            "upgrade fleming-sql, or name another store with gateway="
        )
    pending = [file for file in files if file.name not in done]
    if pending and not done:
        cursor.execute(_CREATE_RECORD)
    for file in pending:
        _apply(cursor, file)
    return [file.name for file in pending]


def _apply(cursor: duckdb.DuckDBPyConnection, file: SqlFile) -> None:
    cursor.execute("begin")
    try:
        cursor.execute(file.text)
        cursor.execute("insert into migrations (name) values (?)", [file.name])
        cursor.execute("commit")
    except duckdb.Error as error:
        cursor.execute("rollback")
        raise StoreError(f"the migration {file.name} failed, the store is unchanged by it: {error}") from error


def hashes() -> dict[str, str]:
    """Return the SHA-256 of each migration file, as `sql/migrations/frozen.txt` records it at a release."""
    return {file.name: hashlib.sha256(file.text.encode()).hexdigest() for file in read_files("migrations")}


def frozen() -> dict[str, str]:
    """Return what `frozen.txt` says: the hash of each released migration."""
    lines = (sql_folder() / "migrations" / "frozen.txt").read_text("utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _freeze() -> None:
    text = "".join(f"{digest} {name}\n" for name, digest in hashes().items())
    (sql_folder() / "migrations" / "frozen.txt").write_text(text, "utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--freeze"]:
    _freeze()
